"""The pf.conf(5) text of okubsd: few lines that shut every VM in, and one anchor per VM that opens its path.

The rules are fail-closed: the anchors come first, the blocks of the group `okubsd` after them, so that a VM
without an anchor has no network.  The shape of the anchors, nested on the tap and then on the rdomain, keeps a
tap shut that lost its rdomain; `block on ! rdomain N` would parse and never match (pf(4), observed).  A tunnel's
interface is in the group too: what no anchor sends through it, or what comes out of it unasked, is blocked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

import msgspec

from okubsd.config.rule import render_rule
from okubsd.model import NetworkKind
from okubsd.rules import BUILT_IN, Bandwidth, Rule, asks_names, effective_rules, is_name

GROUP = "okubsd"
ANCHOR = "okubsd"
UPLINK = "egress"

# TCP's and IP's head (RFC 879): what of a packet is not its segment.
_HEADS = 40

# The names of the anchors inside a VM's: on its tap, and there in its rdomain, where its rules and their tables are.
# Only what has a name can be changed from outside (observed: without one pf calls them _1, _2).  A rule finds its table
# beside it or at the root, and nowhere between; pfctl(8) loses one declared in a nested anchor, so it is made by
# whoever fills it (-T replace).
_TAP, _RDOMAIN = "tap", "rd"
# What the names of those begin with that end at a time; the helper takes them out then.
UNTIL = "t"


def anchor_path(name: str) -> str:
    """Return the path of the anchor of the VM ``name``."""
    return f"{ANCHOR}/{name}"


def rules_path(name: str) -> str:
    """Return the path of the anchor in which the rules of the VM ``name`` are, and the tables that they name."""
    return f"{anchor_path(name)}/{_TAP}/{_RDOMAIN}"


def _ending(end: int, part: int) -> str:
    """Return the name of the anchor of rules that end at ``end`` (seconds since the epoch), the ``part``-th of them."""
    return f"{UNTIL}{end}" if part == 1 else f"{UNTIL}{end}n{part}"


class Egress(msgspec.Struct, frozen=True, kw_only=True):
    """The way out of one VM: its tap's ``number``, the ``rdomain``, and the interface ``out`` of what leaves.

    ``out`` is "egress" for the host's uplink in rdomain 0, a tunnel in the VM's own rdomain, or "" for none;
    ``mtu`` is that of a tunnel.
    """

    name: str
    number: int
    rdomain: int
    kind: NetworkKind = NetworkKind.NAT
    out: str = ""
    resolver: str = ""
    mtu: int = 0
    rules: tuple[Rule, ...] = ()
    bandwidth: Bandwidth = Bandwidth()

    @property
    def label(self) -> str:
        """Return what the labels of its rules begin with."""
        return f"{ANCHOR}:{self.name}"

    @property
    def tag(self) -> str:
        """Return the tag of what it sends, by which a queue finds it."""
        return f"OKUBSD_{self.number}"

    @property
    def table(self) -> str:
        """Return the words that send a packet out of rdomain 0, "" where it stays in its own."""
        return " rtable 0" if self.out == UPLINK else ""


def render_main(ports: Iterable[str] = ()) -> str:
    """Return okubsd's part of the main rules; it is included before the site's own rules.

    ``ports`` are the host's ends of switches, where DHCP is served.  It names no interface that may be missing: pf
    would load nothing at all then.
    """
    lines = ["# okubsd: every VM's tap is in the group okubsd; what no anchor lets out does not leave."]
    lines += [
        f"pass quick on {port} inet proto udp from any port {{ 67 68 }} to any port {{ 67 68 }}" for port in ports
    ]
    lines += [
        f'anchor "{ANCHOR}/*"',
        f"block drop quick on {GROUP}",
        # By whatever interface: a rule of the site's would let it out of others than egress, and as it is.
        f"block drop out quick received-on {GROUP}",
    ]
    return "".join(f"{line}\n" for line in lines)


def render_queues(exits: Iterable[Egress], uplink: str) -> dict[str, str]:
    """Return the queues of ``exits``, and the rules that fill them, by the interface that they are on.

    What a VM receives is limited on its tap, what it sends where that leaves; ``uplink`` is the interface that
    ``egress`` stands for.  Queues are of the main rules only, and pf(4) takes none on an interface that is not there,
    nor any other rule beside it (observed): the helper loads these before the host's own, while theirs are there.
    """
    exits = tuple(exits)
    found = {}
    for vm in exits:
        if vm.bandwidth.down:
            rate = _rate(vm.bandwidth.down)
            line = f"queue okubsd_d{vm.number} on tap{vm.number} bandwidth {rate} max {rate} default\n"
            found[f"tap{vm.number}"] = line
    sending = [vm for vm in exits if vm.bandwidth.up and vm.out]
    for interface in sorted({vm.out for vm in sending}):
        real = uplink if interface == UPLINK else interface
        lines = [
            f"queue okubsd_{real} on {real} bandwidth 4G",
            f"queue okubsd_{real}_rest parent okubsd_{real} bandwidth 4G default",
        ]
        for vm in (vm for vm in sending if vm.out == interface):
            rate = _rate(vm.bandwidth.up)
            lines.append(f"queue okubsd_u{vm.number} parent okubsd_{real} bandwidth {rate} max {rate}")
            lines.append(f"match out on {real} inet tagged {vm.tag} set queue okubsd_u{vm.number}")
        found[real] = "".join(f"{line}\n" for line in lines)
    return found


def _rate(bits: int) -> str:
    for unit, size in (("G", 10**9), ("M", 10**6)):
        if bits % size == 0:
            return f"{bits // size}{unit}"
    return f"{bits // 1000}K"


def render_anchor(vm: Egress, now: float = 0.0) -> str:
    """Return the anchor of a VM, with the rules that are in force after ``now`` (seconds since the epoch).

    $G, the guest's address, is defined when it is loaded (pfctl -D G=ADDRESS).
    """
    tunnelled = vm.out not in ("", UPLINK)
    lines = [f'# okubsd: the way out of the VM "{vm.name}"; okubsd-helper defines G, the guest\'s address.']
    if tunnelled and vm.mtu:
        lines.append(f"match on {vm.out} scrub (no-df max-mss {vm.mtu - _HEADS})")
    lines += [f'anchor "{_TAP}" on tap{vm.number} {{', f'\tanchor "{_RDOMAIN}" on rdomain {vm.rdomain} {{']
    inner = _rules(vm, now) if vm.out else ()
    ssh = f'pass out quick inet proto tcp from (tap{vm.number}) to $G port 22 label "{vm.label}:ssh"'
    lines += [*(f"\t\t{line}" for line in (*inner, ssh)), "\t}", "\tblock drop quick", "}"]
    if tunnelled and table_names(vm.rules):
        asked = f'to {vm.resolver} port 53 label "{vm.label}:names"'
        lines.append(f"pass out quick on {vm.out} inet proto {{ tcp udp }} from ({vm.out}) {asked}")
    if vm.out:
        leaving = f"pass out quick on {vm.out} inet from $G received-on tap{vm.number} nat-to ({vm.out})"
        lines.append(f'{leaving} label "{vm.label}:out"')
    return "".join(f"{line}\n" for line in lines)


def table_names(rules: Iterable[Rule]) -> dict[str, str]:
    """Return the host names in ``rules``, each with the table that holds its addresses."""
    names = dict.fromkeys(rule.target for rule in rules if is_name(rule))
    return {name: f"name{number}" for number, name in enumerate(names, 1)}


def render_names(vm: Egress, now: float = 0.0) -> str:
    """Return the file for the program `names`: a name, and an anchor and its table, a line.

    A rule that ends has its table beside it, in the anchor that ends with it.
    """
    tables, inner = table_names(vm.rules), rules_path(vm.name)
    places = (
        (rule.target, f"{inner}/{ending}" if ending else inner)
        for _, ending, rules in _groups(vm.rules, now)
        for rule in rules
        if is_name(rule)
    )
    return "".join(f"{name} {path}:{tables[name]}\n" for name, path in dict.fromkeys(places))


def _groups(rules: Iterable[Rule], now: float) -> Iterator[tuple[bool, str, tuple[Rule, ...]]]:
    """Return what is written together: whether it holds without being said, the anchor it ends with or "", the rules.

    What holds without being said is one rule as long as nothing of the user's comes between.
    """
    parts: dict[int, int] = {}
    for (built_in, end), grouped in groupby(effective_rules(rules, now), _kind):
        if end is not None:
            parts[end] = parts.get(end, 0) + 1
        yield built_in, "" if end is None else _ending(end, parts[end]), tuple(grouped)


def _rules(vm: Egress, now: float) -> Iterator[str]:
    yield "block drop in quick inet6"
    yield "block drop in quick inet from ! $G"
    if asks_names(vm.rules, now):
        diverted = f'rdr-to {vm.resolver}{vm.table} label "{vm.label}:dns"'
        yield f"pass in quick inet proto {{ tcp udp }} from $G to any port 53 {diverted}"
    yield f'block return in quick inet from $G to (self) label "{vm.label}:host"'
    tables = table_names(vm.rules)
    for built_in, ending, rules in _groups(vm.rules, now):
        if built_in:
            refused = " ".join(rule.target for rule in rules)
            yield f'block return in quick inet from $G to {{ {refused} }} label "{vm.label}:private"'
            continue
        lines = [line for rule in rules for line in _rule(vm, rule, tables)]
        yield from [f'anchor "{ending}" {{', *(f"\t{line}" for line in lines), "}"] if ending else lines


def _kind(rule: Rule) -> tuple[bool, int | None]:
    """Return what is written together: what is denied without being said, and what ends at the same time."""
    return rule in BUILT_IN and not rule.allow, rule.until


def _rule(vm: Egress, rule: Rule, tables: dict[str, str]) -> Iterator[str]:
    action = "pass" if rule.allow else "block return"
    protocol = rule.protocol or ("{ tcp udp }" if rule.ports else "")
    target = f"<{tables[rule.target]}>" if is_name(rule) else rule.target
    words = [f"{action} in quick inet", f"proto {protocol}" if protocol else "", "from $G"]
    words += [f"to {target}" if target != "any" or rule.ports else "", f"port {_ports(rule)}" if rule.ports else ""]
    line = " ".join(word for word in words if word)
    if rule.allow:
        line += f" tag {vm.tag}" if vm.bandwidth.up else ""
        line += vm.table
    if rule.line:
        yield f"# {comment(rule)}"
    yield f'{line} label "{vm.label}:{f"r{rule.line}" if rule.line else "in"}"'


def comment(rule: Rule) -> str:
    """Return where a rule is written and what it says, as a comment in the anchor and as the words of `why`."""
    words = f"{rule.file}:{rule.line}: {'allow' if rule.allow else 'deny'} {render_rule(rule)}"
    # A backslash at its end would take the next line into the comment.
    return (f"{words} ({rule.comment})" if rule.comment else words).replace("\\", "/")


def _ports(rule: Rule) -> str:
    words = [str(first) if first == last else f"{first}:{last}" for first, last in rule.ports]
    return words[0] if len(words) == 1 else "{ " + " ".join(words) + " }"
