"""Look how hard a running guest is, by what it answers; and at what is new before it is taken."""

from __future__ import annotations

import time
from importlib import resources

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


def look(session: Session, vm: Vm) -> list[Check]:
    """Return what is looked at of the running ``vm``, its kernel's configuration where that is known included.

    Raises TimedOut where the guest does not answer, Problem where it answers something else.
    """
    image = store.current_image(session.places, vm.image)
    done = Guest.find(session.places, vm).ask(gather_command(), user=ROOT, timeout=_SECONDS, largest=_LARGEST)
    if done.code == door.GAVE_UP:
        raise TimedOut(f"{vm.name}: the guest does not answer", f"okubsd status {vm.name}")
    kernel = _kernel_config(session, vm.name)
    try:
        found = audit(done.out.decode(errors="replace"), image.archive if image else 0, time.time())
    except ValueError as error:
        raise Problem(f"{vm.name}: the guest {error}: {door.reason(done)}", f"okubsd log {vm.name}") from None
    return [*(kernel_checks(kernel) if kernel else ()), *found]


def refuse_weaker(session: Session, vm: Vm) -> None:
    """Raise Problem where a wall inside of the running ``vm`` does not stand that every image has."""
    mistakes = self_check(look(session, vm), session.recipes[vm.image])
    if mistakes:
        raise Problem(f"a wall inside of it does not stand: {'; '.join(mistakes)}")


def _kernel_config(session: Session, name: str) -> str:
    """Return how the kernel was configured that a running VM was started with, "" where its image does not tell."""
    build = running.read_builds(session.places, name).get(BOOT_IMAGE, "")
    where = session.places.of_system if programs.has_vmd() else session.places
    path = where.images / BOOT_IMAGE / build / layout.KERNEL_CONFIG
    return path.read_text() if build and path.is_file() else ""
