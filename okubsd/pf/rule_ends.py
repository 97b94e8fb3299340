"""What a rule of pf.conf(5) is about: where, which protocol, from whom to whom, and which ports."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from okubsd.config.parse_y import Cursor, Lexer
from okubsd.pf.rules import On, PfAddress, Port

LONGEST_TABLE = 31  # PF_TABLE_NAME_SIZE less its NUL
LONGEST_INTERFACE = 15  # IFNAMSIZ less its NUL
LARGEST_RTABLE = 255  # RT_TABLEID_MAX

PROTOCOLS = ("tcp", "udp", "icmp", "icmp6", "esp", "ah", "gre", "igmp", "ipv6", "carp")
SERVICES = {"domain": 53, "ssh": 22, "www": 80, "http": 80, "https": 443, "bootps": 67, "bootpc": 68, "ntp": 123}


class PfHost(msgspec.Struct, frozen=True, kw_only=True):
    """What the parser asks the host: addresses of an interface or group, routing tables, included files.

    ``present`` are the interfaces that are there, which only a queue has to be on; None takes any.
    """

    interfaces: Mapping[str, tuple[str, ...]] = {}
    rtables: frozenset[int] | None = None
    present: frozenset[str] | None = None
    read: Callable[[str], str | None] = lambda path: None


class EndsParser(Cursor):
    """What stands in one rule, and in the parts of it that tables and antispoof have too."""

    def __init__(self, lexer: Lexer, host: PfHost) -> None:
        super().__init__(lexer)
        self.host = host
        self.queues: list[str] = []

    # --- tokens -------------------------------------------------------------

    def is_text(self, *words: str) -> bool:
        return self.next.kind in ("word", "string") and self.next.text in words

    def accept(self, *words: str) -> str:
        return self.take().text if self.is_text(*words) else ""

    def need(self, *words: str) -> str:
        found = self.accept(*words)
        if not found:
            raise self.fail()
        return found

    def string(self) -> str:
        if self.next.kind != "string":
            raise self.fail()
        return self.take().text

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

    def table_name(self) -> str:
        self.mark("<")
        line, name = self.next.line, self.string()
        self.mark(">")
        if len(name) > LONGEST_TABLE:
            raise self.fail(f"table name too long, max {LONGEST_TABLE} chars", line)
        return name

    # --- the fixed order -------------------------------------------------------

    def answer(self) -> str:
        answer = self.accept("drop", "return", "return-rst", "return-icmp")
        if answer.startswith("return-") and self.accept_mark("("):
            while not self.accept_mark(")"):
                self.take()
        return answer

    def filter(self, line: int) -> dict[str, Any]:
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
                found.append(On(interface=self.interface(), negated=negated))

        self.listed(one)
        return tuple(found)

    def interface(self) -> str:
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

    def _end(self, line: int) -> tuple[tuple[PfAddress, ...], tuple[Port, ...]]:
        peers: list[PfAddress] = []
        ports: list[Port] = []
        if not self.is_text("port"):
            self.listed(lambda: peers.append(self.peer(line)))
        if self.accept("port"):
            self.listed(lambda: ports.extend(self._ports()))
        return tuple(peers), tuple(ports)

    def peer(self, line: int) -> PfAddress:
        negated = self.accept_mark("!")
        if self.accept("any"):
            return PfAddress(kind="any", negated=negated)
        if self.next.kind == "<":
            return PfAddress(kind="table", value=self.table_name(), negated=negated)
        if self.accept_mark("("):
            name, _, modifier = self._dynamic().partition(":")
            self.mark(")")
            return PfAddress(
                kind="self" if name == "self" else "dynamic", value=name, negated=negated, modifier=modifier
            )
        word = self.take().text if self.next.kind == "number" else self.string()
        if word in ("no-route", "urpf-failed", "self"):
            return PfAddress(kind=word, negated=negated)
        return self._address(word, negated, line)

    def _dynamic(self) -> str:
        word = self.string()
        if self.next.kind == "string" and word.endswith(":"):
            word += self.take().text
        return word

    def _address(self, word: str, negated: bool, line: int) -> PfAddress:
        host, slash, length = word.partition("/")
        if slash and ":" not in host and (not length.isdigit() or int(length) > 32):
            raise self.fail(f"netmask {length} invalid for IPv4 address", line)
        try:
            network = ipaddress.ip_network(word, strict=False)
        except ValueError:
            addresses = self.host.interfaces.get(word, ())
            if not addresses:
                raise self.fail("could not parse host specification", line) from None
            return PfAddress(kind="address", value=str(ipaddress.ip_interface(addresses[0]).ip), negated=negated)
        return PfAddress(kind="address", value=str(network), negated=negated)

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
