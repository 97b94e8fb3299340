"""Attacks on what the desktop shows of a guest: its size, number and words.  Where nothing is shown, nothing held."""

from __future__ import annotations

import time

from okubsd.config.names import CONTROL
from okubsd.host.selftest.stage import (
    HUNG_SECONDS,
    MOMENT,
    SHOWN_SECONDS,
    SIZE,
    Outcome,
    Stage,
    clean,
    mark,
    some_color,
)
from okubsd.host.waiting import wait_until

# How many make a flood, and how many of a guest's windows the desktop shows at most.
FLOOD = 700
_MOST_SHOWN = 520
# What share of the screen a guest may fill: there is always a frame.
_MOST_SHARE = 0.995
_WORDS = "\x1b[31mred\u202egnirts\x07"
# How large a pointer is tried, in pixels; what is said where the desktop does not show what is to be judged.
_DRESSED, _NOT_SHOWN = 250, "the desktop does not show it, so nothing is proven"
# How much of a monitor is covered where it counts; of a label so many rows have to be seen.
_MOST_COVERED, _LEAST_LABEL = 0.5, 8


def dress_pointer(stage: Stage) -> Outcome:
    """Have a pointer that covers what it likes."""
    color, before = some_color(), stage.witness.do("where") or [0, 0]
    with clean(stage.attacker):
        stage.attacker.do("dress", _DRESSED, color)
        control = (stage.attacker.do("cursor_size") or 0) >= _DRESSED
        # The desktop's pointer has to be over the guest's window: else it is anybody's.
        over = wait_until(lambda: stage.witness.do("point_at", color) is True, SHOWN_SECONDS)
        broke = wait_until(lambda: (stage.witness.do("cursor_size") or 0) >= _DRESSED, MOMENT)
        stage.witness.do("warp", *before)
    seen = "the desktop's is as large" if broke else "the desktop's is not" if over else _NOT_SHOWN
    return broke, control and over, seen


def cover(stage: Stage) -> Outcome:
    """Cover the whole screen."""
    color = some_color()
    with clean(stage.attacker):
        stage.attacker.do("cover", color)
        control = (stage.attacker.do("share", color, seconds=60) or 0) > _MOST_SHARE
        found: list[list[int]] = []

        def is_shown() -> bool:
            found[:] = stage.witness.do("pixels_of", color, stage.color, seconds=60) or []
            return any(covered for _, _, covered, _ in found)

        shown = wait_until(is_shown, SHOWN_SECONDS)
        time.sleep(MOMENT)
        is_shown()
    # Where a window covers a monitor, the label of its frame is on it, too: so many rows have the color of the VM.
    broke = any(
        covered > _MOST_COVERED * width * height and framed < _LEAST_LABEL * width
        for width, height, covered, framed in found
    )
    seen = "a monitor had nothing of a frame" if broke else "its frame was seen" if shown else _NOT_SHOWN
    return broke, control and shown, seen


def flood(stage: Stage) -> Outcome:
    """Have more windows than anybody can bear."""
    before, color = stage.witness.do("children") or 0, some_color()
    with clean(stage.attacker):
        # One that is seen, so that it is known whether the desktop shows any.
        stage.attacker.do("plant", mark(), color, SIZE)
        seen_one = wait_until(lambda: (stage.witness.do("share", color, seconds=60) or 0) > 0, SHOWN_SECONDS)
        stage.attacker.do("flood", FLOOD, seconds=60)
        control = (stage.attacker.do("children") or 0) >= FLOOD
        shown: int | None = before

        def is_over() -> bool:
            nonlocal shown
            last, shown = shown, stage.witness.do("children", seconds=HUNG_SECONDS)
            return shown is None or shown - before > _MOST_SHOWN or shown == last

        wait_until(is_over, SHOWN_SECONDS, pause=0.5)
    broke = shown is None or shown - before > _MOST_SHOWN
    seen = "the desktop did not answer" if shown is None else f"the desktop shows {max(0, shown - before)} of them"
    return broke, control and seen_one, seen if broke or seen_one else _NOT_SHOWN


def lie(stage: Stage) -> Outcome:
    """Have a title that is not what it seems to be."""
    word = mark()
    with clean(stage.attacker):
        stage.attacker.do("name", word + _WORDS)
        control = any(_WORDS in name for name in stage.attacker.do("names", word) or [])
        found: list[str] = []

        def is_shown() -> bool:
            found[:] = stage.witness.do("names", word) or []
            return bool(found)

        wait_until(is_shown, SHOWN_SECONDS)
    broke = any(CONTROL.search(name) for name in found)
    seen = "they are in a title of the desktop's" if broke else "they are not" if found else _NOT_SHOWN
    return broke, control and bool(found), seen
