"""What a host without vmd cannot do of a description: each with its place, before anything is begun."""

from __future__ import annotations

from collections import Counter

from okubsd.config.description import GATEWAY_SUFFIX, MOST_CLIENTS
from okubsd.model import Backend, Way, Wish

_OPENBSD_ONLY = {Way.OPENVPN: "OpenVPN", Way.SWITCH: "a switch"}


def qemu_limits(wish: Wish) -> list[str]:
    """Return what a host whose VMs all run on QEMU cannot do of ``wish``, a sentence each."""
    found = []
    for vm in wish.vms:
        what = _OPENBSD_ONLY.get(vm.network.way)
        if what is not None:
            found.append(
                f"{wish.path}: vms.{vm.name}.network: '{vm.network.name}' is {what}, which takes OpenBSD's vmd"
            )
        if vm.backend is Backend.VMD:
            found.append(f"{wish.path}: vms.{vm.name}.backend: it is for vmd, and this host has none")
    through = Counter(vm.network.name for vm in wish.vms if vm.network.way is Way.WIREGUARD)
    return found + [
        f"{wish.path}: networks.{name}: {count} VMs go through '{name}{GATEWAY_SUFFIX}', "
        f"and a gateway takes {MOST_CLIENTS}"
        for name, count in through.items()
        if count > MOST_CLIENTS
    ]


def home_limits(wish: Wish, sizes: dict[str, int]) -> list[str]:
    """Return the homes that are wished smaller than the drives that there are; ``sizes`` are theirs in bytes."""
    return [
        f"{wish.path}: vms.{vm.name}.home: it has {sizes[vm.name] >> 20}M now, and a home never shrinks"
        for vm in wish.vms
        if not vm.disposable and vm.home < sizes.get(vm.name, 0)
    ]
