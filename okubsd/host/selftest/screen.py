"""The walls between a guest's display and the desktop: each attacked by a client of the guest's display."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from okubsd import layout
from okubsd.host import windows
from okubsd.host.locks import living_pid
from okubsd.host.selftest.actor import Actor
from okubsd.host.selftest.lines import Line, judge, no_answer, not_tried
from okubsd.host.selftest.shown import FLOOD, cover, dress_pointer, flood, lie
from okubsd.host.selftest.stage import (
    HUNG_SECONDS,
    SIZE,
    Outcome,
    Stage,
    clean,
    mark,
    some_color,
)
from okubsd.host.waiting import wait_until

# How often a number is tried; how long a key is held, in seconds.
_TRIES, _HELD_SECONDS = 30, 0.6
# Above these bits of a number stands whose it is (X.org's servers, include/resource.h).
_CLIENT_BITS = 21
_ANEW_SECONDS, _GONE_SECONDS = 30.0, 1.5


class Attack(msgspec.Struct, frozen=True):
    """One wall's name, what is tried against it, and how."""

    name: str
    tried: str
    play: Callable[[Stage], Outcome]


def see_windows(stage: Stage) -> Outcome:
    """Look for a window of the desktop from the guest's display."""
    theirs, ours = mark(), mark()
    with clean(stage.attacker, stage.witness):
        stage.witness.do("plant", theirs, 0, SIZE)
        stage.attacker.do("plant", ours, 0, SIZE)
        broke, control = bool(stage.attacker.do("names", theirs)), bool(stage.attacker.do("names", ours))
    seen = "a window of the desktop was listed" if broke else "it lists its own only"
    return broke, control, seen


def see_keys(stage: Stage) -> Outcome:
    """Ask the guest's display for keys that are pressed on the desktop."""
    code = stage.witness.do("spare_key") or 255
    with clean(stage.attacker, stage.witness):
        stage.witness.do("plant", mark(), 0, SIZE)
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
    with clean(stage.attacker, stage.witness):
        stage.attacker.do("plant", mark(), 0, SIZE)
        stage.attacker.do("focus")
        stage.witness.do("plant", mark(), 0, SIZE)
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
    theirs, ours = some_color(), some_color()
    with clean(stage.attacker, stage.witness):
        stage.witness.do("plant", mark(), theirs, SIZE)
        broke = (stage.attacker.do("share", theirs, seconds=60) or 0) > 0
        stage.witness.do("clear")
        stage.attacker.do("plant", mark(), ours, SIZE)
        control = (stage.attacker.do("share", ours, seconds=60) or 0) > 0
    seen = "a window of the desktop is on it" if broke else "its own windows only are on it"
    return broke, control, seen


def take_selection(stage: Stage) -> Outcome:
    """Ask for what is offered on the desktop."""
    theirs, ours, name = mark(), mark(), f"_{mark()}"
    with clean(stage.attacker, stage.witness):
        stage.witness.do("own", name, theirs)
        broke = stage.attacker.do("take", name) == theirs
        stage.attacker.do("own", f"{name}_", ours)
        control = stage.attacker.do("take", f"{name}_") == ours
        broke = broke or any(_is_shared(stage, usual) for usual in ("CLIPBOARD", "PRIMARY"))
    seen = "it was given" if broke else "there is nothing"
    return broke, control, seen


def _is_shared(stage: Stage, selection: str) -> bool:
    """Return whether what the user has copied on the desktop is there for the guest, too."""
    for utf8 in (True, False):
        theirs = stage.witness.do("take", selection, utf8)
        if theirs and stage.attacker.do("take", selection, utf8) == theirs:
            return True
    return False


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
        control = answered and second.do("ping", seconds=HUNG_SECONDS) is None
        broke = stage.witness.do("ping", seconds=HUNG_SECONDS) is None
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
        broke = victim.do("ping", seconds=HUNG_SECONDS) is None
        second = stage.second()
        stack.callback(second.end)
        planted = second.do("plant", mark(), 0, SIZE)
        if planted is not None:
            stage.attacker.do("kill", planted)
        control = planted is not None and second.do("ping", seconds=HUNG_SECONDS) is None
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
        number, base = victim.do("plant", word, 0, SIZE), client.do("base")
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
    # The reader is the first of both.
    confined = modes[:1] == ["2"]
    return not confined, modes[1:] == ["0"], "it has one (seccomp)" if confined else "it has none"


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
    Attack("flood", f"show {FLOOD} windows", flood),
    Attack("titles", "put controls and turned letters into a title", lie),
    Attack("memory", "map memory of this host (MIT-SHM)", share_memory),
    Attack("sandbox", "look for the filter of whoever speaks to the guest's display", confine),
    Attack("windows' keeper", "end whoever shows the windows", end_manager),
)


def unseen(why: str) -> list[Line]:
    """Return the lines of all attacks where none can be tried."""
    return [not_tried(attack.name, attack.tried, why) for attack in ATTACKS]


def unanswered(why: str) -> list[Line]:
    """Return the lines of attacks whose displays do not answer."""
    return [no_answer(attack.name, attack.tried, why) for attack in ATTACKS]


def play(attack: Attack, stage: Stage) -> Line:
    """Try one attack and return its line."""
    try:
        outcome = attack.play(stage)
    except ConnectionError:
        return no_answer(attack.name, attack.tried, "the guest's display did not take another client")
    except OSError as error:
        # What was looked at ended just now; the other lines stay.
        return no_answer(attack.name, attack.tried, f"it could not be looked at: {error.strerror}")
    if isinstance(outcome, str):
        return not_tried(attack.name, attack.tried, outcome)
    broke, control, seen = outcome
    if not broke and stage.witness.do("ping") is not True:
        # What the desktop's side did not do proves nothing.
        return no_answer(attack.name, attack.tried, "the desktop did not answer")
    return judge(attack.name, attack.tried, broke=broke, control=control, seen=seen)


def attack_all(stage: Stage, tell: Callable[[Line], Any]) -> list[Line]:
    """Try every attack, and ``tell`` each line as it is known."""
    lines = []
    for attack in ATTACKS:
        lines.append(play(attack, stage))
        tell(lines[-1])
    return lines
