"""What pf(4) decides of one packet: the last rule that matches, or the first that says quick.

Source: pf.conf(5); sys/net/pf.c of OpenBSD, pf_match_rule(); observed on 7.6 to 7.7: `on ! rdomain N` never
matches, received-on means nothing for a packet that comes in, and a quick rule inside an anchor ends everything.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

import msgspec

from okubsd.pf.rules import On, PfAddress, PfRule, Port, Ruleset

Addresses = Mapping[str, tuple[str, ...]]


class Packet(msgspec.Struct, frozen=True, kw_only=True):
    """A packet as pf meets it: on which interface, of which groups and rdomain, and what it says of itself.

    ``received_on`` are the names (interface and groups) of the interface a forwarded packet came in on.
    """

    direction: str
    interface: str
    groups: tuple[str, ...] = ()
    rdomain: int = 0
    protocol: str = "tcp"
    source: str = ""
    target: str = ""
    source_port: int = 40000
    target_port: int = 0
    received_on: tuple[str, ...] = ()
    tag: str = ""

    @property
    def family(self) -> str:
        """Return "inet" or "inet6"."""
        return "inet6" if ":" in self.target else "inet"


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a packet: whether it passes, by which rule (None: no rule matched, so it passes)."""

    passes: bool
    rule: PfRule | None = None
    rtable: int | None = None
    rdr_to: str = ""
    nat: bool = False


class _Walk:
    """One packet on its way through the rules."""

    def __init__(self, packet: Packet, anchors: Mapping[str, Ruleset], addresses: Addresses) -> None:
        self.packet = packet
        self.anchors = anchors
        self.addresses = addresses
        self.decided: PfRule | None = None
        self.tables: list[Mapping[str, tuple[PfAddress, ...]]] = []

    def through(self, rules: tuple[PfRule, ...]) -> bool:
        """Go through ``rules``; return whether a quick rule ended it."""
        for rule in rules:
            if not self.matches(rule):
                continue
            if rule.action == "anchor":
                if self._into(rule):
                    return True
            elif rule.action != "match":
                self.decided = rule
                if rule.quick:
                    return True
        return False

    def _into(self, rule: PfRule) -> bool:
        if rule.anchor is None:
            self.tables.append(rule.tables)
            ended = self.through(rule.children)
            self.tables.pop()
            return ended
        for name in sorted(self.anchors):
            if _is_called(rule.anchor, name):
                self.tables.append(self.anchors[name].tables)
                ended = self.through(self.anchors[name].rules)
                self.tables.pop()
                if ended:
                    return True
        return False

    def matches(self, rule: PfRule) -> bool:
        """Return whether ``rule`` matches the packet."""
        packet = self.packet
        return (
            rule.direction in ("", packet.direction)
            and (not rule.on or any(self._on(on) for on in rule.on))
            and rule.af in ("", packet.family)
            and (not rule.protocols or packet.protocol in rule.protocols)
            and self._end(rule.source, rule.source_ports, packet.source, packet.source_port)
            and self._end(rule.target, rule.target_ports, packet.target, packet.target_port)
            and self._received_on(rule)
            and rule.tagged in ("", packet.tag)
        )

    def _on(self, on: On) -> bool:
        if on.rdomain is not None:
            # The kernel applies the `!` to an interface that is not there.
            return not on.negated and on.rdomain == self.packet.rdomain
        names = ("any", self.packet.interface, *self.packet.groups)
        return (on.interface in names) != on.negated

    def _received_on(self, rule: PfRule) -> bool:
        if not rule.received_on:
            return True
        if self.packet.direction == "in":
            return False
        came = self.packet.received_on
        return (bool(came) and rule.received_on in ("any", *came)) != rule.not_received_on

    def _end(self, peers: tuple[PfAddress, ...], ports: tuple[Port, ...], address: str, port: int) -> bool:
        if ports and not any(range.first <= port <= range.last for range in ports):
            return False
        return not peers or any(self._peer(peer, address) for peer in peers)

    def _peer(self, peer: PfAddress, address: str) -> bool:
        return self._is(peer, ipaddress.ip_address(address)) != peer.negated

    def _is(self, peer: PfAddress, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
        match peer.kind:
            case "any":
                return True
            case "address":
                return address in ipaddress.ip_network(peer.value)
            case "table":
                return self._in_table(peer.value, str(address))
            case "self":
                return any(address == _address(text) for texts in self.addresses.values() for text in texts)
            case "dynamic" if peer.modifier == "network":
                return any(address in ipaddress.ip_interface(text).network for text in self._of(peer))
            case "dynamic":
                return any(address == _address(text) for text in self._of(peer))
            case _:
                return False

    def _of(self, peer: PfAddress) -> tuple[str, ...]:
        return self.addresses.get(peer.value, ())

    def _in_table(self, name: str, address: str) -> bool:
        """Return whether a table holds ``address``: its most specific entry decides.

        It is looked for in the very anchor that the rule is in, and then at the root, nowhere between (observed).
        """
        entries = next((tables[name] for tables in (self.tables[-1], self.tables[0]) if name in tables), ())
        found = [peer for peer in entries if ipaddress.ip_address(address) in ipaddress.ip_network(peer.value)]
        best = max(found, key=lambda peer: ipaddress.ip_network(peer.value).prefixlen, default=None)
        return best is not None and not best.negated


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.ip_interface(text).ip


def _is_called(pattern: str, name: str) -> bool:
    """Return whether `anchor "pattern"` evaluates the anchor ``name``: "x/*" means the children of x."""
    if pattern.endswith("/*"):
        return name.startswith(pattern[:-1]) and "/" not in name[len(pattern) - 1 :]
    return name == pattern


def evaluate(ruleset: Ruleset, anchors: Mapping[str, Ruleset], packet: Packet, addresses: Addresses) -> Verdict:
    """Return what pf decides of ``packet``.

    ``anchors`` are the loaded anchors by path, ``addresses`` those of every interface and group as
    "address/prefix".  A packet that no rule matches passes.
    """
    if packet.interface in ruleset.skipped or set(packet.groups) & set(ruleset.skipped):
        return Verdict(passes=True)
    walk = _Walk(packet, anchors, addresses)
    walk.tables.append(ruleset.tables)
    walk.through(ruleset.rules)
    rule = walk.decided
    if rule is None:
        return Verdict(passes=True)
    return Verdict(
        passes=rule.action == "pass",
        rule=rule,
        rtable=rule.rtable,
        rdr_to=rule.rdr_to[0].value.partition("/")[0] if rule.rdr_to else "",
        nat=bool(rule.nat_to),
    )
