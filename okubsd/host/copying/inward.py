"""From the guest to the host: one file, whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from okubsd.config.names import quoted
from okubsd.errors import Problem
from okubsd.host.copying.files import (
    CHUNK,
    Files,
    Progress,
    digest_of,
    digest_there,
    guest_errors,
    part_name,
    said,
)

# A file that says it has no size, as those of proc(5), is read to its end, but not for ever.
_MOST_UNSIZED = 64 << 20


def fetch(guest: Files, source: bytes, target: Path, step: Progress) -> None:
    """Copy the guest's regular file ``source`` to ``target`` on the host, a directory meaning below it.

    Raises Problem where that fails; then what was at the target before is still there.
    """
    name = source.rstrip(b"/").rpartition(b"/")[2]
    with host_errors(target):
        below = target.is_dir()
    if below:
        if name in (b"", b".", b"..", b"~"):
            raise Problem(f"{said(source)} names no file")
        target = target / os.fsdecode(name)
    elif str(target).endswith("/"):
        raise Problem(f"there is no directory {quoted(target, 200)}")
    fetch_file(guest, source, target, step)


def fetch_file(guest: Files, source: bytes, target: Path, step: Progress, *, follow: bool = True) -> None:
    """Copy one file of the guest's to ``target``, through a link that is there if ``follow``, as scp(1) does."""
    with host_errors(target):
        target = target.resolve() if follow else target
        there = target.lstat() if os.path.lexists(target) else None
    if there is not None and not stat.S_ISREG(there.st_mode):
        raise Problem(f"{quoted(target, 200)} is no regular file", "name another target")
    with guest_errors(guest, source, b""):
        # A FIFO would be waited for where it is opened, and by the guest's server for ever.
        _need_regular(source, guest.client.stat(source or b".").st_mode)
    with guest_errors(guest, source, b""), guest.client.open(source or b".", "rb") as remote:
        status = remote.stat()
        _need_regular(source, status.st_mode)
        size, changed = int(status.st_size or 0), int(status.st_mtime or 0)
        with host_errors(target):
            room_for(target, size)
            origin = guest.vm.name.encode() + b":" + source
            part = target.with_name(os.fsdecode(part_name(os.fsencode(target.name), origin, size, changed)))
            stream = _open_part(part, size)
        with stream:
            if _pump_in(guest, remote, stream, size, target, step):
                _compare_here(guest, source, stream, size, part)
            # What is there keeps who may read it; else it is the guest's word, as far as the user's umask goes.
            mode = stat.S_IMODE(there.st_mode) if there else stat.S_IMODE(status.st_mode or 0o644) & ~umask()
            with host_errors(target):
                os.fchmod(stream.fileno(), mode & 0o777)
                os.utime(stream.fileno(), (changed, changed))
                stream.flush()
                os.fsync(stream.fileno())
                part.replace(target)


def _need_regular(source: bytes, mode: int | None) -> None:
    if not stat.S_ISREG(mode or 0):
        what = "a directory" if stat.S_ISDIR(mode or 0) else "no regular file"
        hint = "okubsd cp -r SOURCE TARGET  # copies directories" if what[0] == "a" else ""
        raise Problem(f"{said(source)} is {what} in the guest", hint)


def _compare_here(guest: Files, source: bytes, stream: Any, size: int, part: Path) -> None:
    """Raise Problem where a copy that was gone on with is not what the guest says its file is."""
    theirs = digest_there(guest, source)
    if theirs != digest_of(stream, size):
        part.unlink(missing_ok=True)
        raise Problem(f"{said(source)} is another file than when its copy was begun", "call it again")


def umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


@contextlib.contextmanager
def host_errors(target: Path) -> Iterator[None]:
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


def _pump_in(guest: Files, remote: Any, stream: Any, size: int, target: Path, step: Progress) -> bool:
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
        chunk = remote.read(min(CHUNK, end - at))
        if not chunk:
            break
        with host_errors(target):
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


def room_for(target: Path, size: int) -> None:
    directory = target.absolute().parent
    if not directory.is_dir():
        raise Problem(f"there is no directory {quoted(directory, 200)}")
    if shutil.disk_usage(directory).free < size:
        raise Problem(f"there is no room for {size} bytes in {quoted(directory, 200)}")
