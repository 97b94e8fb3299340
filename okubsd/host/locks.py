"""Lock files that die with their holder: who lives, and who waits."""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO


def is_alive(life: Path) -> bool:
    """Return whether the program that was spawned with the lock file ``life`` lives.

    The lock was taken before the program began and came to it open: there is no moment at which a program
    lives and this does not say so (flock(2)).
    """
    try:
        with life.open() as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def living_pid(life: Path) -> int | None:
    """Return the pid of the program that holds the lock file ``life``; None where it is gone, or not yet known."""
    if not is_alive(life):
        return None
    text = life.read_text().strip()
    return int(text) if text.isdigit() else None


class Busy(Exception):
    """Somebody else holds a lock for longer than one is ready to wait."""


@contextlib.contextmanager
def locked(
    path: Path, on_wait: Callable[[], None] | None = None, *, shared: bool = False, seconds: float | None = None
) -> Iterator[None]:
    """Hold the lock file ``path``; the kernel drops it when the holder dies.

    ``on_wait`` is called once if somebody else holds it; others may hold a ``shared`` one too.  Raises Busy where it
    is not free within ``seconds`` (None: as long as it takes).
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    with path.open("a") as stream:
        try:
            fcntl.flock(stream, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if on_wait is not None:
                on_wait()
            _wait(stream, kind, seconds)
        yield


def _wait(stream: IO[str], kind: int, seconds: float | None) -> None:
    if seconds is None:
        fcntl.flock(stream, kind)
        return
    end = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(stream, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > end:
                raise Busy from None
            time.sleep(0.05)
