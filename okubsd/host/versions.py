"""The builds of an image that are kept: which there are, going back to one, and letting old ones go."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from okubsd import layout
from okubsd.errors import Problem, Unknown
from okubsd.host import locks, running, store
from okubsd.host.places import Places
from okubsd.host.session import Report
from okubsd.model import Image, Kind

# How many builds of each image `image prune` keeps.
KEPT = 3


class Version(msgspec.Struct, frozen=True):
    """One build that is here: whether VMs start with it, and which of those that run were started with it."""

    image: Image
    current: bool
    used_by: tuple[str, ...]


def builds(places: Places, name: str) -> list[Image]:
    """Return every whole build of image ``name`` that VMs were ever to start with, the newest first."""
    current = places.images / name / layout.CURRENT
    found = [
        store.read_image(path)
        for path in (places.images / name).glob("[!.]*")
        if path.is_dir() and not path.is_symlink() and (_is_tried(path) or path.samefile(current))
    ]
    whole = (image for image in found if image is not None and image.name == name)
    return sorted(whole, key=lambda image: image.built, reverse=True)


def _is_tried(directory: Path) -> bool:
    return not (directory / layout.UNTRIED).exists()


def versions(places: Places, name: str) -> list[Version]:
    """Return the builds of image ``name``, the newest first.  Raises Unknown where there is none."""
    current = store.need_image(places, name).build
    used = _used(places)
    return [Version(image, image.build == current, used.get((name, image.build), ())) for image in builds(places, name)]


def _used(places: Places) -> dict[tuple[str, str], tuple[str, ...]]:
    """Return which running VMs were started with which builds of images."""
    used: dict[tuple[str, str], tuple[str, ...]] = {}
    for path in sorted(places.run.glob(f"*/{layout.BUILDS}")):
        name = path.parent.name
        if running.is_running(places, name):
            for pair in running.read_builds(places, name).items():
                used[pair] = (*used.get(pair, ()), name)
    return used


def stale_builds(places: Places, name: str) -> dict[str, str]:
    """Return the images of which the running VM ``name`` has an older build than is current: name to that build."""
    started = running.read_builds(places, name)
    current = {image: store.current_image(places, image) for image in started}
    return {
        image: build for image, build in started.items() if (now := current[image]) is not None and now.build != build
    }


def rollback(places: Places, name: str, build: str, report: Report) -> Image:
    """Have VMs start with an earlier build of image ``name`` again: ``build``, or the one before the current one.

    It is verified first, as at a start, and has to fit the base of today.  Return it.
    Raises Unknown where there is no such build, Problem where it cannot be taken.
    """
    with locks.locked(places.images / ".lock", lambda: report("waiting for a build to end")):
        store.finish_switch(places)
        image = _earlier(places, name, build)
        store.verify(places, [image], places.state)
        _check_fit(places, image)
        store.make_current(places, image)
    return image


def _earlier(places: Places, name: str, build: str) -> Image:
    current = store.need_image(places, name)
    known = builds(places, name)
    if build:
        found = [image for image in known if image.build.startswith(build)]
        if len(found) != 1:
            raise Unknown(f"image '{name}' has no build '{build}' here", f"okubsd image history {name}")
        return found[0]
    older = itertools.dropwhile(lambda image: image.build != current.build, known)
    earlier = next(itertools.islice(older, 1, None), None)
    if earlier is None:
        raise Unknown(f"image '{name}' has no build before {current.build} here", f"okubsd image history {name}")
    return earlier


def _check_fit(places: Places, image: Image) -> None:
    """Raise Problem where ``image`` and a current image of the other kind do not fit that belong to each other."""
    for other in store.all_images(places):
        if {image.kind, other.kind} == {Kind.BASE, Kind.APP} and other.name != image.name:
            app, base = (image, other) if image.kind is Kind.APP else (other, image)
            if _base_of(places, app) in ("", base.name):
                store.check_fit(places, (image, other))


def misfits(places: Places) -> list[tuple[Image, str]]:
    """Return the current app images that do not fit the current base of theirs, each with the reason."""
    found = []
    current = list(store.all_images(places))
    for app in (image for image in current if image.kind is Kind.APP):
        of = _base_of(places, app)
        try:
            store.check_fit(places, (app, *(base for base in current if base.kind is Kind.BASE and base.name == of)))
        except Problem as problem:
            found.append((app, problem.sentence))
        except (OSError, ValueError):
            # What is damaged is told by `image verify`, and by the next start.
            continue
    return found


def _base_of(places: Places, app: Image) -> str:
    """Return the name of the base that ``app`` was built on, "" where none of its builds is here any more."""
    bases = [image.name for image in store.all_images(places) if image.kind is Kind.BASE]
    return next((name for name in bases if any(build.build == app.base for build in builds(places, name))), "")


def prune(places: Places, names: Iterable[str], keep: int, report: Report, *, dry: bool = False) -> list[Image]:
    """Remove old builds of images ``names`` but the newest ``keep`` of each; return what is, or with ``dry`` would be.

    What is current, what a running VM was started with, and the base that a current app was built on stay.
    """
    places.images.mkdir(mode=0o755, parents=True, exist_ok=True)
    with locks.locked(places.images / ".lock", lambda: report("waiting for a build to end")):
        store.finish_switch(places)
        gone = [image for name in names for image in _old(places, name, keep)]
        for image in () if dry else gone:
            store.discard(places.images / image.name / image.build)
    return gone


def _old(places: Places, name: str, keep: int) -> Iterator[Image]:
    bases = {image.base for image in store.all_images(places)}
    for at, version in enumerate(versions(places, name)):
        needed = version.current or version.used_by or version.image.build in bases
        if at >= keep and not needed:
            yield version.image


def damaged(places: Places, name: str) -> dict[str, str]:
    """Read every build of image ``name`` whole; return the builds that are not what was signed: to the reason."""
    found = {}
    for path in sorted((places.images / name).glob("[!.]*")):
        if path.is_symlink() or not path.is_dir() or not _is_tried(path):
            continue
        image = store.read_image(path)
        if image is None or (image.name, image.build) != (name, path.name):
            found[path.name] = f"{path} has no manifest that can be read, or lacks a part of it"
            continue
        try:
            store.verify(places, [image], places.state, anew=True)
        except Problem as problem:
            found[path.name] = problem.sentence
    return found


def names_here(places: Places) -> list[str]:
    """Return the names of which there is any build, whole or not."""
    tops = (path for path in places.images.glob("[!.]*") if path.is_dir() and not path.is_symlink())
    return sorted(top.name for top in tops if any(path.is_dir() for path in top.glob("[!.]*")))
