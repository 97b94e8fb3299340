"""Look how hard a running guest is, by what it answers; and at what is new before it is taken."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Collection
from importlib import resources
from pathlib import Path

import msgspec

from okubsd import layout
from okubsd.decode import read_json
from okubsd.errors import Problem, TimedOut
from okubsd.guest.audit import Check, audit, gather_command, kernel_checks, self_check
from okubsd.host import door, programs, running, store
from okubsd.host.guest import ROOT, Guest
from okubsd.host.session import Session
from okubsd.model import Vm
from okubsd.plan.images import BOOT_IMAGE

_SECONDS, _LARGEST = 60.0, 1 << 20
# How a stock Debian is called beside VMs, and what was seen of it (`okubsd bench audit` looks again).
STOCK, _STOCK = "stock Debian", "stock-audit.json"


class StockAudit(msgspec.Struct, frozen=True):
    """What was seen of a stock Debian: of which release, with which kernel, on which day (ISO 8601)."""

    release: str
    kernel: str
    day: str
    checks: list[Check]


def stock_audit() -> StockAudit:
    """Return what was seen of a stock Debian: systemd, the distribution's kernel, OpenSSH, the same terminal."""
    return read_json(resources.files(__package__).joinpath(_STOCK).read_bytes(), StockAudit)


def look(session: Session, vm: Vm, allowed: Collection[str] = ()) -> list[Check]:
    """Return what is looked at of the running ``vm``, its kernel's configuration where that is known included.

    ``allowed`` are the paths of programs that may be setuid.

    Raises TimedOut where the guest does not answer, Problem where it answers something else.
    """
    image = store.current_image(session.places, vm.image)
    done = Guest.find(session.places, vm).ask(gather_command(), user=ROOT, timeout=_SECONDS, largest=_LARGEST)
    if done.code == door.GAVE_UP:
        raise TimedOut(f"{vm.name}: the guest does not answer", f"okubsd status {vm.name}")
    try:
        found = audit(done.out.decode(errors="replace"), image.archive if image else 0, time.time(), allowed)
    except ValueError as error:
        raise Problem(f"{vm.name}: the guest {error}: {door.reason(done)}", f"okubsd log {vm.name}") from None
    return [*_kernel(session, vm.name), *found]


def refuse_weaker(session: Session, vm: Vm) -> None:
    """Raise Problem where a wall inside of the running ``vm`` does not stand that every image has."""
    recipe = session.recipes[vm.image]
    mistakes = self_check(look(session, vm, recipe.setuid), recipe)
    if mistakes:
        raise Problem(f"a wall inside of it does not stand: {'; '.join(mistakes)}")


def _kernel(session: Session, name: str) -> list[Check]:
    """Return what the configuration of the kernel is worth that a running VM was started with, if that is known.

    Where kernel-hardening-checker is installed, its list counts; else ours does.
    """
    build = running.read_builds(session.places, name).get(BOOT_IMAGE, "")
    where = session.places.of_system if programs.has_vmd() else session.places
    path = where.images / BOOT_IMAGE / build / layout.KERNEL_CONFIG
    if not (build and path.is_file()):
        return []
    return _checked_by(_CHECKER, path) or kernel_checks(path.read_text())


# What judges a configuration where it is installed (kernel-hardening-checker(1)), and how long it may take, in seconds.
_CHECKER, _CHECKER_SECONDS = "kernel-hardening-checker", 60.0


class _Verdict(msgspec.Struct, frozen=True):
    """A line of what the checker says as JSON."""

    option_name: str
    decision: str
    desired_val: str
    check_result: str
    check_result_bool: bool


def _checked_by(program: str, path: Path) -> list[Check]:
    """Return what ``program`` says of a configuration, [] where it is not installed or says something else."""
    if programs.find_program(program) is None:
        return []
    try:
        done = door.run((program, "-c", str(path), "-m", "json"), timeout=_CHECKER_SECONDS)
        verdicts = read_json(done.out, list[_Verdict])
    except (subprocess.TimeoutExpired, ValueError):
        return []
    return [
        Check(one.option_name, one.check_result_bool, f"{one.check_result} ({one.desired_val} by {one.decision})")
        for one in verdicts
    ]
