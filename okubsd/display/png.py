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
    return render_chunks((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))


def redraw_png(untrusted: bytes) -> bytes:
    """Return the picture of a stranger's PNG written anew: header, palette, transparency and pixels, and nothing else.

    Raises ValueError, in words, where it is damaged, or has more than 64 MB of pixels.
    """
    if not untrusted.startswith(_SIGNATURE):
        raise ValueError("its picture is no PNG")
    chunks = list(_chunks(untrusted[len(_SIGNATURE) :]))
    if chunks[0][0] != b"IHDR" or len(chunks[0][1]) != _HEADER.size:
        raise ValueError(_DAMAGED)
    width, height, depth, colour, compression, method, interlace = _HEADER.unpack(chunks[0][1])
    if (depth, colour) not in _DEPTHS or (compression, method) != (0, 0) or interlace not in (0, 1):
        raise ValueError(_DAMAGED)
    rows = _rows(width, height, depth * _SAMPLES[colour], interlaced=interlace == 1)
    size = sum(length * count for length, count in rows)
    if not width or not height or size > _MOST_BYTES:
        raise ValueError("its picture has more than 64 MB of pixels")
    pixels = _unpacked(b"".join(data for kind, data in chunks if kind == b"IDAT"), size)
    _check_filters(pixels, rows)
    kept = _colours(chunks, depth, colour)
    return render_chunks(chunks[0], *kept, (b"IDAT", zlib.compress(pixels, 1)), (b"IEND", b""))


def _rows(width: int, height: int, bits: int, *, interlaced: bool) -> list[tuple[int, int]]:
    """Return how long the rows of each part are, in bytes with their filter, and how many (sections 7.2 and 8.2)."""
    parts = _PASSES if interlaced else ((0, 0, 1, 1),)
    sizes = ((-(-(width - x) // across), -(-(height - y) // down)) for x, y, across, down in parts)
    return [(1 + (columns * bits + 7) // 8, count) for columns, count in sizes if columns > 0 and count > 0]


def _check_filters(pixels: bytes, rows: list[tuple[int, int]]) -> None:
    """Raise ValueError where a row begins with no filter that there is (section 9.2)."""
    place = 0
    for length, count in rows:
        if any(filter_ > _LAST_FILTER for filter_ in pixels[place : place + length * count : length]):
            raise ValueError(_DAMAGED)
        place += length * count


def _colours(chunks: list[tuple[bytes, bytes]], depth: int, colour: int) -> list[tuple[bytes, bytes]]:
    """Return the palette and the transparency, each at most once and as its colour type has it (section 11.3)."""
    palettes = [data for kind, data in chunks if kind == b"PLTE"]
    clear = [data for kind, data in chunks if kind == b"tRNS"]
    entries = len(palettes[0]) // 3 if palettes else 0
    wrong = len(palettes) > 1 or len(clear) > 1 or any(len(data) % 3 or not data for data in palettes)
    if colour == _INDEXED:
        wrong |= not 0 < entries <= 1 << depth or any(len(data) > entries for data in clear)
    else:
        # A palette is only a hint here.
        palettes = []
        wrong |= any(len(data) != _CLEAR_BYTES.get(colour, 0) for data in clear)
    if wrong:
        raise ValueError(_DAMAGED)
    return [*((b"PLTE", data) for data in palettes), *((b"tRNS", data) for data in clear)]


_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER = struct.Struct(">IIBBBBB")
_DAMAGED = "its picture is a damaged PNG"
_MOST_BYTES = 64 << 20
_INDEXED, _LAST_FILTER = 3, 4
# Section 11.3.2: how many bytes say which grey or which colour is clear.
_CLEAR_BYTES = {0: 2, 2: 6}
# Section 8.2: where each part of an interlaced picture begins, and how far its pixels are apart.
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
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


def _unpacked(data: bytes, size: int) -> bytes:
    """Return the ``size`` bytes that zlib packed in ``data``.  Raises ValueError where they are not."""
    unpacker = zlib.decompressobj()
    try:
        found = unpacker.decompress(data, size + 1)
    except zlib.error:
        raise ValueError(_DAMAGED) from None
    if not unpacker.eof or len(found) != size:
        raise ValueError(_DAMAGED)
    return found


def render_chunks(*chunks: tuple[bytes, bytes]) -> bytes:
    """Return the PNG that the chunks are, each a kind and its bytes."""
    return _SIGNATURE + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
