"""What pfctl(8) reads in a pf.conf(5): the part of its grammar that packet filtering on a workstation needs.

Source: sbin/pfctl/parse.y of OpenBSD 7.6 to 7.8 and pf.conf(5); verdicts were observed on the parser itself.
Lists are kept as lists here, where pfctl(8) writes out a rule for each combination.
"""

from __future__ import annotations

from collections.abc import Mapping

from okubsd.config.parse_y import ConfError, Lexer
from okubsd.pf.rule_ends import PfHost
from okubsd.pf.rule_grammar import RuleParser
from okubsd.pf.rules import On, PfAddress, PfRule, Ruleset

_WORDS = """
all anchor antispoof any block default divert-packet drop fingerprints flags flows from group in include inet inet6
keep label load log match max min modulate nat-to no on out parent pass port prio proto queue quick rdomain rdr-to
received-on reply-to return return-icmp return-rst route-to rtable scrub set skip state static-port synproxy table
tag tagged to tos user
"""
KEYWORDS = frozenset(_WORDS.split())


def parse_pf(
    text: str, file: str = "pf.conf", host: PfHost | None = None, macros: Mapping[str, str] | None = None
) -> Ruleset:
    """Return the rules of ``text``.

    ``file`` is the name that rules and mistakes carry, ``macros`` what pfctl -D was given.
    Raises ConfError with pfctl's own message for the first mistake.
    """
    return _Parser(text, file, host or PfHost(), macros).parse()


class _Parser(RuleParser):
    def __init__(self, text: str, file: str, host: PfHost, macros: Mapping[str, str] | None) -> None:
        super().__init__(Lexer(text, KEYWORDS, macros), host)
        self.file = file
        self.lines = text.split("\n")
        self.tables: dict[str, tuple[PfAddress, ...]] = {}
        self.inline: set[str] = set()
        self.skipped: list[str] = []
        self.leaf_queues_have_default = True

    def parse(self) -> Ruleset:
        rules = self._rules(until="end")
        if self.queues and not self.leaf_queues_have_default:
            raise ConfError(len(self.lines), "no default queue specified")
        return Ruleset(rules=tuple(rules), tables=self.tables, skipped=tuple(self.skipped), queues=tuple(self.queues))

    def _rules(self, until: str) -> list[PfRule]:
        found: list[PfRule] = []
        while True:
            while self.next.kind == "newline":
                self.take()
            if self.next.kind == until:
                return found
            found += self._statement()
            if self.next.kind not in ("newline", "end"):
                raise self.fail()

    def _statement(self) -> list[PfRule]:
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
        name = self.table_name()
        line = self.next.line
        found: list[PfAddress] = []
        while self.next.kind not in ("newline", "end"):
            if self.accept("persist", "const", "counters"):
                continue
            if self.accept("file"):
                self.string()
                continue
            if self.next.kind != "{":
                raise self.fail()
            self.listed(lambda: found.append(self.peer(line)))
        self.tables[name] = tuple(found)

    def _queue(self) -> None:
        name = self.string()
        leaf_default = False
        self.leaf_queues_have_default = bool(self.queues) and self.leaf_queues_have_default
        while self.next.kind not in ("newline", "end"):
            line = self.next.line
            match self.need("on", "parent", "flows", "bandwidth", "min", "max", "qlimit", "default", "quantum"):
                case "on":
                    interface = self.string()
                    if self.host.present is not None and interface not in self.host.present:
                        raise self.fail("not an interface", line)
                case "parent":
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

    def _include(self) -> list[PfRule]:
        line, path = self.next.line, self.string()
        text = self.host.read(path)
        if text is None:
            raise self.fail(f"failed to include file {path}", line)
        inner = parse_pf(text, path, self.host)
        self.tables.update(inner.tables)
        self.skipped += inner.skipped
        self.queues += inner.queues
        return list(inner.rules)

    def _antispoof(self) -> list[PfRule]:
        self.accept("log")
        quick = bool(self.accept("quick"))
        self.need("for")
        line, names = self.next.line, []
        self.listed(lambda: names.append(self.interface()))
        af = self.accept("inet", "inet6")
        if self.accept("label"):
            self.string()
        # pfctl writes two rules for each: the interface's network elsewhere, and its own address coming in.
        return [self._antispoof_rule(name, af, line, quick=quick) for name in names]

    def _antispoof_rule(self, name: str, af: str, line: int, *, quick: bool) -> PfRule:
        peer = PfAddress(kind="dynamic", value=name, modifier="network")
        on = On(interface=name, negated=True)
        return PfRule(
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

    def _anchor(self) -> PfRule:
        line = self.tokens[self.at - 1].line
        name = self.string() if self.next.kind == "string" else ""
        given = self.filter(line)
        children: tuple[PfRule, ...] = ()
        inline = self.accept_mark("{")
        tables: dict[str, tuple[PfAddress, ...]] = {}
        if inline:
            self.mark("newline")
            outer = self.tables, self.inline
            self.tables, self.inline = {}, set()
            children = tuple(self._rules(until="}"))
            tables = self.tables
            self.tables, self.inline = outer
            end = self.next.line
            self.mark("}")
            if name and name in self.inline:
                raise self.fail(f"inline anchor '{name}' already exists", end)
            if name:
                self.inline.add(name)
            if "/" in name:
                raise self.fail("anchor paths containing '/' cannot be used for inline anchors.", end)
        elif not name:
            raise self.fail()
        given |= self.options(line)
        self.check(given, "anchor", line)
        return PfRule(
            action="anchor", anchor=None if inline else name, children=children, file=self.file, line=line,
            text=self._text(line), named=name if inline else "", tables=tables, **given,
        )  # fmt: skip

    def _rule(self, action: str) -> PfRule:
        line = self.tokens[self.at - 1].line
        answer = self.answer() if action == "block" else ""
        given = {**self.filter(line), **self.options(line)}
        self.check(given, action, line)
        return PfRule(action=action, answer=answer, file=self.file, line=line, text=self._text(line), **given)
