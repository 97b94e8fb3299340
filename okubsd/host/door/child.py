"""A part of ours in a process of its own, which looks at what may be hostile."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable


class Child:
    """A function of ours in a process of its own, which looks at what may be hostile and can be killed at any time.

    It gets a socket to say what it sees, a line of bytes each, and to be told to go on.
    """

    def __init__(self, look: Callable[[socket.socket], None], *, memory: int) -> None:
        """Begin ``look``; ``memory`` bounds in bytes the data it may hold."""
        ours, theirs = socket.socketpair()
        self._pid = os.fork()
        if self._pid == 0:
            ours.close()
            _be_child(look, theirs, memory)
        theirs.close()
        self._end = ours
        self._buffer = b""

    def ask(self, timeout: float, largest: int = 1 << 16) -> bytes | None:
        """Return the next line that it says, without its newline; b"" if it ended, None after ``timeout`` seconds."""
        limit = time.monotonic() + timeout
        while b"\n" not in self._buffer:
            self._end.settimeout(max(0.001, limit - time.monotonic()))
            try:
                chunk = self._end.recv(65536)
            except TimeoutError:
                return None
            except ConnectionError:
                return b""
            if not chunk or len(self._buffer) > largest:
                return b""
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def read_rest(self, size: int, timeout: float) -> bytes | None:
        """Return ``size`` bytes that it sends; None where they do not come within ``timeout`` seconds."""
        limit, data = time.monotonic() + timeout, bytearray(self._buffer)
        while len(data) < size:
            self._end.settimeout(max(0.001, limit - time.monotonic()))
            try:
                chunk = self._end.recv(1 << 20)
            except (TimeoutError, ConnectionError):
                return None
            if not chunk:
                return None
            data += chunk
        return bytes(data[:size])

    def tell(self, word: bytes) -> None:
        """Say a line to it, if it is still there."""
        with contextlib.suppress(OSError):
            self._end.sendall(word + b"\n")

    def end(self) -> None:
        """Kill it, and wait until it is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)
        self._end.close()


def fork(half: Callable[[], int]) -> int:
    """Begin ``half`` in a process of its own, which holds what we hold; return its pid.

    What ``half`` returns is its exit code; what it raises is told on its standard error.
    """
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        end_with_parent()
        signal.alarm(0)
        code = half()
    except BaseException:
        # Telling can fail, too, where there is no memory left: nothing may lead out of here.
        with contextlib.suppress(BaseException):
            traceback.print_exc()
    finally:
        os._exit(code)


_PR_SET_PDEATHSIG = 1  # prctl(2)
_LONGEST_LOOK = 3600  # seconds, where the system cannot tell that the parent is gone


def end_with_parent(by: signal.Signals = signal.SIGKILL) -> None:
    """Have this process get the signal ``by`` when its parent ends, where the system can; else end after an hour."""
    signal.alarm(_LONGEST_LOOK)
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(by))


def _be_child(look: Callable[[socket.socket], None], end: socket.socket, memory: int) -> None:
    """Do what a child does, and never return; whatever becomes of it, nothing of the parent's is cleaned up here."""
    try:
        # No lock of the parent's lives on in here, and we never outlive what we were begun for.
        keep = end.fileno()
        os.closerange(3, keep)
        os.closerange(keep + 1, max(keep + 2, 4096))
        end_with_parent()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        if hasattr(resource, "RLIMIT_DATA"):
            resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
        look(end)
        end.close()
    except BaseException:  # it is told by the end of the socket
        os._exit(1)
    os._exit(0)
