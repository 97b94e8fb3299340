"""Carry built images from one host to another: one signed tar, of which nothing is taken that was not signed.

OpenBSD has no mmdebstrap: its images are built on a Linux and imported, and then become what vmd can open.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import shutil
import stat
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import msgspec

from okubsd.config.names import APP_NAME, PACKAGE_NAME, quoted
from okubsd.decode import read_json
from okubsd.errors import Problem
from okubsd.host import bootdrive, door, locks, records, signing, store
from okubsd.host.builder import DRIVE
from okubsd.host.places import Places
from okubsd.host.reading import open_regular
from okubsd.host.session import Report
from okubsd.images.archive import DIGESTS, KEY, LARGEST, MANIFEST, PARTS, Member, magic_mistake, read_members
from okubsd.images.bootdrive import render_config, with_config
from okubsd.images.signify import PublicKey, parse_digests, parse_public_key, render_digests, render_public_key
from okubsd.model import Image, Kind, Part
from okubsd.vmd.control import convert_argv, parse_answer
from okubsd.vmd.qcow2 import chain_mistakes

# What vmd opens an overlay of; its base must be qcow2, so that a squashfs is wrapped in one.
VMD_DRIVE = "drive.qcow2"
_CHUNK = 1 << 20
_BUILD = re.compile(r"[0-9a-f]{12}")
_SHA256, _DAY = re.compile(r"[0-9a-f]{64}"), 86400
_DIGEST = re.compile(r"([0-9a-f]{64}( [0-9a-f]{64})?)?")
_VERSION = re.compile(r"[A-Za-z0-9.+~:-]{1,200}")


def export_images(places: Places, images: list[Image], target: Path) -> str:
    """Write ``images`` to the tar ``target``, whole or not at all, signed with the user's key.

    Return the key's fingerprint.  Raises Problem where one is not what a trusted key has signed: our signature says no
    better of it than we know.
    """
    store.verify(places, images, places.state)
    manifests = {image.name: manifest_of(image) for image in images}
    digests = {
        f"{image.name}/{name}": digest
        for image in images
        for name, digest in (
            (MANIFEST, hashlib.sha256(manifests[image.name]).hexdigest()),
            *((part.name, part.sha256) for part in carried(image)),
        )
    }
    key, signed = signing.sign(places, render_digests(digests))
    with _made_aside(target) as stream, tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        _add(archive, KEY, render_public_key(key))
        _add(archive, DIGESTS, signed)
        for image in images:
            _add(archive, f"{image.name}/{MANIFEST}", manifests[image.name])
            for part in carried(image):
                _add_part(archive, store.part_path(places, image, part.name), f"{image.name}/{part.name}", part)
    return key.fingerprint


def carried(image: Image) -> tuple[Part, ...]:
    """Return the parts that mean something on another host."""
    return tuple(part for part in image.parts if part.name != VMD_DRIVE)


def manifest_of(image: Image) -> bytes:
    """Return the manifest of ``image`` as another host gets it."""
    given = msgspec.structs.replace(image, parts=carried(image), built_here=False, signer="")
    return msgspec.json.encode(given) + b"\n"


@contextlib.contextmanager
def _made_aside(target: Path) -> Iterator[IO[bytes]]:
    """Yield a file that becomes ``target`` when the block ends well, and is gone otherwise."""
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o444
    archive.addfile(member, io.BytesIO(data))


def _add_part(archive: tarfile.TarFile, path: Path, name: str, part: Part) -> None:
    if store.hash_file(path) != part.sha256:
        image = name.partition("/")[0]
        raise Problem(
            f"image '{image}' is damaged: {path} is not what was built", f"okubsd image build --force {image}"
        )
    member = tarfile.TarInfo(name)
    member.size, member.mode = part.size, 0o444
    with path.open("rb") as stream:
        archive.addfile(member, stream)


def offered_key(source: Path) -> PublicKey:
    """Return the key that the archive ``source`` says it is signed with.  Raises Problem where there is none."""
    with _opened(source) as stream:
        return _read_key(source, stream, read_members(stream))


def import_images(
    places: Places, source: Path, report: Report, *, for_vmd: bool, keys: Places | None = None, older: bool = False
) -> list[Image]:
    """Take every image of the tar ``source``; return them.

    What is taken was signed by a key that is trusted in ``keys`` (``places`` if not given).  ``for_vmd`` also makes
    the drives that vmd opens, ``older`` takes one that is older than what is here.  An image is taken whole or not at
    all; its parts follow their manifest.  Raises Problem at the first member that is not as it should be.
    """
    places.images.mkdir(mode=0o755, parents=True, exist_ok=True)
    taken: list[Image] = []
    waiting = "waiting for another import to end"
    with locks.locked(places.images / ".lock", lambda: report(waiting)), _opened(source) as stream:
        need_room(places.images, os.fstat(stream.fileno()).st_size * (2 if for_vmd else 1))
        members = read_members(stream)
        key, digests = _read_digests(keys or places, source, stream, members)
        member = next(members, None)
        while member is not None:
            image = _read_manifest(stream, member, digests)
            if not older:
                refuse_older(places, image)
            with workshop(places.images) as made:
                member = _take_parts(stream, members, image, digests, made)
                own = is_own_build(places, image)
                image = msgspec.structs.replace(image, built_here=own, signer="" if own else key.fingerprint)
                publish_taken(places, image, made, report, for_vmd=for_vmd, keys=keys)
            taken.append(image)
        if digests:
            raise Problem(f"{source} is not whole: {', '.join(sorted(digests)[:4])} is missing", "export it again")
    return taken


def is_own_build(places: Places, image: Image) -> bool:
    """Return whether ``image`` is, byte for byte, what was built here and is current."""
    current = store.current_image(places, image.name)
    return current is not None and current.built_here and carried(current) == image.parts


@contextlib.contextmanager
def _opened(source: Path) -> Iterator[IO[bytes]]:
    try:
        with open_regular(source) as stream:
            yield stream
    except ValueError as error:
        raise Problem(f"{source} {error}", "okubsd image export FILE  # writes a whole one") from None


def need_room(directory: Path, size: int) -> None:
    """Raise Problem where ``directory`` has no room for ``size`` bytes."""
    free = shutil.disk_usage(directory).free
    if free < size:
        raise Problem(f"{directory} has room for {free >> 20} MB, and the images may take {size >> 20}")


def _read_key(source: Path, stream: IO[bytes], members: Iterator[Member]) -> PublicKey:
    member = next(members, None)
    if member is None or member.name != KEY:
        raise Problem(f"{source} is not signed", "export the images again with this version of okubsd")
    try:
        return parse_public_key(stream.read(member.size))
    except ValueError as error:
        raise Problem(f"{source}: {KEY} {error}") from None


def _read_digests(
    keys: Places, source: Path, stream: IO[bytes], members: Iterator[Member]
) -> tuple[PublicKey, dict[str, str]]:
    """Return the key that signed the archive, which is trusted, and what it signed: the digest of every member."""
    offered = _read_key(source, stream, members)
    if signing.trusted_key(keys, offered) is None:
        sentence = f"{source} is signed by a key that is not trusted here, {offered.fingerprint}"
        told = "compare it with what 'okubsd key ls' says where it was exported"
        hint = f"{told}; then: okubsd key trust {source} {offered.fingerprint}"
        raise Problem(sentence, hint)
    member = next(members, None)
    if member is None or member.name != DIGESTS:
        raise Problem(f"{source} is not signed", "export the images again with this version of okubsd")
    try:
        return offered, parse_digests(signing.check_signed(offered, stream.read(member.size)))
    except ValueError as error:
        raise Problem(f"{source}: {DIGESTS} {error}") from None


@contextlib.contextmanager
def workshop(images: Path) -> Iterator[Path]:
    """Yield an empty directory beside the images that is gone afterwards; also remove what a killed import has left."""
    for left in images.glob(".import-*"):
        store.discard(left)
    made = Path(tempfile.mkdtemp(prefix=".import-", dir=images))
    try:
        yield made
    finally:
        if made.exists():
            store.discard(made)


def _read_manifest(stream: IO[bytes], member: Member, digests: dict[str, str]) -> Image:
    if member.part != MANIFEST:
        raise Problem(f"the archive has {quoted(member.name)} where a manifest should be")
    data = stream.read(member.size)
    if hashlib.sha256(data).hexdigest() != digests.pop(member.name, ""):
        raise Problem(f"the archive has {quoted(member.name)}, which was not signed")
    try:
        image = read_json(data, Image)
    except ValueError as error:
        raise Problem(f"the manifest of image '{member.image}' is damaged: {quoted(error, 100)}") from None
    mistake = manifest_mistake(image, member.image)
    if mistake:
        raise Problem(f"the manifest of image '{member.image}' {mistake}")
    return image


def manifest_mistake(image: Image, name: str) -> str:
    """Return what is wrong with a manifest, "" for nothing: its words end in paths, tables and plans."""
    if image.name != name or not _BUILD.fullmatch(image.build):
        return "is of another image"
    if image.base and not _BUILD.fullmatch(image.base):
        return "has a base that is none"
    known = PARTS[image.kind]
    names = [part.name for part in image.parts]
    if not names or len(set(names)) < len(names) or not set(names) <= set(known):
        return f"does not have the parts of a {image.kind} image"
    if not all(_SHA256.fullmatch(part.sha256) for part in image.parts):
        return "has a part without a SHA-256"
    if image.built > time.time() + _DAY:
        return "is of a day that has not come"
    if any(not 0 <= part.size <= LARGEST[part.name] for part in image.parts):
        return "has a part that is too large"
    if not all(path.isprintable() and _DIGEST.fullmatch(digest) for path, digest in image.needs.items()):
        return "needs files that are none"
    packages = [word for line in image.packages for word in [line.partition(" ")]]
    if any(not PACKAGE_NAME.fullmatch(name) or not _VERSION.fullmatch(version) for name, _, version in packages):
        return "has packages that are none"
    return "" if all(APP_NAME.fullmatch(app) for app in image.apps) else "has apps that are none"


def _take_parts(
    stream: IO[bytes], members: Iterator[Member], image: Image, digests: dict[str, str], made: Path
) -> Member | None:
    """Copy the parts of ``image`` to the directory ``made``; return the first member that is of another image."""
    missing = {part.name: part for part in image.parts}
    member = next(members, None)
    while member is not None and missing:
        part = missing.pop(member.part, None) if member.image == image.name else None
        if part is None or member.size != part.size or digests.pop(member.name, "") != part.sha256:
            raise Problem(f"the archive has {quoted(member.name)}, which the manifest of '{image.name}' does not say")
        _take_part(stream, part, image, made / part.name)
        member = next(members, None)
    if missing:
        raise Problem(f"image '{image.name}' is not whole: {', '.join(sorted(missing))} is missing", "export it again")
    return member


def _take_part(stream: IO[bytes], part: Part, image: Image, target: Path) -> None:
    """Copy one part, a piece at a time.  Raises Problem where it is not what was signed, or not what its name says."""
    digest, left = hashlib.sha256(), part.size
    with target.open("xb") as out:
        while left:
            chunk = stream.read(min(_CHUNK, left))
            wrong = magic_mistake(part.name, chunk) if left == part.size else ""
            if not chunk or wrong:
                hint = "export it again"
                raise Problem(f"image '{image.name}': {part.name} is not {wrong or 'whole'}", hint)
            digest.update(chunk)
            out.write(chunk)
            left -= len(chunk)
    if digest.hexdigest() != part.sha256:
        raise Problem(f"image '{image.name}': {part.name} is not what its manifest says", "export it again")
    target.chmod(0o444)


def refuse_older(places: Places, image: Image) -> None:
    """Raise Problem where a newer build is here: whoever has an old archive could bring old holes back."""
    current = store.current_image(places, image.name)
    if current is not None and current.built > image.built:
        sentence = f"image '{image.name}' in the archive is older than the one that is here"
        raise Problem(sentence, "okubsd image import --older FILE  # takes it all the same")


def publish_taken(
    places: Places, image: Image, made: Path, report: Report, *, for_vmd: bool, keys: Places | None
) -> None:
    """Make what was taken to the directory ``made`` the current build of ``image``."""
    if for_vmd:
        make_vmd_drive(image, made)
        made.chmod(0o755)
        drive = made / VMD_DRIVE
        # What vmd opens is verified before a boot like all the rest.
        part = Part(VMD_DRIVE, store.hash_file(drive), drive.stat().st_size)
        image = msgspec.structs.replace(image, parts=(*image.parts, part))
    store.publish(places, image, made, keys)
    if for_vmd:
        protect(places.images / image.name / image.build / VMD_DRIVE)
    report(f"{image.name}: {image.build}")


def make_vmd_drive(image: Image, made: Path) -> None:
    """Make the qcow2 that vmd opens overlays of, in the directory ``made`` of ``image``'s parts.

    The boot drive gets this host's kernel command line first.  Raises Problem where vmctl, or vmd, does not take it.
    """
    target, source = made / VMD_DRIVE, made / DRIVE
    if image.kind is Kind.BOOT:
        source = made / "boot.host.img"
        source.write_bytes(with_config((made / bootdrive.DRIVE).read_bytes(), render_config(records.tsc_khz())))
    with source.open("rb") as stream:
        wrong = magic_mistake(bootdrive.DRIVE if image.kind is Kind.BOOT else DRIVE, stream.read(512))
    if wrong:
        # vmctl(8) would open it as whatever it says it is.
        raise Problem(f"image '{image.name}': {source.name} is not {wrong}", "export it again")
    done = door.run(convert_argv(str(source), str(target)), timeout=600)
    answer = parse_answer(done.code, done.err.decode(errors="replace"))
    (made / "boot.host.img").unlink(missing_ok=True)
    if done.code != 0:
        raise Problem(f"image '{image.name}': vmctl did not make {VMD_DRIVE}: {answer.words}", answer.hint)
    mistakes = chain_mistakes(str(target), records.read_head)
    if mistakes:
        raise Problem(f"image '{image.name}': {mistakes[0]}")
    target.chmod(0o444)


def protect(path: Path) -> None:
    """Forbid every writing to ``path``, also to root, where the system can (chflags(2)); store.discard() undoes it."""
    if hasattr(os, "chflags"):
        os.chflags(path, stat.UF_IMMUTABLE)
