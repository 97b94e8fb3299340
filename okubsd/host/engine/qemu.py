"""QEMU as a VM's engine: how one is started, found, joined to its network, and ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from okubsd import layout
from okubsd.errors import Problem, TimedOut
from okubsd.host import console as consoles
from okubsd.host import door, keeper, locks, programs, store, walls
from okubsd.host.homes import home_of
from okubsd.host.monitor import monitor
from okubsd.host.performance import Performance, last_lines
from okubsd.host.places import Places
from okubsd.host.running import live_qemu, why_it_stands_still
from okubsd.host.session import Session
from okubsd.host.trust import is_root
from okubsd.host.waiting import wait_until
from okubsd.model import Argv, Vm
from okubsd.plan.facts import HostFacts, VmFacts
from okubsd.plan.seats.base import Seat
from okubsd.plan.seats.namespace import Namespace
from okubsd.plan.seats.qemu import Bare
from okubsd.plan.steps import EndQemu, LoadRules, Slot, StartQemu, StartUplink

# How long each way of ending QEMU is given, in seconds.
_QUIT, _KILL = 5, 5

_SETUP = 10


def state(places: Places, name: str) -> Mapping[str, Any]:
    """Return where a QEMU runs the VM called ``name``, its pid, why it stands still; nothing where there is none."""
    run = places.vm_run(name)
    pid = live_qemu(run)
    return {} if pid is None else {"seat": _seat(places, name, pid), "pid": pid, "stall": why_it_stands_still(run)}


def _seat(places: Places, name: str, pid: int) -> Seat:
    """Return where the QEMU with the process ``pid`` runs."""
    root = is_root()
    if programs.has_vmd():
        from okubsd.host.records import read_record
        from okubsd.plan.seats.tap import Tap

        record = read_record(places, name)
        if record is not None:
            return Tap(record=record, root=root)
    if walls.has_own_namespace(pid):
        return Namespace(pid=str(pid), root=root)
    return Bare(root=root, weakness="it was started without one")


def host_facts(places: Places) -> Mapping[str, Any]:
    """Return what a boot by QEMU has to know of the host."""
    return {
        "accelerator": walls.ask_accelerator(places),
        "wall": walls.ask_wall(),
        "uplink": walls.ask_uplink(),
        "addresses": walls.ask_addresses(),
        "machine": walls.ask_machine(),
        "pool": places.pool,
        "saved": frozenset(path.parent.name for path in places.pool.glob(f"[!.]*/{layout.SAVED}")),
    }


def run(step: StartQemu, performance: Performance) -> None:
    """Start QEMU, and the keeper beside it."""
    log = step.log.with_name(layout.CONSOLE_LOG)
    with contextlib.suppress(FileNotFoundError):
        log.replace(log.with_name(layout.OLD_CONSOLE_LOG))
    # QEMU holds the write end for as long as it lives; the uplink ends when it is closed.
    read_end, write_end = os.pipe()
    performance.exit_end = read_end
    try:
        performance.qemu = door.spawn(
            step.argv, step.log, keep_fds=(write_end,), largest_file=step.largest_file, life=step.life
        )
    finally:
        os.close(write_end)
    performance.booted_at = time.monotonic()
    performance.slots[Slot.QEMU_PID] = str(performance.qemu.pid)
    performance.slots[Slot.EXIT_FD] = str(read_end)
    keep = (sys.executable, "-I", "-S", keeper.__file__, str(step.life.parent), str(step.log.parent))
    wake = programs.okubsd_argv("-q", "clock", step.log.parent.name)
    door.spawn((*keep, *wake, "--", *step.on_address), step.log.with_name(layout.KEEPER_LOG))


def join_network(step: StartUplink, performance: Performance) -> None:
    """Give QEMU's namespace its rules first, then its way out."""

    def is_confined() -> bool:
        performance.check_alive(step.log)
        return walls.is_confined(int(performance.slots[Slot.QEMU_PID]), "qemu")

    # The namespace is there once unshare(1) has become QEMU; one of a user's has its root only after that.
    late = f"QEMU got no network namespace within {_SETUP} seconds"
    wait_until(is_confined, _SETUP, late, pause=0.002)
    if step.rules:
        # Before there is a way out.
        done = door.run(performance.fill(step.rules.argv), data=step.rules.rules.encode(), timeout=_SETUP)
        if done.code != 0:
            raise Problem(f"the rules of the VM's network were not taken: {door.reason(done)}")
    if step.argv:
        _start_uplink(step, performance)
    done = door.run(performance.fill(step.batch_argv), data=step.batch.encode(), timeout=_SETUP)
    if done.code != 0:
        raise Problem(f"the VM's network namespace cannot be set up: {door.reason(done)}")
    if step.rules and step.rules.names:
        _follow_names(step.rules, performance.fill(step.rules.names_argv))


class _UplinkEnded(Exception):
    """The uplink ended before it was set up."""


def _start_uplink(step: StartUplink, performance: Performance) -> None:
    """Start the uplink in its sandbox; where a system refuses that, as a chroot does, without, and say so."""
    keep = (performance.exit_end,)
    process = door.spawn(performance.fill(step.argv), step.log, keep_fds=keep)
    try:
        _wait_for_uplink(step, performance, process)
    except _UplinkEnded:
        said = last_lines(step.log)
        process = door.spawn(performance.fill(step.plain_argv), step.log, keep_fds=keep)
        try:
            _wait_for_uplink(step, performance, process)
        except _UplinkEnded:
            raise Problem(f"the network uplink ended{last_lines(step.log)}") from None
        performance.report(f"a weaker wall around the network uplink: it has no sandbox here{said}")


def _wait_for_uplink(step: StartUplink, performance: Performance, process: subprocess.Popen[bytes]) -> None:
    """Wait until the uplink is set up whole; its way out comes last.

    Before that its device has for a moment the whole of 10.0.0.0/8, which is then refused to be refused.
    """
    probe = (*step.batch_argv[: step.batch_argv.index("--") + 1], "ip", "-4", "route", "show", "default")

    def is_up() -> bool:
        up = b"tap0" in door.run(performance.fill(probe), timeout=5).out
        performance.check_alive(step.log)
        if not up and process.poll() is not None:
            raise _UplinkEnded
        return up

    if not wait_until(is_up, _SETUP):
        raise TimedOut(f"the network uplink did not come up{last_lines(step.log)}")


def load_rules(step: LoadRules, performance: Performance) -> None:
    """Load the rules of a running VM into its network namespace, and have its names looked up."""
    rules = step.rules
    if step.known_argv:
        # What is known of the names fills their sets in the transaction that makes them.
        what = "reading what is known of host names"
        rules += door.must(step.known_argv, what, timeout=_SETUP, data=step.names.encode()).out.decode()
    done = door.run(step.argv, data=rules.encode(), timeout=_SETUP)
    if done.code != 0:
        raise Problem(f"{step.what}: {door.reason(done)}")
    door.run(step.batch_argv, data=step.batch.encode(), timeout=_SETUP)
    _follow_names(step, step.names_argv)


def _follow_names(step: LoadRules, argv: Argv) -> None:
    """Have the host names looked up from now on, and no others.

    Whoever does that already finds the new file by himself.
    """
    life = step.run / layout.NAMES_LIFE
    door.write(step.run / layout.NAMES, step.names.encode(), lasting=False)
    if step.names and not locks.is_alive(life):
        door.spawn(argv, step.log, life=life)


def gone(name: str, run: Path, patience: float) -> bool:
    """Return whether QEMU ends within ``patience`` seconds."""
    return wait_until(lambda: not locks.is_alive(run / layout.QEMU_LIFE), patience, pause=0.02)


def end(step: EndQemu, performance: Performance) -> None:
    """End QEMU by its monitor, then by SIGKILL.  Raises TimedOut where it does not even end by that."""
    pid = live_qemu(step.run)
    if pid is None:
        return
    with contextlib.suppress(Problem), monitor(step.qmp, timeout=2) as qemu:
        qemu.execute("quit")
    if not _ended(step, performance, _QUIT):
        door.kill(pid, signal.SIGKILL)
        if not _ended(step, performance, _KILL):
            raise TimedOut(f"{step.name}: QEMU (pid {pid}) does not end, not even by SIGKILL")


def _ended(step: EndQemu, performance: Performance, seconds: float) -> bool:
    # One that we started is ours to reap.
    if performance.qemu is not None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            performance.qemu.wait(timeout=seconds)
    return gone(step.name, step.run, seconds)


def pause(name: str, run: Path) -> None:
    """Have the guest stand still; its memory stays.  Raises Problem where QEMU does not do it."""
    with monitor(run / layout.QMP) as asked:
        asked.execute("stop")


def unpause(name: str, run: Path) -> None:
    """Have a guest that stands still go on.  Raises Problem where QEMU does not do it."""
    with monitor(run / layout.QMP) as asked:
        asked.execute("cont")


def console(name: str, run: Path) -> None:
    """Join the terminal with the guest's serial line until the user leaves."""
    consoles.attach(run / layout.CONSOLE, sys.stdin.fileno(), sys.stdout.fileno())


def memory_of(pid: int) -> int:
    """Return the resident memory of ``pid`` in bytes, 0 where it cannot be told (proc(5), status)."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS:")), 0)


def describe(session: Session, vm: Vm, host: HostFacts, state: VmFacts) -> Mapping[str, Any]:
    """Return what `status` says of a VM that QEMU runs."""
    image = store.current_image(session.places, vm.image)
    home = home_of(session.places, vm.name)
    return {
        "pid": state.pid,
        "resident_bytes": memory_of(state.pid) if state.pid else None,
        "build": image.build if image else "not built",
        "home": str(home) if state.has_home else "made at the first start",
        "home_bytes": home.stat().st_size if state.has_home else None,
        "home_bytes_used": _disk_use(home),
        "backend": f"qemu, {host.accelerator.name}: {host.accelerator.why}",
    }


def _disk_use(path: Path) -> int:
    """Return the bytes ``path`` takes on the disk; a sparse file takes less than its size."""
    try:
        return path.stat().st_blocks * 512
    except OSError:
        return 0
