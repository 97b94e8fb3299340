"""What a guest does that nobody asked for: windows, menus and full screens that come by themselves, on real desktops."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from Xlib import X
from Xlib.protocol.event import ClientMessage

from okubsd.config.chords import is_key, parse_chord, usual_code
from okubsd.host import hands, windows
from okubsd.host.glass.whole import set_screen
from tests.glass_bed import COLOR, SIZE, Bed, Client, until

pytestmark = pytest.mark.spawns

FULL = "_NET_WM_STATE_FULLSCREEN"


@contextlib.contextmanager
def own_terminal(bed: Bed) -> Iterator[str]:
    """Have a terminal of the user's own on the desktop, pointed at; yield its window."""
    env = {**os.environ, "DISPLAY": bed.desktop}
    argv = ["xterm", "-T", "mine", "-geometry", "60x20+700+400"]
    terminal = subprocess.Popen(argv, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    bed.children.append(terminal)
    window = bed.frame("mine")
    time.sleep(0.5)
    bed.xdotool("mousemove", "900", "500", "click", "1")
    time.sleep(0.3)
    yield window


@contextlib.contextmanager
def typing(bed: Bed) -> Iterator[None]:
    """Have the user type on for the block, as one who does not look."""
    stop = threading.Event()

    def type_on() -> None:
        while not stop.wait(0.1):
            bed.xdotool("key", "s")

    hand = threading.Thread(target=type_on)
    hand.start()
    try:
        yield
    finally:
        stop.set()
        hand.join()


def heard(guest: Client) -> list[str]:
    return [line for line in guest.do("nothing") if line.startswith(("key", "raw"))]


def click(bed: Bed, guest: Client, app: str) -> None:
    row = bed.wait_for(app)
    bed.xdotool("mousemove", str(row.x + 40), str(row.y + 60), "click", "1")
    guest.wait_to_hear("button")
    until(lambda: bed.rows()[app].focused)


def test_one_window_after_the_other_hears_nothing_of_what_is_typed_elsewhere(tmp_path: Path) -> None:
    with Bed(tmp_path, "cwm", expecting=False) as bed:
        guest = Client(bed)
        # Not even that a key is let go of.
        guest.do("raw")
        with own_terminal(bed), typing(bed):
            guest.do("window", "one", 200, 150, "0000cc")
            time.sleep(0.3)
            guest.do("window", "two", 200, 150, "00cc00")
            time.sleep(1.5)
            said = heard(guest)
        assert len(windows.windows_of(bed.run)) == 2 and not said
        # Who is told of everything is told of what is meant for it.
        click(bed, guest, "Two")
        bed.xdotool("key", "x")
        until(lambda: "raw" in heard(guest))


def test_who_left_a_vm_is_not_listened_to_by_its_next_window(tmp_path: Path) -> None:
    with Bed(tmp_path, "cwm") as bed:
        guest = Client(bed)
        guest.do("window", "red", 300, 200, "cc0000")
        click(bed, guest, "Red")
        with own_terminal(bed), typing(bed):
            guest.do("window", "blue", 900, 700, "0000cc")
            until(lambda: "Blue" in bed.rows())
            time.sleep(1.5)
            assert not heard(guest)


@pytest.mark.parametrize(
    "kind", [("window", "red", 900, 700), ("menu", "red", 300, 200, 600, 400)], ids=lambda kind: kind[0]
)
def test_what_comes_under_the_pointer_hears_nothing_where_the_keyboard_follows_it(
    kind: tuple[object, ...], tmp_path: Path
) -> None:
    with Bed(tmp_path, "none", expecting=False) as bed:
        guest = Client(bed)
        bed.xdotool("mousemove", "500", "400")
        with typing(bed):
            guest.do(*kind, "cc0000")
            time.sleep(1.2)
            assert not heard(guest)
        # Who has seen it stops, and types then.
        time.sleep(1)
        bed.xdotool("key", "h")
        guest.wait_to_hear("key red h")


@pytest.mark.parametrize("manager", ["cwm", "openbox", "i3"])
def test_what_was_started_hears_nothing_while_the_user_types_elsewhere(manager: str, tmp_path: Path) -> None:
    with Bed(tmp_path, manager) as bed:
        guest = Client(bed)
        with own_terminal(bed):
            with typing(bed):
                guest.do("window", "red", 900, 700, "cc0000")
                time.sleep(1.5)
                assert not heard(guest)
            # Who has seen it stops, and types into it without a click.
            time.sleep(1)
            bed.take_keyboard("Red")
            bed.xdotool("key", "h")
            guest.wait_to_hear("key red h")


def test_a_window_of_his_that_comes_under_the_pointer_hears_nothing_of_what_is_typed_elsewhere(tmp_path: Path) -> None:
    with Bed(tmp_path, "cwm") as bed:
        guest = Client(bed)
        guest.do("window", "red", 300, 200, "cc0000")
        click(bed, guest, "Red")
        bed.xdotool("windowmove", bed.frame("work. red"), "10", "10")
        with own_terminal(bed), typing(bed):
            bed.xdotool("windowraise", bed.frame("work. red"))
            guest.do("nothing")
            guest.do("size", "red", 1300, 800)
            until(lambda: bed.rows()["Red"].width > 1000)
            time.sleep(1.0)
            assert not heard(guest)


@pytest.mark.parametrize("manager", ["cwm", "openbox", "i3"])
def test_a_window_that_is_raised_hears_nothing_of_what_is_typed_elsewhere(manager: str, tmp_path: Path) -> None:
    """Whoever asks for it may not be the user."""
    with Bed(tmp_path, manager) as bed:
        guest = Client(bed)
        guest.do("window", "red", 300, 200, "cc0000")
        click(bed, guest, "Red")
        guest.do("window", "blue", 300, 200, "0000cc")
        number = bed.wait_for("Blue").window
        with own_terminal(bed):
            with typing(bed):
                assert windows.do(bed.run, "raise", number)
                time.sleep(1.2)
                assert not heard(guest)
            time.sleep(1)
            assert windows.do(bed.run, "raise", number)
            until(lambda: bed.rows()["Blue"].focused)
            bed.xdotool("key", "h")
            guest.wait_to_hear("key blue h")


def test_a_window_that_grows_in_a_pause_hears_not_even_the_first_key(tmp_path: Path) -> None:
    with Bed(tmp_path, "cwm") as bed:
        guest = Client(bed)
        guest.do("window", "red", 300, 200, "cc0000")
        click(bed, guest, "Red")
        bed.xdotool("windowmove", bed.frame("work. red"), "10", "10")
        with own_terminal(bed):
            bed.xdotool("windowraise", bed.frame("work. red"))
            time.sleep(0.8)
            guest.do("size", "red", 1300, 800)
            until(lambda: bed.rows()["Red"].width > 1000 and bed.rows()["Red"].focused)
            for letter in "secret":
                bed.xdotool("key", letter)
                time.sleep(0.1)
            assert not heard(guest)


def test_a_window_that_asks_for_the_size_that_it_has_stays_the_users(tmp_path: Path) -> None:
    with Bed(tmp_path, "cwm") as bed:
        guest = Client(bed)
        guest.do("window", "red", 300, 200, "cc0000")
        click(bed, guest, "Red")
        with own_terminal(bed):
            guest.do("size", "red", 300, 200)
            time.sleep(0.3)
            bed.xdotool("windowfocus", bed.frame("work. red"))
            until(lambda: bed.rows()["Red"].focused)
            bed.xdotool("key", "h")
            guest.wait_to_hear("key red h")


def test_what_a_program_shows_while_it_begins_does_not_use_up_the_start(tmp_path: Path) -> None:
    with Bed(tmp_path, "cwm") as bed:
        guest = Client(bed)
        guest.do("window", "splash", 200, 100, "cccccc")
        bed.wait_for("Splash")
        with own_terminal(bed):
            guest.do("gone", "splash")
            until(lambda: not bed.rows())
            time.sleep(1.5)
            guest.do("window", "main", 300, 200, "cc0000")
            until(lambda: "Main" in bed.rows() and bed.rows()["Main"].focused)


def test_a_menu_of_his_that_comes_under_the_pointer_hears_nothing(tmp_path: Path) -> None:
    with Bed(tmp_path, "none") as bed:
        guest = Client(bed)
        guest.do("window", "red", 300, 200, "cc0000")
        row = bed.wait_for("Red")
        bed.xdotool("mousemove", str(row.x + 40), str(row.y + 60), "click", "1")
        guest.wait_to_hear("button")
        guest.do("menu", "blue", 1000, 600, 100, 80, "0000cc")
        until(lambda: bed.color(1020, 620) == 0x0000CC)
        bed.xdotool("mousemove", "500", "400")
        with typing(bed):
            guest.do("place", "blue", 450, 350, 200, 150)
            until(lambda: bed.color(520, 420) == 0x0000CC)
            time.sleep(1.0)
            assert not heard(guest)


def test_keys_of_ours_mean_nothing_in_a_window_that_came_by_itself(tmp_path: Path) -> None:
    with Bed(tmp_path, "cwm", expecting=False) as bed:
        guest = Client(bed)
        with own_terminal(bed):
            guest.do("window", "red", 300, 200, "cc0000")
            bed.wait_for("Red")
            bed.xdotool("windowfocus", bed.frame("work. red"))
            bed.xdotool("key", "ctrl+shift+v")
            time.sleep(0.5)
        assert not bed.crossed.exists()
        click(bed, guest, "Red")
        bed.xdotool("key", "ctrl+shift+v")
        until(bed.crossed.exists)


def test_many_thin_menus_do_not_cover_a_screen(tmp_path: Path) -> None:
    with Bed(tmp_path, "openbox") as bed:
        guest = Client(bed)
        for number in range(75):
            guest.do("menu", f"m{number}", 0, 12 * number, 1394, 6, "00ff00")
        time.sleep(1)
        # Half of the screen at most is of menus, with all that is around them; the rest are windows with a frame.
        framed = len(windows.windows_of(bed.run))
        assert framed >= 30
        with bed.desk() as opened:
            children = opened.screen().root.query_tree().children
            menus = [child for child in children if child.get_attributes().override_redirect]
            seen = [child.get_geometry() for child in menus if child.get_attributes().map_state == X.IsViewable]
        covered = sum((box.width + 2) * (box.height + 2) for box in seen if box.width > 1000)
        assert covered <= SIZE[0] * SIZE[1] / 2


def test_a_menu_goes_where_the_screen_becomes_too_small_for_it(tmp_path: Path) -> None:
    with Bed(tmp_path, "openbox") as bed:
        guest = Client(bed)
        guest.do("menu", "one", 0, 0, 700, 800, "00cc00")
        until(lambda: bed.color(300, 300) == 0x00CC00)
        with bed.desk() as opened:
            set_screen(opened, 640, 480)
            opened.sync()
        until(lambda: bed.color(300, 300) != 0x00CC00)


@pytest.mark.parametrize("manager", ["openbox", "cwm"])
def test_a_screen_that_was_left_by_other_means_is_not_had_back(manager: str, tmp_path: Path) -> None:
    with Bed(tmp_path, manager, fullscreen=True) as bed:
        guest = Client(bed)
        guest.do("window", "red", 300, 200, "cc0000")
        click(bed, guest, "Red")
        guest.do("state", "red", 1, FULL)
        until(lambda: bed.rows()["Red"].width > SIZE[0] - 50)
        until(lambda: FULL in " ".join(guest.do("states", "red")))
        # As the window manager's own key, or a pager, has it leave.
        with bed.desk() as opened:
            top = opened.create_resource_object("window", int(bed.frame("work. red")))
            atoms = [opened.intern_atom(name) for name in ("_NET_WM_STATE", FULL)]
            told = ClientMessage(window=top, client_type=atoms[0], data=(32, [0, atoms[1], 0, 2, 0]))
            opened.screen().root.send_event(told, X.SubstructureRedirectMask | X.SubstructureNotifyMask)
            opened.sync()
        until(lambda: bed.rows()["Red"].width < SIZE[0] - 50)
        for _ in range(4):
            time.sleep(0.3)
            guest.do("state", "red", 1, FULL)
        # Nor does another window of the VM get it.
        guest.do("window", "blue", 300, 200, "0000cc")
        until(lambda: "Blue" in bed.rows())
        bed.xdotool("windowfocus", bed.frame("work. blue"))
        time.sleep(0.3)
        guest.do("state", "blue", 1, FULL)
        time.sleep(0.7)
        assert all(row.width < SIZE[0] - 50 for row in bed.rows().values())
        # Until the user points into one.
        click(bed, guest, "Blue")
        guest.do("state", "blue", 1, FULL)
        until(lambda: bed.rows()["Blue"].width > SIZE[0] - 50)


def test_a_window_that_came_by_itself_does_not_fill_the_screen(tmp_path: Path) -> None:
    with Bed(tmp_path, "cwm", expecting=False, fullscreen=True) as bed:
        guest = Client(bed)
        with own_terminal(bed):
            guest.do("window", "red", 300, 200, "cc0000")
            bed.wait_for("Red")
            bed.xdotool("windowfocus", bed.frame("work. red"))
            guest.do("state", "red", 1, FULL)
            time.sleep(0.7)
            assert bed.rows()["Red"].width < SIZE[0] - 50


def test_a_key_whose_press_the_guest_got_is_let_go_of_there(tmp_path: Path) -> None:
    with Bed(tmp_path, "openbox") as bed:
        guest = Client(bed)
        guest.do("window", "red", 300, 200, "cc0000")
        click(bed, guest, "Red")
        for word in ("keydown c", "keydown ctrl", "keydown shift", "keyup c", "keyup shift", "keyup ctrl"):
            bed.xdotool(*word.split())
        until(lambda: not guest.held())
        assert not bed.crossed.exists()
        guest.do("nothing")
        bed.xdotool("key", "c")
        guest.wait_to_hear("key red c")


def test_a_title_does_not_look_like_a_notice(tmp_path: Path) -> None:
    with Bed(tmp_path, "openbox") as bed:
        guest = Client(bed)
        guest.do("window", "red", 400, 200, "cc0000")
        row = bed.wait_for("Red")

        # A letter may be at any pixel of it: the middle of the label, between two letters, is looked at as a whole.
        def label() -> int:
            with bed.desk() as opened:
                image = opened.screen().root.get_image(row.x, row.y - 18, 380, 16, X.ZPixmap, 0xFFFFFFFF)
            return int(image.data.count(COLOR.to_bytes(4, "little")[:3]))

        until(lambda: label() > 380 * 16 / 2, 10)
        click(bed, guest, "Red")
        bed.xdotool("key", "ctrl+shift+c")
        until(lambda: label() < 380 * 16 / 2)
        guest.do("title", "red", "xxxxxxxxxx copied")
        until(lambda: label() > 380 * 16 / 2)


def test_who_ends_the_painter_by_a_window_of_it_has_it_back(tmp_path: Path) -> None:
    with Bed(tmp_path, "none") as bed:
        guest = Client(bed)
        guest.do("window", "red", 300, 200, "cc0000")
        bed.wait_for("Red")
        before = bed.halves()
        bed.xdotool("windowkill", bed.frame("work. red"))
        until(lambda: bed.halves() and not set(bed.halves()) & set(before))
        bed.wait_for("Red")


def test_typing_is_as_asked_whatever_the_user_has_locked_or_holds(tmp_path: Path) -> None:
    with Bed(tmp_path, "openbox") as bed:
        guest = Client(bed)
        guest.do("window", "red", 300, 200, "cc0000")
        click(bed, guest, "Red")
        bed.xdotool("key", "Caps_Lock")
        bed.xdotool("keydown", "ctrl")
        time.sleep(0.5)
        guest.do("nothing")
        hands.type_on("work", bed.number, bed.cookie, "abC")
        said: list[str] = []
        until(lambda: said.extend(heard(guest)) or len(said) >= 4)
        assert [line for line in said if "0xff" not in line][-3:] == ["key red a", "key red b", "key red C"]
        bed.xdotool("keyup", "ctrl")


@pytest.mark.parametrize("name", ["Nosuch", "Alt", "Shift_L", "F25", "", "xx", "!"])
def test_what_is_no_key(name: str) -> None:
    assert not is_key(name)


@pytest.mark.parametrize("name", ["c", "F11", "f1", "Return", "ö", "Print", "7"])
def test_what_is_a_key(name: str) -> None:
    assert is_key(name)


def test_a_keyboard_without_latin_letters_has_our_keys(tmp_path: Path) -> None:
    assert (usual_code("c"), usual_code("q"), usual_code("a"), usual_code("ö")) == (54, 24, 38, 0)
    with Bed(tmp_path, "openbox") as bed:
        subprocess.run(["setxkbmap", "ru"], env={**os.environ, "DISPLAY": bed.desktop}, check=True)
        time.sleep(1)
        guest = Client(bed)
        guest.do("window", "red", 300, 200, "cc0000")
        click(bed, guest, "Red")
        for word in ("keydown 37", "keydown 50", "key 54", "keyup 50", "keyup 37"):
            bed.xdotool(*word.split())
        until(bed.crossed.exists)
        assert bed.crossed.read_text() == "clip copy work\n"


def test_a_window_that_comes_while_somebody_has_the_keyboard_hears_nothing_afterwards(tmp_path: Path) -> None:
    """As whoever asks for a password has it, or a screen that is locked."""
    with Bed(tmp_path, "cwm", expecting=False) as bed:
        guest = Client(bed)
        guest.do("raw")
        with own_terminal(bed), bed.desk() as opened:
            root = opened.screen().root
            root.grab_keyboard(False, X.GrabModeAsync, X.GrabModeAsync, X.CurrentTime)
            opened.sync()
            guest.do("window", "one", 1300, 800, "0000cc")
            bed.wait_for("One")
            opened.ungrab_keyboard(X.CurrentTime)
            opened.sync()
            for letter in "secret":
                bed.xdotool("key", letter)
            bed.xdotool("key", "ctrl+shift+v")
            time.sleep(0.4)
            assert not heard(guest) and not bed.crossed.exists()


def test_nothing_is_pasted_into_a_window_that_nobody_chose(tmp_path: Path) -> None:
    with Bed(tmp_path, "none", expecting=False) as bed:
        guest = Client(bed)
        bed.xdotool("mousemove", "500", "400")
        guest.do("window", "red", 900, 700, "cc0000")
        bed.wait_for("Red")
        for _ in range(2):
            bed.xdotool("key", "ctrl+shift+v")
            time.sleep(1)
        # Nor does a wheel choose one.
        bed.xdotool("click", "5")
        bed.xdotool("key", "ctrl+shift+v")
        time.sleep(0.5)
        assert not bed.crossed.exists()


def test_what_moves_away_and_comes_back_under_the_pointer_waits_again(tmp_path: Path) -> None:
    with Bed(tmp_path, "none", expecting=False) as bed:
        guest = Client(bed)
        bed.xdotool("mousemove", "500", "400")
        guest.do("menu", "red", 300, 200, 600, 400, "cc0000")
        time.sleep(0.3)
        bed.xdotool("key", "s")
        guest.do("place", "red", 1000, 700, 100, 100)
        time.sleep(1)
        guest.do("nothing")
        with typing(bed):
            time.sleep(0.5)
            guest.do("place", "red", 300, 200, 600, 400)
            time.sleep(1)
            assert not heard(guest)


def test_the_key_that_leaves_a_screen_leaves_it_whichever_window_hears_it(tmp_path: Path) -> None:
    with Bed(tmp_path, "openbox", fullscreen=True) as bed:
        guest = Client(bed)
        guest.do("window", "red", 300, 200, "cc0000")
        click(bed, guest, "Red")
        guest.do("state", "red", 1, FULL)
        until(lambda: bed.rows()["Red"].width > SIZE[0] - 50)
        until(lambda: FULL in " ".join(guest.do("states", "red")))
        guest.do("window", "small", 1, 1, "0000cc")
        until(lambda: bed.rows().get("Small") is not None and bed.rows()["Small"].focused)
        bed.xdotool("key", "ctrl+shift+F11")
        until(lambda: bed.rows()["Red"].width < SIZE[0] - 50)
        guest.do("state", "red", 1, FULL)
        time.sleep(0.7)
        assert all(row.width < SIZE[0] - 50 for row in bed.rows().values())


def test_a_key_is_let_go_of_where_the_pointer_leaves_with_the_keyboard(tmp_path: Path) -> None:
    with Bed(tmp_path, "none") as bed:
        guest = Client(bed)
        guest.do("window", "red", 300, 200, "cc0000")
        row = bed.wait_for("Red")
        bed.xdotool("mousemove", str(row.x + 40), str(row.y + 60), "click", "1")
        guest.wait_to_hear("button")
        bed.xdotool("keydown", "shift")
        until(guest.held)
        bed.xdotool("mousemove", "1200", "800")
        until(lambda: not guest.held())
        bed.xdotool("keyup", "shift")


def test_a_letter_is_not_lost_after_a_window_went_with_a_key_of_ours_down(tmp_path: Path) -> None:
    with Bed(tmp_path, "openbox") as bed:
        guest = Client(bed)
        guest.do("window", "red", 300, 200, "cc0000")
        click(bed, guest, "Red")
        bed.xdotool("keydown", "ctrl", "keydown", "shift", "keydown", "v")
        time.sleep(0.3)
        guest.do("gone", "red")
        time.sleep(0.3)
        bed.xdotool("keyup", "v", "keyup", "shift", "keyup", "ctrl")
        guest.do("window", "blue", 300, 200, "0000cc")
        click(bed, guest, "Blue")
        for _ in range(2):
            bed.xdotool("key", "v")
            guest.wait_to_hear("key blue v")
        until(lambda: not guest.held())


def test_a_sign_behind_shift_is_pressed_with_it(tmp_path: Path) -> None:
    with Bed(tmp_path, "openbox") as bed:
        guest = Client(bed)
        guest.do("window", "red", 300, 200, "cc0000")
        click(bed, guest, "Red")
        guest.do("nothing")
        hands.press_on("work", bed.number, bed.cookie, [parse_chord("Ctrl+?")])
        assert guest.wait_to_hear("key red ?")


def test_what_is_held_while_the_window_manager_has_the_keyboard_is_not_held_afterwards(tmp_path: Path) -> None:
    with Bed(tmp_path, "cwm") as bed:
        guest = Client(bed)
        for name, color in (("red", "cc0000"), ("blue", "0000cc")):
            guest.do("window", name, 300, 200, color)
            click(bed, guest, name.title())
        bed.xdotool("keydown", "alt", "key", "Tab", "keyup", "alt")
        until(lambda: bed.rows()["Red"].focused)
        until(lambda: not guest.held())
        bed.xdotool("key", "a")
        assert guest.wait_to_hear("key red a")


def test_a_key_of_ours_that_is_held_longer_than_its_modifiers_is_no_letter(tmp_path: Path) -> None:
    with Bed(tmp_path, "openbox") as bed:
        guest = Client(bed)
        guest.do("window", "red", 300, 200, "cc0000")
        click(bed, guest, "Red")
        guest.do("nothing")
        bed.xdotool("keydown", "ctrl", "keydown", "shift", "keydown", "v")
        # Until the server repeats it.
        time.sleep(1)
        bed.xdotool("keyup", "shift", "keyup", "ctrl")
        time.sleep(0.5)
        bed.xdotool("keyup", "v")
        time.sleep(0.3)
        assert "key red v" not in heard(guest) and not guest.held()
        bed.xdotool("key", "v")
        assert guest.wait_to_hear("key red v")
        assert bed.crossed.read_text() == "clip paste work\n"
