"""What is said of a VM besides its windows: that it has the microphone, and what came of what its guest asked."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from Xlib import X

from okubsd.host.glass.desk import Desk

if TYPE_CHECKING:
    from okubsd.host.glass.painter import Painter

_HEIGHT, _EDGE = 22, 8
# The mark comes up again over what covers it, but not without end: another program may do the same.
_AGAIN_SECONDS = 1.0


class Mark:
    """A small window of ours above all others, in the corner of the screen: whatever the guest's own windows are at."""

    def __init__(self, desk: Desk) -> None:
        self._desk, self._raised, self._covered = desk, 0.0, False
        self._words = f"MICROPHONE {desk.look.vm}"
        wide, at = len(self._words) * desk.letter_width + 2 * desk.px(_EDGE), desk.monitors[0]
        self.top = desk.root.create_window(
            at.x + at.width - wide, at.y, wide, desk.px(_HEIGHT), 0, 24, X.InputOutput, desk.visual,
            background_pixel=desk.look.ink, border_pixel=0, colormap=desk.colormap, override_redirect=1,
            event_mask=X.ExposureMask | X.VisibilityChangeMask,
        )  # fmt: skip
        self.top.set_wm_name(f"[{desk.look.vm}] okubsd: microphone")
        self.top.map()
        self.top.configure(stack_mode=X.Above)

    def event(self, event: Any) -> None:
        """Be drawn, and be seen."""
        if event.type == X.Expose:
            self._desk.text(self.top, self._desk.px(_EDGE), self._desk.px(15), self._words, turned=True)
        elif event.type == X.VisibilityNotify:
            self._covered = event.state != X.VisibilityUnobscured

    def wait(self) -> float | None:
        """Return after how many seconds it comes up again, None where nothing covers it."""
        return max(0.0, self._raised + _AGAIN_SECONDS - time.monotonic()) if self._covered else None

    def come_up(self) -> None:
        """Come up over what covers it, once its time is there."""
        if self.wait() == 0.0:
            self._raised, self._covered = time.monotonic(), False
            self.top.configure(stack_mode=X.Above)


def mark_hearing(painter: Painter, *, on: bool) -> None:
    """Say on the screen and in every label whether the VM has the microphone."""
    painter.desk.hearing = on
    if on and painter.mark is None:
        painter.mark = Mark(painter.desk)
        painter.desk.above = painter.mark.top
    elif not on and painter.mark is not None:
        painter.mark.top.destroy()
        painter.mark = painter.desk.above = None
    for pane in painter.panes.values():
        pane.draw_label()


def whisper(painter: Painter, words: str) -> None:
    """Show what came of what a guest asked: where it would show a title, and as one.

    The guest chooses the moment and perhaps the words, so nothing of it looks as if it was okubsd's, and no window is
    expected because of it.
    """
    for pane in painter.panes.values():
        pane.whispered = words
        pane.draw_label()
    painter.show_for_a_moment()
