"""Images in a plain directory or on a static web server: pushed there, pulled from there, resumed where it broke off.

The index names every image with all digests, and is signed as a whole; it has a serial number, which never goes back,
and a day on which it expires: what a mirror can hold back or bring back is told (after The Update Framework, 1.0,
section 1.5.2: rollback, freeze, mix-and-match, endless data).  Parts lie beside it by their digests, each once.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from okubsd import layout
from okubsd.config.names import IMAGE_NAME, quoted
from okubsd.decode import read_json
from okubsd.errors import Problem
from okubsd.host import door, exchange, locks, signing, store
from okubsd.host.fetching import PARTS, fetch, opened
from okubsd.host.places import Places
from okubsd.host.reading import open_regular
from okubsd.images.signify import render_public_key
from okubsd.model import Image, Part

Report = Callable[[str], None]

INDEX, PUBLIC_KEY = "index.sig", "okubsd.pub"
# Where parts are until an image is whole, among the images.
_FETCHED = ".parts"
# How many bytes the index may have, and how many seconds it may take.
LARGEST_INDEX, _INDEX_SECONDS = 8 << 20, 60.0
_CHUNK = 1 << 20
# For how many days an index is good.
DAYS = 30


class Index(msgspec.Struct, frozen=True):
    """What is there: ``serial`` grows with each push to what ``name`` stands for, a word that nobody else has.

    ``expires`` is in seconds since the epoch.
    """

    name: str
    serial: int
    expires: int
    images: tuple[Image, ...]
    schema: int = 1


# --- pushing -------------------------------------------------------------------------------------


def push(places: Places, images: list[Image], directory: Path, report: Report, *, days: int = DAYS) -> str:
    """Put ``images`` into ``directory`` beside what is there, and sign its index anew; return the key's fingerprint.

    Raises Problem where a part is not what was built, or the index there is somebody else's.
    """
    store.verify(places, images, places.state)
    (directory / PARTS).mkdir(parents=True, exist_ok=True)
    with locks.locked(directory / ".lock", lambda: report("waiting for another push")):
        before = _own_index(places, directory)
        for image in images:
            for part in exchange.carried(image):
                _put(store.part_path(places, image, part.name), directory / PARTS / part.sha256, part, report)
        names = {image.name for image in images}
        kept = tuple(image for image in before.images if image.name not in names)
        pushed = tuple(read_json(exchange.manifest_of(image), Image) for image in images)
        index = Index(before.name, before.serial + 1, int(time.time()) + days * 86400, (*kept, *pushed))
        key, signed = signing.sign(places, msgspec.json.encode(index))
        if len(signed) > LARGEST_INDEX:
            raise Problem(f"the index of {directory} would have more than 8 MB", "push fewer images to a directory")
        door.write(directory / PUBLIC_KEY, render_public_key(key), 0o644)
        door.write(directory / INDEX, signed, 0o644)
        _forget_parts(directory, index)
    return key.fingerprint


def _own_index(places: Places, directory: Path) -> Index:
    if not (directory / INDEX).is_file():
        return Index(secrets.token_hex(16), 0, 0, ())
    try:
        with open_regular(directory / INDEX) as stream:
            text = stream.read(LARGEST_INDEX + 1)
        known, message = signing.check_by_known(places, text, LARGEST_INDEX)
        if not known.own:
            raise ValueError("is another's")
        return read_json(message, Index)
    except ValueError as error:
        raise Problem(f"{directory / INDEX} {error}", "push to an empty directory") from None


def _put(source: Path, target: Path, part: Part, report: Report) -> None:
    if target.is_file() and target.stat().st_size == part.size and store.hash_file(target) == part.sha256:
        return
    report(f"copying {source.parent.parent.name}/{part.name}, {part.size >> 20} MB")
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=".")
    aside = Path(name)
    with os.fdopen(descriptor, "wb") as out, source.open("rb") as stream:
        shutil.copyfileobj(stream, out, _CHUNK)
    if store.hash_file(aside) != part.sha256:
        aside.unlink()
        raise Problem(f"{source} is not what was built", f"okubsd image verify {source.parent.parent.name}")
    aside.chmod(0o644)
    door.sync(aside)
    aside.replace(target)


def _forget_parts(directory: Path, index: Index) -> None:
    """Remove parts that no image of the index has."""
    needed = {part.sha256 for image in index.images for part in image.parts}
    for path in (directory / PARTS).iterdir():
        if path.name not in needed and not path.is_dir():
            path.unlink()


# --- pulling -------------------------------------------------------------------------------------


def pull(
    places: Places, sources: tuple[str, ...], names: tuple[str, ...], report: Report, *, for_vmd: bool, keys: Places
) -> list[Image]:
    """Take the images ``names``, or all, of the first of ``sources`` that has a good index; return what was new.

    Parts are fetched from the others where one does not give them.  An image is taken whole or not at all; what was
    fetched of one stays for the next try.  Raises Problem.
    """
    door.make_private(keys.state)
    places.images.mkdir(mode=0o755, parents=True, exist_ok=True)
    door.make_private(places.images / _FETCHED)
    # Whoever builds meanwhile is not kept waiting by a slow mirror.
    with locks.locked(places.images / _FETCHED / "lock", lambda: report("waiting for another pull to end")):
        index, fingerprint = _good_index(keys, sources, report)
        wanted = [_named(index, name) for name in names] if names else list(index.images)
        taken = []
        for image in wanted:
            current = store.current_image(places, image.name)
            if current is not None and exchange.carried(current) == image.parts:
                continue
            try:
                exchange.refuse_older(places, image)
            except Problem as problem:
                if names:
                    raise
                # The others are taken all the same.
                report(problem.sentence)
                continue
            _take(places, image, sources, fingerprint, report, for_vmd=for_vmd, keys=keys)
            taken.append(image)
        if not names:
            _forget_fetched(places)
    return taken


def _forget_fetched(places: Places) -> None:
    """Remove what earlier pulls have begun, and nobody asks for any more."""
    for path in (places.images / _FETCHED).iterdir():
        if path.name != "lock":
            path.unlink()


def _named(index: Index, name: str) -> Image:
    found = [image for image in index.images if image.name == name]
    if not found:
        there = ", ".join(image.name for image in index.images)
        raise Problem(f"there is no image {quoted(name)} in the index, there are {there}")
    return found[0]


def _good_index(keys: Places, sources: tuple[str, ...], report: Report) -> tuple[Index, str]:
    """Return the index of the first source that has a good one, and the fingerprint of its key."""
    problems = []
    for source in sources:
        try:
            return _index_of(keys, source)
        except (OSError, ValueError) as error:
            problems.append(f"{source} {error}")
            report(problems[-1])
    hint = f"compare {PUBLIC_KEY} there with its owner, then: okubsd key trust {PUBLIC_KEY} FINGERPRINT"
    raise Problem(problems[0] if len(problems) == 1 else "no source has a good index", hint)


def _index_of(keys: Places, source: str) -> tuple[Index, str]:
    text, end = b"", time.monotonic() + _INDEX_SECONDS
    with opened(source, INDEX, 0) as stream:
        while len(text) <= LARGEST_INDEX and (chunk := stream.read1(1 << 16)):
            text += chunk
            if time.monotonic() > end:
                raise OSError("is too slow")
    if len(text) > LARGEST_INDEX:
        raise ValueError("has an index without an end")
    try:
        known, message = signing.check_by_known(keys, text, LARGEST_INDEX)
        index = read_json(message, Index)
    except ValueError as error:
        raise ValueError(f"has an index that {error}") from None
    for image in index.images:
        is_name = IMAGE_NAME.fullmatch(image.name) is not None
        mistake = exchange.manifest_mistake(image, image.name) if is_name else "has no name of an image"
        if mistake:
            raise ValueError(f"has an index whose image {quoted(image.name)} {mistake}")
    if index.expires < time.time():
        day = time.strftime("%Y-%m-%d", time.gmtime(index.expires))
        raise ValueError(f"has an index that expired on {day}: it may hold newer images back")
    _refuse_rollback(keys, known.key.fingerprint, index)
    return index, known.key.fingerprint


def _refuse_rollback(keys: Places, fingerprint: str, index: Index) -> None:
    """Raise ValueError where a newer index of the same key was seen before; remember this one."""
    path = keys.state / layout.PULLED
    try:
        seen = read_json(path.read_bytes(), dict[str, int])
    except (OSError, ValueError):
        seen = {}
    which = f"{fingerprint} {index.name}"
    if index.serial < seen.get(which, 0):
        raise ValueError(f"has an index of before: number {index.serial}, and {seen[which]} was seen already")
    door.write(path, msgspec.json.encode(seen | {which: index.serial}))


def _take(
    places: Places, image: Image, sources: tuple[str, ...], fingerprint: str, report: Report, *, for_vmd: bool,
    keys: Places,
) -> None:  # fmt: skip
    parts = places.images / _FETCHED
    exchange.need_room(places.images, image.size * (2 if for_vmd else 1))
    for part in image.parts:
        fetch(sources, part, parts / part.sha256, image, report)
    waiting = "waiting for a build to end"
    with (
        locks.locked(places.images / ".lock", lambda: report(waiting)),
        exchange.workshop(places.images) as made,
    ):
        for part in image.parts:
            # The very file that was compared: nothing is copied, and the disk needs room for it once.
            (made / part.name).hardlink_to(parts / part.sha256)
            (made / part.name).chmod(0o444)
        own = exchange.is_own_build(places, image)
        found = msgspec.structs.replace(image, built_here=own, signer="" if own else fingerprint)
        exchange.publish_taken(places, found, made, report, for_vmd=for_vmd, keys=keys)
    for part in image.parts:
        (parts / part.sha256).unlink()
