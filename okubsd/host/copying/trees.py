"""Directories with all below them, into a guest and out of it; what is no file or directory is left out."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec

from okubsd.config.names import quoted
from okubsd.errors import Problem
from okubsd.host import door
from okubsd.host.copying.files import (
    Files,
    Progress,
    Share,
    forget,
    guest_errors,
    join,
    relative,
    said,
    sftp_dates,
)
from okubsd.host.copying.inward import fetch, fetch_file, host_errors, room_for, umask
from okubsd.host.copying.outward import Sent, compare, give_name, send_part

# Of a directory in a guest.
_MOST_FILES, _LARGEST_LISTING, _LONGEST_PATH = 100_000, 32 << 20, 3000
# As how many bytes it counts, in what is told of progress, to give a file its mode, dates and name.
_NAMING = 4096


class Entry(msgspec.Struct, frozen=True):
    """One file or directory of a tree: its path below the top, b"" for the top, its mode, size and date."""

    path: bytes
    mode: int
    size: int
    changed: int

    @property
    def is_directory(self) -> bool:
        """Return whether it is one."""
        return stat.S_ISDIR(self.mode)


def send_tree(
    guest: Files, source: Path, target: bytes, step: Progress, name: bytes = b"", *, origin: bytes = b""
) -> int:
    """Copy the host's directory ``source`` with all below it; return how many entries were left out.

    They are links, sockets and the like.  ``name`` is what it is called below a ``target`` that is a directory, its
    own if not given, and ``origin`` whence it comes, see send().  Files get their names when all of them are there.
    """
    name = name or os.fsencode(source.name) or os.fsencode(source.resolve().name)
    top = join(target, name) if guest.is_directory(target) else target.rstrip(b"/") or name
    directories, files, left_out = _host_tree(source)
    paths = [join(top, path) if path else top for path, _ in directories]
    fresh = {path for path in paths if _make_directory(guest, path)}
    total = sum(size for _, size in files) + _NAMING * len(files)
    sent, before = list[Sent](), 0
    with _forgetting(guest, top, sent):
        for relative_path, size in files:
            path, here = join(top, relative_path), source / os.fsdecode(relative_path)
            new = path.rpartition(b"/")[0] in fresh
            whence = join(origin, relative_path) if origin else b""
            sent.append(send_part(guest, here, path, Share(step, before, total), origin=whence, fresh=new))
            before += size
    compare(guest, sent)
    guest.run(b"sync", b"-f", b"--", relative(top))
    for one in sent:
        give_name(guest, one)
        before += _NAMING
        step(before, total)
    for relative_path, status in reversed(directories):
        path = join(top, relative_path) if relative_path else top
        with guest_errors(guest, path, b""):
            guest.client.chmod(path, stat.S_IMODE(status.st_mode) & 0o777 | 0o700)
            guest.client.utime(path, sftp_dates(status))
    return left_out


@contextlib.contextmanager
def _forgetting(guest: Files, top: bytes, sent: list[Sent]) -> Iterator[None]:
    """Have the guest forget what was sent where it has no room for the rest; else a later call goes on with it."""
    try:
        yield
    except Problem:
        if sent and guest.has_no_room(top):
            for one in sent:
                forget(guest, one.part)
        raise


def _host_tree(source: Path) -> tuple[list[tuple[bytes, os.stat_result]], list[tuple[bytes, int]], int]:
    """Return the directories and the files with their sizes below ``source``, and how many other entries there are."""
    directories, files, others = [(b"", source.stat())], list[tuple[bytes, int]](), 0
    top = os.fsencode(source)

    def refuse(error: OSError) -> None:
        raise Problem(f"{quoted(error.filename, 200)}: {error.strerror}")

    for where, below, names in os.walk(top, onerror=refuse):
        prefix = os.path.relpath(where, top)
        prefix = b"" if prefix == b"." else prefix + b"/"
        real = [(name, os.lstat(os.path.join(where, name))) for name in sorted(below)]  # noqa: PTH118
        others += sum(stat.S_ISLNK(status.st_mode) for _, status in real)
        below[:] = [name for name, status in real if not stat.S_ISLNK(status.st_mode)]
        directories += [(prefix + name, status) for name, status in real if not stat.S_ISLNK(status.st_mode)]
        for name in sorted(names):
            status = os.lstat(os.path.join(where, name))  # noqa: PTH118  # names are bytes
            if stat.S_ISREG(status.st_mode):
                files.append((prefix + name, status.st_size))
            else:
                others += 1
    return directories, files, others


def _make_directory(guest: Files, path: bytes) -> bool:
    """Make a directory in the guest where there is none, and return whether there was none."""
    if guest.is_directory(path):
        return False
    with guest_errors(guest, path, b""):
        guest.client.mkdir(path)
    return True


_ENTRY = re.compile(rb"([a-zA-Z?]) (\d{1,18}) (-?\d{1,12})(?:\.\d+)? ([0-7]{1,5}) ([^\0]*)")


def parse_tree(untrusted: bytes) -> tuple[list[Entry], int]:
    """Return the directories and regular files that the guest's find(1) listed, and how many others there were.

    Raises ValueError where a path could lead anywhere but below the top, or is listed twice.
    """
    entries, others, seen = list[Entry](), 0, set[bytes]()
    for line in untrusted.split(b"\0")[:-1]:
        match = _ENTRY.fullmatch(line)
        if match is None or len(seen) > _MOST_FILES:
            raise ValueError("is no listing, or too long a one")
        path = match[5]
        names = path.split(b"/") if path else []
        if len(path) > _LONGEST_PATH or any(name in (b"", b".", b"..") or len(name) > 255 for name in names):
            raise ValueError("has a path that leads elsewhere")
        if path in seen:
            raise ValueError("has a path twice")
        seen.add(path)
        kind = {b"d": stat.S_IFDIR, b"f": stat.S_IFREG}.get(match[1])
        if kind is None:
            others += 1
            continue
        entries.append(Entry(path, kind | int(match[4], 8) & 0o777, int(match[2]), max(0, int(match[3]))))
    return entries, others


_FORMAT = b"%y %s %T@ %m %P\\0"


def fetch_tree(guest: Files, source: bytes, target: Path, step: Progress) -> int:
    """Copy the guest's directory ``source`` with all below it; return how many entries were left out.

    They are links, sockets and the like: nothing of a guest's is a link here, and nothing goes through one.
    """
    listing = guest.run(b"find", b"-H", relative(source), b"-printf", _FORMAT, largest=_LARGEST_LISTING)
    try:
        entries, left_out = parse_tree(listing.out)
    except ValueError as error:
        raise Problem(f"the guest's listing of {said(source)} {error}") from None
    if listing.code != 0 or not entries or entries[0].path:
        raise Problem(f"{said(source)} cannot be listed in the guest: {door.reason(listing)}")
    if not entries[0].is_directory:
        fetch(guest, source, target, step)
        return left_out
    name = source.rstrip(b"/").rpartition(b"/")[2]
    top = target / os.fsdecode(name) if target.is_dir() and name not in (b"", b".", b"..", b"~") else target
    total = sum(entry.size for entry in entries if not entry.is_directory)
    with host_errors(top):
        room_for(top, total)
    before, made = 0, set[bytes]()
    for entry in entries:
        here = top / os.fsdecode(entry.path) if entry.path else top
        # Every directory on the way was listed as one, and is one here: a link would lead elsewhere.
        if entry.path and entry.path.rpartition(b"/")[0] not in made:
            raise Problem(f"the guest's listing of {said(source)} has {said(entry.path)} in no directory")
        if entry.is_directory:
            _make_here(here, follow=not entry.path)
            made.add(entry.path)
            continue
        one = Share(step, before, total)
        fetch_file(guest, join(source or b".", entry.path), here, one, follow=False)
        before += entry.size
    for entry in reversed([entry for entry in entries if entry.is_directory]):
        here = top / os.fsdecode(entry.path) if entry.path else top
        with host_errors(here):
            here.chmod(entry.mode & 0o777 & ~umask() | 0o700)
            os.utime(here, (entry.changed, entry.changed))
    return left_out


def _make_here(path: Path, *, follow: bool) -> None:
    with host_errors(path):
        there = path.is_dir() if follow else os.path.lexists(path) and stat.S_ISDIR(path.lstat().st_mode)
        if not there:
            path.mkdir(mode=0o700)
