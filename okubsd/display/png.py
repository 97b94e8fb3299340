"""Pictures of a display as PNG (W3C Portable Network Graphics, second edition)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator


def render_png(width: int, height: int, bgrx: bytes) -> bytes:
    """Return the PNG of ``width`` x ``height`` pixels of four bytes: blue, green, red, unused.

    That is how an X server with 24-bit depth answers GetImage on a little-endian machine.
    """
    rgb = bytearray(width * height * 3)
    rgb[0::3], rgb[1::3], rgb[2::3] = bgrx[2::4], bgrx[1::4], bgrx[0::4]
    stride = width * 3
    rows = b"".join(b"\0" + rgb[y * stride : (y + 1) * stride] for y in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return _render((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))


def redraw_png(untrusted: bytes) -> bytes:
    """Return the picture of a stranger's PNG written anew: header, palette, transparency and pixels, and nothing else.

    Raises ValueError, in words, where it is damaged, or larger than a screen of 16 million pixels.
    """
    if not untrusted.startswith(_SIGNATURE):
        raise ValueError("its picture is no PNG")
    chunks = list(_chunks(untrusted[len(_SIGNATURE) :]))
    kinds = [kind for kind, _ in chunks]
    if kinds[:1] != [b"IHDR"] or kinds.count(b"IHDR") != 1 or len(chunks[0][1]) != _HEADER.size:
        raise ValueError(_DAMAGED)
    width, height, depth, colour, compression, method, interlace = _HEADER.unpack(chunks[0][1])
    if (depth, colour) not in _DEPTHS or (compression, method) != (0, 0) or interlace not in (0, 1):
        raise ValueError(_DAMAGED)
    if not 0 < width * height <= _MOST_PIXELS:
        raise ValueError("its picture has more than 16 million pixels")
    # An interlaced picture has seven parts, each with rows of its own (section 8.2).
    rows = height * 2 + 7 if interlace else height
    most = rows * (1 + (width * depth * _SAMPLES[colour] + 7) // 8)
    pixels = _unpacked(b"".join(data for kind, data in chunks if kind == b"IDAT"), most)
    kept = [(kind, data) for kind, data in chunks if kind in (b"PLTE", b"tRNS") and len(data) <= 768][:2]
    return _render(chunks[0], *kept, (b"IDAT", zlib.compress(pixels)), (b"IEND", b""))


_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER = struct.Struct(">IIBBBBB")
_DAMAGED = "its picture is a damaged PNG"
_MOST_PIXELS = 1 << 24
_MOST_CHUNKS = 10_000
# Section 11.2.2: how many samples a pixel of each colour type has.
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# Section 11.2.2: the bit depths of each colour type.
_DEPTHS = frozenset(
    (depth, colour)
    for colour, depths in ((0, (1, 2, 4, 8, 16)), (2, (8, 16)), (3, (1, 2, 4, 8)), (4, (8, 16)), (6, (8, 16)))
    for depth in depths
)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the chunks of a PNG up to its end.  Raises ValueError for a wrong length or checksum."""
    place = 0
    for _ in range(_MOST_CHUNKS):
        head = data[place : place + 8]
        if len(head) < 8:
            raise ValueError(_DAMAGED)
        size, kind = struct.unpack(">I4s", head)
        body, check = data[place + 8 : place + 8 + size], data[place + 8 + size : place + 12 + size]
        if len(check) < 4 or struct.pack(">I", zlib.crc32(kind + body)) != check:
            raise ValueError(_DAMAGED)
        yield kind, body
        if kind == b"IEND":
            return
        place += 12 + size
    raise ValueError(_DAMAGED)


def _unpacked(data: bytes, most: int) -> bytes:
    """Return what zlib packed in ``data``, at most ``most`` bytes.  Raises ValueError where it is damaged or more."""
    unpacker = zlib.decompressobj()
    try:
        found = unpacker.decompress(data, most)
    except zlib.error:
        raise ValueError(_DAMAGED) from None
    if not unpacker.eof or not found:
        raise ValueError(_DAMAGED)
    return found


def _render(*chunks: tuple[bytes, bytes]) -> bytes:
    return _SIGNATURE + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
