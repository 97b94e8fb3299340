"""What pfctl(8) reads in a pf.conf(5): the part of its grammar that packet filtering on a workstation needs.

Source: sbin/pfctl/parse.y of OpenBSD 7.6 to 7.8 and pf.conf(5); verdicts were observed on the parser itself.
Lists are kept as lists here, where pfctl(8) writes out a rule for each combination.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from okubsd.config.parse_y import ConfError, Lexer, Token

LONGEST_LABEL = 63  # PF_RULE_LABEL_SIZE less its NUL
LONGEST_TABLE = 31  # PF_TABLE_NAME_SIZE less its NUL
LONGEST_INTERFACE = 15  # IFNAMSIZ less its NUL
LARGEST_RTABLE = 255  # RT_TABLEID_MAX

PROTOCOLS = ("tcp", "udp", "icmp", "icmp6", "esp", "ah", "gre", "igmp", "ipv6", "carp")
SERVICES = {"domain": 53, "ssh": 22, "www": 80, "http": 80, "https": 443, "bootps": 67, "bootpc": 68, "ntp": 123}
_ICMP_TYPES = "echoreq echorep unreach squench redir timex paramprob neighbrsol neighbradv routersol routeradv"
_ICMP = frozenset(_ICMP_TYPES.split())

_WORDS = """
all anchor antispoof any block default divert-packet drop fingerprints flags flows from group in include inet inet6
keep label load log match max min modulate nat-to no on out parent pass port prio proto queue quick rdomain rdr-to
received-on reply-to return return-icmp return-rst route-to rtable scrub set skip state static-port synproxy table
tag tagged to tos user
"""
KEYWORDS = frozenset(_WORDS.split())


class Peer(msgspec.Struct, frozen=True, kw_only=True):
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


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One rule, and where it stands; lists mean "one of"; an empty list means "whatever".

    ``action`` is "pass", "block", "match" or "anchor"; ``children`` are the rules of an inline anchor and
    ``anchor`` the name of a called one; ``nat_to`` and ``rdr_to`` are addresses or interfaces in parentheses.
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
    source: tuple[Peer, ...] = ()
    source_ports: tuple[Port, ...] = ()
    target: tuple[Peer, ...] = ()
    target_ports: tuple[Port, ...] = ()
    received_on: str = ""
    not_received_on: bool = False
    label: str = ""
    rtable: int | None = None
    nat_to: tuple[Peer, ...] = ()
    rdr_to: tuple[Peer, ...] = ()
    rdr_port: int | None = None
    tag: str = ""
    tagged: str = ""
    anchor: str | None = None
    children: tuple[Rule, ...] = ()


class Ruleset(msgspec.Struct, frozen=True, kw_only=True):
    """A whole file: its rules in order, its tables, the interfaces that pf skips, and its queues."""

    rules: tuple[Rule, ...] = ()
    tables: Mapping[str, tuple[Peer, ...]] = {}
    skipped: tuple[str, ...] = ()
    queues: tuple[str, ...] = ()


class PfHost(msgspec.Struct, frozen=True, kw_only=True):
    """What the parser asks the host: addresses of an interface or group, routing tables, included files."""

    interfaces: Mapping[str, tuple[str, ...]] = {}
    rtables: frozenset[int] | None = None
    read: Callable[[str], str | None] = lambda path: None


def parse_pf(
    text: str, file: str = "pf.conf", host: PfHost | None = None, macros: Mapping[str, str] | None = None
) -> Ruleset:
    """Return the rules of ``text``.

    ``file`` is the name that rules and mistakes carry, ``macros`` what pfctl -D was given.
    Raises ConfError with pfctl's own message for the first mistake.
    """
    return _Parser(text, file, host or PfHost(), macros).parse()


class _Parser:
    def __init__(self, text: str, file: str, host: PfHost, macros: Mapping[str, str] | None) -> None:
        self.file, self.host = file, host
        self.lines = text.split("\n")
        self.tokens = Lexer(text, KEYWORDS, macros).tokens()
        self.at = 0
        self.tables: dict[str, tuple[Peer, ...]] = {}
        self.skipped: list[str] = []
        self.queues: list[str] = []
        self.leaf_queues_have_default = True
        self.uses_queue = False

    # --- tokens -------------------------------------------------------------

    @property
    def next(self) -> Token:
        return self.tokens[self.at]

    def take(self) -> Token:
        token = self.tokens[self.at]
        self.at = min(self.at + 1, len(self.tokens) - 1)
        return token

    def fail(self, sentence: str = "syntax error", line: int = 0) -> ConfError:
        return ConfError(line or self.next.line, sentence)

    def is_text(self, *words: str) -> bool:
        return self.next.kind in ("word", "string") and self.next.text in words

    def accept(self, *words: str) -> str:
        return self.take().text if self.is_text(*words) else ""

    def need(self, *words: str) -> str:
        found = self.accept(*words)
        if not found:
            raise self.fail()
        return found

    def mark(self, kind: str) -> None:
        if self.next.kind != kind:
            raise self.fail()
        self.take()

    def accept_mark(self, kind: str) -> bool:
        return self.next.kind == kind and bool(self.take())

    def string(self) -> str:
        if self.next.kind != "string":
            raise self.fail()
        return self.take().text

    def number(self) -> int:
        if self.next.kind != "number":
            raise self.fail()
        return int(self.take().text)

    def listed(self, one: Callable[[], None]) -> None:
        """Read one item, or a list of them in braces."""
        if not self.accept_mark("{"):
            one()
            return
        if self.next.kind == "}":
            raise self.fail()
        while not self.accept_mark("}"):
            if self.next.kind == "newline":
                self.take()
                continue
            one()
            self.accept_mark(",")

    # --- file ---------------------------------------------------------------

    def parse(self) -> Ruleset:
        rules = self._rules(until="end")
        if self.queues and not self.leaf_queues_have_default:
            raise ConfError(len(self.lines), "no default queue specified")
        return Ruleset(rules=tuple(rules), tables=self.tables, skipped=tuple(self.skipped), queues=tuple(self.queues))

    def _rules(self, until: str) -> list[Rule]:
        found: list[Rule] = []
        while True:
            while self.next.kind == "newline":
                self.take()
            if self.next.kind == until:
                return found
            found += self._statement()
            if self.next.kind not in ("newline", "end"):
                raise self.fail()

    def _statement(self) -> list[Rule]:
        match self.need("set", "table", "queue", "include", "antispoof", "anchor", "block", "pass", "match"):
            case "set":
                self._set()
            case "table":
                self._table()
            case "queue":
                self._queue()
            case "include":
                return self._include()
            case "antispoof":
                return self._antispoof()
            case "anchor":
                return [self._anchor()]
            case action:
                return [self._rule(action)]
        return []

    def _set(self) -> None:
        option = self.take().text
        match option:
            case "skip":
                self.need("on")
                self.listed(lambda: self.skipped.append(self.string()))
            case "limit":
                self.listed(self._limit)
            case "block-policy":
                self.need("drop", "return")
            case "state-policy":
                self.need("if-bound", "floating")
            case "loginterface" | "debug" | "optimization" | "ruleset-optimization" | "hostid":
                self.take()
            case "timeout":
                self.listed(self._timeout)
            case "reassemble":
                self.need("yes", "no")
                self.accept("no-df")
            case _:
                raise self.fail()

    def _limit(self) -> None:
        self.need("states", "frags", "src-nodes", "tables", "table-entries", "pktdelay-pkts")
        self.number()

    def _timeout(self) -> None:
        self.string()
        self.number()

    def _table(self) -> None:
        name = self._table_name()
        line = self.next.line
        found: list[Peer] = []
        while self.next.kind not in ("newline", "end"):
            if self.accept("persist", "const", "counters"):
                continue
            if self.accept("file"):
                self.string()
                continue
            if self.next.kind != "{":
                raise self.fail()
            self.listed(lambda: found.append(self._peer(line)))
        self.tables[name] = tuple(found)

    def _table_name(self) -> str:
        self.mark("<")
        line, name = self.next.line, self.string()
        self.mark(">")
        if len(name) > LONGEST_TABLE:
            raise self.fail(f"table name too long, max {LONGEST_TABLE} chars", line)
        return name

    def _queue(self) -> None:
        name = self.string()
        leaf_default = False
        self.leaf_queues_have_default = bool(self.queues) and self.leaf_queues_have_default
        while self.next.kind not in ("newline", "end"):
            line = self.next.line
            match self.need("on", "parent", "flows", "bandwidth", "min", "max", "qlimit", "default", "quantum"):
                case "on" | "parent":
                    self.string()
                case "default":
                    leaf_default = True
                case "flows" | "qlimit" | "quantum":
                    self.number()
                case _:
                    if self.take().text.endswith("%"):
                        raise self.fail("no bandwidth in % yet", line)
        self.queues.append(name)
        self.leaf_queues_have_default = self.leaf_queues_have_default or leaf_default

    def _include(self) -> list[Rule]:
        line, path = self.next.line, self.string()
        text = self.host.read(path)
        if text is None:
            raise self.fail(f"failed to include file {path}", line)
        inner = parse_pf(text, path, self.host)
        self.tables.update(inner.tables)
        self.skipped += inner.skipped
        self.queues += inner.queues
        return list(inner.rules)

    def _antispoof(self) -> list[Rule]:
        self.accept("log")
        quick = bool(self.accept("quick"))
        self.need("for")
        line, names = self.next.line, []
        self.listed(lambda: names.append(self._interface()))
        af = self.accept("inet", "inet6")
        if self.accept("label"):
            self.string()
        # pfctl writes two rules for each: the interface's network elsewhere, and its own address coming in.
        return [self._antispoof_rule(name, af, line, quick=quick) for name in names]

    def _antispoof_rule(self, name: str, af: str, line: int, *, quick: bool) -> Rule:
        peer = Peer(kind="dynamic", value=name, modifier="network")
        on = On(interface=name, negated=True)
        return Rule(
            action="block", answer="drop", file=self.file, line=line, text=self._text(line), direction="in",
            quick=quick, on=(on,), af=af, source=(peer,),
        )  # fmt: skip

    def _text(self, line: int) -> str:
        """Return the rule that begins on ``line``, with the lines it goes on to."""
        text = self.lines[line - 1].strip()
        while text.endswith("\\") and line < len(self.lines):
            line += 1
            text = text[:-1].rstrip() + " " + self.lines[line - 1].strip()
        return text

    # --- rules --------------------------------------------------------------

    def _anchor(self) -> Rule:
        line = self.tokens[self.at - 1].line
        name = self.string() if self.next.kind == "string" else ""
        given = self._filter(line)
        children: tuple[Rule, ...] = ()
        inline = self.accept_mark("{")
        if inline:
            self.mark("newline")
            children = tuple(self._rules(until="}"))
            end = self.next.line
            self.mark("}")
            if "/" in name:
                raise self.fail("anchor paths containing '/' cannot be used for inline anchors.", end)
        elif not name:
            raise self.fail()
        given |= self._options(line)
        self._check(given, "anchor", line)
        return Rule(
            action="anchor", anchor=None if inline else name, children=children, file=self.file, line=line,
            text=self._text(line), **given,
        )  # fmt: skip

    def _rule(self, action: str) -> Rule:
        line = self.tokens[self.at - 1].line
        answer = self._answer() if action == "block" else ""
        given = {**self._filter(line), **self._options(line)}
        self._check(given, action, line)
        return Rule(action=action, answer=answer, file=self.file, line=line, text=self._text(line), **given)

    def _answer(self) -> str:
        answer = self.accept("drop", "return", "return-rst", "return-icmp")
        if answer.startswith("return-") and self.accept_mark("("):
            while not self.accept_mark(")"):
                self.take()
        return answer

    def _filter(self, line: int) -> dict[str, Any]:
        """Read the fixed order of a rule: direction, log, quick, on, family, protocol, ends."""
        given: dict[str, Any] = {"direction": self.accept("in", "out")}
        self._log()
        given["quick"] = bool(self.accept("quick"))
        if self.accept("on"):
            given["on"] = self._on()
        given["af"] = self.accept("inet", "inet6")
        if self.accept("proto"):
            protocols: list[str] = []
            self.listed(lambda: protocols.append(self._protocol()))
            given["protocols"] = tuple(protocols)
        if self.accept("all"):
            return given
        for key, word in (("source", "from"), ("target", "to")):
            if self.accept(word):
                peers, ports = self._end(line)
                given[key], given[f"{key}_ports"] = peers, ports
        return given

    def _log(self) -> None:
        if self.accept("log") and self.accept_mark("("):
            while not self.accept_mark(")"):
                self.take()

    def _on(self) -> tuple[On, ...]:
        found: list[On] = []

        def one() -> None:
            negated = self.accept_mark("!")
            line = self.next.line
            if self.accept("rdomain"):
                number = self.number()
                if not 0 <= number <= LARGEST_RTABLE:
                    raise self.fail(f"rdomain {number} outside range", line)
                found.append(On(rdomain=number, negated=negated))
            elif self.accept("any"):
                found.append(On(interface="any", negated=negated))
            else:
                found.append(On(interface=self._interface(), negated=negated))

        self.listed(one)
        return tuple(found)

    def _interface(self) -> str:
        line, name = self.next.line, self.string()
        if len(name) > LONGEST_INTERFACE:
            raise self.fail("interface name too long", line)
        return name

    def _protocol(self) -> str:
        line = self.next.line
        name = self.take().text if self.next.kind == "number" else self.string()
        if not name.isdigit() and name not in PROTOCOLS:
            raise self.fail(f"unknown protocol {name}", line)
        return name

    # --- ends ---------------------------------------------------------------

    def _end(self, line: int) -> tuple[tuple[Peer, ...], tuple[Port, ...]]:
        peers: list[Peer] = []
        ports: list[Port] = []
        if not self.is_text("port"):
            self.listed(lambda: peers.append(self._peer(line)))
        if self.accept("port"):
            self.listed(lambda: ports.extend(self._ports()))
        return tuple(peers), tuple(ports)

    def _peer(self, line: int) -> Peer:
        negated = self.accept_mark("!")
        if self.accept("any"):
            return Peer(kind="any", negated=negated)
        if self.next.kind == "<":
            return Peer(kind="table", value=self._table_name(), negated=negated)
        if self.accept_mark("("):
            name, _, modifier = self._dynamic().partition(":")
            self.mark(")")
            return Peer(kind="self" if name == "self" else "dynamic", value=name, negated=negated, modifier=modifier)
        word = self.take().text if self.next.kind == "number" else self.string()
        if word in ("no-route", "urpf-failed", "self"):
            return Peer(kind=word, negated=negated)
        return self._address(word, negated, line)

    def _dynamic(self) -> str:
        word = self.string()
        if self.next.kind == "string" and word.endswith(":"):
            word += self.take().text
        return word

    def _address(self, word: str, negated: bool, line: int) -> Peer:
        host, slash, length = word.partition("/")
        if slash and ":" not in host and (not length.isdigit() or int(length) > 32):
            raise self.fail(f"netmask {length} invalid for IPv4 address", line)
        try:
            network = ipaddress.ip_network(word, strict=False)
        except ValueError:
            addresses = self.host.interfaces.get(word, ())
            if not addresses:
                raise self.fail("could not parse host specification", line) from None
            return Peer(kind="address", value=str(ipaddress.ip_interface(addresses[0]).ip), negated=negated)
        return Peer(kind="address", value=str(network), negated=negated)

    def _ports(self) -> list[Port]:
        operator = ""
        while self.next.kind in ("<", ">", "!", "="):
            operator += self.take().kind
        first = self._port()
        match operator:
            case "" if isinstance(first, Port):
                return [first]
            case "" | "=":
                return [first] if isinstance(first, Port) else []
            case ">" | ">=":
                return [Port(first.first + (operator == ">"), 65535)]
            case "<" | "<=":
                return [Port(0, first.first - (operator == "<"))]
            case "!=":
                return [Port(0, first.first - 1), Port(first.first + 1, 65535)]
            case _:
                raise self.fail()

    def _port(self) -> Port:
        line = self.next.line
        word = self.take().text if self.next.kind == "number" else self.string()
        low, colon, high = word.partition(":")
        numbers = [
            SERVICES.get(part, int(part) if part.isdigit() else -1) for part in ((low, high) if colon else (low,))
        ]
        for part, number in zip((low, high), numbers, strict=False):
            if number > 65535:
                raise self.fail(f"illegal port value {number}", line)
            if number < 0:
                raise self.fail(f"unknown port {part}", line)
        return Port(numbers[0], numbers[-1])

    # --- options ------------------------------------------------------------

    def _options(self, line: int) -> dict[str, Any]:
        """Read what follows the ends, in any order."""
        given: dict[str, Any] = {}
        while self.next.kind not in ("newline", "end", "{", "}"):
            self._option(given, line)
        return given

    def _option(self, given: dict[str, Any], line: int) -> None:
        if self.accept_mark("!"):
            self.need("received-on")
            given["received_on"], given["not_received_on"] = self._received_on(), True
            return
        word = self.need(
            "label", "rtable", "nat-to", "rdr-to", "received-on", "tag", "tagged", "route-to", "reply-to", "scrub",
            "keep", "modulate", "synproxy", "no", "set", "flags", "icmp-type", "icmp6-type", "user", "group", "tos",
            "static-port", "round-robin", "random", "sticky-address", "code", "allow-opts", "once", "divert-packet",
        )  # fmt: skip
        at = self.next.line
        match word:
            case "label":
                self._label(given, at)
            case "rtable":
                given["rtable"] = self._rtable(at)
            case "nat-to":
                given["nat_to"] = self._translation(line)
            case "rdr-to":
                given["rdr_to"] = self._translation(line)
                if self.accept("port"):
                    given["rdr_port"] = self._port().first
            case "received-on":
                given["received_on"] = self._received_on()
            case "tag" | "tagged":
                given[word] = self.string()
            case "user" | "group":
                given["_user"] = True
                self.take()
            case _:
                self._small_option(word, at)

    def _small_option(self, word: str, line: int) -> None:
        match word:
            case "route-to" | "reply-to":
                self._route(line)
            case "scrub":
                self._scrub()
            case "icmp-type" | "icmp6-type":
                self._icmp()
            case "keep" | "modulate" | "synproxy":
                self.need("state")
                if self.accept_mark("("):
                    while not self.accept_mark(")"):
                        self.take()
            case "no":
                self.need("state")
            case "set":
                self._set_option(line)
            case "flags" | "tos":
                self.take()
            case _:
                pass

    def _set_option(self, line: int) -> None:
        match self.need("queue", "prio", "tos"):
            case "queue":
                name = self.take().text
                if name not in self.queues:
                    raise self.fail(f"queue {name} is not defined", line)
                self.uses_queue = True
            case _:
                self.take()

    def _label(self, given: dict[str, Any], line: int) -> None:
        label = self.string()
        if "label" in given:
            raise self.fail("label cannot be redefined", line)
        if len(label) > LONGEST_LABEL:
            raise self.fail(f"rule label too long (max {LONGEST_LABEL} chars)", line)
        given["label"] = label

    def _rtable(self, line: int) -> int:
        number = self.number()
        if not 0 <= number <= LARGEST_RTABLE:
            raise self.fail("invalid rtable id", line)
        if self.host.rtables is not None and number not in self.host.rtables:
            raise self.fail(f"rtable {number} does not exist", line)
        return number

    def _translation(self, line: int) -> tuple[Peer, ...]:
        found: list[Peer] = []
        self.listed(lambda: found.append(self._peer(line)))
        return tuple(found)

    def _received_on(self) -> str:
        return self.accept("any") or self._interface()

    def _route(self, line: int) -> None:
        if self.next.kind == "(":
            raise self.fail()
        self._peer(line)

    def _scrub(self) -> None:
        self.mark("(")
        while not self.accept_mark(")"):
            if self.need("no-df", "random-id", "min-ttl", "max-mss", "reassemble") in ("min-ttl", "max-mss"):
                self.number()
            self.accept_mark(",")

    def _icmp(self) -> None:
        before = self.at

        def one() -> None:
            if self.next.kind != "number" and self.next.text not in _ICMP:
                raise self.fail()
            self.take()

        self.listed(one)
        single = self.at == before + 1
        if single and self.accept("code"):
            self.take()

    # --- what only makes sense together ---------------------------------------

    def _check(self, given: dict[str, Any], action: str, line: int) -> None:
        protocols = given.get("protocols") or ()
        with_ports = given.get("source_ports") or given.get("target_ports")
        tcp_udp = bool(protocols) and all(name in ("tcp", "udp") for name in protocols)
        if with_ports and not tcp_udp:
            raise self.fail("port only applies to tcp/udp", line)
        if given.pop("_user", False) and not tcp_udp:
            raise self.fail("user only applies to tcp/udp", line)
        families = self._families(given, ("source", "target"))
        if given.get("af") and any(family != given["af"] for family in families):
            raise self.fail("rule expands to no valid combination", line)
        self._check_translation(given, action, line)

    def _check_translation(self, given: dict[str, Any], action: str, line: int) -> None:
        if not (given.get("nat_to") or given.get("rdr_to")):
            return
        if not given.get("direction") and action != "match":
            raise self.fail("nat-to and rdr-to require a direction", line)
        families = self._families(given, ("nat_to", "rdr_to"))
        if len(set(families)) > 1:
            raise self.fail("translation spec contains addresses with different address families", line)
        if given.get("af") and any(family != given["af"] for family in families):
            raise self.fail("af mismatch in translation spec", line)

    @staticmethod
    def _families(given: dict[str, Any], keys: tuple[str, ...]) -> list[str]:
        peers = [peer for key in keys for peer in given.get(key, ())]
        return ["inet6" if ":" in peer.value else "inet" for peer in peers if peer.kind == "address"]


def traps(ruleset: Ruleset) -> list[str]:
    """Return what pfctl takes although it does not do what it seems to, a sentence each."""
    return [f"{rule.line}: {sentence}" for rule in walk(ruleset.rules) for sentence in _traps_of(rule)]


def walk(rules: tuple[Rule, ...]) -> list[Rule]:
    """Return ``rules`` and those of their inline anchors, in order."""
    return [found for rule in rules for found in (rule, *walk(rule.children))]


def _traps_of(rule: Rule) -> list[str]:
    found = []
    if any(on.negated and on.rdomain is not None for on in rule.on):
        found.append("`on ! rdomain` never matches; say it positively, with nested anchors")
    if rule.nat_to and rule.direction == "in":
        found.append("nat-to on a packet that comes in translates before the route is looked up")
    if rule.rdr_to and rule.direction == "out":
        found.append("rdr-to on a packet that goes out: its route was chosen by the old address")
    if rule.received_on and rule.direction == "in":
        found.append("received-on means something for packets that go out only")
    return found
