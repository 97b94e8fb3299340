"""What the reader tells of a window, done on the desktop; any of it may be a lie."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from Xlib import X

from okubsd.display.frame import clamp_box, is_menu, menu_pixels, smallest
from okubsd.display.words import Message, State, Told
from okubsd.host.glass.pane import Pane

if TYPE_CHECKING:
    from okubsd.host.glass.painter import Painter


# How often a window gets another state, and how often any window of the VM does, in seconds: each is the work of the
# desktop's window manager.
_STATE_SECONDS, _ANY_STATE_SECONDS = 0.25, 0.05


def place(painter: Painter, pane: Pane, message: Message) -> None:
    box = clamp_box(message.numbers)
    pixels = menu_pixels(box.width, box.height, pane.edges)
    if pane.menu and not is_menu(pixels, smallest(painter.desk.monitors), painter.menus(pane)):
        return
    pane.wish(box)


def title(_painter: Painter, pane: Pane, message: Message) -> None:
    pane.rename(message.text)


def class_(_painter: Painter, pane: Pane, message: Message) -> None:
    pane.be_of_class(message.text)


def hints(_painter: Painter, pane: Pane, message: Message) -> None:
    pane.be_hinted(message.numbers)


def urgent(_painter: Painter, pane: Pane, message: Message) -> None:
    pane.be_urgent(bool(message.numbers[0]) and not pane.focused)


def stubborn(painter: Painter, pane: Pane, _message: Message) -> None:
    painter.tell(pane, "this window cannot be closed from outside")


def drag(painter: Painter, pane: Pane, message: Message) -> None:
    """Have the desktop's window manager move or resize the window with the pointer (EWMH, _NET_WM_MOVERESIZE)."""
    if pane.menu or not pane.focused or not 0 <= message.numbers[0] <= 8:
        return
    where = painter.desk.root.query_pointer()
    if not where.mask & X.Button1Mask:
        return
    painter.let_go()
    painter.display.ungrab_pointer(X.CurrentTime)
    painter.ask_manager(pane, "_NET_WM_MOVERESIZE", where.root_x, where.root_y, message.numbers[0], 1, 1)


def state(painter: Painter, pane: Pane, message: Message) -> None:
    """Have what a window asks for, as far as the user lets it; it is always let out of what fills the screen."""
    which, wanted = message.numbers[:2]
    now = time.monotonic()
    leaves = which == State.FULLSCREEN and not wanted and pane.filled
    if pane.menu or (now < max(pane.states_from, painter.states_from) and not leaves):
        return
    painter.states_from = now + _ANY_STATE_SECONDS
    pane.minded_until, pane.states_from = 0.0, now + _STATE_SECONDS
    if which == State.ICONIC:
        painter.ask_manager(pane, "WM_CHANGE_STATE", 3)
    elif which == State.MAXIMIZED:
        names = ("_NET_WM_STATE_MAXIMIZED_VERT", "_NET_WM_STATE_MAXIMIZED_HORZ")
        both = (painter.desk.atoms[name] for name in names)
        painter.ask_manager(pane, "_NET_WM_STATE", int(bool(wanted)), *both, 1)
    elif which == State.FULLSCREEN and (not wanted or _may_fill(painter, pane)):
        pane.leaves = not wanted
        fill(painter, pane, int(bool(wanted)))
    elif which == State.FULLSCREEN:
        painter.tell(pane, f"it asks to fill the screen: {painter.desk.look.keys.fill}")


def _may_fill(painter: Painter, pane: Pane) -> bool:
    """Return whether a window may fill the screen by itself: one that the user chose, and none once he had one leave.

    That holds until he points into a window of the VM.
    """
    return painter.desk.look.fullscreen and pane.focused and (pane.expected or pane.welcome) and not painter.left


def fill(painter: Painter, pane: Pane, how: int) -> None:
    """Fill the screen with a window and its frame (1), or no more (0), or the other way round (2)."""
    painter.ask_manager(pane, "_NET_WM_STATE", how, painter.desk.atoms["_NET_WM_STATE_FULLSCREEN"], 0, 1)


TOLD = {
    Told.PLACE: place,
    Told.TITLE: title,
    Told.CLASS: class_,
    Told.HINTS: hints,
    Told.URGENT: urgent,
    Told.DRAG: drag,
    Told.STATE: state,
    Told.STUBBORN: stubborn,
}
