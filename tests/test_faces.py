"""Faces of the glass beside single windows: a whole screen in one, one that fills the screen, larger letters."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from Xlib import X

from okubsd.config import fields
from okubsd.config.tree import Mistakes, Value, read_tree
from okubsd.display.frame import FRAME, edges_at
from okubsd.display.letters import Letters, letters_of, parse_resources, render_resources, render_settings
from okubsd.host import windows
from okubsd.model import Keys
from tests.glass_bed import COLOR, INK, SIZE, Bed, Client, serve, until

LETTERS = st.builds(
    Letters, st.integers(48, 480), st.booleans(), st.booleans(), st.integers(0, 3), st.integers(0, 4)
)  # fmt: skip


# --- letters ---------------------------------------------------------------------------------------


@given(LETTERS)
def test_what_is_written_of_letters_is_read_again(letters: Letters) -> None:
    assert parse_resources(render_resources(letters)) == letters
    assert letters_of(letters.numbers()) == letters


@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=5, max_size=8).map(tuple))
def test_any_numbers_are_letters(numbers: tuple[int, ...]) -> None:
    found = letters_of(numbers)
    assert 48 <= found.dots <= 480 and letters_of(found.numbers()) == found
    assert render_settings(found) and 1.0 <= found.scale <= 4.0


@given(st.text())
def test_any_resources_are_letters(text: str) -> None:
    assert 48 <= parse_resources(text).dots <= 480


def test_resources_are_taken_as_xft_has_them() -> None:
    text = "*customization: -color\nXft.dpi:\t192\nXft.antialias: false\nXft.hintstyle:hintfull\nXft.rgba:\t rgb\n"
    assert parse_resources(text) == Letters(192, False, True, 3, 1)
    assert parse_resources("Xft*dpi: 144.5\nXft.hintstyle: 2\nXft.rgba: 5\nXft.hinting: 0\n") == Letters(
        144, True, False, 2, 0
    )
    assert parse_resources("Xft.dpi: 192\n", 1.5).dots == 144
    assert parse_resources("Xft.dpi: 9999\n") == Letters()


def parse_settings(data: bytes) -> dict[str, int | str]:
    """Read _XSETTINGS_SETTINGS as a program does (XSETTINGS 0.5)."""
    (count,) = struct.unpack_from("=I", data, 8)
    at, found = 12, dict[str, int | str]()
    for _ in range(count):
        kind, length = struct.unpack_from("=BxH", data, at)
        name = data[at + 4 : at + 4 + length].decode()
        at += 4 + length + -length % 4 + 4
        (number,) = struct.unpack_from("=i", data, at)
        at += 4
        found[name] = number if kind == 0 else data[at : at + number].decode()
        at += 0 if kind == 0 else number + -number % 4
    assert at == len(data)
    return found


@pytest.mark.parametrize(("dots", "whole", "rest"), [(96, 1, 96), (144, 1, 144), (192, 2, 96), (288, 3, 96)])
def test_gtk_draws_in_whole_multiples_and_letters_do_the_rest(dots: int, whole: int, rest: int) -> None:
    found = parse_settings(render_settings(Letters(dots)))
    assert found["Gdk/WindowScalingFactor"] == whole and found["Gdk/UnscaledDPI"] == rest * 1024
    assert found["Xft/DPI"] == dots * 1024 and found["Xft/HintStyle"] == "hintslight"


# --- what is wished ----------------------------------------------------------------------------------


def value_of(text: str) -> Value:
    tree = read_tree(text, Mistakes(Path("x")))
    assert tree is not None
    return tree


@pytest.mark.parametrize("text", ["Ctrl+Shift+C", "Super+v", "Alt+F11", "Ctrl+Shift+Escape"])
def test_a_key_with_a_modifier_is_taken(text: str) -> None:
    value = value_of(text)
    assert fields.chord(value) == text and not value.mistakes.found


@pytest.mark.parametrize("text", ["c", "Shift+C", "Ctrl+", "Hyper+C", "Ctrl+C;x", "", "[1]", "Ctrl+" + "x" * 99])
def test_a_key_that_letters_are_typed_with_is_none_of_ours(text: str) -> None:
    value = value_of(text or "''")
    assert fields.chord(value) is None and "a key with Ctrl, Alt or Super" in str(value.mistakes.found)


def test_scales() -> None:
    assert [fields.scale(value_of(text)) for text in ("auto", "1", "1.5", "2")] == [0.0, 1.0, 1.5, 2.0]
    value = value_of("3")
    assert fields.scale(value) is None and "auto, 1, 1.5, 2" in str(value.mistakes.found)


# --- before real servers -----------------------------------------------------------------------------


@pytest.fixture(params=["none", "cwm", "openbox", "i3"])
def whole(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bed]:
    made = Bed(tmp_path, request.param, whole=(640, 400))
    yield made
    made.end()


@pytest.mark.spawns
def test_a_whole_screen_is_one_window_that_its_screen_follows(whole: Bed) -> None:
    guest = Client(whole)
    guest.do("window", "red", 300, 200, "cc0000")
    guest.do("window", "blue", 100, 100, "0000cc")
    (row,) = until(lambda: [row for row in whole.rows().values() if row.painted])
    until(lambda: guest.do("screen") == [f"screen {row.width} {row.height}"])
    row = whole.wait_for("")
    # A client without a window manager is where it wants to be.
    until(lambda: whole.color(row.x + 200, row.y + 200) == 0xCC0000)
    assert whole.color(row.x + 50, row.y + 60) == 0x0000CC
    assert whole.color(row.x - 2, row.y + 50) == whole.color(row.x + 50, row.y - 19) == COLOR
    frame = whole.frame("^.work")
    whole.xdotool("windowsize", frame, "706", "523")
    until(lambda: guest.do("screen") in (["screen 700 500"], [f"screen {SIZE[0] - 6} {SIZE[1] - 23}"]))
    before = whole.halves()
    os.kill(before[0], signal.SIGKILL)
    until(lambda: len(whole.halves()) == 2 and not set(whole.halves()) & set(before))
    whole.wait_for("")
    whole.xdotool("windowsize", whole.frame("^.work"), "806", "523")
    until(lambda: guest.do("screen") in (["screen 800 500"], [f"screen {SIZE[0] - 6} {SIZE[1] - 23}"]))
    guest.do("window", "green", 2000, 2000, "00cc00")
    row = whole.wait_for("")
    until(lambda: whole.color(row.x + row.width - 1, row.y + row.height - 1) == 0x00CC00)


@pytest.mark.spawns
def test_keys_clicks_title_and_close_reach_what_is_in_front(tmp_path: Path) -> None:
    with Bed(tmp_path, "openbox", whole=(640, 400)) as bed:
        guest = Client(bed)
        guest.do("window", "red", 300, 200, "cc0000")
        guest.do("front", "red")
        row = bed.wait_for("")
        until(lambda: bed.rows()[""].title == "red")
        guest.do("title", "red", "other")
        until(lambda: bed.rows()[""].title == "other")
        bed.xdotool("mousemove", str(row.x + 40), str(row.y + 60), "click", "1")
        assert guest.wait_to_hear("button red 1") == "button red 1 10 20"
        bed.xdotool("key", "x")
        guest.wait_to_hear("key red x")
        bed.xdotool("key", "ctrl+shift+c")
        until(bed.crossed.exists)
        assert windows.do(bed.run, "close", row.window)
        guest.wait_to_hear("delete red")


@pytest.mark.spawns
@pytest.mark.parametrize("manager", ["cwm", "openbox", "i3"])
@pytest.mark.parametrize("leave", [False, True], ids=["not let", "let"])
def test_a_window_fills_the_screen_by_the_users_leave(manager: str, leave: bool, tmp_path: Path) -> None:
    with Bed(tmp_path, manager, fullscreen=leave) as bed:
        guest = Client(bed)
        guest.do("window", "red", 300, 200, "cc0000")
        row = bed.wait_for("Red")
        bed.xdotool("mousemove", str(row.x + 40), str(row.y + 60), "click", "1")
        guest.wait_to_hear("button red 1")
        until(lambda: bed.rows()["Red"].focused)
        guest.do("state", "red", 1, "_NET_WM_STATE_FULLSCREEN")
        if not leave:
            guest.do("nothing")
            assert bed.wait_for("Red").width == row.width
            # The user's own key is his leave.
            bed.xdotool("key", "ctrl+shift+F11")
        until(lambda: bed.rows()["Red"].width == SIZE[0] - 2 * FRAME.side)
        until(lambda: "_NET_WM_STATE_FULLSCREEN" in " ".join(guest.do("states", "red")))
        row = bed.wait_for("Red")
        # The frame is there, and all of it.
        until(lambda: bed.color(1, 400) == bed.color(SIZE[0] - 2, 400) == bed.color(700, SIZE[1] - 2) == COLOR)
        until(lambda: bed.color(row.x + 1, row.y + 1) == 0xCC0000)
        assert (row.x, row.y) == (FRAME.side, FRAME.top)
        bed.xdotool("key", "ctrl+shift+F11")
        until(lambda: bed.rows()["Red"].width < SIZE[0] - 50)
        until(lambda: "FULLSCREEN" not in " ".join(guest.do("states", "red")))


@pytest.mark.spawns
def test_the_keys_are_what_the_user_wants(tmp_path: Path) -> None:
    with Bed(tmp_path, "none", keys=Keys(take="Alt+F2", give="Super+v")) as bed:
        guest = Client(bed)
        guest.do("window", "red", 300, 200, "cc0000")
        bed.wait_for("Red")
        bed.take_keyboard("Red")
        bed.xdotool("key", "ctrl+shift+c")
        guest.wait_to_hear("key red C")
        bed.xdotool("key", "alt+F2")
        until(lambda: bed.crossed.exists() and bed.crossed.read_text() == "clip copy work\n")


@pytest.mark.spawns
@pytest.mark.parametrize(("scale", "resources", "dots"), [(0.0, "Xft.dpi: 192\n", 192), (1.5, "Xft.dpi: 96\n", 144)])
def test_letters_and_frames_are_as_large_as_the_desktops(
    scale: float, resources: str, dots: int, tmp_path: Path
) -> None:
    with Bed(tmp_path, "none", scale=scale, resources=resources) as bed:
        guest = Client(bed)
        assert f"Xft.dpi: {dots}" in " ".join(guest.do("resources"))
        (said,) = guest.do("settings")
        assert parse_settings(bytes.fromhex(said.split()[1]))["Xft/DPI"] == dots * 1024
        guest.do("window", "red", 300, 200, "cc0000")
        row, edges = bed.wait_for("Red"), edges_at(FRAME, dots / 96)
        assert edges.top == round(20 * dots / 96)
        assert bed.color(row.x - edges.side, row.y + 50) == COLOR
        assert bed.color(row.x + 100, row.y - 2) == COLOR and bed.color(row.x, row.y) == 0xCC0000


@pytest.mark.spawns
def test_an_icon_for_a_tray_is_not_lost(tmp_path: Path) -> None:
    with Bed(tmp_path, "openbox") as bed:
        guest = Client(bed)
        guest.do("icon", "mail", "cc0000")
        row = bed.wait_for("Mail")
        guest.wait_to_hear("embedded mail")
        until(lambda: bed.color(row.x + 10, row.y + 10) == 0xCC0000)
        bed.xdotool("mousemove", str(row.x + 10), str(row.y + 10), "click", "1")
        guest.wait_to_hear("button mail 1")
        guest.do("gone", "mail")
        until(lambda: not bed.rows())


# --- what a guest cannot have ------------------------------------------------------------------------


@pytest.mark.spawns
@pytest.mark.parametrize("manager", ["cwm", "openbox", "i3"])
def test_who_left_the_whole_screen_is_not_had_back(manager: str, tmp_path: Path) -> None:
    with Bed(tmp_path, manager, fullscreen=True) as bed:
        guest = Client(bed)
        guest.do("window", "red", 300, 200, "cc0000")
        row = bed.wait_for("Red")
        bed.xdotool("mousemove", str(row.x + 40), str(row.y + 60), "click", "1")
        guest.wait_to_hear("button red 1")
        guest.do("state", "red", 1, "_NET_WM_STATE_FULLSCREEN")
        until(lambda: bed.rows()["Red"].width == SIZE[0] - 2 * FRAME.side)
        until(lambda: "FULLSCREEN" in " ".join(guest.do("states", "red")))
        bed.xdotool("key", "ctrl+shift+F11")
        until(lambda: "FULLSCREEN" not in " ".join(guest.do("states", "red")))
        for _ in range(5):
            time.sleep(0.3)
            guest.do("state", "red", 1, "_NET_WM_STATE_FULLSCREEN")
        time.sleep(0.5)
        assert bed.rows()["Red"].width < SIZE[0] - 50
        # The user himself may have it fill again.
        bed.xdotool("key", "ctrl+shift+F11")
        until(lambda: bed.rows()["Red"].width == SIZE[0] - 2 * FRAME.side)


@pytest.mark.spawns
def test_a_flood_of_states_costs_the_desktop_nothing(tmp_path: Path) -> None:
    with Bed(tmp_path, "openbox") as bed:
        guest = Client(bed)
        guest.do("window", "red", 300, 200, "cc0000")
        bed.wait_for("Red")
        before = bed.halves()
        for state in ("_NET_WM_STATE_FULLSCREEN", "_NET_WM_STATE_MAXIMIZED_VERT"):
            guest.do("flood", "red", state, 30000)
        assert bed.wait_for("Red") and bed.halves() == before


@pytest.mark.spawns
def test_a_menu_stays_on_one_monitor_and_leaves_half_of_it(tmp_path: Path) -> None:
    with Bed(tmp_path, "none") as bed:
        for name, place in (("A", "700/200x900/200+0+0"), ("B", "700/200x600/200+700+0")):
            argv = ["xrandr", "--setmonitor", name, place, "none" if name == "B" else "screen"]
            subprocess.run(argv, env={**os.environ, "DISPLAY": bed.desktop}, check=True)
        guest = Client(bed)
        guest.do("menu", "seam", 650, 100, 200, 100, "cc0000")
        guest.do("menu", "below", 900, 800, 100, 50, "0000cc")
        seen: list[tuple[int, int, int, int]] = []

        def placed() -> bool:
            with bed.desk() as opened:
                boxes = [child.get_geometry() for child in opened.screen().root.query_tree().children]
            seen[:] = [(box.x, box.y, box.width, box.height) for box in boxes if box.width in (204, 104)]
            return len(seen) == 2

        until(placed)
        for x, y, width, height in seen:
            assert x >= 700 and x + width <= 1400 and y + height <= 600
        # What would cover more than half of a monitor gets a frame.
        guest.do("menu", "large", 700, 0, 690, 590, "00cc00")
        until(lambda: any(row.width > 600 for row in windows.windows_of(bed.run)))


@pytest.mark.spawns
@pytest.mark.parametrize("which", [0, 1], ids=["reader", "painter"])
def test_no_key_stays_down_when_a_half_dies(which: int, tmp_path: Path) -> None:
    with Bed(tmp_path, "none") as bed:
        guest = Client(bed)
        guest.do("window", "red", 300, 200, "cc0000")
        bed.wait_for("Red")
        bed.take_keyboard("Red")
        bed.xdotool("keydown", "shift", "keydown", "a")
        until(lambda: len(guest.held()) == 2)
        before = bed.halves()
        os.kill(before[which], signal.SIGKILL)
        until(lambda: len(bed.halves()) == 2 and not set(bed.halves()) & set(before))
        bed.xdotool("keyup", "a", "keyup", "shift")
        until(lambda: not guest.held())


@pytest.mark.spawns
def test_a_title_does_not_hide_what_was_carried(tmp_path: Path) -> None:
    with Bed(tmp_path, "none") as bed:
        guest = Client(bed)
        guest.do("window", "red", 400, 200, "cc0000")
        row = bed.wait_for("Red")
        bed.take_keyboard("Red")

        def label() -> bytes:
            with bed.desk() as opened:
                image = opened.screen().root.get_image(row.x, row.y - 18, 400, 16, X.ZPixmap, 0xFFFFFFFF)
                return bytes(image.data)

        plain = label()
        bed.xdotool("key", "ctrl+shift+c")
        until(lambda: label() != plain)
        said = label()
        for number in range(5):
            guest.do("title", "red", f"t{number}")
            until(lambda number=number: bed.rows()["Red"].title == f"t{number}")
            assert label() == said


@pytest.mark.spawns
def test_modes_that_the_guest_makes_end_nothing(tmp_path: Path) -> None:
    with Bed(tmp_path, "none", whole=(640, 400)) as bed:
        guest = Client(bed)
        bed.wait_for("")
        before = bed.halves()
        for number in range(6):
            guest.do("modes", 700 + number, 500)
            bed.xdotool("windowsize", bed.frame("^.work"), str(706 + number), "523")
            time.sleep(0.2)
        until(lambda: any(row.painted for row in bed.rows().values()))
        assert bed.halves() == before


@pytest.mark.spawns
@pytest.mark.parametrize("scale", [1.0, 2.0, 4.0])
def test_the_letters_of_a_label_grow_with_it(scale: float, tmp_path: Path) -> None:
    """Whatever fonts the server has: the rows of a label that have ink are as many times as many."""
    with Bed(tmp_path, "none", resources=f"Xft.dpi: {round(96 * scale)}\n") as bed:
        guest = Client(bed)
        guest.do("window", "red", 600, 200, "cc0000")
        row, edges = bed.wait_for("Red"), edges_at(FRAME, min(scale, SIZE[0] / 600))

        def inked() -> int:
            with bed.desk() as opened:
                data = (
                    opened.screen().root.get_image(row.x, row.y - edges.top, 600, edges.top, X.ZPixmap, 0xFFFFFFFF).data
                )
            ink = INK.to_bytes(3, "little")
            return sum(ink in data[y * 2400 : (y + 1) * 2400] for y in range(edges.top))

        until(lambda: inked() >= 0.4 * edges.top)
        assert inked() <= 0.9 * edges.top


@pytest.mark.spawns
def test_a_desktop_of_few_colors_is_told_in_a_sentence(tmp_path: Path) -> None:
    with Bed(tmp_path, "none") as bed:
        few, number = serve("-noreset", size=(400, 300), depth=16)
        try:
            bed.desktop, bed.log = f":{number}", tmp_path / "few.log"
            bed.glass.kill()
            bed.glass.wait()
            assert bed.begin().wait(timeout=30) == 0
            assert bed.log.read_text() == "okubsd: the X display has no colors of 24 bits\n"
        finally:
            few.kill()
            few.wait()
