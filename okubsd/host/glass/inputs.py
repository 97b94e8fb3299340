"""Keys, buttons and the pointer, given to a nested display as its own (XTEST), and to no other."""

from __future__ import annotations

from typing import Any

from Xlib import X
from Xlib.ext import xtest

from okubsd.host.xkb import Keyboard


class Inputs:
    """What is held down on the nested display by us."""

    def __init__(self, display: Any) -> None:
        self._display = display
        self._keys: set[int] = set()
        self._buttons: set[int] = set()
        self._keyboard = Keyboard(display)
        # The user's own server repeats keys, and its repeats are passed on.
        display.change_keyboard_control(auto_repeat_mode=X.AutoRepeatModeOff)
        self._take_over()

    def _take_over(self) -> None:
        """Let go of what somebody before us held, who ended."""
        down = self._display.query_keymap()
        self._keys = {code for code in range(8, 256) if down[code // 8] >> code % 8 & 1}
        mask = self._display.screen().root.query_pointer().mask
        self._buttons = {number for number in range(1, 6) if mask >> (7 + number) & 1}
        self.release_all()

    def key(self, code: int, locks: int, group: int, *, down: bool) -> None:
        """Press or release the key ``code``, with the locks and the group that the user's keyboard has."""
        if not 8 <= code <= 255:
            return
        self._keyboard.lock(locks, group)
        xtest.fake_input(self._display, X.KeyPress if down else X.KeyRelease, code)
        (self._keys.add if down else self._keys.discard)(code)

    def button(self, number: int, *, down: bool) -> None:
        """Press or release a button; 4 to 7 are the wheels."""
        if not 1 <= number <= 9:
            return
        xtest.fake_input(self._display, X.ButtonPress if down else X.ButtonRelease, number)
        (self._buttons.add if down else self._buttons.discard)(number)

    def point(self, x: int, y: int) -> None:
        """Move the pointer to ``x``, ``y`` of the nested screen."""
        x, y = max(0, min(32767, x)), max(0, min(32767, y))
        xtest.fake_input(self._display, X.MotionNotify, 0, x=x, y=y)

    def release_all(self) -> None:
        """Let go of everything: the user types elsewhere."""
        for code in sorted(self._keys):
            xtest.fake_input(self._display, X.KeyRelease, code)
        self._keys.clear()
        self.release_buttons()
        self._keyboard.forget()

    def release_buttons(self) -> None:
        """Let go of the buttons: the window that they were pressed on is gone."""
        for number in sorted(self._buttons):
            xtest.fake_input(self._display, X.ButtonRelease, number)
        self._buttons.clear()
