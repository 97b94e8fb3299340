"""okubsd list, status, log, check, version: commands that only read."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click

from okubsd import __version__
from okubsd.cli.session import Session, as_json, harmless, harmless_bytes, pass_session, print_json, print_table
from okubsd.config.sizes import render_size
from okubsd.errors import Misuse, Problem
from okubsd.host import running
from okubsd.model import Vm


@click.command("list")
@click.option("--names", "names_only", is_flag=True, help="Print the names only.")
@as_json
@pass_session
def list_vms(session: Session, names_only: bool, json: bool) -> None:
    """List the VMs of the description, and those that still run without being in it."""
    names = running.known_vm_names(session.places, session.wish.vms)
    if names_only:
        print("\n".join(names))
        return
    live = running.ask_running(session.places)
    by_name = {vm.name: vm for vm in session.wish.vms} | _made_gateways(session, live)
    rows = [(name, by_name.get(name), name in live) for name in names]
    if json:
        print_json(vms=[summary(session, vm or Vm(name=name, image=""), runs) for name, vm, runs in rows])
        return
    header = ("NAME", "STATE", "IMAGE", "MEMORY", "NETWORK", "APPS")
    print_table(header, [_row(session, name, vm, runs) for name, vm, runs in rows])


def _made_gateways(session: Session, live: set[str]) -> dict[str, Vm]:
    """Return the gateways that okubsd made by itself and that run."""
    if not any(name.endswith(".gw") for name in live):
        return {}
    from okubsd.host.gateway import known_gateways

    return {vm.name: vm for vm in known_gateways(session.wish)}


def _row(session: Session, name: str, vm: Vm | None, running: bool) -> tuple[str, ...]:
    state = "running" if running else "stopped"
    if vm is None:
        return (name, state, "-", "-", "-", "(not in the description)")
    return (name, state, vm.image, render_size(vm.memory), vm.network.name, " ".join(_apps(session, vm)))


def _apps(session: Session, vm: Vm) -> tuple[str, ...]:
    return vm.apps or tuple(session.recipes[vm.image].apps) if vm.image in session.recipes else ()


def summary(session: Session, vm: Vm, running: bool) -> dict[str, Any]:
    return {
        "name": vm.name,
        "state": "running" if running else "stopped",
        "image": vm.image,
        "memory_bytes": vm.memory,
        "network": vm.network.name,
        "apps": _apps(session, vm),
        "color": vm.color,
        "disposable": vm.disposable,
        "autostart": vm.autostart,
    }


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
    from okubsd.cli.details import details_of

    details = details_of(session, session.vm(name))
    if json:
        print_json(**details)
        return
    for key, value in details.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
        if shown not in ("", None):
            print(f"{key.replace('_', ' '):<12} {harmless(str(shown))}")


@click.command()
@click.argument("name", metavar="VM")
@click.option("-p", "--previous", is_flag=True, help="Of the boot before.")
@click.option("-f", "--follow", is_flag=True, help="Go on printing what comes.")
@pass_session
def log(session: Session, name: str, previous: bool, follow: bool) -> None:
    """Print what the VM's serial console said since it was booted."""
    from okubsd.host import facts

    vm = session.vm(name)
    if facts.ask_vm(session.places, vm.name).on_vmd:
        _print_guest_log(session, vm, previous=previous, follow=follow)
        return
    path = session.places.vm(vm.name) / ("console.log.1" if previous else "console.log")
    try:
        with path.open("rb") as stream:
            _print_log(stream, path, follow)
    except FileNotFoundError:
        raise Problem(f"VM '{vm.name}' has no log of {'an earlier' if previous else 'a'} boot") from None


def _print_guest_log(session: Session, vm: Vm, *, previous: bool, follow: bool) -> None:
    """Print the guest's own log: nothing but vmd reads the console of its VMs."""
    from okubsd.guest.ssh import remote_command
    from okubsd.host import door, lifecycle

    if previous or follow:
        raise Misuse(
            "vmd keeps no console log, so there is neither --previous nor --follow", f"okubsd console {vm.name}"
        )
    argv = (*lifecycle.shared_ssh(session.places, vm, "-T", user="root"), remote_command(("dmesg",)))
    code = door.filter_through(argv, harmless_bytes if sys.stdout.isatty() else bytes)
    if code != 0:
        raise Problem(f"VM '{vm.name}' does not tell its log", f"okubsd console {vm.name}")


def _print_log(stream: Any, path: Path, follow: bool) -> None:
    while True:
        while chunk := stream.read(1 << 16):
            sys.stdout.buffer.write(harmless_bytes(chunk) if sys.stdout.isatty() else chunk)
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
