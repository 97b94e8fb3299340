"""What may cross from one display to another: text without unseen letters, or a PNG drawn anew."""

from __future__ import annotations

import msgspec

from okubsd.config.names import CONTROL
from okubsd.config.sizes import render_size
from okubsd.display.png import redraw_png

# The names of the two sides that a clip can have beside VMs; no VM is called so (config/names.py, RESERVED).
HOST = "host"

# The most bytes that cross at once where nobody says otherwise, and how long they are offered, in seconds.
LARGEST = 4 << 20
LEASE = 10.0

TEXT, PNG = "text", "png"

# How many letters of a text a notice shows.
_SHOWN = 40
# How many of the letters that were taken out are named.
_NAMED = 4


class Clip(msgspec.Struct, frozen=True, kw_only=True):
    """What was taken from the clipboard of ``source``: its ``kind``, TEXT (UTF-8) or PNG, and ``data``.

    ``removed`` is how many letters that are not seen were taken out of a text, ``unseen`` the first of them by their
    numbers, ``origin`` the VM that policies judge: of a copy, the VM that it is one of.
    """

    source: str
    kind: str
    data: bytes
    removed: int = 0
    unseen: tuple[str, ...] = ()
    origin: str = ""


def clip_of(source: str, kind: str, untrusted: bytes, *, raw: bool = False, limit: int = LARGEST) -> Clip:
    """Return what may cross of ``untrusted``, what the clipboard of ``source`` gave.

    A ``raw`` text keeps what moves a cursor, turns the direction of writing, or is not seen.
    Raises ValueError, in words, for what is no text and no PNG, or has more than ``limit`` bytes.
    """
    if len(untrusted) > limit:
        raise ValueError(f"it holds more than {render_size(limit)}")
    if kind == PNG:
        drawn = redraw_png(untrusted)
        if len(drawn) > limit:
            raise ValueError(f"its picture has more than {render_size(limit)}")
        return Clip(source=source, kind=PNG, data=drawn)
    try:
        text = untrusted.decode()
    except UnicodeDecodeError:
        raise ValueError("its text is not UTF-8") from None
    text = text.replace("\r\n", "\n")
    clean = text if raw else CONTROL.sub("", text)
    if not clean:
        raise ValueError("it holds no text")
    taken = () if raw else tuple(dict.fromkeys(f"U+{ord(letter):04X}" for letter in CONTROL.findall(text)))
    return Clip(source=source, kind=TEXT, data=clean.encode(), removed=len(text) - len(clean), unseen=taken[:_NAMED])


def describe(clip: Clip) -> str:
    """Return a clip in words for a notice: what it is, of whom, and the first letters of a text on one line."""
    if clip.kind == PNG:
        return f"a picture of {len(clip.data)} bytes from {clip.source}"
    text = clip.data.decode()
    seen = CONTROL.sub("", text).replace("\n", " ").replace("\t", " ")
    first = seen if len(seen) <= _SHOWN else f"{seen[:_SHOWN]}..."
    removed = f", {clip.removed} unseen taken out ({' '.join(clip.unseen)})" if clip.removed else ""
    return f"{len(text)} letters from {clip.source}{removed}: {first}"


def render_clip(clip: Clip) -> bytes:
    """Return a clip as it is kept in a file."""
    return msgspec.msgpack.encode(clip)


def parse_clip(data: bytes) -> Clip | None:
    """Return the clip that render_clip() wrote, or None where ``data`` is none."""
    try:
        return msgspec.msgpack.decode(data, type=Clip)
    except ValueError:
        return None
