"""okubsd audit: how hard a guest is, and against another."""

from __future__ import annotations

import click

from okubsd.cli.session import as_json, harmless, pass_session, print_json, print_table
from okubsd.errors import Problem
from okubsd.guest.audit import Check, score
from okubsd.host import auditing, door, running
from okubsd.host.guest import ROOT, Guest
from okubsd.host.session import Session

_SECONDS = 60.0


@click.command("audit")
@click.argument("name", metavar="VM")
@click.argument("other", metavar="[VM]", default="")
@click.option("--stock", is_flag=True, help="Beside a stock Debian with the same app.")
@as_json
@pass_session
def audit(session: Session, name: str, other: str, stock: bool, json: bool) -> None:
    """Look how hard a running VM is: its kernel's knobs, mounts, setuid programs, ports, processes; beside another."""
    found = {one: _ask(session, one) for one in dict.fromkeys((name, other)) if one}
    found |= {auditing.STOCK: auditing.stock_audit().checks} if stock else {}
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


def _say(check: Check | None) -> str:
    return "-" if check is None else f"{'good' if check.good else 'WEAK'}: {check.seen}"


def _ask(session: Session, name: str) -> list[Check]:
    vm = session.running_vm(name)
    if not running.is_running(session.places, vm.name):
        raise Problem(f"VM '{vm.name}' is not running", f"okubsd start {vm.name}")
    return auditing.look(session, vm)
