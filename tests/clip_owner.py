"""An owner of a clipboard that answers as badly as it can: python clip_owner.py DISPLAY HOW."""

from __future__ import annotations

import sys
import time
from typing import Any

from Xlib import X
from Xlib import display as xdisplay
from Xlib.protocol import event as events


def main(name: str, how: str) -> None:
    opened = xdisplay.Display(name)
    atom = opened.intern_atom
    window = opened.screen().root.create_window(0, 0, 1, 1, 0, opened.screen().root_depth, event_mask=0)
    window.set_selection_owner(atom("CLIPBOARD"), X.CurrentTime)
    opened.sync()
    print("ready", flush=True)
    while True:
        asked = opened.next_event()
        if asked.type == X.SelectionRequest and how != "mute":
            answer(opened, asked, how)


def answer(opened: Any, asked: Any, how: str) -> None:
    """Write the answer where it is wanted, and tell."""
    there, place, atom = asked.requestor, asked.property, opened.intern_atom
    text = atom("UTF8_STRING")
    listed = asked.target == atom("TARGETS")
    if listed:
        many = 60000 if how == "sixty thousand targets" else 1
        there.change_property(place, atom("ATOM"), 32, [text, *([atom("TARGETS")] * many)])
    elif how == "five megabytes":
        for _ in range(40):
            there.change_property(place, text, 8, b"x" * 131072, X.PropModeAppend)
    elif how == "endless":
        there.change_attributes(event_mask=X.PropertyChangeMask)
        there.change_property(place, atom("INCR"), 32, [1])
    elif how == "holds the server":
        opened.grab_server()
    elif how == "numbers":
        there.change_property(place, atom("INTEGER"), 32, [1, 2, 3])
    else:
        there.change_property(place, text, 8, how.encode())
    there.send_event(
        events.SelectionNotify(
            time=asked.time, requestor=there, selection=asked.selection, target=asked.target, property=place
        )
    )
    opened.flush()
    if not listed:
        go_on(opened, there, place, how)


def go_on(opened: Any, there: Any, place: int, how: str) -> None:
    """Send pieces without end, or let nobody else speak to the server."""
    while how == "endless":
        told = opened.next_event()
        if told.type == X.PropertyNotify and told.state == X.PropertyDelete:
            there.change_property(place, opened.intern_atom("UTF8_STRING"), 8, b"x" * 200000)
            opened.flush()
    if how == "holds the server":
        time.sleep(60)


main(*sys.argv[1:])
