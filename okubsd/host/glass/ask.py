"""Ask the user on the desktop whether something may cross: exit code 0 for a yes, 1 for everything else.

A guest chooses the moment of a question, and can have the user type at it.  So the window holds keyboard and pointer,
takes nothing while somebody types or clicks on, and no key is a yes that anybody types by the way.
"""

from __future__ import annotations

import contextlib
import select
import sys
import textwrap
import time
from typing import Any

from Xlib import XK, X, error

from okubsd.display.frame import Box, nearest, plain
from okubsd.display.orders import Asked, parse_asked
from okubsd.errors import HostLacks
from okubsd.host.glass.desk import Desk, Look
from okubsd.host.window import open_desktop

_WIDTH, _HEIGHT, _LINE, _EDGE = 520, 190, 18, 16
# The two answers, as buttons: where each begins, and how large they are.
_NO_X, _YES_X, _BUTTON_Y, _BUTTON_WIDTH, _BUTTON_HEIGHT = 16, 376, 140, 128, 32
_DEAF_SECONDS = 1.0
_COLOR, _INK = 0x1C2833, 0xFFFFFF
_YES, _NO = 0, 1
_EVENTS = (
    X.ExposureMask | X.KeyPressMask | X.KeyReleaseMask | X.ButtonPressMask | X.ButtonReleaseMask
    | X.VisibilityChangeMask
)  # fmt: skip


class Question:
    """One question in a window that the window manager has no say in."""

    def __init__(self, display: Any, asked: Asked) -> None:
        """Show it.  Raises OSError where the keyboard cannot be had: somebody else could answer then."""
        self.display, self.asked = display, asked
        self.desk = Desk(display, Look("okubsd", _COLOR, _INK, ""))
        where = self.desk.root.query_pointer()
        at, px = nearest(Box(where.root_x, where.root_y, 1, 1), self.desk.monitors), self.desk.px
        self.top = self.desk.root.create_window(
            at.x + (at.width - px(_WIDTH)) // 2, at.y + (at.height - px(_HEIGHT)) // 3, px(_WIDTH), px(_HEIGHT), 3, 24,
            X.InputOutput, self.desk.visual, background_pixel=_COLOR, border_pixel=_INK, colormap=self.desk.colormap,
            override_redirect=1, event_mask=_EVENTS,
        )  # fmt: skip
        self.top.set_wm_name("okubsd asks")
        self.top.map()
        self.display.sync()
        self._grab()
        self.began = self.quiet_since = self.seen_since = time.monotonic()
        self.seen, self.pressed_on = False, _NO

    def _grab(self) -> None:
        end = time.monotonic() + 3
        mask = X.ButtonPressMask | X.ButtonReleaseMask
        while time.monotonic() < end:
            keys = self.top.grab_keyboard(True, X.GrabModeAsync, X.GrabModeAsync, X.CurrentTime)
            pointer = self.top.grab_pointer(True, mask, X.GrabModeAsync, X.GrabModeAsync, X.NONE, X.NONE, X.CurrentTime)
            if keys == X.GrabSuccess and pointer == X.GrabSuccess:
                return
            time.sleep(0.05)
        raise OSError("the keyboard of the desktop is held by somebody else")

    def answer(self) -> int:
        """Return what the user says, or _NO when the time is over."""
        end = self.began + self.asked.seconds
        while time.monotonic() < end:
            while self.display.pending_events():
                said = self._event(self.display.next_event())
                if said is not None:
                    return said
            self.display.flush()
            if not self.display.display.event_queue:
                select.select([self.display.fileno()], [], [], min(1.0, max(0.0, end - time.monotonic())))
            self._draw()
        return _NO

    def _event(self, event: Any) -> int | None:
        """Return the answer that an event is, None for none."""
        if event.type == X.VisibilityNotify:
            self.top.configure(stack_mode=X.Above)
            self.seen, self.seen_since = event.state == X.VisibilityUnobscured, time.monotonic()
        if event.send_event or event.type not in (X.KeyPress, X.ButtonPress, X.ButtonRelease):
            return None
        said = self._key(event) if event.type == X.KeyPress else self._button(event)
        # Nothing counts that comes while somebody types or clicks on: a repeat, a word, a game's target.
        now, quiet = time.monotonic(), self.quiet_since
        if not (event.type == X.KeyPress and self._is_modifier(event.detail)) and event.type != X.ButtonRelease:
            self.quiet_since = now
        if event.type == X.ButtonPress:
            self.pressed_on = said if said is not None and now > quiet + _DEAF_SECONDS else -1
            return None
        if event.type == X.ButtonRelease:
            said = said if said == self.pressed_on else None
        elif now < quiet + _DEAF_SECONDS and not self._is_escape(event):
            return None
        # A yes to what was not seen is none.
        unseen = not self.seen or now < self.seen_since + _DEAF_SECONDS
        return None if said == _YES and unseen else said

    def _is_escape(self, event: Any) -> bool:
        """Return whether a key is a no whenever it comes."""
        return bool(self.display.keycode_to_keysym(event.detail, 0) == XK.XK_Escape)

    def _is_modifier(self, code: int) -> bool:
        return any(code in codes for codes in self.display.get_modifier_mapping())

    def _button(self, event: Any) -> int | None:
        x, y = (round(at / self.desk.scale) for at in (event.event_x, event.event_y))
        if event.detail != 1 or event.window != self.top or not _BUTTON_Y <= y < _BUTTON_Y + _BUTTON_HEIGHT:
            return None
        if _YES_X <= x < _YES_X + _BUTTON_WIDTH:
            return _YES
        return _NO if _NO_X <= x < _NO_X + _BUTTON_WIDTH else None

    def _key(self, event: Any) -> int | None:
        key = self.display.keycode_to_keysym(event.detail, 0)
        if key == XK.XK_y and event.state & X.ControlMask:
            return _YES
        return _NO if key in (XK.XK_Escape, XK.XK_Return, XK.XK_n) else None

    def _draw(self) -> None:
        self.top.configure(stack_mode=X.Above)
        left = max(0, round(self.began + self.asked.seconds - time.monotonic()))
        px = self.desk.px
        question = textwrap.wrap(plain(self.asked.question, 160), 76)[:2]
        lines = [*question, *textwrap.wrap(plain(self.asked.what, 200), 76)[: 5 - len(question)]]
        for number, line in enumerate(lines, 1):
            self.desk.text(self.top, px(_EDGE), px(8 + _LINE * number), f"{line:<80}")
        self.desk.text(self.top, px(_EDGE), px(8 + _LINE * 6), f"asked by {plain(self.asked.place, 60)}")
        gc = self.top.create_gc(foreground=_INK)
        for x, words in ((_NO_X, f"No ({left})   "), (_YES_X, "Yes (Ctrl+Y)")):
            self.top.rectangle(gc, *(px(number) for number in (x, _BUTTON_Y, _BUTTON_WIDTH, _BUTTON_HEIGHT)))
            self.desk.text(self.top, px(x + 12), px(_BUTTON_Y + 21), words)
        gc.free()


def main() -> int:
    """Ask, and return the exit code."""
    asked = parse_asked(sys.argv[1])
    with contextlib.suppress(HostLacks, error.ConnectionClosedError, OSError):
        return Question(open_desktop(asked.desktop), asked).answer()
    return _NO


if __name__ == "__main__":
    sys.exit(main())
