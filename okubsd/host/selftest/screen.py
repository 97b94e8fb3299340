"""The walls between a guest's display and the desktop: each attacked by a client of the guest's display."""

from __future__ import annotations

import contextlib
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from okubsd import layout
from okubsd.config.names import CONTROL
from okubsd.host import windows
from okubsd.host.locks import living_pid
from okubsd.host.selftest.actor import Actor
from okubsd.host.selftest.lines import Line, judge, not_tried
from okubsd.host.waiting import wait_until

# The windows that show a color, in pixels; how many make a flood, and how many of a guest's the desktop shows at most.
_SIZE, _FLOOD, _MOST_SHOWN = 64, 700, 520
# What share of the screen a guest may fill: there is always a frame.
_MOST_SHARE = 0.995
_WORDS = "\x1b[31mred\u202egnirts\x07"
# Of a label so many rows have to be seen; how often a number is tried; how long a key is held, in seconds.
_LEAST_LABEL, _TRIES, _HELD_SECONDS = 15, 30, 0.6
# Above these bits of a number stands whose it is (X.org's servers, include/resource.h).
_CLIENT_BITS = 21
_HUNG_SECONDS, _SHOWN_SECONDS, _ANEW_SECONDS, _GONE_SECONDS = 3.0, 5.0, 30.0, 1.5


class Stage(msgspec.Struct, frozen=True):
    """Who plays: the attacker and a second client on the guest's display, the witness on the desktop.

    ``second`` makes another client of the guest's display, ``another`` one of the desktop.  ``run`` is the VM's run
    directory.
    """

    attacker: Actor
    witness: Actor
    second: Callable[[], Actor]
    another: Callable[[], Actor]
    run: Path


# Whether a wall broke, whether the attack worked where there is none, what was seen; or why nothing was tried.
Outcome = tuple[bool, bool, str] | str


class Attack(msgspec.Struct, frozen=True):
    """One wall's name, what is tried against it, and how."""

    name: str
    tried: str
    play: Callable[[Stage], Outcome]


def mark() -> str:
    return f"okubsd-{secrets.token_hex(8)}"


def _color() -> int:
    """Return a color that hardly anybody else shows."""
    return secrets.randbelow(1 << 24) | 0x010101


@contextlib.contextmanager
def _clean(*actors: Actor) -> Iterator[None]:
    try:
        yield
    finally:
        for actor in actors:
            actor.do("clear")


def see_windows(stage: Stage) -> Outcome:
    """Look for a window of the desktop from the guest's display."""
    theirs, ours = mark(), mark()
    with _clean(stage.attacker, stage.witness):
        stage.witness.do("plant", theirs, 0, _SIZE)
        stage.attacker.do("plant", ours, 0, _SIZE)
        broke, control = bool(stage.attacker.do("names", theirs)), bool(stage.attacker.do("names", ours))
    seen = "a window of the desktop was listed" if broke else "it lists its own only"
    return broke, control, seen


def see_keys(stage: Stage) -> Outcome:
    """Ask the guest's display for keys that are pressed on the desktop."""
    code = stage.witness.do("spare_key") or 255
    with _clean(stage.attacker, stage.witness):
        stage.witness.do("plant", mark(), 0, _SIZE)
        stage.witness.do("focus")
        # In one deed, so that no key stays down whoever dies.
        stage.attacker.do("listen")
        stage.witness.begin("hold_key", code, _HELD_SECONDS)
        end, broke = time.monotonic() + _HELD_SECONDS, False
        while time.monotonic() < end and not broke:
            broke = code in (stage.attacker.do("held", seconds=_HELD_SECONDS) or [])
        pressed = stage.witness.answer() is True
        broke = broke or bool(stage.attacker.do("raw"))
        stage.attacker.do("press", code, 1)
        control = pressed and code in (stage.attacker.do("held") or []) and bool(stage.attacker.do("raw"))
        stage.attacker.do("press", code, 0)
    seen = "a key that was pressed on the desktop was seen" if broke else "keys of the desktop are not seen"
    return broke, control, seen


def type_keys(stage: Stage) -> Outcome:
    """Type into a window of the desktop from the guest's display."""
    code = stage.witness.do("spare_key") or 255
    with _clean(stage.attacker, stage.witness):
        stage.attacker.do("plant", mark(), 0, _SIZE)
        stage.attacker.do("focus")
        stage.witness.do("plant", mark(), 0, _SIZE)
        stage.witness.do("focus")
        # What it pressed itself before is none.
        stage.witness.do("heard")
        stage.attacker.do("press", code, 1)
        stage.attacker.do("press", code, 0)
        time.sleep(0.2)
        broke = code in (stage.witness.do("heard") or [])
        control = code in (stage.attacker.do("heard") or [])
    seen = "a window of the desktop heard it" if broke else "the desktop heard nothing"
    return broke, control, seen


def see_picture(stage: Stage) -> Outcome:
    """Take a picture of the screen from the guest's display."""
    theirs, ours = _color(), _color()
    with _clean(stage.attacker, stage.witness):
        stage.witness.do("plant", mark(), theirs, _SIZE)
        broke = (stage.attacker.do("share", theirs, seconds=60) or 0) > 0
        stage.witness.do("clear")
        stage.attacker.do("plant", mark(), ours, _SIZE)
        control = (stage.attacker.do("share", ours, seconds=60) or 0) > 0
    seen = "a window of the desktop is on it" if broke else "its own windows only are on it"
    return broke, control, seen


def take_selection(stage: Stage) -> Outcome:
    """Ask for what is offered on the desktop."""
    theirs, ours, name = mark(), mark(), f"_{mark()}"
    with _clean(stage.attacker, stage.witness):
        stage.witness.do("own", name, theirs)
        broke = stage.attacker.do("take", name) == theirs
        stage.attacker.do("own", f"{name}_", ours)
        control = stage.attacker.do("take", f"{name}_") == ours
    seen = "it was given" if broke else "there is nothing"
    return broke, control, seen


def move_pointer(stage: Stage) -> Outcome:
    """Move the desktop's pointer from the guest's display."""
    places = ([11, 13], [203, 207])
    found = []
    for place in places:
        stage.attacker.do("warp", *place)
        found.append(stage.witness.do("where"))
    broke, control = found == list(places), stage.attacker.do("where") == places[1]
    seen = "the desktop's pointer went there" if broke else "the desktop's pointer stayed"
    return broke, control, seen


def dress_pointer(stage: Stage) -> Outcome:
    """Have a pointer that covers what it likes."""
    with _clean(stage.attacker):
        stage.attacker.do("dress", 250)
        control = (stage.attacker.do("cursor_size") or 0) >= 250
        broke = (stage.witness.do("cursor_size") or 0) >= 250
    seen = "the desktop's is as large" if broke else "the desktop's is not"
    return broke, control, seen


def grab(stage: Stage) -> Outcome:
    """Keep keyboard and pointer from everybody."""
    second = stage.second()
    try:
        stage.attacker.do("grab")
        control = second.do("grab") is False
        broke = stage.witness.do("grab") is not True
    finally:
        stage.witness.do("ungrab")
        stage.attacker.do("ungrab")
        second.end()
    seen = "the desktop's could not be had any more" if broke else "the desktop's could still be had"
    return broke, control, seen


def hold(stage: Stage) -> Outcome:
    """Hold the whole server."""
    second = stage.second()
    try:
        answered = second.do("ping") is True
        stage.attacker.do("hold")
        control = answered and second.do("ping", seconds=_HUNG_SECONDS) is None
        broke = stage.witness.do("ping", seconds=_HUNG_SECONDS) is None
    finally:
        stage.attacker.do("ungrab")
        second.end()
    seen = "the desktop stood still" if broke else "the desktop went on"
    return broke, control, seen


def kill(stage: Stage) -> Outcome:
    """End a program of the desktop."""
    with contextlib.ExitStack() as stack:
        victim, number = _victim(stage, stack)
        if victim is None:
            return "a program of the guest could be ended in its place"
        stage.attacker.do("kill", number)
        broke = victim.do("ping", seconds=_HUNG_SECONDS) is None
        second = stage.second()
        stack.callback(second.end)
        planted = second.do("plant", mark(), 0, _SIZE)
        if planted is not None:
            stage.attacker.do("kill", planted)
        control = planted is not None and second.do("ping", seconds=_HUNG_SECONDS) is None
    return broke, control, "one of the desktop ended" if broke else "none of the desktop ended"


def _victim(stage: Stage, stack: contextlib.ExitStack) -> tuple[Actor | None, int]:
    """Return a program of the desktop and its window, whose number stands for nobody else on the guest's display.

    Servers give out the same numbers.  So there is to be a client of ours on the guest's display with the part of the
    number that stands for a client; or else the guest sees the very window.
    """
    ours: set[int] = set()
    victims: list[tuple[Actor, int]] = []
    for _ in range(_TRIES):
        victim, client, word = stage.another(), stage.second(), mark()
        stack.callback(victim.end)
        stack.callback(client.end)
        number, base = victim.do("plant", word, 0, _SIZE), client.do("base")
        if not isinstance(number, int) or not isinstance(base, int):
            break
        if stage.attacker.do("called", number) == word:
            return victim, number
        victims.append((victim, number))
        ours.add(base >> _CLIENT_BITS)
        for one, its in victims:
            if its >> _CLIENT_BITS in ours:
                return one, its
    return None, 0


def cover(stage: Stage) -> Outcome:
    """Cover the whole screen."""
    color = _color()
    with _clean(stage.attacker):
        stage.attacker.do("cover", color)
        control = (stage.attacker.do("share", color, seconds=60) or 0) > _MOST_SHARE
        time.sleep(1.0)
        shown = stage.witness.do("uncovered", color, seconds=60) or []
    # Where a window fills a monitor, the label of its frame is on it, too: at least so many rows have another color.
    broke = any(rest < _LEAST_LABEL * width for width, rest in shown)
    seen = "a monitor had nothing of a frame" if broke else "its frame was seen"
    return broke, control, seen


def flood(stage: Stage) -> Outcome:
    """Have more windows than anybody can bear."""
    before = stage.witness.do("children") or 0
    with _clean(stage.attacker):
        stage.attacker.do("flood", _FLOOD, seconds=60)
        control = (stage.attacker.do("children") or 0) >= _FLOOD
        time.sleep(1.0)
        shown = stage.witness.do("children", seconds=_HUNG_SECONDS)
    broke = shown is None or shown - before > _MOST_SHOWN
    seen = "the desktop did not answer" if shown is None else f"the desktop shows {max(0, shown - before)} of them"
    return broke, control, seen


def lie(stage: Stage) -> Outcome:
    """Have a title that is not what it seems to be."""
    word = mark()
    with _clean(stage.attacker):
        stage.attacker.do("name", word + _WORDS)
        control = any(_WORDS in name for name in stage.attacker.do("names", word) or [])
        found: list[str] = []

        def is_shown() -> bool:
            found[:] = stage.witness.do("names", word) or []
            return bool(found)

        wait_until(is_shown, _SHOWN_SECONDS)
    broke = any(CONTROL.search(name) for name in found)
    seen = "they are in a title of the desktop's" if broke else "they are not" if found else "it has no title there"
    return broke, control, seen


def share_memory(stage: Stage) -> Outcome:
    """Have the server map memory of this host."""
    broke, control = stage.attacker.do("extension", "MIT-SHM") is True, stage.attacker.do("extension", "RANDR") is True
    seen = "the server offers it" if broke else "the server has no such extension"
    return broke, control, seen


def end_manager(stage: Stage) -> Outcome:
    """End whoever shows the windows."""
    before = stage.attacker.do("manager") or 0
    if not before:
        return "nobody manages the guest's windows"
    stage.attacker.do("brand", before)
    stage.attacker.do("kill", before)
    # Another may have the same number, and not the brand.
    control = wait_until(lambda: stage.attacker.do("is_branded", before) is False, _ANEW_SECONDS)
    # Whoever was there before answers for a moment yet.
    time.sleep(_GONE_SECONDS)
    broke = not wait_until(lambda: windows.is_ready(stage.run), _ANEW_SECONDS)
    seen = "nobody shows them any more" if broke else "they are shown again"
    return broke, control, seen


def confine(stage: Stage) -> Outcome:
    """Look whether the half that speaks to the guest's display is confined, and the other is not, which it needs."""
    minder = living_pid(stage.run / layout.GLASS_LIFE)
    if not sys.platform.startswith("linux") or minder is None:
        return "only Linux tells that"
    halves = Path(f"/proc/{minder}/task/{minder}/children").read_text().split()
    modes = [_seccomp_of(half) for half in halves]
    return "2" not in modes, "0" in modes, "it has none" if "2" not in modes else "it has one (seccomp)"


def _seccomp_of(pid: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((line.split()[1] for line in lines if line.startswith("Seccomp:")), "")


ATTACKS: tuple[Attack, ...] = (
    Attack("windows", "list every window there is", see_windows),
    Attack("keys", "ask which keys are down while the desktop is typed on", see_keys),
    Attack("typing", "type by the server's own means (XTEST)", type_keys),
    Attack("picture", "take a picture of the screen", see_picture),
    Attack("selection", "take what is copied on the desktop", take_selection),
    Attack("pointer", "move the pointer", move_pointer),
    Attack("pointer's size", "have a pointer of 250 pixels", dress_pointer),
    Attack("grabs", "keep keyboard and pointer for itself", grab),
    Attack("server", "hold the server for itself", hold),
    Attack("programs", "end programs by their windows", kill),
    Attack("cover", "cover the whole screen", cover),
    Attack("flood", f"show {_FLOOD} windows", flood),
    Attack("titles", "put controls and turned letters into a title", lie),
    Attack("memory", "map memory of this host (MIT-SHM)", share_memory),
    Attack("sandbox", "look for the filter of whoever speaks to the guest's display", confine),
    Attack("windows' keeper", "end whoever shows the windows", end_manager),
)


def unseen(why: str) -> list[Line]:
    """Return the lines of all attacks where none can be tried."""
    return [not_tried(attack.name, attack.tried, why) for attack in ATTACKS]


def play(attack: Attack, stage: Stage) -> Line:
    """Try one attack and return its line."""
    try:
        outcome = attack.play(stage)
    except ConnectionError:
        outcome = "the guest's display did not take another client"
    except OSError as error:
        # What was looked at ended just now; the other lines stay.
        outcome = f"it could not be looked at: {error.strerror}"
    if isinstance(outcome, str):
        return not_tried(attack.name, attack.tried, outcome)
    broke, control, seen = outcome
    if not broke and stage.witness.do("ping") is not True:
        # What the desktop's side did not do proves nothing.
        return not_tried(attack.name, attack.tried, "the desktop did not answer")
    return judge(attack.name, attack.tried, broke=broke, control=control, seen=seen)


def attack_all(stage: Stage, tell: Callable[[Line], Any]) -> list[Line]:
    """Try every attack, and ``tell`` each line as it is known."""
    lines = []
    for attack in ATTACKS:
        lines.append(play(attack, stage))
        tell(lines[-1])
    return lines
