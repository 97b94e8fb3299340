"""Explain which rule decides what a VM may reach: the packet's way through pf, from the tap to the uplink."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from okubsd.model import Way
from okubsd.pf.evaluate import Packet, Verdict, evaluate
from okubsd.pf.render import ANCHOR, GROUP
from okubsd.pf.rules import Rule, Ruleset
from okubsd.plan.compile import CompiledVm

UPLINK = "egress"


class Hop(msgspec.Struct, frozen=True, kw_only=True):
    """One meeting of the packet with pf: where, what became of it, and by which rule."""

    where: str
    verdict: Verdict

    @property
    def rule(self) -> Rule | None:
        """Return the rule that decided, or None where none matched."""
        return self.verdict.rule


class Why(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a packet: its hops in order, whether it leaves, and the sentence that says so."""

    leaves: bool
    sentence: str
    hops: tuple[Hop, ...]


class PfState(msgspec.Struct, frozen=True, kw_only=True):
    """The rules in force or to be: the main ones, the anchors by path, and the addresses of interfaces and groups."""

    main: Ruleset
    anchors: Mapping[str, Ruleset]
    addresses: Mapping[str, tuple[str, ...]]


def explain(vm: CompiledVm, state: PfState, packet: Packet) -> Why:
    """Return what becomes of ``packet`` that the guest of ``vm`` sends."""
    first = evaluate(state.main, state.anchors, packet, state.addresses)
    hops = [Hop(where=f"in on {packet.interface}", verdict=first)]
    if not first.passes:
        return Why(leaves=False, sentence=f"{vm.vm.name}: blocked where it enters the host", hops=tuple(hops))
    target = first.rdr_to or packet.target
    if any(target == text.partition("/")[0] for texts in state.addresses.values() for text in texts):
        return Why(leaves=True, sentence=f"{vm.vm.name}: reaches the host itself", hops=tuple(hops))
    if first.rtable is None and vm.vm.network.way is Way.NONE:
        return Why(leaves=False, sentence=f"{vm.vm.name}: its routing table has no way out", hops=tuple(hops))
    out = msgspec.structs.replace(
        packet,
        direction="out",
        interface="uplink",
        groups=(UPLINK,),
        rdomain=first.rtable or 0,
        target=target,
        received_on=(packet.interface, *packet.groups),
    )
    second = evaluate(state.main, state.anchors, out, state.addresses)
    hops.append(Hop(where=f"out on {UPLINK}", verdict=second))
    leaves = second.passes
    word = "leaves by the uplink" if leaves else "blocked where it would leave the host"
    redirected = f", sent to {target} instead" if first.rdr_to and leaves else ""
    return Why(leaves=leaves, sentence=f"{vm.vm.name}: {word}{redirected}", hops=tuple(hops))


def guest_packet(vm: CompiledVm, guest: str, target: str, protocol: str, port: int) -> Packet:
    """Return the packet that ``vm`` sends from its address ``guest`` to ``target`` and ``port`` (0: none)."""
    return Packet(
        direction="in",
        interface=f"tap{vm.number}",
        groups=("tap", GROUP),
        rdomain=vm.number,
        protocol=protocol,
        source=guest,
        target=target,
        target_port=port,
    )


def anchor_path(name: str) -> str:
    """Return the path of a VM's anchor."""
    return f"{ANCHOR}/{name}"
