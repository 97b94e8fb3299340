"""What the reader lays of a window's pixels, drawn inside of its frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

from Xlib import X

from okubsd.display.frame import LARGEST, Box
from okubsd.display.words import Asked, Message
from okubsd.host.glass.pane import Pane

if TYPE_CHECKING:
    from okubsd.host.glass.painter import Painter

# A request holds 256 KB at most, so an image that goes by the socket goes in strips of so many bytes.
_STRIP = 200 << 10


def pixels(painter: Painter, message: Message) -> None:
    """Draw a rectangle inside of its window's frame, whatever the reader says of it."""
    x, y, width, height, slot = message.numbers[:5]
    box, pane = Box(x, y, width, height), painter.panes.get(message.window)
    if not (0 < width <= LARGEST and 0 < height <= LARGEST):
        box = Box(0, 0, 1, 1)
    view = painter.slots.view(slot, 4 * box.width * box.height)
    with view:
        if pane is not None and pane.clip(box) is not None:
            _draw(painter, pane, box, view)
            pane.painted = True
    # One round trip for what is drawn: nobody is ahead of the server by more than the slots.
    painter.display.sync()
    painter.wire.tell(Asked.DONE, 0, slot)


def _draw(painter: Painter, pane: Pane, box: Box, view: memoryview) -> None:
    """Put the image ``view`` at ``box``; the server cuts off what lies beyond the window."""
    if painter.segment is not None:
        painter.segment.memory[: len(view)] = view
        painter.segment.put(pane.inner, pane.gc, box.x, box.y, box.width, box.height, 24)
        return
    rows = max(1, _STRIP // (4 * box.width))
    for row in range(0, box.height, rows):
        high = min(rows, box.height - row)
        strip = bytes(view[4 * box.width * row : 4 * box.width * (row + high)])
        pane.inner.put_image(pane.gc, box.x, box.y + row, box.width, high, X.ZPixmap, 24, 0, strip)
