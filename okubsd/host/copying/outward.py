"""From the host to the guest: one file, whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from okubsd.config.names import quoted
from okubsd.errors import Problem
from okubsd.host.copying.files import (
    CHUNK,
    Files,
    Progress,
    digest_of,
    digests_there,
    forget,
    guest_errors,
    join,
    part_name,
    relative,
    said,
    sftp_dates,
)

# A file that says it has no size, as those of proc(5), is read to its end, but not for ever.
_MOST_UNSIZED = 64 << 20

# Up to this size the guest is asked what it really has; more would take it seconds.
_CHEAP_TO_DIGEST = 64 << 20


class Sent(msgspec.Struct, frozen=True):
    """A copy that is whole in the guest, and hidden: whence it came, the hidden name, and what it will be called.

    ``size`` is in bytes, ``digest`` the SHA-256 of what was sent in hex, "" where that would take too long; ``mode``
    and ``dates`` (of access and change, seconds since the epoch) are what the copy will have.
    """

    source: Path
    part: bytes
    path: bytes
    size: int
    digest: str
    mode: int
    dates: tuple[int, int]


def send(guest: Files, source: Path, target: bytes, step: Progress, name: bytes = b"", *, origin: bytes = b"") -> None:
    """Copy the host's regular file ``source`` to ``target`` in the guest, "" or a directory meaning below it.

    There it is called ``name``, or as it is here.  ``origin`` is whence it comes where that is not where it lies here:
    a copy that was cut is gone on with by who brings it from there.  Raises Problem where that fails; then what was at
    the target before is still there.
    """
    path = place_in_guest(guest, target, name or os.fsencode(source.name))
    sent = send_part(guest, source, path, step, origin=origin)
    compare(guest, [sent])
    guest.run(b"sync", b"--", relative(sent.part))
    give_name(guest, sent)


def place_in_guest(guest: Files, target: bytes, name: bytes) -> bytes:
    """Return the guest's path for a file called ``name``: ``target``, or in it if it is a directory."""
    if guest.is_directory(target):
        return join(target, name)
    if not target or target.endswith(b"/"):
        words = shlex.join(("okubsd", "run", guest.vm.name, "--", "mkdir", os.fsdecode(target)))
        raise Problem(f"there is no directory {said(target)} in the guest", words if words.isprintable() else "")
    return target


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


def send_part(
    guest: Files, source: Path, path: bytes, step: Progress, *, origin: bytes = b"", fresh: bool = False
) -> Sent:
    """Copy ``source`` to the hidden name beside ``path``; what the guest has is not compared yet.

    ``origin`` is whence it comes, where it lies if not given.  A ``fresh`` directory has no copy in it that was cut.
    """
    with _regular(source) as (stream, status):
        size, changed = status.st_size, max(0, int(status.st_mtime))
        part = _beside(path, origin or os.fsencode(source.absolute()), size, changed)
        done = 0 if fresh else _begun(guest, part, size)
        with guest_errors(guest, path, part), guest.client.open(part, "r+b" if done else "wb") as remote:
            written = _pump_out(guest, stream, remote, done, size, step)
        digest = digest_of(stream, written) if done or written <= _CHEAP_TO_DIGEST else ""
    mode, dates = stat.S_IMODE(status.st_mode) & 0o777, sftp_dates(status)
    return Sent(source, part, path, written, digest, mode, dates)


def _begun(guest: Files, part: bytes, size: int) -> int:
    """Return how many bytes of a copy of ``size`` are there already."""
    found = guest.status(part)
    done = int(found.st_size or 0) if found is not None and stat.S_ISREG(found.st_mode or 0) else 0
    return done if done <= size else 0


def _pump_out(guest: Files, stream: Any, remote: Any, done: int, size: int, step: Progress) -> int:
    """Write what ``stream`` has from ``done`` on, and return its size: ``size``, or as far as an unsized file goes.

    Every write is answered before the next; what is a hole stays one.
    """
    step(done, size)
    at, end = done, size or _MOST_UNSIZED
    # How far the guest has it, as far as is known.
    reached = 0 if done == 0 else -1
    while at < end:
        at = _next_data(stream, at, size) if size else at
        stream.seek(at) if size else None
        chunk = stream.read(min(CHUNK, end - at)) if at < end else b""
        if not chunk:
            break
        guest.renew()
        remote.seek(at)
        remote.write(chunk)
        at += len(chunk)
        reached = at
        step(at, size or at)
    if size == 0 and at == _MOST_UNSIZED:
        raise Problem(f"the file says that it is empty, and has more than {_MOST_UNSIZED >> 20} MB")
    if at < size:
        raise Problem("the file became shorter while it was copied", "call it again")
    if reached != at:
        # It ends in a hole, or there was more of it.
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


def compare(guest: Files, sent: Iterable[Sent]) -> None:
    """Raise Problem where the guest does not have what was sent; its programs are asked, as a guest is.

    What differs is forgotten there.
    """
    kept = list(sent)
    told = digests_there(guest, [(one.part, one.size) for one in kept if one.digest])
    faults = {one.part: fault for one in kept if (fault := _fault(guest, one, told.get(one.part, "")))}
    for part in faults:
        forget(guest, part)
    if faults:
        others = f", nor {len(faults) - 1} other files" if len(faults) > 1 else ""
        raise Problem(f"{next(iter(faults.values()))}{others}", "call it again")


def _fault(guest: Files, sent: Sent, theirs: str) -> str:
    """Return what the guest lacks of what was sent, in words, "" for nothing.

    The digest that it says tells, or the size where it says none.
    """
    if sent.digest and theirs:
        same = sent.digest == theirs
    else:
        found = guest.status(sent.part)
        same = found is not None and int(found.st_size or 0) == sent.size
    return "" if same else f"the guest has not got {quoted(sent.source, 200)} as it is here"


def give_name(guest: Files, sent: Sent) -> None:
    """Rename a whole copy to what it is called; its bytes are on the guest's disk.

    Its mode comes last: the guest's user may not open what is to be read only.
    """
    with guest_errors(guest, sent.path, sent.part):
        guest.client.chmod(sent.part, sent.mode)
        guest.client.utime(sent.part, sent.dates)
        guest.client.posix_rename(sent.part, sent.path)
