"""Measure what the README claims: all rows in interleaved rounds of one run, medians and ratios by the caller."""

from __future__ import annotations

import contextlib
import itertools
import os
import platform
import re
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import msgspec

from okubsd import layout
from okubsd.bench import ready
from okubsd.bench import stock as stock_vms
from okubsd.bench.common import Rows, alone, called, seconds
from okubsd.bench.contestants import start_openssh
from okubsd.errors import Problem, TimedOut
from okubsd.host import builder, door, facts, keys, lifecycle, performance, programs, store, window
from okubsd.host.engine.qemu import memory_of
from okubsd.host.guest import Guest
from okubsd.host.perform import perform, perform_step
from okubsd.host.performance import Performance
from okubsd.host.session import Session, silent
from okubsd.host.trust import is_root
from okubsd.model import Argv, Request, Vm
from okubsd.plan import steps

_IMPORTS = "import msgspec, yaml, click"


def describe_host() -> str:
    """Return the date and the machine, in a line, for whoever reads the figures."""
    return f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, {platform.system()} {platform.release()}, TCG"


def measure(session: Session, vm: Vm, rounds: int, *, stock: bool) -> Rows:
    """Return figures by name, a value a round; with ``stock`` also those of a stock VM.

    Raises Problem where the VM runs already: a start of a running VM measures nothing.
    """
    if facts.ask_vm(session.places, vm.name).running:
        raise Problem(f"VM '{vm.name}' is running", f"okubsd stop {vm.name}")
    rows: Rows = defaultdict(list)
    if stock and is_root():
        _first_build(session, vm, rows)
    builder.make_ready(session.places, session.recipes, ("boot", "base", vm.image, "bench"), session.report)
    stock_directory = (
        stock_vms.build_stock(session.places, session.recipes[vm.image], session.report) if stock else None
    )
    for number in range(rounds):
        session.report(f"round {number + 1} of {rounds}")
        ready.forget_state(session, vm)
        _round_of_starts(session, vm, rows)
        ready.round_of_ready_starts(session, vm, rows)
        if stock_directory is not None:
            with stock_vms.stock_vm(stock_directory) as running:
                rows["stock: cold start to window (s)"].append(running.seconds)
                time.sleep(5)
                rows["stock: QEMU resident, idle (MB)"].append(running.resident / 1e6)
        _round_of_commands(rows)
    ready.memory_of_clones(session, vm, rows)
    ready.forget_state(session, vm)
    _second_app(session, vm, rows, rounds)
    _sizes(session, vm, rows)
    ready.size_of_kernel(session, rows)
    return _with_ratios(dict(rows))


def _first_build(session: Session, vm: Vm, rows: Rows) -> None:
    """Build the VM's images from nothing in a state directory of their own; what mmdebstrap fetches counts apart."""
    with tempfile.TemporaryDirectory(prefix="okubsd-bench-") as name:
        empty = msgspec.structs.replace(session.places, state=Path(name))
        session.report(f"building {vm.image} and what it stands on, from nothing")
        lines: list[tuple[float, str]] = []
        start = time.monotonic()
        for image in ("boot", session.recipes[vm.image].base, vm.image):
            builder.build(empty, session.recipes[image], lambda line: lines.append((time.monotonic(), line)))
        total = time.monotonic() - start
    # mmdebstrap updates its lists before it downloads, and downloads before it extracts.
    fetching = 0.0
    for (begin, line), (end, _) in itertools.pairwise(lines):
        if "downloading packages" in line or "as tempdir" in line or "running apt-get update" in line:
            fetching += end - begin
    rows[f"first build of {vm.image}, fetching apart (s)"] = [total - fetching]
    rows["  fetching lists and packages (s)"] = [fetching]


def _round_of_starts(session: Session, vm: Vm, rows: Rows) -> None:
    """Start the VM by okubsd, then by its very commands without okubsd."""
    asked = time.time()
    rows["okubsd start, until it returns (s)"].append(seconds(called(session, "start", vm.name, "--headless")))
    timing = performance.read_timings(session.places, vm.name)[-1]
    # Until the window is mapped, as the stock VM is measured: interpreter and imports count, the cleaning up does not.
    rows["cold start to window (s)"].append(timing.began + timing.total - timing.phases.get("paint", 0.0) - asked)
    for phase, spent in timing.phases.items():
        rows[f"  of that: {phase} (s)"].append(spent)
    time.sleep(5)
    pid = facts.ask_vm(session.places, vm.name).pid
    rows["QEMU resident, idle (MB)"].append(memory_of(pid or 0) / 1e6)
    rows["guest's own memory, idle (MB)"].append(_guest_memory(session, vm))
    lifecycle.stop(alone(session, vm), vm)
    rows["the same by hand (s)"].append(_by_hand(session, vm))


def _guest_memory(session: Session, vm: Vm) -> float:
    done = Guest.find(session.places, vm).ask(("cat", "/proc/meminfo"), timeout=60)
    found = dict(re.findall(r"(?m)^(\w+):\s+(\d+) kB", done.out.decode(errors="replace")))
    return (int(found["MemTotal"]) - int(found["MemAvailable"])) * 1024 / 1e6


def _by_hand(session: Session, vm: Vm) -> float:
    """Return the seconds of the plan's own programs, one after the other, with nothing in between."""
    own = alone(session, vm)
    with lifecycle.holding(session.places, vm.name, silent):
        decided = lifecycle.decide_start(own, vm, Request(headless=True))
        performance = Performance(own)
        kept = (steps.BuildImages, steps.VerifyImages, steps.MakeKeys, steps.MakeHome, steps.WriteInitrd)
        for step in decided.plan:
            if isinstance(step, kept):
                perform_step(step, performance)
        start = time.monotonic()
        try:
            for step in decided.plan:
                if not isinstance(step, kept):
                    perform_step(step, performance)
            return time.monotonic() - start
        finally:
            performance.close()
            state = decided.boot.state
            perform(decided.seat.end(vm.name, state.run, state.pid), performance)
            if performance.server is not None:
                performance.server.wait()


def _round_of_commands(rows: Rows) -> None:
    rows["python -c 'import msgspec, yaml, click' (s)"].append(seconds((sys.executable, "-c", _IMPORTS)))
    rows["okubsd list (s)"].append(seconds(programs.okubsd_argv("list")))
    rows["okubsd status (s)"].append(seconds(programs.okubsd_argv("status")))
    rows["okubsd --help (s)"].append(seconds(programs.okubsd_argv("--help")))
    rows["okubsd image build, nothing to do (s)"].append(seconds(programs.okubsd_argv("image", "build", "term")))


def _second_app(session: Session, vm: Vm, rows: Rows, rounds: int) -> None:
    """Show another window in a VM that runs: by okubsd, and by a new `ssh -Y` to OpenSSH in the same guest."""
    other = msgspec.structs.replace(vm, name="bench-ssh", image="bench", apps=("term",), keep=True)
    own = alone(session, other)
    lifecycle.start(own, other, Request(headless=True))
    try:
        port = start_openssh(session, other)
        for _ in range(rounds):
            timing = lifecycle.start(own, other, Request(another=True)).timing
            rows["second app, running VM (s)"].append(timing.total - timing.phases.get("paint", 0.0))
            _close_newest(session, other)
            rows["the same by a new ssh -Y (s)"].append(_new_ssh(session, other, port))
            _close_newest(session, other)
    finally:
        lifecycle.stop(own, other, force=True)


def _close_newest(session: Session, vm: Vm) -> None:
    """Close the newest app, so that every round finds a guest with one; what ends has a moment to end."""
    newest = "kill $(busybox pidof xterm | cut -d' ' -f1)"
    Guest.find(session.places, vm).ask(("sh", "-c", newest), timeout=60)
    time.sleep(1)


def _new_ssh(session: Session, vm: Vm, port: int) -> float:
    """Return the seconds that a new `ssh -Y` with the same app takes to its window, on the VM's own display."""
    state = facts.ask_vm(session.places, vm.name)
    cookie = keys.read_cookie(state.run)
    if state.display is None or cookie is None:
        raise Problem(f"{vm.name}: its display is gone")
    argv: Argv = (*stock_vms.stock_ssh(state.directory, port), "-Y", "user@127.0.0.1", *stock_vms.SHOWN)
    if state.seat is not None:
        argv = state.seat.reach(argv)
    env = (f"DISPLAY=:{state.display}", f"XAUTHORITY={state.run / layout.XAUTHORITY}")
    with window.watching(vm.name, state.display, cookie) as watcher:
        start = time.monotonic()
        process = door.spawn_measured(("env", *env, *argv), state.directory / "bench.log")
        shown = watcher.wait(b"mapped", 120, lambda: None)
        spent = time.monotonic() - start
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    process.wait()
    if not shown:
        raise TimedOut("ssh -Y showed no window within 120 seconds")
    return spent


def _sizes(session: Session, vm: Vm, rows: Rows) -> None:
    for name in ("base", vm.image, "firefox"):
        image = store.current_image(session.places, name)
        if image is not None:
            rows[f"size of {name} (MB)"] = [image.parts[0].size / 1e6]


_RATIOS = {
    "RATIO cold start, stock to ours": ("stock: cold start to window (s)", "cold start to window (s)"),
    "RATIO saved start, stock to ours": ("stock: cold start to window (s)", "saved start to window (s)"),
    "RATIO a copy that waits, stock to ours": (
        "stock: cold start to window (s)",
        "a copy that waits, to its window (s)",
    ),
    "RATIO resident memory, ours to stock": ("QEMU resident, idle (MB)", "stock: QEMU resident, idle (MB)"),
    "RATIO second app, ours to a new ssh -Y": ("second app, running VM (s)", "the same by a new ssh -Y (s)"),
    "RATIO okubsd list to the imports": ("okubsd list (s)", "python -c 'import msgspec, yaml, click' (s)"),
    "RATIO okubsd status to the imports": ("okubsd status (s)", "python -c 'import msgspec, yaml, click' (s)"),
    "RATIO okubsd --help to the imports": ("okubsd --help (s)", "python -c 'import msgspec, yaml, click' (s)"),
}


def _with_ratios(rows: Rows) -> Rows:
    """Return ``rows`` with the ratios, round by round, and what okubsd adds to the bare commands."""
    for name, (upper, lower) in _RATIOS.items():
        if upper in rows and lower in rows:
            rows[name] = [a / b for a, b in zip(rows[upper], rows[lower], strict=True)]
    pairs = zip(rows["cold start to window (s)"], rows["the same by hand (s)"], strict=True)
    rows["okubsd's own part of a cold start (s)"] = [ours - hand for ours, hand in pairs]
    return rows
