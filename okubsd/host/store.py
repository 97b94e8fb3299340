"""The built images on disk: images/NAME/BUILD/ with a manifest, and images/NAME/current."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from okubsd import layout
from okubsd.config.names import did_you_mean
from okubsd.errors import Problem, Unknown
from okubsd.host import door
from okubsd.host.places import Places
from okubsd.model import Image

CURRENT = "current"
_MANIFEST = "manifest.json"


def read_image(directory: Path) -> Image | None:
    """Return the image in ``directory``, or None where there is no whole one."""
    try:
        image = msgspec.json.decode((directory / _MANIFEST).read_bytes(), type=Image)
    except (OSError, msgspec.DecodeError):
        return None
    return image if all((directory / part.name).is_file() for part in image.parts) else None


def current_image(places: Places, name: str) -> Image | None:
    """Return the image that VMs of ``name`` start with, or None."""
    return read_image(places.images / name / CURRENT)


def all_images(places: Places) -> Iterator[Image]:
    """Yield the current image of every name, by name."""
    for directory in sorted(places.images.glob(f"*/{CURRENT}")):
        image = read_image(directory)
        if image is not None:
            yield image


def part_path(places: Places, image: Image, part: str) -> Path:
    """Return the path of one file of ``image``, by its build rather than by what is current."""
    return places.images / image.name / image.build / part


def need_image(places: Places, name: str) -> Image:
    """Return the current image ``name``.  Raises Unknown where it was never built."""
    image = current_image(places, name)
    if image is None:
        hint = did_you_mean(name, [found.name for found in all_images(places)])
        raise Unknown(f"image '{name}' is not built{hint}", f"okubsd image build {name}")
    return image


def publish(places: Places, image: Image, made: Path) -> None:
    """Make the finished directory ``made`` the current ``image``; older builds of the name go.

    A VM that runs on an older build keeps its open files.
    """
    door.write(made / _MANIFEST, msgspec.json.encode(image) + b"\n", 0o444)
    top = places.images / image.name
    top.mkdir(parents=True, exist_ok=True)
    target = top / image.build
    if target.exists():
        discard(target)
    _sync(made)
    made.rename(target)
    door.point(top / CURRENT, image.build)
    for old in top.iterdir():
        if old.name not in (CURRENT, image.build):
            discard(old)


def _sync(directory: Path) -> None:
    """Flush every file of ``directory`` to the disk before its name becomes current."""
    for path in (*directory.iterdir(), directory):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


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


def verify(places: Places, images: list[Image], remembered: Path) -> None:
    """Check every part of ``images`` against its manifest; raise Problem for the first that differs.

    A file whose size, times and inode are those of the last good check, which is kept in the directory
    ``remembered``, is not read again.
    """
    cache_path = remembered / layout.VERIFIED
    try:
        cache = msgspec.json.decode(cache_path.read_bytes(), type=dict[str, str])
    except (OSError, msgspec.DecodeError):
        cache = {}
    fresh = dict(cache)
    for image in images:
        for part in image.parts:
            path = part_path(places, image, part.name)
            stamp = f"{_stamp(path)} {part.sha256}"
            if cache.get(str(path)) == stamp:
                continue
            fresh.pop(str(path), None)
            if path.stat().st_size != part.size or hash_file(path) != part.sha256:
                hint = f"okubsd image rm {image.name} && okubsd image build {image.name}"
                hint = "import it anew: man 8 okubsd, EXAMPLES" if places == places.of_system else hint
                raise Problem(f"image '{image.name}' is damaged: {path} is not what was built", hint)
            fresh[str(path)] = stamp
    if fresh != cache:
        kept = {name: stamp for name, stamp in fresh.items() if Path(name).exists()}
        door.write(cache_path, msgspec.json.encode(kept))


def _stamp(path: Path) -> str:
    status = path.stat()
    # ctime cannot be set back by whoever changes the content.
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"
