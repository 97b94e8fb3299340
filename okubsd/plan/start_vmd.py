"""Decide how a VM of vmd's gets from what it is now to a guest that answers."""

from __future__ import annotations

from collections.abc import Mapping

from okubsd.guest.identity import Lease, Link
from okubsd.guest.ssh import probe_argv
from okubsd.model import Recipe, Vm, Way
from okubsd.netif.hostname import in_rdomain
from okubsd.plan.facts import HostFacts, VmFacts
from okubsd.plan.gateway import Links, client_link, need_link, passing_of
from okubsd.plan.images import images_of
from okubsd.plan.steps import (
    MakeKeys,
    OpenNetwork,
    Phase,
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


def boot_on_vmd(
    vm: Vm, recipes: Mapping[str, Recipe], host: HostFacts, state: VmFacts, record: Record, links: Links
) -> tuple[list[Step], list[Step]]:
    """Return the steps that let vmd start ``vm``, and those that wait until its guest answers."""
    steps: list[Step] = [VerifyImages(names=images_of(vm, recipes), of_system=True, phase=Phase.IMAGES)]
    if not state.has_keys:
        steps.append(MakeKeys(directory=state.directory, alias=vm.name))
    recipe = recipes[vm.image]
    lease = lease_on_vmd(vm, links)
    steps += [
        Prepare(
            vm=vm,
            lease=lease,
            keys=state.directory,
            run=state.run,
            argv=helper_argv(Verb.PREPARE, vm.name, root=host.root),
            images=images_of(vm, recipes),
            passing=passing_of(vm, recipe, links, "dhcp", record.resolver.partition(" ")[0])
            if recipe.gateway
            else None,
        ),
        StartVmd(name=vm.name, argv=start_argv(vm.name)),
        OpenNetwork(
            name=vm.name,
            argv=helper_argv(Verb.OPEN, vm.name, root=host.root),
            stop=stop_argv(vm.name, force=True),
        ),
    ]
    waits: list[Step] = [
        WriteSshConfig(vm=vm, keys=state.directory, run=state.run, address=Slot.GUEST, phase=Phase.SSH),
        WaitGuest(
            name=vm.name,
            argv=in_rdomain(record.table, probe_argv(vm, state.run)),
            run=state.run,
            timeout=vm.boot_timeout,
        ),
    ]
    return steps, waits


def lease_on_vmd(vm: Vm, links: Links) -> Lease:
    """Return the guest's addresses: vmd answers DHCP on the first NIC, which is the way out of most, and no other's."""
    if links.through is not None:
        number = need_link(vm, links.through.gateway, links.through.clients)
        link = client_link(number, links.through.clients.mtu if links.through.clients else 1500)
        return Lease(address="dhcp", resolver=link.gateway, link=link)
    if vm.network.way is Way.SWITCH:
        return Lease(address="dhcp", link=Link(address="dhcp"))
    # A gateway makes its own way to the ends of its tunnel, and has no other.
    out = vm.network.way is not Way.NONE and not vm.tunnel
    return Lease(address="dhcp", gateway="dhcp" if out else "")
