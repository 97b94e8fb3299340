"""okubsd start, stop, restart."""

from __future__ import annotations

import os
import sys

import click
import msgspec

from okubsd import layout
from okubsd.cli.session import dry_run, pass_session, print_json
from okubsd.errors import Misuse, Partial, Problem
from okubsd.host import facts, lifecycle, running, sockets
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
@click.option("-j", "--json", "as_values", is_flag=True, help="With -n: print the steps as JSON.")
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
    as_values: bool,
) -> None:
    """Boot the VM if it does not run, and show the window of APP (or of its first app)."""
    if as_values and not (dry and name):
        raise Misuse("--json tells the steps of a start that is only shown", "okubsd start -n -j VM")
    if autostart == bool(name):
        raise Misuse("name the VM to start, or say --autostart", "okubsd list")
    if autostart and (disposable or headless or another or windowless):
        raise Misuse("--autostart boots VMs and shows nothing; it takes no other option", "okubsd start --help")
    if autostart:
        _autostart(session, timing=timing, dry=dry)
        return
    request = Request(app=app, arguments=arguments, headless=headless, another=another, windowless=windowless)
    if as_values:
        _print_steps(session, session.vm(name), request)
        return
    if windowless and (app or another or headless):
        raise Misuse("--no-app shows nothing; leave out APP, --new and --headless", "okubsd start --help")
    if disposable:
        _start_copy(session, session.vm(name), request, timing=timing, dry=dry)
        return
    _start(session, _vm_or_copy(session, name), request, timing=timing, dry=dry)


@click.command()
@click.argument("name", metavar="VM")
@pass_session
def rescue(session: Session, name: str) -> None:
    """Boot the VM with its home not mounted, to look after it as the guest's root; show nothing."""
    vm = session.vm(name)
    if vm.disposable:
        raise Misuse(f"VM '{name}' has no home", f"okubsd start {name}")
    if running.is_running(session.places, name):
        raise Problem(f"VM '{name}' is running with its home", f"okubsd stop {name}; okubsd rescue {name}")
    lifecycle.start(session, msgspec.structs.replace(vm, rescue=True, keep=True), Request(windowless=True))
    session.report(f"{name}: its home is not mounted; okubsd shell -r {name}")
    session.report("there: busybox mount $(cat /run/okubsd/home-drive) /mnt")


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
    # One that waits has its app already, and shows no other.
    if not (request.arguments or request.windowless) and _take_copy(session, vm, request, timing=timing):
        return
    with copies.making(session, vm) as copy:
        _start(session, copy, request, timing=timing, dry=False)
        session.report(f"{copy.name}: a copy of {vm.name}; nothing of it is left when it ends")


def _take_copy(session: Session, vm: Vm, request: Request, *, timing: bool) -> bool:
    """Show a copy of ``vm`` that waits; return whether there was one."""
    from okubsd.host import ready

    if not request.headless:
        sockets.check_desktop(os.environ.get("DISPLAY", ""))
    with lifecycle.interruptible(), ready.taking(session, vm, request.app) as taken:
        if taken is None:
            return False
        shown = lifecycle.start(session, taken, request)
    if timing:
        sys.stdout.write(render_timing(shown.timing))
    session.report(f"{taken.name}: a copy of {vm.name} that waited; nothing of it is left when it ends")
    return True


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
    if (session.places.vm(vm.name) / layout.WAITING).exists():
        from okubsd.host import ready

        # One that was booted beforehand and is not what it would be today was used by nobody.
        ready.end(session, frozenset({vm.name}), stale=True)
    started = lifecycle.start(session, vm, request)
    if started.app_was_running:
        session.report(f"{vm.name}: the app is shown already; --new starts another")
    elif (request.windowless or not vm_shows(session, vm)) and started.vm_was_running:
        session.report(f"{vm.name} is running already")
    if vm.publish:
        _tell_published(session, vm)
    if timing:
        sys.stdout.write(render_timing(started.timing))


def _tell_published(session: Session, vm: Vm) -> None:
    """Tell where the ports of a VM are that it is to publish, and which are not, since somebody took them back."""
    from okubsd.host.publish import published

    found = published(session.places.vm_run(vm.name))
    for host, port in vm.publish:
        if found.get(host) == port:
            session.report(f"{vm.name}: its port {port} is 127.0.0.1:{host} here")
        else:
            session.report(f"{vm.name}: its port {port} is not published now; okubsd publish {vm.name} {host}:{port}")


def vm_shows(session: Session, vm: Vm) -> bool:
    """Return whether a VM has an app to show."""
    recipe = session.recipes.get(vm.image)
    return bool(vm.apps or (recipe and recipe.apps))


def _show_plan(session: Session, vm: Vm, request: Request, *, stopped: bool = False) -> None:
    """Print the plan of a start; ``stopped`` takes the VM for one that does not run."""
    decided = lifecycle.decide_start(session, vm, request, stopped=stopped, shown=True)
    sys.stdout.write(render_plan(decided.plan))


def _print_steps(session: Session, vm: Vm, request: Request) -> None:
    """Print the steps of a start as JSON: what each is, and the command that does it, where one does."""
    plan = lifecycle.decide_start(session, vm, request, shown=True).plan
    steps = [
        {"step": type(step).__name__, "phase": step.phase, "argv": step.argv, "shown": step.show()} for step in plan
    ]
    print_json(vm=vm.name, steps=steps)


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
            if vm.copy_of or vm.name.rpartition("-")[2].isdigit():
                from okubsd.host import copies

                # What ends with a copy may have been quicker than we: then our lock alone is left.
                copies.forget(session, vm.name)
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
