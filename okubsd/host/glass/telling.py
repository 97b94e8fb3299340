"""What windows of a guest say of themselves, told to the painter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from Xlib import Xatom, Xutil

from okubsd.display.words import State, Told
from okubsd.host.glass import said
from okubsd.host.glass.obeying import STATES

if TYPE_CHECKING:
    from okubsd.host.glass.reader import Pane, Reader


# A program lays an icon into the tray (System Tray 0.4, SYSTEM_TRAY_REQUEST_DOCK).
_DOCK = 0


def property_changed(reader: Reader, event: Any) -> None:
    pane = reader.panes.get(event.window.id)
    if pane is None:
        return
    if event.atom in (reader.atoms["_NET_WM_NAME"], Xatom.WM_NAME):
        pane.told.add("title")
    elif event.atom == Xatom.WM_NORMAL_HINTS:
        pane.told.add("hints")
    elif event.atom == Xatom.WM_HINTS:
        pane.told.add("urgency")


def place(reader: Reader, pane: Pane) -> None:
    box = pane.wish or pane.box
    reader.wire.tell(Told.PLACE, pane.window.id, box.x, box.y, box.width, box.height)
    pane.wish = None


def title(reader: Reader, pane: Pane) -> None:
    reader.wire.tell(Told.TITLE, pane.window.id, text=said.title(pane.window, reader.atoms))


def class_(reader: Reader, pane: Pane) -> None:
    reader.wire.tell(Told.CLASS, pane.window.id, text=said.class_name(pane.window))


def hints(reader: Reader, pane: Pane) -> None:
    numbers = said.size_numbers(pane.window)
    if numbers is not None:
        reader.wire.tell(Told.HINTS, pane.window.id, *numbers)


def urgency(reader: Reader, pane: Pane) -> None:
    urgent = said.is_urgent(pane.window)
    if urgent != pane.urgent:
        pane.urgent = urgent
        reader.wire.tell(Told.URGENT, pane.window.id, int(urgent))


def message(reader: Reader, event: Any) -> None:
    """Pass on what a program asks of its window manager."""
    if event.data[0] != 32:
        return
    numbers = list(event.data[1])
    if event.window == reader.tray and event.client_type == reader.atoms["_NET_SYSTEM_TRAY_OPCODE"]:
        if numbers[1] == _DOCK:
            reader.dock(reader.display.create_resource_object("window", numbers[2]))
        return
    pane = reader.panes.get(event.window.id)
    if pane is None:
        return
    if event.client_type == reader.atoms["_NET_WM_MOVERESIZE"]:
        reader.wire.tell(Told.DRAG, event.window.id, numbers[2] & 0xF)
    elif event.client_type == reader.atoms["WM_CHANGE_STATE"] and numbers[0] == Xutil.IconicState:
        _wish(pane, State.ICONIC, wanted=True)
    elif event.client_type == reader.atoms["_NET_WM_STATE"]:
        _take_state(reader, pane, numbers)
    elif event.client_type == reader.atoms["_NET_ACTIVE_WINDOW"]:
        reader.wire.tell(Told.URGENT, event.window.id, 1)


def _wish(pane: Pane, state: State, *, wanted: bool) -> None:
    pane.asked[state] = wanted
    pane.told.add("state")


def state(reader: Reader, pane: Pane) -> None:
    """Pass on what a window asked for: of what it asks again and again, the last."""
    asked, pane.asked = pane.asked, {}
    for which, wanted in asked.items():
        reader.wire.tell(Told.STATE, pane.window.id, which, int(wanted))


def _take_state(reader: Reader, pane: Pane, numbers: list[int]) -> None:
    """Take what a window asks for: 0 to be without a state, 1 to have it, 2 the other way round (EWMH)."""
    for name, which in STATES.items():
        if reader.atoms[name] in numbers[1:3]:
            wanted = which not in pane.states if numbers[0] == 2 else numbers[0] == 1
            _wish(pane, which, wanted=wanted)
            return


TELLS = {"title": title, "hints": hints, "urgency": urgency, "place": place, "state": state}
