"""Files into a guest and out of it: SFTP over the VM's shared ssh connection.

The guest's side is hostile: its names are never used here, its sizes are bounds, not promises.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from okubsd.config.names import quoted
from okubsd.errors import Problem, Unreachable
from okubsd.host import door
from okubsd.host.lifecycle import shared_ssh
from okubsd.host.places import Places
from okubsd.model import Vm

_CHUNK = 32 << 10


def part_name(name: str, size: int, changed: int) -> str:
    """Return the name of the unfinished copy of ``name``.

    It tells the ``size`` and the date (``changed``, seconds since the epoch) of what is copied, so that
    a copy is only gone on with while its source is the same.
    """
    return f"{name}.okubsd-part-{size}-{changed}"


class Progress:
    """Told how far a copy is; this one says nothing."""

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def __call__(self, done: int, total: int) -> None:
        """Take note of ``done`` of ``total`` bytes."""


class _Pipe(socket.socket):
    """A socket with the name that paramiko's log asks a channel for."""

    def get_name(self) -> str:
        """Return the name for the log."""
        return "sftp"


@contextlib.contextmanager
def sftp(places: Places, vm: Vm) -> Iterator[Any]:
    """Open paramiko's SFTP client on the guest.  Raises Unreachable where the guest does not answer.

    ssh(1) carries the bytes, so keys and the pinned host key are checked in one place only.
    """
    import paramiko

    argv = (*shared_ssh(places, vm, "-T", "-s"), "sftp")
    ours, theirs = socket.socketpair()
    with door.joined(argv, theirs), _Pipe(fileno=ours.detach()) as pipe:
        theirs.close()
        try:
            yield paramiko.SFTPClient(pipe)
        except (paramiko.SSHException, EOFError) as error:
            raise Unreachable(f"{vm.name}: the copy was cut: {quoted(error)}", "call it again to go on") from None


def send(client: Any, source: Path, target: str, step: Progress) -> None:
    """Copy the host's file ``source`` to ``target`` in the guest, "" or a directory meaning below it."""
    if source.is_dir():
        raise Problem(f"{source} is a directory", "copy a file, such as a tar archive of it")
    try:
        stream = source.open("rb")
    except OSError as error:
        raise Problem(f"{source}: {error.strerror}") from None
    with stream:
        path = _below(client, target, source.name)
        status = os.fstat(stream.fileno())
        size, part = status.st_size, part_name(path, status.st_size, int(status.st_mtime))
        done = _size_or_zero(client, part)
        done = done if done <= size else 0
        stream.seek(done)
        with _guest_errors(path), client.open(part, "ab" if done else "wb") as remote:
            remote.set_pipelined(True)
            _pump(stream, remote, done, size, step)
        with _guest_errors(path):
            client.posix_rename(part, path)


def fetch(client: Any, source: str, target: Path, step: Progress) -> None:
    """Copy the guest's file ``source`` to ``target`` on the host, a directory meaning below it."""
    name = Path(source).name
    if target.is_dir():
        if name in ("", ".", ".."):
            raise Problem(f"{quoted(source)} names no file")
        target = target / name
    with _guest_errors(source), client.open(source or ".", "rb") as remote:
        status = remote.stat()
        if not stat.S_ISREG(status.st_mode or 0):
            raise Problem(f"{quoted(source)} is no regular file in the guest")
        size = int(status.st_size or 0)
        _room_for(target, size)
        part = target.with_name(part_name(target.name, size, int(status.st_mtime or 0)))
        done = part.stat().st_size if part.exists() and not part.is_symlink() else 0
        done = done if done <= size else 0
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | (0 if done else os.O_TRUNC), 0o600)
        with os.fdopen(descriptor, "wb") as local:
            local.seek(done)
            remote.seek(done)
            remote.prefetch(size)
            _pump(remote, local, done, size, step)
            local.flush()
            os.fsync(local.fileno())
        part.replace(target)


def _pump(source: Any, target: Any, done: int, size: int, step: Progress) -> None:
    """Copy bytes from ``done`` up to ``size``, and not one more."""
    step(done, size)
    while done < size:
        chunk = source.read(min(_CHUNK, size - done))
        if not chunk:
            raise Problem("the file became shorter while it was copied", "call it again")
        target.write(chunk)
        done += len(chunk)
        step(done, size)


def _room_for(target: Path, size: int) -> None:
    directory = target.absolute().parent
    if not directory.is_dir():
        raise Problem(f"there is no directory {directory}")
    if shutil.disk_usage(directory).free < size:
        raise Problem(f"there is no room for {size} bytes in {directory}")


def _below(client: Any, target: str, name: str) -> str:
    """Return the guest's path for a file called ``name``: ``target``, or in it if it is a directory."""
    try:
        is_directory = stat.S_ISDIR(client.stat(target or ".").st_mode or 0)
    except OSError:
        is_directory = False
    return f"{target.rstrip('/')}/{name}".lstrip("/" if not target else "") if is_directory else target


def _size_or_zero(client: Any, path: str) -> int:
    try:
        return int(client.stat(path).st_size or 0)
    except OSError:
        return 0


@contextlib.contextmanager
def _guest_errors(path: str) -> Iterator[None]:
    """Turn the guest's refusals into sentences."""
    try:
        yield
    except FileNotFoundError:
        raise Problem(f"there is no {quoted(path)} in the guest") from None
    except PermissionError:
        raise Problem(f"the guest does not let its user have {quoted(path)}") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG):
            raise
        raise Problem(f"the guest refused {quoted(path)}: {quoted(error)}") from None
