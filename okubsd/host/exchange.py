"""Carry built images from one host to another: as one tar, of which nothing is taken that its manifests do not say.

OpenBSD has no mmdebstrap: its images are built on a Linux and imported, and then become what vmd can open.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import stat
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import msgspec

from okubsd.config.names import IMAGE_NAME, quoted
from okubsd.errors import Problem
from okubsd.host import bootdrive, door, locks, store, vmd
from okubsd.host.builder import DRIVE
from okubsd.host.places import Places
from okubsd.images.bootdrive import render_config, with_config
from okubsd.model import Image, Kind, Part
from okubsd.vmd.control import convert_argv, parse_answer
from okubsd.vmd.qcow2 import chain_mistakes

Report = Callable[[str], None]

# What vmd opens an overlay of; its base must be qcow2, so that a squashfs is wrapped in one.
VMD_DRIVE = "drive.qcow2"

MANIFEST = "manifest.json"
_LARGEST_MANIFEST = 1 << 20
_LARGEST_PART = 8 << 30
_MEMBER = re.compile(
    rf"({IMAGE_NAME.pattern})/({re.escape(MANIFEST)}|vmlinuz|initrd|network|boot\.img|drive\.squashfs|index\.json)"
)


def export_images(places: Places, images: list[Image], target: Path) -> None:
    """Write ``images`` to the tar ``target``, whole or not at all: each manifest, then its parts."""
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
                for image in images:
                    _add_image(archive, places, image)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _add_image(archive: tarfile.TarFile, places: Places, image: Image) -> None:
    directory = places.images / image.name / image.build
    parts = tuple(part for part in image.parts if part.name != VMD_DRIVE)
    manifest = msgspec.json.encode(msgspec.structs.replace(image, parts=parts)) + b"\n"
    member = tarfile.TarInfo(f"{image.name}/{MANIFEST}")
    member.size, member.mode = len(manifest), 0o444
    archive.addfile(member, io.BytesIO(manifest))
    for part in (part.name for part in parts):
        with (directory / part).open("rb") as stream:
            member = tarfile.TarInfo(f"{image.name}/{part}")
            member.size, member.mode = os.fstat(stream.fileno()).st_size, 0o444
            archive.addfile(member, stream)


def import_images(places: Places, source: Path, report: Report, *, for_vmd: bool) -> list[Image]:
    """Take every image of the tar ``source`` whose parts are what its manifest says; return them.

    ``for_vmd`` also makes the drives that vmd opens.  An image is taken whole or not at all; its parts must follow
    their manifest.  Raises Problem at the first member that is not as it should be.
    """
    places.images.mkdir(mode=0o755, parents=True, exist_ok=True)
    taken: list[Image] = []
    waiting = "waiting for another import to end"
    with locks.locked(places.images / ".lock", lambda: report(waiting)), _opened(source) as archive:
        members = iter(archive)
        member = next(members, None)
        while member is not None:
            image = _read_manifest(archive, member)
            with _workshop(places.images) as made:
                member = _take_parts(archive, members, image, made)
                _publish(places, image, made, report, for_vmd=for_vmd)
            taken.append(image)
    return taken


@contextlib.contextmanager
def _opened(source: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(source, "r:") as archive:
            yield archive
    except tarfile.TarError as error:
        raise Problem(f"{source} is not a whole tar of images: {error}", "okubsd image export writes one") from None


@contextlib.contextmanager
def _workshop(images: Path) -> Iterator[Path]:
    for left in images.glob(".import-*"):
        store.discard(left)
    made = Path(tempfile.mkdtemp(prefix=".import-", dir=images))
    try:
        yield made
    finally:
        if made.exists():
            store.discard(made)


def _parse_member(member: tarfile.TarInfo) -> tuple[str, str]:
    """Return the image and the part that ``member`` is.  Raises Problem for any other name or kind."""
    match = _MEMBER.fullmatch(member.name)
    if match is None or not member.isreg() or member.size > _LARGEST_PART:
        raise Problem(f"the archive has a member {quoted(member.name)} that no export writes")
    return match[1], match[2]


def _read_manifest(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Image:
    name, part = _parse_member(member)
    stream = archive.extractfile(member)
    if part != MANIFEST or stream is None or member.size > _LARGEST_MANIFEST:
        raise Problem(f"the archive has {quoted(member.name)} where a manifest should be")
    try:
        image = msgspec.json.decode(stream.read(), type=Image)
    except msgspec.DecodeError as error:
        raise Problem(f"the manifest of image '{name}' is damaged: {error}") from None
    if image.name != name or not re.fullmatch(r"[0-9a-f]{12}", image.build):
        raise Problem(f"the manifest of image '{name}' is of another image")
    return image


def _take_parts(
    archive: tarfile.TarFile, members: Iterator[tarfile.TarInfo], image: Image, made: Path
) -> tarfile.TarInfo | None:
    """Copy the parts of ``image`` to the directory ``made``; return the first member that is of another image."""
    missing = {part.name: part for part in image.parts}
    member = next(members, None)
    while member is not None and missing:
        name, part_name = _parse_member(member)
        part = missing.pop(part_name, None) if name == image.name else None
        stream = archive.extractfile(member)
        if part is None or stream is None or member.size != part.size:
            raise Problem(f"the archive has {quoted(member.name)}, which the manifest of '{image.name}' does not say")
        _copy(stream, made / part.name)
        if store.hash_file(made / part.name) != part.sha256:
            raise Problem(f"image '{image.name}': {part.name} is not what its manifest says", "export it again")
        member = next(members, None)
    if missing:
        raise Problem(f"image '{image.name}' is not whole: {', '.join(sorted(missing))} is missing", "export it again")
    return member


def _copy(stream: IO[bytes], target: Path) -> None:
    with target.open("xb") as out:
        shutil.copyfileobj(stream, out, 1 << 20)
    target.chmod(0o444)


def _publish(places: Places, image: Image, made: Path, report: Report, *, for_vmd: bool) -> None:
    if for_vmd:
        make_vmd_drive(image, made)
        made.chmod(0o755)
        drive = made / VMD_DRIVE
        # What vmd opens is verified before a boot like all the rest.
        part = Part(VMD_DRIVE, store.hash_file(drive), drive.stat().st_size)
        image = msgspec.structs.replace(image, parts=(*image.parts, part))
    store.publish(places, image, made)
    if for_vmd:
        protect(places.images / image.name / image.build / VMD_DRIVE)
    report(f"{image.name}: {image.build}")


def make_vmd_drive(image: Image, made: Path) -> None:
    """Make the qcow2 that vmd opens overlays of, in the directory ``made`` of ``image``'s parts.

    The boot drive gets this host's kernel command line first.  Raises Problem where vmctl fails, or where
    what it made is not what vmd takes.
    """
    target, source = made / VMD_DRIVE, made / DRIVE
    if image.kind is Kind.BOOT:
        source = made / "boot.host.img"
        source.write_bytes(with_config((made / bootdrive.DRIVE).read_bytes(), render_config(vmd.tsc_khz())))
    done = door.run(convert_argv(str(source), str(target)), timeout=600)
    answer = parse_answer(done.code, done.err.decode(errors="replace"))
    (made / "boot.host.img").unlink(missing_ok=True)
    if done.code != 0:
        raise Problem(f"image '{image.name}': vmctl did not make {VMD_DRIVE}: {answer.words}", answer.hint)
    mistakes = chain_mistakes(str(target), vmd.read_head)
    if mistakes:
        raise Problem(f"image '{image.name}': {mistakes[0]}")
    target.chmod(0o444)


def protect(path: Path) -> None:
    """Forbid every writing to ``path``, also to root, where the system can (chflags(2)); store.discard() undoes it."""
    if hasattr(os, "chflags"):
        os.chflags(path, stat.UF_IMMUTABLE)
