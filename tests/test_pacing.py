"""How often a desktop is told of a window's properties, whatever a reader says."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import threading
import time

import pytest
from Xlib import X
from Xlib import display as xdisplay

from okubsd.display.words import Message, State, Told, encode
from okubsd.host import door
from okubsd.host.glass.desk import Look
from okubsd.host.glass.pacing import PACED, Pacing
from okubsd.host.glass.painter import Deeds, Painter
from okubsd.host.glass.wire import Slots, Wire, pair
from tests.glass_bed import COLOR, INK, serve, until


def title(window: int, text: str) -> Message:
    return Message(Told.TITLE, window, (), text)


def test_the_last_of_each_kind_counts() -> None:
    pacing = Pacing(0.0)
    for number in range(5):
        pacing.put(title(1, str(number)))
    pacing.put(Message(Told.URGENT, 1, (1,)))
    assert pacing.due(0.0) == [title(1, "4"), Message(Told.URGENT, 1, (1,))]
    assert pacing.due(10.0) == [] and pacing.wait() is None


def test_what_waits_comes_in_its_order_and_no_faster_than_it_may() -> None:
    pacing, begun = Pacing(0.0), 0.0
    for window in range(1000):
        pacing.put(title(window, "a"))
    first = pacing.due(0.0)
    assert [message.window for message in first] == list(range(len(first))) and 0 < len(first) < 1000
    assert pacing.due(0.0) == [] and 0 < (pacing.wait() or 0) < 0.1
    later = pacing.due(begun + 2.0)
    assert len(first) + len(later) < 1000 and later[0].window == len(first)
    # However long nothing came, no more than at the beginning comes at once.
    for window in range(1000):
        pacing.put(title(window, "b"))
    assert len(pacing.due(10_000.0)) == len(first)


def test_nothing_waits_for_a_window_that_is_gone() -> None:
    pacing = Pacing(0.0)
    for kind in PACED:
        pacing.put(Message(kind, 1))
        pacing.put(Message(kind, 2))
    pacing.forget(1)
    assert {message.window for message in pacing.due(0.0)} == {2}


@pytest.mark.spawns
@pytest.mark.parametrize("kind", ["title", "class", "hints", "urgent", "place", "state"])
def test_a_reader_that_floods_keeps_no_window_manager_busy(kind: str) -> None:
    """The desktop hears of a few hundred changes, of the tens of thousands that are told."""
    server, number = serve("-noreset")
    ours, theirs = pair()
    stop = threading.Event()

    def drain() -> None:
        with contextlib.suppress(OSError):
            while theirs.recv(1 << 16):
                pass

    def paint() -> int:
        theirs.close()
        wire, look = Wire(ours, Told), Look("work", COLOR, INK, "nat")
        painter = Painter(xdisplay.Display(f":{number}"), wire, Slots(1 << 20), look, Deeds(print, print, print))
        while True:
            painter.turn([])

    pid = door.fork(paint)
    ours.close()
    try:
        opened = xdisplay.Display(f":{number}")
        theirs.setblocking(True)
        theirs.sendall(encode(Message(Told.WINDOW, 1, (50, 50, 200, 150, 0, 0))))
        threading.Thread(target=drain, daemon=True).start()
        (top,) = until(lambda: [one for one in opened.screen().root.query_tree().children if one.get_wm_class()])
        top.change_attributes(event_mask=X.PropertyChangeMask | X.StructureNotifyMask)
        opened.sync()
        began = time.monotonic()
        threading.Thread(target=flood, args=(kind, theirs, stop), daemon=True).start()
        time.sleep(2.0)
        heard = 0
        while opened.pending_events():
            opened.next_event()
            heard += 1
        # A message changes two properties at most; what is told at once, and what a second, are numbers of pacing.py.
        assert (heard > 5 or kind == "state") and heard <= 2 * (300 + 60 * (time.monotonic() - began) + 10)
    finally:
        stop.set()
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        theirs.close()
        server.kill()
        server.wait()


def flood(kind: str, end: socket.socket, stop: threading.Event) -> None:
    with contextlib.suppress(OSError):
        for first in itertools.count(0, 100):
            if stop.is_set():
                return
            end.sendall(b"".join(encode(lie(kind, first + number)) for number in range(100)))


def lie(kind: str, count: int) -> Message:
    """Return the ``count``-th lie of its kind, each another than the last."""
    made = {
        "title": title(1, f"t{count}"),
        "class": Message(Told.CLASS, 1, (), f"c{count}"),
        "hints": Message(Told.HINTS, 1, (10 + count % 100, 10, 0, 0, 0, 0, 0, 0)),
        "urgent": Message(Told.URGENT, 1, (count % 2,)),
        "state": Message(Told.STATE, 1, (State.MAXIMIZED, count % 2)),
        "place": Message(Told.PLACE, 1, (0, 0, 100 + count % 500, 100 + count % 300)),
    }
    return made[kind]
