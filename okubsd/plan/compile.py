"""Compile a description into the files of an OpenBSD host: vm.conf, pf anchors, interfaces, doas, sysctl."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from okubsd import layout
from okubsd.errors import BadDescription
from okubsd.hostfile import HostFile, How
from okubsd.model import Backend, Description, Network, NetworkKind, Vm
from okubsd.netif.hostname import dhcpd_conf, loopback_file, tap_file, veb_file, vport_file
from okubsd.netif.numbers import render_numbers
from okubsd.pf.render import (
    GROUP,
    UPLINK,
    Egress,
    anchor_path,
    render_anchor,
    render_main,
    render_names,
    render_queues,
    rules_path,
)
from okubsd.plan.exits import (
    CLIENT_NIC,
    Numbers,
    egress_of,
    link_name,
    nics_of,
    number_all,
)
from okubsd.plan.images import BOOT_IMAGE, images_of
from okubsd.plan.limits import OPENBSD, limits
from okubsd.plan.seats import engine_for
from okubsd.recipe import Recipe
from okubsd.vmd.conf import Disk
from okubsd.vmd.helper import DRIVES, doas_line, render_record
from okubsd.vmd.render import Nic, SwitchBlock, VmBlock, lladdr, render_conf
from okubsd.vpn.keys import TunnelKeys
from okubsd.vpn.openvpn import render_config, tun_file
from okubsd.vpn.wg import wg_file

# What an OpenBSD host runs VMs by.
_BACKENDS = frozenset({Backend.VMD, Backend.QEMU})


class CompiledVm(msgspec.Struct, frozen=True, kw_only=True):
    """One VM as vmd gets it; ``egress`` is its way out, ``nics`` those beside the host's way in."""

    vm: Vm
    number: int
    owner: str
    egress: Egress
    images: tuple[str, ...] = ()
    nics: tuple[Nic, ...] = ()

    @property
    def by_vmd(self) -> bool:
        """Return whether it is in vm.conf(5): whether vmd runs it on a host that has one."""
        return engine_for(self.vm, _BACKENDS) is Backend.VMD

    @property
    def rdomain(self) -> int:
        """Return the rdomain that the host reaches it in."""
        return self.egress.rdomain


class Compiled(msgspec.Struct, frozen=True, kw_only=True):
    """All of it: the files in the order of their paths, and the VMs in the order they were written."""

    files: tuple[HostFile, ...]
    vms: tuple[CompiledVm, ...]
    group: str

    def find(self, name: str) -> CompiledVm | None:
        """Return the compiled VM called ``name``, or None."""
        return next((vm for vm in self.vms if vm.vm.name == name), None)


def compile_host(
    description: Description,
    recipes: Mapping[str, Recipe],
    kept: Mapping[str, int],
    user: str,
    secrets: TunnelKeys | None = None,
    now: float = 0.0,
) -> Compiled:
    """Return the files of an OpenBSD host for ``description``.

    ``kept`` are the numbers of before, ``user`` owns the VMs that name nobody, ``secrets`` what the files of tunnels
    say, ``now`` is seconds since the epoch: rules that ended before are left out.
    Raises BadDescription where the numbers do not suffice, nobody owns a VM, or vmd has not enough NICs.
    """
    vms, secrets = description.vms, secrets or TunnelKeys()
    numbers = number_all(description, kept)
    unowned = [vm.name for vm in vms if not (vm.owner or description.host.owner or user)]
    if unowned:
        raise BadDescription([f"{description.path}: nobody owns {', '.join(unowned)}; write 'owner' below 'host'"])
    mistakes = limits(description, OPENBSD)
    if mistakes:
        raise BadDescription(mistakes)
    compiled = tuple(
        CompiledVm(
            vm=vm,
            number=numbers.vm(vm),
            owner=vm.owner or description.host.owner or user,
            egress=egress_of(vm, numbers, description.host, secrets),
            images=images_of(vm, recipes) if engine_for(vm, _BACKENDS) is Backend.VMD else (),
            nics=nics_of(vm, description, numbers) if engine_for(vm, _BACKENDS) is Backend.VMD else (),
        )
        for vm in vms
    )
    networks = tuple(network for network in description.networks if network.kind.interface)
    files = [
        *_files_of_host(description, compiled, networks, numbers),
        *(f for network in networks for f in _files_of_network(network, description, numbers, secrets)),
        *(f for vm in compiled for f in _files_of(vm, recipes, now)),
    ]
    return Compiled(files=tuple(sorted(files, key=lambda file: file.path)), vms=compiled, group=description.host.group)


def compile_rules(
    description: Description, name: str, kept: Mapping[str, int], secrets: TunnelKeys, now: float
) -> tuple[HostFile, ...]:
    """Return the files that hold the rules of the VM called ``name``, and no others.

    ``kept`` are the numbers of this host; raises BadDescription where the VM has none there.
    """
    vm = next(vm for vm in description.vms if vm.name == name)
    numbers = number_all(description, kept)
    if kept.get(name) != numbers.vm(vm):
        raise BadDescription([f"{description.path}: VM '{name}' was not installed on this host yet; doas okubsd apply"])
    return tuple(_rules_of(egress_of(vm, numbers, description.host, secrets), now))


def _files_of_host(
    description: Description, vms: tuple[CompiledVm, ...], networks: tuple[Network, ...], numbers: Numbers
) -> Iterable[HostFile]:
    host = description.host
    switches = [
        *(
            _switch(network.name, numbers.network(network))
            for network in networks
            if network.kind is NetworkKind.SWITCH
        ),
        *(_switch(link_name(vm.number), vm.number) for vm in vms if vm.vm.network.kind is NetworkKind.GATEWAY),
    ]
    conf = render_conf((_block(vm) for vm in vms if vm.by_vmd), host.group, host.staggered, switches)
    autostart = "".join(f"{vm.owner} {vm.vm.name}\n" for vm in vms if vm.vm.autostart)
    ports = [f"vport{numbers.network(network)}" for network in networks if network.kind is NetworkKind.SWITCH]
    yield HostFile(path=layout.VM_CONF, text=conf)
    yield HostFile(path=layout.PF_CONF, text=render_main(ports), mode=0o600)
    for interface, text in render_queues((vm.egress for vm in vms), host.uplink).items():
        yield HostFile(path=f"{layout.QUEUES}/{interface}", text=text, mode=0o600)
    yield HostFile(path=layout.NUMBERS, text=render_numbers(numbers.given))
    yield HostFile(path=layout.AUTOSTART, text=autostart)
    yield HostFile(path=layout.SITE_VM_CONF, text=f'include "/{layout.VM_CONF}"\n', how=How.BLOCK)
    yield HostFile(path=layout.SITE_PF_CONF, text=f'include "/{layout.PF_CONF}"\n', how=How.BEFORE_RULES, mode=0o600)
    yield HostFile(path=layout.SITE_DOAS_CONF, text=doas_line(host.group), how=How.BLOCK, mode=0o600)
    yield HostFile(path=layout.SITE_RC_CONF, text="pkg_scripts=okubsd\nvmd_flags=\n", how=How.RCCTL)
    sysctls = dict.fromkeys(name for vm in vms if vm.egress.out for name in vm.vm.network.kind.sysctls)
    if sysctls:
        text = "".join(f"{name}=1\n" for name in sysctls)
        yield HostFile(path=layout.SITE_SYSCTL_CONF, text=text, how=How.BLOCK)


def _switch(name: str, number: int) -> SwitchBlock:
    return SwitchBlock(name=name, number=number, rdomain=number)


def _files_of_network(
    network: Network, description: Description, numbers: Numbers, secrets: TunnelKeys
) -> Iterable[HostFile]:
    """Yield the interfaces of one network; those of tunnels hold keys."""
    number = numbers.network(network)
    yield HostFile(path=layout.hostname_if(f"lo{number}"), text=loopback_file(number), mode=0o640)
    match network.kind:
        case NetworkKind.WIREGUARD if network.name in secrets.tunnels:
            text = wg_file(number, GROUP, secrets.tunnels[network.name])
            yield HostFile(path=layout.hostname_if(f"wg{number}"), text=text, mode=0o600)
        case NetworkKind.OPENVPN if network.name in secrets.clients:
            config = f"{layout.OPENVPN}/{network.name}.conf"
            text = tun_file(number, GROUP, network.name, f"/{config}", layout.TUN_PROGRAM)
            yield HostFile(path=config, text=render_config(secrets.clients[network.name]), mode=0o600)
            yield HostFile(path=layout.hostname_if(f"tun{number}"), text=text, mode=0o600)
        case NetworkKind.SWITCH:
            yield from _files_of_switch(network, number, description, numbers)
        case _:
            pass


def _files_of_switch(network: Network, number: int, description: Description, numbers: Numbers) -> Iterable[HostFile]:
    # By its number, since a VM's name may hold what dhcpd.conf(5) takes for something else.
    here = [vm for vm in description.vms if vm.network == network]
    on_it = {f"vm{numbers.vm(vm)}": lladdr(numbers.vm(vm), CLIENT_NIC) for vm in here}
    config = f"{layout.DHCPD}/{network.name}.conf"
    try:
        conf = dhcpd_conf(network.address, on_it)
    except ValueError as error:
        raise BadDescription([f"{description.path}: networks.{network.name}.switch: {error}"]) from None
    leases = layout.leases_of(network.name)
    yield HostFile(path=config, text=conf)
    yield HostFile(path=layout.hostname_if(f"veb{number}"), text=veb_file(number, number, f"vport{number}"), mode=0o640)
    port = vport_file(number, GROUP, network.address, f"/{config}", leases)
    yield HostFile(path=layout.hostname_if(f"vport{number}"), text=port, mode=0o640)


def _files_of(vm: CompiledVm, recipes: Mapping[str, Recipe], now: float) -> Iterable[HostFile]:
    yield from _rules_of(vm.egress, now)
    yield HostFile(path=f"{layout.RECORDS}/{vm.vm.name}", text=render_record(_record(vm, recipes)))
    if vm.rdomain == vm.number:
        yield HostFile(path=layout.hostname_if(f"lo{vm.number}"), text=loopback_file(vm.number), mode=0o640)
    if vm.vm.network.kind is NetworkKind.GATEWAY and vm.by_vmd:
        yield HostFile(path=layout.hostname_if(f"veb{vm.number}"), text=veb_file(vm.number, vm.number), mode=0o640)
    if not vm.by_vmd:
        tap = tap_file(vm.number, vm.rdomain, GROUP, vm.owner)
        yield HostFile(path=layout.hostname_if(f"tap{vm.number}"), text=tap, mode=0o640)


def _rules_of(vm: Egress, now: float) -> Iterable[HostFile]:
    yield HostFile(path=f"{layout.ANCHORS}/{vm.name}.conf", text=render_anchor(vm, now), mode=0o600)
    names = render_names(vm, now)
    if names:
        yield HostFile(path=f"{layout.NAMES_OF_RULES}/{vm.name}", text=names)


def _record(vm: CompiledVm, recipes: Mapping[str, Recipe]) -> dict[str, str | int]:
    number, network = vm.number, vm.vm.network
    links = [f"lo{vm.rdomain}"]
    links += [vm.egress.out] if network.kind.is_tunnel else []
    # The interfaces that are there before vmd puts taps into them.
    links += [f"veb{nic.rdomain}" for nic in vm.nics]
    links += [f"vport{vm.nics[0].rdomain}"] if network.kind is NetworkKind.SWITCH else []
    return {
        "name": vm.vm.name,
        "owner": vm.owner,
        "number": number,
        "rdomain": vm.rdomain,
        "anchor": anchor_path(vm.vm.name),
        "inner": rules_path(vm.vm.name),
        "group": GROUP,
        "boot": BOOT_IMAGE,
        "base": recipes[vm.vm.image].base,
        "app": vm.vm.image,
        # A disposable VM has no home; its last drive only carries who it is.
        "home": 0 if vm.vm.disposable else vm.vm.home >> 20,
        "backend": "vmd" if vm.by_vmd else "qemu",
        "links": " ".join(links),
        **({"taps": " ".join(str(nic.tap) for nic in vm.nics)} if vm.nics else {}),
        # Ports of a switch that are protected by the same number do not reach each other (veb(4)).
        **({"meets" if network.meet else "protected": _port(vm.nics[0])} if network.kind is NetworkKind.SWITCH else {}),
        # Whose resolver the names in rules are looked up by, and from which routing table.
        **(
            {"resolver": f"{vm.egress.resolver} {0 if vm.egress.out == UPLINK else vm.rdomain}"}
            if vm.egress.out
            else {}
        ),
    }


def _port(nic: Nic) -> str:
    return f"veb{nic.rdomain} tap{nic.tap}"


def drives_of(vm: Vm) -> tuple[Disk, ...]:
    """Return the drives of ``vm`` in the order the guest sees them: boot, base, app, home."""
    top = f"{DRIVES}/{vm.name}"
    shared = tuple(Disk(f"{top}/{name}.qcow2", "qcow2") for name in ("boot", "base", "app"))
    return (*shared, Disk(f"{top}/home.img", "raw"))


def _block(vm: CompiledVm) -> VmBlock:
    return VmBlock(
        name=vm.vm.name,
        memory=vm.vm.memory >> 20,
        disks=drives_of(vm.vm),
        owner=vm.owner,
        number=vm.number,
        rdomain=vm.rdomain,
        group=GROUP,
        nics=vm.nics,
    )
