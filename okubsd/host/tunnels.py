"""Read the files of tunnels: they hold keys, so nobody else may have been able to."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from okubsd.errors import BadDescription
from okubsd.host.reading import read_text
from okubsd.model import Network, Vm, Way, Wish
from okubsd.plan.exits import Secrets
from okubsd.vpn.openvpn import Client, parse_openvpn
from okubsd.vpn.wg_quick import Tunnel, parse_wg_quick


def read_tunnel(path: Path) -> Tunnel:
    """Return the tunnel of the wg-quick file at ``path``.

    Raises BadDescription where it cannot be read, is open to others, or is wrong; no key is told in it.
    """
    check_secret(path)
    return parse_wg_quick(path, read_text(path))


def check_secret(path: Path) -> None:
    """Raise BadDescription where the file at ``path`` is missing, somebody else's, or readable by others."""
    try:
        status = path.stat()
    except OSError as error:
        raise BadDescription([f"{path}: cannot be read: {error.strerror}"]) from None
    if status.st_uid not in (0, os.geteuid()):
        raise BadDescription([f"{path}: it holds keys and belongs to somebody else (user {status.st_uid})"])
    if status.st_mode & 0o077:
        mode = f"{status.st_mode & 0o777:04o}"
        raise BadDescription([f"{path}: it holds keys and can be read by others (mode {mode}); chmod 0600 {path}"])


def read_tunnels(networks: Iterable[Network], vms: Iterable[Vm]) -> dict[str, Tunnel]:
    """Return the WireGuard tunnels by the names of their networks, and those of gateways by the VMs' names.

    Raises BadDescription with the mistakes of every file.
    """
    files = {network.name: network.file for network in networks if network.way is Way.WIREGUARD}
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


def read_secrets(wish: Wish) -> Secrets:
    """Return what all files of tunnels say.  Raises BadDescription with the mistakes of every one."""
    mistakes: list[str] = []
    tunnels: dict[str, Tunnel] = {}
    clients: dict[str, Client] = {}
    try:
        tunnels = read_tunnels(wish.networks, wish.vms)
    except BadDescription as error:
        mistakes += error.mistakes
    for network in wish.networks:
        if network.way is Way.OPENVPN:
            path = Path(network.file)
            try:
                check_secret(path)
                clients[network.name] = parse_openvpn(path, read_text(path))
            except BadDescription as error:
                mistakes += error.mistakes
    if mistakes:
        raise BadDescription(dict.fromkeys(mistakes))
    return Secrets(tunnels=tunnels, clients=clients)
