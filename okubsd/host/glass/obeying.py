"""What the painter asks of the reader, done on the nested display: places, focus, closing, and what is typed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from Xlib import X, Xatom
from Xlib.protocol import event as xevent

from okubsd.display.frame import Box, clamp_size
from okubsd.display.words import Asked, State, Told
from okubsd.host.glass import said

if TYPE_CHECKING:
    from okubsd.host.glass.reader import Pane, Reader

STATES = {
    "_NET_WM_STATE_MAXIMIZED_VERT": State.MAXIMIZED,
    "_NET_WM_STATE_MAXIMIZED_HORZ": State.MAXIMIZED,
    "_NET_WM_STATE_FULLSCREEN": State.FULLSCREEN,
}


def button(reader: Reader, pane: Pane, numbers: tuple[int, ...]) -> None:
    reader.inputs.point(pane.box.x + numbers[0], pane.box.y + numbers[1])
    reader.inputs.button(numbers[2], down=bool(numbers[3]))
    pane.pressed = bool(numbers[3])


def pointer(reader: Reader, pane: Pane, numbers: tuple[int, ...]) -> None:
    reader.inputs.point(pane.box.x + numbers[0], pane.box.y + numbers[1])


def placed(reader: Reader, pane: Pane, numbers: tuple[int, ...]) -> None:
    box = Box(*numbers[:4])
    if not pane.over and box != pane.box:
        width, height = clamp_size(box.width, box.height)
        pane.window.configure(x=box.x, y=box.y, width=width, height=height)
        if (width, height) == (pane.box.width, pane.box.height):
            pane.box = box
            reader.send_place(pane)


def focus(reader: Reader, pane: Pane, _numbers: tuple[int, ...]) -> None:
    pane.window.configure(stack_mode=X.Above)
    pane.window.set_input_focus(X.RevertToPointerRoot, X.CurrentTime)
    say(reader, pane.window, "WM_TAKE_FOCUS")


def raise_(reader: Reader, pane: Pane, _numbers: tuple[int, ...]) -> None:
    pane.window.configure(stack_mode=X.Above)


def close(reader: Reader, pane: Pane, _numbers: tuple[int, ...]) -> None:
    if not say(reader, pane.window, "WM_DELETE_WINDOW"):
        reader.wire.tell(Told.STUBBORN, pane.window.id)


def say(reader: Reader, window: Any, protocol: str) -> bool:
    """Send a message of WM_PROTOCOLS if the window takes part in it; return whether it does."""
    if reader.atoms[protocol] not in said.protocols(window):
        return False
    data = (32, [reader.atoms[protocol], X.CurrentTime, 0, 0, 0])
    told = xevent.ClientMessage(window=window, client_type=reader.atoms["WM_PROTOCOLS"], data=data)
    window.send_event(told)
    return True


def expose(reader: Reader, pane: Pane, numbers: tuple[int, ...]) -> None:
    pane.dirty = Box(*numbers[:4]).join(pane.dirty)


def seen(reader: Reader, pane: Pane, numbers: tuple[int, ...]) -> None:
    pane.seen = bool(numbers[0])
    if pane.seen:
        reader.whole(pane)


def stated(reader: Reader, pane: Pane, numbers: tuple[int, ...]) -> None:
    (pane.states.add if numbers[1] else pane.states.discard)(State(numbers[0]))
    value = [reader.atoms[name] for name, state in STATES.items() if state in pane.states]
    pane.window.change_property(reader.atoms["_NET_WM_STATE"], Xatom.ATOM, 32, value)


Asks = Mapping[Asked, Callable[[Any, "Pane", tuple[int, ...]], None]]
ASKED: Asks = {
    Asked.BUTTON: button,
    Asked.POINTER: pointer,
    Asked.PLACED: placed,
    Asked.FOCUS: focus,
    Asked.RAISE: raise_,
    Asked.CLOSE: close,
    Asked.EXPOSE: expose,
    Asked.SEEN: seen,
    Asked.STATED: stated,
}
