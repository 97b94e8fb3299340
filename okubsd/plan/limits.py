"""What a host cannot do of a description: every limit, with its path in the file, before anything is begun.

`check` asks for all of them; `apply` for those of an OpenBSD host that the description alone shows; `start` for those
of the one VM.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from okubsd.config.names import GATEWAY_SUFFIX
from okubsd.config.networks import MOST_CLIENTS
from okubsd.model import Backend, Description, NetworkKind, Vm
from okubsd.plan.gateway import clients_of

# The two kinds of host that a description can be for.
OPENBSD, QEMU = "openbsd", "qemu"

# What OpenBSD and its desktop keep for themselves beside the guests, in bytes.
HOST_MEMORY = 1536 << 20

# Source: usr.sbin/vmd/vmd.h, VM_MAX_NICS_PER_VM.
MOST_NICS = 4


def limits(
    description: Description,
    host: str,
    *,
    sizes: Mapping[str, int] | None = None,
    usable: int = 0,
    of: Vm | None = None,
) -> list[str]:
    """Return what a ``host``, OPENBSD or QEMU, cannot do of ``description``, a sentence each with its path.

    ``sizes`` are those of the homes that are there, in bytes by the names of their VMs, ``usable`` the bytes of
    memory that the host has (0: not known), ``of`` the one VM that is asked about (None: all).
    """
    vms = description.vms if of is None else (of,)
    found = _homes(description, vms, sizes or {}) + _published(description, vms)
    if host == QEMU:
        return found + _qemu(description, vms)
    return found + _switches(description, vms) + _bandwidths(description, vms) + _memory(description, usable)


def _published(description: Description, vms: Iterable[Vm]) -> list[str]:
    """Return which ports of this host are published twice, a sentence each."""
    owners: dict[int, list[str]] = {}
    for vm in description.vms:
        for host, _ in vm.publish:
            owners.setdefault(host, []).append(vm.name)
    return [
        f"{description.path}: vms.{vm.name}.publish: port {host} of this host is published by {', '.join(owners[host])}"
        for vm in vms
        for host in dict.fromkeys(host for host, _ in vm.publish)
        if len(owners.get(host, ())) > 1
    ]


def _qemu(description: Description, vms: Iterable[Vm]) -> list[str]:
    """Return what a host whose VMs all run on QEMU cannot do for ``vms``, a sentence each."""
    found = []
    for vm in vms:
        what = vm.network.kind.openbsd_only
        if what:
            place = f"{description.path}: vms.{vm.name}.network"
            found.append(f"{place}: '{vm.network.name}' is {what}, which only OpenBSD's vmd has")
        if vm.backend is Backend.VMD:
            found.append(f"{description.path}: vms.{vm.name}.backend: it is for vmd, and this host has none")
    asked = {vm.network.name for vm in vms}
    tunnelled = (vm.network.name for vm in description.vms if vm.network.kind is NetworkKind.WIREGUARD)
    through = Counter(name for name in tunnelled if name in asked)
    return found + [
        f"{description.path}: networks.{name}: {count} VMs go through '{name}{GATEWAY_SUFFIX}', "
        f"and a gateway takes {MOST_CLIENTS}"
        for name, count in through.items()
        if count > MOST_CLIENTS
    ]


def _homes(description: Description, vms: Iterable[Vm], sizes: Mapping[str, int]) -> list[str]:
    """Return the homes that are wished smaller than the drives that there are; ``sizes`` are theirs in bytes."""
    return [
        f"{description.path}: vms.{vm.name}.home: it has {sizes[vm.name] >> 20}M now, and a home never shrinks"
        for vm in vms
        if not vm.disposable and vm.home < sizes.get(vm.name, 0)
    ]


def _switches(description: Description, vms: Iterable[Vm]) -> list[str]:
    """Return what vmd has not enough NICs for, and what a VM of QEMU's beside it cannot have."""
    found = []
    for vm in vms:
        clients = len(clients_of(vm, description)) if vm.network.kind is not NetworkKind.WIREGUARD else 0
        nics = 1 + clients + (vm.network.kind in (NetworkKind.GATEWAY, NetworkKind.SWITCH))
        if nics > MOST_NICS:
            sentence = f"VM '{vm.name}' needs {nics} NICs, one for each VM behind it, and vmd gives {MOST_NICS}"
            found.append(f"{description.path}: vms.{vm.name}.network: {sentence}")
        if nics > 1 and vm.backend is Backend.QEMU:
            found.append(
                f"{description.path}: vms.{vm.name}.backend: VM '{vm.name}' has a switch or a gateway, and where there "
                "is a vmd, that needs 'backend: vmd'"
            )
    return found


def _bandwidths(description: Description, vms: Iterable[Vm]) -> list[str]:
    """Return the limits whose queue would have no interface to be on."""
    return [
        f"{description.path}: vms.{vm.name}.bandwidth: VM '{vm.name}' has a limit of what it sends; "
        "write 'uplink', the host's interface, below 'host'"
        for vm in vms
        if vm.bandwidth.up and vm.network.kind is NetworkKind.NAT and not description.host.uplink
    ]


def _memory(description: Description, usable: int) -> list[str]:
    """Return where the VMs want more memory than the host's ``usable`` bytes leave them (0: not known)."""
    if not usable:
        return []
    found = [
        f"{description.path}: vms.{vm.name}.memory: VM '{vm.name}' wants {vm.memory >> 20} MB, "
        f"and this host has {usable >> 20} MB for everything"
        for vm in description.vms
        if vm.memory + HOST_MEMORY > usable
    ]
    at_boot = sum(vm.memory for vm in description.vms if vm.autostart)
    if not found and at_boot + HOST_MEMORY > usable:
        found.append(
            f"{description.path}: vms: the VMs that start at boot want {at_boot >> 20} MB together, "
            f"and this host has {usable >> 20} MB, of which {HOST_MEMORY >> 20} are its own"
        )
    return found
