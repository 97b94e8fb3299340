"""The self-test: every line is held where there is a wall, and red where it is switched off."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from okubsd import layout
from okubsd.display.server import display_socket
from okubsd.host.selftest import inside, screen
from okubsd.host.selftest.actor import Actor, on_desktop, through
from okubsd.host.selftest.lines import Line, Report, Verdict, judge, last_report, not_tried
from okubsd.host.selftest.stage import Stage
from tests.conftest import CHECKOUT
from tests.glass_bed import COLOR, Bed, Client, until

PROC_NET_TCP = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:177A 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2 1 0 100 0 0 10 0
   2: 0F02000A:0016 0202000A:D3C8 01 00000000:00000000 02:000AF26A 00000000     0        0 3 4 0 20 4 31 10 -1
"""


def test_a_dead_attack_is_no_pass() -> None:
    assert judge("a", "b", broke=False, control=True, seen="").verdict is Verdict.HELD
    assert judge("a", "b", broke=False, control=False, seen="").verdict is Verdict.NO_CONTROL
    assert judge("a", "b", broke=True, control=False, seen="").verdict is Verdict.BROKE


def test_a_report_says_how_many_and_is_read_again(tmp_path: Path) -> None:
    import msgspec

    held, red = judge("a", "b", broke=False, control=True, seen=""), judge("c", "d", broke=True, control=True, seen="")
    report = Report(12.5, (held, held, red, not_tried("e", "f", "g")))
    assert report.summary() == "2 held, 1 BROKE, 1 not tried" and report.broke
    (tmp_path / layout.SELFTEST).write_bytes(msgspec.json.encode(report))
    assert last_report(tmp_path) == report
    (tmp_path / layout.SELFTEST).write_bytes(b"{")
    assert last_report(tmp_path) is None and last_report(tmp_path / "nosuch") is None


def test_ports_of_a_guest_are_read_from_its_table() -> None:
    assert inside.listening(PROC_NET_TCP.splitlines()) == {6010: {"1"}, 22: {"2"}}
    assert inside.listening(["x" * 100, "", "0: zz"]) == {}


HELD_SOCKETS = """61/comm:dropbear
70/comm:app one
61/fd:
total 0
lrwx------    1 root     root            64 Jan  1 00:00 3 -> socket:[2]
lrwx------    1 root     root            64 Jan  1 00:00 4 -> /dev/null

70/fd:
lrwx------    1 user     user            64 Jan  1 00:00 5 -> socket:[1]
"""


def test_who_holds_a_socket_is_read_of_what_the_guest_lists() -> None:
    assert inside.holders(HELD_SOCKETS.splitlines()) == {"2": {"dropbear"}, "1": {"app one"}}
    assert inside.holders(["../fd:", "x -> socket:[y]", "1/comm:"]) == {}


ROUTES = """Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT
eth0 00000000 0202000A 0003 0 0 0 00000000 0 0 0
eth0 0002000A 00000000 0001 0 0 0 00FFFFFF 0 0 0
"""


def test_routes_of_a_guest_are_read_from_its_table() -> None:
    assert inside.parse_routes(ROUTES.splitlines()) == inside.Routes(("10.0.2.2",), ((0x0A000200, 0xFFFFFF00),))
    alone = [line for line in ROUTES.splitlines() if " 0202000A " not in line]
    assert inside.parse_routes(alone) == inside.Routes((), ((0x0A000200, 0xFFFFFF00),))
    own = ["Iface", "podman0 0000580A 00000000 0001 0 0 0 0000FFFF 0 0 0", *alone[1:]]
    assert inside.parse_routes(own) == inside.parse_routes(alone)
    assert inside.parse_routes(["", "eth0 zz", "a b c d e f g h"]) == inside.Routes((), ())


@pytest.mark.parametrize("dead", [Verdict.NO_CONTROL, Verdict.NO_ANSWER, Verdict.BROKE])
def test_no_test_has_held_whose_attacks_say_nothing(dead: Verdict) -> None:
    held, other = judge("a", "b", broke=False, control=True, seen=""), not_tried("c", "d", "e")
    assert Report(1.0, (held, other)).held
    assert not Report(1.0, (held, other, Line("f", "g", "h", dead))).held and not Report(1.0, (other,)).held


# --- before real servers -----------------------------------------------------------------------------


@contextmanager
def stage_of(bed: Bed, *, opens: Callable[[], Any] | None = None) -> Iterator[Stage]:
    """Attack the desktop of ``bed`` from its nested display, or from whatever ``opens``."""
    (bed.run / layout.GLASS_LIFE).touch()
    attack = opens or through(display_socket(bed.number), bed.cookie)
    attacker, witness = Actor(attack), Actor(on_desktop(bed.desktop))
    try:
        yield Stage(attacker, witness, lambda: Actor(attack), lambda: Actor(on_desktop(bed.desktop)), bed.run, COLOR)
    finally:
        attacker.end()
        witness.end()


def attack(name: str) -> screen.Attack:
    return next(attack for attack in screen.ATTACKS if attack.name == name)


@pytest.mark.spawns
@pytest.mark.parametrize("orders", [{}, {"whole": (800, 500)}], ids=["seamless", "window"])
def test_every_wall_of_the_screen_holds(
    orders: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With every extension, as this process knows their numbers; the one for memory is a real VM's test.
    with Bed(tmp_path, "openbox", **orders) as bed:
        monkeypatch.setattr(screen, "living_pid", lambda _: bed.glass.pid)
        with stage_of(bed) as stage:
            lines = [screen.play(one, stage) for one in screen.ATTACKS]
    # A whole screen shows the title of the window that a window manager has in front, and there is none here.
    others = {"memory", *(("windows' keeper", "titles") if orders else ())}
    assert [line for line in lines if line.verdict is not Verdict.HELD and line.name not in others] == []


WALLS_OF_THE_SERVER = (
    *("windows", "keys", "typing", "picture", "selection", "pointer", "pointer's size", "grabs", "server"),
    *("programs", "cover", "flood", "titles", "memory"),
)


@pytest.mark.spawns
@pytest.mark.parametrize("name", WALLS_OF_THE_SERVER)
def test_without_a_server_of_its_own_each_line_is_red(name: str, tmp_path: Path) -> None:
    """The guest is a client of the desktop itself, as with ssh -Y."""
    with Bed(tmp_path, "none") as bed, stage_of(bed, opens=on_desktop(bed.desktop)) as stage:
        line = screen.play(attack(name), stage)
    assert line.verdict is Verdict.BROKE, line


# What switches off one wall of the glass, as Python that runs when it begins.
SWITCHED_OFF = {
    "cover": (
        "from okubsd.host.glass import painter, pane\n"
        "painter.is_menu = lambda *_: True\n"
        "pane.edges_at = lambda edges, _: type(edges)(0, 0)\npane.MENU_LINE = 0\n"
    ),
    "flood": (
        "from okubsd.host.glass import painter, reader\n"
        "painter.MOST_WINDOWS = reader.MOST_WINDOWS = 5000\n"
    ),
    "titles": "from okubsd.host.glass import pane\npane.plain = lambda untrusted, limit=100: untrusted\n",
    "sandbox": "from okubsd.host.glass import sandbox\nsandbox.enter = lambda memory: None\n",
    "windows' keeper": "from okubsd.host.glass import __main__ as glass\nglass._TRIES = 1\n",
}  # fmt: skip


@pytest.mark.spawns
@pytest.mark.parametrize("name", SWITCHED_OFF)
def test_a_wall_of_the_glass_that_is_switched_off_is_red(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "glass.py").write_text(
        f"import sys\nsys.path.insert(0, {str(CHECKOUT)!r})\n{SWITCHED_OFF[name]}"
        "from okubsd.host.glass import __main__ as last\nsys.exit(last.main())\n"
    )
    with Bed(tmp_path, "none", program=str(broken / "glass.py")) as bed:
        monkeypatch.setattr(screen, "living_pid", lambda _: bed.glass.pid)
        monkeypatch.setattr(screen, "_ANEW_SECONDS", 5.0)
        with stage_of(bed) as stage:
            line = screen.play(attack(name), stage)
    assert line.verdict is Verdict.BROKE, line


@pytest.mark.spawns
def test_a_desktop_that_is_no_more_breaks_nothing_of_ours(tmp_path: Path) -> None:
    with Bed(tmp_path, "none") as bed, stage_of(bed) as stage:
        bed.host.kill()
        line = screen.play(attack("windows"), stage)
        assert line.verdict is Verdict.NO_ANSWER


@pytest.mark.spawns
def test_no_program_of_the_guest_is_ended_in_place_of_one_of_the_desktop(tmp_path: Path) -> None:
    """X servers give the same numbers: the first clients of both have windows of one number."""
    with Bed(tmp_path, "none") as bed:
        guest = Client(bed)
        for name in ("a", "b", "c"):
            guest.do("window", name, 300, 200, "cc0000")
        bed.wait_for("C")
        with stage_of(bed) as stage:
            line = screen.play(attack("programs"), stage)
        assert line.verdict is Verdict.HELD, line
        assert guest.do("nothing") is not None and set(bed.rows()) == {"A", "B", "C"}


@pytest.mark.spawns
@pytest.mark.parametrize("name", ["windows", "keys", "picture", "selection", "cover", "titles"])
def test_a_desktops_side_that_does_nothing_proves_nothing(name: str, tmp_path: Path) -> None:
    with Bed(tmp_path, "none") as bed, stage_of(bed) as stage:
        os.kill(stage.witness._child._pid, signal.SIGKILL)
        assert screen.play(attack(name), stage).verdict is Verdict.NO_ANSWER


@pytest.mark.spawns
def test_what_broke_stays_broken_when_the_guest_takes_no_other_client(tmp_path: Path) -> None:
    bed = Bed(tmp_path, "none")

    def refuses() -> Actor:
        raise ConnectionError

    try:
        with stage_of(bed, opens=on_desktop(bed.desktop)) as stage:
            deaf = Stage(stage.attacker, stage.witness, refuses, stage.another, stage.run, COLOR)
            lines = [screen.play(attack(name), deaf) for name in ("windows", "grabs", "server", "picture")]
        assert [line.verdict for line in lines] == [
            Verdict.BROKE, Verdict.NO_ANSWER, Verdict.NO_ANSWER, Verdict.BROKE,
        ]  # fmt: skip
    finally:
        bed.end()


@pytest.mark.spawns
def test_no_key_stays_down_when_a_player_ends(tmp_path: Path) -> None:
    with Bed(tmp_path, "none") as bed:
        player = Actor(on_desktop(bed.desktop))
        player.do("press", 200, 1)
        with bed.desk() as opened:
            assert opened.query_keymap()[25] & 1
            player.leave()
            until(lambda: not opened.query_keymap()[25] & 1)


@pytest.mark.parametrize("line", ["open ", "home", "open ../x y", "shut\x1b[31m", "home /dev/vdc extra"])
def test_odd_words_of_a_guest_are_none(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inside, "_shell", lambda *_, **__: [line, "shut /dev/vda"])
    found = inside.change_images(inside.Victim(None, (), (), (), ()))  # type: ignore[arg-type]
    assert found.verdict is Verdict.HELD and "1 drives" in found.seen
