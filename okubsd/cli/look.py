"""okubsd list, status, log, check, version: commands that only read."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click

from okubsd import __version__, layout
from okubsd.cli.rows import changes, row, summary
from okubsd.cli.session import as_json, cleaners, harmless, pass_session, print_json, print_table
from okubsd.errors import Misuse, Problem
from okubsd.host import running
from okubsd.host.session import Session
from okubsd.model import Vm


@click.command("list")
@click.option("--names", "names_only", is_flag=True, help="Print the names only.")
@as_json
@pass_session
def list_vms(session: Session, names_only: bool, json: bool) -> None:
    """List the VMs of the description, and those that still run without being in it.

    What runs is shown as it was started; with a description that has mistakes, only that is.
    """
    live = running.ask_stalls(session.places)
    described = {vm.name: vm for vm in session.known_description.vms} if session.known_description else {}
    names = [*described, *sorted(live.keys() - described.keys())]
    if names_only:
        print("\n".join(names))
        return
    shown = [
        (running.started_or_bare(session.places, name) if name in live else described[name], live.get(name))
        for name in names
    ]
    later = {
        name: changes(running.started_or_bare(session.places, name), described[name])
        for name in live.keys() & described.keys()
    }
    if json:
        print_json(vms=[summary(session, vm, stall) | {"after_restart": later.get(vm.name, {})} for vm, stall in shown])
        return
    header = ("NAME", "STATE", "IMAGE", "MEMORY", "NETWORK", "APPS")
    print_table(header, [row(session, vm, stall, described=vm.name in described) for vm, stall in shown])
    for name, changed in sorted(later.items()):
        if changed:
            words = ", ".join(f"{key} {value}" for key, value in changed.items())
            print(f"{name}: after a restart: {words}")


@click.command()
@click.argument("name", metavar="[VM]", default="")
@as_json
@click.pass_context
def status(ctx: click.Context, name: str, json: bool) -> None:
    """Tell everything about one VM, or a line about each."""
    session = ctx.find_object(Session)
    assert session is not None
    if not name:
        ctx.invoke(list_vms, names_only=False, json=json)
        return
    from okubsd.cli.details import details_of, in_words

    details = details_of(session, session.running_vm(name))
    if json:
        print_json(**details)
        return
    for key, value in in_words(details):
        print(f"{key:<16} {harmless(value)}")


@click.command()
@click.argument("name", metavar="VM", default="")
@click.option("-p", "--previous", is_flag=True, help="Of the boot before.")
@click.option("-f", "--follow", is_flag=True, help="Go on printing what comes.")
@click.option("--crossings", is_flag=True, help="What was carried from one VM to another instead.")
@as_json
@pass_session
def log(session: Session, name: str, previous: bool, follow: bool, crossings: bool, json: bool) -> None:
    """Print what the VM's serial console said since it was booted."""
    if crossings:
        _print_crossings(session, name, json=json)
        return
    if not name or json:
        raise Misuse("name a VM; only --crossings goes without one, and takes --json", "okubsd log --crossings")
    if previous and follow:
        raise Misuse("--previous is a boot that is over, so there is nothing to follow; leave one of both out")
    vm = session.running_vm(name)
    if running.keeps_no_log(session.places, vm.name):
        _print_guest_log(session, vm, previous=previous, follow=follow)
        return
    path = session.places.vm(vm.name) / (layout.OLD_CONSOLE_LOG if previous else layout.CONSOLE_LOG)
    try:
        with path.open("rb") as stream:
            _print_log(stream, path, follow)
    except FileNotFoundError:
        raise Problem(f"VM '{vm.name}' has no log of {'an earlier' if previous else 'a'} boot") from None


def _print_crossings(session: Session, name: str, *, json: bool) -> None:
    from okubsd.host.crossings import crossings

    found = crossings(session.places, name)
    if json:
        print_json(crossings=found)
        return
    columns = ("time", "service", "source", "target", "kind", "bytes", "outcome")
    print_table(tuple(map(str.upper, columns)), [tuple(str(entry.get(key, "")) for key in columns) for entry in found])


def _print_guest_log(session: Session, vm: Vm, *, previous: bool, follow: bool) -> None:
    """Print the guest's own log: nothing but vmd reads the console of its VMs."""
    from okubsd.host.guest import ROOT, Guest

    if previous or follow:
        raise Misuse(
            "vmd keeps no console log, so there is neither --previous nor --follow", f"okubsd console {vm.name}"
        )
    if Guest.find(session.places, vm).stream(("dmesg",), *cleaners(), user=ROOT) != 0:
        raise Problem(f"VM '{vm.name}' does not tell its log", f"okubsd console {vm.name}")


def _print_log(stream: Any, path: Path, follow: bool) -> None:
    clean, _ = cleaners()
    while True:
        while chunk := stream.read(1 << 16):
            sys.stdout.buffer.write(clean(chunk))
        sys.stdout.flush()
        if not follow:
            return
        time.sleep(0.2)


@click.command()
@as_json
def version(json: bool) -> None:
    """Print the version."""
    if json:
        print_json(version=__version__)
    else:
        print(f"okubsd {__version__}")
