"""Decide the way out of each VM of an OpenBSD host: its number, its rdomain, its interface, its NICs on switches."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from okubsd.errors import BadDescription
from okubsd.model import Description, HostDescription, Network, NetworkKind, Vm
from okubsd.netif.numbers import NETWORK_MARK, give_numbers
from okubsd.pf.render import UPLINK, Egress
from okubsd.plan.gateway import clients_of, endpoint_rules
from okubsd.vmd.render import Nic, lladdr
from okubsd.vpn.keys import TunnelKeys

# openvpn(8): the default of --tun-mtu, less what the tunnel's own head takes at most.
_TUN_MTU = 1400

# The taps of NICs on switches, so that each VM's own number leads to them.
_CLIENT_TAP, _GATEWAY_TAP = 1000, 2000
CLIENT_NIC, _FIRST_GATEWAY_NIC = 2, 16


class Numbers(msgspec.Struct, frozen=True):
    """The number of every VM and of every network that has an interface."""

    given: Mapping[str, int]

    def vm(self, vm: Vm) -> int:
        """Return the number of a VM: of its tap, and of its rdomain unless that is a tunnel's."""
        return self.given[vm.name]

    def network(self, network: Network) -> int:
        """Return the number of a tunnel or a switch: of its interface, its rdomain and its loopback."""
        return self.given[f"{NETWORK_MARK}{network.name}"]


def number_all(description: Description, kept: Mapping[str, int]) -> Numbers:
    """Return a number for everything of ``description`` that has an interface; ``kept`` are those of before.

    Raises BadDescription where there are not enough.
    """
    wished = {vm.name: vm.number for vm in description.vms if vm.number is not None}
    names = [vm.name for vm in description.vms]
    names += [f"{NETWORK_MARK}{network.name}" for network in description.networks if network.kind.interface]
    try:
        return Numbers(give_numbers(names, wished, kept, *description.host.numbers))
    except ValueError as error:
        raise BadDescription([f"{description.path}: host.numbers: {error}; give 'numbers' a wider range"]) from None


def egress_of(vm: Vm, numbers: Numbers, host: HostDescription, secrets: TunnelKeys) -> Egress:
    """Return the way out of one VM."""
    network, number = vm.network, numbers.vm(vm)
    rdomain, out, mtu = number, "", 0
    resolver = network.resolver or host.resolver
    rules = vm.rules
    if network.kind.is_tunnel:
        rdomain = numbers.network(network)
        out = f"{network.kind.interface}{rdomain}"
    match network.kind:
        case NetworkKind.NAT:
            out = UPLINK
            if vm.tunnel and vm.name in secrets.tunnels:
                # A gateway reaches the ends of its tunnel, and nothing else.
                rules = endpoint_rules(secrets.tunnels[vm.name])
        case NetworkKind.WIREGUARD:
            tunnel = secrets.tunnels.get(network.name)
            if tunnel is not None:
                mtu = tunnel.mtu
                resolver = network.resolver or next(iter(tunnel.resolvers), host.resolver)
        case NetworkKind.OPENVPN:
            mtu = _TUN_MTU
        case _:
            pass
    return Egress(
        name=vm.name,
        number=number,
        rdomain=rdomain,
        kind=network.kind,
        out=out,
        resolver=resolver,
        mtu=mtu,
        rules=rules,
        bandwidth=vm.bandwidth,
    )


def nics_of(vm: Vm, description: Description, numbers: Numbers) -> tuple[Nic, ...]:
    """Return the NICs of ``vm`` on switches: that of its own network first, then one for each VM behind it."""
    number = numbers.vm(vm)
    own: tuple[Nic, ...] = ()
    mine = lladdr(number, CLIENT_NIC)
    if vm.network.kind is NetworkKind.SWITCH:
        rdomain = numbers.network(vm.network)
        own = (Nic(tap=_CLIENT_TAP + number, switch=vm.network.name, rdomain=rdomain, lladdr=mine),)
    elif vm.network.kind is NetworkKind.GATEWAY:
        own = (Nic(tap=_CLIENT_TAP + number, switch=link_name(number), rdomain=number, lladdr=mine),)
    behind = (
        numbers.vm(client) for client in clients_of(vm, description) if client.network.kind is NetworkKind.GATEWAY
    )
    return own + tuple(
        Nic(tap=_GATEWAY_TAP + n, switch=link_name(n), rdomain=n, lladdr=lladdr(number, _FIRST_GATEWAY_NIC + i))
        for i, n in enumerate(behind)
    )


def link_name(number: int) -> str:
    """Return the name of the switch between a VM, by its number, and its gateway."""
    return f"link{number}"
