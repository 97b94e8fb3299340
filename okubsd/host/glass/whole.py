"""The reader of the glass where a VM's whole screen is one window: the guest manages its windows by itself.

The screen follows the size of that window, as far as the size that the server began with (RandR, section 7).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from Xlib import X, Xatom, error
from Xlib.ext import damage

from okubsd.display.frame import Box, clamp_size
from okubsd.display.words import Asked, Told
from okubsd.host.glass import obeying, said
from okubsd.host.glass.obeying import Asks
from okubsd.host.glass.reader import XFIXES_CURSOR, Pane, Reader
from okubsd.host.glass.wire import Slots, Wire


def _tell_title(reader: WholeReader, pane: Pane) -> None:
    """Call the screen what the window is called that the guest's window manager says is in front."""
    front = reader.front()
    reader.wire.tell(Told.TITLE, pane.window.id, text=said.title(front, reader.atoms) if front is not None else "")


def _resize(reader: WholeReader, pane: Pane, numbers: tuple[int, ...]) -> None:
    pane.wish = Box(0, 0, *clamp_size(*numbers[2:4]))
    pane.told.add("size")


def _close(reader: WholeReader, pane: Pane, _numbers: tuple[int, ...]) -> None:
    """Ask the program in front to close its window."""
    front = reader.front()
    if front is None or not obeying.say(reader, front, "WM_DELETE_WINDOW"):
        reader.wire.tell(Told.STUBBORN, pane.window.id)


def _nothing(_reader: Reader, _pane: Pane, _numbers: tuple[int, ...]) -> None:
    """Leave it to the guest's window manager."""


class WholeReader(Reader):
    """What is known of the nested display, of which the root window alone is shown."""

    asked: ClassVar[Asks] = {
        Asked.BUTTON: obeying.button,
        Asked.POINTER: obeying.pointer,
        Asked.PLACED: _resize,
        Asked.FOCUS: _nothing,
        Asked.RAISE: _nothing,
        Asked.CLOSE: _close,
        Asked.EXPOSE: obeying.expose,
        Asked.SEEN: obeying.seen,
        Asked.STATED: _nothing,
    }

    def __init__(self, display: Any, wire: Wire, slots: Slots, size: tuple[int, int]) -> None:
        """Show the screen of ``display``, ``size`` large at the beginning (width, height in pixels)."""
        self._size = size
        self._front = 0
        super().__init__(display, wire, slots)

    def _manage(self) -> None:
        """Be told what is drawn, and nothing more."""
        for query in ("damage", "xfixes"):
            getattr(self.display, f"{query}_query_version")()
        self.display.xfixes_select_cursor_input(self.root, XFIXES_CURSOR)
        self.root.change_attributes(event_mask=X.StructureNotifyMask | X.PropertyChangeMask)

    def _find_windows(self) -> None:
        most = self.root.xrandr_get_screen_size_range()
        width, height = min(most.max_width, self._size[0]), min(most.max_height, self._size[1])
        with contextlib.suppress(error.XError):
            set_screen(self.display, width, height)
        size = self.root.get_geometry()
        width, height = size.width, size.height
        made = self.root.damage_create(damage.DamageReportBoundingBox)
        box = Box(0, 0, width, height)
        pane = Pane(window=self.root, box=box, over=False, damage=made, pixmap=self.root)
        self.panes[self.root.id] = pane
        self.wire.tell(Told.WINDOW, self.root.id, 0, 0, width, height, 0, 0)
        self.wire.tell(Told.HINTS, self.root.id, 160, 120, most.max_width, most.max_height, 0, 0, 0, 0)
        pane.told.add("title")
        self.whole(pane)

    def drop_pixmap(self, pane: Pane) -> None:
        """Keep the picture: the root window has one for ever."""

    def front(self) -> Any:
        """Return the window that the guest's window manager says is in front, None where there is none (EWMH)."""
        found = self.root.get_property(self.atoms["_NET_ACTIVE_WINDOW"], Xatom.WINDOW, 0, 1)
        number = int(found.value[0]) if found is not None and found.format == 32 and len(found.value) == 1 else 0
        return self.display.create_resource_object("window", number) if number else None

    def _tell_size(self, pane: Pane) -> None:
        """Have the screen as large as its window is now, however often that changed in between."""
        wish, pane.wish = pane.wish, None
        if wish is not None and (wish.width, wish.height) != (pane.box.width, pane.box.height):
            set_screen(self.display, wish.width, wish.height)

    def _resized(self, event: Any) -> None:
        pane = self.panes[self.root.id]
        if event.window == self.root:
            pane.box = Box(0, 0, event.width, event.height)
            self.whole(pane)

    def _renamed(self, event: Any) -> None:
        if event.atom in (self.atoms["_NET_ACTIVE_WINDOW"], self.atoms["_NET_WM_NAME"], Xatom.WM_NAME):
            self.panes[self.root.id].told.add("title")
            with contextlib.suppress(error.XError):
                self._watch_front()

    def _watch_front(self) -> None:
        """Be told when the window in front is called otherwise."""
        front = self.front()
        if front is not None and front.id not in (self._front, self.root.id):
            self._front = front.id
            front.change_attributes(event_mask=X.PropertyChangeMask)

    tells: ClassVar[Mapping[str, Callable[[Any, Pane], None]]] = {"title": _tell_title, "size": _tell_size}
    handlers: ClassVar[Mapping[str, Callable[[Any, Any], None]]] = {
        "ConfigureNotify": _resized,
        "PropertyNotify": _renamed,
        "DamageNotify": Reader._damaged,
        "DisplayCursorNotify": Reader._cursor_changed,
    }


def set_screen(display: Any, width: int, height: int) -> None:
    """Have the one screen of ``display`` so large, or leave it where the server does not have it so.

    The server does not change a mode, so each size has a mode of its own, which goes with it.
    """
    root = display.screen().root
    held = root.xrandr_get_screen_resources()
    if not held.crtcs or not held.outputs:
        return
    crtc, output, stamp = held.crtcs[0], held.outputs[0], held.config_timestamp
    before = display.xrandr_get_crtc_info(crtc, stamp)
    name = f"okubsd-{width}x{height}"
    mode = _mode_of(root, held, name, width, height)
    display.xrandr_add_output_mode(output, mode)
    # A screen is no smaller than what it shows: first it shows nothing.
    display.xrandr_set_crtc_config(crtc, stamp, 0, 0, 0, 1, [])
    millimeters = round(width * 25.4 / 96), round(height * 25.4 / 96)
    root.xrandr_set_screen_size(width, height, *millimeters)
    display.xrandr_set_crtc_config(crtc, stamp, 0, 0, mode, 1, [output])
    if before.mode and before.mode != mode:
        display.xrandr_delete_output_mode(output, before.mode)
        display.xrandr_destroy_mode(before.mode)


def _mode_of(root: Any, held: Any, name: str, width: int, height: int) -> int:
    """Return the mode called ``name``, made where there is none yet."""
    names, at = held.mode_names, 0
    for mode in held.modes:
        if names[at : at + mode.name_length] == name:
            return int(mode.id)
        at += mode.name_length
    # A screen that nothing is sent to has no clock, and nothing around its pixels.
    timings = (0, width, height, 0, width, width, width, 0, height, height, height, len(name), 0)
    return int(root.xrandr_create_mode(timings, name).mode)
