"""The seats of QEMU: what all of them share, and the one that has nothing but QEMU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import msgspec

from okubsd import layout
from okubsd.config.names import GATEWAY_SUFFIX
from okubsd.errors import HostLacks
from okubsd.guest.identity import Lease
from okubsd.images.commands import make_home_argv
from okubsd.model import Argv, NetworkKind, Vm
from okubsd.network import user
from okubsd.plan.gateway import GatewayConf, client_link, client_wire, conf_of, gateway_wires, need_link
from okubsd.plan.images import images_of, stale_images
from okubsd.plan.saved import builds_of, home_size, state_of
from okubsd.plan.seats.base import Boot, Seat
from okubsd.plan.steps import (
    BuildImages,
    CleanUp,
    EndQemu,
    GrowHome,
    MakeHome,
    MakeKeys,
    Phase,
    Plan,
    Resume,
    StartQemu,
    Step,
    VerifyImages,
    WaitReady,
    WatchClient,
    WriteInitrd,
    WriteSshConfig,
)
from okubsd.qemu.argv import QEMU, Machine, Saved, Wire, render_argv
from okubsd.recipe import Recipe

if TYPE_CHECKING:
    from okubsd.plan.facts import HostFacts, VmFacts

# Past this a console log does not grow, whatever the guest prints; a home drive may.
_LARGEST_LOG = 64 << 20


def is_ruled(vm: Vm) -> bool:
    """Return whether a VM has more than what its network does by itself."""
    return bool(vm.rules or vm.bandwidth.down or vm.bandwidth.up or vm.network.resolver)


class Bare(Seat, frozen=True, kw_only=True):
    """QEMU as a process like any other, with `restrict=on` as the only wall of its network.

    ``weakness`` says why it has no network namespace.
    """

    engine: ClassVar[str] = "qemu"
    title: ClassVar[str] = "QEMU"

    weakness: str = ""

    def programs(self, vm: Vm) -> tuple[str, ...]:
        return (QEMU,) if vm.disposable else (QEMU, "mke2fs")

    # What a seat with a wall of its own does otherwise.

    def refuse(self, vm: Vm, host: HostFacts) -> None:
        """Raise HostLacks where the VM has rules of its own and nothing here that could hold them."""
        if vm.network.kind is NetworkKind.NAT and is_ruled(vm):
            raise HostLacks(f"VM '{vm.name}' has rules, and nothing here could hold them: {self.weakness}")

    def netdev(self, vm: Vm) -> str:
        """Return the value of QEMU's -netdev for the NIC that the host reaches the guest by."""
        return user.netdev_option(vm.network)

    def resolver(self) -> str:
        """Return the address that a guest on `nat` asks for names."""
        return user.QEMU_RESOLVER

    def lease(self, boot: Boot) -> Lease:
        """Return the addresses of the guest."""
        through = boot.links.through
        if through is None:
            lease = user.lease_for(boot.vm.network, self.resolver())
            # A gateway makes its own way to the ends of its tunnel, and has no other.
            return Lease(address=lease.address) if boot.vm.tunnel else lease
        number = need_link(boot.vm, through.gateway, through.clients)
        link = client_link(number, through.clients.mtu if through.clients else 1500)
        return user.lease_for(boot.vm.network, self.resolver(), link=link)

    def confine(self, argv: Argv) -> Argv:
        """Return QEMU's ``argv`` behind the wall of this seat."""
        return argv

    def before_qemu(self, boot: Boot) -> list[Step]:
        """Return what has to be there before QEMU starts."""
        return []

    def after_qemu(self, boot: Boot) -> list[Step]:
        """Return what joins a QEMU that runs to its network."""
        return []

    def on_address(self, boot: Boot) -> Argv:
        """Return what is called when an address of the host changes, () for nothing."""
        return ()

    def guest_address(self) -> str:
        """Return the guest's own address as ssh(1) gets it, "" for a port of the host's loopback."""
        return ""

    # What is the same for all.

    def boot(self, boot: Boot) -> tuple[list[Step], list[Step]]:
        vm, state = boot.vm, boot.state
        self.refuse(vm, boot.host)
        begin = [*_kept(boot), *self._begin(boot), *self.after_qemu(boot)]
        ready = WaitReady(console_log=state.directory / layout.CONSOLE_LOG, timeout=vm.boot_timeout)
        path = state.run / layout.SSH_CONFIG
        config = WriteSshConfig(
            vm=vm, keys=state.directory, run=state.run, path=path, address=self.guest_address(), phase=Phase.SSH
        )
        return [*begin, *_watch(boot)], [ready, config]

    def end(self, name: str, run: Path, pid: int | None) -> Plan:
        return (EndQemu(name=name, run=run, qmp=run / layout.QMP, pid=pid), CleanUp(name=name))

    def change_rules(self, vm: Vm, host: HostFacts, state: VmFacts) -> tuple[Plan, str]:
        if not state.running:
            return (), "it takes effect when the VM starts"
        if vm.network.kind is not NetworkKind.NAT:
            return (), f"nothing leaves the network '{vm.network.name}', so it changes nothing"
        self.refuse(vm, host)
        return self.load_rules(vm, host, state), "it is in force"

    def load_rules(self, vm: Vm, host: HostFacts, state: VmFacts) -> Plan:
        """Return the steps that give the rules of a running VM to what holds them."""
        return ()

    def told(self, host: HostFacts, vm: Vm) -> list[str]:
        return [f"a weaker wall around its network: {self.weakness}"] if self.weakness else []

    def weaker_walls(self, vm: Vm, host: HostFacts) -> list[str]:
        found = ["QEMU runs as an ordinary process of yours; under OpenBSD's vmd it would be several confined ones"]
        if self.root:
            found = ["QEMU runs as root, if without root's capabilities; start VMs as an ordinary user instead"]
        if self.weakness:
            reaches = "can reach services on this host's loopback"
            relies = reaches if vm.network.kind is NetworkKind.NAT else "relies on QEMU's restrict=on"
            why = host.weakness(vm.network) or self.weakness
            found.append(f"no network namespace ({why}): the guest {relies}")
        return found if host.seccomp else [*found, "QEMU's system calls are not filtered on this system"]

    def _begin(self, boot: Boot) -> list[Step]:
        """Return the steps to a QEMU whose guest runs: from its kernel on, or from a saved state."""
        state = state_of(boot)
        if state not in boot.host.saved:
            return [self._initrd(boot), *self.before_qemu(boot), self._qemu(boot, self.machine(boot))]
        directory = boot.host.pool / state
        identity = boot.state.run / layout.IDENTITY
        machine = self.machine(boot, Saved(memory=directory / layout.MEMORY, identity=identity))
        log = boot.state.directory / layout.QEMU_LOG
        return [
            msgspec.structs.replace(self._initrd(boot), path=identity, boot=(), saved=True),
            *self.before_qemu(boot),
            self._qemu(boot, machine),
            Resume(run=boot.state.run, directory=directory, log=log),
        ]

    def _initrd(self, boot: Boot) -> WriteInitrd:
        vm, state = boot.vm, boot.state
        lease, recipe = self.lease(boot), boot.recipes[vm.image]
        files = directory_of(boot, images_of(vm, boot.recipes)[0])
        network = (files / layout.NETWORK_INITRD,) if recipe.gateway else ()
        return WriteInitrd(
            vm=vm,
            lease=lease,
            keys=state.directory,
            path=state.run / layout.INITRD,
            boot=(files / layout.BOOT_INITRD, *network),
            conf=_conf(boot, recipe, lease) if recipe.gateway else None,
            builds=builds_of(boot),
        )

    def _qemu(self, boot: Boot, machine: Machine) -> StartQemu:
        vm, state = boot.vm, boot.state
        return StartQemu(
            argv=self.confine(render_argv(vm, machine)),
            log=state.directory / layout.QEMU_LOG,
            life=state.run / layout.QEMU_LIFE,
            # A home that was larger once still is.
            largest_file=max(_LARGEST_LOG, home_size(boot)),
            on_address=self.on_address(boot),
        )

    def machine(self, boot: Boot, saved: Saved | None = None) -> Machine:
        """Return the files and choices of the VM's QEMU, with what a ``saved`` state has besides."""
        vm, state, host = boot.vm, boot.state, boot.host
        kernel, base, app = (directory_of(boot, name) for name in images_of(vm, boot.recipes))
        return Machine(
            kernel=kernel / layout.KERNEL,
            initrd=kernel / layout.BOOT_INITRD if saved else state.run / layout.INITRD,
            base=base / layout.SQUASHFS,
            app=app / layout.SQUASHFS,
            home=None if vm.disposable else state.directory / layout.HOME,
            run=state.run,
            console_log=state.directory / layout.CONSOLE_LOG,
            accelerator=host.accelerator.name,
            sandbox=host.seccomp,
            netdev=self.netdev(vm),
            wires=_wires(boot),
            saved=saved,
        )


def directory_of(boot: Boot, name: str) -> Path:
    """Return where the image lies that is booted: the very build that was verified, whatever becomes current."""
    return boot.host.image_files / name / builds_of(boot).get(name, layout.CURRENT)


def _kept(boot: Boot) -> list[Step]:
    """Return the steps that make what a VM has for good: images, keys, its home."""
    vm, state = boot.vm, boot.state
    names = images_of(vm, boot.recipes)
    stale = stale_images(names, boot.recipes, boot.host.images)
    steps: list[Step] = [BuildImages(names=stale, app=vm.image, phase=Phase.IMAGES)] if stale else []
    steps.append(VerifyImages(names=names, builds=builds_of(boot), phase=Phase.IMAGES))
    if not state.has_keys:
        steps.append(MakeKeys(directory=state.directory, alias=vm.name))
    home = state.directory / layout.HOME
    if not vm.disposable and not state.has_home:
        steps.append(MakeHome(path=home, size=vm.home, argv=make_home_argv(home.with_name(layout.HOME_NEW))))
    elif not vm.disposable and state.home_size < vm.home:
        steps.append(GrowHome(path=home, size=vm.home))
    return steps


def _conf(boot: Boot, recipe: Recipe, lease: Lease) -> GatewayConf:
    uplink = lease.link.gateway if lease.link else user.GATEWAY
    # Behind a tunnel nobody but the tunnel's own resolver, or a public one, could answer.
    resolver = boot.links.resolver if boot.vm.tunnel else lease.resolver
    return conf_of(boot.vm, recipe, boot.links, uplink, resolver)


def _wires(boot: Boot) -> tuple[Wire, ...]:
    """Return the private links of a VM: the one to its gateway first, then those to its clients."""
    links, run = boot.links, boot.state.run
    own = (client_wire(boot.vm.name, run, links.through.run),) if links.through else ()
    return (*own, *(gateway_wires(links.clients, run) if links.clients else ()))


def _watch(boot: Boot) -> list[Step]:
    """Return what is done when the VM ends: a gateway that okubsd made ends with the last VM, a copy is forgotten."""
    through, steps = boot.links.through, list[Step]()
    if through is not None and through.gateway.name.endswith(GATEWAY_SUFFIX):
        argv = (*boot.host.okubsd, "stop", "--unused", through.gateway.name)
        steps.append(WatchClient(argv=argv, log=boot.state.directory / layout.WATCH_LOG))
    if boot.vm.copy_of:
        # Its words are nobody's, and a log of its own would be left of it.
        argv = (*boot.host.okubsd, "rm", "--ended", boot.vm.name)
        steps.append(WatchClient(argv=argv, log=Path("/dev/null")))
    return steps
