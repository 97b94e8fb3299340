"""okubsd rename, rm: a VM gets another name, or goes."""

from __future__ import annotations

import sys

import click

from okubsd.cli.session import pass_session
from okubsd.config.edit import remove_vm
from okubsd.config.names import RESERVED, VM_NAME, VM_NAME_RULE, quoted
from okubsd.errors import Misuse, Problem, Unknown
from okubsd.host import copies, editing, homes, lifecycle, running
from okubsd.host.session import Session
from okubsd.host.waiting import wait_until

# How long a copy that ended may take to be gone, in seconds.
_SECONDS = 30.0


def _must_be_stopped(session: Session, name: str) -> None:
    """Raise Problem where the VM runs: asked before anything else, and again when nobody else can start it."""
    if running.is_running(session.places, name):
        raise Problem(f"VM '{name}' runs", f"okubsd stop {name}")


@click.command()
@click.argument("old", metavar="OLD")
@click.argument("new", metavar="NEW")
@pass_session
def rename(session: Session, old: str, new: str) -> None:
    """Call the stopped VM OLD by the name NEW, in the description and with its home, keys and logs."""
    if not VM_NAME.fullmatch(new) or new.lower() in RESERVED:
        raise Misuse(f"{quoted(new)} is no name for a VM: {VM_NAME_RULE}")
    begun = session.description.find(old) is None and session.description.find(new) is not None
    # A rename that was cut short has changed the description already.
    vm = session.vm(new if begun else old)
    if not begun and session.description.find(new) is not None:
        raise Misuse(f"there is a VM '{new}' already", f"okubsd status {new}")
    _must_be_stopped(session, old)
    if begun and not session.places.vm(old).is_dir():
        raise Unknown(f"there is no VM {quoted(old)}", "okubsd list")
    if session.places.vm(old).is_dir():
        homes.check_free(session.places, new)
    with lifecycle.holding(session.places, old, session.report):
        _must_be_stopped(session, old)
        if not begun:
            editing.rename(session, vm, new)
        homes.rename(session.places, old, new)
    session.report(f"{old} is called {new} now")


@click.command()
@click.argument("name", metavar="VM")
@click.option("--keep-home", is_flag=True, help="Keep the drive of its home.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask for the name again.")
@click.option("--ended", is_flag=True, hidden=True)
@pass_session
def rm(session: Session, name: str, keep_home: bool, yes: bool, ended: bool) -> None:
    """Remove the stopped VM: from the description, and with its home, keys and logs for good."""
    if ended:
        # What waits for the end of a copy calls this; what is left of it in its last moment is waited for.
        wait_until(lambda: copies.forget(session, name) or not copies.is_copy(session.places, name), _SECONDS)
        return
    remove_one(session, name, keep_home=keep_home, yes=yes)


def remove_one(session: Session, name: str, *, keep_home: bool, yes: bool) -> None:
    """Remove a stopped VM, after its name was written again unless that is ``yes``.  Raises Problem where it runs."""
    described = session.description.find(name)
    if described is not None and described.protect:
        raise Problem(f"VM '{name}' is protected, by 'protect: yes' in its description", f"okubsd status {name}")
    if not VM_NAME.fullmatch(name) or (described is None and not session.places.vm(name).is_dir()):
        session.vm(name)
    _must_be_stopped(session, name)
    if not yes:
        _ask_for_name(name, keep_home=keep_home)
    with lifecycle.holding(session.places, name, session.report):
        _must_be_stopped(session, name)
        if described is not None:
            editing.forget(session, described, remove_vm)
        removed = homes.remove(session.places, name, keep_home=keep_home)
    kept = f"; its home is kept in {homes.home_of(session.places, name)}" if keep_home else ""
    session.report(f"{name}: removed{'' if removed else '; it had no home, keys or logs'}{kept}")


def _ask_for_name(name: str, *, keep_home: bool) -> None:
    """Raise Misuse unless the user writes the name of the VM once more."""
    if not sys.stdin.isatty():
        raise Misuse(f"there is no terminal to ask on whether '{name}' is to be removed", f"okubsd rm --yes {name}")
    home = "" if keep_home else " and its home"
    answer = click.prompt(f"okubsd: to remove {name}{home} for good, write its name", default="", show_default=False)
    if answer != name:
        raise Misuse("that is another name; nothing was removed")
