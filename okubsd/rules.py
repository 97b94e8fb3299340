"""The rules of a VM: what they are, which of them decides, and what holds where none is written.

pf, nftables, the routes of a namespace, `okubsd why` and a guest's `names` all read this module, so that they agree.
The narrowest rule decides: one for an address before one for its network, one with ports before one without, and
of two alike the one that denies.  So the order in which they are written means nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One rule of a VM's: whether packets to ``target`` pass.

    ``target`` is "any", an IPv4 network or a host name; ``ports`` are ranges with both ends, () for all;
    ``protocol`` is "tcp", "udp", "icmp" or "" for all; ``until`` is when it ends, in seconds since the epoch;
    ``file`` and ``line`` say where it is written.
    """

    allow: bool
    target: str
    ports: tuple[tuple[int, int], ...] = ()
    protocol: str = ""
    until: int | None = None
    comment: str = ""
    file: str = ""
    line: int = 0


class Bandwidth(msgspec.Struct, frozen=True, kw_only=True):
    """How much a VM may receive and send, in bits per second; 0 is as much as there is."""

    down: int = 0
    up: int = 0


class Range(msgspec.Struct, frozen=True):
    """A range of addresses that is not of the Internet, and the document that says so.

    ``refused`` says whether a VM is kept from it unless a rule allows it.
    """

    network: str
    source: str
    refused: bool = True


# A name may open none of these.  Two are not refused: no host has them, and a proxy like Tor's answers with the latter.
SPECIAL = (
    Range("0.0.0.0/8", "RFC 791"),
    Range("10.0.0.0/8", "RFC 1918"),
    Range("100.64.0.0/10", "RFC 6598"),
    Range("127.0.0.0/8", "RFC 1122"),
    Range("169.254.0.0/16", "RFC 3927"),
    Range("172.16.0.0/12", "RFC 1918"),
    Range("192.0.0.0/24", "RFC 6890", refused=False),
    Range("192.168.0.0/16", "RFC 1918"),
    Range("198.18.0.0/15", "RFC 2544", refused=False),
    Range("224.0.0.0/4", "RFC 5771"),
    Range("240.0.0.0/4", "RFC 1112"),
)
REFUSED = tuple(special.network for special in SPECIAL if special.refused)

BUILT_IN = (*(Rule(allow=False, target=network) for network in REFUSED), Rule(allow=True, target="any"))


class NamedSet(msgspec.Struct, frozen=True):
    """A host name of a rule, and the set or table that holds its addresses."""

    host: str
    set: str


def is_name(rule: Rule) -> bool:
    """Return whether the rule's target is a host name, which has to be looked up."""
    return rule.target != "any" and "/" not in rule.target


def is_live(rule: Rule, now: float) -> bool:
    """Return whether the rule did not end before ``now``, in seconds since the epoch."""
    return rule.until is None or rule.until > now


def narrowness(rule: Rule) -> tuple[int, bool, bool, bool]:
    """Return what rules are sorted by: the narrowest first."""
    prefix = 0 if rule.target == "any" else int(rule.target.partition("/")[2] or 32)
    return (-prefix, not rule.ports, not rule.protocol, rule.allow)


def effective_rules(rules: Iterable[Rule], now: float) -> tuple[Rule, ...]:
    """Return what decides, the first that matches: ``rules`` that did not end before ``now``, and what holds anyway."""
    live = (rule for rule in rules if is_live(rule, now))
    # A rule of the user's comes before one of ours that is as narrow.
    return tuple(sorted((*live, *BUILT_IN), key=lambda rule: (*narrowness(rule)[:1], not rule.line, *narrowness(rule))))


def asks_names(rules: Iterable[Rule], now: float) -> bool:
    """Return whether a VM with these rules may ask for names: not one that may reach nothing at all."""
    effective = effective_rules(rules, now)
    first = next(rule for rule in effective if rule.target == "any" and not rule.ports and not rule.protocol)
    return first.allow or any(rule.allow for rule in effective if rule.line)


def named_sets(rules: Iterable[Rule]) -> tuple[NamedSet, ...]:
    """Return the host names in ``rules``, each with a set of its own."""
    names = dict.fromkeys(rule.target for rule in rules if is_name(rule))
    return tuple(NamedSet(name, f"name{number}") for number, name in enumerate(names, 1))
