"""The glass: what its halves may say, what a frame may be, and both before real X servers and window managers."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from okubsd import layout
from okubsd.config.chords import Chord, keysym_of, parse_chord
from okubsd.display.frame import (
    FRAME,
    LARGEST,
    MENU,
    MOST_MENUS,
    MOST_WINDOWS,
    Box,
    clamp_size,
    host_title,
    is_menu,
    menu_pixels,
    plain,
    size_hints,
    within,
)
from okubsd.display.orders import Asked as Question
from okubsd.display.orders import Orders, parse_orders
from okubsd.display.words import SIZE, TEXT, Asked, Message, Told, decode, encode
from okubsd.errors import Problem
from okubsd.host import windows
from okubsd.host.glass import __main__ as glass
from okubsd.host.glass import cursor, sandbox
from okubsd.host.glass.desk import Look
from okubsd.host.glass.painter import Deeds, Painter
from okubsd.host.glass.wire import SLOT_SIZE, SLOTS, Hung, Slots, Wire, pair
from okubsd.host.xkb import Keyboard
from tests.conftest import CHECKOUT
from tests.glass_bed import COLOR, INK, Bed, Client, serve, until

NUMBERS = st.lists(st.integers(-(2**31), 2**31 - 1), max_size=8).map(tuple)


# --- words ---------------------------------------------------------------------------------------


@given(st.sampled_from([*Told, *Asked]), st.integers(0, 2**32 - 1), NUMBERS, st.text(max_size=TEXT // 4))
def test_a_message_comes_as_it_was_sent(kind: Told | Asked, window_: int, numbers: tuple[int, ...], text: str) -> None:
    kinds = Told if isinstance(kind, Told) else Asked
    text = text.encode(errors="replace").decode()
    sent = Message(kind, window_, numbers, text)
    back = decode(encode(sent), kinds)
    assert (back.kind, back.window, back.text) == (kind, window_, text)
    assert back.numbers == (*numbers, *[0] * (8 - len(numbers)))


@given(st.binary(max_size=SIZE + 8))
def test_bytes_that_are_no_message_are_refused(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        found = decode(data, Told)
        assert len(data) == SIZE and isinstance(found.kind, Told) and len(found.numbers) == 8


def test_what_is_too_large_is_clamped_and_what_is_too_long_is_cut() -> None:
    back = decode(encode(Message(Told.TITLE, 1, (2**40, -(2**40)), "ä" * 500)), Told)
    assert back.numbers[:2] == (2**31 - 1, -(2**31)) and back.text == "ä" * (TEXT // 2)


def test_the_halves_do_not_take_each_others_words() -> None:
    with pytest.raises(ValueError, match="is not a valid Told"):
        decode(encode(Message(Asked.CLOSE)), Told)


# --- the wire --------------------------------------------------------------------------------------


def test_a_half_that_says_nonsense_or_takes_nothing_is_hung() -> None:
    ours, theirs = pair()
    wire = Wire(ours, Told)
    theirs.sendall(b"\xff" * SIZE)
    with pytest.raises(Hung, match="no message"):
        wire.hear()
    ours, theirs = pair()
    wire = Wire(ours, Told)
    with pytest.raises(Hung, match="takes nothing"):
        for _ in range(1_000_000):
            wire.tell(Asked.POINTER, 1, 2, 3)
    theirs.close()
    with pytest.raises(Hung, match="is gone"):
        wire.flush()


def test_a_message_in_pieces_is_put_together() -> None:
    ours, theirs = pair()
    wire, data = Wire(ours, Told), encode(Message(Told.TITLE, 7, (), "x")) * 3
    theirs.sendall(data[:100])
    assert wire.hear() == []
    theirs.sendall(data[100:])
    assert [message.window for message in wire.hear()] == [7, 7, 7]


@pytest.mark.parametrize(("slot", "size"), [(-1, 4), (SLOTS, 4), (0, 0), (0, -4), (0, SLOT_SIZE + 1), (1, 2**31)])
def test_nothing_is_read_outside_of_a_slot(slot: int, size: int) -> None:
    with pytest.raises(Hung, match="outside"):
        Slots(SLOT_SIZE).view(slot, size)


# --- frames ----------------------------------------------------------------------------------------

SIZES = st.integers(-(2**31), 2**31 - 1)


@given(SIZES, SIZES, SIZES, SIZES, st.integers(1, 8000), st.integers(1, 8000))
def test_what_is_cut_lies_inside(x: int, y: int, width: int, height: int, wide: int, high: int) -> None:
    cut = Box(x, y, width, height).cut(wide, high)
    if cut is not None:
        assert 0 <= cut.x < cut.x + cut.width <= wide and 0 <= cut.y < cut.y + cut.height <= high


@given(SIZES, SIZES, SIZES, SIZES)
def test_a_menu_lies_on_the_screen_whatever_it_asks(x: int, y: int, width: int, height: int) -> None:
    screen = (1400, 900)
    box = within(MENU.around(Box(x, y, *clamp_size(width, height))), Box(0, 0, *screen))
    assert box.x >= 0 and box.y >= 0 and box.x + box.width <= 1400 and box.y + box.height <= 900


def test_what_covers_the_screen_is_no_menu() -> None:
    assert is_menu(300 * 600, (1400, 900)) and not is_menu(1400 * 900, (1400, 900))
    assert not is_menu(700 * 500, (1400, 900), others=[700 * 500])
    assert not is_menu(menu_pixels(*clamp_size(2**31, 2**31), MENU), (1400, 900))
    # What is around a menu covers the desktop, too; and there are not many at once.
    assert menu_pixels(100, 1, MENU) == 106 * 7
    assert is_menu(1, (1400, 900), others=[1] * (MOST_MENUS - 1)) and not is_menu(
        1, (1400, 900), others=[1] * MOST_MENUS
    )


@given(st.tuples(*[SIZES] * 8))
def test_hints_are_numbers_that_a_window_manager_takes(numbers: tuple[int, ...]) -> None:
    hints = size_hints(numbers, FRAME, (1400, 900))
    assert all(0 <= value <= 2 * LARGEST for value in hints.values())
    assert hints.get("max_width", LARGEST) >= hints["min_width"] and hints["min_width"] <= 1400
    if "width_inc" in hints:
        # A window manager takes the base and whole steps until the least is reached: that is on the screen, too.
        steps = -(-max(0, hints["min_width"] - hints["base_width"]) // hints["width_inc"])
        assert hints["base_width"] + steps * hints["width_inc"] <= 1400


def test_hints_of_a_terminal_are_those_of_its_letters() -> None:
    hints = size_hints((0, 0, 0, 0, 6, 13, 4, 4), FRAME, (1400, 900))
    assert hints["width_inc"] == 6 and hints["height_inc"] == 13
    assert (hints["base_width"], hints["base_height"]) == (4 + 6, 4 + 23)


def test_titles_are_one_line_and_all_of_it_is_seen() -> None:
    assert plain("a\x1b[31mb\u202ec\nd\u200be\x00") == "a[31mbc de"
    assert host_title("work", plain("[vault] mail")) == "[work] [vault] mail"
    assert len(plain("x" * 5000)) == 100


def test_a_pointer_is_two_colors() -> None:
    dark, mask = cursor.bitmaps(2, 1, b"\0\0\0\xff\xff\xff\xff\xff")
    assert (dark, mask) == (b"\x01\0\0\0", b"\x03\0\0\0")


# --- keys by name ------------------------------------------------------------------------------------


def test_chords_are_read_as_people_write_them() -> None:
    assert parse_chord("Ctrl+L") == Chord("L", ("Control_L",))
    assert parse_chord("shift+alt+F4") == Chord("F4", ("Shift_L", "Alt_L"))
    assert parse_chord("Enter") == Chord("Return") and parse_chord("+") == Chord("plus")
    assert parse_chord("Ctrl++") == Chord("plus", ("Control_L",))
    for wrong in ("Hyperdrive+x", "", "Ctrl+"):
        with pytest.raises(ValueError, match=r"no modifier|names no key"):
            parse_chord(wrong)
    assert [keysym_of(letter) for letter in "aé€\n"] == [0x61, 0xE9, 0x10020AC, 0xFF0D]


def test_orders_come_as_they_were_given() -> None:
    orders = Orders(vm="a", run="/r", desktop=":0", network="nat", color=1, ink=2, okubsd=("okubsd",), keyboard=("k",))
    assert parse_orders(orders.render()) == orders


# --- the sandbox -------------------------------------------------------------------------------------


def test_the_filter_refuses_all_but_what_it_lists() -> None:
    program = sandbox.seccomp_filter("x86_64")
    assert len(program) % 8 == 0 and len(program) // 8 < 256
    with pytest.raises(Problem, match="no system call filter"):
        sandbox.seccomp_filter("vax")


@pytest.mark.spawns
def test_a_reader_opens_connects_starts_and_signals_nothing() -> None:
    code = """
import os, socket, sys
from okubsd.host.glass import sandbox
ours, theirs = socket.socketpair()
sandbox.enter(512 << 20)
tried = 0
for deed in (lambda: open("/etc/passwd"), lambda: open("/tmp/x", "w"), socket.socket, os.fork, lambda: os.kill(os.getppid(), 0),
             lambda: os.execv("/bin/true", ["true"]), lambda: os.listdir("/"), lambda: os.open("/dev/tty", 0),
             lambda: socket.socket(socket.AF_INET)):
    try:
        deed()
        sys.exit(f"{tried} was done")
    except PermissionError:
        tried += 1
ours.send(b"x")
assert theirs.recv(1) == b"x" and tried == 9 and not os.environ
print("held")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=CHECKOUT, check=False)
    assert (done.returncode, done.stdout) == (0, "held\n"), done.stderr


# --- real displays -----------------------------------------------------------------------------------


@pytest.fixture(params=["none", "cwm", "openbox", "i3"])
def bed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bed]:
    made = Bed(tmp_path, request.param)
    yield made
    made.end()


@pytest.fixture
def plain_bed(tmp_path: Path) -> Iterator[Bed]:
    made = Bed(tmp_path, "cwm")
    yield made
    made.end()


@pytest.mark.spawns
def test_a_window_of_the_guest_is_one_of_the_desktop(bed: Bed) -> None:
    guest = Client(bed)
    guest.do("window", "red", 300, 200, "cc0000")
    row = bed.wait_for("Red")
    # A tiling window manager gives it more.
    assert row.title == "red" and row.width >= 300 and row.height >= 200
    inner = (row.x + 150, row.y + 100)
    until(lambda: bed.color(*inner) == 0xCC0000)
    # A frame of ours around it, in the VM's color: right, below, and the label above.
    assert {bed.color(row.x + row.width + 1, row.y + 50), bed.color(row.x - 2, row.y + 50)} == {COLOR}
    assert bed.color(row.x + row.width // 2, row.y - 3) == COLOR
    with bed.desk() as opened:
        frame = opened.create_resource_object("window", int(bed.frame("work. red")))
        assert frame.get_wm_class() == ("okubsd-work", "Red")
        assert frame.get_full_text_property(opened.intern_atom("_NET_WM_NAME")) == "[work] red"
        assert frame.get_full_property(opened.intern_atom("_OKUBSD_VM"), 0).value == b"work"
    guest.do("gone", "red")
    until(lambda: not bed.rows())
    assert "Traceback" not in bed.log.read_text()


@pytest.mark.spawns
def test_keys_buttons_and_sizes_go_both_ways(bed: Bed) -> None:
    guest = Client(bed)
    guest.do("window", "red", 300, 200, "cc0000")
    row, frame = bed.wait_for("Red"), bed.frame("work. red")
    bed.xdotool("mousemove", str(row.x + 50), str(row.y + 60))
    bed.xdotool("mousemove", str(row.x + 51), str(row.y + 61))
    bed.xdotool("click", "1")
    assert guest.wait_to_hear("button red 1").split()[-2:] == ["51", "61"]
    bed.xdotool("windowfocus", frame)
    bed.xdotool("key", "h")
    guest.wait_to_hear("key red h")
    # The desktop resizes, and the guest draws there.
    bed.xdotool("windowsize", frame, "506", "423")
    until(lambda: guest.place("red") == (500, 400) == (bed.rows()["Red"].width, bed.rows()["Red"].height))
    now = bed.rows()["Red"]
    until(lambda: bed.color(now.x + now.width - 5, now.y + now.height - 5) == 0xCC0000)
    # The button of a frame asks the program, which does as it likes.
    windows.do(bed.run, "close", now.window)
    guest.wait_to_hear("delete red")
    assert "Red" in bed.rows()


@pytest.mark.spawns
def test_a_guest_resizes_its_window_and_moves_none_over_another(plain_bed: Bed) -> None:
    guest = Client(plain_bed)
    guest.do("window", "red", 300, 200, "cc0000")
    plain_bed.wait_for("Red")
    guest.do("size", "red", 420, 260)
    until(lambda: (plain_bed.rows()["Red"].width, plain_bed.rows()["Red"].height) == (420, 260))
    guest.do("size", "red", 30000, 30000)
    time.sleep(0.5)
    row = plain_bed.rows()["Red"]
    assert row.width <= LARGEST and row.height <= LARGEST
    assert windows.is_ready(plain_bed.run)


@pytest.mark.spawns
def test_menus_have_a_border_and_stay_on_the_screen(plain_bed: Bed) -> None:
    guest = Client(plain_bed)
    guest.do("menu", "menu", 1300, 880, 200, 100, "0000cc")
    # Moved, so that all of it and its border are there.
    until(lambda: plain_bed.color(1300, 850) == 0x0000CC)
    assert plain_bed.color(1398, 850) == COLOR and plain_bed.color(1300, 898) == COLOR
    # And a line in the other color: a menu upon a label is seen to be one.
    assert plain_bed.color(1399, 850) == INK and plain_bed.color(1300, 899) == INK
    guest.do("gone", "menu")
    until(lambda: plain_bed.color(1300, 850) != 0x0000CC)
    # One that would cover the screen is a window as any other: with a frame that says whose it is.
    guest.do("menu", "fake", 0, 0, 1400, 900, "00cccc")
    until(lambda: windows.windows_of(plain_bed.run))
    (row,) = windows.windows_of(plain_bed.run)
    assert row.height <= 900


@pytest.mark.spawns
def test_titles_are_ours_to_write(plain_bed: Bed) -> None:
    guest = Client(plain_bed)
    guest.do("window", "red", 300, 200, "cc0000")
    plain_bed.wait_for("Red")
    guest.do("title", "red", r"[vault]\x1b[2J\n\u202email")
    until(lambda: "vault" in plain_bed.rows()["Red"].title)
    assert plain_bed.rows()["Red"].title == "[vault][2J mail"
    guest.do("huge", "red")
    assert windows.is_ready(plain_bed.run)


@pytest.mark.spawns
def test_keys_for_crossing_are_ours(plain_bed: Bed) -> None:
    guest = Client(plain_bed)
    guest.do("window", "red", 300, 200, "cc0000")
    plain_bed.wait_for("Red")
    plain_bed.take_keyboard("Red")
    plain_bed.xdotool("key", "ctrl+shift+c")
    until(lambda: plain_bed.crossed.exists() and plain_bed.crossed.read_text() == "clip copy work\n")
    plain_bed.xdotool("key", "ctrl+shift+v")
    until(lambda: plain_bed.crossed.read_text() == "clip copy work\nclip paste work\n")
    plain_bed.xdotool("key", "x")
    seen = guest.wait_to_hear("key red x")
    assert seen == "key red x"
    assert not [line for line in guest.do("nothing") if line.lower() in ("key red c", "key red v")]


@pytest.mark.spawns
def test_another_keyboard_and_its_groups_follow(plain_bed: Bed) -> None:
    from Xlib import X
    from Xlib.ext import xtest

    guest = Client(plain_bed)
    guest.do("window", "red", 300, 200, "cc0000")
    plain_bed.wait_for("Red")
    plain_bed.take_keyboard("Red")
    env = {**os.environ, "DISPLAY": plain_bed.desktop}
    subprocess.run(["setxkbmap", "-layout", "de,ru"], env=env, check=True)
    # The key of Z is 52: y on a German keyboard, and я on a Russian one (keysym Cyrillic_ya, 0x6d1).
    said: list[str] = []

    with plain_bed.desk() as opened:
        keyboard = Keyboard(opened)

        def types(line: str) -> bool:
            # Not by xdotool, which locks a group of its own.
            for kind in (X.KeyPress, X.KeyRelease):
                xtest.fake_input(opened, kind, 52)
            opened.sync()
            time.sleep(0.2)
            said.extend(guest.do("nothing"))
            return line in said

        until(lambda: types("key red y"))
        keyboard.lock(0, 1)
        opened.sync()
        until(lambda: types("key red 0x6d1"))
        keyboard.lock(0, 0)
        opened.sync()
        said.clear()
        until(lambda: types("key red y"))


@pytest.mark.spawns
@pytest.mark.parametrize("which", [0, 1], ids=["reader", "painter"])
def test_a_half_that_dies_begins_anew(which: int, plain_bed: Bed) -> None:
    guest = Client(plain_bed)
    guest.do("window", "red", 300, 200, "cc0000")
    plain_bed.wait_for("Red")
    before = plain_bed.halves()
    os.kill(before[which], signal.SIGKILL)
    until(lambda: len(plain_bed.halves()) == 2 and not set(plain_bed.halves()) & set(before))
    row = plain_bed.wait_for("Red")
    until(lambda: plain_bed.color(row.x + 20, row.y + 20) == 0xCC0000)
    guest.do("gone", "red")
    until(lambda: not plain_bed.rows())


@pytest.mark.spawns
@pytest.mark.parametrize("what", ["the VM", "the minder", "the nested display", "the desktop"])
def test_nothing_is_left_when_something_ends(what: str, plain_bed: Bed) -> None:
    Client(plain_bed).do("window", "red", 300, 200, "cc0000")
    plain_bed.wait_for("Red")
    halves = plain_bed.halves()
    if what == "the VM":
        plain_bed.lives[layout.QEMU_LIFE].close()
    elif what == "the minder":
        plain_bed.glass.kill()
    elif what == "the nested display":
        plain_bed.nested.kill()
        plain_bed.lives[layout.DISPLAY_LIFE].close()
    else:
        plain_bed.host.kill()
    until(lambda: plain_bed.glass.poll() is not None)
    until(lambda: not [pid for pid in halves if alive(pid)])


# A program that gives the whole display a pointer, and ends: the server tells nobody of its picture then.
POINTER = """
import sys
from Xlib import display
opened = display.Display(sys.argv[1])
font = opened.open_font("cursor")
made = font.create_glyph_cursor(font, 150, 151, (0, 0, 0), (65535, 65535, 65535))
opened.screen().root.change_attributes(cursor=made)
opened.sync()
"""


@pytest.mark.spawns
def test_a_pointer_whose_owner_has_ended_ends_no_window(plain_bed: Bed) -> None:
    Client(plain_bed).do("window", "red", 300, 200, "cc0000")
    row = plain_bed.wait_for("Red")
    plain_bed.xdotool("mousemove", str(row.x + 50), str(row.y + 50))
    before = plain_bed.halves()
    env = {**os.environ, "XAUTHORITY": str(plain_bed.run / layout.XAUTHORITY)}
    for _ in range(3):
        subprocess.run([sys.executable, "-c", POINTER, f":{plain_bed.number}"], env=env, check=True)
        plain_bed.xdotool("mousemove_relative", "1", "1")
        time.sleep(0.3)
    assert plain_bed.halves() == before and "Red" in plain_bed.rows()


@pytest.mark.spawns
def test_a_display_that_is_another_is_held_by_a_client_of_its_own(plain_bed: Bed) -> None:
    """Whoever dies afterwards does not end it."""
    Client(plain_bed).do("window", "red", 300, 200, "cc0000")
    plain_bed.wait_for("Red")
    for which in (0, 1, 0):
        before = plain_bed.halves()
        os.kill(before[which], signal.SIGKILL)
        until(lambda before=before: len(plain_bed.halves()) == 2 and not set(plain_bed.halves()) & set(before))
        plain_bed.wait_for("Red")
    held = {path.readlink().name for path in Path(f"/proc/{plain_bed.glass.pid}/fd").iterdir()}
    assert len([name for name in held if name.startswith("socket:")]) == 1


def test_what_was_tried_a_minute_ago_is_no_try_and_yet_no_beginning() -> None:
    now = time.monotonic()
    past = glass._Past.parse(["7", repr(now - 100), repr(now - 1), "1"])
    assert past == glass._Past(again=True, idle=7, begun=(now - 1,), seen=True)
    assert glass._Past.parse(["-1", repr(now - 100), "0"]) == glass._Past(again=True)
    assert glass._Past.parse([]) == glass._Past()


@pytest.mark.spawns
def test_a_display_that_ended_while_its_vm_lives_is_told(plain_bed: Bed) -> None:
    Client(plain_bed).do("window", "red", 300, 200, "cc0000")
    plain_bed.wait_for("Red")
    plain_bed.nested.kill()
    plain_bed.lives[layout.DISPLAY_LIFE].close()
    until(lambda: plain_bed.glass.poll() is not None)
    told = until(lambda: plain_bed.xdotool("search", "--name", r"^\[work\] okubsd$"))
    assert len(told.split()) == 1


def alive(pid: int) -> bool:
    """Return whether a process lives, and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


@pytest.mark.spawns
def test_a_guest_that_holds_its_server_holds_nothing_of_ours(plain_bed: Bed) -> None:
    guest = Client(plain_bed)
    guest.do("window", "red", 300, 200, "cc0000")
    row = plain_bed.wait_for("Red")
    guest.do("grab")
    frame = plain_bed.frame("work. red")
    plain_bed.xdotool("windowmove", frame, "700", "500")
    until(lambda: plain_bed.rows()["Red"].x > 600)
    now = plain_bed.rows()["Red"]
    assert plain_bed.color(now.x + now.width + 1, now.y + 50) == COLOR and now.x != row.x
    guest.do("ungrab")
    plain_bed.wait_for("Red")


@pytest.mark.spawns
def test_a_flood_of_windows_is_bounded(plain_bed: Bed) -> None:
    guest = Client(plain_bed)
    guest.do("many", 700)
    until(lambda: len(windows.windows_of(plain_bed.run)) >= 400, 60)
    assert len(windows.windows_of(plain_bed.run)) <= MOST_WINDOWS
    memory = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 for pid in plain_bed.halves()]
    assert max(memory) < 200 << 20


@pytest.mark.spawns
def test_a_cursor_of_any_size_stays_small(plain_bed: Bed) -> None:
    guest = Client(plain_bed)
    guest.do("window", "red", 300, 200, "cc0000")
    row = plain_bed.wait_for("Red")
    plain_bed.xdotool("mousemove", str(row.x + 50), str(row.y + 60))
    for size in (16, 3000):
        guest.do("cursor", "red", size)
        time.sleep(0.3)
        with plain_bed.desk() as opened:
            opened.xfixes_query_version()
            image = opened.xfixes_get_cursor_image(opened.screen().root)
            assert image.width <= 64 and image.height <= 64
    assert windows.is_ready(plain_bed.run)


# --- a reader that lies ------------------------------------------------------------------------------

LIE = 0xFF00FF
_NUMBER = st.one_of(st.integers(-50, 400), SIZES)
_WINDOW = st.integers(1, 5)
LIES = st.lists(
    st.one_of(
        st.builds(Message, st.just(Told.WINDOW), _WINDOW, st.tuples(*[_NUMBER] * 4, st.integers(0, 1), _WINDOW)),
        st.builds(Message, st.just(Told.PIXELS), _WINDOW, st.tuples(*[_NUMBER] * 4, st.integers(0, 1))),
        st.builds(Message, st.sampled_from(list(Told)), _WINDOW, st.tuples(*[_NUMBER] * 8), st.text(max_size=40)),
    ),
    min_size=1,
    max_size=12,
)


@pytest.fixture(scope="module")
def small_desktop() -> Iterator[str]:
    server, number = serve("-noreset", size=(300, 200))
    yield f":{number}"
    server.kill()
    server.wait()


def insides(painter: Painter) -> list[Box]:
    """Return where guests' pixels may be, as the server has it."""
    found = []
    for pane in painter.panes.values():
        place = painter.desk.root.translate_coords(pane.inner, 0, 0)
        size = pane.inner.get_geometry()
        found.append(Box(place.x, place.y, size.width, size.height))
    return found


def lies_outside(painter: Painter) -> list[tuple[int, int]]:
    """Return where the lie's color is outside of the insides of frames."""
    from Xlib import X

    boxes = insides(painter)
    data = bytes(painter.desk.root.get_image(0, 0, 300, 200, X.ZPixmap, 0xFFFFFFFF).data)
    wanted, found, at = LIE.to_bytes(3, "little"), [], -1
    while (at := data.find(wanted, at + 1)) >= 0:
        x, y = at // 4 % 300, at // 4 // 300
        if at % 4 == 0 and not any(b.x <= x < b.x + b.width and b.y <= y < b.y + b.height for b in boxes):
            found.append((x, y))
    return found


@pytest.mark.spawns
@pytest.mark.parametrize("shared", [True, False], ids=["shared memory", "plain images"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lies=LIES)
def test_whatever_a_reader_says_nothing_is_painted_outside_of_a_frame(
    shared: bool, small_desktop: str, lies: list[Message]
) -> None:
    from Xlib import display as xdisplay

    opened = xdisplay.Display(small_desktop)
    ours, theirs = pair()
    slots = Slots(1 << 20)
    slots.lay(0, LIE.to_bytes(4, "little") * (1 << 18))
    slots.lay(1, LIE.to_bytes(4, "little") * (1 << 18))
    painter = Painter(opened, Wire(ours, Told), slots, Look("work", COLOR, 0xFFFFFF, "nat"), Deeds(print, print, print))
    assert painter.segment is not None
    painter.segment = painter.segment if shared else None
    try:
        theirs.sendall(b"".join(encode(message) for message in lies))
        theirs.sendall(encode(Message(Told.READY)))
        with contextlib.suppress(Hung):
            while not painter.ready:
                painter.turn([])
        opened.sync()
        assert lies_outside(painter) == [] and len(painter.panes) <= MOST_WINDOWS
    finally:
        opened.close()
        theirs.close()


# --- the question ------------------------------------------------------------------------------------


@pytest.fixture
def asking(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Ask on a desktop of the test's own; yields what begins a question, which has the desktop in its ``desktop``."""
    server, number = serve("-noreset")
    begun: list[subprocess.Popen[bytes]] = []

    def ask(seconds: float = 30.0) -> subprocess.Popen[bytes]:
        asked = Question(desktop=f":{number}", question="clip from web to vault", what="5 letters: hello",
                         place="/p/a.policy:1", seconds=seconds)  # fmt: skip
        env = {**os.environ, "PYTHONPATH": str(CHECKOUT), "DISPLAY": f":{number}"}
        begun.append(subprocess.Popen([sys.executable, "-m", "okubsd.host.glass.ask", asked.render()], env=env))
        until(lambda: xdotool(number, "search", "--name", "okubsd asks"))
        return begun[-1]

    ask.desktop = number  # type: ignore[attr-defined]
    yield ask
    for child in begun:
        child.kill()
        child.wait()
    server.kill()
    server.wait()


def xdotool(display: int, *words: str) -> str:
    env = {**os.environ, "DISPLAY": f":{display}"}
    return subprocess.run(["xdotool", *words], env=env, capture_output=True, text=True, check=False).stdout.strip()


@pytest.mark.spawns
@pytest.mark.parametrize(
    ("deed", "code"),
    [
        (("key", "Return"), 1),
        (("key", "Escape"), 1),
        (("key", "ctrl+y"), 0),
        # In the middle above: the buttons are at known places of the window.
        (("mousemove", str(440 + 440), str(236 + 156), "click", "1"), 0),
        (("mousemove", str(440 + 80), str(236 + 156), "click", "1"), 1),
    ],
)
def test_a_question_is_answered_by_what_nobody_does_by_the_way(asking: Any, deed: tuple[str, ...], code: int) -> None:
    child = asking()
    # What is typed on, and in the first second, is no answer.
    xdotool(asking.desktop, "key", "ctrl+y")
    time.sleep(1.3)
    xdotool(asking.desktop, "type", "yes 1")
    # Too soon after what was typed by the way.
    xdotool(asking.desktop, "key", "ctrl+y")
    time.sleep(0.2)
    assert child.poll() is None
    time.sleep(1.2)
    xdotool(asking.desktop, *deed)
    assert child.wait(20) == code


@pytest.mark.spawns
def test_no_answer_is_no_and_so_is_no_display(asking: Any) -> None:
    assert asking(2.0).wait(30) == 1
    asked = Question(desktop=":9", question="q", what="w", place="p", seconds=5)
    argv = [sys.executable, "-m", "okubsd.host.glass.ask", asked.render()]
    assert subprocess.run(argv, cwd=CHECKOUT, check=False, stderr=subprocess.DEVNULL).returncode == 1


@pytest.mark.spawns
def test_an_event_that_a_program_sends_is_no_answer(asking: Any) -> None:
    from Xlib import X
    from Xlib import display as xdisplay
    from Xlib.protocol import event as xevent

    child = asking()
    time.sleep(1.2)
    opened = xdisplay.Display(f":{asking.desktop}")
    window = opened.create_resource_object("window", int(xdotool(asking.desktop, "search", "--name", "okubsd asks")))
    values = {"root": opened.screen().root, "window": window, "child": X.NONE, "root_x": 0, "root_y": 0, "same_screen": 1,
              "time": X.CurrentTime}  # fmt: skip
    key = xevent.KeyPress(detail=29, event_x=0, event_y=0, state=X.ControlMask, **values)
    click = xevent.ButtonRelease(detail=1, event_x=440, event_y=156, state=0, **values)
    for sent in (key, click):
        window.send_event(sent, 0)
    opened.sync()
    time.sleep(1.5)
    assert child.poll() is None
    # What somebody types is one.
    xdotool(asking.desktop, "key", "ctrl+y")
    assert child.wait(30) == 0
    opened.close()


# --- attacks that were tried, and held since -----------------------------------------------------------


@pytest.mark.spawns
def test_a_window_never_covers_more_than_the_screen_with_its_frame(bed: Bed) -> None:
    guest = Client(bed)
    guest.do("window", "big", 2790, 1780, "cc0000")
    row = bed.wait_for("Big")
    assert row.width < 1400 and row.height < 900
    # The label is on the screen, also where the guest asks for a place above it.
    until(lambda: bed.color(max(1, bed.rows()["Big"].x) + 1, bed.rows()["Big"].y - 18) == COLOR)
    guest.do("place", "big", -300, -300, 30000, 30000)
    time.sleep(0.5)
    row = bed.rows()["Big"]
    assert row.width < 1400 and row.height < 900 and row.y >= 20
    assert bed.color(max(1, row.x) + 1, row.y - 18) == COLOR


@pytest.mark.spawns
def test_a_menu_does_not_grow_over_the_screen_nor_do_two(plain_bed: Bed) -> None:
    guest = Client(plain_bed)
    guest.do("menu", "one", 100, 100, 50, 50, "0000cc")
    until(lambda: plain_bed.color(120, 120) == 0x0000CC)
    guest.do("place", "one", 0, 0, 1400, 900)
    guest.do("menu", "two", 0, 0, 1390, 600, "00cc00")
    guest.do("menu", "three", 0, 0, 1390, 800, "cccc00")
    time.sleep(1)
    assert plain_bed.color(1300, 880) not in (0x0000CC, 0x00CC00, 0xCCCC00)
    # The others are windows with a frame.
    assert len(windows.windows_of(plain_bed.run)) == 2


@pytest.mark.spawns
@pytest.mark.parametrize("manager", ["cwm", "openbox", "i3"])
def test_a_window_that_comes_by_itself_hears_nothing_of_what_is_typed(manager: str, tmp_path: Path) -> None:
    bed = Bed(tmp_path, manager, expecting=False)
    try:
        guest = Client(bed)
        guest.do("window", "red", 300, 200, "cc0000")
        bed.wait_for("Red")
        # As fast as somebody types on who did not see it come.
        for letter in "secret":
            bed.xdotool("key", letter)
        assert not [line for line in guest.do("nothing") if line.startswith("key")]
        time.sleep(1.5)
        bed.xdotool("windowfocus", bed.frame("work. red"))
        # Who gives it the keyboard has to stop for a moment, too; or to point into it.
        time.sleep(1)
        bed.xdotool("key", "h")
        guest.wait_to_hear("key red h")
    finally:
        bed.end()


@pytest.mark.spawns
def test_a_flood_of_titles_ends_nothing(plain_bed: Bed) -> None:
    guest = Client(plain_bed)
    guest.do("window", "red", 300, 200, "cc0000")
    plain_bed.wait_for("Red")
    before = plain_bed.halves()
    for _ in range(3):
        guest.do("titles", "red", 40_000)
    until(lambda: plain_bed.rows().get("Red") is not None and plain_bed.rows()["Red"].title == "title 39999", 60)
    assert plain_bed.halves() == before and plain_bed.log.read_text() == ""


@pytest.mark.spawns
def test_what_programs_send_as_if_a_server_said_it_is_nothing(plain_bed: Bed) -> None:
    guest = Client(plain_bed)
    guest.do("window", "red", 300, 200, "cc0000")
    plain_bed.wait_for("Red")
    before = plain_bed.halves()
    for _ in range(5):
        guest.do("lies", "red")
    guest.do("window", "blue", 300, 200, "0000cc")
    plain_bed.wait_for("Blue")
    assert set(plain_bed.rows()) == {"Red", "Blue"} and plain_bed.halves() == before
    assert plain_bed.log.read_text() == ""


def fake(opened: Any, kind: int, *codes: int) -> None:
    """Press or release keys as hands do; not by xdotool, which lets go of them at once."""
    from Xlib.ext import xtest

    for code in codes:
        xtest.fake_input(opened, kind, code)
    opened.sync()


@pytest.mark.spawns
def test_keys_are_let_go_of_when_their_window_goes(plain_bed: Bed) -> None:
    from Xlib import X

    guest = Client(plain_bed)
    guest.do("window", "red", 300, 200, "cc0000")
    plain_bed.wait_for("Red")
    plain_bed.take_keyboard("Red")
    with plain_bed.desk() as opened:
        # Control, and w, held while the window goes.
        fake(opened, X.KeyPress, 37, 25)
        guest.wait_to_hear("key red w")
        guest.do("gone", "red")
        until(lambda: not plain_bed.rows())
        fake(opened, X.KeyRelease, 37, 25)
    until(lambda: guest.held() == set())


@pytest.mark.spawns
def test_a_key_for_crossing_that_is_held_crosses_once(plain_bed: Bed) -> None:
    from Xlib import X

    guest = Client(plain_bed)
    guest.do("window", "red", 300, 200, "cc0000")
    plain_bed.wait_for("Red")
    plain_bed.take_keyboard("Red")
    with plain_bed.desk() as opened:
        codes = (37, 50, opened.keysym_to_keycode(ord("c")))
        fake(opened, X.KeyPress, *codes)
        time.sleep(2)
        fake(opened, X.KeyRelease, *reversed(codes))
    until(plain_bed.crossed.exists)
    assert plain_bed.crossed.read_text() == "clip copy work\n"


@pytest.mark.spawns
def test_a_reader_that_is_taken_over_fills_neither_disk_nor_memory() -> None:
    code = """
import mmap, os, sys
from okubsd.host.glass import sandbox
log = os.open("log", os.O_WRONLY | os.O_CREAT)
sandbox.enter(64 << 20)
written = 0
try:
    while written < 64 << 20:
        written += os.write(log, bytes(1 << 16))
except OSError:
    pass
assert written <= 1 << 20, written
try:
    held = [mmap.mmap(-1, 16 << 20) for _ in range(100)]
    sys.exit("memory without end")
except OSError:
    os.write(1, b"held")
"""
    with tempfile.TemporaryDirectory() as name:
        env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
        argv = [sys.executable, "-c", code]
        done = subprocess.run(argv, capture_output=True, text=True, cwd=name, env=env, check=False)
    assert (done.returncode, done.stdout) == (0, "held"), done.stderr


@pytest.mark.spawns
def test_a_display_without_programs_outlives_a_half(tmp_path: Path) -> None:
    bed = Bed(tmp_path, "none", options=("-terminate",))
    try:
        os.kill(bed.halves()[1], signal.SIGKILL)
        time.sleep(2)
        assert bed.nested.poll() is None
        Client(bed).do("window", "red", 300, 200, "cc0000")
        bed.wait_for("Red")
    finally:
        bed.end()


@pytest.mark.spawns
def test_a_key_that_is_held_and_clicks_that_go_on_are_no_yes(asking: Any) -> None:
    from Xlib import X
    from Xlib import display as xdisplay

    opened = xdisplay.Display(f":{asking.desktop}")
    fake(opened, X.KeyPress, 37, opened.keysym_to_keycode(ord("y")))
    child = asking(4.0)
    for _ in range(15):
        xdotool(asking.desktop, "mousemove", str(440 + 440), str(236 + 156), "click", "1")
        time.sleep(0.2)
    assert child.wait(30) == 1
    opened.close()
