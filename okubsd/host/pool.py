"""Make saved states: boot a guest that is nobody yet, and write it down, so that VMs go on from there."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from okubsd import layout
from okubsd.config.names import quoted
from okubsd.errors import HostLacks, Problem
from okubsd.host import door, lifecycle, locks, store
from okubsd.host.monitor import Monitor, monitor
from okubsd.host.performance import last_lines
from okubsd.host.places import Places
from okubsd.host.saved import State, describe, ignore_memory, read_state, wait_for_migration
from okubsd.host.session import Session
from okubsd.host.waiting import wait_until
from okubsd.model import Request, Vm
from okubsd.plan.saved import builds_of, home_size, state_of
from okubsd.plan.seats.base import Boot
from okubsd.plan.seats.qemu import Bare
from okubsd.qemu.argv import IDENTITY_BYTES, Saved, render_argv

# What the console of a guest says that is nobody yet (images/boot/init).
WAITING = b"okubsd: waiting"
_MONITOR_SECONDS, _SAVE_SECONDS = 20.0, 120.0
_LARGEST_LOG = 16 << 20
# A disk with less room is full, in bytes.
_NO_ROOM = 4 << 20
# What a guest still does after its last word, before it only waits.
_SETTLE_SECONDS = 0.5


def make(session: Session, vm: Vm) -> State:
    """Boot a guest as ``vm`` has it, but nobody's, and save it; return the state, an older one if it is still good.

    Raises HostLacks where such a VM has none, and Problem where it cannot be made.
    """
    boot, seat = _decide(session, vm)
    name = state_of(boot)
    if not name:
        hint = f"okubsd image build {vm.image}" if set(builds_of(boot)) < {vm.image} else "okubsd start " + vm.name
        raise HostLacks(f"VM '{vm.name}' has no saved state: it has or is a gateway, or its images are not built", hint)
    places = session.places
    store.verify(places, [store.need_image(places, *pair) for pair in builds_of(boot).items()], places.state)
    door.make_private(places.pool)
    with _locked(session):
        ready = read_state(places.pool / name)
        if ready is not None:
            return ready
        with _workshop(places.pool) as made:
            session.report(f"{vm.name}: booting a guest that is nobody yet")
            _boot_and_save(made, boot, seat)
            return _keep(places, made, name, boot)


def _decide(session: Session, vm: Vm) -> tuple[Boot, Bare]:
    decided = lifecycle.decide_start(session, vm, Request(headless=True), stopped=True)
    if not isinstance(decided.seat, Bare):
        raise HostLacks(f"VM '{vm.name}' runs on {decided.seat.title}, which saves no states")
    return decided.boot, decided.seat


@contextlib.contextmanager
def _locked(session: Session) -> Iterator[None]:
    path = session.places.state / layout.POOL_LOCK
    with locks.locked(path, lambda: session.report("waiting for another state to be saved")):
        yield


@contextlib.contextmanager
def _workshop(pool: Path) -> Iterator[Path]:
    """Yield an empty directory that is gone afterwards, and remove what was left by whoever was killed."""
    for left in pool.glob(".making-*"):
        shutil.rmtree(left, ignore_errors=True)
    made = Path(tempfile.mkdtemp(prefix=".making-", dir=pool))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _boot_and_save(made: Path, boot: Boot, seat: Bare) -> None:
    vm, size = boot.vm, home_size(boot)
    _make_file(made / layout.MEMORY, vm.memory)
    _make_file(made / layout.IDENTITY, IDENTITY_BYTES)
    if size:
        _make_file(made / layout.HOME, size)
    machine = msgspec.structs.replace(
        seat.machine(boot, Saved(memory=made / layout.MEMORY, identity=made / layout.IDENTITY, template=True)),
        home=made / layout.HOME if size else None,
        run=made,
        console_log=made / layout.CONSOLE_LOG,
    )
    log, largest = made / layout.QEMU_LOG, max(_LARGEST_LOG, size, vm.memory)
    argv = seat.confine(render_argv(vm, machine))
    with _pipe() as read_end, _ending() as begun, _telling_of_room(made):
        qemu = door.spawn(argv, log, largest_file=largest, life=made / layout.QEMU_LIFE)
        begun.append(qemu)
        # Whatever ends us, it ends with us.
        begun.append(door.spawn(_watch(qemu.pid), made / layout.WATCH_LOG, stdin=read_end))

        def waits() -> bool:
            if qemu.poll() is not None:
                raise Problem(f"QEMU ended with code {qemu.returncode}{last_lines(log)}")
            return WAITING in _tail(machine.console_log)

        wait_until(waits, vm.boot_timeout, f"the guest did not boot within {vm.boot_timeout} seconds")
        time.sleep(_SETTLE_SECONDS)
        with monitor(made / layout.QMP, timeout=_MONITOR_SECONDS) as asked:
            _save(asked, made / layout.MACHINE)
            asked.execute("quit")
        with contextlib.suppress(subprocess.TimeoutExpired):
            qemu.wait(timeout=_MONITOR_SECONDS)


@contextlib.contextmanager
def _pipe() -> Iterator[int]:
    """Yield the end to be read of a pipe whose other end we hold."""
    ends = os.pipe()
    try:
        yield ends[0]
    finally:
        for end in ends:
            os.close(end)


@contextlib.contextmanager
def _ending() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Yield a list of processes; they are ended in its order, so that what watches QEMU kills no pid that is free."""
    begun: list[subprocess.Popen[bytes]] = []
    try:
        yield begun
    finally:
        for process in begun:
            process.kill()
            process.wait()


@contextlib.contextmanager
def _telling_of_room(made: Path) -> Iterator[None]:
    """Tell any failure as one of room where there is none: QEMU writes to files as to memory, and is ended by that."""
    try:
        yield
    except Problem:
        where = made.parent
        if shutil.disk_usage(made).free < _NO_ROOM:
            hint = f"df -h {shlex.quote(str(where))}"
            raise Problem(f"there is no room for a saved state in {quoted(where, 200)}", hint) from None
        raise


def _watch(pid: int) -> tuple[str, ...]:
    """Return what ends process ``pid`` when whoever holds the other end of its input is gone."""
    return ("sh", "-c", 'cat >/dev/null; kill -9 "$1" 2>/dev/null', "okubsd-watch", str(pid))


def _make_file(path: Path, size: int) -> None:
    with path.open("wb") as stream:
        path.chmod(0o600)
        stream.truncate(size)


def _tail(log: Path) -> bytes:
    return log.read_bytes()[-4096:] if log.exists() else b""


def _save(qemu: Monitor, path: Path) -> None:
    """Stop the guest, and write its machine to ``path``; its memory is a file already."""
    qemu.execute("stop")
    ignore_memory(qemu)
    with path.open("wb") as stream:
        path.chmod(0o600)
        qemu.pass_file("machine", stream.fileno())
        qemu.execute("migrate", uri="fd:machine")
        wait_for_migration(qemu, _SAVE_SECONDS)


def _keep(places: Places, made: Path, name: str, boot: Boot) -> State:
    """Put what was saved where starts look for it."""
    for path in made.iterdir():
        if path.name not in (layout.MEMORY, layout.MACHINE):
            path.unlink()
    # QEMU opens the memory for writing, and then writes to none of it.
    for path in made.iterdir():
        door.sync(path)
    state = State(
        name=name,
        made=round(time.time()),
        builds=builds_of(boot),
        memory=boot.vm.memory,
        cpus=boot.vm.cpus,
        home=home_size(boot),
        files={path.name: describe(path) for path in sorted(made.iterdir())},
    )
    door.write(made / layout.SAVED, msgspec.json.encode(state))
    made.rename(places.pool / name)
    door.sync(places.pool)
    return state
