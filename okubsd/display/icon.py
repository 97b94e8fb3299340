"""Pictures for menus: a program's own with the color of its VM below it, or a window in that color.

Source: W3C Portable Network Graphics, second edition, sections 7.2, 9.2 (filters) and 11.2.2 (colour types).
"""

from __future__ import annotations

import struct
import zlib

from okubsd.display.png import redraw_png, render_chunks

# The bytes of a pixel by colour type, of eight bits each: grey, color, palette, grey and alpha, color and alpha.
_BYTES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_LARGEST = 512
_SIZE = 64


def window_icon(color: int, size: int = _SIZE) -> bytes:
    """Return the PNG of a window in the ``color`` (0xRRGGBB)."""
    edge, inside = _rgba(color), b"\xff\xff\xff\xff"
    margin, head = size // 8, size // 4
    rows = [
        inside if margin <= x < size - margin and head <= y < size - margin else edge
        for y in range(size)
        for x in range(size)
    ]
    return render_rgba(size, size, b"".join(rows))


def marked(untrusted: bytes, color: int) -> bytes:
    """Return a stranger's PNG with a bar of the ``color`` along its foot, drawn anew.

    Raises ValueError for what is damaged, larger than 512 pixels, interlaced, or has other than eight bits a sample.
    """
    data = redraw_png(untrusted)
    width, height, depth, kind, _, _, interlace = struct.unpack(">IIBBBBB", data[16:29])
    if max(width, height) > _LARGEST or depth != 8 or interlace:
        raise ValueError("its picture is not of the usual kind")
    chunks = dict(_chunks(data))
    pixels = _unfiltered(zlib.decompress(chunks[b"IDAT"]), width, height, _BYTES[kind])
    rgba = bytearray(_colored(pixels, kind, chunks.get(b"PLTE", b""), chunks.get(b"tRNS", b"")))
    bar = max(2, height // 8)
    rgba[-4 * width * bar :] = _rgba(color) * (width * bar)
    return render_rgba(width, height, bytes(rgba))


def render_rgba(width: int, height: int, rgba: bytes) -> bytes:
    """Return the PNG of ``width`` x ``height`` pixels of four bytes: red, green, blue, alpha."""
    stride = 4 * width
    rows = b"".join(b"\0" + rgba[y * stride : (y + 1) * stride] for y in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return render_chunks((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))


def _rgba(color: int) -> bytes:
    return color.to_bytes(3, "big") + b"\xff"


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Return the chunks of a PNG that was drawn anew by us."""
    found, at = [], 8
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        found.append((kind, data[at + 8 : at + 8 + size]))
        at += size + 12
    return found


def _unfiltered(data: bytes, width: int, height: int, step: int) -> bytes:
    """Return the bytes of the pixels: each row was told by its difference to what is before and above."""
    stride, above, out = width * step, bytearray(width * step), bytearray()
    for y in range(height):
        start = y * (stride + 1)
        row = bytearray(data[start + 1 : start + 1 + stride])
        _undo(data[start], row, above, step)
        out += row
        above = row
    return bytes(out)


def _undo(filter_: int, row: bytearray, above: bytearray, step: int) -> None:
    if filter_ == 0:
        return
    for at in range(len(row)):
        left = row[at - step] if at >= step else 0
        corner = above[at - step] if at >= step else 0
        guess = (0, left, above[at], (left + above[at]) // 2, _nearest(left, above[at], corner))[filter_]
        row[at] = (row[at] + guess) & 0xFF


def _nearest(left: int, up: int, corner: int) -> int:
    """Return Paeth's guess (section 9.4)."""
    guess = left + up - corner
    return min((left, up, corner), key=lambda value: abs(guess - value))


def _colored(pixels: bytes, kind: int, palette: bytes, clear: bytes) -> bytes:
    if kind == 6:
        return pixels
    if kind == 2:
        return b"".join(pixels[at : at + 3] + b"\xff" for at in range(0, len(pixels), 3))
    if kind == 4:
        return b"".join(pixels[at : at + 1] * 3 + pixels[at + 1 : at + 2] for at in range(0, len(pixels), 2))
    if kind == 0:
        return b"".join(bytes((value, value, value, 255)) for value in pixels)
    colors = [palette[3 * at : 3 * at + 3] + bytes([clear[at] if at < len(clear) else 255]) for at in range(256)]
    # A pixel that names no color of the palette is clear.
    return b"".join(colors[value] if len(colors[value]) == 4 else bytes(4) for value in pixels)
