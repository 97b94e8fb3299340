"""The built images on disk: images/NAME/BUILD/ with a signed manifest, and images/NAME/current."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from okubsd import layout
from okubsd.config.names import did_you_mean
from okubsd.decode import read_json
from okubsd.errors import Problem, Unknown
from okubsd.host import door, signing
from okubsd.host.places import Places
from okubsd.images.signify import LARGEST_LIST, parse_digests, render_digests
from okubsd.model import Image, Kind, Part

if TYPE_CHECKING:
    from okubsd.images.tree import Index

CURRENT, _MANIFEST = layout.CURRENT, layout.MANIFEST


def read_image(directory: Path) -> Image | None:
    """Return the image in ``directory``, or None where there is no whole one."""
    try:
        image = read_json((directory / _MANIFEST).read_bytes(), Image)
    except (OSError, ValueError):
        return None
    return image if all((directory / part.name).is_file() for part in image.parts) else None


def current_image(places: Places, name: str) -> Image | None:
    """Return the image that VMs of ``name`` start with, or None."""
    link = places.images / name / CURRENT
    try:
        build = str(link.readlink())
    except OSError:
        return None
    return _build_of(places, name, build) if "/" not in build else None


def _build_of(places: Places, name: str, build: str) -> Image | None:
    """Return a build of image ``name``: what a VM boots is what lies there, so it is what its manifest says."""
    image = read_image(places.images / name / build)
    return image if image is not None and (image.name, image.build) == (name, build) else None


def current_builds(places: Places, names: Iterable[str]) -> dict[str, str]:
    """Return the current build of each of the images ``names`` that is there."""
    found = {name: current_image(places, name) for name in names}
    return {name: image.build for name, image in found.items() if image is not None}


def all_images(places: Places) -> Iterator[Image]:
    """Yield the current image of every name, by name."""
    for link in sorted(places.images.glob(f"*/{CURRENT}")):
        image = current_image(places, link.parent.name)
        if image is not None:
            yield image


def part_path(places: Places, image: Image, part: str) -> Path:
    """Return the path of one file of ``image``, by its build rather than by what is current."""
    return places.images / image.name / image.build / part


def need_image(places: Places, name: str, build: str = "") -> Image:
    """Return the image ``name``: that ``build`` of it, or the current one.  Raises Unknown where there is none."""
    image = _build_of(places, name, build) if build else current_image(places, name)
    if image is None:
        hint = did_you_mean(name, [found.name for found in all_images(places)])
        raise Unknown(f"image '{name}' is not built{hint}", f"okubsd image build {name}")
    return image


def keep(places: Places, image: Image, made: Path, keys: Places | None = None) -> None:
    """Put the finished directory ``made`` beside the other builds of ``image``, signed with the key of ``keys``.

    What is current stays so, and one that was not here before is marked as untried.  ``keys`` are ``places`` if not
    given.
    """
    door.write(made / _MANIFEST, msgspec.json.encode(image) + b"\n", 0o444)
    sign(keys or places, image, made)
    top = places.images / image.name
    top.mkdir(parents=True, exist_ok=True)
    target = top / image.build
    if not target.exists():
        (made / layout.UNTRIED).touch()
    _sync(made)
    if target.exists():
        # The same bytes again, with a manifest of today: there is a whole one at every moment.
        door.exchange(made, target)
        discard(made)
    else:
        made.rename(target)


def sign(keys: Places, image: Image, directory: Path) -> None:
    """Have the user's key sign what the manifest of ``image`` and its parts in ``directory`` have to be."""
    digests = {_MANIFEST: hash_file(directory / _MANIFEST)} | {part.name: part.sha256 for part in image.parts}
    _, signed = signing.sign(keys, render_digests(digests))
    door.write(directory / layout.SIGNED, signed, 0o444)


def make_current(places: Places, image: Image) -> None:
    """Have VMs start with this build of ``image`` from now on; one that runs keeps what it has open."""
    door.point(places.images / image.name / CURRENT, image.build)
    (places.images / image.name / image.build / layout.UNTRIED).unlink(missing_ok=True)


def switch(places: Places, images: Iterable[Image]) -> None:
    """Have VMs start with all of these builds from now on, or with none: who is killed in between has it finished."""
    pairs = [(image.name, image.build) for image in images]
    door.write(places.images / layout.SWITCH, msgspec.json.encode(pairs))
    finish_switch(places)


def finish_switch(places: Places) -> None:
    """Have builds be current that somebody was about to switch to; called while the lock of the images is held."""
    path = places.images / layout.SWITCH
    try:
        pairs = read_json(path.read_bytes(), list[tuple[str, str]])
    except FileNotFoundError:
        return
    except (OSError, ValueError):
        pairs = []
    for name, build in pairs:
        image = _build_of(places, name, build)
        if image is not None:
            make_current(places, image)
    path.unlink(missing_ok=True)


def discard_untried(places: Places) -> None:
    """Remove the builds that no VM starts with, since whoever was about to try them was killed."""
    finish_switch(places)
    for mark in places.images.glob(f"*/*/{layout.UNTRIED}"):
        if mark.parent.is_symlink():
            continue
        current = current_image(places, mark.parents[1].name)
        if current is not None and current.build == mark.parent.name:
            # Killed between the switch and this.
            mark.unlink(missing_ok=True)
        else:
            discard(mark.parent)


def publish(places: Places, image: Image, made: Path, keys: Places | None = None) -> None:
    """Make the finished directory ``made`` the current build of ``image``; older ones stay (see prune())."""
    keep(places, image, made, keys)
    make_current(places, image)


def _sync(directory: Path) -> None:
    """Flush every file of ``directory`` to the disk before its name becomes current."""
    for path in (*directory.iterdir(), directory):
        door.sync(path)


def discard(path: Path) -> None:
    """Remove a build: first its name, so that no half of it is ever taken for a whole."""
    if path.is_symlink() or path.is_file():
        path.unlink()
        return
    if hasattr(os, "chflags"):
        for part in path.rglob("*"):
            os.chflags(part, 0)
    aside = path.with_name(f".gone-{path.name}")
    if path != aside and not aside.exists():
        path = path.rename(aside)
    shutil.rmtree(path)


def remove(places: Places, name: str) -> None:
    """Remove every build of image ``name``.  Raises Unknown where there is none."""
    need_image(places, name)
    door.point(places.images / name / CURRENT, ".none")
    discard(places.images / name)


def hash_file(path: Path) -> str:
    """Return the SHA-256 of the file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def verify(places: Places, images: Iterable[Image], remembered: Path, *, anew: bool = False) -> None:
    """Check that ``images`` are what a trusted key has signed, part by part; raise Problem for the first that is not.

    A file whose size, times and inode are those of the last good check, which is kept in the directory
    ``remembered``, is not read again but ``anew``.  Images of the system are root's, as their files say, and may be
    without a signature.
    """
    cache_path = remembered / layout.VERIFIED
    try:
        cache = read_json(cache_path.read_bytes(), dict[str, str])
    except (OSError, ValueError):
        cache = {}
    fresh = {} if anew else dict(cache)
    signed = places != places.of_system
    trusted = {known.key.fingerprint for known in signing.known_keys(places)} if signed else set()
    for image in images:
        if signed:
            _verify_signature(places, image, fresh, trusted)
            _refuse_distrusted(image, trusted)
        for part in image.parts:
            _verify_part(places, image, part, fresh)
    if fresh != cache:
        kept = {name: seal for name, seal in (cache | fresh).items() if Path(name).exists()}
        door.write(cache_path, msgspec.json.encode(kept))


def verify_parts(places: Places, image: Image) -> None:
    """Read every part of ``image`` and compare it with its manifest, whoever signed that."""
    for part in image.parts:
        _verify_part(places, image, part, {})


def _verify_part(places: Places, image: Image, part: Part, seen: dict[str, str]) -> None:
    path = part_path(places, image, part.name)
    seal = f"{stamp(path)} {part.sha256}"
    if seen.get(str(path)) == seal:
        return
    seen.pop(str(path), None)
    if path.stat().st_size != part.size or hash_file(path) != part.sha256:
        raise _damaged(places, image, f"{path} is not what was built")
    seen[str(path)] = seal


def _damaged(places: Places, image: Image, why: str) -> Problem:
    hint = f"okubsd image build --force {image.name}  # or: okubsd image rollback {image.name}"
    hint = "import it anew: man 8 okubsd, EXAMPLES" if places == places.of_system else hint
    return Problem(f"image '{image.name}' is damaged: {why}", hint)


def _verify_signature(places: Places, image: Image, seen: dict[str, str], trusted: set[str]) -> None:
    """Check that the manifest of ``image`` is what a key has signed that is trusted today, by its fingerprint."""
    directory = places.images / image.name / image.build
    path, manifest = directory / layout.SIGNED, directory / _MANIFEST
    if not path.is_file():
        sentence = f"image '{image.name}' ({image.build}) is not signed, so nobody can say whose it is"
        raise Problem(sentence, "okubsd image sign  # if you built it here, or know where it is from")
    seal, _, fingerprint = seen.get(str(path), "").rpartition(" ")
    if seal == f"{stamp(path)} {stamp(manifest)}" and fingerprint in trusted:
        return
    seen.pop(str(path), None)
    try:
        known, message = signing.check_by_known(places, _read_small(path))
        digests = parse_digests(message)
    except ValueError as error:
        raise _damaged(places, image, f"{path} {error}") from None
    wanted = {_MANIFEST: hash_file(manifest)} | {part.name: part.sha256 for part in image.parts}
    if digests != wanted:
        raise _damaged(places, image, f"{manifest} is not what was signed")
    seen[str(path)] = f"{stamp(path)} {stamp(manifest)} {known.key.fingerprint}"


def _refuse_distrusted(image: Image, trusted: set[str]) -> None:
    """Raise Problem where whoever made ``image`` elsewhere is not trusted any more: our own key signed what came."""
    if image.signer and image.signer not in trusted:
        sentence = f"image '{image.name}' ({image.build}) is from the key {image.signer}, which is not trusted any more"
        raise Problem(sentence, f"okubsd image build --force {image.name}  # or trust the key again: okubsd key ls")


def _read_small(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(LARGEST_LIST + 1)


def check_fit(places: Places, images: Iterable[Image]) -> None:
    """Raise Problem where an app among ``images`` does not fit the base among them."""
    known = list(images)
    bases = [image for image in known if image.kind is Kind.BASE]
    for app in known:
        for base in bases:
            if app.kind is Kind.APP and app.base != base.build:
                _check_pair(places, app, base)


def _check_pair(places: Places, app: Image, base: Image) -> None:
    from okubsd.images.fitting import fit_mistakes

    mistakes = fit_mistakes(app, base, read_index(places, base))
    if mistakes:
        sentence = f"image '{app.name}' does not fit the base '{base.name}' of today: {mistakes[0]}"
        raise Problem(sentence, f"okubsd image build --force {app.name}")


def read_index(places: Places, image: Image, part: str = layout.INDEX) -> Index:
    """Return what is in the tree of ``image``, nothing where its build is of before that was written down.

    ``part`` may be that of the tools of a base.
    """
    from okubsd.images.tree import Node

    path = part_path(places, image, part)
    return read_json(path.read_bytes(), dict[str, Node]) if path.is_file() else {}


def stamp(path: Path) -> str:
    """Return what says that nobody wrote to a file since: its size, times and inode."""
    status = path.stat()
    # ctime cannot be set back by whoever changes the content.
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"
