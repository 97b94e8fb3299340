"""The saved states that there are: whether one is whole, going on from it, and letting it go.

The memory of a state is a file that no VM writes to: each has what it changes for itself.  Source: QEMU,
docs/devel/migration.rst (x-ignore-shared); docs/interop/qmp-spec.rst.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from okubsd import layout
from okubsd.decode import read_json
from okubsd.errors import BadState, Problem, TimedOut
from okubsd.host import locks, store
from okubsd.host.monitor import Monitor, monitor
from okubsd.host.performance import Performance
from okubsd.host.places import Places
from okubsd.host.waiting import wait_until
from okubsd.model import Image
from okubsd.plan import steps

_RESUME_SECONDS = 30.0


class File(msgspec.Struct, frozen=True):
    """A file of a saved state: its SHA-256 in hex, its size in bytes, and what says that nobody wrote to it since."""

    sha256: str
    size: int
    stamp: str


class State(msgspec.Struct, frozen=True):
    """A saved state: the builds that it booted, what it was given, and its two files."""

    name: str
    made: int
    builds: dict[str, str]
    memory: int
    cpus: int
    home: int
    files: dict[str, File]


def describe(path: Path) -> File:
    return File(store.hash_file(path), path.stat().st_size, store.stamp(path))


def read_state(directory: Path) -> State | None:
    """Return the saved state in ``directory``, None where there is no whole one."""
    try:
        state = read_json((directory / layout.SAVED).read_bytes(), State)
    except (OSError, ValueError):
        return None
    there = set(state.files) == {layout.MEMORY, layout.MACHINE} and state.name == directory.name
    return state if there and all((directory / name).is_file() for name in state.files) else None


def states(places: Places) -> list[State]:
    """Return the saved states that there are, the newest first."""
    found = (read_state(path) for path in places.pool.glob("[!.]*"))
    return sorted((state for state in found if state is not None), key=lambda state: state.made, reverse=True)


def check(directory: Path, *, anew: bool = False) -> None:
    """Raise BadState where a saved state is not what was saved; a file that nobody wrote to is read only ``anew``."""
    state = read_state(directory)
    if state is None:
        raise BadState(directory.name, "it is not whole")
    for name, file in state.files.items():
        path = directory / name
        if path.stat().st_size != file.size:
            raise BadState(directory.name, f"{path} has another size")
        if (anew or store.stamp(path) != file.stamp) and store.hash_file(path) != file.sha256:
            raise BadState(directory.name, f"{path} is not what was saved")


def discard(places: Places, name: str) -> None:
    """Remove a saved state; a VM that went on from it keeps what it has open."""
    directory = places.pool / name
    gone = directory.with_name(f".making-gone-{name}")
    with contextlib.suppress(FileNotFoundError):
        directory.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def sweep(places: Places) -> None:
    """Remove what is no whole state, while nobody makes one."""
    with contextlib.suppress(locks.Busy), locks.locked(places.state / layout.POOL_LOCK, seconds=0):
        for path in [path for path in places.pool.glob("*") if read_state(path) is None]:
            shutil.rmtree(path, ignore_errors=True)


def on_disk(places: Places, state: State) -> int:
    """Return the bytes that a saved state takes on the disk: its memory is mostly holes."""
    return sum((places.pool / state.name / name).stat().st_blocks * 512 for name in state.files)


def discard_stale(places: Places) -> list[str]:
    """Remove the states of builds that are no longer current; return their names."""
    stale = [
        state.name
        for state in states(places)
        if any(found is None or found.build != state.builds[found.name] for found in _current(places, state))
    ]
    for name in stale:
        discard(places, name)
    return stale


def _current(places: Places, state: State) -> Iterator[Image | None]:
    for name in state.builds:
        yield store.current_image(places, name)


# --- going on -------------------------------------------------------------------------------------


def resume(step: steps.Resume, performance: Performance) -> None:
    """Have a QEMU that was started for it go on from a saved state.  Raises BadState where it does not."""
    check(step.directory)

    def begins() -> None:
        performance.check_alive(step.log)

    try:
        with (
            (step.directory / layout.MACHINE).open("rb") as stream,
            monitor(step.run / layout.QMP, timeout=_RESUME_SECONDS, begins=begins) as qemu,
        ):
            ignore_memory(qemu)
            qemu.pass_file("machine", stream.fileno())
            qemu.execute("migrate-incoming", uri="fd:machine")
            wait_for_migration(qemu, _RESUME_SECONDS)
            qemu.execute("cont")
    except (Problem, TimedOut) as problem:
        raise BadState(step.directory.name, problem.sentence) from None


def ignore_memory(qemu: Monitor) -> None:
    capability = {"capability": "x-ignore-shared", "state": True}
    qemu.execute("migrate-set-capabilities", capabilities=[capability])


def wait_for_migration(qemu: Monitor, seconds: float) -> None:
    def is_done() -> bool:
        status = dict(qemu.execute("query-migrate") or {}).get("status", "")
        if status in ("failed", "cancelled"):
            raise Problem("QEMU did not take its state")
        return bool(status == "completed")

    wait_until(is_done, seconds, "QEMU did not end with its state in time", pause=0.002)
