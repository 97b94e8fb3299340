"""Decide how a VM gets from what it is now to a window on the screen."""

from __future__ import annotations

from pathlib import Path

from okubsd import layout
from okubsd.config.names import did_you_mean, quoted
from okubsd.display.frame import COLORS
from okubsd.display.orders import Attending, Orders
from okubsd.display.server import keyboard_argv, server_argv
from okubsd.errors import HostLacks, Unknown
from okubsd.guest.ssh import connect_argv, disconnect_argv, publish_argv, show_app_argv
from okubsd.model import Argv, Face, Request, Vm
from okubsd.plan.facts import HostFacts
from okubsd.plan.seats.base import Boot, Seat
from okubsd.plan.steps import (
    Attend,
    BeginShare,
    Connect,
    Disconnect,
    Phase,
    Plan,
    Publish,
    ShowApp,
    Slot,
    StartDisplay,
    StartGlass,
    Step,
    WaitDisplay,
)
from okubsd.recipe import Recipe


def choose_app(vm: Vm, recipe: Recipe, asked: str) -> str:
    """Return the app that ``start`` shows: the one asked for, or the VM's first; "" where it has none.

    Raises Unknown where the VM may not run it.
    """
    allowed = vm.apps or tuple(recipe.apps)
    if not allowed and not asked:
        return ""
    if not allowed:
        what = "is a gateway" if recipe.gateway else "has services only"
        raise Unknown(f"VM '{vm.name}' {what} and shows nothing", f"okubsd start {vm.name}")
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
    nested = _is_nested(boot, request, needs_display=needs_display)
    server = ("Xvfb" if nested else "Xephyr",) if needs_display else ()
    _check_programs(host, ("ssh", *booting, *server))
    begin, waits = ([], []) if state.running else seat.boot(boot)
    display: list[Step] = [_display(boot, request, nested=nested)] if needs_display else []
    seamless = windowed and nested and not request.headless and host.display != ""
    if seamless and (needs_display or not state.glass):
        display.append(_glass(boot))
    shown = _show(boot, seat, app, request, needs_display=needs_display, seamless=seamless) if windowed else []
    after = (*_published(boot), *_shared(boot), *seat.shown(vm, state.run)) if waits else ()
    attended = (_attend(boot),) if seamless and not (state.attended and state.running) else ()
    return (*begin, *display, *waits, *shown, *attended, *after)


def _attend(boot: Boot) -> Step:
    vm, host = boot.vm, boot.host
    orders = Attending(
        vm=vm.name, description=host.description, heard=vm.sound and boot.recipes[vm.image].sound
    )  # fmt: skip
    log = boot.state.directory / layout.ATTENDED_LOG
    return Attend(vm=vm, argv=host.attending, orders=orders, log=log, run=boot.state.run, phase=Phase.APP)


def _published(boot: Boot) -> list[Step]:
    """Return the steps that give ports of the guest to this host's loopback."""
    vm, run = boot.vm, boot.state.run
    return [
        Publish(
            vm=vm, host_port=host, port=port, phase=Phase.APP,
            argv=publish_argv(vm, run, run / f"{layout.PUBLISHED}{host}-{port}", port, host),
        )
        for host, port in vm.publish
    ]  # fmt: skip


def _shared(boot: Boot) -> list[Step]:
    return [BeginShare(vm=boot.vm, share=share, phase=Phase.APP) for share in boot.vm.share]


def _is_nested(boot: Boot, request: Request, *, needs_display: bool) -> bool:
    """Return whether the VM's display is, or is to be, one without a connection to the desktop."""
    if not needs_display:
        return boot.state.nested
    return request.headless or boot.vm.face is not Face.XEPHYR


def _check_programs(host: HostFacts, needed: tuple[str, ...]) -> None:
    """Raise HostLacks for the first program that is ``needed`` and not there, before anything is begun."""
    for program in needed:
        if program in host.missing:
            raise HostLacks(f"the program '{program}' is not on this host", host.missing[program])


def _display(boot: Boot, request: Request, *, nested: bool) -> StartDisplay:
    run = boot.state.run
    desktop = "" if request.headless else boot.host.display
    # Windows of the desktop have places there: the nested screen is as large.
    screen = Slot.SCREEN if desktop and nested else ""
    argv = server_argv(boot.vm, run / layout.XAUTHORITY, Slot.REPORT_FD, nested=nested, screen=screen)
    log = boot.state.directory / layout.DISPLAY_LOG
    return StartDisplay(argv=argv, log=log, run=run, nested=nested, desktop=desktop, phase=Phase.BOOT)


def _glass(boot: Boot) -> StartGlass:
    vm, run = boot.vm, boot.state.run
    color, ink = COLORS[vm.color]
    keyboard = keyboard_argv(boot.host.display, run / layout.XAUTHORITY, Slot.DISPLAY)
    orders = Orders(
        vm=vm.name, run=str(run), desktop=boot.host.display, network=vm.network.name, color=color, ink=ink,
        okubsd=boot.host.okubsd, keyboard=keyboard, words="starting", scale=vm.scale, fullscreen=vm.fullscreen,
        whole=vm.display if vm.face is Face.WINDOW else None, keys=vm.keys,
    )  # fmt: skip
    log = boot.state.directory / layout.GLASS_LOG
    return StartGlass(argv=(*boot.host.glass, orders.render()), log=log, run=run, phase=Phase.BOOT)


def _show(boot: Boot, seat: Seat, app: str, request: Request, *, needs_display: bool, seamless: bool) -> list[Step]:
    """Return the steps from a guest that listens to the app's window."""
    vm, state = boot.vm, boot.state
    steps: list[Step] = []
    if needs_display:
        log = state.directory / layout.DISPLAY_LOG
        steps.append(WaitDisplay(run=state.run, log=log, phase=Phase.DISPLAY))
    socket = state.run / f"{layout.SSH_SOCKET}user"
    if state.connected and needs_display:
        # That connection leads to a display that is gone, or to none.
        steps.append(Disconnect(argv=disconnect_argv(vm, state.run), socket=socket, phase=Phase.SSH))
    if needs_display or not state.connected:
        argv = seat.reach(connect_argv(vm, state.run, Path(Slot.DISPLAY_SOCKET)))
        what = f"{vm.name}: the guest cannot be reached by ssh"
        steps.append(Connect(argv=argv, what=what, socket=socket, phase=Phase.SSH))
    show = show_app_argv(vm, state.run, app, request.arguments, another=request.another)
    keyboard = _keyboard(boot) if needs_display and not request.headless else ()
    steps.append(
        ShowApp(
            vm=vm, app=app, argv=show, run=state.run, pace=vm.boot_timeout, keyboard=keyboard, seamless=seamless,
            another=request.another,
            phase=Phase.APP,
        )
    )  # fmt: skip
    return steps


def _keyboard(boot: Boot) -> Argv:
    return keyboard_argv(boot.host.display, boot.state.run / layout.XAUTHORITY, Slot.DISPLAY)
