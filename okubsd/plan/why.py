"""Explain which rule decides what a VM may reach: the packet's way through pf, from the tap to the uplink."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

import msgspec

from okubsd.model import Description, NetworkKind, Vm
from okubsd.pf.evaluate import Packet, Verdict, evaluate
from okubsd.pf.render import GROUP, UPLINK, comment
from okubsd.pf.rules import PfRule, Ruleset
from okubsd.plan.compile import CompiledVm
from okubsd.recipe import Recipe
from okubsd.rules import Rule, asks_names, effective_rules


class Hop(msgspec.Struct, frozen=True, kw_only=True):
    """One meeting of the packet with pf: where, what became of it, and by which rule."""

    where: str
    verdict: Verdict

    @property
    def rule(self) -> PfRule | None:
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
    beside: frozenset[str] = frozenset()


def explain(vm: CompiledVm, state: PfState, packet: Packet) -> Why:
    """Return what becomes of ``packet`` that the guest of ``vm`` sends."""
    first = evaluate(state.main, state.anchors, packet, state.addresses)
    hops = [Hop(where=f"in on {packet.interface}", verdict=first)]
    if not first.passes:
        return Why(leaves=False, sentence=f"{vm.vm.name}: blocked where it enters the host", hops=tuple(hops))
    target = first.rdr_to or packet.target
    if any(target == text.partition("/")[0] for texts in state.addresses.values() for text in texts):
        return Why(leaves=True, sentence=f"{vm.vm.name}: reaches the host itself", hops=tuple(hops))
    if first.rtable is None and not vm.vm.network.kind.is_tunnel:
        return Why(leaves=False, sentence=f"{vm.vm.name}: its routing table has no way out", hops=tuple(hops))
    out = leaving_packet(vm, packet, first.rtable, target)
    aside = _connected(state, target) if first.rtable is not None else ""
    if aside:
        # A network that the host is in is reached by its interface, and not by the way out of everything else.
        out = msgspec.structs.replace(out, interface=aside, groups=())
    second = evaluate(state.main, state.anchors, out, state.addresses)
    where = aside or (UPLINK if first.rtable is not None else vm.egress.out)
    hops.append(Hop(where=f"out on {where}", verdict=second))
    leaves = second.passes
    kind = "the uplink" if first.rtable is not None else f"the tunnel of network '{vm.vm.network.name}'"
    word = f"leaves by {kind}" if leaves else "blocked where it would leave the host"
    redirected = f", sent to {target} instead" if first.rdr_to and leaves else ""
    return Why(leaves=leaves, sentence=f"{vm.vm.name}: {word}{redirected}", hops=tuple(hops))


def _connected(state: PfState, target: str) -> str:
    """Return the interface beside the uplink in whose network ``target`` is, "" for none."""
    address = ipaddress.ip_address(target)
    return next(
        (name for name in sorted(state.beside) for text in state.addresses[name]
         if address in ipaddress.ip_interface(text).network), "",
    )  # fmt: skip


def leaving_packet(vm: CompiledVm, packet: Packet, rtable: int | None, target: str) -> Packet:
    """Return ``packet`` as it leaves: by the uplink if pf gave it another ``rtable``, else by the VM's tunnel."""
    tunnelled = rtable is None
    return msgspec.structs.replace(
        packet,
        direction="out",
        interface=vm.egress.out if tunnelled else "uplink",
        groups=(vm.egress.out.rstrip("0123456789"), GROUP) if tunnelled else (UPLINK,),
        rdomain=packet.rdomain if rtable is None else rtable,
        target=target,
        received_on=(packet.interface, *packet.groups),
    )


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What a VM's own rules say of a destination, and the rule (None: nothing is let out of its network at all)."""

    passes: bool
    rule: Rule | None
    sentence: str


class Passer(msgspec.Struct, frozen=True, kw_only=True):
    """A gateway on a VM's way out; a ``proxied`` one passes on TCP and names only."""

    vm: Vm
    proxied: bool


def passers_of(vm: Vm, description: Description, recipes: Mapping[str, Recipe]) -> tuple[Passer, ...]:
    """Return the gateways that the packets of ``vm`` go through, the nearest first."""
    gateway = description.find(vm.network.gateway) if vm.network.kind is NetworkKind.GATEWAY else None
    if gateway is None:
        return ()
    recipe = recipes.get(gateway.image)
    nearest = Passer(vm=gateway, proxied=recipe is not None and recipe.proxy is not None)
    return (nearest, *passers_of(gateway, description, recipes))


def decide(vm: Vm, target: str, protocol: str, port: int, now: float, passers: tuple[Passer, ...] = ()) -> Decision:
    """Return what the rules of ``vm`` say of ``target``, an IPv4 address or a host name, and ``port`` (0: none).

    ``passers`` are the gateways on its way, which have rules of their own.
    """
    own = _decide_alone(vm, target, protocol, port, now)
    if not own.passes or own.rule is None:
        return own
    for passer in passers:
        if passer.proxied and protocol != "tcp":
            sentence = (
                f"{vm.name}: does not reach it: the VM '{passer.vm.name}' passes on TCP and names, and nothing else"
            )
            return Decision(passes=False, rule=None, sentence=sentence)
        # What leaves a proxy or a tunnel goes to another address, of which the rules here say nothing.
        if passer.proxied or passer.vm.tunnel:
            return own
        there = _decide_alone(passer.vm, target, protocol, port, now)
        if not there.passes:
            sentence = f"{vm.name}: does not reach it: on its way, {there.sentence}"
            return Decision(passes=False, rule=there.rule, sentence=sentence)
    return own


def _decide_alone(vm: Vm, target: str, protocol: str, port: int, now: float) -> Decision:
    name, network = vm.name, vm.network
    if network.kind is NetworkKind.NONE:
        return Decision(passes=False, rule=None, sentence=f"{name}: its network is 'none', which leads nowhere")
    if network.kind is NetworkKind.SWITCH:
        met = "meets the VMs on it" if network.meet else "meets nobody but the host's end of it"
        return Decision(
            passes=False, rule=None, sentence=f"{name}: the switch '{network.name}' leads nowhere; it {met}"
        )
    if ":" in target:
        return Decision(passes=False, rule=None, sentence=f"{name}: no network of okubsd carries IPv6")
    if port == 53 and protocol in ("tcp", "udp") and asks_names(vm.rules, now):
        return Decision(passes=True, rule=None, sentence=f"{name}: names are asked of the resolver of its own network")
    rule = next(rule for rule in effective_rules(vm.rules, now) if _meets(rule, target, protocol, port))
    word = "reaches it" if rule.allow else "does not reach it"
    written = comment(rule) if rule.line else _BY_ITSELF[rule.allow]
    return Decision(passes=rule.allow, rule=rule, sentence=f"{name}: {word}{_way_of(vm, rule)}: {written}")


_BY_ITSELF = {
    True: "what no rule denies is allowed",
    False: "private and reserved networks are denied unless a rule allows them",
}


def _way_of(vm: Vm, rule: Rule) -> str:
    if not rule.allow:
        return ""
    match vm.network.kind:
        case NetworkKind.NAT:
            return " by the host's uplink"
        case NetworkKind.GATEWAY:
            return f" through the VM '{vm.network.gateway}'"
        case _:
            return f" through the tunnel of network '{vm.network.name}'"


def _meets(rule: Rule, target: str, protocol: str, port: int) -> bool:
    if rule.protocol and rule.protocol != protocol:
        return False
    if rule.ports and not (protocol in ("tcp", "udp") and any(first <= port <= last for first, last in rule.ports)):
        return False
    if rule.target in ("any", target):
        return True
    try:
        return "/" in rule.target and ipaddress.IPv4Address(target) in ipaddress.IPv4Network(rule.target)
    except ValueError:
        # A name may have any address of the Internet, and none of a private range (images/base/.../names).
        return False


def guest_packet(vm: CompiledVm, guest: str, target: str, protocol: str, port: int) -> Packet:
    """Return the packet that ``vm`` sends from its address ``guest`` to ``target`` and ``port`` (0: none)."""
    return Packet(
        direction="in",
        interface=f"tap{vm.number}",
        groups=("tap", GROUP),
        rdomain=vm.rdomain,
        protocol=protocol,
        source=guest,
        target=target,
        target_port=port,
    )
