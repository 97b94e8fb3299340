"""Pictures of a display as PNG (W3C Portable Network Graphics, second edition)."""

from __future__ import annotations

import struct
import zlib


def render_png(width: int, height: int, bgrx: bytes) -> bytes:
    """Return the PNG of ``width`` x ``height`` pixels of four bytes: blue, green, red, unused.

    That is how an X server with 24-bit depth answers GetImage on a little-endian machine.
    """
    rgb = bytearray(width * height * 3)
    rgb[0::3], rgb[1::3], rgb[2::3] = bgrx[2::4], bgrx[1::4], bgrx[0::4]
    stride = width * 3
    rows = b"".join(b"\0" + rgb[y * stride : (y + 1) * stride] for y in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
