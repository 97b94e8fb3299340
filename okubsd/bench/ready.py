"""What starts from a saved state and copies that wait are worth, and what they take of the memory."""

from __future__ import annotations

import re
import statistics
import time
from pathlib import Path

import msgspec

from okubsd import layout
from okubsd.bench.common import Rows, alone, called, seconds
from okubsd.errors import Problem
from okubsd.host import facts, lifecycle, performance, pool, ready, saved, store
from okubsd.host.session import Session
from okubsd.model import Request, Vm
from okubsd.plan.images import BOOT_IMAGE

# How many guests of one state are looked at side by side, and how long they come to rest.
_CLONES, _REST_SECONDS = 3, 5.0


def forget_state(session: Session, vm: Vm) -> None:
    """Have the next start of ``vm`` boot."""
    for state in saved.states(session.places):
        saved.discard(session.places, state.name)
    ready.end(session, frozenset({vm.name}))


def round_of_ready_starts(session: Session, vm: Vm, rows: Rows) -> None:
    """Start the VM from a saved state, and a copy of it that waits."""
    began = time.monotonic()
    state = pool.make(session, vm)
    rows["making a saved state (s)"].append(time.monotonic() - began)
    rows["a saved state on the disk (MB)"].append(saved.on_disk(session.places, state) / 1e6)
    asked = time.time()
    seconds(called(session, "start", vm.name, "--headless"))
    timing = performance.read_timings(session.places, vm.name)[-1]
    rows["saved start to window (s)"].append(timing.began + timing.total - timing.phases.get("paint", 0.0) - asked)
    lifecycle.stop(alone(session, vm), vm)
    ready.prepare(session, vm)
    rows["a copy that waits, to its window (s)"].append(
        seconds(called(session, "start", "--disposable", "--headless", vm.name))
    )
    for name in [path.parent.name for path in (session.places.state / layout.STATE_VMS).glob(f"*/{layout.COPY_OF}")]:
        lifecycle.stop(alone(session, vm), Vm(name=name, image=vm.image, disposable=True, copy_of=vm.name), force=True)


def memory_of_clones(session: Session, vm: Vm, rows: Rows) -> None:
    """Tell how much of the memory each of some guests of one state has, what they share counted by parts."""
    clones = [msgspec.structs.replace(vm, name=f"bench-{number}", keep=True) for number in range(1, _CLONES + 1)]
    pool.make(alone(session, clones[0]), clones[0])
    try:
        for clone in clones:
            lifecycle.start(alone(session, clone), clone, Request(windowless=True))
        time.sleep(_REST_SECONDS)
        found = [_pss(facts.ask_vm(session.places, clone.name).pid) for clone in clones]
        rows[f"QEMU of {_CLONES} guests of one state, PSS of each (MB)"] = [statistics.median(found)]
    finally:
        for clone in clones:
            lifecycle.stop(alone(session, clone), clone, force=True)


def _pss(pid: int | None) -> float:
    """Return the proportional share of memory of a process in MB (proc(5), smaps_rollup)."""
    match = re.search(r"(?m)^Pss: +(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text())
    if match is None:
        raise Problem("the kernel does not tell how much memory a process has")
    return int(match[1]) * 1024 / 1e6


def size_of_kernel(session: Session, rows: Rows) -> None:
    """Tell how large the kernel of the guests is."""
    image = store.need_image(session.places, BOOT_IMAGE)
    rows["the guests' kernel (MB)"] = [part.size / 1e6 for part in image.parts if part.name == layout.KERNEL]
