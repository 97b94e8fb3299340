"""okubsd run, shell, console, screenshot: ways into a running VM."""

from __future__ import annotations

import secrets
import shlex
import sys
from pathlib import Path

import click

from okubsd.cli.session import Session, cleaners, pass_session
from okubsd.config.names import quoted
from okubsd.errors import HostLacks, Misuse, Partial, Problem
from okubsd.guest.ssh import call_command, end_call_command
from okubsd.host import door, facts, lifecycle, running
from okubsd.model import Request, Vm

as_root = click.option("-r", "--root", is_flag=True, help="As the guest's root.")


def _reachable(session: Session, name: str) -> Vm:
    """Return the VM, booted without a window if it did not run."""
    vm = session.running_vm(name)
    if not facts.ask_vm(session.places, vm.name).running:
        lifecycle.start(session.places, vm, session.site, Request(windowless=True), session.report)
    return vm


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("name", metavar="VM")
@click.argument("command", metavar="-- COMMAND...", nargs=-1)
@as_root
@pass_session
def run(session: Session, name: str, command: tuple[str, ...], root: bool) -> int:
    """Run COMMAND in the VM, booting it if need be; exit with the command's own code.

    Each word is passed as it is.  On a terminal, escape codes are taken out of what the guest prints.
    """
    if command and command[0].startswith("-") and command[0] != "--":
        raise Misuse(f"the option {quoted(command[0])} stands before the VM", f"okubsd run {command[0]} {name} -- ...")
    words = command[1:] if command[:1] == ("--",) else command
    if not words:
        raise Misuse("say what to run", f"okubsd run {name} -- ls")
    vm = _reachable(session, name)
    user = "root" if root else "user"
    ssh = lifecycle.shared_ssh(session.places, vm, "-T", user=user)
    mark = secrets.token_hex(8)
    try:
        code = door.stream((*ssh, call_command(words, mark)), *cleaners())
    except KeyboardInterrupt:
        door.ask((*ssh, end_call_command(mark)), timeout=10)
        raise
    if code == door.NOBODY_READS:
        door.ask((*ssh, end_call_command(mark)), timeout=10)
    return code


@click.command()
@click.argument("name", metavar="VM")
@as_root
@pass_session
def shell(session: Session, name: str, root: bool) -> int:
    """Open a shell in the VM, booting it if need be.

    The guest then writes to your terminal as any ssh session does.
    """
    vm = _reachable(session, name)
    options = ("-t",) if sys.stdin.isatty() else ("-T",)
    argv = lifecycle.shared_ssh(session.places, vm, *options, user="root" if root else "user")
    # The login shell is a small one, for the many commands that nobody sees.
    return door.call_interactive((*argv, "exec bash -l"))


@click.command()
@click.argument("name", metavar="VM")
@pass_session
def console(session: Session, name: str) -> None:
    """Attach to the VM's serial console, a root shell; '~.' after a newline leaves."""
    from okubsd.host.console import attach

    vm = session.running_vm(name)
    state = facts.ask_vm(session.places, vm.name)
    if not state.running:
        raise Problem(f"VM '{vm.name}' is not running", f"okubsd start {vm.name}")
    session.report(f"{vm.name}: console; '~.' after a newline leaves")
    if state.on_vmd:
        door.call_interactive(("vmctl", "console", vm.name))
        return
    attach(state.run / "console", sys.stdin.fileno(), sys.stdout.fileno())


@click.command()
@click.argument("names", metavar="VM...", nargs=-1)
@click.option("-a", "--all", "every", is_flag=True, help="All VMs that run.")
@pass_session
def clock(session: Session, names: tuple[str, ...], every: bool) -> None:
    """Set the clocks of VMs by the host's, as is needed after the host slept."""
    if every == bool(names):
        raise Misuse("name the VMs whose clocks to set, or say --all", "okubsd clock --all")
    live = sorted(running.ask_running(session.places)) if every else []
    vms = [session.running_vm(name) for name in (*names, *live)]
    failed = 0
    for vm in vms:
        try:
            lifecycle.set_clock(session.places, vm)
        except Problem as problem:
            if len(vms) == 1:
                raise
            failed += 1
            session.report(problem.sentence)
    if failed:
        raise Partial(f"{failed} of {len(vms)} clocks were not set")


@click.command()
@click.argument("name", metavar="VM")
@click.argument("target", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False))
@pass_session
def screenshot(session: Session, name: str, target: Path) -> None:
    """Write what the VM's display shows to FILE, as PNG."""
    from okubsd.host import keys, window

    vm = session.running_vm(name)
    state = facts.ask_vm(session.places, vm.name)
    cookie = keys.read_cookie(state.run)
    if state.display is None or cookie is None:
        raise Problem(f"VM '{vm.name}' shows nothing", f"okubsd start {vm.name}")
    if not target.absolute().parent.is_dir():
        raise HostLacks(f"there is no directory {shlex.quote(str(target.absolute().parent))}")
    door.write(target, window.take_picture(vm.name, state.display, cookie), 0o644)
