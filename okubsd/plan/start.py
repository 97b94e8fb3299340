"""Decide how a VM gets from what it is now to a window on the screen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from okubsd.config.names import did_you_mean, quoted
from okubsd.display.server import server_argv
from okubsd.errors import HostLacks, Unknown
from okubsd.guest.identity import Lease
from okubsd.guest.ssh import connect_argv, disconnect_argv, show_app_argv, uptime_argv
from okubsd.images.commands import make_home_argv
from okubsd.model import Backend, Network, Recipe, Request, Vm
from okubsd.netif.hostname import guest_of_qemu, in_rdomain
from okubsd.network import user
from okubsd.plan.backend import choose_backend, refuse_without_memory
from okubsd.plan.facts import HostFacts, VmFacts
from okubsd.plan.images import images_of, stale_images
from okubsd.plan.start_vmd import boot_on_vmd
from okubsd.plan.steps import (
    BuildImages,
    CompareClocks,
    Connect,
    Disconnect,
    Link,
    MakeHome,
    MakeKeys,
    OpenNetwork,
    Phase,
    Plan,
    ShowApp,
    Slot,
    StartDisplay,
    StartQemu,
    StartUplink,
    Step,
    VerifyImages,
    WaitDisplay,
    WaitReady,
    WriteInitrd,
    WriteSshConfig,
)
from okubsd.qemu.argv import QEMU, Machine, render_argv
from okubsd.vmd.helper import Verb, helper_argv

# Past this a console log does not grow, whatever the guest prints; a home drive may.
_LARGEST_LOG = 64 << 20


def choose_app(vm: Vm, recipe: Recipe, asked: str) -> str:
    """Return the app that ``start`` shows: the one asked for, or the VM's first.

    Raises Unknown where the VM may not run it.
    """
    allowed = vm.apps or tuple(recipe.apps)
    app = asked or allowed[0]
    if app not in allowed:
        hint = did_you_mean(app, allowed)
        raise Unknown(f"VM '{vm.name}' has no app {quoted(app)}, it has {', '.join(allowed)}{hint}")
    return app


def plan_start(vm: Vm, recipes: Mapping[str, Recipe], host: HostFacts, state: VmFacts, request: Request) -> Plan:
    """Return the steps from ``state`` to a running VM with the app's window; () where nothing is to be done.

    Raises Unknown for an app the VM has not, HostLacks where there is no display to show it on.
    """
    app = choose_app(vm, recipes[vm.image], request.app)
    windowed = not request.windowless
    if windowed and state.display is None and not host.display and not request.headless:
        raise HostLacks(
            "there is no X display: DISPLAY is not set",
            "start it from an X session, or with --headless on a display nobody sees",
        )
    needs_display = windowed and state.display is None
    on_vmd = state.on_vmd if state.running else choose_backend(vm, host, state).backend is Backend.VMD
    boot_programs = () if on_vmd else _qemu_programs(vm)
    _check_programs(
        host, ("ssh", *(boot_programs if not state.running else ()), *((_server(request),) if needs_display else ()))
    )
    steps: list[Step] = []
    waits: list[Step] = []
    # On a host with vmd every guest is reached in its own rdomain, whatever runs it.
    number = state.record.number if state.record and (on_vmd or host.vmd) else None
    if not state.running and on_vmd and state.record is not None:
        refuse_without_memory(vm, host.usable_memory, host.taken_memory)
        steps, waits = boot_on_vmd(vm, recipes, host, state, state.record)
    elif not state.running:
        steps = _boot(vm, recipes, host, state)
        address = Slot.GUEST.value if number is not None else ""
        waits = [
            WaitReady(console_log=state.directory / "console.log", timeout=vm.boot_timeout),
            WriteSshConfig(vm=vm, keys=state.directory, run=state.run, address=address, phase=Phase.SSH),
        ]
    if needs_display:
        server = server_argv(vm, state.run / "Xauthority", Slot.REPORT_FD, headless=request.headless)
        steps.append(StartDisplay(argv=server, log=state.directory / "display.log", run=state.run, phase=Phase.BOOT))
    steps += waits
    if windowed:
        steps += _show(vm, host, state, app, request, number=number, needs_display=needs_display)
    if waits and on_vmd and number is not None:
        clock = in_rdomain(number, uptime_argv(vm, state.run))
        steps.append(CompareClocks(argv=clock, run=state.run, phase=Phase.WINDOW))
    return tuple(steps)


def _server(request: Request) -> str:
    return "Xvfb" if request.headless else "Xephyr"


def _qemu_programs(vm: Vm) -> tuple[str, ...]:
    return (QEMU,) if vm.disposable else (QEMU, "mke2fs")


def _check_programs(host: HostFacts, needed: tuple[str, ...]) -> None:
    """Raise HostLacks for the first program that is ``needed`` and not there, before anything is begun."""
    for program in needed:
        if program in host.missing:
            raise HostLacks(f"the program '{program}' is not on this host", host.missing[program])


def _boot(vm: Vm, recipes: Mapping[str, Recipe], host: HostFacts, state: VmFacts) -> list[Step]:
    """Return the steps that end with QEMU started."""
    names = images_of(vm, recipes)
    stale = stale_images(names, recipes, host.images)
    steps: list[Step] = [BuildImages(names=stale, phase=Phase.IMAGES)] if stale else []
    steps.append(VerifyImages(names=names, phase=Phase.IMAGES))
    if not state.has_keys:
        steps.append(MakeKeys(directory=state.directory, alias=vm.name))
    home = None if vm.disposable else state.directory / "home.img"
    if home and not state.has_home:
        made = home.with_name("home.new")
        steps.append(MakeHome(path=home, size=vm.home, argv=make_home_argv(made)))
    prepared = state.record if host.vmd else None
    confined = prepared is None and not host.weakness(vm.network)
    boot, base, app = (host.image_files / name / "current" for name in names)
    steps.append(
        WriteInitrd(
            vm=vm,
            lease=_lease_on_tap(vm, prepared.number) if prepared else user.lease_for(vm.network, confined=confined),
            keys=state.directory,
            run=state.run,
            boot=boot / "initrd",
        )
    )
    machine = Machine(
        kernel=boot / "vmlinuz",
        initrd=state.run / "initrd",
        base=base / "drive.squashfs",
        app=app / "drive.squashfs",
        home=home,
        run=state.run,
        console_log=state.directory / "console.log",
        accelerator=host.accelerator.name,
        sandbox=host.seccomp,
        netdev=user.tap_option(prepared.number) if prepared else user.netdev_option(vm.network),
    )
    argv = render_argv(vm, machine)
    if confined:
        argv = user.confine_argv(argv, root=host.root)
    if prepared:
        steps.append(Link(name=vm.name, argv=helper_argv(Verb.PREPARE, vm.name, root=host.root)))
    largest = max(_LARGEST_LOG, vm.home if home else 0)
    steps.append(
        StartQemu(argv=argv, log=state.directory / "qemu.log", life=state.run / "qemu.life", largest_file=largest)
    )
    if confined:
        steps.append(_uplink(vm, host, state.directory))
    if prepared:
        steps.append(OpenNetwork(name=vm.name, argv=helper_argv(Verb.OPEN, vm.name, root=host.root)))
    return steps


def _lease_on_tap(vm: Vm, number: int) -> Lease:
    """Return the guest's addresses on a prepared tap, where nobody answers DHCP; pf sends its DNS to the resolver."""
    there, here = guest_of_qemu(number)
    nat = vm.network is Network.NAT
    return Lease(address=f"{here}/31", gateway=there if nat else "", resolver=there if nat else "")


def _uplink(vm: Vm, host: HostFacts, directory: Path) -> StartUplink:
    open_to_nat = vm.network == "nat"
    addresses = host.addresses if open_to_nat else ()
    return StartUplink(
        batch_argv=user.enter_argv(Slot.QEMU_PID, ("ip", "-batch", "-"), root=host.root),
        batch=user.namespace_batch(vm.network, addresses),
        argv=user.uplink_argv(Slot.QEMU_PID, Slot.EXIT_FD) if open_to_nat else (),
        log=directory / "uplink.log",
    )


def _show(
    vm: Vm, host: HostFacts, state: VmFacts, app: str, request: Request, *, number: int | None, needs_display: bool
) -> list[Step]:
    """Return the steps from a guest that listens to the app's window; ``number`` is that of a VM of vmd's."""
    steps: list[Step] = []
    if needs_display:
        steps.append(WaitDisplay(run=state.run, log=state.directory / "display.log", phase=Phase.DISPLAY))
    socket = Path(Slot.DISPLAY_SOCKET)
    confined = state.confined if state.running else not host.weakness(vm.network)
    if state.connected and needs_display:
        # That connection leads to a display that is gone, or to none.
        steps.append(Disconnect(argv=disconnect_argv(vm, state.run), socket=state.run / "ssh-user", phase=Phase.SSH))
    if needs_display or not state.connected:
        argv = connect_argv(vm, state.run, socket)
        if number is not None:
            argv = in_rdomain(number, argv)
        elif confined:
            argv = user.enter_argv(Slot.QEMU_PID, argv, root=host.root)
        steps.append(Connect(argv=argv, what=f"{vm.name}: the guest cannot be reached by ssh", phase=Phase.SSH))
    show = show_app_argv(vm, state.run, app, request.arguments, another=request.another)
    steps.append(ShowApp(vm=vm, app=app, argv=show, run=state.run, pace=vm.boot_timeout, phase=Phase.APP))
    return steps
