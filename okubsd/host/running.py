"""Which VMs and X servers live; what `okubsd list` needs of a look at the host, and no more."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from okubsd import layout
from okubsd.decode import read_json
from okubsd.host import locks, programs
from okubsd.host.places import Places
from okubsd.model import Vm

if TYPE_CHECKING:
    from okubsd.vmd.control import VmStatus

# A program that was just started gets this long to listen.
_GRACE_SECONDS = 5.0


def live_qemu(run: Path) -> int | None:
    """Return the pid of the VM's QEMU, or None; one that has just begun is given time to listen."""
    life = run / layout.QEMU_LIFE
    return _while_alive(life, lambda: locks.living_pid(life) or _listener(run / layout.QMP))


def _listener(path: Path) -> int | None:
    """Return the pid that listens at ``path``; only where something lives sockets are needed."""
    from okubsd.host.sockets import listener_pid

    return listener_pid(path)


def live_display(run: Path) -> int | None:
    """Return the number of the VM's X server, which the server itself wrote down, or None."""
    return _while_alive(run / layout.DISPLAY_LIFE, lambda: display_number(run))


def live_server(run: Path) -> int | None:
    """Return the pid of the VM's X server, or None."""

    from okubsd.display.server import display_socket

    def answer() -> int | None:
        number = display_number(run)
        listener = None if number is None else _listener(display_socket(number))
        return locks.living_pid(run / layout.DISPLAY_LIFE) or listener

    return _while_alive(run / layout.DISPLAY_LIFE, answer)


def _while_alive(life: Path, answer: Callable[[], int | None]) -> int | None:
    end = time.monotonic() + _GRACE_SECONDS
    while locks.is_alive(life):
        found = answer()
        if found is not None:
            return found
        if time.monotonic() > end:
            return None
        time.sleep(0.02)
    return None


def display_number(run: Path) -> int | None:
    """Return the display number that the X server last started for the VM has told, or None."""
    from okubsd.display.server import parse_display_number

    try:
        return parse_display_number((run / layout.DISPLAY).read_text())
    except (OSError, UnicodeDecodeError):
        return None


def write_started(run: Path, vm: Vm) -> None:
    """Write down what a VM is started with: what runs is known by it, whatever becomes of the description."""
    import msgspec

    from okubsd.host import door

    door.write(run / layout.STARTED, msgspec.json.encode(vm), lasting=False)


def start_anew(run: Path, vm: Vm) -> None:
    """Remove what an earlier boot left in the run directory, and write down what is started now.

    A display that lives keeps what is its own.
    """
    kept = layout.OF_DISPLAY if live_display(run) is not None else frozenset()
    for path in run.iterdir():
        if path.name not in kept:
            path.unlink()
    write_started(run, vm)


def write_builds(run: Path, builds: dict[str, str]) -> None:
    """Write down which builds a VM is started with, by the names of their images."""
    import msgspec

    from okubsd.host import door

    door.write(run / layout.BUILDS, msgspec.json.encode(builds), lasting=False)


def read_builds(places: Places, name: str) -> dict[str, str]:
    """Return what builds the VM ``name`` was started with, {} where nobody wrote it down."""

    try:
        return read_json((places.vm_run(name) / layout.BUILDS).read_bytes(), dict[str, str])
    except (OSError, ValueError):
        return {}


def read_started(places: Places, name: str) -> Vm | None:
    """Return what the VM ``name`` was started with last, or None where nobody wrote it down."""

    try:
        vm = read_json((places.vm_run(name) / layout.STARTED).read_bytes(), Vm)
    except (OSError, ValueError):
        return None
    return vm if vm.name == name else None


def started_or_bare(places: Places, name: str) -> Vm:
    """Return what the VM ``name`` was started with, or no more than its name."""
    return read_started(places, name) or Vm(name=name, image="")


# What a keeper writes of a guest that somebody had stop (host/keeper.py).
PAUSED = "paused"


def why_it_stands_still(run: Path) -> str:
    """Return why the guest of a running QEMU does not go on, "" where it does.

    What its keeper wrote down counts, and whether a signal stopped QEMU itself (proc(5), stat).
    """
    pid = live_qemu(run)
    if pid is None:
        return ""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        state = ""
    if state in ("T", "t"):
        return f"stopped by a signal; kill -CONT {pid}"
    try:
        return (run / layout.STALL).read_text()[:100].strip()
    except OSError:
        return ""


def is_running(places: Places, name: str) -> bool:
    """Return whether the VM ``name`` runs."""
    return live_qemu(places.vm_run(name)) is not None or any(
        row.name == name and row.running for row in ask_rows(places)
    )


def ask_running(places: Places) -> set[str]:
    """Return the names of the VMs that run, without a look at those that do not."""
    return set(ask_stalls(places))


def ask_stalls(places: Places) -> dict[str, str]:
    """Return why each VM that runs stands still, by its name, "" where it does not; vmd is asked once."""
    directories = places.run.iterdir() if places.run.is_dir() else ()
    on_qemu = {path.name: why_it_stands_still(path) for path in directories if live_qemu(path) is not None}
    return on_qemu | {row.name: PAUSED if row.paused else "" for row in ask_rows(places) if row.running}


def ask_rows(places: Places) -> tuple[VmStatus, ...]:
    """Return what vmd says of all VMs in one answer; () where there is no vmd or nothing was applied."""
    if not programs.has_vmd() or not (places.system / layout.RECORDS).is_dir():
        return ()
    # Only a host with vmd pays for it.
    from okubsd.host.records import ask_status

    return ask_status()


def keeps_no_log(places: Places, name: str) -> bool:
    """Return whether the VM ``name`` runs where nobody but vmd reads its console."""
    return any(row.name == name and row.running for row in ask_rows(places))


def known_vm_names(places: Places, vms: tuple[Vm, ...]) -> list[str]:
    """Return the described VMs, then those that still run without being described."""
    described = [vm.name for vm in vms]
    running = sorted(ask_running(places))
    known = set(described)
    return described + [name for name in running if name not in known]
