"""One order of rules, one list of ranges: pf, nftables, routes, `why` and a guest's `names` say the same."""

from __future__ import annotations

import ipaddress
import re
import subprocess
from fnmatch import fnmatchcase

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from okubsd.guest.names import BEGIN, END, globs, render_special
from okubsd.model import NAT, Vm
from okubsd.network import user
from okubsd.nft.render import render_namespace
from okubsd.pf.evaluate import evaluate
from okubsd.pf.grammar import parse_pf
from okubsd.pf.render import Egress, render_anchor, render_main
from okubsd.plan.why import decide
from okubsd.rules import REFUSED, SPECIAL, Bandwidth, Rule
from tests.conftest import CHECKOUT, same_as_file
from tests.nft_evaluate import NftPacket, leaves
from tests.openbsd.test_pf import packet as pf_packet

NOW = 1_790_000_000.0
NAMES = CHECKOUT / "images/base/files/usr/lib/okubsd/names"

NETWORKS = st.builds(
    lambda number, prefix: str(ipaddress.IPv4Network((number, prefix), strict=False)),
    st.integers(0, 2**32 - 1),
    st.integers(1, 32),
)
TARGETS = st.one_of(st.just("any"), NETWORKS, st.sampled_from([special.network for special in SPECIAL]))
PORTS = st.lists(
    st.tuples(st.integers(1, 65535), st.integers(0, 200)).map(lambda p: (p[0], min(65535, p[0] + p[1]))), max_size=3
).map(tuple)


@st.composite
def rules_of_a_vm(draw: st.DrawFn) -> tuple[Rule, ...]:
    made = []
    for line in range(1, draw(st.integers(0, 6)) + 1):
        protocol = draw(st.sampled_from(["", "tcp", "udp", "icmp"]))
        ports = () if protocol == "icmp" else draw(PORTS)
        until = draw(st.sampled_from([None, None, int(NOW) - 60, int(NOW) + 60]))
        target = draw(TARGETS)
        made.append(
            Rule(
                allow=draw(st.booleans()),
                target=target,
                ports=ports,
                protocol=protocol,
                until=until,
                line=line,
                file="okubsd.yaml",
            )
        )
    return tuple(made)


def inside(network: str, draw: st.DrawFn) -> str:
    parsed = ipaddress.IPv4Network(network)
    return str(parsed[draw(st.integers(0, parsed.num_addresses - 1))])


@st.composite
def rules_and_packets(draw: st.DrawFn) -> tuple[tuple[Rule, ...], str, str, int]:
    rules = draw(rules_of_a_vm())
    near = [rule.target for rule in rules if rule.target != "any"]
    where = draw(st.sampled_from([*near, *(special.network for special in SPECIAL), "0.0.0.0/0"]))
    protocol = draw(st.sampled_from(["tcp", "udp", "icmp"]))
    edges = [edge for rule in rules for ports in rule.ports for edge in ports]
    # DNS goes to the resolver whatever a rule says of its address: that is another test's.
    port = 0 if protocol == "icmp" else draw(st.sampled_from([*edges, 80, 443, 65535]).filter(lambda n: n != 53))
    return rules, inside(where, draw), protocol, port


def by_pf(rules: tuple[Rule, ...], target: str, protocol: str, port: int) -> bool:
    vm = Egress(name="work", number=101, rdomain=101, kind=NAT.kind, out="egress", resolver="9.9.9.9", rules=rules)
    main, anchor = parse_pf(render_main() + "pass\n"), parse_pf(render_anchor(vm, NOW), macros={"G": "100.64.1.3"})
    # Addresses that no packet here has.
    addresses = {"tap101": ("192.0.2.2/31",), "egress": ("192.0.2.10/32",), "self": ("192.0.2.10/32",)}
    found = pf_packet(target, protocol=protocol, target_port=port)
    return evaluate(main, {"okubsd/work": anchor}, found, addresses).passes


@given(rules_and_packets())
@example(((), "240.0.0.1", "tcp", 443))
@example(((), "198.18.0.1", "tcp", 443))
@settings(max_examples=300, deadline=None)
def test_pf_nftables_and_why_decide_alike(case: tuple[tuple[Rule, ...], str, str, int]) -> None:
    rules, target, protocol, port = case
    if target.startswith("192.0.2."):
        return
    said = decide(Vm(name="work", image="term", network=NAT, rules=rules), target, protocol, port, NOW).passes
    text = render_namespace(rules, Bandwidth(), host=(), asked="10.0.3.3", resolver="", now=NOW)
    assert leaves(text, NftPacket(target=target, protocol=protocol, port=port, now=NOW)) is said
    assert by_pf(rules, target, protocol, port) is said


def test_without_rules_the_routes_refuse_what_the_rules_would() -> None:
    batch = user.namespace_batch(NAT, ())
    assert [line.split()[-1] for line in batch.splitlines() if "prohibit" in line] == list(REFUSED)


@given(st.integers(0, 2**32 - 1))
def test_the_patterns_of_a_range_match_its_addresses_and_no_other(number: int) -> None:
    address = ipaddress.IPv4Address(number)
    for known in SPECIAL:
        matched = any(fnmatchcase(str(address), pattern) for pattern in globs(known.network))
        assert matched is (address in ipaddress.IPv4Network(known.network)), known


def test_the_script_in_the_image_has_the_one_list() -> None:
    text = NAMES.read_text()
    found = text[text.index(BEGIN) : text.index(END) + len(END) + 1]
    same_as_file(NAMES, text.replace(found, render_special()))


@pytest.mark.spawns
@pytest.mark.parametrize(
    ("address", "public"),
    [(inside_of, False) for special in SPECIAL for inside_of in (str(ipaddress.IPv4Network(special.network)[1]),
                                                                  str(ipaddress.IPv4Network(special.network)[-1]))]
    + [("9.9.9.9", True), ("198.17.255.255", True), ("198.20.0.0", True), ("172.15.0.1", True), ("172.32.0.1", True),
       ("100.63.0.1", True), ("100.128.0.1", True), ("223.255.255.255", True), ("1.2.3", False), ("1.2.3.4.5", False),
       ("", False), ("x", False)],
)  # fmt: skip
def test_the_script_itself_knows_them(address: str, public: bool) -> None:
    function = re.search(r"(?ms)^is_public\(\) \{\n.*?^\}", NAMES.read_text())
    assert function is not None
    done = subprocess.run(["sh", "-c", f'{function[0]}\nis_public "$1"', "sh", address], check=False)
    assert (done.returncode == 0) is public
