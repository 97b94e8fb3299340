"""Decide how the packets of one VM go through another: who is whose gateway, their link, and what is passed on."""

from __future__ import annotations

import ipaddress
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from okubsd import layout
from okubsd.config.names import GATEWAY_SUFFIX
from okubsd.errors import HostLacks, Problem
from okubsd.guest.cpio import Entry, directory, file
from okubsd.guest.identity import Link
from okubsd.model import NAT, Description, Network, NetworkKind, Vm
from okubsd.nft.render import Client, render_gateway, render_names
from okubsd.qemu.argv import Wire
from okubsd.recipe import Proxy, Recipe
from okubsd.rules import Rule, named_sets
from okubsd.vpn.wg_quick import Tunnel, render_setconf

# The links are numbered networks of two addresses, out of the shared range (RFC 6598) that rules refuse anyway.
_LINKS = "100.126"

_IMAGE = "vpn-gateway"

# A gateway's own resolver answers on the port of RFC 1035, and on others to VMs whose network names another one.
_DNS, _MORE_DNS = 53, 5301

# What a gateway is in by itself: QEMU's user network and its uplink, and links.
_OURS = ("10.0.2.0/24", "10.0.3.0/24", f"{_LINKS}.0.0/16")


class Clients(msgspec.Struct, frozen=True, kw_only=True):
    """What a gateway was started with: the VMs it has a link for, in order, and the MTU beyond it.

    ``uplink`` is the gateway's own way out: eth0, or eth1 if that is a gateway too; ``resolver`` is the one of its
    own network.
    """

    names: tuple[str, ...]
    mtu: int = 1500
    uplink: str = "eth0"
    resolver: str = ""

    def number(self, name: str) -> int | None:
        """Return the number of the link to the VM called ``name``, from 1, or None."""
        return self.names.index(name) + 1 if name in self.names else None

    def interface(self, number: int) -> str:
        """Return the gateway's interface of the link with ``number``."""
        return f"eth{number + int(self.uplink[3:])}"


class Through(msgspec.Struct, frozen=True, kw_only=True):
    """The gateway of a VM: who it is, where its sockets lie, and what it was started with (None: it does not run)."""

    gateway: Vm
    run: Path
    clients: Clients | None = None


class Links(msgspec.Struct, frozen=True, kw_only=True):
    """The links of a VM: to the gateway it goes ``through``; of a gateway, to the VMs whose packets are ``passed``.

    ``own`` are the rules of a gateway itself, ``resolver`` is that of the host's description.
    """

    through: Through | None = None
    clients: Clients | None = None
    passed: tuple[Vm, ...] = ()
    own: tuple[Rule, ...] = ()
    resolver: str = ""


class GatewayConf(msgspec.Struct, frozen=True, kw_only=True):
    """What a gateway is told at its start: the VMs that go through it, its links, and its own next hop."""

    vms: tuple[Vm, ...]
    clients: Clients
    uplink: str
    proxy: Proxy | None = None


def implied_gateway(network: Network) -> Vm:
    """Return the VM that okubsd makes for a tunnel, where the host has none of its own."""
    return Vm(
        name=f"{network.name}{GATEWAY_SUFFIX}",
        image=_IMAGE,
        memory=96 << 20,
        network=NAT,
        disposable=True,
        keep=True,
        tunnel=network.file,
    )


def implied_gateways(description: Description) -> tuple[Vm, ...]:
    """Return the gateways of all tunnels of ``description``."""
    return tuple(implied_gateway(network) for network in description.networks if network.kind is NetworkKind.WIREGUARD)


def gateway_of(vm: Vm, description: Description) -> Vm | None:
    """Return the VM that the packets of ``vm`` go through on a host without vmd, or None.

    Raises HostLacks for a way that only OpenBSD has.
    """
    match vm.network.kind:
        case NetworkKind.GATEWAY:
            return description.find(vm.network.gateway)
        case NetworkKind.WIREGUARD:
            return implied_gateway(vm.network)
        case kind if kind.openbsd_only:
            sentence = f"VM '{vm.name}': a network of kind '{vm.network.kind}' needs the interfaces of OpenBSD"
            raise HostLacks(sentence, "name another network: okubsd.yaml(5), NETWORKS")
        case _:
            return None


def clients_of(gateway: Vm, description: Description) -> tuple[Vm, ...]:
    """Return the VMs of ``description`` whose packets go through ``gateway``, in their order."""
    return tuple(vm for vm in description.vms if _goes_through(vm, gateway.name))


def _goes_through(vm: Vm, name: str) -> bool:
    network = vm.network
    if network.kind is NetworkKind.GATEWAY:
        return network.gateway == name
    return network.kind is NetworkKind.WIREGUARD and f"{network.name}{GATEWAY_SUFFIX}" == name


def link_addresses(number: int) -> tuple[str, str]:
    """Return the gateway's and the VM's address of the link with ``number``."""
    return f"{_LINKS}.{number}.2", f"{_LINKS}.{number}.3"


def client_link(number: int, mtu: int) -> Link:
    """Return the second interface of a VM behind a gateway; its way out also answers for names."""
    there, here = link_addresses(number)
    return Link(address=f"{here}/31", gateway=there, mtu=mtu)


def client_wire(name: str, run: Path, gateway_run: Path) -> Wire:
    """Return the VM's end of the link; the directories are those of its and of its gateway's sockets."""
    return Wire(here=run / layout.LINK, there=gateway_run / f"{layout.LINK}-{name}", mac="52:54:00:6b:00:01")


def gateway_wires(clients: Clients, run: Path) -> tuple[Wire, ...]:
    """Return the gateway's ends of all its links; ``run`` is the directory of its sockets, beside those of others."""
    return tuple(
        Wire(
            here=run / f"{layout.LINK}-{name}",
            there=run.parent / name / layout.LINK,
            mac=f"52:54:00:6b:01:{number:02x}",
        )
        for number, name in enumerate(clients.names, 1)
    )


def need_link(vm: Vm, gateway: Vm, clients: Clients | None) -> int:
    """Return the number of the link from ``gateway``, which runs, to ``vm``.

    Raises Problem where it was started before ``vm`` was described.
    """
    number = clients.number(vm.name) if clients else None
    if number is None:
        sentence = f"VM '{vm.name}': its gateway '{gateway.name}' runs without a link to it"
        raise Problem(sentence, f"okubsd restart {gateway.name}")
    return number


def endpoint_rules(tunnel: Tunnel) -> tuple[Rule, ...]:
    """Return the rules of a gateway itself: the endpoints of its tunnel, and nothing else."""
    ends = [peer.endpoint for peer in tunnel.peers if peer.endpoint]
    reach = (Rule(allow=True, target=f"{host}/32", ports=((port, port),), protocol="udp") for host, port in ends)
    return (*reach, Rule(allow=False, target="any"))


def need_tunnel(vm: Vm, recipe: Recipe, tunnel: Tunnel | None) -> None:
    """Raise Problem where a gateway has neither a tunnel nor a proxy, so that it would pass nothing on."""
    if tunnel is None and recipe.proxy is None and "wireguard-tools" in recipe.packages:
        raise Problem(f"VM '{vm.name}' is a gateway without a tunnel", f"write 'tunnel: FILE' below '{vm.name}'")
    for address in tunnel.addresses if tunnel else ():
        taken = next((net for net in _OURS if ipaddress.IPv4Interface(address).ip in ipaddress.IPv4Network(net)), None)
        if taken:
            raise Problem(
                f"VM '{vm.name}': the address {address} of its tunnel is in {taken}, which a guest's own links have",
                "ask whoever runs the other end of the tunnel for another address",
            )


def gateway_texts(
    vms: tuple[Vm, ...], clients: Clients, tunnel: Tunnel | None, proxy: Proxy | None, now: float
) -> dict[str, str]:
    """Return the files of a gateway that may change while it runs: rules, names and resolvers, by their names.

    They are for those of ``vms`` that it has a link to; ``now`` is in seconds since the epoch.
    """
    links = [(number, vm) for vm in vms if (number := clients.number(vm.name)) is not None]
    known = [vm for _, vm in links]
    ports = {} if proxy else _resolver_ports(known, tunnel, clients.resolver)
    rules = render_gateway(
        tuple(_nft_client(vm, number, clients, ports) for number, vm in links),
        out="wg0" if tunnel else clients.uplink,
        endpoints=[peer.endpoint for peer in tunnel.peers if peer.endpoint] if tunnel else [],
        resolvers=dict.fromkeys(address for addresses in ports for address in addresses),
        now=now,
        uplink=clients.uplink,
        proxy=proxy,
    )
    return {
        "rules": rules,
        "names": render_names(named_sets(rule for vm in known for rule in vm.rules)),
        "resolvers": "".join(f"{port} {' '.join(addresses)}\n" for addresses, port in ports.items()),
    }


def _nft_client(vm: Vm, number: int, clients: Clients, ports: Mapping[tuple[str, ...], int]) -> Client:
    return Client(
        name=vm.name,
        interface=clients.interface(number),
        address=link_addresses(number)[1],
        dns=ports.get((vm.network.resolver,), _DNS),
        rules=vm.rules,
        bandwidth=vm.bandwidth,
    )


def _resolver_ports(vms: Iterable[Vm], tunnel: Tunnel | None, own: str) -> dict[tuple[str, ...], int]:
    """Return who is asked for names, and the port on which the gateway's resolver asks them.

    The gateway itself, and every VM whose network says nothing else, asks whom the tunnel's file names, or ``own``.
    """
    first = tunnel.resolvers if tunnel and tunnel.resolvers else (own,) if own else ()
    others = dict.fromkeys((vm.network.resolver,) for vm in vms if vm.network.resolver)
    return {first: _DNS} | {
        addresses: _MORE_DNS + number for number, addresses in enumerate(others) if addresses != first
    }


def conf_of(vm: Vm, recipe: Recipe, links: Links, uplink: str, resolver: str) -> GatewayConf:
    """Return what the gateway ``vm`` is told: ``uplink`` is its next hop, ``resolver`` the one of its own network."""
    clients = links.clients or Clients(names=())
    return GatewayConf(
        vms=links.passed,
        clients=msgspec.structs.replace(clients, resolver=vm.network.resolver or resolver),
        uplink=uplink,
        proxy=recipe.proxy,
    )


def gateway_entries(conf: GatewayConf, tunnel: Tunnel | None, now: float) -> tuple[Entry, ...]:
    """Return the files that tell a gateway what it passes on; ``now`` is in seconds since the epoch."""
    below = "run/okubsd/gateway"
    clients = conf.clients
    texts = gateway_texts(conf.vms, clients, tunnel, conf.proxy, now)
    numbers = range(1, len(clients.names) + 1)
    texts["links"] = "".join(f"{clients.interface(i)} {link_addresses(i)[0]}/31\n" for i in numbers)
    texts["settings"] = _settings(tunnel, clients, conf.uplink)
    if tunnel:
        texts["tunnel"] = render_setconf(tunnel)
    return (directory(below, 0o700), *(file(f"{below}/{name}", text.encode()) for name, text in texts.items()))


def _settings(tunnel: Tunnel | None, clients: Clients, uplink: str) -> str:
    values = {"uplink": uplink, "interface": clients.uplink, "link_mtu": str(clients.mtu)}
    if tunnel:
        values |= {
            "endpoints": " ".join(sorted({peer.endpoint[0] for peer in tunnel.peers if peer.endpoint})),
            # What else is in the network of such an address is reached as 'AllowedIPs' says, and not for that.
            "addresses": " ".join(f"{address.partition('/')[0]}/32" for address in tunnel.addresses),
            "allowed": " ".join(dict.fromkeys(network for peer in tunnel.peers for network in peer.allowed)),
            "mtu": str(tunnel.mtu),
        }
    return "".join(f"{key}={shlex.quote(value)}\n" for key, value in values.items())
