"""What the user's desktop gives a VM by its windows: files that are dropped on one, and a microphone that is told."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from Xlib import X, Xatom
from Xlib import display as xdisplay
from Xlib.protocol import event as xevent

from okubsd.errors import Problem
from okubsd.host import windows
from okubsd.host.glass.drops import parse_list
from tests.glass_bed import INK, SIZE, Bed, Client, until

# --- names of files --------------------------------------------------------------------------------


def test_a_list_of_names_is_paths_of_this_host() -> None:
    data = b"# of a file manager\r\nfile:///tmp/a%20b%0A\r\nfile://localhost/tmp/c\r\nfile:/d\r\n"
    assert parse_list(data) == ("/tmp/a b\n", "/tmp/c", "/d")


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"https://example.org/",
        b"file://elsewhere.invalid/etc/passwd",
        b"file:relative",
        b"file:///a%00b",
        b"--in",
        b"file://[/x",
        bytes(range(128, 256)),
    ],
)
def test_what_is_no_file_of_this_host_is_left_out(line: bytes) -> None:
    assert parse_list(b"file:///good\r\n" + line) == ("/good",)


def test_names_are_bounded() -> None:
    assert len(parse_list(b"file:///x\r\n" * 5000)) == 100


# --- a program of the desktop that drags -----------------------------------------------------------


class Dragging:
    """A program that drags a list of names, as a file manager does (XDND 5)."""

    def __init__(self, bed: Bed, names: bytes, kinds: tuple[str, ...] = ("text/uri-list",)) -> None:
        self.display = xdisplay.Display(bed.desktop)
        root = self.display.screen().root
        self.window = root.create_window(0, 0, 1, 1, 0, X.CopyFromParent)
        self.atom = self.display.intern_atom
        self.names, self.kinds = names, [self.atom(kind) for kind in kinds]
        self.window.set_selection_owner(self.atom("XdndSelection"), X.CurrentTime)
        self.window.change_property(self.atom("XdndTypeList"), Xatom.ATOM, 32, self.kinds)

    def find(self, title: str) -> Any:
        """Return the frame whose name has ``title`` in it, as who drags over it finds it: it is aware."""

        def below(window: Any) -> Any:
            if window.get_property(self.atom("XdndAware"), Xatom.ATOM, 0, 1) is not None:
                name = window.get_full_property(self.atom("_NET_WM_NAME"), X.AnyPropertyType)
                if name is not None and title.encode() in bytes(name.value):
                    return window
            return next((found for child in window.query_tree().children if (found := below(child))), None)

        return until(lambda: below(self.display.screen().root))

    def tell(self, target: Any, name: str, *numbers: int) -> None:
        data = (32, [self.window.id, *numbers, *[0] * (4 - len(numbers))])
        target.send_event(xevent.ClientMessage(window=target, client_type=self.atom(name), data=data))
        self.display.flush()

    def hear(self, name: str) -> list[int]:
        """Wait for a message called ``name``; meanwhile give the names to who asks for them."""
        end = time.monotonic() + 30
        while time.monotonic() < end:
            if not self.display.pending_events():
                time.sleep(0.02)
                continue
            event = self.display.next_event()
            if isinstance(event, xevent.SelectionRequest):
                event.requestor.change_property(event.property, event.target, 8, self.names)
                event.requestor.send_event(
                    xevent.SelectionNotify(
                        time=event.time, requestor=event.requestor, selection=event.selection, target=event.target,
                        property=event.property,
                    )
                )  # fmt: skip
                self.display.flush()
            elif isinstance(event, xevent.ClientMessage) and event.client_type == self.atom(name):
                return list(event.data[1])
        raise AssertionError(f"no {name}")

    def drop_on(self, title: str) -> tuple[bool, bool]:
        """Drag over a window and let go there; return whether it would take it, and whether it did."""
        target = self.find(title)
        more = 1 if len(self.kinds) > 3 else 0
        self.tell(target, "XdndEnter", 5 << 24 | more, *self.kinds[:3])
        self.tell(target, "XdndPosition", 0, 0, X.CurrentTime, self.atom("XdndActionCopy"))
        takes = bool(self.hear("XdndStatus")[1] & 1)
        self.tell(target, "XdndDrop", 0, X.CurrentTime)
        return takes, bool(self.hear("XdndFinished")[1] & 1)


@pytest.fixture
def bed(tmp_path: Path) -> Iterator[Bed]:
    with Bed(tmp_path, "openbox") as made:
        yield made


@pytest.mark.spawns
def test_files_that_are_dropped_on_a_window_are_sent(bed: Bed) -> None:
    Client(bed).do("window", "paper", 300, 200, "ffffff")
    bed.wait_for("Paper")
    kinds = ("x-special/gnome-icon-list", "text/plain", "UTF8_STRING", "text/uri-list")
    assert Dragging(bed, b"file:///tmp/one%20two\r\nfile:///tmp/three\r\n", kinds).drop_on("paper") == (True, True)
    until(lambda: bed.crossed.exists() and "send /tmp/one two /tmp/three work" in bed.crossed.read_text())
    # Text is no file, and neither is what lies elsewhere.
    assert Dragging(bed, b"hello", ("text/plain",)).drop_on("paper") == (False, False)
    assert Dragging(bed, b"https://example.org/\r\n").drop_on("paper") == (True, False)
    assert len(bed.crossed.read_text().splitlines()) == 1
    # Each drop is sent, whatever the one before is at.
    assert Dragging(bed, b"file:///tmp/four\r\n").drop_on("paper") == (True, True)
    assert Dragging(bed, b"file:///tmp/five\r\n").drop_on("paper") == (True, True)
    until(lambda: {"send /tmp/four work", "send /tmp/five work"} <= set(bed.crossed.read_text().splitlines()))


@pytest.mark.spawns
def test_a_label_says_that_the_vm_has_the_microphone_for_as_long_as_it_has(bed: Bed) -> None:
    Client(bed).do("window", "paper", 300, 200, "ffffff")
    row = bed.wait_for("Paper")
    spot = row.x + row.width - 20, row.y - 10
    plain = bed.color(*spot)
    pid = os.fork()
    if pid == 0:
        with windows.marked(bed.run):
            time.sleep(60)
        os._exit(0)
    until(lambda: bed.color(*spot) != plain)
    # And above all windows, whatever the guest's own are at.
    assert bed.frame("okubsd: microphone")
    # However it ends.
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    until(lambda: bed.color(*spot) == plain)
    assert bed.xdotool("search", "--name", "okubsd: microphone") == ""
    with windows.marked(bed.run) as mark:
        until(lambda: bed.color(*spot) != plain)
        bed.glass.kill()
        # Where nobody says it, nobody hears.
        assert until(lambda: mark.recv(1) == b"")
    with pytest.raises(Problem, match="labels would say"), windows.marked(bed.run):
        pass


@pytest.mark.spawns
def test_a_menu_does_not_stay_over_the_mark_of_the_microphone(bed: Bed) -> None:
    guest = Client(bed)
    with windows.marked(bed.run):
        bed.frame("okubsd: microphone")
        until(lambda: bed.color(SIZE[0] - 3, 3) == INK)
        guest.do("menu", "cover", SIZE[0] - 300, 0, 290, 60, "00cc00")
        for step in range(6):
            # More often than it comes up again, the last time after it just did.
            guest.do("place", "cover", SIZE[0] - 300 + step, 0, 290, 60)
        until(lambda: bed.color(SIZE[0] - 3, 3) == INK)


@pytest.mark.spawns
def test_a_microphone_is_told_where_no_window_is(bed: Bed) -> None:
    with windows.marked(bed.run):
        assert bed.frame("okubsd: microphone")
    until(lambda: bed.xdotool("search", "--name", "okubsd: microphone") == "")


@pytest.mark.spawns
def test_what_came_of_what_a_guest_asked_takes_no_keyboard(bed: Bed) -> None:
    guest = Client(bed)
    guest.do("window", "first", 300, 200, "ffffff")
    bed.wait_for("First")
    with bed.desk() as desk:
        own = desk.screen().root.create_window(700, 500, 200, 100, 0, X.CopyFromParent, event_mask=X.KeyPressMask)
        own.set_wm_name("of the desktop")
        own.map()
        desk.sync()
        until(lambda: bed.xdotool("getwindowname", bed.xdotool("getwindowfocus")) == "of the desktop")
        time.sleep(1)
        windows.whisper(bed.run, "x" * 500)
        guest.do("window", "second", 300, 200, "ffffff")
        bed.wait_for("Second")
        time.sleep(1)
        assert bed.xdotool("getwindowname", bed.xdotool("getwindowfocus")) == "of the desktop"


@pytest.mark.spawns
def test_what_a_guest_asks_shows_no_window_of_ours(bed: Bed) -> None:
    windows.whisper(bed.run, "your disk is failing")
    time.sleep(1)
    shown = bed.xdotool("search", "--name", "okubsd").split()
    assert len(shown) <= 1, "the splash of the start, and nothing more"
