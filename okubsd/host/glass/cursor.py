"""The picture of a pointer: taken from a guest within bounds, and made anew from two colors."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

# The largest picture that is taken: what a guest wants larger stays an arrow.
LARGEST = 64


def pixels_of(width: int, height: int, image: Sequence[int]) -> bytes:
    """Return the pixels of a pointer, 4 bytes each, b"" where there are too many or too few."""
    if not (0 < width <= LARGEST and 0 < height <= LARGEST) or len(image) < width * height:
        return b""
    return struct.pack(f"<{width * height}I", *(pixel & 0xFFFFFFFF for pixel in image[: width * height]))


def bitmaps(width: int, height: int, pixels: bytes) -> tuple[bytes, bytes]:
    """Return the dark pixels and the mask of a pointer as rows of bits, least first, each row of whole 32 bits.

    ``pixels`` are ARGB with premultiplied alpha, 4 bytes each, as XFIXES has them.
    """
    dark, mask = bytearray(), bytearray()
    values = struct.unpack(f"<{width * height}I", pixels)
    for y in range(height):
        row_dark, row_mask = 0, 0
        for x in range(width):
            pixel = values[y * width + x]
            alpha = pixel >> 24
            if alpha < 128:
                continue
            row_mask |= 1 << x
            light = (pixel >> 16 & 255) + (pixel >> 8 & 255) + (pixel & 255)
            row_dark |= (1 << x) if light < alpha * 3 // 2 else 0
        size = (width + 31) // 32 * 4
        dark += row_dark.to_bytes(size, "little")
        mask += row_mask.to_bytes(size, "little")
    return bytes(dark), bytes(mask)


def make(display: Any, width: int, height: int, hot: tuple[int, int], pixels: bytes) -> Any:
    """Return a cursor of ``display``, black and white, of the picture that ``pixels`` are."""
    from Xlib import X

    made = []
    root = display.screen().root
    for rows in bitmaps(width, height, pixels):
        pixmap = root.create_pixmap(width, height, 1)
        gc = pixmap.create_gc(foreground=1, background=0)
        data = rows if display.display.info.bitmap_format_bit_order == 0 else _mirrored(rows)
        pixmap.put_image(gc, 0, 0, width, height, X.XYPixmap, 1, 0, data)
        gc.free()
        made.append(pixmap)
    source, mask = made
    x, y = max(0, min(width - 1, hot[0])), max(0, min(height - 1, hot[1]))
    found = source.create_cursor(mask, (0, 0, 0), (0xFFFF, 0xFFFF, 0xFFFF), x, y)
    source.free()
    mask.free()
    return found


def _mirrored(rows: bytes) -> bytes:
    return bytes(int(f"{byte:08b}"[::-1], 2) for byte in rows)
