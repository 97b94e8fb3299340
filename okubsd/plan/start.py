"""Decide how a VM gets from what it is now to a window on the screen."""

from __future__ import annotations

from pathlib import Path

from okubsd import layout
from okubsd.config.names import did_you_mean, quoted
from okubsd.display.server import keyboard_argv, server_argv
from okubsd.errors import HostLacks, Unknown
from okubsd.guest.ssh import connect_argv, disconnect_argv, show_app_argv
from okubsd.model import Argv, Recipe, Request, Vm
from okubsd.plan.facts import HostFacts
from okubsd.plan.seats.base import Boot, Seat
from okubsd.plan.steps import (
    Connect,
    Disconnect,
    Phase,
    Plan,
    ShowApp,
    Slot,
    StartDisplay,
    Step,
    WaitDisplay,
)


def choose_app(vm: Vm, recipe: Recipe, asked: str) -> str:
    """Return the app that ``start`` shows: the one asked for, or the VM's first; "" of a gateway, which has none.

    Raises Unknown where the VM may not run it.
    """
    allowed = vm.apps or tuple(recipe.apps)
    if not allowed and not asked:
        return ""
    if not allowed:
        raise Unknown(f"VM '{vm.name}' is a gateway and shows nothing", f"okubsd start {vm.name}")
    app = asked or allowed[0]
    if app not in allowed:
        hint = did_you_mean(app, allowed)
        raise Unknown(f"VM '{vm.name}' has no app {quoted(app)}, it has {', '.join(allowed)}{hint}")
    return app


def plan_start(boot: Boot, seat: Seat, request: Request) -> Plan:
    """Return the steps to a running VM with the app's window; () where nothing is to be done.

    ``seat`` is where the VM runs, or is to run; its gateway runs.
    Raises Unknown for an app the VM has not, HostLacks where there is no display to show it on.
    """
    vm, state, host = boot.vm, boot.state, boot.host
    app = choose_app(vm, boot.recipes[vm.image], request.app)
    windowed = not request.windowless and app != ""
    if windowed and state.display is None and not host.display and not request.headless:
        raise HostLacks(
            "there is no X display: DISPLAY is not set",
            "start it from an X session, or with --headless on a display nobody sees",
        )
    needs_display = windowed and state.display is None
    booting = () if state.running else seat.programs(vm)
    _check_programs(host, ("ssh", *booting, *((_server(request),) if needs_display else ())))
    begin, waits = ([], []) if state.running else seat.boot(boot)
    display = [_display(boot, request)] if needs_display else []
    shown = _show(boot, seat, app, request, needs_display=needs_display) if windowed else []
    return (*begin, *display, *waits, *shown, *(seat.shown(vm, state.run) if waits else ()))


def _server(request: Request) -> str:
    return "Xvfb" if request.headless else "Xephyr"


def _check_programs(host: HostFacts, needed: tuple[str, ...]) -> None:
    """Raise HostLacks for the first program that is ``needed`` and not there, before anything is begun."""
    for program in needed:
        if program in host.missing:
            raise HostLacks(f"the program '{program}' is not on this host", host.missing[program])


def _display(boot: Boot, request: Request) -> StartDisplay:
    run = boot.state.run
    argv = server_argv(boot.vm, run / layout.XAUTHORITY, Slot.REPORT_FD, headless=request.headless)
    log = boot.state.directory / layout.DISPLAY_LOG
    return StartDisplay(argv=argv, log=log, run=run, headless=request.headless, phase=Phase.BOOT)


def _show(boot: Boot, seat: Seat, app: str, request: Request, *, needs_display: bool) -> list[Step]:
    """Return the steps from a guest that listens to the app's window."""
    vm, state = boot.vm, boot.state
    steps: list[Step] = []
    if needs_display:
        log = state.directory / layout.DISPLAY_LOG
        steps.append(WaitDisplay(run=state.run, log=log, phase=Phase.DISPLAY))
    if state.connected and needs_display:
        # That connection leads to a display that is gone, or to none.
        socket = state.run / f"{layout.SSH_SOCKET}user"
        steps.append(Disconnect(argv=disconnect_argv(vm, state.run), socket=socket, phase=Phase.SSH))
    if needs_display or not state.connected:
        argv = seat.reach(connect_argv(vm, state.run, Path(Slot.DISPLAY_SOCKET)))
        steps.append(Connect(argv=argv, what=f"{vm.name}: the guest cannot be reached by ssh", phase=Phase.SSH))
    show = show_app_argv(vm, state.run, app, request.arguments, another=request.another)
    keyboard = _keyboard(boot) if needs_display and not request.headless else ()
    steps.append(
        ShowApp(vm=vm, app=app, argv=show, run=state.run, pace=vm.boot_timeout, keyboard=keyboard, phase=Phase.APP)
    )
    return steps


def _keyboard(boot: Boot) -> Argv:
    return keyboard_argv(boot.host.display, boot.state.run / layout.XAUTHORITY, Slot.DISPLAY)
