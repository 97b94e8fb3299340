"""Networks of an OpenBSD host: for any description and any packet of a guest, it leaves by its own network or not."""

from __future__ import annotations

import ipaddress
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from okubsd.errors import BadDescription
from okubsd.layout import ANCHORS
from okubsd.model import NetworkKind
from okubsd.pf.evaluate import Packet, evaluate
from okubsd.pf.rules import Ruleset
from okubsd.plan.changes import wanted_files
from okubsd.plan.compile import Compiled, CompiledVm
from okubsd.plan.judge import compiled_mistakes, read_rules
from okubsd.plan.why import PfState, decide, explain, guest_packet, leaving_packet
from okubsd.rules import effective_rules, is_name, narrowness
from tests.openbsd.test_compile import NOW, PRIVATE, PUBLIC, SHARED, compiled, wish_of

NETWORKS = (
    "networks: {proton: {wireguard: a.conf}, home: {wireguard: b.conf, resolver: 10.1.1.1}, work: {openvpn: w.ovpn},"
    " tor: {gateway: onion}, lab: {switch: 10.77.0.1/24}, plain: {nat: yes, resolver: 192.0.2.53}}\n"
)
NAMES = ("nat", "none", "proton", "home", "work", "tor", "lab", "plain")
TARGETS = (
    "any",
    "198.51.100.7",
    "198.51.100.0/24",
    "10.1.2.3",
    "10.0.0.0/8",
    "192.168.1.0/24",
    "0.0.0.0/1",
    "100.64.0.0/10",
)

RULES = st.builds(
    lambda protocol, target, ports: f"'{protocol} {target}{ports if protocol != 'icmp' else ''}'",
    st.sampled_from(["", "tcp", "udp", "icmp"]), st.sampled_from(TARGETS),
    st.sampled_from(["", ":53", ":443", ":22", ":1000-2000", ":80,443"]),
)  # fmt: skip
VMS = st.lists(
    st.fixed_dictionaries(
        {"network": st.sampled_from(NAMES)},
        optional={
            "allow": st.lists(RULES, max_size=3), "deny": st.lists(RULES, max_size=3),
            "preset": st.sampled_from(["web", "mail", "p2p", "offline"]),
        },
    ),
    min_size=1, max_size=3,
)  # fmt: skip


def describe(vms: list[dict[str, Any]]) -> str:
    lines = [f"{NETWORKS}vms:", "  onion: {image: tor-gateway}"]
    for number, vm in enumerate(vms):
        quiet = vm["network"] in ("none",)
        pairs = {"image": "term", **{k: v for k, v in vm.items() if not (quiet and k in ("allow", "deny"))}}
        words = ", ".join(f"{k}: [{', '.join(v)}]" if isinstance(v, list) else f"{k}: {v}" for k, v in pairs.items())
        lines.append(f"  v{number}: {{{words}}}")
    return "\n".join(lines) + "\n"


def guest_of(vm: CompiledVm) -> str:
    return f"100.64.{vm.number}.3"


def state_of(result: Compiled) -> PfState:
    """Return the rules with every VM running, a careless site, and the addresses of the host."""
    files = wanted_files(result, {})
    pf_conf = files["etc/okubsd/pf.conf"]
    assert pf_conf is not None
    from okubsd.pf.grammar import parse_pf

    anchors: dict[str, Ruleset] = {}
    addresses = {"em0": ("192.0.2.10/24",), "egress": ("192.0.2.10/24",), "lo0": ("127.0.0.1/8",)}
    for vm in result.vms:
        anchors[f"okubsd/{vm.vm.name}"] = read_rules(f"{ANCHORS}/{vm.vm.name}.conf", files, guest_of(vm))
        addresses[f"tap{vm.number}"] = (f"100.64.{vm.number}.2/31",)
        if vm.vm.network.kind.is_tunnel:
            addresses[vm.egress.out] = ("10.66.0.2/32",)
    main = parse_pf(f"set skip on lo\n{pf_conf.text}pass\n")
    return PfState(main=main, anchors=anchors, addresses=addresses)


ADDRESSES = st.one_of(
    st.integers(0, 2**32 - 1).map(lambda n: str(ipaddress.IPv4Address(n))),
    st.sampled_from(
        ["198.51.100.7", "10.1.2.3", "192.0.2.10", "100.64.101.3", "100.64.101.2", "10.66.0.2", "127.0.0.1"]
    ),
    st.sampled_from(["2001:db8::1", "fe80::1"]),
)


@given(
    VMS,
    ADDRESSES,
    ADDRESSES,
    st.booleans(),
    st.sampled_from(["tcp", "udp", "icmp", "esp"]),
    st.sampled_from([0, 22, 53, 80, 443, 1500]),
    st.sampled_from([0, 100, 101, 106, 107]),
)
@settings(max_examples=250, deadline=None)
def test_any_packet_leaves_by_its_own_network_or_not_at_all(
    vms: list[dict[str, Any]], target: str, source: str, honest: bool, protocol: str, port: int, rdomain: int
) -> None:
    result = compiled(describe(vms))
    state = state_of(result)
    for vm in result.vms:
        sender = guest_of(vm) if honest and ":" not in target else source
        if (":" in sender) != (":" in target):
            continue
        here = vm.rdomain if honest else rdomain
        packet = msgspec.structs.replace(guest_packet(vm, sender, target, protocol, port), rdomain=here)
        first = evaluate(state.main, state.anchors, packet, state.addresses)
        kind = vm.vm.network.kind
        if first.passes:
            assert sender == guest_of(vm) and here == vm.rdomain, "only its own address, only in its own rdomain"
            assert kind in (NetworkKind.NAT, NetworkKind.WIREGUARD, NetworkKind.OPENVPN), "a VM that has no way out"
            assert (first.rtable == 0) is (kind is NetworkKind.NAT), "only a VM of nat gets into the host's own table"
            to = first.rdr_to or target
            assert all(to != text.partition("/")[0] for texts in state.addresses.values() for text in texts)
        if first.passes:
            out = leaving_packet(vm, packet, first.rtable, first.rdr_to or target)
            second = evaluate(state.main, state.anchors, out, state.addresses)
            assert second.passes and second.nat, "what was let in has the way out that it was let in for"
        # Whatever the routes are: by the uplink only what pf itself put there, and by no tunnel of others.
        if kind is not NetworkKind.NAT:
            assert not evaluate(state.main, state.anchors, by_uplink(vm, sender, target), state.addresses).passes
        for other in result.vms:
            if other.vm.network.kind.is_tunnel and other.egress.out != vm.egress.out:
                stray = msgspec.structs.replace(by_uplink(vm, sender, target), interface=other.egress.out,
                                                groups=("wg", "okubsd"), rdomain=other.rdomain)  # fmt: skip
                assert not evaluate(state.main, state.anchors, stray, state.addresses).passes


def by_uplink(vm: CompiledVm, source: str, target: str) -> Packet:
    return Packet(
        direction="out", interface="em0", groups=("egress",), rdomain=0, source=source, target=target, target_port=443,
        received_on=(f"tap{vm.number}", "tap", "okubsd"),
    )  # fmt: skip


@given(
    VMS,
    st.sampled_from(["198.51.100.7", "203.0.113.9", "10.1.2.3", "192.168.1.7", "100.64.200.3"]),
    st.sampled_from(["tcp", "udp", "icmp"]),
    st.sampled_from([22, 53, 80, 443, 1500]),
)
@settings(max_examples=150, deadline=None)
def test_why_and_the_rules_agree(vms: list[dict[str, Any]], target: str, protocol: str, port: int) -> None:
    result = compiled(describe(vms))
    state = state_of(result)
    for vm in result.vms:
        if vm.vm.network.kind is NetworkKind.GATEWAY:
            continue
        said = decide(vm.vm, target, protocol, port, NOW)
        found = explain(vm, state, guest_packet(vm, guest_of(vm), target, protocol, port))
        assert said.passes == found.leaves, (said, found)


@given(VMS)
@settings(max_examples=60, deadline=None)
def test_every_description_with_networks_renders_to_accepted_text(vms: list[dict[str, Any]]) -> None:
    try:
        result = compiled(describe(vms))
    except BadDescription:
        return
    assert compiled_mistakes(result, wanted_files(result, {})) == []


@pytest.mark.parametrize("network", ["proton", "work"])
def test_nothing_comes_out_of_a_tunnel_unasked(network: str) -> None:
    result = compiled(describe([{"network": network}, {"network": network}]))
    state = state_of(result)
    vm = result.vms[1]
    for target in (guest_of(vm), "10.66.0.2", f"100.64.{vm.number}.2", "192.0.2.10"):
        packet = Packet(direction="in", interface=vm.egress.out, groups=("okubsd",), rdomain=vm.rdomain,
                        source="10.64.0.1", target=target, target_port=22)  # fmt: skip
        assert not evaluate(state.main, state.anchors, packet, state.addresses).passes


def test_vms_that_share_a_tunnel_do_not_see_each_other() -> None:
    result = compiled(describe([{"network": "proton", "allow": ["100.64.0.0/10"]}, {"network": "proton"}]))
    state = state_of(result)
    first, second = result.vms[1:]
    assert first.rdomain == second.rdomain and first.egress.out == second.egress.out
    packet = guest_packet(first, guest_of(first), guest_of(second), "tcp", 22)
    # Even where the user allows it on the way in, the other VM's tap lets nothing out to it.
    there = msgspec.structs.replace(packet, direction="out", interface=f"tap{second.number}", groups=("tap", "okubsd"),
                                    received_on=(f"tap{first.number}", "okubsd"))  # fmt: skip
    assert not evaluate(state.main, state.anchors, there, state.addresses).passes


def test_no_key_is_shown_or_readable() -> None:
    from okubsd.plan.changes import Change

    result = compiled(describe([{"network": "proton"}]))
    for file in result.files:
        if any(key in file.text for key in (PRIVATE, SHARED)):
            assert file.path.startswith("etc/hostname.wg") and file.mode == 0o600
    wanted = wanted_files(result, {})
    for path, stat in wanted.items():
        told = Change(path, None, stat).diff()
        assert PRIVATE not in told and SHARED not in told
    path = next(path for path in wanted if path.startswith("etc/hostname.wg"))
    stat = wanted[path]
    assert stat is not None and PUBLIC in Change(path, None, stat).diff()
    other = msgspec.structs.replace(stat, text=stat.text.replace(PRIVATE, SHARED))
    assert "holds keys" in Change(path, stat, other).diff()


def test_the_narrowest_rule_comes_first() -> None:
    description = wish_of(
        "vms: {a: {image: term, deny: [any, 198.51.100.0/24, 'tcp 198.51.100.7'],"
        " allow: [198.51.100.7, any:443, 198.51.100.0/24, example.org]}}"
    )
    rules = effective_rules(description.vms[0].rules, NOW)
    assert [narrowness(rule)[0] for rule in rules] == sorted(narrowness(rule)[0] for rule in rules)
    words = [(rule.allow, rule.target, rule.ports) for rule in rules if rule.line]
    assert words == [
        (False, "198.51.100.7/32", ()), (True, "198.51.100.7/32", ()), (True, "example.org", ()),
        (False, "198.51.100.0/24", ()), (True, "198.51.100.0/24", ()), (True, "any", ((443, 443),)), (False, "any", ()),
    ]  # fmt: skip
    assert sum(is_name(rule) for rule in rules) == 1


def test_a_gateway_has_as_many_nics_as_vmd_gives() -> None:
    clients = ", ".join(f"c{i}: {{image: term, network: tor}}" for i in range(4))
    text = f"networks: {{tor: {{gateway: onion}}}}\nvms: {{onion: {{image: tor-gateway}}, {clients}}}"
    with pytest.raises(BadDescription, match="VM 'onion' needs 5 NICs, one for each VM behind it, and vmd gives 4"):
        compiled(text)


def test_a_limit_of_what_is_sent_needs_the_uplink() -> None:
    with pytest.raises(BadDescription, match="write 'uplink', the host's interface, below 'host'"):
        compiled("vms: {a: {image: term, bandwidth: {up: 1M}}}")


def test_a_switch_has_room_for_its_vms() -> None:
    vms = ", ".join(f"c{i}: {{image: term, network: lab}}" for i in range(6))
    with pytest.raises(BadDescription, match=r"there are 6 VMs on it, and 10\.77\.0\.0/29 has room for 5"):
        compiled(f"networks: {{lab: {{switch: 10.77.0.1/29}}}}\nvms: {{{vms}}}")


def test_why_names_the_interface_of_each_hop() -> None:
    result = compiled(describe([{"network": "nat"}, {"network": "proton"}, {"network": "none"}]))
    state, vms = state_of(result), result.vms[-3:]

    def hops(number: int, target: str, protocol: str, port: int) -> tuple[str, list[str]]:
        vm = vms[number]
        found = explain(vm, state, guest_packet(vm, guest_of(vm), target, protocol, port))
        return found.sentence.partition(": ")[2], [hop.where for hop in found.hops]

    nat, proton, none = vms
    assert hops(0, "198.51.100.7", "tcp", 443) == ("leaves by the uplink", [f"in on tap{nat.number}", "out on egress"])
    assert hops(1, "198.51.100.7", "tcp", 443) == (
        "leaves by the tunnel of network 'proton'",
        [f"in on tap{proton.number}", f"out on {proton.egress.out}"],
    )
    assert hops(2, "198.51.100.7", "tcp", 443)[1] == [f"in on tap{none.number}"]
    said, where = hops(0, "198.51.100.7", "udp", 53)
    assert said == f"leaves by the uplink, sent to {nat.egress.resolver} instead" and len(where) == 2


def test_why_knows_the_hosts_addresses_and_the_networks_that_it_is_in() -> None:
    result = compiled(describe([{"network": "nat"}]))
    vm, state = result.vms[-1], state_of(result)
    beside = {**state.addresses, "em1": ("198.51.100.15/24",)}
    state = msgspec.structs.replace(state, addresses=beside, beside=frozenset({"em1"}))

    def said(target: str) -> tuple[bool, str]:
        found = explain(vm, state, guest_packet(vm, guest_of(vm), target, "tcp", 443))
        return found.leaves, found.hops[-1].where

    assert said("198.51.100.15") == (False, f"in on tap{vm.number}")
    assert said("198.51.100.2") == (False, "out on em1")
    assert said("203.0.113.9") == (True, "out on egress")
