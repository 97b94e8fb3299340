"""Type, press keys and click on a VM's own display (XTEST), for scripts; nothing of it reaches any other display.

A child does it, as it is with all that speaks to a display of a guest's: bounded in time and memory.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from okubsd.config.chords import Chord, keysym_of
from okubsd.errors import Misuse, Problem, TimedOut
from okubsd.host import door
from okubsd.host.window import authority, open_display, preload

_MEMORY = 256 << 20
# How long one call may take: a while for the display, and so much a key.
_SECONDS, _KEY_SECONDS = 10.0, 0.05
# Programs that read the keyboard map see a new letter on a key only after a moment.
_MAP_SECONDS = 0.5
LONGEST_TEXT = 10_000


def type_on(name: str, number: int, cookie: bytes, text: str) -> None:
    """Type ``text``.  Raises Misuse where it is too long, Problem or TimedOut where the display does not take it."""
    if len(text) > LONGEST_TEXT:
        raise Misuse(f"a text of {len(text)} letters; at most {LONGEST_TEXT} are typed", f"okubsd cp FILE {name}:")
    letters = [keysym_of(letter) for letter in text]
    _have_done(name, number, cookie, lambda opened: _type(opened, letters), 2.0 + _KEY_SECONDS * len(letters))


def press_on(name: str, number: int, cookie: bytes, chords: Iterable[Chord]) -> None:
    """Press ``chords`` one after the other.  Raises Misuse for a key that has no name, Problem or TimedOut as above."""
    from Xlib import XK

    codes = []
    for chord in chords:
        names = (*chord.held, chord.key)
        found = [XK.string_to_keysym(name) or (keysym_of(name) if len(name) == 1 else 0) for name in names]
        if not all(found):
            raise Misuse(f"there is no key '{chord.key}'", f"okubsd key {name} Return")
        codes.append(found)
    _have_done(name, number, cookie, lambda opened: _press(opened, codes), 1.0)


def click_on(name: str, number: int, cookie: bytes, x: int, y: int, button: int) -> None:
    """Click at ``x``, ``y``.  Raises Problem or TimedOut where the display does not take it."""
    _have_done(name, number, cookie, lambda opened: _click(opened, x, y, button), 1.0)


def _have_done(name: str, number: int, cookie: bytes, deed: Callable[[Any], None], seconds: float) -> None:
    """Have a child open the display and do the ``deed``."""
    preload()

    def do(end: socket.socket) -> None:
        opened = open_display(f":{number}")
        if not opened.has_extension("XTEST"):
            end.sendall(b"none\n")
            return
        try:
            deed(opened)
        except ValueError:
            end.sendall(b"full\n")
            return
        opened.sync()
        end.sendall(b"done\n")

    with authority(number, cookie):
        child = door.Child(do, memory=_MEMORY)
        try:
            said = child.ask(_SECONDS + seconds)
        finally:
            child.end()
    if said is None:
        raise TimedOut(f"{name}: its display did not answer in time", f"okubsd stop -f {name}")
    if said == b"none":
        raise Problem(f"{name}: its display takes no hands: it is Xephyr's", "set 'display: seamless' for the VM")
    if said == b"full":
        raise Problem(f"{name}: its keyboard has no key left for what is to be typed", f"okubsd cp FILE {name}:")
    if said != b"done":
        raise Problem(f"{name}: its display was closed, or does not answer", f"okubsd start {name}")


# --- in the child -------------------------------------------------------------------------------


@contextlib.contextmanager
def _untouched(opened: Any) -> Iterator[None]:
    """Have nothing held and nothing locked for the block, neither Caps Lock nor another layout, and then all as before.

    What the user of the VM's windows holds or has locked would make other letters of what is typed.
    """
    from okubsd.host.xkb import Keyboard, State

    keyboard = Keyboard(opened)
    before, down = keyboard.state(), opened.query_keymap()
    held = [code for code in range(8, 256) if down[code // 8] >> code % 8 & 1]
    for code in held:
        _fake(opened, code, down=False)
    keyboard.put(State())
    try:
        yield
    finally:
        for code in held:
            _fake(opened, code, down=True)
        keyboard.put(before)
        opened.sync()


def _type(opened: Any, letters: list[int]) -> None:
    spare = _Spare(opened)
    while letters:
        count = spare.lend(letters)
        if count == 0:
            raise ValueError("no key is left")
        with _untouched(opened):
            for keysym in letters[:count]:
                _tap(opened, *_where(opened, keysym, spare))
        spare.give_back()
        letters = letters[count:]


def _press(opened: Any, chords: list[list[int]]) -> None:
    spare = _Spare(opened)
    spare.lend([chord[-1] for chord in chords])
    with _untouched(opened):
        for *held, keysym in chords:
            code, shifted = _where(opened, keysym, spare)
            codes = [opened.keysym_to_keycode(modifier) for modifier in held]
            for modifier in codes:
                _fake(opened, modifier, down=True)
            # With a modifier a letter means its key, and a sign that has Shift is that sign.
            _tap(opened, code, shifted=shifted and not (held and _is_letter(keysym)))
            for modifier in reversed(codes):
                _fake(opened, modifier, down=False)
    spare.give_back()


def _is_letter(keysym: int) -> bool:
    """Return whether a keysym is of a letter (X protocol, appendix A)."""
    code = keysym - 0x1000000 if keysym >= 0x1000000 else keysym
    return code < 0x110000 and chr(code).isalpha()


def _click(opened: Any, x: int, y: int, button: int) -> None:
    from Xlib import X
    from Xlib.ext import xtest

    xtest.fake_input(opened, X.MotionNotify, 0, x=x, y=y)
    xtest.fake_input(opened, X.ButtonPress, button)
    xtest.fake_input(opened, X.ButtonRelease, button)


class _Spare:
    """The keys that the map does not use, which get the letters that are on none."""

    def __init__(self, opened: Any) -> None:
        self._opened = opened
        info = opened.display.info
        first = int(info.min_keycode)
        rows = opened.get_keyboard_mapping(first, info.max_keycode - first + 1)
        self._width = len(rows[0])
        self._free = [first + number for number, row in enumerate(rows) if not any(row)]
        self.lent: dict[int, int] = {}

    def lend(self, letters: list[int]) -> int:
        """Put the first of ``letters`` on keys, where they have none; return how many can be typed then."""
        count = 0
        for keysym in letters:
            if keysym not in self.lent and _on_key(self._opened, keysym) is None:
                if len(self.lent) == len(self._free):
                    break
                code = self.lent[keysym] = self._free[len(self.lent)]
                self._opened.change_keyboard_mapping(code, [[keysym] * self._width])
            count += 1
        self._settle()
        return count

    def give_back(self) -> None:
        """Leave the map as it was."""
        self._settle()
        for code in self.lent.values():
            self._opened.change_keyboard_mapping(code, [[0] * self._width])
        self.lent.clear()

    def _settle(self) -> None:
        """Leave programs the moment in which they learn what is on which key; they look it up when a key comes."""
        self._opened.sync()
        if self.lent:
            time.sleep(_MAP_SECONDS)


def _on_key(opened: Any, keysym: int) -> tuple[int, bool] | None:
    """Return the key of ``keysym`` and whether Shift is needed for it, None where there is none."""
    found = (code for code in opened.keysym_to_keycodes(keysym) if code[1] in (0, 1))
    return next(((int(code), level == 1) for code, level in found), None)


def _where(opened: Any, keysym: int, spare: _Spare) -> tuple[int, bool]:
    """Return the key of ``keysym``, its own or one that was lent, and whether Shift is needed for it."""
    if keysym in spare.lent:
        return spare.lent[keysym], False
    found = _on_key(opened, keysym)
    if found is None:
        raise ValueError(f"no key is left for {keysym:#x}")
    return found


def _tap(opened: Any, code: int, shifted: bool) -> None:
    from Xlib import XK

    shift = opened.keysym_to_keycode(XK.XK_Shift_L)
    if shifted:
        _fake(opened, shift, down=True)
    _fake(opened, code, down=True)
    _fake(opened, code, down=False)
    if shifted:
        _fake(opened, shift, down=False)


def _fake(opened: Any, code: int, *, down: bool) -> None:
    from Xlib import X
    from Xlib.ext import xtest

    xtest.fake_input(opened, X.KeyPress if down else X.KeyRelease, code)
