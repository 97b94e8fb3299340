"""Decide how a VM gets from what it is now to a window on the screen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from okubsd.config.description import GATEWAY_SUFFIX
from okubsd.config.flow import is_name
from okubsd.config.names import did_you_mean, quoted
from okubsd.display.server import server_argv
from okubsd.errors import HostLacks, Unknown
from okubsd.guest.identity import Lease
from okubsd.guest.ssh import connect_argv, disconnect_argv, show_app_argv, uptime_argv
from okubsd.images.commands import make_home_argv
from okubsd.model import Argv, Backend, Recipe, Request, Vm, Way
from okubsd.netif.hostname import guest_of_qemu, in_rdomain
from okubsd.network import user
from okubsd.nft.render import named_sets, render_names, render_namespace
from okubsd.plan.backend import choose_backend, refuse_without_memory
from okubsd.plan.facts import HostFacts, VmFacts
from okubsd.plan.gateway import Links, Passing, client_link, client_wire, gateway_wires, need_link, passing_of
from okubsd.plan.images import images_of, stale_images
from okubsd.plan.start_vmd import boot_on_vmd
from okubsd.plan.steps import (
    BuildImages,
    CompareClocks,
    Connect,
    Disconnect,
    GrowHome,
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
    WatchClient,
    WriteInitrd,
    WriteSshConfig,
)
from okubsd.qemu.argv import QEMU, Machine, Wire, render_argv
from okubsd.vmd.helper import Verb, helper_argv

# Past this a console log does not grow, whatever the guest prints; a home drive may.
_LARGEST_LOG = 64 << 20


NO_LINKS = Links()


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


def plan_start(
    vm: Vm,
    recipes: Mapping[str, Recipe],
    host: HostFacts,
    state: VmFacts,
    request: Request,
    links: Links = NO_LINKS,
) -> Plan:
    """Return the steps from ``state`` to a running VM with the app's window; () where nothing is to be done.

    ``links`` are those to its gateway, which runs, or of a gateway to its clients.
    Raises Unknown for an app the VM has not, HostLacks where there is no display to show it on.
    """
    app = choose_app(vm, recipes[vm.image], request.app)
    windowed = not request.windowless and app != ""
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
    number = state.record.table if state.record and (on_vmd or host.vmd) else None
    if not state.running and on_vmd and state.record is not None:
        refuse_without_memory(vm, host.usable_memory, host.taken_memory)
        steps, waits = boot_on_vmd(vm, recipes, host, state, state.record, links)
    elif not state.running:
        steps = _boot(vm, recipes, host, state, links)
        address = Slot.GUEST.value if number is not None else ""
        waits = [
            WaitReady(console_log=state.directory / "console.log", timeout=vm.boot_timeout),
            WriteSshConfig(vm=vm, keys=state.directory, run=state.run, address=address, phase=Phase.SSH),
        ]
    if needs_display:
        server = server_argv(vm, state.run / "Xauthority", Slot.REPORT_FD, headless=request.headless)
        log = state.directory / "display.log"
        shown = StartDisplay(argv=server, log=log, run=state.run, headless=request.headless, phase=Phase.BOOT)
        steps.append(shown)
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


def _boot(vm: Vm, recipes: Mapping[str, Recipe], host: HostFacts, state: VmFacts, links: Links) -> list[Step]:
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
    elif home and state.home_size < vm.home:
        steps.append(GrowHome(path=home, size=vm.home))
    prepared = state.record if host.vmd else None
    confined = prepared is None and not host.weakness(vm.network)
    if not prepared:
        refuse_unruled(vm, host, confined=confined)
    boot, base, app = (host.image_files / name / "current" for name in names)
    recipe = recipes[vm.image]
    lease = _lease_on_tap(vm, prepared.number) if prepared else _lease(vm, links, confined=confined)
    steps.append(
        WriteInitrd(
            vm=vm,
            lease=lease,
            keys=state.directory,
            run=state.run,
            boot=(boot / "initrd", *((boot / "network",) if recipe.gateway else ())),
            passing=_passing(vm, recipe, links, lease) if recipe.gateway else None,
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
        wires=_wires(vm, state, links),
    )
    argv = render_argv(vm, machine)
    if confined:
        argv = user.confine_argv(argv, root=host.root)
    if prepared:
        steps.append(Link(name=vm.name, argv=helper_argv(Verb.PREPARE, vm.name, root=host.root)))
    largest = max(_LARGEST_LOG, vm.home if home else 0)
    on_address = (*host.okubsd, "net", "refuse-host", vm.name) if confined and vm.network.way is Way.NAT else ()
    steps.append(
        StartQemu(
            argv=argv,
            log=state.directory / "qemu.log",
            life=state.run / "qemu.life",
            largest_file=largest,
            on_address=on_address,
        )
    )
    if confined:
        steps.append(_uplink(vm, host, state, links))
    if links.through is not None and links.through.gateway.name.endswith(GATEWAY_SUFFIX):
        watch = (*host.okubsd, "stop", "--unused", links.through.gateway.name)
        steps.append(WatchClient(argv=watch, log=state.directory / "watch.log"))
    if prepared:
        steps.append(OpenNetwork(name=vm.name, argv=helper_argv(Verb.OPEN, vm.name, root=host.root)))
    return steps


def refuse_unruled(vm: Vm, host: HostFacts, *, confined: bool) -> None:
    """Raise HostLacks where a VM has rules of its own and nothing here that could hold them."""
    if vm.network.way is not Way.NAT or not is_ruled(vm):
        return
    if not confined:
        raise HostLacks(f"VM '{vm.name}' has rules, and nothing here could hold them: {host.weakness(vm.network)}")
    names = any(is_name(flow) for flow in vm.flows)
    for program in ("nft", *(("drill",) if names else ())):
        if program in host.missing:
            raise HostLacks(f"VM '{vm.name}' has rules, and they need the program '{program}'", host.missing[program])


def is_ruled(vm: Vm) -> bool:
    """Return whether a VM has more than what its network does by itself."""
    return bool(vm.flows or vm.bandwidth.down or vm.bandwidth.up or vm.network.resolver)


def _lease(vm: Vm, links: Links, *, confined: bool) -> Lease:
    if links.through is None:
        lease = user.lease_for(vm.network, confined=confined)
        # A gateway makes its own way to the ends of its tunnel, and has no other.
        return Lease(address=lease.address) if vm.tunnel else lease
    number = need_link(vm, links.through.gateway, links.through.clients)
    link = client_link(number, links.through.clients.mtu if links.through.clients else 1500)
    return user.lease_for(vm.network, confined=confined, link=link)


def _passing(vm: Vm, recipe: Recipe, links: Links, lease: Lease) -> Passing:
    uplink = lease.link.gateway if lease.link else user.GATEWAY
    # Behind a tunnel nobody but the tunnel's own resolver, or a public one, could answer.
    return passing_of(vm, recipe, links, uplink, links.resolver if vm.tunnel else lease.resolver)


def _wires(vm: Vm, state: VmFacts, links: Links) -> tuple[Wire, ...]:
    """Return the private links of ``vm``: the one to its gateway first, then those to its clients."""
    own = (client_wire(vm.name, state.run, links.through.run),) if links.through else ()
    return (*own, *(gateway_wires(links.clients, state.run) if links.clients else ()))


def _lease_on_tap(vm: Vm, number: int) -> Lease:
    """Return the guest's addresses on a prepared tap, where nobody answers DHCP; pf sends its DNS to the resolver."""
    there, here = guest_of_qemu(number)
    out = vm.network.way not in (Way.NONE, Way.GATEWAY)
    return Lease(address=f"{here}/31", gateway=there if out else "", resolver=there if out else "")


def _uplink(vm: Vm, host: HostFacts, state: VmFacts, links: Links) -> StartUplink:
    open_to_nat = vm.network.way is Way.NAT
    if links.own and "nft" not in host.missing:
        # A gateway that is taken over reaches the ends of its tunnel, and nothing else.
        vm = msgspec.structs.replace(vm, flows=links.own)
    ruled = open_to_nat and is_ruled(vm)
    addresses = host.addresses if open_to_nat else ()

    def inside(*argv: str) -> Argv:
        return user.enter_argv(Slot.QEMU_PID, argv, root=host.root)

    def uplink(*, sandbox: bool) -> Argv:
        return user.uplink_argv(Slot.QEMU_PID, Slot.EXIT_FD, root=host.root, sandbox=sandbox)

    rules, names = namespace_rules(vm, host) if ruled else ("", "")
    names_file = state.run / "names"
    return StartUplink(
        batch_argv=inside("ip", "-batch", "-"),
        batch=user.namespace_batch(vm.network, addresses, ruled=ruled),
        argv=uplink(sandbox=True) if open_to_nat else (),
        plain_argv=uplink(sandbox=False) if open_to_nat else (),
        log=state.directory / "uplink.log",
        rules_argv=inside("nft", "-f", "-") if ruled else (),
        rules=rules,
        names_argv=inside(*follower_argv(vm, host, state.run)) if names else (),
        names=names,
        names_file=names_file,
    )


def follower_argv(vm: Vm, host: HostFacts, run: Path) -> Argv:
    """Return the program that keeps the names of a VM, for as long as its QEMU lives.

    It asks whom the VM asks: what the host's own files name may be refused where it runs.
    """
    resolver = vm.network.resolver or user.UPLINK_RESOLVER
    program = ("sh", str(host.names_program), str(run / "names"), "nft", str(run / "qemu.life"))
    return ("env", f"OKUBSD_RESOLVER={resolver}", *program)


def namespace_rules(vm: Vm, host: HostFacts) -> tuple[str, str]:
    """Return the rules of ``vm`` for its network namespace, and the host names in them for the program `names`."""
    rules = render_namespace(
        vm.flows,
        vm.bandwidth,
        host=host.addresses,
        asked=user.UPLINK_RESOLVER,
        resolver=vm.network.resolver,
        now=host.now,
    )
    return rules, render_names(named_sets(vm.flows))


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
