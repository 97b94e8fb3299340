"""What the desktop's server says of the windows of a VM: keys, buttons, focus and places, and what comes of each."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from Xlib import X
from Xlib.protocol import event as xevent

from okubsd.display.words import Asked, State
from okubsd.host.glass import told
from okubsd.host.glass.pane import Pane
from okubsd.host.glass.xkb import LOCKS

if TYPE_CHECKING:
    from okubsd.host.glass.painter import Painter

# How long a window that just came and got the keyboard all the same does not hear what is typed, if it came within so
# many seconds; and what is between a repeat's release and press, in milliseconds.
_DEAF_SECONDS, _NEW_SECONDS, _REPEAT = 0.7, 1.0, 5


def key(painter: Painter, pane: Pane, event: Any) -> None:
    down = isinstance(event, xevent.KeyPress)
    now = time.monotonic()
    word = painter.keys.word(event.detail, event.state)
    if word:
        _ours(painter, pane, event, word, down=down)
        return
    if down and now < pane.deaf_until and event.detail not in painter.modifiers:
        # Until who types on has stopped: all of it was meant for another window.
        pane.deaf_until = now + _DEAF_SECONDS
        return
    painter.wire.tell(Asked.KEY, pane.number, event.detail, int(down), event.state & LOCKS, event.state >> 13 & 3)


def _ours(painter: Painter, pane: Pane, event: Any, word: str, *, down: bool) -> None:
    """Do what a key of ours means, once for one that is held: its repeats are a release and a press at one time."""
    if not down:
        painter.crossing[event.detail] = event.time
    elif event.time - painter.crossing.get(event.detail, -_REPEAT - 1) > _REPEAT:
        if word == "fill":
            # Who leaves is not had back by the guest.
            pane.left = pane.filled
            told.fill(painter, pane, 2)
        else:
            painter.deeds.cross(word)


def button(painter: Painter, pane: Pane, event: Any) -> None:
    if event.window.id != pane.inner.id:
        if event.detail == 1 and isinstance(event, xevent.ButtonPress):
            move_by_label(painter, pane, event)
        return
    # Who points into a window means it.
    pane.expected, pane.deaf_until = True, 0.0
    down = isinstance(event, xevent.ButtonPress)
    painter.wire.tell(Asked.BUTTON, pane.number, event.event_x, event.event_y, event.detail, int(down))


def move_by_label(painter: Painter, pane: Pane, event: Any) -> None:
    painter.display.ungrab_pointer(event.time)
    painter.ask_manager(pane, "_NET_WM_MOVERESIZE", event.root_x, event.root_y, 8, 1, 1)


def motion(painter: Painter, pane: Pane, event: Any) -> None:
    if event.window.id == pane.inner.id:
        painter.wire.tell(Asked.POINTER, pane.number, event.event_x, event.event_y)


def enter(painter: Painter, pane: Pane, event: Any) -> None:
    if event.window.id == pane.inner.id:
        painter.wire.tell(Asked.RAISE, pane.number)
        painter.wire.tell(Asked.POINTER, pane.number, event.event_x, event.event_y)


def focus_in(painter: Painter, pane: Pane, event: Any) -> None:
    if event.window.id == pane.top.id and event.detail not in (X.NotifyInferior, X.NotifyPointer):
        now = time.monotonic()
        if not pane.expected and now < pane.came + _NEW_SECONDS and now > painter.focus_left + _NEW_SECONDS:
            pane.deaf_until = now + _DEAF_SECONDS
        pane.focused, painter.focused = True, pane
        pane.be_urgent(False)
        painter.wire.tell(Asked.FOCUS, pane.number)
        tell_held(painter, pane)


def tell_held(painter: Painter, pane: Pane) -> None:
    """Press what modifiers are held when the keyboard comes."""
    held, state = painter.display.query_keymap(), painter.desk.root.query_pointer().mask
    for codes in painter.display.get_modifier_mapping():
        for code in codes:
            if code and held[code // 8] >> code % 8 & 1 and code not in painter.lock_codes:
                painter.wire.tell(Asked.KEY, pane.number, code, 1, state & LOCKS, state >> 13 & 3)


def focus_out(painter: Painter, pane: Pane, event: Any) -> None:
    if event.window.id == pane.top.id and event.detail not in (X.NotifyInferior, X.NotifyPointer):
        pane.focused, painter.focused, painter.focus_left = False, None, time.monotonic()
        painter.wire.tell(Asked.FOCUS, 0)


def exposed(painter: Painter, pane: Pane, event: Any) -> None:
    if event.window.id == pane.inner.id:
        painter.wire.tell(Asked.EXPOSE, pane.number, event.x, event.y, event.width, event.height)
    elif event.count == 0:
        pane.draw_label()


def configured(painter: Painter, pane: Pane, event: Any) -> None:
    if event.window.id == pane.top.id:
        place_is(painter, pane, event.width, event.height)


def place_is(painter: Painter, pane: Pane, width: int, height: int) -> None:
    """Tell the guest where its window is, and see to its label."""
    if pane.moved(width, height):
        painter.wire.tell(Asked.PLACED, pane.number, pane.x, pane.y, pane.width, pane.height)
        if not pane.menu:
            pane.keep_label_seen(pane.x - pane.edges.side, pane.y - pane.edges.top)


def visibility(painter: Painter, pane: Pane, event: Any) -> None:
    if event.window.id == pane.top.id:
        see(painter, pane, seen=event.state != X.VisibilityFullyObscured)


def unmapped(painter: Painter, pane: Pane, event: Any) -> None:
    if event.window.id == pane.top.id:
        see(painter, pane, seen=False)


def mapped(painter: Painter, pane: Pane, event: Any) -> None:
    if event.window.id == pane.top.id:
        see(painter, pane, seen=True)
        # Where there is no window manager nobody else tells where it is.
        size = pane.top.get_geometry()
        place_is(painter, pane, size.width, size.height)


def see(painter: Painter, pane: Pane, *, seen: bool) -> None:
    """What nobody sees costs nothing."""
    if pane.hidden == seen:
        pane.hidden = not seen
        painter.wire.tell(Asked.SEEN, pane.number, int(seen))


def message(painter: Painter, pane: Pane, event: Any) -> None:
    atoms = painter.desk.atoms
    if event.client_type != atoms["WM_PROTOCOLS"] or event.data[0] != 32:
        return
    if event.data[1][0] == atoms["WM_DELETE_WINDOW"]:
        painter.ask_to_close(pane)
    elif event.data[1][0] == atoms["WM_TAKE_FOCUS"]:
        pane.top.set_input_focus(X.RevertToParent, event.data[1][1])


_STATES = {
    State.MAXIMIZED: "_NET_WM_STATE_MAXIMIZED_VERT",
    State.FULLSCREEN: "_NET_WM_STATE_FULLSCREEN",
}


def state_changed(painter: Painter, pane: Pane, event: Any) -> None:
    """Tell the guest whether its window is maximized or fills the screen, as the desktop's window manager has it."""
    atoms = painter.desk.atoms
    if event.window.id == pane.top.id and event.atom == atoms["_NET_WM_STATE"]:
        found = pane.top.get_property(atoms["_NET_WM_STATE"], X.AnyPropertyType, 0, 32)
        held = set(found.value) if found is not None and found.format == 32 else set()
        pane.filled = atoms["_NET_WM_STATE_FULLSCREEN"] in held
        for state, name in _STATES.items():
            painter.wire.tell(Asked.STATED, pane.number, state, int(atoms[name] in held))


HANDLERS = {
    "KeyPress": key,
    "KeyRelease": key,
    "ButtonPress": button,
    "ButtonRelease": button,
    "MotionNotify": motion,
    "EnterNotify": enter,
    "FocusIn": focus_in,
    "FocusOut": focus_out,
    "Expose": exposed,
    "ConfigureNotify": configured,
    "VisibilityNotify": visibility,
    "UnmapNotify": unmapped,
    "MapNotify": mapped,
    "ClientMessage": message,
    "PropertyNotify": state_changed,
}
