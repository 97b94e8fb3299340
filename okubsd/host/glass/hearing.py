"""What the desktop's server says of the windows of a VM: keys, buttons, focus and places, and what comes of each."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from Xlib import X
from Xlib.protocol import event as xevent

from okubsd.display.words import Asked, State
from okubsd.host.glass import told
from okubsd.host.glass.pane import Pane

if TYPE_CHECKING:
    from okubsd.host.glass.painter import Painter

# How long nobody types before a window hears it that came by itself and got the keyboard all the same, in seconds; and
# what is between a repeat's release and press, in milliseconds.
_DEAF_SECONDS, _REPEAT = 0.7, 5
# Who has touched neither keyboard nor pointer for so many seconds types to nobody else when a window comes.
_QUIET_SECONDS = 0.5
# The buttons behind it are wheels.
_LAST_BUTTON = 3


def key(painter: Painter, pane: Pane, event: Any) -> None:
    """Tell the guest of a key, where it is not one of ours and was meant for this window."""
    down = isinstance(event, xevent.KeyPress)
    word = painter.keys.word(event.detail, event.state) if down else ""
    if down and not word and is_repeat(painter, event):
        # A modifier of it was let go of first: what repeats is still ours, and means nothing more.
        painter.taken.add(event.detail)
        return
    if word or (not down and event.detail in painter.taken):
        _ours(painter, event, word, pane, down=down)
        return
    if down:
        painter.taken.discard(event.detail)
        if is_deaf(pane):
            painter.tell(pane, "it hears you when you have stopped typing for a moment")
            return
        if not pane.told_held:
            tell_held(painter, pane)
    painter.tell_key(pane, event.detail, event.state, down=down)


def is_repeat(painter: Painter, event: Any) -> bool:
    """Return whether a press is the repeat of a key of ours that is held: its release came at the same time."""
    return bool(0 <= event.time - painter.crossing.get(event.detail, -_REPEAT - 1) <= _REPEAT)


def is_deaf(pane: Pane) -> bool:
    """Return whether a key that a window gets now was meant for another: it came by itself, and somebody types on.

    It hears what is typed once that had stopped for a moment.  A window may get keys without having the focus, where
    the desktop's keyboard follows its pointer.
    """
    now = time.monotonic()
    if pane.expected or (now >= pane.deaf_until and (pane.focused or pane.waited)):
        # One that follows a window of the user's own is his from here on.
        pane.expected, pane.came = pane.expected or pane.welcome, False
        return False
    pane.waited, pane.deaf_until = True, now + _DEAF_SECONDS
    return True


def greet(painter: Painter, pane: Pane) -> None:
    """Have a window that is welcome be the user's, where it comes to him while he does nothing else."""
    if pane.welcome and not pane.expected and not pane.came and painter.desk.idle_seconds() >= _QUIET_SECONDS:
        pane.expected = True


def _ours(painter: Painter, event: Any, word: str, pane: Pane, *, down: bool) -> None:
    """Do what a key of ours means, once for one that is held: its repeats are a release and a press at one time."""
    if not down:
        painter.taken.discard(event.detail)
        painter.crossing[event.detail] = event.time
        return
    painter.taken.add(event.detail)
    if is_repeat(painter, event):
        return
    if word == "fill":
        _fill_or_leave(painter, pane)
    elif pane.expected or (pane.welcome and not is_deaf(pane)):
        painter.deeds.cross(word)
    else:
        # What is copied crosses for a window that the user has chosen, and for no other.
        painter.tell(pane, "click into it first")


def _fill_or_leave(painter: Painter, pane: Pane) -> None:
    """Have every window leave the whole screen, or else this one fill it; who leaves is not had back by the guest."""
    filled = [one for one in painter.panes.values() if one.filled]
    painter.left = bool(filled)
    for one in filled:
        told.fill(painter, one, 0)
    if not filled and pane.expected:
        told.fill(painter, pane, 1)


def button(painter: Painter, pane: Pane, event: Any) -> None:
    if event.window.id != pane.inner.id:
        if event.detail == 1 and isinstance(event, xevent.ButtonPress):
            move_by_label(painter, pane, event)
        return
    down = isinstance(event, xevent.ButtonPress)
    if down and event.detail <= _LAST_BUTTON:
        # Who points into a window means it; a wheel turns under whatever comes.
        pane.expected, pane.came, painter.left = True, False, False
    painter.wire.tell(Asked.BUTTON, pane.number, event.event_x, event.event_y, event.detail, int(down))


def move_by_label(painter: Painter, pane: Pane, event: Any) -> None:
    painter.display.ungrab_pointer(event.time)
    painter.ask_manager(pane, "_NET_WM_MOVERESIZE", event.root_x, event.root_y, 8, 1, 1)


def motion(painter: Painter, pane: Pane, event: Any) -> None:
    if event.window.id == pane.inner.id:
        painter.wire.tell(Asked.POINTER, pane.number, event.event_x, event.event_y)


def enter(painter: Painter, pane: Pane, event: Any) -> None:
    if event.window.id == pane.inner.id:
        pane.waited = False
        greet(painter, pane)
        painter.wire.tell(Asked.RAISE, pane.number)
        painter.wire.tell(Asked.POINTER, pane.number, event.event_x, event.event_y)


def leave(painter: Painter, pane: Pane, event: Any) -> None:
    """Let go of what is held, where the keyboard goes with the pointer: its release comes to another window."""
    if event.window.id == pane.inner.id and event.mode == X.NotifyNormal and not pane.focused and painter.down:
        painter.let_go()
        pane.told_held = False


def focus_in(painter: Painter, pane: Pane, event: Any) -> None:
    """Take the keyboard; our own keys have it for themselves for a moment, which is none (NotifyGrab)."""
    if event.window.id != pane.top.id or event.detail in (X.NotifyInferior, X.NotifyPointer):
        return
    if event.mode == X.NotifyGrab and not pane.focused and painter.before_grab is not pane:
        return
    # Who had it before somebody else had it for himself has it back.
    if not (event.mode in (X.NotifyGrab, X.NotifyUngrab) and painter.before_grab is pane):
        pane.deaf_until = time.monotonic() + _DEAF_SECONDS
    pane.focused, painter.focused, pane.told_held = True, pane, False
    greet(painter, pane)
    pane.be_urgent(False)
    painter.wire.tell(Asked.FOCUS, pane.number)
    # While somebody has the keyboard for himself, the release of what is held comes to him.
    if pane.expected and event.mode != X.NotifyWhileGrabbed:
        tell_held(painter, pane)


def tell_held(painter: Painter, pane: Pane) -> None:
    """Press what modifiers are held when the keyboard comes."""
    pane.told_held = True
    held, state = painter.display.query_keymap(), painter.desk.root.query_pointer().mask
    for codes in painter.display.get_modifier_mapping():
        for code in codes:
            if code and held[code // 8] >> code % 8 & 1 and code not in painter.lock_codes:
                painter.tell_key(pane, code, state, down=True)


def focus_out(painter: Painter, pane: Pane, event: Any) -> None:
    if event.window.id == pane.top.id and event.detail not in (X.NotifyInferior, X.NotifyPointer):
        if pane.focused:
            painter.before_grab = pane if event.mode == X.NotifyGrab else None
        elif event.mode == X.NotifyWhileGrabbed:
            # It went elsewhere meanwhile: nobody has it back.
            painter.before_grab = None
        pane.focused, painter.focused = False, None
        painter.let_go()


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
        # It may have come under the pointer by that.
        pane.waited = False
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
    if painter.drops.message(painter, pane, event):
        return
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
        before, pane.filled = pane.filled, atoms["_NET_WM_STATE_FULLSCREEN"] in held
        if before and not pane.filled:
            # By the window manager's own means, unless the guest has asked for it.
            painter.left, pane.leaves = painter.left or not pane.leaves, False
        for state, name in _STATES.items():
            painter.wire.tell(Asked.STATED, pane.number, state, int(atoms[name] in held))


HANDLERS = {
    "KeyPress": key,
    "KeyRelease": key,
    "ButtonPress": button,
    "ButtonRelease": button,
    "MotionNotify": motion,
    "EnterNotify": enter,
    "LeaveNotify": leave,
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
