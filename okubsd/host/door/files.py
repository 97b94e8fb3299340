"""Files and directories that are whole, or not there, and for their owner alone."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from okubsd.errors import Problem


def make_private(path: Path) -> None:
    """Make the directory ``path`` if need be, for its owner alone.

    Raises Problem where it belongs to somebody else, or is no directory.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = path.lstat()
    if not path.is_dir() or path.is_symlink() or status.st_uid != os.geteuid():
        raise Problem(f"{path} is not a directory of yours", "remove it, or set OKUBSD_STATE to another place")
    if status.st_mode & 0o077:
        path.chmod(0o700)


def write(
    path: Path, data: bytes, mode: int = 0o600, *, owner: tuple[int, int] | None = None, lasting: bool = True
) -> None:
    """Write ``data`` to ``path`` whole or not at all: aside, fsync, rename.

    ``owner`` is a user and a group by number; None leaves the file to whoever writes it.  What is of no use after
    a power cut need not be ``lasting``: it is not waited for until the disk has it.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            if owner is not None:
                os.fchown(stream.fileno(), *owner)
            os.fchmod(stream.fileno(), mode)
            stream.write(data)
            stream.flush()
            if lasting:
                os.fsync(stream.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Have a file or directory on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def exchange(one: Path, other: Path) -> None:
    """Have two files or directories change their names, at once where the system can (renameat2(2))."""
    if sys.platform == "linux":
        import ctypes

        libc, here = ctypes.CDLL(None), -100
        if libc.renameat2(here, bytes(one), here, bytes(other), _EXCHANGE) == 0:
            return
    aside = other.with_name(f".gone-{other.name}.{os.getpid()}")
    other.rename(aside)
    one.rename(other)
    aside.rename(one)


# AT_FDCWD is -100, RENAME_EXCHANGE 2 (linux/fcntl.h, linux/fs.h).
_EXCHANGE = 2


def point(link: Path, target: str) -> None:
    """Make the symbolic link ``link`` point to ``target``, atomically."""
    aside = link.with_name(f".{link.name}.{os.getpid()}")
    aside.unlink(missing_ok=True)
    aside.symlink_to(target)
    aside.replace(link)


def append(path: Path, line: bytes) -> None:
    """Append ``line`` to the log ``path``, which is made for its owner alone if need be.

    One that was cut short by a power cut is ended first, so a log may have empty lines.
    Raises Problem where that is no file of ours to write to, or there is no room; nothing is waited for.
    """
    whole = b"\n" + line + b"\n"
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        raise Problem(f"{path} cannot be written: {error.strerror}") from None
    try:
        if os.write(descriptor, whole) < len(whole):
            raise Problem(f"{path} cannot be written: there is no room for it")
    except OSError as error:
        raise Problem(f"{path} cannot be written: {error.strerror}") from None
    finally:
        os.close(descriptor)
