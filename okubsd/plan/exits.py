"""Decide the way out of each VM of an OpenBSD host: its number, its rdomain, its interface, its NICs on switches."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from okubsd.errors import BadDescription
from okubsd.model import TUNNELS, Backend, HostWish, Network, Vm, Way, Wish
from okubsd.netif.numbers import NETWORK_MARK, give_numbers
from okubsd.pf.render import UPLINK, Exit
from okubsd.plan.gateway import clients_of, endpoint_flows
from okubsd.vmd.conf import MOST_INTERFACES
from okubsd.vmd.render import Nic, lladdr
from okubsd.vpn.openvpn import Client
from okubsd.vpn.wg_quick import Tunnel

# openvpn(8): the default of --tun-mtu, less what the tunnel's own head takes at most.
_TUN_MTU = 1400

# The taps of NICs on switches, so that each VM's own number leads to them.
_CLIENT_TAP, _GATEWAY_TAP = 1000, 2000
CLIENT_NIC, _FIRST_GATEWAY_NIC = 2, 16


class Secrets(msgspec.Struct, frozen=True, kw_only=True):
    """What the files of tunnels say: WireGuard's by the names of networks and of gateway VMs, OpenVPN's by networks."""

    tunnels: Mapping[str, Tunnel] = {}
    clients: Mapping[str, Client] = {}


class Numbers(msgspec.Struct, frozen=True):
    """The number of every VM and of every network that has an interface."""

    given: Mapping[str, int]

    def vm(self, vm: Vm) -> int:
        """Return the number of a VM: of its tap, and of its rdomain unless that is a tunnel's."""
        return self.given[vm.name]

    def network(self, network: Network) -> int:
        """Return the number of a tunnel or a switch: of its interface, its rdomain and its loopback."""
        return self.given[f"{NETWORK_MARK}{network.name}"]


def number_all(wish: Wish, kept: Mapping[str, int]) -> Numbers:
    """Return a number for everything of ``wish`` that has an interface; ``kept`` are those of before.

    Raises BadDescription where there are not enough.
    """
    wished = {vm.name: vm.number for vm in wish.vms if vm.number is not None}
    ways = (*TUNNELS, Way.SWITCH)
    names = [vm.name for vm in wish.vms]
    names += [f"{NETWORK_MARK}{network.name}" for network in wish.networks if network.way in ways]
    try:
        return Numbers(give_numbers(names, wished, kept, *wish.host.numbers))
    except ValueError as error:
        raise BadDescription([f"{wish.path}: host.numbers: {error}; give 'numbers' a wider range"]) from None


def switch_mistakes(wish: Wish) -> list[str]:
    """Return what vmd has not enough NICs for, and what a VM of QEMU's beside it cannot have."""
    found = []
    for vm in wish.vms:
        clients = len(clients_of(vm, wish)) if vm.network.way is not Way.WIREGUARD else 0
        nics = 1 + clients + (vm.network.way in (Way.GATEWAY, Way.SWITCH))
        if nics > MOST_INTERFACES:
            sentence = f"VM '{vm.name}' needs {nics} NICs, one for each VM behind it, and vmd gives {MOST_INTERFACES}"
            found.append(f"{wish.path}: {sentence}")
        if nics > 1 and vm.backend is Backend.QEMU:
            found.append(f"{wish.path}: VM '{vm.name}' is on a switch or a gateway, which beside vmd takes 'vmd'")
    return found


def bandwidth_mistakes(wish: Wish) -> list[str]:
    """Return the limits whose queue would have no interface to be on."""
    return [
        f"{wish.path}: VM '{vm.name}' has a limit of what it sends; write 'uplink', the host's interface, below 'host'"
        for vm in wish.vms
        if vm.bandwidth.up and vm.network.way is Way.NAT and not wish.host.uplink
    ]


def exit_of(vm: Vm, numbers: Numbers, host: HostWish, secrets: Secrets) -> Exit:
    """Return the way out of one VM."""
    network, number = vm.network, numbers.vm(vm)
    rdomain, out, mtu = number, "", 0
    resolver = network.resolver or host.resolver
    flows = vm.flows
    match network.way:
        case Way.NAT:
            out = UPLINK
            if vm.tunnel and vm.name in secrets.tunnels:
                # A gateway reaches the ends of its tunnel, and nothing else.
                flows = endpoint_flows(secrets.tunnels[vm.name])
        case Way.WIREGUARD:
            rdomain = numbers.network(network)
            out = f"wg{rdomain}"
            tunnel = secrets.tunnels.get(network.name)
            if tunnel is not None:
                mtu = tunnel.mtu
                resolver = network.resolver or next(iter(tunnel.resolvers), host.resolver)
        case Way.OPENVPN:
            rdomain = numbers.network(network)
            out, mtu = f"tun{rdomain}", _TUN_MTU
        case _:
            pass
    return Exit(
        name=vm.name,
        number=number,
        rdomain=rdomain,
        way=network.way,
        out=out,
        resolver=resolver,
        mtu=mtu,
        flows=flows,
        bandwidth=vm.bandwidth,
    )


def nics_of(vm: Vm, wish: Wish, numbers: Numbers) -> tuple[Nic, ...]:
    """Return the NICs of ``vm`` on switches: that of its own network first, then one for each VM behind it."""
    number = numbers.vm(vm)
    own: tuple[Nic, ...] = ()
    mine = lladdr(number, CLIENT_NIC)
    if vm.network.way is Way.SWITCH:
        rdomain = numbers.network(vm.network)
        own = (Nic(tap=_CLIENT_TAP + number, switch=vm.network.name, rdomain=rdomain, lladdr=mine),)
    elif vm.network.way is Way.GATEWAY:
        own = (Nic(tap=_CLIENT_TAP + number, switch=link_name(number), rdomain=number, lladdr=mine),)
    behind = (numbers.vm(client) for client in clients_of(vm, wish) if client.network.way is Way.GATEWAY)
    return own + tuple(
        Nic(tap=_GATEWAY_TAP + n, switch=link_name(n), rdomain=n, lladdr=lladdr(number, _FIRST_GATEWAY_NIC + i))
        for i, n in enumerate(behind)
    )


def link_name(number: int) -> str:
    """Return the name of the switch between a VM, by its number, and its gateway."""
    return f"link{number}"
