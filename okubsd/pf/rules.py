"""The words of pf.conf(5) as values: rules, their ends and their files; and rules that do not do what they seem to."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class PfAddress(msgspec.Struct, frozen=True, kw_only=True):
    """One end of a packet as a rule names it.

    ``kind`` is "any", "address" (``value`` a network), "dynamic" (an interface or group in parentheses),
    "self", "table", "no-route" or "urpf-failed".
    """

    kind: str
    value: str = ""
    negated: bool = False
    modifier: str = ""


class Port(msgspec.Struct, frozen=True):
    """A range of ports, both ends included."""

    first: int
    last: int


class On(msgspec.Struct, frozen=True, kw_only=True):
    """What a rule says after `on`: an interface or group, "any", or an rdomain."""

    interface: str = ""
    rdomain: int | None = None
    negated: bool = False


class PfRule(msgspec.Struct, frozen=True, kw_only=True):
    """One rule, and where it stands; lists mean "one of"; an empty list means "whatever".

    ``action`` is "pass", "block", "match" or "anchor"; ``children`` are the rules of an inline anchor, ``named`` its
    own name ("" for none) and ``tables`` those that are declared in it, ``anchor`` the name of a called one; ``nat_to``
    and ``rdr_to`` are addresses or interfaces in parentheses.
    """

    action: str
    file: str
    line: int
    text: str
    answer: str = ""
    direction: str = ""
    quick: bool = False
    on: tuple[On, ...] = ()
    af: str = ""
    protocols: tuple[str, ...] = ()
    source: tuple[PfAddress, ...] = ()
    source_ports: tuple[Port, ...] = ()
    target: tuple[PfAddress, ...] = ()
    target_ports: tuple[Port, ...] = ()
    received_on: str = ""
    not_received_on: bool = False
    label: str = ""
    rtable: int | None = None
    nat_to: tuple[PfAddress, ...] = ()
    rdr_to: tuple[PfAddress, ...] = ()
    rdr_port: int | None = None
    tag: str = ""
    tagged: str = ""
    anchor: str | None = None
    children: tuple[PfRule, ...] = ()
    named: str = ""
    tables: Mapping[str, tuple[PfAddress, ...]] = {}


class Ruleset(msgspec.Struct, frozen=True, kw_only=True):
    """A whole file: its rules in order, its tables, the interfaces that pf skips, and its queues."""

    rules: tuple[PfRule, ...] = ()
    tables: Mapping[str, tuple[PfAddress, ...]] = {}
    skipped: tuple[str, ...] = ()
    queues: tuple[str, ...] = ()


def traps(ruleset: Ruleset) -> list[str]:
    """Return what pfctl takes although it does not do what it seems to, a sentence each."""
    return [f"{rule.line}: {sentence}" for rule in walk(ruleset.rules) for sentence in _traps_of(rule)]


def walk(rules: tuple[PfRule, ...]) -> list[PfRule]:
    """Return ``rules`` and those of their inline anchors, in order."""
    return [found for rule in rules for found in (rule, *walk(rule.children))]


def _traps_of(rule: PfRule) -> list[str]:
    found = []
    if any(on.negated and on.rdomain is not None for on in rule.on):
        found.append("`on ! rdomain` never matches; say it positively, with nested anchors")
    if rule.nat_to and rule.direction == "in":
        found.append("nat-to on a packet that comes in translates before the route is looked up")
    if rule.rdr_to and rule.direction == "out":
        found.append("rdr-to on a packet that goes out: its route was chosen by the old address")
    if rule.children and not rule.named and any(child.named for child in rule.children):
        found.append("pf numbers an inner anchor without a name, so nobody can address what is named in it")
    if rule.received_on and rule.direction == "in":
        found.append("received-on means something for packets that go out only")
    return found
