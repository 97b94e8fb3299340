"""Decide what runs a VM, and how the host reaches its guest."""

from __future__ import annotations

import msgspec

from okubsd.errors import HostLacks, Problem
from okubsd.model import Argv, Backend, Vm
from okubsd.netif.hostname import in_rdomain
from okubsd.network.user import enter_argv
from okubsd.plan.facts import HostFacts, VmFacts

# What OpenBSD and its desktop keep for themselves beside the guests, in bytes.
HOST_MEMORY = 1536 << 20


class Choice(msgspec.Struct, frozen=True):
    """A backend, and why it was chosen, in words."""

    backend: Backend
    why: str


def choose_backend(vm: Vm, host: HostFacts, state: VmFacts) -> Choice:
    """Return what runs ``vm`` here.

    Raises HostLacks where the description asks for a vmd that is not there, Problem where there is one that
    does not know the VM yet: it does not fall to a weaker wall by itself.
    """
    if not host.vmd:
        if vm.backend is Backend.QEMU:
            return Choice(Backend.QEMU, "the description says so")
        if vm.backend is Backend.VMD:
            raise HostLacks(
                f"VM '{vm.name}' is for vmd, and this host has none", "say 'backend: auto' or 'backend: qemu'"
            )
        return Choice(Backend.QEMU, "this host has no vmd")
    if state.record is None:
        raise Problem(f"VM '{vm.name}' was not installed on this host yet", "doas okubsd apply")
    if vm.backend is Backend.QEMU:
        return Choice(Backend.QEMU, "the description says so")
    return Choice(Backend.VMD, "the description says so" if vm.backend is Backend.VMD else "this host has one")


def reach(state: VmFacts, argv: Argv, *, root: bool) -> Argv:
    """Return ``argv`` run where the guest of a running VM can be reached from."""
    if state.record is not None:
        return in_rdomain(state.record.table, argv)
    return enter_argv(str(state.qemu_pid), argv, root=root) if state.confined else argv


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
