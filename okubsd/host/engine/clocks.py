"""The clock of a guest of vmd's beside the host's: without a rate that it is told, it runs several times too slow."""

from __future__ import annotations

import re
import time
from pathlib import Path

import msgspec

from okubsd import layout
from okubsd.decode import read_json
from okubsd.host import door
from okubsd.host.performance import Performance
from okubsd.plan.steps import CompareClocks

# A guest that fell to another clock runs at a half or a fifth of the time; less than this is the measuring's.
_CLOCK_TOLERANCE = 0.25


class Clock(msgspec.Struct, frozen=True):
    """One look at two clocks: the host's and the guest's, in seconds, and once compared how fast the guest's runs."""

    host: float
    guest: float
    speed: float | None = None


def compare_clocks(step: CompareClocks, performance: Performance) -> None:
    """Keep how fast the guest's clock has run since it first answered, against the host's."""
    first = read_clock(step.run)
    if first is None:
        return
    # Over less than a second the comparison would be of two round trips.
    time.sleep(max(0.0, 1.0 - (time.monotonic() - first.host)))
    now = clock_of(door.ask(performance.fill(step.argv), timeout=20))
    if now is not None:
        speed = (now.guest - first.guest) / (now.host - first.host)
        door.write(step.run / layout.CLOCK, msgspec.json.encode(Clock(now.host, now.guest, round(speed, 3))))


def clock(run: Path) -> str | None:
    """Return how fast the guest's clock runs, and what to do about a slow one; None where nobody knows."""
    found = read_clock(run)
    if found is None or found.speed is None:
        return None
    if abs(found.speed - 1) <= _CLOCK_TOLERANCE:
        return "runs with the host's"
    return (
        f"runs at {found.speed:.2f} of the host's time, so its time-outs are wrong; "
        "import the images again on this host, which then tells the guest its rate"
    )


def read_clock(run: Path) -> Clock | None:
    """Return what was kept of the guest's clock since it was booted, or None."""
    try:
        return read_json((run / layout.CLOCK).read_bytes(), Clock)
    except (OSError, ValueError):
        return None


def clock_of(done: door.Done) -> Clock | None:
    """Return both clocks at the end of the look ``done``, or None if it does not tell.

    Saying what time it is comes last; connecting, which takes its time, does not count.
    """
    match = re.match(rb"([0-9]{1,12}(?:\.[0-9]{1,6})?)\s", done.out)
    return Clock(time.monotonic(), float(match[1])) if match else None
