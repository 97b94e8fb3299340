"""okubsd run, shell, console, screenshot: ways into a running VM."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path

import click

from okubsd.cli.session import cleaners, pass_session
from okubsd.config.names import quoted
from okubsd.errors import HostLacks, Misuse, Partial, Problem, TimedOut
from okubsd.guest.ssh import USER, WALL, remote_command
from okubsd.host import door, facts, lifecycle, running
from okubsd.host.engine import engine
from okubsd.host.guest import ROOT, Guest
from okubsd.host.session import Session
from okubsd.host.waking import stands_by
from okubsd.model import Request

unwalled = click.option(
    "--no-sandbox", "unwalled", is_flag=True, help="With every system call, and privileges that can be gained."
)
as_root = click.option("-r", "--root", is_flag=True, help="As the guest's root.")


def reachable(session: Session, name: str) -> Guest:
    """Return the guest of the VM, booted without a window if it did not run."""
    vm = session.running_vm(name)
    if not running.is_running(session.places, vm.name):
        lifecycle.start(session, vm, Request(windowless=True))
    return Guest.find(session.places, vm)


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("name", metavar="VM")
@click.argument("command", metavar="-- COMMAND...", nargs=-1)
@as_root
@unwalled
@click.option("--disposable", "--disp", is_flag=True, help="In a copy of the VM, of which nothing is left afterwards.")
@pass_session
def run(session: Session, name: str, command: tuple[str, ...], root: bool, unwalled: bool, disposable: bool) -> int:
    """Run COMMAND in the VM, booting it if need be; exit with the command's own code.

    Each word is passed as it is.  On a terminal, escape codes are taken out of what the guest prints.
    """
    if command and command[0].startswith("-") and command[0] != "--":
        raise Misuse(f"the option {quoted(command[0])} stands before the VM", f"okubsd run {command[0]} {name} -- ...")
    words = command[1:] if command[:1] == ("--",) else command
    if not words:
        raise Misuse("say what to run", f"okubsd run {name} -- ls")
    words = words if root or unwalled else (*WALL, *words)
    if disposable:
        return _run_in_copy(session, name, words, _user(root=root))
    return reachable(session, name).stream(words, *cleaners(), user=_user(root=root))


def _run_in_copy(session: Session, name: str, words: tuple[str, ...], user: str) -> int:
    """Run ``words`` in a copy of the VM, which ends with the command, or with us."""
    from okubsd.host import copies, opening

    with (
        lifecycle.interruptible(),
        copies.making(session, session.vm(name)) as copy,
        opening.ending_with_us(session, copy),
    ):
        lifecycle.start(session, copy, Request(windowless=True))
        return Guest.find(session.places, copy).stream(words, *cleaners(), user=user)


def _user(*, root: bool) -> str:
    return ROOT if root else USER


@click.command()
@click.argument("name", metavar="VM")
@as_root
@unwalled
@pass_session
def shell(session: Session, name: str, root: bool, unwalled: bool) -> int:
    """Open a shell in the VM, booting it if need be.

    The guest then writes to your terminal as any ssh session does.
    """
    guest = reachable(session, name)
    # The login shell is a small one, for the many commands that nobody sees.
    words = ("bash", "-l") if root or unwalled else (*WALL, "bash", "-l")
    return guest.interactive(remote_command(words), user=_user(root=root), terminal=sys.stdin.isatty())


@click.command()
@click.argument("name", metavar="VM")
@pass_session
def console(session: Session, name: str) -> None:
    """Attach to the VM's serial console, a root shell; '~.' after a newline leaves."""
    vm = session.running_vm(name)
    state = facts.ask_vm(session.places, vm.name)
    if state.seat is None:
        raise Problem(f"VM '{vm.name}' is not running", f"okubsd start {vm.name}")
    session.report(f"{vm.name}: console; '~.' after a newline leaves")
    engine(state.seat.engine).console(vm.name, state.run)


def _set_clock(guest: Guest) -> None:
    """Set the guest's clock by the host's.  Raises Problem where it does not do it."""
    done = guest.ask(("date", "-s", f"@{time.time():.0f}"), user=ROOT)
    if done.code == door.GAVE_UP:
        raise TimedOut(f"{guest.vm.name}: the guest does not answer")
    if done.code != 0:
        raise Problem(f"{guest.vm.name}: its clock was not set: {door.reason(done)}")


@click.command()
@click.argument("names", metavar="VM...", nargs=-1)
@click.option("-a", "--all", "every", is_flag=True, help="All VMs that run.")
@pass_session
def clock(session: Session, names: tuple[str, ...], every: bool) -> None:
    """Set the clocks of VMs by the host's, as is needed after the host slept."""
    if every == bool(names):
        raise Misuse("name the VMs whose clocks to set, or say --all", "okubsd clock --all")
    live = sorted(running.ask_running(session.places)) if every else []
    # One that waits until it is wanted gets the time then.
    live = [name for name in live if not stands_by(session.places, name)]
    vms = [session.running_vm(name) for name in (*names, *live)]
    failed = 0
    for vm in vms:
        try:
            _set_clock(Guest.find(session.places, vm))
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
