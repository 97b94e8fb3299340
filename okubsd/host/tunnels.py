"""Read the files of tunnels: they hold keys, so nobody else may have been able to."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Iterable
from pathlib import Path

from okubsd.errors import BadDescription
from okubsd.host.reading import read_secret
from okubsd.model import Description, Network, NetworkKind, Vm
from okubsd.vpn.keys import TunnelKeys
from okubsd.vpn.openvpn import OpenVpnClient, parse_openvpn
from okubsd.vpn.wg_quick import Tunnel, parse_wg_quick


def read_tunnel(path: Path) -> Tunnel:
    """Return the tunnel of the wg-quick file at ``path``.

    Raises BadDescription where it cannot be read, is open to others, or is wrong; no key is told in it.
    """
    return parse_wg_quick(path, read_secret(path))


def reader_beside(path: Path) -> Callable[[str], str]:
    """Return what reads a file that the configuration ``path`` names: one beside it, and of nobody else's."""

    def read(name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,100}", name) or name.startswith("."):
            raise ValueError(f"only a file in {path.parent} is read, by its bare name")
        beside = path.with_name(name)
        try:
            if beside.lstat().st_uid != path.stat().st_uid or not stat.S_ISREG(beside.lstat().st_mode):
                raise ValueError(f"it is no regular file that belongs to the owner of {path.name}")
            return read_secret(beside)
        except OSError as error:
            raise ValueError(f"cannot be read: {error.strerror}") from None
        except BadDescription as error:
            raise ValueError(error.mistakes[0].removeprefix(f"{beside}: ")) from None

    return read


def read_tunnels(networks: Iterable[Network], vms: Iterable[Vm]) -> dict[str, Tunnel]:
    """Return the WireGuard tunnels by the names of their networks, and those of gateways by the VMs' names.

    Raises BadDescription with the mistakes of every file.
    """
    files = {network.name: network.file for network in networks if network.kind is NetworkKind.WIREGUARD}
    files |= {vm.name: vm.tunnel for vm in vms if vm.tunnel}
    found: dict[str, Tunnel] = {}
    mistakes: list[str] = []
    for name, file in files.items():
        try:
            found[name] = read_tunnel(Path(file))
        except BadDescription as error:
            mistakes += error.mistakes
    mistakes += _doubled(found)
    if mistakes:
        raise BadDescription(dict.fromkeys(mistakes))
    return found


def _doubled(tunnels: dict[str, Tunnel]) -> list[str]:
    """Return a sentence for each key that two networks have: its other end would answer one of them at a time."""
    first: dict[str, str] = {}
    pairs = ((name, first.setdefault(tunnel.private_key, name)) for name, tunnel in tunnels.items())
    return [
        f"the tunnels of '{other}' and '{name}' have the same private key; let VMs share one network instead"
        for name, other in pairs
        if name != other
    ]


def read_secrets(description: Description) -> TunnelKeys:
    """Return what all files of tunnels say.  Raises BadDescription with the mistakes of every one."""
    mistakes: list[str] = []
    tunnels: dict[str, Tunnel] = {}
    clients: dict[str, OpenVpnClient] = {}
    try:
        tunnels = read_tunnels(description.networks, description.vms)
    except BadDescription as error:
        mistakes += error.mistakes
    for network in description.networks:
        if network.kind is NetworkKind.OPENVPN:
            path = Path(network.file)
            try:
                clients[network.name] = parse_openvpn(path, read_secret(path), reader_beside(path))
            except BadDescription as error:
                mistakes += error.mistakes
    if mistakes:
        raise BadDescription(dict.fromkeys(mistakes))
    return TunnelKeys(tunnels=tunnels, clients=clients)


def passed_over(secrets: TunnelKeys) -> dict[str, tuple[str, ...]]:
    """Return, by the name of the network or gateway, what of its file means nothing here, a phrase each."""
    told = {name: tunnel.passed_over for name, tunnel in secrets.tunnels.items()}
    told |= {name: client.passed_over for name, client in secrets.clients.items()}
    return {name: phrases for name, phrases in told.items() if phrases}
