"""Files into a guest and out of it: SFTP over the VM's shared ssh connection.

A copy is whole or not at all: it is made under a hidden name beside its target, every answer of the guest is read, size
and (where that is cheap) digest are compared, and only then it gets its name.  The guest's side is hostile: its names
are never used here unless they were looked at, its sizes are bounds, not promises, and each answer has a deadline.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shlex
import shutil
import socket
import stat
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from okubsd.config.names import quoted
from okubsd.errors import Problem, TimedOut, Unreachable
from okubsd.host import door
from okubsd.host.lifecycle import shared_ssh
from okubsd.host.places import Places
from okubsd.model import Argv, Vm

_CHUNK = 32 << 10

# What a guest may take for one answer, in seconds, and what it may be, in bytes.
ANSWER_SECONDS, _LARGEST_ANSWER = 30.0, 1 << 20

# A file that says it has no size, as those of proc(5), is read to its end, but not for ever.
_MOST_UNSIZED = 64 << 20

# Up to this size the guest is asked what it really has; more would take it seconds.
_CHEAP_TO_DIGEST = 64 << 20

# Of a directory in a guest.
_MOST_FILES, _LARGEST_LISTING, _LONGEST_PATH = 100_000, 32 << 20, 3000

# What a guest that does not keep to the protocol makes paramiko raise.
_NONSENSE = (struct.error, ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError)


def part_name(name: bytes, origin: bytes, size: int, changed: int) -> bytes:
    """Return the name of the unfinished copy of ``name``, which has no directory in it.

    It stands for whence the copy comes (``origin``, a VM and a path, or a path of the host), for the ``size`` and for
    the date (``changed``, seconds since the epoch) of what is copied, so that a copy is only gone on with while its
    source is the same; it is as long for every name.
    """
    mark = hashlib.sha256(b"%s\0%s\0%d\0%d" % (name, origin, size, changed)).hexdigest()[:20]
    return f".okubsd-part-{mark}".encode()


class Progress:
    """Told how far a copy is; this one says nothing."""

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def __call__(self, done: int, total: int) -> None:
        """Take note of ``done`` of ``total`` bytes."""


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


class _Channel:
    """What paramiko takes for a channel: a socket on which every answer has a deadline and a size."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._over = False
        self.renew()

    def renew(self) -> None:
        """Begin something new: all that it asks is to be answered within the deadline."""
        self._deadline = time.monotonic() + ANSWER_SECONDS

    def get_name(self) -> str:
        """Return the name for paramiko's log."""
        return "sftp"

    def send(self, data: bytes) -> int:
        """Send what fits; an answer to it is then due.  Raises TimeoutError where one was not given in time."""
        if self._over:
            raise TimeoutError
        self._end.settimeout(ANSWER_SECONDS)
        return self._end.send(data)

    def recv(self, size: int) -> bytes:
        """Return at most ``size`` bytes.  Raises TimeoutError at the deadline, OverflowError for too long an answer."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            # What is on its way may be the rest of an answer: nothing more is asked.
            self._over = True
            raise TimeoutError
        if size > _LARGEST_ANSWER:
            raise OverflowError
        self._end.settimeout(left)
        return self._end.recv(size)

    def close(self) -> None:
        """Close the socket."""
        self._end.close()


class Guest:
    """The files of one guest: an SFTP client, and a way to ask what its programs say of them."""

    def __init__(self, vm: Vm, channel: Any, ask: Callable[[str, float, int], door.Done]) -> None:
        import paramiko

        self.vm = vm
        self._channel = channel
        self._client = paramiko.SFTPClient(channel)
        self._ask = ask

    @property
    def client(self) -> Any:
        """Return the client, for one call that has its own deadline."""
        self._channel.renew()
        return self._client

    def renew(self) -> None:
        """Begin the next piece of a file, which has its own deadline."""
        self._channel.renew()

    def status(self, path: bytes) -> Any | None:
        """Return what is at ``path``, links followed, or None."""
        try:
            return self.client.stat(path or b".")
        except OSError:
            return None

    def is_directory(self, path: bytes) -> bool:
        """Return whether a directory is at ``path``."""
        found = self.status(path)
        return found is not None and stat.S_ISDIR(found.st_mode or 0)

    def run(self, *words: bytes, seconds: float = 120, largest: int = 1 << 16) -> door.Done:
        """Return what a program of the guest says, which is as trustworthy as the guest."""
        command = " ".join(shlex.quote(os.fsdecode(word)) for word in words)
        return self._ask(command, seconds, largest)

    def has_no_room(self, directory: bytes) -> bool:
        """Return whether the guest says that its file system is full, or nearly so."""
        done = self.run(b"df", b"-kP", b"--", relative(directory), seconds=20)
        match = re.search(rb"\s(\d{1,15})\s+\d{1,3}%\s+\S+\s*$", done.out)
        return match is not None and int(match[1]) < 64


def relative(path: bytes) -> bytes:
    """Return a path of a guest as a word for its programs, which is no option and no expression of theirs."""
    return path if path.startswith(b"/") else b"./" + path


@contextlib.contextmanager
def sftp(places: Places, vm: Vm) -> Iterator[Guest]:
    """Open the files of the guest.  Raises Unreachable or TimedOut where the guest does not answer, or talks nonsense.

    ssh(1) carries the bytes, so keys and the pinned host key are checked in one place only.
    """

    def ask(command: str, seconds: float, largest: int) -> door.Done:
        return door.ask((*shared_ssh(places, vm, "-T"), command), timeout=seconds, largest=largest)

    with spoken_by((*shared_ssh(places, vm, "-T", "-s"), "sftp"), vm, ask) as guest:
        yield guest


@contextlib.contextmanager
def spoken_by(argv: Argv, vm: Vm, ask: Callable[[str, float, int], door.Done]) -> Iterator[Guest]:
    """Open the files of ``vm`` by the program ``argv``, which speaks SFTP; ``ask`` calls others there."""
    import paramiko

    ours, theirs = socket.socketpair()
    with door.joined(argv, theirs), ours:
        theirs.close()
        try:
            yield Guest(vm, _Channel(ours), ask)
        except TimeoutError:
            raise TimedOut(f"{vm.name}: the guest did not answer within {ANSWER_SECONDS:.0f} seconds") from None
        except (paramiko.SSHException, EOFError, ConnectionError) as error:
            raise Unreachable(f"{vm.name}: the copy was cut: {quoted(error)}", "call it again to go on") from None
        except paramiko.SFTPError as error:
            raise Unreachable(f"{vm.name}: its guest does not speak SFTP: {quoted(error)}") from None
        except _NONSENSE as error:
            raise Unreachable(f"{vm.name}: its guest does not speak SFTP: {type(error).__name__}") from None


# --- from the host to the guest -----------------------------------------------------------------


def send(guest: Guest, source: Path, target: bytes, step: Progress, name: bytes = b"") -> None:
    """Copy the host's regular file ``source`` to ``target`` in the guest, "" or a directory meaning below it.

    There it is called ``name``, or as it is here.  Raises Problem where that fails; then what was at the target before
    is still there.
    """
    path = _place_in_guest(guest, target, name or os.fsencode(source.name))
    _give_name(guest, _send_part(guest, source, path, step), path, durable=True)


def _place_in_guest(guest: Guest, target: bytes, name: bytes) -> bytes:
    """Return the guest's path for a file called ``name``: ``target``, or in it if it is a directory."""
    if guest.is_directory(target):
        return _join(target, name)
    if not target or target.endswith(b"/"):
        words = shlex.join(("okubsd", "run", guest.vm.name, "--", "mkdir", os.fsdecode(target)))
        raise Problem(f"there is no directory {_said(target)} in the guest", words if words.isprintable() else "")
    return target


def _join(directory: bytes, name: bytes) -> bytes:
    return directory.rstrip(b"/") + b"/" + name if directory and directory != b"/" else directory + name


def _said(path: bytes) -> str:
    return quoted(os.fsdecode(path))


def _beside(path: bytes, origin: bytes, size: int, changed: int) -> bytes:
    head, slash, name = path.rpartition(b"/")
    return head + slash + part_name(name, origin, size, changed)


@contextlib.contextmanager
def _regular(source: Path) -> Iterator[tuple[Any, os.stat_result]]:
    """Open the host's regular file ``source``; nothing is waited for that is none."""
    try:
        descriptor = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Problem(f"{quoted(source, 200)}: {error.strerror}") from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        what = "a directory" if stat.S_ISDIR(status.st_mode) else "no regular file"
        raise Problem(
            f"{quoted(source, 200)} is {what}",
            "okubsd cp -r SOURCE TARGET  # copies directories" if what[0] == "a" else "",
        )
    with os.fdopen(descriptor, "rb", buffering=0) as stream:
        yield stream, status


def _send_part(guest: Guest, source: Path, path: bytes, step: Progress) -> bytes:
    """Copy ``source`` to the hidden name beside ``path``, whole, and return that name."""
    with _regular(source) as (stream, status):
        size, changed = status.st_size, max(0, int(status.st_mtime))
        part = _beside(path, os.fsencode(source.absolute()), size, changed)
        found = guest.status(part)
        done = int(found.st_size or 0) if found is not None and stat.S_ISREG(found.st_mode or 0) else 0
        done = done if done <= size else 0
        resumed = done > 0
        with _guest_errors(guest, path, part), guest.client.open(part, "r+b" if resumed else "wb") as remote:
            written = _pump_out(guest, stream, remote, done, size, step)
        _compare(guest, source, stream, part, written, thorough=resumed or written <= _CHEAP_TO_DIGEST)
        with _guest_errors(guest, path, part):
            guest.client.chmod(part, stat.S_IMODE(status.st_mode) & 0o777)
            guest.client.utime(part, (max(0, int(status.st_atime)), changed))
    return part


def _pump_out(guest: Guest, stream: Any, remote: Any, done: int, size: int, step: Progress) -> int:
    """Write what ``stream`` has from ``done`` on, and return its size: ``size``, or as far as an unsized file goes.

    Every write is answered before the next; what is a hole stays one.
    """
    step(done, size)
    at, end = done, size or _MOST_UNSIZED
    while at < end:
        at = _next_data(stream, at, size) if size else at
        stream.seek(at) if size else None
        chunk = stream.read(min(_CHUNK, end - at)) if at < end else b""
        if not chunk:
            break
        guest.renew()
        remote.seek(at)
        remote.write(chunk)
        at += len(chunk)
        step(at, size or at)
    if size == 0 and at == _MOST_UNSIZED:
        raise Problem(f"the file says that it is empty, and has more than {_MOST_UNSIZED >> 20} MB")
    if at < size:
        raise Problem("the file became shorter while it was copied", "call it again")
    if size:
        guest.renew()
        remote.truncate(size)
    return at


def _next_data(stream: Any, at: int, size: int) -> int:
    """Return where the next data of a file are, from ``at`` on; ``size`` where there is nothing but a hole."""
    try:
        return min(os.lseek(stream.fileno(), at, os.SEEK_DATA), size)
    except OSError as error:
        # ENXIO: a hole up to the end.  Others: this file system does not tell holes.
        return size if error.errno == errno.ENXIO and os.fstat(stream.fileno()).st_size >= size else at


def _compare(guest: Guest, source: Path, stream: Any, part: bytes, size: int, *, thorough: bool) -> None:
    """Raise Problem where the guest does not have what was sent."""
    found = guest.status(part)
    if found is None or int(found.st_size or 0) != size:
        _forget(guest, part)
        raise Problem(f"the guest has not got {quoted(source, 200)} whole", "call it again")
    if not thorough:
        return
    theirs = _digest_there(guest, part)
    if theirs and theirs != _digest(stream, size):
        _forget(guest, part)
        raise Problem(f"the guest has other bytes than {quoted(source, 200)}, which changed meanwhile", "call it again")


def _digest_there(guest: Guest, path: bytes) -> str:
    """Return the SHA-256 that the guest says its file has, "" where it does not say."""
    done = guest.run(b"sha256sum", b"--", relative(path), seconds=600)
    said = done.out.removeprefix(b"\\")[:64].decode("ascii", errors="replace")
    return said if done.code == 0 and re.fullmatch(r"[0-9a-f]{64}", said) else ""


def _digest(stream: Any, size: int) -> str:
    digest, left = hashlib.sha256(), size
    stream.seek(0)
    while left and (chunk := stream.read(min(1 << 20, left))):
        digest.update(chunk)
        left -= len(chunk)
    return digest.hexdigest()


def _give_name(guest: Guest, part: bytes, path: bytes, *, durable: bool) -> None:
    """Rename a whole copy to what it is called, after its bytes are on the guest's disk."""
    if durable:
        guest.run(b"sync", b"--", relative(part))
    with _guest_errors(guest, path, part):
        guest.client.posix_rename(part, path)


def _forget(guest: Guest, part: bytes) -> None:
    with contextlib.suppress(OSError):
        guest.client.remove(part)


def send_tree(guest: Guest, source: Path, target: bytes, step: Progress, name: bytes = b"") -> int:
    """Copy the host's directory ``source`` with all below it; return how many entries were left out.

    They are links, sockets and the like.  ``name`` is what it is called below a ``target`` that is a directory, its
    own if not given.  Files get their names when all of them are there.
    """
    name = name or os.fsencode(source.name) or os.fsencode(source.resolve().name)
    top = _join(target, name) if guest.is_directory(target) else target.rstrip(b"/") or name
    directories, files, left_out = _host_tree(source)
    for relative_path, _ in directories:
        _make_directory(guest, _join(top, relative_path) if relative_path else top)
    total = sum(size for _, size in files)
    parts, before = [], 0
    for relative_path, size in files:
        path = _join(top, relative_path)
        one = _Share(step, before, total)
        parts.append((_send_part(guest, source / os.fsdecode(relative_path), path, one), path))
        before += size
    guest.run(b"sync", b"-f", b"--", relative(top))
    for part, path in parts:
        _give_name(guest, part, path, durable=False)
    for relative_path, status in reversed(directories):
        path = _join(top, relative_path) if relative_path else top
        with _guest_errors(guest, path, b""):
            guest.client.chmod(path, stat.S_IMODE(status.st_mode) & 0o777 | 0o700)
            guest.client.utime(path, (max(0, int(status.st_atime)), max(0, int(status.st_mtime))))
    return left_out


class _Share(Progress):
    """The progress of one of several files."""

    def __init__(self, whole: Progress, before: int, total: int) -> None:
        self._whole, self._before, self._total = whole, before, total

    def __call__(self, done: int, total: int) -> None:
        self._whole(self._before + done, self._total)


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


def _make_directory(guest: Guest, path: bytes) -> None:
    if guest.is_directory(path):
        return
    with _guest_errors(guest, path, b""):
        guest.client.mkdir(path)


# --- from the guest to the host -----------------------------------------------------------------


def fetch(guest: Guest, source: bytes, target: Path, step: Progress) -> None:
    """Copy the guest's regular file ``source`` to ``target`` on the host, a directory meaning below it.

    Raises Problem where that fails; then what was at the target before is still there.
    """
    name = source.rstrip(b"/").rpartition(b"/")[2]
    with _host_errors(target):
        below = target.is_dir()
    if below:
        if name in (b"", b".", b"..", b"~"):
            raise Problem(f"{_said(source)} names no file")
        target = target / os.fsdecode(name)
    elif str(target).endswith("/"):
        raise Problem(f"there is no directory {quoted(target, 200)}")
    _fetch_file(guest, source, target, step)


def _fetch_file(guest: Guest, source: bytes, target: Path, step: Progress, *, follow: bool = True) -> None:
    """Copy one file of the guest's to ``target``, through a link that is there if ``follow``, as scp(1) does."""
    with _host_errors(target):
        target = target.resolve() if follow else target
        there = target.lstat() if os.path.lexists(target) else None
    if there is not None and not stat.S_ISREG(there.st_mode):
        raise Problem(f"{quoted(target, 200)} is no regular file", "name another target")
    with _guest_errors(guest, source, b""):
        # A FIFO would be waited for where it is opened, and by the guest's server for ever.
        _need_regular(source, guest.client.stat(source or b".").st_mode)
    with _guest_errors(guest, source, b""), guest.client.open(source or b".", "rb") as remote:
        status = remote.stat()
        _need_regular(source, status.st_mode)
        size, changed = int(status.st_size or 0), int(status.st_mtime or 0)
        with _host_errors(target):
            _room_for(target, size)
            origin = guest.vm.name.encode() + b":" + source
            part = target.with_name(os.fsdecode(part_name(os.fsencode(target.name), origin, size, changed)))
            stream = _open_part(part, size)
        with stream:
            if _pump_in(guest, remote, stream, size, target, step):
                _compare_here(guest, source, stream, size, part)
            # What is there keeps who may read it; else it is the guest's word, as far as the user's umask goes.
            mode = stat.S_IMODE(there.st_mode) if there else stat.S_IMODE(status.st_mode or 0o644) & ~_umask()
            with _host_errors(target):
                os.fchmod(stream.fileno(), mode & 0o777)
                os.utime(stream.fileno(), (changed, changed))
                stream.flush()
                os.fsync(stream.fileno())
                part.replace(target)


def _need_regular(source: bytes, mode: int | None) -> None:
    if not stat.S_ISREG(mode or 0):
        what = "a directory" if stat.S_ISDIR(mode or 0) else "no regular file"
        hint = "okubsd cp -r SOURCE TARGET  # copies directories" if what[0] == "a" else ""
        raise Problem(f"{_said(source)} is {what} in the guest", hint)


def _compare_here(guest: Guest, source: bytes, stream: Any, size: int, part: Path) -> None:
    """Raise Problem where a copy that was gone on with is not what the guest says its file is."""
    theirs = _digest_there(guest, source)
    if theirs != _digest(stream, size):
        part.unlink(missing_ok=True)
        raise Problem(f"{_said(source)} is another file than when its copy was begun", "call it again")


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


@contextlib.contextmanager
def _host_errors(target: Path) -> Iterator[None]:
    """Tell what the host refused as the host's refusal."""
    try:
        yield
    except RuntimeError:
        # Path.resolve() of a link that leads to itself.
        raise Problem(f"{quoted(target, 200)} is a link that leads nowhere") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Problem(f"there is no room on the host for {quoted(target, 200)}") from None
        raise Problem(f"{quoted(target, 200)} cannot be written: {error.strerror}") from None


def _open_part(part: Path, size: int) -> Any:
    """Open the unfinished copy ``part``, at its end; one that is not ours alone is begun anew."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with contextlib.suppress(FileNotFoundError):
        found = part.lstat()
        ours = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and found.st_nlink == 1
        if not ours or found.st_size > size or found.st_mode & 0o077:
            part.unlink()
    return os.fdopen(os.open(part, flags, 0o600), "r+b", buffering=0)


def _pump_in(guest: Guest, remote: Any, stream: Any, size: int, target: Path, step: Progress) -> bool:
    """Copy ``size`` bytes, and not one more; an unsized file to its end.  Zeros become holes.

    Return whether an unfinished copy was gone on with.
    """
    begun: int = stream.seek(0, os.SEEK_END)
    at = begun
    step(at, size)
    end = size or _MOST_UNSIZED
    remote.seek(at)
    while at < end:
        guest.renew()
        chunk = remote.read(min(_CHUNK, end - at))
        if not chunk:
            break
        with _host_errors(target):
            stream.seek(at)
            if chunk.count(0) < len(chunk):
                stream.write(chunk)
            at += len(chunk)
            if chunk[-1] == 0:
                stream.truncate(at)
        step(at, size or at)
    if size == 0 and at == _MOST_UNSIZED:
        raise Problem(f"the file says that it is empty, and has more than {_MOST_UNSIZED >> 20} MB")
    if at < size:
        raise Problem("the file became shorter while it was copied", "call it again")
    return begun > 0


def _room_for(target: Path, size: int) -> None:
    directory = target.absolute().parent
    if not directory.is_dir():
        raise Problem(f"there is no directory {quoted(directory, 200)}")
    if shutil.disk_usage(directory).free < size:
        raise Problem(f"there is no room for {size} bytes in {quoted(directory, 200)}")


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


def fetch_tree(guest: Guest, source: bytes, target: Path, step: Progress) -> int:
    """Copy the guest's directory ``source`` with all below it; return how many entries were left out.

    They are links, sockets and the like: nothing of a guest's is a link here, and nothing goes through one.
    """
    listing = guest.run(b"find", b"-H", relative(source), b"-printf", _FORMAT, largest=_LARGEST_LISTING)
    try:
        entries, left_out = parse_tree(listing.out)
    except ValueError as error:
        raise Problem(f"the guest's listing of {_said(source)} {error}") from None
    if listing.code != 0 or not entries or entries[0].path:
        raise Problem(f"{_said(source)} cannot be listed in the guest: {door.reason(listing)}")
    if not entries[0].is_directory:
        fetch(guest, source, target, step)
        return left_out
    name = source.rstrip(b"/").rpartition(b"/")[2]
    top = target / os.fsdecode(name) if target.is_dir() and name not in (b"", b".", b"..", b"~") else target
    total = sum(entry.size for entry in entries if not entry.is_directory)
    with _host_errors(top):
        _room_for(top, total)
    before, made = 0, set[bytes]()
    for entry in entries:
        here = top / os.fsdecode(entry.path) if entry.path else top
        # Every directory on the way was listed as one, and is one here: a link would lead elsewhere.
        if entry.path and entry.path.rpartition(b"/")[0] not in made:
            raise Problem(f"the guest's listing of {_said(source)} has {_said(entry.path)} in no directory")
        if entry.is_directory:
            _make_here(here, follow=not entry.path)
            made.add(entry.path)
            continue
        one = _Share(step, before, total)
        _fetch_file(guest, _join(source or b".", entry.path), here, one, follow=False)
        before += entry.size
    for entry in reversed([entry for entry in entries if entry.is_directory]):
        here = top / os.fsdecode(entry.path) if entry.path else top
        with _host_errors(here):
            here.chmod(entry.mode & 0o777 & ~_umask() | 0o700)
            os.utime(here, (entry.changed, entry.changed))
    return left_out


def _make_here(path: Path, *, follow: bool) -> None:
    with _host_errors(path):
        there = path.is_dir() if follow else os.path.lexists(path) and stat.S_ISDIR(path.lstat().st_mode)
        if not there:
            path.mkdir(mode=0o700)


# --- both ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def _guest_errors(guest: Guest, path: bytes, part: bytes) -> Iterator[None]:
    """Turn the guest's refusals into sentences; where it has no room, the unfinished ``part`` goes."""
    try:
        yield
    except (TimeoutError, ConnectionError):
        raise
    except FileNotFoundError:
        raise Problem(f"there is no {_said(path)} in the guest") from None
    except PermissionError:
        raise Problem(f"the guest does not let its user have {_said(path)}") from None
    except OSError as error:
        directory = path.rpartition(b"/")[0]
        if part and guest.has_no_room(directory):
            _forget(guest, part)
            raise Problem(
                f"there is no room in the guest for {_said(path)}", f"okubsd run {guest.vm.name} -- df -h"
            ) from None
        raise Problem(f"the guest refused {_said(path)}: {quoted(error)}") from None
