"""The seat of a Linux host: QEMU in a network namespace of its own, whose rules nftables holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from okubsd import layout
from okubsd.errors import HostLacks
from okubsd.model import Argv, NetworkKind, Vm
from okubsd.network import user
from okubsd.nft.render import render_names, render_namespace
from okubsd.plan.seats.base import Boot
from okubsd.plan.seats.qemu import Bare, is_ruled
from okubsd.plan.steps import LoadRules, Plan, Slot, StartUplink, Step
from okubsd.rules import REFUSED, is_name, named_sets

if TYPE_CHECKING:
    from okubsd.plan.facts import HostFacts, VmFacts


class Namespace(Bare, frozen=True, kw_only=True):
    """QEMU in the network namespace that it was started with; ``pid`` is its process, or the slot of that."""

    pid: str = Slot.QEMU_PID

    def reach(self, argv: Argv) -> Argv:
        return user.enter_argv(self.pid, argv, root=self.root)

    def refuse(self, vm: Vm, host: HostFacts) -> None:
        if vm.network.kind is not NetworkKind.NAT or not is_ruled(vm):
            return
        names = ("drill",) if any(is_name(rule) for rule in vm.rules) else ()
        for program in ("nft", *names):
            if program in host.missing:
                raise HostLacks(
                    f"VM '{vm.name}' has rules, and they need the program '{program}'", host.missing[program]
                )

    def resolver(self) -> str:
        return user.UPLINK_RESOLVER

    def confine(self, argv: Argv) -> Argv:
        return user.confine_argv(argv, root=self.root)

    def on_address(self, boot: Boot) -> Argv:
        nat = boot.vm.network.kind is NetworkKind.NAT
        return (*boot.host.okubsd, "net", "refuse-host", boot.vm.name) if nat else ()

    def after_qemu(self, boot: Boot) -> list[Step]:
        vm, host, state = boot.vm, boot.host, boot.state
        nat = vm.network.kind is NetworkKind.NAT
        if boot.links.own and "nft" not in host.missing:
            # A gateway that is taken over reaches the ends of its tunnel, and nothing else.
            vm = msgspec.structs.replace(vm, rules=boot.links.own)
        ruled = nat and is_ruled(vm)
        return [
            StartUplink(
                batch_argv=self.reach(("ip", "-batch", "-")),
                batch=user.namespace_batch(vm.network, host.addresses if nat else (), ruled=ruled),
                argv=self._uplink(sandbox=True) if nat else (),
                plain_argv=self._uplink(sandbox=False) if nat else (),
                log=state.directory / layout.UPLINK_LOG,
                rules=self._rules(vm, host, state) if ruled else None,
            )
        ]

    def load_rules(self, vm: Vm, host: HostFacts, state: VmFacts) -> Plan:
        step = self._rules(vm, host, state)
        # What its rules say of private networks is in them now, and no more in the routes.
        lines = "".join(f"route del prohibit {network}\n" for network in REFUSED)
        known = (
            ("sh", str(host.names_program), "/dev/stdin", "known", str(state.run / layout.NAMES_STATE))
            if step.names
            else ()
        )
        batch_argv = self.reach(("ip", "-force", "-batch", "-"))
        return (msgspec.structs.replace(step, known_argv=known, batch_argv=batch_argv, batch=lines),)

    def refuse_addresses(self, host: HostFacts) -> tuple[Argv, str]:
        """Return ip(8) and its input that refuse the addresses which ``host`` has now to a running VM."""
        lines = "".join(f"route replace prohibit {address}\n" for address in host.addresses)
        return self.reach(("ip", "-force", "-batch", "-")), lines

    def _uplink(self, *, sandbox: bool) -> Argv:
        return user.uplink_argv(self.pid, Slot.EXIT_FD, root=self.root, sandbox=sandbox)

    def _rules(self, vm: Vm, host: HostFacts, state: VmFacts) -> LoadRules:
        rules = render_namespace(
            vm.rules,
            vm.bandwidth,
            host=host.addresses,
            asked=user.UPLINK_RESOLVER,
            resolver=vm.network.resolver,
            now=host.now,
        )
        names = render_names(named_sets(vm.rules))
        return LoadRules(
            what=f"{vm.name}: its rules were not taken",
            argv=self.reach(("nft", "-f", "-")),
            rules=rules,
            names=names,
            names_argv=self.reach(self._follower(vm, host, state)),
            run=state.run,
            log=state.directory / layout.NAMES_LOG,
        )

    def _follower(self, vm: Vm, host: HostFacts, state: VmFacts) -> Argv:
        """Return the program that keeps the names of a VM, for as long as its QEMU lives.

        It asks whom the VM asks: what the host's own files name may be refused where it runs.
        """
        resolver = vm.network.resolver or user.UPLINK_RESOLVER
        life = state.run / layout.QEMU_LIFE
        program = ("sh", str(host.names_program), str(state.run / layout.NAMES), "nft", str(life))
        return ("env", f"OKUBSD_RESOLVER={resolver}", *program)
