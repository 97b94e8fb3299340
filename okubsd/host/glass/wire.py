"""The socket and the memory between the two halves of the glass."""

from __future__ import annotations

import mmap
import os
import socket

from okubsd.display.words import SIZE, Asked, Message, Told, decode, encode

# Of what the other half does not take, this much waits; it is gone or hangs where there is more.
MOST_WAITING = 4 << 20

# So many messages are taken at once: memory for more would be asked of the system, and given back, each time.
_AT_ONCE = 256

# How many rectangles of pixels may be on their way, and the bytes of each: memory is only taken where it is used.
SLOTS, SLOT_SIZE = 2, 16 << 20


class Hung(Exception):
    """The other half is gone, does not take what it is told, or says what it may not."""


class Wire:
    """Our end of the socket: messages out, messages in, and never a wait."""

    def __init__(self, end: socket.socket, kinds: type[Told] | type[Asked]) -> None:
        end.setblocking(False)
        self._end, self._kinds = end, kinds
        self._out, self._in = bytearray(), bytearray()

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._end.fileno()

    @property
    def waits(self) -> bool:
        """Return whether something is still to be sent."""
        return bool(self._out)

    def tell(self, kind: Told | Asked, window: int = 0, *numbers: int, text: str = "") -> None:
        """Send a message, now or with the next flush().  Raises Hung where too much waits already."""
        self._out += encode(Message(kind, window, numbers, text))
        if len(self._out) > MOST_WAITING:
            raise Hung("the other half takes nothing")
        self.flush()

    def flush(self) -> None:
        """Send what waits, as far as it is taken.  Raises Hung where the other half is gone."""
        try:
            while self._out:
                sent = self._end.send(self._out[: 256 << 10])
                del self._out[:sent]
        except BlockingIOError:
            pass
        except OSError as error:
            raise Hung("the other half is gone") from error

    def hear(self) -> list[Message]:
        """Return the messages that came.  Raises Hung where the other half is gone, or one is none."""
        try:
            data = self._end.recv(_AT_ONCE * SIZE)
        except BlockingIOError:
            return []
        except OSError as error:
            raise Hung("the other half is gone") from error
        if not data:
            raise Hung("the other half is gone")
        self._in += data
        whole = len(self._in) // SIZE * SIZE
        try:
            found = [decode(bytes(self._in[i : i + SIZE]), self._kinds) for i in range(0, whole, SIZE)]
        except ValueError as error:
            raise Hung(f"the other half says what is no message: {error}") from error
        del self._in[:whole]
        return found


class Slots:
    """Memory for rectangles of pixels, 4 bytes each, in equal slots."""

    def __init__(self, slot_size: int) -> None:
        # Inherited by both halves: there is no descriptor that one could shrink under the other.
        self.slot_size = slot_size
        self._memory = mmap.mmap(-1, slot_size * SLOTS)

    def lay(self, slot: int, pixels: bytes) -> None:
        """Put ``pixels`` into ``slot``; raises ValueError where they do not fit."""
        if len(pixels) > self.slot_size:
            raise ValueError("too many pixels for a slot")
        begin = slot * self.slot_size
        self._memory[begin : begin + len(pixels)] = pixels

    def view(self, slot: int, size: int) -> memoryview:
        """Return the first ``size`` bytes of ``slot``.  Raises Hung where there are not so many."""
        if not (0 <= slot < SLOTS and 0 < size <= self.slot_size):
            raise Hung("pixels outside of their memory")
        begin = slot * self.slot_size
        return memoryview(self._memory)[begin : begin + size]


def pair() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a socket, neither of which a program of ours inherits."""
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        os.set_inheritable(end.fileno(), False)
    return ours, theirs
