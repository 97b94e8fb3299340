"""What the two halves of the glass say to each other: messages of one size, each checked by who reads it.

The reader speaks to the X server that a guest draws on, and may be taken over by it; the painter speaks to the
user's.  A message is a kind, a window, eight numbers and a short text; pixels lie in memory that both can see.
"""

from __future__ import annotations

import enum
import struct

import msgspec

_LAYOUT = struct.Struct("<B3xI8iH150s")
# The bytes of a message, and those of its text.
SIZE, TEXT = _LAYOUT.size, 150


class Told(enum.IntEnum):
    """What the reader tells the painter; the numbers in parentheses are those of the message."""

    READY = 1  # it is the window manager of the nested display (width, height)
    WINDOW = 2  # one is mapped (x, y, width, height, 1 where it overrides redirection, the window it belongs to)
    PLACE = 3  # one asks for another place, or took it (x, y, width, height)
    TITLE = 4
    CLASS = 5
    HINTS = 6  # (least width, least height, most width, most height, step x, step y, base width, base height)
    URGENT = 7  # (1 or 0)
    GONE = 8
    PIXELS = 9  # a rectangle was laid into a slot (x, y, width, height, slot)
    CURSOR = 10  # another pointer's picture was laid (width, height, hot x, hot y, slot)
    DRAG = 11  # the window wants to be moved or resized by the pointer (a direction of _NET_WM_MOVERESIZE)
    STATE = 12  # the window asks for a state (one of State, 1 to have it or 0)
    STUBBORN = 13  # it has no way to be closed politely


class State(enum.IntEnum):
    """A state of a window that its program may ask for (EWMH, _NET_WM_STATE; ICCCM, WM_CHANGE_STATE)."""

    MAXIMIZED = 1
    FULLSCREEN = 2
    ICONIC = 3


class Asked(enum.IntEnum):
    """What the painter asks of the reader."""

    KEY = 32  # (keycode, 1 down or 0 up, modifiers that are locked, group)
    BUTTON = 33  # (x, y, button, 1 down or 0 up)
    POINTER = 34  # (x, y)
    PLACED = 35  # the window is there now (x, y, width, height)
    FOCUS = 36  # of the window, of none where it is 0
    RAISE = 37
    CLOSE = 38
    DONE = 39  # a slot is free again (slot)
    EXPOSE = 40  # a rectangle has to be told again (x, y, width, height)
    SEEN = 41  # whether anybody can see the window (1 or 0)
    STATED = 42  # the window has a state now (one of State, 1 or 0)
    LETTERS = 43  # letters are drawn so (dots an inch, antialias, hinting, style of hinting, order of the subpixels)


class Message(msgspec.Struct, frozen=True):
    """One message."""

    kind: Told | Asked
    window: int = 0
    numbers: tuple[int, ...] = ()
    text: str = ""


def encode(message: Message) -> bytes:
    """Return the SIZE bytes of ``message``; what does not fit a number is clamped, of a text the beginning stays."""
    numbers = [max(-0x80000000, min(0x7FFFFFFF, number)) for number in message.numbers[:8]]
    text = message.text.encode(errors="replace")[:TEXT]
    return _LAYOUT.pack(message.kind, message.window, *numbers, *[0] * (8 - len(numbers)), len(text), text)


def decode(data: bytes, kinds: type[Told] | type[Asked]) -> Message:
    """Return the message that ``data`` is.  Raises ValueError where it is none of ``kinds``."""
    if len(data) != SIZE:
        raise ValueError("a message of another size")
    kind, window, *rest = _LAYOUT.unpack(data)
    *numbers, length, text = rest
    if length > TEXT:
        raise ValueError("a text that is longer than its message")
    return Message(kinds(kind), window, tuple(numbers), text[:length].decode(errors="replace"))
