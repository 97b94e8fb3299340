"""One rule of pf.conf(5) as pfctl(8) reads it: its fixed order, its ends, its options, and what goes together.

Source: sbin/pfctl/parse.y of OpenBSD 7.6 to 7.8 and pf.conf(5); verdicts were observed on the parser itself.
"""

from __future__ import annotations

from typing import Any

from okubsd.pf.rule_ends import LARGEST_RTABLE, EndsParser
from okubsd.pf.rules import PfAddress

LONGEST_LABEL = 63  # PF_RULE_LABEL_SIZE less its NUL
_ICMP_TYPES = "echoreq echorep unreach squench redir timex paramprob neighbrsol neighbradv routersol routeradv"
_ICMP = frozenset(_ICMP_TYPES.split())


class RuleParser(EndsParser):
    """Reads one rule, with all its options."""

    def options(self, line: int) -> dict[str, Any]:
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

    def _translation(self, line: int) -> tuple[PfAddress, ...]:
        found: list[PfAddress] = []
        self.listed(lambda: found.append(self.peer(line)))
        return tuple(found)

    def _received_on(self) -> str:
        return self.accept("any") or self.interface()

    def _route(self, line: int) -> None:
        if self.next.kind == "(":
            raise self.fail()
        self.peer(line)

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

    def check(self, given: dict[str, Any], action: str, line: int) -> None:
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
