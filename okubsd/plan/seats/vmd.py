"""The seat of OpenBSD: a VM of vmd(8)'s, in an rdomain, behind pf(4)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from okubsd import layout
from okubsd.errors import Problem
from okubsd.guest.identity import Lease, Link
from okubsd.guest.ssh import probe_argv, uptime_argv
from okubsd.model import Argv, NetworkKind, Vm
from okubsd.netif.hostname import in_rdomain
from okubsd.plan.gateway import client_link, conf_of, need_link
from okubsd.plan.images import images_of
from okubsd.plan.limits import HOST_MEMORY
from okubsd.plan.seats.base import Boot, Seat
from okubsd.plan.seats.pf import rules_by_pf
from okubsd.plan.steps import (
    CleanUp,
    CloseNetwork,
    CompareClocks,
    EndVmd,
    MakeKeys,
    OpenNetwork,
    Phase,
    Plan,
    Prepare,
    Slot,
    StartVmd,
    Step,
    VerifyImages,
    WaitGuest,
    WriteSshConfig,
)
from okubsd.vmd.control import start_argv, stop_argv
from okubsd.vmd.helper import Record, Verb, helper_argv

if TYPE_CHECKING:
    from okubsd.plan.facts import HostFacts, VmFacts


class Vmd(Seat, frozen=True, kw_only=True):
    """A VM of vmd's; ``record`` is what root wrote down of it."""

    engine: ClassVar[str] = "vmd"
    title: ClassVar[str] = "vmd"

    record: Record

    def reach(self, argv: Argv) -> Argv:
        return in_rdomain(self.record.table, argv)

    def programs(self, vm: Vm) -> tuple[str, ...]:
        return ()

    def boot(self, boot: Boot) -> tuple[list[Step], list[Step]]:
        vm, state = boot.vm, boot.state
        refuse_without_memory(vm, boot.host.usable_memory, boot.host.taken_memory)
        images = images_of(vm, boot.recipes)
        begin: list[Step] = [VerifyImages(names=images, of_system=True, phase=Phase.IMAGES)]
        if not state.has_keys:
            begin.append(MakeKeys(directory=state.directory, alias=vm.name))
        begin += [
            self._prepare(boot, images),
            StartVmd(name=vm.name, argv=start_argv(vm.name)),
            OpenNetwork(name=vm.name, argv=self._helper(Verb.OPEN, vm.name), stop=stop_argv(vm.name, force=True)),
        ]
        path, probe = state.run / layout.SSH_CONFIG, self.reach(probe_argv(vm, state.run))
        return begin, [
            WriteSshConfig(
                vm=vm,
                keys=state.directory,
                run=state.run,
                path=path,
                address=Slot.GUEST,
                patient=boot.waits,
                phase=Phase.SSH,
            ),
            WaitGuest(name=vm.name, argv=probe, run=state.run, timeout=vm.boot_timeout),
        ]

    def shown(self, vm: Vm, run: Path) -> list[Step]:
        return [CompareClocks(argv=self.reach(uptime_argv(vm, run)), run=run, phase=Phase.WINDOW)]

    def end(self, name: str, run: Path, pid: int | None) -> Plan:
        return (
            EndVmd(name=name, argv=stop_argv(name, force=False), force=stop_argv(name, force=True)),
            CloseNetwork(name=name, argv=self._helper(Verb.CLOSE, name)),
            CleanUp(name=name),
        )

    def change_rules(self, vm: Vm, host: HostFacts, state: VmFacts) -> tuple[Plan, str]:
        return rules_by_pf(vm, root=self.root)

    def _helper(self, verb: Verb, name: str) -> Argv:
        return helper_argv(verb, name, root=self.root)

    def _prepare(self, boot: Boot, images: tuple[str, ...]) -> Prepare:
        vm, state, recipe = boot.vm, boot.state, boot.recipes[boot.vm.image]
        resolver = self.record.resolver.partition(" ")[0]
        return Prepare(
            vm=vm,
            lease=lease_of(boot),
            keys=state.directory,
            run=state.run,
            argv=self._helper(Verb.PREPARE, vm.name),
            images=images,
            conf=conf_of(vm, recipe, boot.links, "dhcp", resolver) if recipe.gateway else None,
        )


def lease_of(boot: Boot) -> Lease:
    """Return the guest's addresses: vmd answers DHCP on the first NIC, which is the way out of most, and no other's."""
    vm, through = boot.vm, boot.links.through
    if through is not None:
        number = need_link(vm, through.gateway, through.clients)
        link = client_link(number, through.clients.mtu if through.clients else 1500)
        return Lease(address="dhcp", resolver=link.gateway, link=link)
    if vm.network.kind is NetworkKind.SWITCH:
        return Lease(address="dhcp", link=Link(address="dhcp"))
    # A gateway makes its own way to the ends of its tunnel, and has no other.
    out = vm.network.kind is not NetworkKind.NONE and not vm.tunnel
    return Lease(address="dhcp", gateway="dhcp" if out else "")


def refuse_without_memory(vm: Vm, usable: int, taken: int) -> None:
    """Raise Problem where ``vm`` beside the ``taken`` bytes of running VMs leaves the host too little.

    A guest's pages are wired once touched: what is not there freezes the desktop.  ``usable`` 0 is not known.
    """
    if usable and taken + vm.memory + HOST_MEMORY > usable:
        sentence = (
            f"VM '{vm.name}' wants {vm.memory >> 20} MB: with the {taken >> 20} MB of the VMs that run, "
            f"the host's {usable >> 20} MB would not leave it {HOST_MEMORY >> 20}"
        )
        raise Problem(sentence, "stop another VM, or give this one less memory")
