"""Lay what a guest's windows show, and its pointer, into the memory that the painter sees."""

from __future__ import annotations

from typing import TYPE_CHECKING

from Xlib import X, error

from okubsd.display.frame import Box, clamp_size
from okubsd.display.words import Told
from okubsd.host.glass import cursor

if TYPE_CHECKING:
    from okubsd.host.glass.reader import Pane, Reader


def tell_pixels(reader: Reader) -> None:
    """Lay what changed into the slots that are free, a window each; what does not fit comes next."""
    for window, pane in list(reader.panes.items()) if reader.free else ():
        if not reader.free:
            # Whoever waited is first the next time.
            return
        if pane.dirty is None or not pane.seen:
            continue
        box, pane.dirty = pane.dirty.cut(*clamp_size(pane.box.width, pane.box.height)), None
        if box is not None and lay(reader, pane, window, box):
            reader.panes[window] = reader.panes.pop(window)


def lay(reader: Reader, pane: Pane, window: int, box: Box) -> bool:
    """Lay the pixels of ``box`` into a slot and tell of them; return whether there were any."""
    rows = max(1, min(box.height, reader.slots.slot_size // (4 * box.width)))
    if rows < box.height:
        pane.dirty = Box(box.x, box.y + rows, box.width, box.height - rows)
    try:
        if pane.pixmap is None:
            pane.pixmap = pane.window.composite_name_window_pixmap()
        # The picture of a window has its border, too.
        left, top = box.x + pane.border, box.y + pane.border
        image = pane.pixmap.get_image(left, top, box.width, rows, X.ZPixmap, 0xFFFFFFFF)
    except error.XError:
        # It was resized or unmapped just now, and what comes of that is told.
        reader.drop_pixmap(pane)
        return False
    slot = reader.free.pop()
    reader.slots.lay(slot, image.data[: 4 * box.width * rows])
    reader.wire.tell(Told.PIXELS, window, box.x, box.y, box.width, rows, slot)
    return True


def tell_cursor(reader: Reader) -> None:
    """Lay the pointer's picture, where it is another and no larger than it may be."""
    if not (reader.cursor_due and reader.free):
        return
    reader.cursor_due = False
    try:
        width, height, hot_x, hot_y, laid = cursor.image_of(reader.display, reader.root)
    except error.XError:
        # The server does not show it to others than its owner, who may be gone: the pointer stays as it was.
        return
    if laid:
        slot = reader.free.pop()
        reader.slots.lay(slot, laid)
        reader.wire.tell(Told.CURSOR, 0, width, height, hot_x, hot_y, slot)
