"""VMs that were booted beforehand and stand still until they are wanted (ready.py): known by a mark, and had go on."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from okubsd import layout
from okubsd.errors import Problem
from okubsd.host import facts
from okubsd.host.engine import engine
from okubsd.host.guest import ROOT, Guest
from okubsd.host.places import Places
from okubsd.model import Vm

# How long a guest may take to set its clock, in seconds.
_CLOCK_SECONDS = 20.0


def waits(places: Places, name: str) -> bool:
    """Return whether a described VM was started beforehand, and stands still: the mark alone may be one of before."""
    return _is_marked(places, name) and bool(facts.ask_vm(places, name).stall)


def stands_by(places: Places, name: str) -> bool:
    """Return whether a VM, or a copy, stands still until it is wanted."""
    return (places.vm(name) / layout.WAITING).exists() and bool(facts.ask_vm(places, name).stall)


def is_copy_that_waits(places: Places, name: str) -> bool:
    """Return whether it is a copy that waits, which nobody has used yet."""
    return (places.vm(name) / layout.WAITING).exists() and not _is_marked(places, name)


def _is_marked(places: Places, name: str) -> bool:
    directory = places.vm(name)
    return (directory / layout.WAITING).exists() and not (directory / layout.COPY_OF).exists()


def wake(places: Places, name: str) -> bool:
    """Have a described VM that waits go on; return whether one did.  Raises Problem where it does not."""
    if not _is_marked(places, name):
        return False
    state = facts.ask_vm(places, name)
    if state.seat is not None and state.stall:
        engine(state.seat.engine).unpause(name, state.run)
    (places.vm(name) / layout.WAITING).unlink(missing_ok=True)
    return bool(state.stall)


@contextlib.contextmanager
def awake(places: Places, vm: Vm) -> Iterator[None]:
    """Have a VM that waits go on for the block, and its clock set behind it, however that ends."""
    woken = wake(places, vm.name)
    try:
        yield
    finally:
        if woken:
            set_clock(places, vm)


def set_clock(places: Places, vm: Vm) -> None:
    """Set the clock of a guest that stood still by the host's; a window that is shown is worth more than that."""
    words = ("date", "-s", f"@{round(time.time())}")
    with contextlib.suppress(Problem):
        Guest.find(places, vm).ask(words, user=ROOT, timeout=_CLOCK_SECONDS)
