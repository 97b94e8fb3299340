"""A window of the desktop that shows one window of a guest, in a frame that the guest cannot paint over."""

from __future__ import annotations

import socket
import time
from typing import Any

from Xlib import X, Xatom, Xutil

from okubsd.display.frame import (
    MENU_LINE,
    Box,
    Edges,
    fit,
    host_title,
    nearest,
    plain,
    size_hints,
    within,
)
from okubsd.host.glass import drops
from okubsd.host.glass.desk import Desk

# How long after it comes, or asks for another place, a window's label is seen to, in seconds.
_MIND_SECONDS = 2.0
# What a label may be off the screen, in pixels: the borders that window managers draw.
_OFF = 8
_FRAME_EVENTS = (
    X.StructureNotifyMask | X.FocusChangeMask | X.KeyPressMask | X.KeyReleaseMask | X.ExposureMask
    | X.PropertyChangeMask | X.ButtonPressMask | X.VisibilityChangeMask
)  # fmt: skip
_INNER_EVENTS = (
    X.ButtonPressMask | X.ButtonReleaseMask | X.PointerMotionMask | X.EnterWindowMask | X.LeaveWindowMask
    | X.ExposureMask | X.KeyPressMask | X.KeyReleaseMask
)  # fmt: skip


class Pane:
    """One window of the guest on the desktop."""

    def __init__(
        self, desk: Desk, number: int, box: Box, *, menu: bool, owner: Pane | None, expected: bool = True,
        welcome: bool = False,
    ) -> None:  # fmt: skip
        """Make and map it: a ``menu`` by itself where it wants to be, any other by the desktop's window manager.

        One that is neither ``expected`` by the user nor ``welcome``, as what he has started is and the next one after
        one of his own that has closed, does not get the keyboard; one that is welcome hears it once nobody types.
        """
        self.desk, self.number, self.menu, self.owner, self.expected = desk, number, menu, owner, expected
        self.welcome = welcome
        self.title, self.app = "", ""
        self.edges: Edges = desk.menu if menu else desk.frame
        self.width, self.height = fit(box.width, box.height, self.edges, desk.size)
        self.x, self.y = box.x, box.y
        self.painted = self.hidden = self.focused = False
        # Whether it fills the screen, and whether the guest has asked to leave that; when it may have another state.
        self.filled = self.leaves = False
        self.states_from = 0.0
        # What is said in the label instead of the title, until the painter takes it away.
        self.notice = self.whispered = ""
        # Until when what is typed is taken for what was meant for another window, and the label is looked after.
        self.deaf_until, self.minded_until = 0.0, time.monotonic() + _MIND_SECONDS
        # Whether it has waited for who types to stop, and whether it knows which modifiers are held.
        self.waited = self.told_held = False
        # Whether the guest had it come to where the pointer may be; until when a start waits for another in its place.
        self.came, self.awaited_until = False, 0.0
        self._hints: tuple[int, ...] = (0,) * 8
        outer = self.edges.around(Box(box.x, box.y, self.width, self.height))
        self.outer = self._placed(outer)
        self.top = self._make_top()
        self.inner = self._make_inner()
        self.gc = self.inner.create_gc()
        if not menu:
            self._introduce()
        self.inner.map()
        self.shown = not menu or box.cut(*desk.size) is not None
        if self.shown:
            self.top.map()
            if menu:
                self._come_up()

    def _placed(self, outer: Box) -> Box:
        """Return where on the screen a frame is to be, all of it, and of a menu the line around it."""
        line = MENU_LINE if self.menu else 0
        wide = Box(outer.x - line, outer.y - line, outer.width + 2 * line, outer.height + 2 * line)
        placed = within(wide, nearest(wide, self.desk.monitors))
        return Box(placed.x, placed.y, placed.width - 2 * line, placed.height - 2 * line)

    def _make_top(self) -> Any:
        desk, box, line = self.desk, self.outer, MENU_LINE if self.menu else 0
        desk.another_id()
        return desk.root.create_window(
            box.x, box.y, box.width, box.height, line, 24, X.InputOutput, desk.visual,
            background_pixel=desk.look.color, border_pixel=desk.look.ink, colormap=desk.colormap,
            override_redirect=int(self.menu), event_mask=_FRAME_EVENTS,
        )  # fmt: skip

    def _make_inner(self) -> Any:
        desk, edges = self.desk, self.edges
        width, height = edges.inside(self.outer.width, self.outer.height)
        return self.top.create_window(
            edges.side, edges.top, width, height, 0, 24, X.InputOutput, desk.visual, background_pixel=0x303030,
            border_pixel=0, colormap=desk.colormap, event_mask=_INNER_EVENTS, bit_gravity=X.NorthWestGravity,
        )  # fmt: skip

    def _introduce(self) -> None:
        """Tell the desktop's window manager whose window this is."""
        desk, atoms = self.desk, self.desk.atoms
        self.top.set_wm_protocols([atoms["WM_DELETE_WINDOW"], atoms["WM_TAKE_FOCUS"]])
        self.top.set_wm_client_machine(socket.gethostname())
        self.top.change_property(atoms["_OKUBSD_VM"], atoms["UTF8_STRING"], 8, desk.look.vm.encode())
        self.top.change_property(atoms["_NET_WM_ICON"], Xatom.CARDINAL, 32, icon(desk.look.color))
        self.top.change_property(atoms["XdndAware"], Xatom.ATOM, 32, [drops.VERSION])
        kind = "DIALOG" if self.owner is not None else "NORMAL"
        window_type = [atoms[f"_NET_WM_WINDOW_TYPE_{kind}"]]
        self.top.change_property(atoms["_NET_WM_WINDOW_TYPE"], Xatom.ATOM, 32, window_type)
        if self.owner is not None:
            self.top.set_wm_transient_for(self.owner.top)
        if not self.expected and not self.welcome:
            # It comes by itself, while the user is at work elsewhere: the keyboard stays there (EWMH).
            self.top.change_property(atoms["_NET_WM_USER_TIME"], Xatom.CARDINAL, 32, [0])
        self.be_urgent(False)
        self.be_of_class("")
        self.rename("")
        self.be_hinted(self._hints)

    # --- what the guest says of it -----------------------------------------------------------------

    def rename(self, untrusted: str) -> None:
        """Show another title: in the frame, and in what the desktop's window manager draws."""
        self.title = plain(untrusted)
        if not self.menu:
            words = host_title(self.desk.look.vm, self.title).encode()
            self.top.change_property(self.desk.atoms["_NET_WM_NAME"], self.desk.atoms["UTF8_STRING"], 8, words)
            self.top.change_property(Xatom.WM_NAME, Xatom.STRING, 8, words.decode().encode("latin-1", "replace"))
            self.draw_label()

    def be_of_class(self, untrusted: str) -> None:
        """Be known to window managers as the VM's, and as what its program calls itself."""
        self.app = "".join(letter for letter in plain(untrusted, 40) if letter.isascii() and letter.isalnum())
        if not self.menu:
            self.top.set_wm_class(f"okubsd-{self.desk.look.vm}", self.app or "okubsd")

    def be_hinted(self, numbers: tuple[int, ...]) -> None:
        """Have the size hints that the guest gave, by its ``numbers``."""
        self._hints = numbers
        if not self.menu:
            # Where the frame is asked for is where the frame is, without what a window manager draws around it.
            flags = Xutil.PMinSize | Xutil.PWinGravity
            hints = size_hints(numbers, self.edges, self.desk.size)
            flags |= Xutil.PMaxSize if "max_width" in hints else 0
            flags |= Xutil.PResizeInc | Xutil.PBaseSize if "width_inc" in hints else 0
            self.top.set_wm_normal_hints(flags=flags, win_gravity=X.StaticGravity, **hints)

    def be_urgent(self, urgent: bool) -> None:
        """Ask for the user's attention, or no more."""
        if not self.menu:
            flags = Xutil.InputHint | Xutil.StateHint | Xutil.WindowGroupHint | (Xutil.UrgencyHint if urgent else 0)
            self.top.set_wm_hints(flags=flags, input=1, initial_state=Xutil.NormalState, window_group=self.desk.leader)

    def wish(self, box: Box) -> None:
        """Have the size that the guest asks for, and a menu its place, too.

        What comes under the pointer by that is not what the user types to, though it was his choice once.
        """
        width, height = fit(box.width, box.height, self.edges, self.desk.size)
        outer = self.edges.around(Box(box.x, box.y, width, height))
        if not self.focused and (self.menu or (width, height) != (self.width, self.height)):
            self.expected, self.welcome, self.waited, self.came = False, self.expected or self.welcome, False, True
        if self.menu:
            outer = self._placed(outer)
            self.width, self.height = self.edges.inside(outer.width, outer.height)
            self.top.configure(x=outer.x, y=outer.y, width=outer.width, height=outer.height)
            self._come_up()
            if not self.shown and box.cut(*self.desk.size) is not None:
                self.shown = True
                self.top.map()
        elif (width, height) != (self.width, self.height):
            self.minded_until = time.monotonic() + _MIND_SECONDS
            self.top.configure(width=outer.width, height=outer.height)

    def _come_up(self) -> None:
        """Be above all but what says that the VM has the microphone."""
        self.top.configure(stack_mode=X.Above)
        if self.desk.above is not None:
            self.desk.above.configure(stack_mode=X.Above)

    def hide(self) -> None:
        """Take a menu off the screen, until the guest asks for a place again."""
        self.shown = False
        self.top.unmap()

    # --- what the desktop does with it -------------------------------------------------------------

    def moved(self, width: int, height: int) -> bool:
        """Take the size of the frame, and look where it is; return whether anything is another."""
        before = (self.x, self.y, self.width, self.height)
        self.width, self.height = self.edges.inside(width, height)
        self.inner.configure(width=self.width, height=self.height)
        place = self.desk.root.translate_coords(self.inner, 0, 0)
        self.x, self.y = place.x, place.y
        if (self.width, self.height) != before[2:]:
            self.draw_label()
        return (self.x, self.y, self.width, self.height) != before

    def keep_label_seen(self, x: int, y: int) -> None:
        """Ask for a place where the label is on the screen, where the guest had it elsewhere and not the user."""
        wide = self.width + 2 * self.edges.side
        label = Box(x, y, wide, self.edges.top)
        placed = within(label, nearest(label, self.desk.monitors))
        off = {name: at for name, at, was in (("x", placed.x, x), ("y", placed.y, y)) if abs(at - was) > _OFF}
        if off and time.monotonic() < self.minded_until:
            # Once: a window manager that has its own mind is not argued with.
            self.minded_until = 0.0
            self.top.configure(**off)

    def draw_label(self) -> None:
        """Write VM, network and title above the guest's pixels, or a notice of ours instead of the title."""
        if self.menu:
            return
        look, wide = self.desk.look, self.width + 2 * self.edges.side
        self.top.clear_area(0, 0, wide, self.edges.top)
        # What cannot be forged comes first: so it is there in a narrow window, and in one that is half off the screen.
        hearing = "MICROPHONE  " if self.desk.hearing else ""
        words = f"{hearing}{look.vm} ({look.network})  {self.notice or self.whispered or self.title or self.app}"
        letters = max(0, (wide - 16) // self.desk.letter_width)
        if self.notice or hearing:
            # In the colors turned round, which no title has.
            self.desk.mark(self.top, wide, self.edges.top)
        self.desk.text(self.top, 8, self.desk.baseline, words[:letters], turned=bool(self.notice or hearing))

    def clip(self, box: Box) -> Box | None:
        """Return what of ``box`` lies inside of the frame."""
        return box.cut(self.width, self.height)

    def destroy(self) -> None:
        """Take it from the desktop."""
        self.gc.free()
        self.top.destroy()
        # The server destroys what is inside by itself; python-xlib is not told of that.
        self.desk.display.display.free_resource_id(self.inner.id)


def icon(color: int) -> list[int]:
    """Return a picture for task bars, 32 by 32: a window in the VM's color (EWMH, _NET_WM_ICON)."""
    size = 32
    edge, inside = 0xFF000000 | color, 0xFFFFFFFF
    rows = [
        edge if x < 4 or x >= size - 4 or y < 9 or y >= size - 4 else inside for y in range(size) for x in range(size)
    ]
    return [size, size, *rows]
