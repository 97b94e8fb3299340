"""Who plays on an X display: the attacker on a guest's, the witness on the desktop.  Both can do the same things.

So each attack has its control: what the attacker cannot do to the desktop it can do on its own display.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

from Xlib import X, Xatom, error
from Xlib.ext import xinput, xtest
from Xlib.protocol import event as xevent

# How many windows are looked at, how long an answer of another program is waited for, in seconds.
_MOST_WINDOWS, _SECONDS = 4000, 2.0
_STRIP = 128
# Something that is looked for has so many rows and columns at least.
_ROWS = 20


class Player:
    """The windows, keys and selections of one side."""

    def __init__(self, display: Any) -> None:
        self.display = display
        self.root = display.screen().root
        self._planted: list[Any] = []
        self._heard: list[int] = []
        self._raw = 0
        self._selections: dict[int, bytes] = {}
        self._taken: list[Any] = []
        self._pressed: set[int] = set()
        self._focus_before: Any = None
        display.set_error_handler(lambda *_: 0)

    def pump(self) -> None:
        """Take what has happened."""
        while self.display.pending_events():
            event = self.display.next_event()
            if getattr(event, "evtype", None) == xinput.RawKeyPress:
                self._raw += 1
            elif isinstance(event, xevent.KeyPress):
                self._heard.append(event.detail)
            elif isinstance(event, xevent.SelectionRequest):
                self._give(event)
            elif isinstance(event, xevent.SelectionNotify):
                self._taken.append(event)

    def ping(self) -> bool:
        """Have the server answer."""
        self.display.sync()
        return True

    # --- windows -----------------------------------------------------------------------------------

    def plant(self, mark: str, color: int, size: int) -> int:
        """Show a window of ``size`` pixels that is called ``mark``, in a corner and above all; return its number."""
        made = self._make(0, 0, size, size, color)
        made.set_wm_name(mark)
        made.map()
        self.display.sync()
        return int(made.id)

    def _make(self, x: int, y: int, width: int, height: int, color: int, *, over: int = 1) -> Any:
        made = self.root.create_window(
            x, y, width, height, 0, X.CopyFromParent, background_pixel=color, override_redirect=over,
            event_mask=X.KeyPressMask,
        )  # fmt: skip
        self._planted.append(made)
        return made

    def clear(self) -> None:
        """Take all windows of ours away."""
        for window in self._planted:
            window.destroy()
        self._planted.clear()
        if self._focus_before is not None:
            self.display.set_input_focus(self._focus_before.focus, self._focus_before.revert_to, X.CurrentTime)
        self._focus_before = None
        self.display.sync()

    def leave(self) -> None:
        """Let go of every key, and take our windows away."""
        for code in sorted(self._pressed):
            self.press(code, 0)
        self.clear()

    def cover(self, color: int) -> None:
        """Cover the whole screen."""
        made = self._make(0, 0, self._screen().width, self._screen().height, color)
        made.map()
        made.configure(stack_mode=X.Above)
        self.display.sync()

    def flood(self, count: int) -> None:
        """Show ``count`` windows of one pixel."""
        for _ in range(count):
            self._make(0, 0, 1, 1, 0).map()
        self.display.sync()

    def name(self, text: str) -> None:
        """Show a window of the usual kind that is called ``text``."""
        made = self._make(0, 0, 240, 120, 0, over=0)
        utf8 = self.display.intern_atom("UTF8_STRING")
        made.change_property(self.display.intern_atom("_NET_WM_NAME"), utf8, 8, text.encode())
        made.map()
        self.display.sync()

    def names(self, mark: str) -> list[str]:
        """Return what those windows are called that have ``mark`` in their names."""
        atom = self.display.intern_atom("_NET_WM_NAME")
        found = []
        for window in self._all():
            with contextlib.suppress(error.XError):
                for wanted in (atom, Xatom.WM_NAME):
                    value = window.get_property(wanted, X.AnyPropertyType, 0, 256)
                    said = bytes(value.value) if value is not None and value.format == 8 else b""
                    found += [text] if mark in (text := said.decode(errors="replace")) else []
        return found

    def children(self) -> int:
        """Return how many windows the screen has."""
        return len(self.root.query_tree().children)

    def _all(self) -> list[Any]:
        found, at = [self.root], 0
        while at < len(found) and len(found) < _MOST_WINDOWS:
            with contextlib.suppress(error.XError):
                found += found[at].query_tree().children
            at += 1
        return found

    def _screen(self) -> Any:
        return self.root.get_geometry()

    def pixels_of(self, *colors: int) -> list[list[int]]:
        """Return of each monitor its width and height, and how many of its pixels have each of the ``colors``."""
        found = []
        told = self.root.xrandr_get_monitors().monitors if hasattr(self.root, "xrandr_get_monitors") else ()
        places = [(one.x, one.y, one.width_in_pixels, one.height_in_pixels) for one in told]
        for place in places or [(0, 0, self._screen().width, self._screen().height)]:
            found.append([*place[2:], *(self._count(color, *place) for color in colors)])
        return found

    def _count(self, color: int, left: int, top: int, width: int, height: int) -> int:
        pattern, count = color.to_bytes(4, "little")[:3], 0
        for row in range(top, top + height, _STRIP):
            rows = min(_STRIP, top + height - row)
            count += self.root.get_image(left, row, width, rows, X.ZPixmap, 0xFFFFFFFF).data.count(pattern)
        return count

    def share(self, color: int) -> float:
        """Return how much of the screen has the ``color``, of 1."""
        size = self._screen()
        return self._count(color, 0, 0, size.width, size.height) / float(size.width * size.height)

    # --- keys and pointer --------------------------------------------------------------------------

    def spare_key(self) -> int:
        """Return a key that means nothing."""
        first, count = 100, 156
        rows = self.display.get_keyboard_mapping(first, count)
        return next((first + at for at in reversed(range(len(rows))) if not any(rows[at])), 255)

    def focus(self) -> None:
        """Have the keyboard in the first window of ours."""
        self._focus_before = self._focus_before or self.display.get_input_focus()
        self._planted[0].set_input_focus(X.RevertToPointerRoot, X.CurrentTime)
        self.display.sync()

    def press(self, code: int, down: int) -> None:
        """Press a key, or let go of it."""
        xtest.fake_input(self.display, X.KeyPress if down else X.KeyRelease, code)
        (self._pressed.add if down else self._pressed.discard)(code)
        self.display.sync()

    def hold_key(self, code: int, seconds: float) -> bool:
        """Press a key for some ``seconds``."""
        self.press(code, 1)
        time.sleep(seconds)
        self.press(code, 0)
        return True

    def held(self) -> list[int]:
        """Return the keys that are down."""
        down = self.display.query_keymap()
        return [code for code in range(8, 256) if down[code // 8] >> code % 8 & 1]

    def heard(self) -> list[int]:
        """Return the keys that our windows heard since the last time."""
        self.display.sync()
        self.pump()
        heard, self._heard = self._heard, []
        return heard

    def listen(self) -> None:
        """Be told of every key that is pressed on any window (X Input Extension 2, raw events)."""
        self.display.xinput_query_version()
        self.root.xinput_select_events([(xinput.AllDevices, xinput.RawKeyPressMask)])
        self.raw()

    def raw(self) -> int:
        """Return how many keys were told of since the last time."""
        self.display.sync()
        self.pump()
        count, self._raw = self._raw, 0
        return count

    def grab(self) -> bool:
        """Have keyboard and pointer for ourselves; return whether we have."""
        mode = X.GrabModeAsync
        keys = self.root.grab_keyboard(False, mode, mode, X.CurrentTime)
        pointer = self.root.grab_pointer(False, X.ButtonPressMask, mode, mode, X.NONE, X.NONE, X.CurrentTime)
        return bool(keys == X.GrabSuccess and pointer == X.GrabSuccess)

    def ungrab(self) -> None:
        """Let go of keyboard, pointer and server."""
        self.display.ungrab_keyboard(X.CurrentTime)
        self.display.ungrab_pointer(X.CurrentTime)
        self.display.ungrab_server()
        self.display.sync()

    def hold(self) -> None:
        """Hold the server: nobody else is answered."""
        self.display.grab_server()
        self.display.sync()

    def warp(self, x: int, y: int) -> None:
        """Put the pointer somewhere."""
        self.root.warp_pointer(x, y)
        self.display.sync()

    def point_at(self, color: int) -> bool:
        """Put the pointer upon something of a ``color``; return whether there is something."""
        pattern, width = color.to_bytes(4, "little")[:3], self._screen().width
        for row in range(0, self._screen().height, _ROWS):
            at = self.root.get_image(0, row, width, 1, X.ZPixmap, 0xFFFFFFFF).data.find(pattern)
            if at >= 0:
                self.warp(at // 4 + _ROWS // 2, row)
                return True
        return False

    def where(self) -> list[int]:
        """Return where the pointer is."""
        at = self.root.query_pointer()
        return [at.root_x, at.root_y]

    def dress(self, size: int, color: int) -> None:
        """Have the pointer be ``size`` pixels large, over a window of ours with a ``color`` below it."""
        pixmap = self.root.create_pixmap(size, size, 1)
        pixmap.fill_rectangle(pixmap.create_gc(foreground=1), 0, 0, size, size)
        made = pixmap.create_cursor(pixmap, (0, 0, 0), (65535, 65535, 65535), 0, 0)
        window = self._make(0, 0, 100, 100, color)
        window.change_attributes(cursor=made)
        window.map()
        self.warp(50, 50)

    def cursor_size(self) -> int:
        """Return how large the pointer is, in pixels."""
        self.display.xfixes_query_version()
        image = self.display.xfixes_get_cursor_image(self.root)
        return max(int(image.width), int(image.height))

    # --- the rest ----------------------------------------------------------------------------------

    def own(self, selection: str, text: str) -> None:
        """Offer ``text`` as a selection."""
        atom = self.display.intern_atom(selection)
        self._selections[atom] = text.encode()
        window = self._make(0, 0, 1, 1, 0)
        window.set_selection_owner(atom, X.CurrentTime)
        self.display.sync()

    def _give(self, event: Any) -> None:
        requestor, held = event.requestor, self._selections.get(event.selection, b"")
        requestor.change_property(event.property, Xatom.STRING, 8, held)
        told = xevent.SelectionNotify(
            time=event.time, requestor=requestor, selection=event.selection, target=event.target,
            property=event.property,
        )  # fmt: skip
        requestor.send_event(told)

    def take(self, selection: str, utf8: bool = False) -> str:
        """Return what is offered as a selection, "" for nothing."""
        atom = self.display.intern_atom(selection)
        window, end = self._make(0, 0, 1, 1, 0), time.monotonic() + _SECONDS
        text = self.display.intern_atom("UTF8_STRING") if utf8 else Xatom.STRING
        window.convert_selection(atom, text, atom, X.CurrentTime)
        self._taken.clear()
        while not self._taken and time.monotonic() < end:
            self.display.sync()
            self.pump()
            time.sleep(0.02)
        found = window.get_property(atom, X.AnyPropertyType, 0, 256)
        return bytes(found.value).decode(errors="replace") if found is not None and found.format == 8 else ""

    def extension(self, name: str) -> bool:
        """Return whether the server has an extension."""
        return self.display.query_extension(name) is not None

    def base(self) -> int:
        """Return the number that all numbers of ours begin with."""
        return int(self.display.display.info.resource_id_base)

    def called(self, window: int) -> str | None:
        """Return what a window is called, None where nothing has its number."""
        made = self.display.create_resource_object("window", window)
        with contextlib.suppress(error.XError):
            made.get_geometry()
            return str(made.get_wm_name() or "")
        return None

    def kill(self, window: int) -> None:
        """End the program that made a window."""
        self.display.create_resource_object("window", window).kill_client()
        self.display.sync()

    def brand(self, window: int) -> None:
        """Set a mark on a window."""
        made = self.display.create_resource_object("window", window)
        made.change_property(self.display.intern_atom("_OKUBSD_BRAND"), Xatom.CARDINAL, 32, [1])
        self.display.sync()

    def is_branded(self, window: int) -> bool:
        """Return whether a window is there and has the mark."""
        made = self.display.create_resource_object("window", window)
        with contextlib.suppress(error.XError):
            return made.get_property(self.display.intern_atom("_OKUBSD_BRAND"), X.AnyPropertyType, 0, 1) is not None
        return False

    def manager(self) -> int:
        """Return the window of the window manager, 0 for none (EWMH, _NET_SUPPORTING_WM_CHECK)."""
        found = self.root.get_property(self.display.intern_atom("_NET_SUPPORTING_WM_CHECK"), Xatom.WINDOW, 0, 1)
        return int(found.value[0]) if found is not None and found.format == 32 and len(found.value) == 1 else 0
