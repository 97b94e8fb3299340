"""The entries of the desktop's menus: made for what is described, changed with it, and taken away with it.

What an image was built with here says what its programs are called and look like; of an imported image nothing is read.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path

import msgspec

from okubsd import layout
from okubsd.config.names import GATEWAY_SUFFIX
from okubsd.display.frame import COLORS
from okubsd.display.icon import marked, window_icon
from okubsd.host import door, programs, store
from okubsd.host.copies import can_copy
from okubsd.host.places import xdg_directory
from okubsd.host.session import Session
from okubsd.menu.entries import MADE, OPENER, PREFIX, Entry, render_entry, render_opener, stem_of
from okubsd.menu.foreign import Foreign, find_foreign, in_language, parse_foreign
from okubsd.model import Argv, Image, Vm

_APPLICATIONS = "usr/share/applications"
_ICONS = (
    *(f"usr/share/icons/hicolor/{size}x{size}/apps" for size in (64, 48, 128, 32, 256)), "usr/share/pixmaps",
)  # fmt: skip
# What is read of an image: files of so many bytes, so many of them, within so many seconds.
_LARGEST, _MOST, _SECONDS = 1 << 20, 500, 30.0


# A file that is too large is cut, and what comes after it is unpacked all the same.
_LIMITED = 'trap \'\' XFSZ && ulimit -f "$1" && shift && exec "$@"'


class Places(msgspec.Struct, frozen=True):
    """Where the user's desktop looks for entries, and where their pictures are kept."""

    entries: Path
    icons: Path


class Synced(msgspec.Struct, frozen=True):
    """How many entries were written, and how many taken away."""

    written: int
    removed: int


def places_of(env: Mapping[str, str]) -> Places:
    """Return the places of the user with the environment ``env`` (XDG Base Directory Specification 0.8)."""
    data = xdg_directory(env, "XDG_DATA_HOME", ".local/share")
    return Places(data / "applications", data / "okubsd/icons")


class _Said(msgspec.Struct, frozen=True):
    """What an image says of its programs: their desktop files, and pictures by the names of icons, the best first."""

    programs: list[Foreign] = []
    icons: dict[str, list[bytes]] = {}


def entries_of(session: Session, there: Places, language: str) -> dict[Entry, bytes]:
    """Return an entry for each app of each described VM whose image is there, and its picture, in their order."""
    command = _command(session)
    known: dict[str, _Said] = {}
    found: dict[Entry, bytes] = {}
    for vm in session.description.vms:
        recipe = session.recipes.get(vm.image)
        if recipe is None or vm.tunnel or vm.name.endswith(GATEWAY_SUFFIX):
            continue
        image = store.current_image(session.places.of_system if programs.has_vmd() else session.places, vm.image)
        if image is None:
            # A click would build for minutes, and nobody would see why.
            continue
        if vm.image not in known:
            known[vm.image] = _ask(session, image)
        for app in vm.apps or tuple(recipe.apps):
            foreign = find_foreign(known[vm.image].programs, recipe.apps[app])
            pictures = known[vm.image].icons.get(foreign.icon, []) if foreign else []
            found[_entry(vm, app, foreign, there, language, command)] = _picture(pictures, COLORS[vm.color][0])
    return found


def _entry(vm: Vm, app: str, foreign: Foreign | None, there: Places, language: str, command: Argv) -> Entry:
    name = in_language(foreign.names, language) if foreign else ""
    said = in_language(foreign.comments, language) if foreign else ""
    return Entry(
        vm=vm.name, app=app, name=name or app.replace("-", " ").title(),
        comment=f"In the VM {vm.name}, network {vm.network.name}{': ' + said if said else ''}",
        command=command, icon=there.icons / f"{stem_of(vm.name, app)}.png",
        categories=foreign.categories if foreign else (), copies=can_copy(vm),
    )  # fmt: skip


def _picture(candidates: list[bytes], color: int) -> bytes:
    for data in candidates:
        with contextlib.suppress(ValueError):
            return marked(data, color)
    return window_icon(color)


def sync(session: Session, there: Places, language: str) -> Synced:
    """Write the entries that are wanted and take the others of ours away; what is there already stays as it is."""
    wanted = entries_of(session, there, language)
    for directory in (there.entries, there.icons):
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    written, mine = 0, set(ours(there))
    for entry, picture in wanted.items():
        if (there.entries / entry.file).exists() and there.entries / entry.file not in mine:
            session.report(f"{there.entries / entry.file} is not ours, and stays")
            continue
        changed = _put(there.icons / f"{stem_of(entry.vm, entry.app)}.png", picture)
        written += _put(there.entries / entry.file, os.fsencode(render_entry(entry))) or changed
    opener = there.entries / OPENER
    if wanted and (opener in mine or not opener.exists()):
        _put(opener, os.fsencode(render_opener(_command(session))))
    kept = {entry.file for entry in wanted} | ({OPENER} if wanted else set())
    return Synced(written, remove(there, but=kept))


def _command(session: Session) -> Argv:
    """Return how okubsd is called by an entry: with the description and the state that the user named, if he did.

    Who clicks on an entry may have another environment.
    """
    named = session.given or os.environ.get("OKUBSD_CONFIG")
    state = os.environ.get("OKUBSD_STATE")
    kept = ("env", f"OKUBSD_STATE={Path(state).expanduser()}") if state else ()
    return (*kept, *programs.okubsd_argv(*(("-f", str(session.description.path.absolute())) if named else ())))


def _put(path: Path, data: bytes) -> bool:
    """Write a file where it has other bytes; return whether it had."""
    with contextlib.suppress(OSError):
        if path.read_bytes() == data:
            return False
    door.write(path, data, 0o644)
    return True


def remove(there: Places, but: Collection[str] = ()) -> int:
    """Take away the entries that are ours, all of them ``but`` some; return how many."""
    gone = [path for path in ours(there) if path.name not in but]
    for path in gone:
        path.unlink(missing_ok=True)
        (there.icons / path.with_suffix(".png").name).unlink(missing_ok=True)
    return len(gone)


def ours(there: Places) -> list[Path]:
    """Return the files of the entries that we made: others may begin with our name, too."""
    found = sorted(there.entries.glob(f"{PREFIX}*.desktop")) if there.entries.is_dir() else []
    return [path for path in found if path.is_file() and MADE in path.read_text(errors="replace")[:500]]


# --- what an image says ------------------------------------------------------------------------------


def _ask(session: Session, image: Image) -> _Said:
    """Return what an image says, if it was built here and can be looked into."""
    if not image.built_here or programs.find_program("unsquashfs") is None:
        return _Said()
    with tempfile.TemporaryDirectory(prefix="okubsd-menu-") as scratch:
        top = Path(scratch) / "tree"
        drive = store.part_path(session.places, image, layout.SQUASHFS)
        limit = ("sh", "-c", _LIMITED, "okubsd-unpack", str(_LARGEST >> 9))
        # What is not there is told, and means nothing.
        unpack = (
            "unsquashfs",
            "-no-progress",
            "-no-xattrs",
            "-ignore-errors",
            "-d",
            str(top),
            str(drive),
            _APPLICATIONS,
            *_ICONS,
        )
        door.run((*limit, *unpack), timeout=_SECONDS)
        applications = top / _APPLICATIONS
        listed = _listed(applications, "*.desktop") if _is_inside(applications, top) else []
        files = (_read(path) for path in listed)
        found = [foreign for data in files if (foreign := parse_foreign(data)) is not None]
        wanted = {foreign.icon for foreign in found if foreign.icon}
        directories = [top / directory for directory in _ICONS if _is_inside(top / directory, top)]
        paths = {name: [directory / f"{name}.png" for directory in directories] for name in wanted}
        return _Said(found, {name: [data for path in each if (data := _read(path))] for name, each in paths.items()})


def _listed(directory: Path, pattern: str) -> list[Path]:
    return sorted(directory.glob(pattern))[:_MOST]


def _is_inside(directory: Path, top: Path) -> bool:
    """Return whether a directory is there below ``top``; a link in its place would lead out of what was unpacked."""
    return directory.is_dir() and directory.resolve() == top.resolve() / directory.relative_to(top)


def _read(path: Path) -> bytes:
    """Return a file that was unpacked, b"" where it is none, a link, or too large."""
    with contextlib.suppress(OSError):
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(number, "rb") as stream:
            data = stream.read(_LARGEST + 1)
            return data if len(data) <= _LARGEST else b""
    return b""
