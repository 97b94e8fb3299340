"""What minds the halves of the glass while they run: they end together, and with the VM.

    minder.py LOCK SOCKET SEEN IDLE HELD READER PAINTER WORD ...

The glass becomes this program when it has begun both halves (execve(2) keeps pid, children, locks and descriptors), and
this program becomes the glass again, called by the words and what it knows, when they are to begin anew: Python with
all that is loaded for two displays is 10 MB, and without 3.  So it imports nothing of ours.

LOCK is held by the VM's QEMU; where there is none, the VM lives as long as somebody listens at SOCKET, once SEEN is 1.
IDLE is the descriptor of a client of the nested display that does nothing, or -1; HELD is that of a pipe whose other
end tells the halves that we live.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import time

# How often is looked whether the VM lives, and after a half; the latter for a moment more once one of them ended.
_LOOK_SECONDS, _BEAT_SECONDS, _OTHER_SECONDS = 1.0, 0.1, 0.2
# The exit code of a half that has nothing to begin anew for.
FOR_GOOD = 3


class Life:
    """Whether the VM lives."""

    def __init__(self, lock: str, listener: str, seen: bool) -> None:
        self._lock, self._listener, self.seen = lock, listener, seen

    def goes_on(self) -> bool:
        """Return whether it does; what was never seen is still to come."""
        held = _held(self._lock)
        lives = _listens(self._listener) if held is None else held
        self.seen = self.seen or lives or held is not None
        return lives or not self.seen


def _held(lock: str) -> bool | None:
    """Return whether somebody holds the file ``lock``, None where there is no such file (flock(2))."""
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _listens(path: str) -> bool:
    # Only for a VM that is not ours to hold a lock for: it is worth a megabyte elsewhere.
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(2)
        try:
            connection.connect(path)
        except BlockingIOError:
            # Others wait there, too.
            return True
        except OSError:
            return False
    return True


def wait(children: list[int], life: Life, idle: int) -> bool:
    """Wait until a half ends, or the VM does, and end what is left; return whether another try may do better."""
    codes: dict[int, int] = {}
    try:
        while life.goes_on() and not codes:
            end = time.monotonic() + _LOOK_SECONDS
            while time.monotonic() < end and not codes:
                _drain(idle)
                time.sleep(_BEAT_SECONDS)
                codes = _ended(children)
        if codes:
            # One half ends with the other: which of them had a reason is known when both had time to.
            time.sleep(_OTHER_SECONDS)
            codes |= _ended([pid for pid in children if pid not in codes])
    finally:
        for pid in children:
            if pid not in codes:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
    return bool(codes) and FOR_GOOD not in codes.values()


def _ended(children: list[int]) -> dict[int, int]:
    """Return the exit codes of those ``children`` that ended."""
    ended = (os.waitpid(pid, os.WNOHANG) for pid in children)
    return {pid: os.waitstatus_to_exitcode(status) for pid, status in ended if pid}


def _drain(idle: int) -> None:
    """Take what the nested display tells every client, and drop it."""
    try:
        while idle >= 0 and os.read(idle, 1 << 16):
            pass
    except OSError:
        pass


def main(lock: str, listener: str, seen: str, idle: str, held: str, reader: str, painter: str, *words: str) -> int:
    """Mind the halves, and become the glass again where that may do better."""
    life = Life(lock, listener, seen == "1")
    if not wait([int(reader), int(painter)], life, int(idle)):
        return 0
    os.close(int(held))
    os.execv(words[0], [*words, "1" if life.seen else "0"])


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    sys.exit(main(*sys.argv[1:]))
