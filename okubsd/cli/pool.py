"""okubsd pool: guests that have booted and are nobody yet, saved, so that VMs start at once."""

from __future__ import annotations

import shlex

import click
import msgspec

from okubsd.cli.session import ago, as_json, pass_session, print_json, print_table
from okubsd.config.sizes import render_megabytes
from okubsd.errors import BadState, Misuse, Problem
from okubsd.host import facts, lifecycle, ready, saved
from okubsd.host.engine.qemu import memory_of
from okubsd.host.pool import make as make_state
from okubsd.host.session import Session
from okubsd.model import Request, Vm
from okubsd.plan.saved import state_of


@click.group(invoke_without_command=True)
@click.pass_context
def pool(context: click.Context) -> None:
    """Show, make and clear saved states: guests that have booted, from which VMs that are alike go on."""
    if context.invoked_subcommand is None:
        context.invoke(ls)


@pool.command()
@as_json
@pass_session
def ls(session: Session, json: bool) -> None:
    """List the saved states, and the VMs that would start from them."""
    users = _users(session)
    found, waiting = saved.states(session.places), ready.waiting_copies(session.places)
    if json:
        states = [_as_object(session, state, users.get(state.name, ())) for state in found]
        print_json(
            states=states,
            waiting=[{**msgspec.structs.asdict(one), "good": ready.is_good(session, one)} for one in waiting],
        )
        return
    rows = [
        (
            state.name,
            render_megabytes(saved.on_disk(session.places, state)),
            f"{state.memory >> 20}M",
            f"{ago(state.made)} ago",
            " ".join(users.get(state.name, ())) or "-",
        )
        for state in found
    ]
    rows += [
        (
            one.name,
            "-",
            _resident(session, one.name),
            f"{ago(one.made)} ago",
            one.origin if ready.is_good(session, one) else f"nobody: it is not what {one.origin} is now",
        )
        for one in waiting
    ]
    print_table(("STATE", "ON DISK", "MEMORY", "MADE", "FOR"), rows)


def _resident(session: Session, name: str) -> str:
    pid = facts.ask_vm(session.places, name).pid
    return f"{memory_of(pid) >> 20}M" if pid else "-"


@pool.command()
@click.argument("name", metavar="VM")
@click.argument("app", metavar="[APP]", default="")
@pass_session
def start(session: Session, name: str, app: str) -> None:
    """Have a copy of the VM start an app, and wait; the next `start --disposable` takes it.

    On vmd, which runs no copies, it is the VM itself that waits, for the next `start`.
    """
    vm = session.vm(name)
    ready.end(session, frozenset({name}), stale=True)
    with lifecycle.interruptible():
        waiting = ready.prepare(session, vm, app)
    words = (*(() if waiting.name == name else ("--disposable",)), name, *((app,) if app else ()))
    session.report(f"{waiting.name}: waits for okubsd start {shlex.join(words)}")


@pool.command()
@click.argument("names", metavar="[VM...]", nargs=-1)
@click.option("-a", "--all", "every", is_flag=True, help="All VMs that can have one.")
@pass_session
def make(session: Session, names: tuple[str, ...], every: bool) -> None:
    """Boot a guest for each of the VMs and save it; what is there and still good stays."""
    if every == bool(names):
        raise Misuse("name the VMs, or say --all", "okubsd pool make --all")
    meant = session.description.vms if every else tuple(session.vm(name) for name in names)
    saved.discard_stale(session.places)
    with lifecycle.interruptible():
        for vm in meant:
            if every and not _state_if_any(session, vm):
                continue
            state = make_state(session, vm)
            session.report(f"{vm.name}: starts from {state.name}")


@pool.command()
@click.argument("names", metavar="[VM...]", nargs=-1)
@pass_session
def clear(session: Session, names: tuple[str, ...]) -> None:
    """Remove the saved states of VMs, or all of them; VMs that run go on."""
    wanted = {_state(session, session.vm(name)) for name in names}
    for state in saved.states(session.places):
        if not names or state.name in wanted:
            saved.discard(session.places, state.name)
            session.report(f"{state.name}: removed")
    if not names:
        saved.sweep(session.places)
    for name in ready.end(session, frozenset(names) if names else None):
        session.report(f"{name}: ended")


@pool.command()
@pass_session
def verify(session: Session) -> None:
    """Read every saved state whole, and remove those that are not what was saved."""
    bad = 0
    for state in saved.states(session.places):
        try:
            saved.check(session.places.pool / state.name, anew=True)
        except BadState as problem:
            session.report(f"{problem.sentence}; it was removed")
            saved.discard(session.places, state.name)
            bad += 1
    if bad:
        raise Problem(f"{bad} of the saved states were not what was saved", "okubsd pool make --all")


def _state_if_any(session: Session, vm: Vm) -> str:
    """Return the state that a VM would start from, "" where it cannot have one here."""
    try:
        return _state(session, vm)
    except Problem:
        return ""


def _state(session: Session, vm: Vm) -> str:
    """Return the state that a VM would start from, if it did not run."""
    return state_of(lifecycle.decide_start(session, vm, Request(headless=True), stopped=True).boot)


def _users(session: Session) -> dict[str, tuple[str, ...]]:
    users: dict[str, tuple[str, ...]] = {}
    for vm in session.description.vms if saved.states(session.places) else ():
        if name := _state_if_any(session, vm):
            users[name] = (*users.get(name, ()), vm.name)
    return users


def _as_object(session: Session, state: saved.State, users: tuple[str, ...]) -> dict[str, object]:
    return {
        "state": state.name,
        "made": state.made,
        "builds": state.builds,
        "memory_bytes": state.memory,
        "cpus": state.cpus,
        "home_bytes": state.home,
        "bytes_on_disk": saved.on_disk(session.places, state),
        "vms": users,
    }
