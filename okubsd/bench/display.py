"""Measure what a window costs: the glass and Xephyr before the same guest, on a desktop of the measuring's own."""

from __future__ import annotations

import contextlib
import os
import select
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from okubsd import layout
from okubsd.bench.stock import virtual_display
from okubsd.errors import Problem, TimedOut
from okubsd.host import facts, lifecycle, locks, running, window
from okubsd.host.guest import Guest
from okubsd.host.session import Session
from okubsd.model import Face, Request, Vm

Rows = dict[str, list[float]]

_KEYS, _PAUSE, _LATE = 30, 0.15, 5.0
# What fills a terminal: its own seconds are asked of the guest, whose clock runs with it.
_LINES = 20_000
_SCROLL = (
    f"a=$(cut -d' ' -f1 /proc/uptime); seq 1 {_LINES}; b=$(cut -d' ' -f1 /proc/uptime); echo $a $b >/tmp/scrolled; "
    "exec sleep 600"
)


def measure(session: Session, vm: Vm, rounds: int) -> Rows:
    """Return figures by name, a value a round, and the ratios of their medians.

    Raises Problem where the VM runs already.
    """
    if facts.ask_vm(session.places, vm.name).running:
        raise Problem(f"VM '{vm.name}' is running", f"okubsd stop {vm.name}")
    rows: Rows = defaultdict(list)
    for number in range(rounds):
        session.report(f"round {number + 1} of {rounds}")
        for face in Face:
            with _desktop() as opened:
                shown = msgspec.structs.replace(vm, face=face)
                try:
                    _measure_one(session, shown, opened, rows)
                finally:
                    lifecycle.stop(session, shown, force=True)
    return _with_ratios(dict(rows))


@contextlib.contextmanager
def _desktop() -> Iterator[Any]:
    """Have a desktop of our own, which is DISPLAY for the block; yield it opened."""
    window.preload()
    kept = {name: os.environ.get(name) for name in ("DISPLAY", "XAUTHORITY")}
    with tempfile.TemporaryDirectory(prefix="okubsd-bench-") as name, virtual_display(Path(name)) as (number, cookie):
        os.environ |= {"DISPLAY": f":{number}", "XAUTHORITY": f"{name}/Xauthority"}
        with window.authority(number, cookie):
            opened = window.open_display(f":{number}")
        try:
            yield opened
        finally:
            opened.close()
            for key, value in kept.items():
                os.environ.pop(key, None)
                os.environ |= {key: value} if value is not None else {}


def _measure_one(session: Session, vm: Vm, opened: Any, rows: Rows) -> None:
    name = vm.face.value
    started = lifecycle.start(session, vm, Request(app="term"))
    phases = started.timing.phases
    rows[f"{name}: app to painted window (s)"].append(phases.get("window", 0) + phases.get("paint", 0))
    delays = _keys(opened)
    rows[f"{name}: key to pixel, median (ms)"].append(statistics.median(delays))
    rows[f"{name}: key to pixel, worst of {_KEYS} (ms)"].append(max(delays))
    run = session.places.vm_run(vm.name)
    before = _spent(run)
    rows[f"{name}: scroll {_LINES} lines (s, guest's clock)"].append(_scroll(session, vm))
    rows[f"{name}: processor of the host for it (s)"].append(_spent(run) - before)
    rows[f"{name}: memory of display and glass (MB)"].append(sum(_proportional(pid) for pid in _pids(run)) / 1e6)


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


def _point_at_window(opened: Any) -> None:
    """Give the pointer and the keyboard to the largest window of the desktop."""
    from Xlib import X
    from Xlib.ext import xtest

    boxes = [(child, child.get_geometry()) for child in opened.screen().root.query_tree().children]
    top, box = max(boxes, key=lambda pair: pair[1].width * pair[1].height)
    xtest.fake_input(opened, X.MotionNotify, 0, x=box.x + box.width // 2, y=box.y + box.height // 2)
    top.set_input_focus(X.RevertToPointerRoot, X.CurrentTime)
    opened.sync()
    time.sleep(1)


def _forget(opened: Any, watched: int) -> None:
    opened.damage_subtract(watched)
    opened.sync()
    while opened.pending_events():
        opened.next_event()


def _scroll(session: Session, vm: Vm) -> float:
    """Return the seconds that a terminal took for many lines, by the guest's own clock."""
    request = Request(app="term", another=True, arguments=("-e", "sh", "-c", _SCROLL))
    lifecycle.start(session, vm, request)
    guest, end = Guest.find(session.places, vm), time.monotonic() + 300
    while time.monotonic() < end:
        words = guest.ask(("cat", "/tmp/scrolled"), timeout=60).out.split()
        if len(words) == 2:
            return float(words[1]) - float(words[0])
        time.sleep(0.5)
    raise TimedOut(f"{vm.name}: the terminal did not end scrolling")


def _pids(run: Path) -> list[int]:
    """Return the processes that show the VM: its X server, the glass and its halves."""
    server, glass = running.live_server(run), locks.living_pid(run / layout.GLASS_LIFE)
    children = Path(f"/proc/{glass}/task/{glass}/children").read_text().split() if glass else []
    return [pid for pid in (server, glass, *map(int, children)) if pid]


def _spent(run: Path) -> float:
    return sum(window.spent_by(pid) for pid in _pids(run))


def _proportional(pid: int) -> float:
    """Return the bytes of process ``pid``, what it shares counted in part (proc(5), smaps_rollup)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(float(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def _with_ratios(rows: Rows) -> Rows:
    """Add how the glass compares with Xephyr, by the medians."""
    for name, values in [*rows.items()]:
        face, _, what = name.partition(": ")
        other = rows.get(f"{Face.XEPHYR}: {what}")
        if face == Face.SEAMLESS and other:
            rows[f"seamless to xephyr: {what.rpartition(' (')[0]} (times)"] = [
                statistics.median(values) / max(1e-9, statistics.median(other))
            ]
    return rows
