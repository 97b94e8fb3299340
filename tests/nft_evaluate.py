"""What nftables does to a packet, as far as our own rules go: for tests, and strict about what it does not know."""

from __future__ import annotations

import ipaddress
import re
import shlex

import msgspec


class NftPacket(msgspec.Struct, frozen=True, kw_only=True):
    """A packet that leaves a namespace: ``now`` is when, in seconds since the epoch."""

    target: str
    protocol: str
    port: int = 0
    interface: str = "tap0"
    now: float = 0.0


def chain_of(text: str, name: str) -> tuple[str, list[str]]:
    """Return the policy and the rules of a chain."""
    match = re.search(rf"(?ms)^\tchain {name} \{{\n(.*?)^\t\}}", text)
    assert match is not None, name
    head, *rules = [line.strip() for line in match[1].splitlines()]
    return head.rpartition("policy ")[2].rstrip(";"), rules


def leaves(text: str, packet: NftPacket, sets: dict[str, list[str]] | None = None) -> bool:
    """Return whether the chain `output` of the ruleset ``text`` lets ``packet`` out."""
    policy, rules = chain_of(text, "output")
    for rule in rules:
        verdict = _judge(rule, packet, sets or {})
        if verdict:
            return verdict == "accept"
    return policy == "accept"


def _judge(rule: str, packet: NftPacket, sets: dict[str, list[str]]) -> str:
    """Return "accept" or "reject" where the rule matches, "" where it does not."""
    words = shlex.split(rule.replace("{ ", "{").replace(" }", "}").replace(", ", ","))
    while words:
        match words:
            case ["oifname", name, *words]:
                matches = packet.interface == name
            case ["meta", "nfproto", "!=", "ipv4", *words]:
                matches = ":" in packet.target
            case ["ip", "daddr", where, *words]:
                matches = _is_in(packet.target, where, sets)
            case ["meta", "l4proto", which, *words]:
                matches = packet.protocol in which.strip("{}").split(",")
            case ["th", "dport", ports, *words]:
                matches = any(_spans(part, packet.port) for part in ports.strip("{}").split(","))
            case ["meta", "time", "<", moment, *words]:
                matches = packet.now < float(moment)
            case ["counter", "name", _, *words]:
                matches = True
            case ["accept"]:
                return "accept"
            case ["drop"] | ["reject", "with", "icmpx", _]:
                return "reject"
            case _:
                raise AssertionError(f"this evaluator does not know {' '.join(words)!r} in {rule!r}")
        if not matches:
            return ""
    raise AssertionError(f"a rule without a verdict: {rule}")


def _is_in(address: str, where: str, sets: dict[str, list[str]]) -> bool:
    if ":" in address:
        return False
    if where.startswith("@"):
        return address in sets.get(where[1:], [])
    return ipaddress.IPv4Address(address) in ipaddress.IPv4Network(where)


def _spans(part: str, port: int) -> bool:
    first, _, last = part.partition("-")
    return int(first) <= port <= int(last or first)
