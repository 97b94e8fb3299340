"""okubsd start, stop, restart."""

from __future__ import annotations

import sys

import click

from okubsd.cli.session import dry_run, pass_session
from okubsd.errors import Misuse, Partial, Problem
from okubsd.host import facts, lifecycle, running
from okubsd.host.gateway import find_gateway
from okubsd.host.performance import Timing
from okubsd.host.session import Session
from okubsd.model import Request, Vm
from okubsd.plan.steps import Phase, render_plan
from okubsd.plan.stop import PATIENCE, plan_stop

headless = click.option("--headless", is_flag=True, help="Show it on a display that nobody sees.")
timing_option = click.option("--timing", is_flag=True, help="Print the seconds of each phase.")


@click.command(context_settings={"ignore_unknown_options": False})
@click.argument("name", metavar="VM", default="")
@click.argument("app", default="")
@click.argument("arguments", metavar="[-- ARGUMENT...]", nargs=-1)
@headless
@click.option("--autostart", is_flag=True, help="Boot all VMs that say autostart: yes; show nothing.")
@click.option("--new", "another", is_flag=True, help="Another copy of an app that runs.")
@click.option("--no-app", "windowless", is_flag=True, help="Boot only; show nothing.")
@click.option("--disposable", "--disp", "disposable", is_flag=True, help="Start a copy of which nothing is left.")
@timing_option
@dry_run
@pass_session
def start(
    session: Session,
    name: str,
    app: str,
    arguments: tuple[str, ...],
    headless: bool,
    autostart: bool,
    another: bool,
    windowless: bool,
    disposable: bool,
    timing: bool,
    dry: bool,
) -> None:
    """Boot the VM if it does not run, and show the window of APP (or of its first app)."""
    if autostart == bool(name):
        raise Misuse("name the VM to start, or say --autostart", "okubsd list")
    if autostart and (disposable or headless or another or windowless):
        raise Misuse("--autostart boots VMs and shows nothing; it takes no other option", "okubsd start --help")
    if autostart:
        _autostart(session, timing=timing, dry=dry)
        return
    request = Request(app=app, arguments=arguments, headless=headless, another=another, windowless=windowless)
    if windowless and (app or another or headless):
        raise Misuse("--no-app shows nothing; leave out APP, --new and --headless", "okubsd start --help")
    if disposable:
        _start_copy(session, session.vm(name), request, timing=timing, dry=dry)
        return
    _start(session, _vm_or_copy(session, name), request, timing=timing, dry=dry)


def _vm_or_copy(session: Session, name: str) -> Vm:
    """Return the VM called ``name``: a described one, or a copy that runs."""
    if session.description.find(name) is None:
        from okubsd.host import copies

        if copies.is_copy(session.places, name):
            return session.running_vm(name)
    return session.vm(name)


def _start_copy(session: Session, vm: Vm, request: Request, *, timing: bool, dry: bool) -> None:
    """Start a numbered copy of ``vm``; nothing is left of one that did not start."""
    from okubsd.host import copies

    if dry:
        _start(session, copies.copy_of(vm, f"{vm.name}-1"), request, timing=timing, dry=True)
        return
    with copies.making(session, vm) as copy:
        _start(session, copy, request, timing=timing, dry=False)
        session.report(f"{copy.name}: a copy of {vm.name}; nothing of it is left when it ends")


def _autostart(session: Session, *, timing: bool, dry: bool) -> None:
    """Boot every VM that is to be there from the start; one that fails does not keep the others down."""
    vms = [vm for vm in session.description.vms if vm.autostart]
    failed = 0
    for vm in vms:
        try:
            _start(session, vm, Request(windowless=True), timing=timing, dry=dry)
        except Problem as problem:
            failed += 1
            session.report(f"{vm.name}: {problem.sentence}")
    if failed:
        raise Partial(f"{failed} of {len(vms)} VMs were not started")


def _start(session: Session, vm: Vm, request: Request, *, timing: bool, dry: bool) -> None:
    if dry:
        gateway = find_gateway(vm, session.description)
        if gateway is not None:
            _start(session, gateway, Request(windowless=True), timing=False, dry=True)
        _show_plan(session, vm, request)
        return
    started = lifecycle.start(session, vm, request)
    if started.app_was_running:
        session.report(f"{vm.name}: the app is shown already; --new starts another")
    elif request.windowless and started.vm_was_running:
        session.report(f"{vm.name} is running already")
    if timing:
        sys.stdout.write(render_timing(started.timing))


def _show_plan(session: Session, vm: Vm, request: Request, *, stopped: bool = False) -> None:
    """Print the plan of a start; ``stopped`` takes the VM for one that does not run."""
    decided = lifecycle.decide_start(session, vm, request, stopped=stopped, shown=True)
    sys.stdout.write(render_plan(decided.plan))


def render_timing(timing: Timing) -> str:
    """Return the phases of a start, a line each, and their sum."""
    lines = [f"{phase:<8} {timing.phases[phase]:7.2f} s\n" for phase in Phase if phase in timing.phases]
    return "".join([*lines, f"{'total':<8} {timing.total:7.2f} s\n"])


@click.command()
@click.argument("names", metavar="VM...", nargs=-1)
@click.option("-a", "--all", "every", is_flag=True, help="All VMs that run.")
@click.option("-f", "--force", is_flag=True, help="Do not ask the guest: a power cut.")
@click.option("--unused", is_flag=True, help="Only gateways that okubsd made by itself and that no VM needs now.")
@click.option("-t", "--timeout", default=PATIENCE, show_default=True, help="Seconds that the guest gets to power off.")
@dry_run
@pass_session
def stop(
    session: Session, names: tuple[str, ...], every: bool, force: bool, unused: bool, timeout: int, dry: bool
) -> None:
    """Power VMs off: by ssh, then by QEMU's monitor, then by SIGKILL."""
    if every == bool(names):
        raise Misuse("name the VMs to stop, or say --all for every one that runs", "okubsd list")
    if timeout < 1:
        raise Misuse("--timeout takes a whole number of seconds, at least 1")
    vms = _running(session) if every else [session.running_vm(name) for name in names]
    if unused:
        for vm in vms:
            if session.known_description is not None:
                lifecycle.stop_unused(session, vm)
        return
    failed = 0
    for vm in vms:
        if dry:
            sys.stdout.write(_shown_stop(session, vm, force=force, patience=timeout))
            continue
        try:
            if not lifecycle.stop(session, vm, force=force, patience=timeout) and not every:
                session.report(f"{vm.name} is not running")
        except Problem as problem:
            if len(vms) == 1:
                raise
            failed += 1
            session.report(f"{problem.sentence}")
    if failed:
        raise Partial(f"{failed} of {len(vms)} VMs were not stopped")


def _shown_stop(session: Session, vm: Vm, *, force: bool = False, patience: int = PATIENCE) -> str:
    plan = plan_stop(vm, facts.ask_vm(session.places, vm.name), force=force, patience=patience)
    return render_plan(plan) or f"# {vm.name} is not running\n"


def _running(session: Session) -> list[Vm]:
    """Return the VMs that run, as they were started, also those that the description no longer has."""
    return [running.started_or_bare(session.places, name) for name in sorted(running.ask_running(session.places))]


@click.command()
@click.argument("name", metavar="VM")
@click.argument("app", default="")
@headless
@timing_option
@dry_run
@pass_session
def restart(session: Session, name: str, app: str, headless: bool, timing: bool, dry: bool) -> None:
    """Stop the VM and start it again, with the images and settings of now."""
    vm = session.vm(name)
    if dry:
        sys.stdout.write(_shown_stop(session, vm))
        _show_plan(session, vm, Request(app=app, headless=headless), stopped=True)
        return
    lifecycle.stop(session, vm)
    _start(session, vm, Request(app=app, headless=headless), timing=timing, dry=dry)
