"""The picture of a pointer: taken from a guest within bounds, and made anew from two colors."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from Xlib.protocol import rq

from okubsd.display.words import Asked

if TYPE_CHECKING:
    from okubsd.host.glass.painter import Painter


class _GetCursorImage(rq.ReplyRequest):  # type: ignore[misc]
    _request = rq.Struct(rq.Card8("opcode"), rq.Opcode(4), rq.RequestLength())
    _reply = rq.Struct(
        rq.ReplyCode(), rq.Pad(1), rq.Card16("sequence_number"), rq.ReplyLength(), rq.Int16("x"), rq.Int16("y"),
        rq.Card16("width"), rq.Card16("height"), rq.Card16("xhot"), rq.Card16("yhot"), rq.Card32("cursor_serial"),
        rq.Pad(8), rq.Binary("data"),
    )  # fmt: skip


# The largest picture that is taken: what a guest wants larger stays an arrow.
LARGEST = 64


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


def image_of(display: Any, root: Any) -> tuple[int, int, int, int, bytes]:
    """Return width, height, hot spot and pixels of the pointer's picture, b"" where it is larger than it may be.

    By a request of our own: python-xlib's makes a list of numbers of it, of whatever size.
    """
    from Xlib.ext import xfixes

    reply = _GetCursorImage(display=display.display, opcode=display.display.get_extension_major(xfixes.extname))
    width, height = reply.width, reply.height
    fits = 0 < width <= LARGEST and 0 < height <= LARGEST and len(reply.data) >= 4 * width * height
    return width, height, reply.xhot, reply.yhot, bytes(reply.data[: 4 * width * height]) if fits else b""


def show(painter: Painter, numbers: tuple[int, ...]) -> None:
    """Have the pointer look over the VM's windows as the reader tells, by the first five ``numbers``."""
    width, height, hot_x, hot_y, slot = numbers[:5]
    if 0 < width <= LARGEST and 0 < height <= LARGEST:
        pixels = bytes(painter.slots.view(slot, 4 * width * height))
        before, painter.cursor = painter.cursor, make(painter.display, width, height, (hot_x, hot_y), pixels)
        for pane in painter.panes.values():
            pane.inner.change_attributes(cursor=painter.cursor)
        if before is not None:
            before.free()
    painter.wire.tell(Asked.DONE, 0, slot)
