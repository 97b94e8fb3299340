"""A guest's programs on a nested display, as a test wants them: python glass_guest.py DISPLAY, a command a line.

window NAME WIDTH HEIGHT COLOR, menu NAME X Y WIDTH HEIGHT COLOR, title NAME TEXT, size NAME WIDTH HEIGHT, gone NAME,
cursor NAME SIZE, grab, ungrab, many COUNT; what happens to a window is printed.
"""

from __future__ import annotations

import contextlib
import select
import sys
from typing import Any

from Xlib import X, Xatom
from Xlib import display as xdisplay
from Xlib.error import XError
from Xlib.ext import xinput
from Xlib.protocol.event import ClientMessage, ConfigureRequest, DestroyNotify, MappingNotify, MapRequest

from okubsd.host.xkb import Keyboard


class Guest:
    """The windows of the test, by name."""

    def __init__(self, name: str) -> None:
        self.display = xdisplay.Display(name)
        self.display.set_error_handler(lambda *_: 0)
        Keyboard(self.display)
        self.root = self.display.screen().root
        self.windows: dict[str, Any] = {}
        self.delete = self.display.intern_atom("WM_DELETE_WINDOW")

    def run(self) -> None:
        print("ready", flush=True)
        while True:
            while self.display.pending_events():
                self.tell(self.display.next_event())
            self.display.flush()
            ready, _, _ = select.select([self.display.fileno(), sys.stdin], [], [])
            if sys.stdin in ready:
                words = sys.stdin.readline().split()
                if not words:
                    return
                getattr(self, words[0])(*words[1:])
                self.display.sync()
                print("done", flush=True)

    def _make(self, name: str, box: tuple[int, ...], color: str, *, over: int) -> Any:
        mask = X.KeyPressMask | X.ButtonPressMask | X.StructureNotifyMask | X.PointerMotionMask
        made = self.root.create_window(*box, 0, X.CopyFromParent, background_pixel=int(color, 16), event_mask=mask,
                                       override_redirect=over)  # fmt: skip
        self.windows[name] = made
        return made

    def window(self, name: str, width: str, height: str, color: str) -> None:
        made = self._make(name, (30, 40, int(width), int(height)), color, over=0)
        made.set_wm_protocols([self.delete])
        made.set_wm_class(name, name.title())
        made.set_wm_name(name)
        made.map()

    def menu(self, name: str, x: str, y: str, width: str, height: str, color: str) -> None:
        self._make(name, (int(x), int(y), int(width), int(height)), color, over=1).map()

    def held(self) -> None:
        down = self.display.query_keymap()
        print("held", *(code for code in range(8, 256) if down[code // 8] >> code % 8 & 1), flush=True)

    def nothing(self) -> None:
        """Only say what happened."""

    def title(self, name: str, *text: str) -> None:
        words = " ".join(text).encode("raw_unicode_escape").decode("unicode_escape").encode()
        utf8 = self.display.intern_atom("UTF8_STRING")
        self.windows[name].change_property(self.display.intern_atom("_NET_WM_NAME"), utf8, 8, words)

    def size(self, name: str, width: str, height: str) -> None:
        self.windows[name].configure(width=int(width), height=int(height))

    def gone(self, name: str) -> None:
        self.windows.pop(name).destroy()

    def cursor(self, name: str, size: str) -> None:
        pixmap = self.root.create_pixmap(int(size), int(size), 1)
        pixmap.fill_rectangle(pixmap.create_gc(foreground=1), 0, 0, int(size), int(size))
        made = pixmap.create_cursor(pixmap, (0, 0, 0), (65535, 65535, 65535), 0, 0)
        self.windows[name].change_attributes(cursor=made)

    def place(self, name: str, x: str, y: str, width: str, height: str) -> None:
        self.windows[name].configure(x=int(x), y=int(y), width=int(width), height=int(height))

    def titles(self, name: str, count: str) -> None:
        for number in range(int(count)):
            self.windows[name].set_wm_name(f"title {number}")

    def lies(self, name: str) -> None:
        """Send what only a server may say: another size, another window to map, the root itself."""
        one = self.windows[name]
        shared = {"parent": self.root, "window": one, "x": 0, "y": 0, "border_width": 0, "value_mask": 0xFF}
        for sent in (
            ConfigureRequest(sibling=X.NONE, stack_mode=0, width=0, height=0, **shared),
            MapRequest(parent=self.root, window=self.root),
            DestroyNotify(event=self.root, window=one),
        ):
            self.root.send_event(sent, X.SubstructureRedirectMask | X.SubstructureNotifyMask)

    def state(self, name: str, how: str, state: str) -> None:
        """Ask the window manager for a state (EWMH, _NET_WM_STATE)."""
        atoms = [self.display.intern_atom(word) for word in ("_NET_WM_STATE", state)]
        data = (32, [int(how), atoms[1], 0, 1, 0])
        told = ClientMessage(window=self.windows[name], client_type=atoms[0], data=data)
        self.root.send_event(told, X.SubstructureRedirectMask | X.SubstructureNotifyMask)

    def flood(self, name: str, state: str, count: str) -> None:
        """Ask for a state, and to be without it, again and again."""
        for number in range(int(count)):
            self.state(name, str(number % 2), state)

    def modes(self, width: str, height: str) -> None:
        """Make a mode that is called as the screen's are, of another size, and take the screen's away."""
        name = f"okubsd-{width}x{height}"
        timings = (0, 64, 64, 0, 64, 64, 64, 0, 64, 64, 64, len(name), 0)
        with contextlib.suppress(XError):
            self.root.xrandr_create_mode(timings, name)
        held = self.root.xrandr_get_screen_resources()
        for mode in held.modes:
            self.display.xrandr_delete_output_mode(held.outputs[0], mode.id)
            self.display.xrandr_destroy_mode(mode.id)
        self.display.sync()

    def states(self, name: str) -> None:
        found = self.windows[name].get_property(self.display.intern_atom("_NET_WM_STATE"), Xatom.ATOM, 0, 32)
        names = [self.display.get_atom_name(atom) for atom in found.value] if found is not None else []
        print("states", *sorted(names), flush=True)

    def icon(self, name: str, color: str) -> None:
        """Lay an icon into the tray, as programs do that have one (System Tray 0.4)."""
        made = self._make(name, (0, 0, 24, 24), color, over=0)
        made.set_wm_class(name, name.title())
        tray = self.display.get_selection_owner(self.display.intern_atom("_NET_SYSTEM_TRAY_S0"))
        data = (32, [X.CurrentTime, 0, made.id, 0, 0])
        opcode = self.display.intern_atom("_NET_SYSTEM_TRAY_OPCODE")
        tray.send_event(ClientMessage(window=tray, client_type=opcode, data=data))

    def front(self, name: str) -> None:
        """Say which window is in front, as a window manager does."""
        atom = self.display.intern_atom("_NET_ACTIVE_WINDOW")
        self.root.change_property(atom, Xatom.WINDOW, 32, [self.windows[name].id])

    def screen(self) -> None:
        size = self.root.get_geometry()
        print("screen", size.width, size.height, flush=True)

    def resources(self) -> None:
        found = self.root.get_property(Xatom.RESOURCE_MANAGER, Xatom.STRING, 0, 1000)
        print("resources", *(found.value.decode().split() if found is not None else ()), flush=True)

    def settings(self) -> None:
        """Tell the settings that there are, as hexadecimal digits."""
        owner = self.display.get_selection_owner(self.display.intern_atom("_XSETTINGS_S0"))
        found = owner.get_property(self.display.intern_atom("_XSETTINGS_SETTINGS"), X.AnyPropertyType, 0, 1000)
        print("settings", bytes(found.value).hex(), flush=True)

    def grab(self) -> None:
        self.display.grab_server()

    def ungrab(self) -> None:
        self.display.ungrab_server()

    def raw(self) -> None:
        """Be told of every press and release on the display, whoever it is for (X Input Extension 2)."""
        self.display.xinput_query_version()
        self.root.xinput_select_events([(xinput.AllDevices, xinput.RawKeyPressMask | xinput.RawKeyReleaseMask)])

    def many(self, count: str) -> None:
        for _ in range(int(count)):
            self.root.create_window(0, 0, 50, 50, 0, X.CopyFromParent, background_pixel=0xFF).map()

    def huge(self, name: str) -> None:
        self.windows[name].change_property(Xatom.WM_NAME, Xatom.STRING, 8, b"\x1b[31m" * 40000)

    def remapped(self) -> None:
        """Who uses the extension is not told of another map, so it is read again."""
        info = self.display.display.info
        count = info.max_keycode - info.min_keycode + 1
        told = MappingNotify(request=X.MappingKeyboard, first_keycode=info.min_keycode, count=count)
        self.display.refresh_keyboard_mapping(told)

    def tell(self, event: Any) -> None:
        if getattr(event, "evtype", None) in (xinput.RawKeyPress, xinput.RawKeyRelease):
            print("raw", flush=True)
            return
        name = next((name for name, one in self.windows.items() if one == getattr(event, "window", None)), "?")
        if event.type == X.KeyPress:
            self.remapped()
            # Two levels a group (X protocol, 5); the group is in bits 13 and 14 of the state (XKB, 2.2.2).
            letter = self.display.keycode_to_keysym(event.detail, (event.state >> 13 & 3) * 2 + (event.state & 1))
            print("key", name, chr(letter) if 32 <= letter < 127 else hex(letter), flush=True)
        elif event.type == X.ButtonPress:
            print("button", name, event.detail, event.event_x, event.event_y, flush=True)
        elif event.type == X.ConfigureNotify:
            print("place", name, event.width, event.height, flush=True)
        elif event.type == X.ClientMessage and event.client_type == self.display.intern_atom("_XEMBED"):
            print("embedded", name, flush=True)
        elif event.type == X.ClientMessage and event.data[1][0] == self.delete:
            print("delete", name, flush=True)


if __name__ == "__main__":
    Guest(sys.argv[1]).run()
