"""okubsd share, unshare: directories of this host in a VM."""

from __future__ import annotations

from pathlib import Path

import click

from okubsd.cli.enter import reachable
from okubsd.cli.session import as_json, pass_session, print_json, print_table
from okubsd.config.names import quoted
from okubsd.display.clip import HOST
from okubsd.errors import Problem
from okubsd.host import policy, shares
from okubsd.host.session import Session
from okubsd.model import Share


@click.command()
@click.argument("name", metavar="VM")
@click.argument("directory", metavar="[DIR]", default=None, required=False, type=click.Path(path_type=Path))
@click.option("--at", default="", help="Where it is in the home there; as it is called here if not given.")
@click.option("--rw", "writable", is_flag=True, help="The VM may change what is in it.")
@as_json
@pass_session
def share(session: Session, name: str, directory: Path | None, at: str, writable: bool, json: bool) -> None:
    """Have a directory of this host in a VM that runs, until it stops; without DIR, list what it has."""
    vm = session.running_vm(name)
    if directory is None:
        found = shares.shares(session.places.vm_run(vm.name))
        if json:
            print_json(vm=vm.name, shares=found)
            return
        rows = [(one.path, one.at, "rw" if one.writable else "ro") for one in found]
        print_table(("DIRECTORY", "IN THE VM", "MODE"), rows)
        return
    real = shares.need_shareable(directory)
    there = shares.place_in_guest(real, at)
    policy.need_leave(session, "files", HOST, vm.name, f"the directory {quoted(real)}")
    shares.begin(reachable(session, name), Share(path=str(real), at=there, writable=writable))
    session.report(f"{vm.name}: {real} is {there} there{'' if writable else ', to be read only'}")


@click.command()
@click.argument("name", metavar="VM")
@click.argument("at", metavar="DIR")
@pass_session
def unshare(session: Session, name: str, at: str) -> None:
    """Take a shared directory away from a VM; DIR is its name here or there."""
    vm = session.running_vm(name)
    found = shares.shares(session.places.vm_run(vm.name))
    meant = [one for one in found if at in (one.at, one.at.removeprefix("/home/user/"), one.path)]
    meant = meant or [one for one in found if str(Path(at).resolve()) == one.path]
    if not meant:
        raise Problem(f"{vm.name} has no share {quoted(at)}", f"okubsd share {vm.name}")
    for one in meant:
        shares.end(reachable(session, name), one.at)
        session.report(f"{vm.name}: {one.path} is not shared any more")
