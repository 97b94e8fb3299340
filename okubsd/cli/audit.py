"""okubsd audit: how hard a guest is, and against another."""

from __future__ import annotations

import time

import click

from okubsd import layout
from okubsd.cli.session import as_json, harmless, pass_session, print_json, print_table
from okubsd.errors import Problem, TimedOut
from okubsd.guest.audit import Check, gather_command, kernel_checks, score
from okubsd.guest.audit import audit as judge
from okubsd.host import door, programs, running, store
from okubsd.host.guest import ROOT, Guest
from okubsd.host.session import Session
from okubsd.plan.images import BOOT_IMAGE

_SECONDS, _LARGEST = 60.0, 1 << 20


@click.command("audit")
@click.argument("name", metavar="VM")
@click.argument("other", metavar="[VM]", default="")
@as_json
@pass_session
def audit(session: Session, name: str, other: str, json: bool) -> None:
    """Look how hard a running VM is: its kernel's knobs, mounts, setuid programs, ports, processes; beside another."""
    found = {one: _ask(session, one) for one in dict.fromkeys((name, other)) if one}
    if json:
        print_json(vms=[{"vm": one, "score": score(checks), "checks": checks} for one, checks in found.items()])
        return
    by_name = {one: {check.name: check for check in checks} for one, checks in found.items()}
    names = list(dict.fromkeys(check.name for checks in found.values() for check in checks))
    header = ("CHECK", *(one.upper() if one.islower() else one for one in found))
    print_table(header, [(check, *(_say(by_name[one].get(check)) for one in found)) for check in names])
    for one, checks in found.items():
        print(f"{one}: {score(checks)} of 100")


@click.command()
@click.argument("name", metavar="VM")
@click.option("--accept", is_flag=True, help="Take what is there now for known.")
@as_json
@pass_session
def guard(session: Session, name: str, accept: bool, json: bool) -> None:
    """Tell which files of a running VM's home programs would start by themselves, and are not known; or take them."""
    vm = session.running_vm(name)
    if not running.is_running(session.places, vm.name):
        raise Problem(f"VM '{vm.name}' is not running", f"okubsd start {vm.name}")
    words = ("/usr/lib/okubsd/guard", "accept" if accept else "warn")
    done = Guest.find(session.places, vm).ask(words, user=ROOT, timeout=_SECONDS)
    if done.code != 0:
        raise Problem(f"{vm.name}: the guest does not tell: {door.reason(done)}", f"okubsd log {vm.name}")
    lines = [harmless(line) for line in done.out.decode(errors="replace").splitlines()]
    if json:
        paths = [line.partition(" would be run")[0] for line in lines]
        print_json(vm=vm.name, **{"known" if accept else "unknown": paths})
        return
    for line in lines:
        print(f"{line}{' is known from now on' if accept else ''}")


def _kernel_config(session: Session, name: str) -> str:
    """Return how the kernel was configured that a running VM was started with, "" where its image does not tell."""
    build = running.read_builds(session.places, name).get(BOOT_IMAGE, "")
    where = session.places.of_system if programs.has_vmd() else session.places
    path = where.images / BOOT_IMAGE / build / layout.KERNEL_CONFIG
    return path.read_text() if build and path.is_file() else ""


def _say(check: Check | None) -> str:
    return "-" if check is None else f"{'good' if check.good else 'WEAK'}: {check.seen}"


def _ask(session: Session, name: str) -> list[Check]:
    vm = session.running_vm(name)
    if not running.is_running(session.places, vm.name):
        raise Problem(f"VM '{vm.name}' is not running", f"okubsd start {vm.name}")
    image = store.current_image(session.places, vm.image)
    done = Guest.find(session.places, vm).ask(gather_command(), user=ROOT, timeout=_SECONDS, largest=_LARGEST)
    if done.code == door.GAVE_UP:
        raise TimedOut(f"{vm.name}: the guest does not answer", f"okubsd status {vm.name}")
    kernel = _kernel_config(session, vm.name)
    try:
        found = judge(done.out.decode(errors="replace"), image.archive if image else 0, time.time())
        return [*(kernel_checks(kernel) if kernel else ()), *found]
    except ValueError as error:
        raise Problem(f"{vm.name}: the guest {error}: {door.reason(done)}", f"okubsd log {vm.name}") from None
