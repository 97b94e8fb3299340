"""Measure what a window costs: every way to show a program of the same guest, on a desktop of the measuring's own."""

from __future__ import annotations

import contextlib
import os
import re
import select
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from okubsd.bench import film
from okubsd.bench.common import Rows
from okubsd.bench.contestants import Contestant, Ours, all_of, proportional, spent
from okubsd.bench.stock import virtual_display
from okubsd.errors import Problem, TimedOut
from okubsd.host import facts, window
from okubsd.host.guest import Guest
from okubsd.host.session import Session, silent
from okubsd.model import Description, Vm

_KEYS, _PAUSE, _LATE = 30, 0.15, 5.0
_STEPS, _STEP_SECONDS = 30, 1 / 30
# What fills a terminal: its own seconds are asked of the guest, whose clock runs with it.
_LINES = 20_000
_SCROLL = (
    f"a=$(cut -d' ' -f1 /proc/uptime); seq 1 {_LINES}; b=$(cut -d' ' -f1 /proc/uptime); echo $a $b >/tmp/scrolled; "
    "exec sleep 600"
)
# Pictures of 500 by 500 pixels, as fast as they go, for five seconds of the guest's clock (x11perf(1)).
_PICTURES = "x11perf -repeat 1 -time 5 -putimage500 >/tmp/pictures 2>&1; echo done >>/tmp/pictures; exec sleep 600"


class Desktop(msgspec.Struct, frozen=True):
    """The display that all is shown on: its number, its cookie, and it opened."""

    number: int
    cookie: bytes
    opened: Any


def measure(session: Session, vm: Vm, rounds: int) -> Rows:
    """Return figures by name, a value a round, and the ratios of their medians.

    Raises Problem where the VM that is measured runs already.
    """
    other = msgspec.structs.replace(
        vm, name="bench-display", image="bench", memory=512 << 20, apps=("term",), keep=True
    )
    if facts.ask_vm(session.places, other.name).running:
        raise Problem(f"VM '{other.name}' is running", f"okubsd stop {other.name}")
    alone = Session.of(session.places, Description(Path("bench"), (other,)), session.recipes, silent)
    rows: Rows = defaultdict(list)
    for number in range(rounds):
        for contestant in all_of(alone, other):
            session.report(f"round {number + 1} of {rounds}: {contestant.name}")
            with _desktop() as desktop, contestant.ready():
                _measure_one(contestant, desktop, rows)
    return _with_ratios(dict(rows))


@contextlib.contextmanager
def _desktop() -> Iterator[Desktop]:
    """Have a desktop of our own, which is DISPLAY for the block."""
    window.preload()
    kept = {name: os.environ.get(name) for name in ("DISPLAY", "XAUTHORITY")}
    with tempfile.TemporaryDirectory(prefix="okubsd-bench-") as name, virtual_display(Path(name)) as (number, cookie):
        os.environ |= {"DISPLAY": f":{number}", "XAUTHORITY": f"{name}/Xauthority"}
        with window.authority(number, cookie):
            opened = window.open_display(f":{number}")
        try:
            yield Desktop(number, cookie, opened)
        finally:
            opened.close()
            for key, value in kept.items():
                os.environ.pop(key, None)
                os.environ |= {key: value} if value is not None else {}


def _measure_one(contestant: Contestant, desktop: Desktop, rows: Rows) -> None:
    name = contestant.name
    rows[f"{name}: app to painted window (s)"].append(_show(contestant, desktop))
    delays = _keys(desktop.opened)
    rows[f"{name}: key to pixel, median (ms)"].append(statistics.median(delays))
    rows[f"{name}: key to pixel, 99 of 100 (ms)"].append(statistics.quantiles(delays, n=100)[98])
    rows[f"{name}: frames of {_STEPS} while it is resized"].append(_resize(desktop.opened))
    before = spent(contestant.pids())
    rows[f"{name}: scroll {_LINES} lines (s, guest's clock)"].append(_scroll(contestant))
    rows[f"{name}: processor of the host for it (s)"].append(spent(contestant.pids()) - before)
    before = spent(contestant.pids())
    pictures = _pictures(contestant)
    rows[f"{name}: pictures of 500x500 a second"].append(pictures)
    rows[f"{name}: processor of the host for each (ms)"].append((spent(contestant.pids()) - before) / pictures / 5e-3)
    if isinstance(contestant, Ours):
        pictures, processor = film.play(contestant, desktop.opened)
        rows[f"{name}: pictures shown of {film.RATE} a second, 854x480"].append(pictures)
        rows[f"{name}: processor of the host for them (s a second)"].append(processor)
    rows[f"{name}: memory of what shows it (MB)"].append(sum(map(proportional, contestant.pids())) / 1e6)


def _show(contestant: Contestant, desktop: Desktop) -> float:
    """Return the seconds until a window of the desktop is painted; in a viewer that is there, until its first pixel."""
    if not contestant.maps:
        return _first_pixel(contestant, desktop.opened)
    with window.watching("bench", desktop.number, desktop.cookie) as watcher:
        began = time.monotonic()
        contestant.show()
        for word in (b"mapped", b"painted"):
            if not watcher.wait(word, 120, lambda: None):
                raise TimedOut(f"{contestant.name}: no window was {word.decode()} within 120 seconds")
        return time.monotonic() - began


def _first_pixel(contestant: Contestant, opened: Any) -> float:
    from Xlib.ext import damage

    opened.damage_query_version()
    watched = opened.screen().root.damage_create(damage.DamageReportNonEmpty)
    _forget(opened, watched)
    began = time.monotonic()
    contestant.show()
    ready, _, _ = select.select([opened.fileno()], [], [], 120)
    seconds = time.monotonic() - began
    if not ready:
        raise TimedOut(f"{contestant.name}: nothing was seen within 120 seconds")
    opened.damage_destroy(watched)
    time.sleep(2)
    return seconds


def _resize(opened: Any) -> float:
    """Return how many of some steps of a resize are seen before the next one."""
    from Xlib.ext import damage

    root = opened.screen().root
    top, box = _largest(opened)
    opened.damage_query_version()
    watched, seen = root.damage_create(damage.DamageReportNonEmpty), 0
    for step in range(_STEPS):
        _forget(opened, watched)
        end = time.monotonic() + _STEP_SECONDS
        top.configure(width=box.width - 4 * step, height=box.height - 3 * step)
        opened.flush()
        select.select([opened.fileno()], [], [], _STEP_SECONDS)
        seen += bool(opened.pending_events())
        time.sleep(max(0.0, end - time.monotonic()))
    opened.damage_destroy(watched)
    top.configure(width=box.width, height=box.height)
    opened.sync()
    return float(seen)


def _keys(opened: Any) -> list[float]:
    """Return the milliseconds from each of some keys to the first pixel of the desktop that changes."""
    from Xlib import X
    from Xlib.ext import damage, xtest

    root = opened.screen().root
    _point_at_window(opened)
    opened.damage_query_version()
    watched = root.damage_create(damage.DamageReportNonEmpty)
    code, delays = opened.keysym_to_keycode(ord("x")), []
    for _ in range(_KEYS):
        time.sleep(_PAUSE)
        _forget(opened, watched)
        began = time.monotonic()
        xtest.fake_input(opened, X.KeyPress, code)
        xtest.fake_input(opened, X.KeyRelease, code)
        opened.flush()
        while not opened.pending_events():
            if time.monotonic() > began + _LATE:
                raise TimedOut("no pixel of the desktop changed after a key")
            select.select([opened.fileno()], [], [], 0.5)
        delays.append((time.monotonic() - began) * 1000)
    opened.damage_destroy(watched)
    opened.sync()
    return delays


def _largest(opened: Any) -> tuple[Any, Any]:
    """Return the largest window of the desktop, and its place."""
    boxes = [(child, child.get_geometry()) for child in opened.screen().root.query_tree().children]
    return max(boxes, key=lambda pair: pair[1].width * pair[1].height)


def _point_at_window(opened: Any) -> None:
    """Give the pointer and the keyboard to the largest window of the desktop."""
    from Xlib import X
    from Xlib.ext import xtest

    top, box = _largest(opened)
    xtest.fake_input(opened, X.MotionNotify, 0, x=box.x + box.width // 2, y=box.y + box.height // 2)
    top.set_input_focus(X.RevertToPointerRoot, X.CurrentTime)
    opened.sync()
    time.sleep(1)


def _forget(opened: Any, watched: int) -> None:
    opened.damage_subtract(watched)
    opened.sync()
    while opened.pending_events():
        opened.next_event()


def _scroll(contestant: Contestant) -> float:
    """Return the seconds that a terminal took for many lines, by the guest's own clock."""
    contestant.show("-e", "sh", "-c", _SCROLL)
    begun, ended = _wait_for(contestant, "/tmp/scrolled", r"^([0-9.]+) ([0-9.]+)$")
    return float(ended) - float(begun)


def _pictures(contestant: Contestant) -> float:
    """Return how many pictures a second a program in the guest was rid of."""
    contestant.show("-e", "sh", "-c", _PICTURES)
    (rate,) = _wait_for(contestant, "/tmp/pictures", r"\( *([0-9.]+)/sec\)[^\x00]*done")
    return float(rate)


def _wait_for(contestant: Contestant, path: str, pattern: str) -> tuple[str, ...]:
    """Wait until a file of the guest's has what matches, and return its groups."""
    guest, end = Guest.find(contestant.session.places, contestant.vm), time.monotonic() + 300
    while time.monotonic() < end:
        said = guest.ask(("cat", path), timeout=60).out.decode(errors="replace")
        if match := re.search(pattern, said, re.MULTILINE):
            return match.groups()
        time.sleep(0.5)
    raise TimedOut(f"{contestant.name}: {path} was not there within 300 seconds")


_COMPARED = ("xephyr", "ssh -X", "ssh -Y", "VNC")


def _with_ratios(rows: Rows) -> Rows:
    """Add how both faces of the glass compare with the others, by the medians."""
    for name, values in [*rows.items()]:
        face, _, what = name.partition(": ")
        for other in _COMPARED if face in ("seamless", "window") else ():
            beside = rows.get(f"{other}: {what}")
            if beside:
                ratio = statistics.median(values) / max(1e-9, statistics.median(beside))
                rows[f"{face} to {other}: {what.rpartition(' (')[0] or what} (times)"] = [ratio]
    return rows
