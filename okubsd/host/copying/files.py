"""Files into a guest and out of it: SFTP over the VM's shared ssh connection.

A copy is whole or not at all: it is made under a hidden name beside its target, every answer of the guest is read, size
and (where that is cheap) digest are compared, and only then it gets its name.  The guest's side is hostile: its names
are never used here unless they were looked at, its sizes are bounds, not promises, and each answer has a deadline.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
import socket
import stat
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

from okubsd.config.names import quoted
from okubsd.errors import Problem, TimedOut, Unreachable
from okubsd.guest.ssh import remote_command
from okubsd.host import door
from okubsd.host.guest import Guest
from okubsd.model import Argv, Vm

CHUNK = 32 << 10

# What a guest may take for one answer, in seconds, and what it may be, in bytes.
ANSWER_SECONDS, _LARGEST_ANSWER = 30.0, 1 << 20

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


class Files:
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
        return self._ask(remote_command(tuple(map(os.fsdecode, words))), seconds, largest)

    def has_no_room(self, directory: bytes) -> bool:
        """Return whether the guest says that its file system is full, or nearly so."""
        done = self.run(b"df", b"-kP", b"--", relative(directory), seconds=20)
        match = re.search(rb"\s(\d{1,15})\s+\d{1,3}%\s+\S+\s*$", done.out)
        return match is not None and int(match[1]) < 64


def relative(path: bytes) -> bytes:
    """Return a path of a guest as a word for its programs, which is no option and no expression of theirs."""
    return path if path.startswith(b"/") else b"./" + path


@contextlib.contextmanager
def files_of(guest: Guest) -> Iterator[Files]:
    """Open the files of the guest.  Raises Unreachable or TimedOut where it does not answer, or talks nonsense.

    ssh(1) carries the bytes, so keys and the pinned host key are checked in one place only.
    """

    def ask(command: str, seconds: float, largest: int) -> door.Done:
        return door.ask((*guest.argv("-T"), command), timeout=seconds, largest=largest)

    with spoken_by((*guest.argv("-T", "-s"), "sftp"), guest.vm, ask) as files:
        yield files


@contextlib.contextmanager
def spoken_by(argv: Argv, vm: Vm, ask: Callable[[str, float, int], door.Done]) -> Iterator[Files]:
    """Open the files of ``vm`` by the program ``argv``, which speaks SFTP; ``ask`` calls others there."""
    import paramiko

    ours, theirs = socket.socketpair()
    with door.joined(argv, theirs), ours:
        theirs.close()
        try:
            yield Files(vm, _Channel(ours), ask)
        except TimeoutError:
            raise TimedOut(f"{vm.name}: the guest did not answer within {ANSWER_SECONDS:.0f} seconds") from None
        except (paramiko.SSHException, EOFError, ConnectionError) as error:
            raise Unreachable(f"{vm.name}: the copy was cut: {quoted(error)}", "call it again to go on") from None
        except paramiko.SFTPError as error:
            raise Unreachable(f"{vm.name}: its guest does not speak SFTP: {quoted(error)}") from None
        except _NONSENSE as error:
            raise Unreachable(f"{vm.name}: its guest does not speak SFTP: {type(error).__name__}") from None


def join(directory: bytes, name: bytes) -> bytes:
    return directory.rstrip(b"/") + b"/" + name if directory and directory != b"/" else directory + name


def said(path: bytes) -> str:
    return quoted(os.fsdecode(path))


# In seconds; how many bytes are asked of at once, and the longest command that a guest's ssh server takes, which is
# of 9000 bytes (dropbear's MAX_CMD_LEN).
_DIGEST_SECONDS, _MOST_AT_ONCE, _LONGEST_COMMAND = 600, 256 << 20, 8000
_DIGEST = re.compile(rb"(\\?)([0-9a-f]{64}) [ *](.*)", re.DOTALL)


def digest_there(guest: Files, path: bytes) -> str:
    """Return the SHA-256 that the guest says its file has, "" where it does not say.

    Raises TimedOut where it says nothing for minutes.
    """
    return _digests(guest, [path]).get(path, "")


def digests_there(guest: Files, files: list[tuple[bytes, int]]) -> dict[bytes, str]:
    """Return the SHA-256 that the guest says of each file, by its path, as far as it says one; many are asked at once.

    ``files`` are paths with their sizes in bytes.  Raises TimedOut where it says nothing for minutes.
    """
    told: dict[bytes, str] = {}
    for some in _portions(files):
        told |= _digests(guest, some)
    return told


def _digests(guest: Files, paths: list[bytes]) -> dict[bytes, str]:
    done = guest.run(b"sha256sum", b"--", *map(relative, paths), seconds=_DIGEST_SECONDS)
    if done.code == door.GAVE_UP:
        raise TimedOut(f"{guest.vm.name}: the guest does not say what it has got")
    asked = {relative(path): path for path in paths}
    found = dict(_named_digests(done.out))
    return {path: found[name] for name, path in asked.items() if name in found}


def _named_digests(out: bytes) -> Iterator[tuple[bytes, str]]:
    """Yield names and digests of the lines of sha256sum(1), which writes some letters of names in two after a '\\'."""
    for line in out.split(b"\n"):
        if match := _DIGEST.fullmatch(line):
            name = match[3]
            if match[1]:
                name = re.sub(rb"\\(.)", lambda pair: _ESCAPED.get(pair[1], pair[1]), name)
            yield name, match[2].decode()


_ESCAPED = {b"n": b"\n", b"r": b"\r"}


def _portions(files: list[tuple[bytes, int]]) -> Iterator[list[bytes]]:
    """Yield the paths of ``files`` in portions that one command may have, and that are read in time."""
    some, length, total = list[bytes](), 0, 0
    for path, size in files:
        cost = len(os.fsencode(shlex.quote(os.fsdecode(relative(path))))) + 1
        if some and (length + cost > _LONGEST_COMMAND or total + size > _MOST_AT_ONCE):
            yield some
            some, length, total = [], 0, 0
        some.append(path)
        length, total = length + cost, total + size
    if some:
        yield some


# The largest date of SFTP, which has 32 bits without a sign (draft-ietf-secsh-filexfer-02, 5).
_LAST_DATE = 0xFFFFFFFF


def sftp_dates(status: os.stat_result) -> tuple[int, int]:
    """Return when a file was read and changed, as near to it as SFTP can say: in seconds from 1970 to 2106."""
    read, changed = (min(max(0, int(when)), _LAST_DATE) for when in (status.st_atime, status.st_mtime))
    return read, changed


def digest_of(stream: Any, size: int) -> str:
    digest, left = hashlib.sha256(), size
    stream.seek(0)
    while left and (chunk := stream.read(min(1 << 20, left))):
        digest.update(chunk)
        left -= len(chunk)
    return digest.hexdigest()


def forget(guest: Files, part: bytes) -> None:
    with contextlib.suppress(OSError):
        guest.client.remove(part)


class Share(Progress):
    """The progress of one of several files."""

    def __init__(self, whole: Progress, before: int, total: int) -> None:
        self._whole, self._before, self._total = whole, before, total

    def __call__(self, done: int, total: int) -> None:
        self._whole(self._before + done, self._total)


@contextlib.contextmanager
def guest_errors(guest: Files, path: bytes, part: bytes) -> Iterator[None]:
    """Turn the guest's refusals into sentences; where it has no room, the unfinished ``part`` goes."""
    try:
        yield
    except (TimeoutError, ConnectionError):
        raise
    except FileNotFoundError:
        raise Problem(f"there is no {said(path)} in the guest") from None
    except PermissionError:
        raise Problem(f"the guest does not let its user have {said(path)}") from None
    except OSError as error:
        directory = path.rpartition(b"/")[0]
        if part and guest.has_no_room(directory):
            forget(guest, part)
            raise Problem(
                f"there is no room in the guest for {said(path)}", f"okubsd run {guest.vm.name} -- df -h"
            ) from None
        raise Problem(f"the guest refused {said(path)}: {quoted(error)}") from None
