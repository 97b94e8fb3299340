"""The seat of a VM that QEMU runs beside vmd: on a tap that root prepared, in an rdomain, behind pf(4)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from okubsd import layout
from okubsd.guest.identity import Lease
from okubsd.model import Argv, NetworkKind, Vm
from okubsd.netif.hostname import guest_of_qemu, in_rdomain
from okubsd.network import user
from okubsd.plan.seats.base import Boot
from okubsd.plan.seats.pf import rules_by_pf
from okubsd.plan.seats.qemu import Bare
from okubsd.plan.steps import CleanUp, CloseNetwork, EndQemu, LinkTap, OpenNetwork, Plan, Slot, Step
from okubsd.vmd.helper import Record, Verb, helper_argv

if TYPE_CHECKING:
    from okubsd.plan.facts import HostFacts, VmFacts


class Tap(Bare, frozen=True, kw_only=True):
    """QEMU on a prepared tap; ``record`` is what root wrote down of the VM."""

    record: Record

    def reach(self, argv: Argv) -> Argv:
        return in_rdomain(self.record.table, argv)

    def refuse(self, vm: Vm, host: HostFacts) -> None:
        """pf holds any rules."""

    def netdev(self, vm: Vm) -> str:
        return user.tap_option(self.record.number)

    def lease(self, boot: Boot) -> Lease:
        """Return the guest's addresses; nobody answers DHCP there, and pf sends its DNS to the resolver."""
        there, here = guest_of_qemu(self.record.number)
        out = boot.vm.network.kind not in (NetworkKind.NONE, NetworkKind.GATEWAY)
        return Lease(address=f"{here}/31", gateway=there if out else "", resolver=there if out else "")

    def before_qemu(self, boot: Boot) -> list[Step]:
        name = boot.vm.name
        return [LinkTap(name=name, argv=helper_argv(Verb.PREPARE, name, root=self.root))]

    def after_qemu(self, boot: Boot) -> list[Step]:
        name = boot.vm.name
        return [OpenNetwork(name=name, argv=helper_argv(Verb.OPEN, name, root=self.root))]

    def guest_address(self) -> str:
        return Slot.GUEST

    def end(self, name: str, run: Path, pid: int | None) -> Plan:
        return (
            CloseNetwork(name=name, argv=helper_argv(Verb.CLOSE, name, root=self.root)),
            EndQemu(name=name, run=run, qmp=run / layout.QMP, pid=pid),
            CleanUp(name=name),
        )

    def change_rules(self, vm: Vm, host: HostFacts, state: VmFacts) -> tuple[Plan, str]:
        return rules_by_pf(vm, root=self.root)
