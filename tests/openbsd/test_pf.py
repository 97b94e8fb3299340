"""What the rendered rules decide of packets, by an evaluator that is itself checked against what pf was seen to do."""

from __future__ import annotations

import ipaddress
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from okubsd.config.parse_y import ConfError
from okubsd.model import NAT, NONE, Network
from okubsd.pf.evaluate import Packet, Verdict, evaluate
from okubsd.pf.grammar import parse_pf
from okubsd.pf.render import Egress, render_anchor, render_main
from okubsd.pf.rule_ends import PfHost
from okubsd.pf.rules import Ruleset
from okubsd.rules import REFUSED
from tests.conftest import CHECKOUT

# A careless site: everything passes that okubsd does not stop.
CARELESS = f"set skip on lo\n{render_main()}pass\n"
ADDRESSES = {
    "lo0": ("127.0.0.1/8", "::1/128"),
    "em0": ("192.0.2.10/24",),
    "egress": ("192.0.2.10/24",),
    "em1": ("203.0.113.77/24",),
    "tap101": ("100.64.1.2/31",),
    "tap102": ("100.64.2.2/31",),
}
GUEST, OTHER = "100.64.1.3", "100.64.2.3"


def rules(text: str, **macros: str) -> Ruleset:
    return parse_pf(text, "pf.conf", None, macros)


def way_out(network: Network, **values: Any) -> Egress:
    """Return the way out of `work`."""
    out = "egress" if network is NAT else ""
    given = {"name": "work", "number": 101, "rdomain": 101, "out": out, "resolver": "9.9.9.9"}
    return Egress(**(given | values))


def anchors(network: Network) -> dict[str, Ruleset]:
    return {
        "okubsd/work": rules(render_anchor(way_out(network)), G=GUEST),
        "okubsd/mail": rules(render_anchor(way_out(NAT, name="mail", number=102, rdomain=102)), G=OTHER),
    }


def packet(target: str, **values: object) -> Packet:
    """Return a packet that the guest of `work` sends, unless ``values`` say otherwise."""
    given: dict[str, object] = {
        "direction": "in", "interface": "tap101", "groups": ("tap", "okubsd"), "rdomain": 101, "source": GUEST,
        "target": target, "target_port": 443,
    }  # fmt: skip
    return Packet(**(given | values))  # type: ignore[arg-type]


def decide(network: Network, found: Packet, main: str = CARELESS) -> Verdict:
    return evaluate(rules(main), anchors(network), found, ADDRESSES)


def leaves(network: Network, found: Packet) -> bool:
    """Return whether the packet comes out of the uplink: in at the tap, through the routes, out again."""
    first = decide(network, found)
    if not first.passes or first.rtable is None:
        return False
    out = msgspec.structs.replace(
        found, direction="out", interface="em0", groups=("egress",), rdomain=first.rtable,
        target=first.rdr_to or found.target, received_on=(found.interface, *found.groups),
    )  # fmt: skip
    return decide(network, out).passes


def test_the_internet_is_reached_on_nat_only() -> None:
    assert leaves(NAT, packet("198.51.100.1"))
    assert leaves(NAT, packet("198.51.100.1", protocol="udp"))
    assert leaves(NAT, packet("198.51.100.1", protocol="icmp", target_port=0))
    assert not leaves(NONE, packet("198.51.100.1"))


def test_what_leaves_has_the_hosts_address() -> None:
    out = packet("198.51.100.1", direction="out", interface="em0", groups=("egress",), rdomain=0,
                 received_on=("tap101", "tap", "okubsd"))  # fmt: skip
    assert decide(NAT, out).nat


@pytest.mark.parametrize("network", [NONE, NAT])
@pytest.mark.parametrize("interface", ["em1", "vport300", "wg7"])
def test_nothing_leaves_by_an_interface_that_is_not_the_way_out(network: Network, interface: str) -> None:
    out = packet("203.0.113.5", direction="out", interface=interface, groups=(), rdomain=0,
                 received_on=("tap101", "tap", "okubsd"))  # fmt: skip
    assert not decide(network, out).passes
    hosts = packet("203.0.113.5", direction="out", interface=interface, groups=(), rdomain=0, source="203.0.113.77")
    assert decide(network, hosts).passes


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_every_name_is_asked_of_the_resolver(protocol: str) -> None:
    for target in ("198.51.100.1", "100.64.1.2", "192.168.1.1"):
        verdict = decide(NAT, packet(target, protocol=protocol, target_port=53))
        assert verdict.passes and verdict.rdr_to == "9.9.9.9" and verdict.rtable == 0


FORBIDDEN = {
    "the host's end of the tap": packet("100.64.1.2", target_port=22),
    "the host's uplink address": packet("192.0.2.10"),
    "an address of the host on another card": packet("203.0.113.77"),
    "the host's loopback": packet("127.0.0.1"),
    "another guest": packet(OTHER, target_port=22),
    "the other guest's host side": packet("100.64.2.2"),
    "a private network": packet("10.1.2.3"),
    "the home router": packet("192.168.1.1", target_port=80),
    "link-local": packet("169.254.169.254", target_port=80),
    "multicast": packet("224.0.0.251", protocol="udp", target_port=5353),
    "broadcast": packet("255.255.255.255", protocol="udp", target_port=67),
    "IPv6": packet("2001:db8::1", source="fe80::1"),
    "a spoofed source": packet("198.51.100.1", source="100.64.2.3"),
    "the host's address as source": packet("198.51.100.1", source="100.64.1.2"),
    "a tap that fell to rdomain 0": packet("198.51.100.1", rdomain=0),
    "a tap in another rdomain": packet("198.51.100.1", rdomain=102),
}


@pytest.mark.parametrize("what", FORBIDDEN)
@pytest.mark.parametrize("network", [NONE, NAT])
def test_it_does_not_get_there(what: str, network: Network) -> None:
    assert not decide(network, FORBIDDEN[what]).passes


def test_a_tap_that_lost_its_rdomain_does_not_reach_the_host_either() -> None:
    for target in ("192.0.2.10", "127.0.0.1", "100.64.1.2"):
        assert not decide(NAT, packet(target, rdomain=0)).passes


def test_the_host_reaches_the_guests_ssh_and_nothing_else() -> None:
    def to_guest(port: int, source: str = "100.64.1.2", protocol: str = "tcp") -> bool:
        found = packet(GUEST, direction="out", source=source, target_port=port, protocol=protocol)
        return decide(NONE, found).passes and decide(NAT, found).passes

    assert to_guest(22)
    assert not to_guest(80) and not to_guest(22, protocol="udp") and not to_guest(22, source="192.0.2.10")


@pytest.mark.parametrize(
    "loaded", [{}, {"okubsd/work": rules("block drop quick on tap101\n")}], ids=["no anchor", "placeholder"]
)
@pytest.mark.parametrize("target", ["198.51.100.1", "192.0.2.10", "100.64.1.2", "9.9.9.9"])
def test_without_its_anchor_nothing_passes(loaded: dict[str, Ruleset], target: str) -> None:
    for direction in ("in", "out"):
        assert not evaluate(rules(CARELESS), loaded, packet(target, direction=direction), ADDRESSES).passes
    out = packet(
        target, direction="out", interface="em0", groups=("egress",), rdomain=0, received_on=("tap101", "okubsd")
    )
    assert not evaluate(rules(CARELESS), loaded, out, ADDRESSES).passes


def test_the_hosts_own_traffic_is_left_alone() -> None:
    own = packet("198.51.100.1", direction="out", interface="em0", groups=("egress",), rdomain=0, source="192.0.2.10")
    assert decide(NAT, own).passes


def test_a_fresh_hosts_pf_conf_with_our_block_lets_a_guest_out_and_nothing_else() -> None:
    from okubsd.config.marked import with_block

    text = with_block((CHECKOUT / "etc/openbsd/pf.conf").read_text(), render_main(), before_rules=True)
    assert decide(NAT, packet("198.51.100.1"), text).passes
    assert not decide(NAT, packet("192.168.1.1"), text).passes


ANY_ADDRESS = st.one_of(
    st.integers(0, 2**32 - 1).map(lambda number: str(ipaddress.IPv4Address(number))),
    st.sampled_from(["192.0.2.10", "203.0.113.77", "100.64.1.2", "100.64.2.3", "127.0.0.1", "10.0.0.1", GUEST]),
    st.integers(0, 2**128 - 1).map(lambda number: str(ipaddress.IPv6Address(number))),
)


@given(
    source=ANY_ADDRESS, target=ANY_ADDRESS, protocol=st.sampled_from(["tcp", "udp", "icmp", "esp"]),
    port=st.integers(0, 65535), network=st.sampled_from([NONE, NAT]), rdomain=st.sampled_from([0, 101, 102, 255]),
)  # fmt: skip
@settings(max_examples=400, deadline=None)
def test_no_packet_of_a_guest_gets_anywhere_else(
    source: str, target: str, protocol: str, port: int, network: Network, rdomain: int
) -> None:
    if (":" in source) != (":" in target):
        return
    found = packet(target, source=source, protocol=protocol, target_port=port, rdomain=rdomain)
    verdict = decide(network, found)
    if not verdict.passes:
        return
    # What passes comes from the guest's own address, in its own rdomain, on a network that has a way out...
    assert (source, rdomain, network) == (GUEST, 101, NAT)
    assert verdict.rtable == 0
    to = ipaddress.ip_address(verdict.rdr_to or target)
    # ...and goes to the resolver, or to a public address that is nobody's here.
    assert verdict.rdr_to == "9.9.9.9" or not any(to in ipaddress.ip_network(refused) for refused in REFUSED)
    assert all(to != ipaddress.ip_interface(text).ip for texts in ADDRESSES.values() for text in texts)


# --- the evaluator itself: what pf was seen to do ----------------------------------------


def passes(text: str, found: Packet, **loaded: str) -> bool:
    return evaluate(
        rules(text), {name.replace("__", "/"): rules(t) for name, t in loaded.items()}, found, ADDRESSES
    ).passes


def test_the_last_match_wins_unless_one_is_quick() -> None:
    assert passes("block\npass\n", packet("1.2.3.4"))
    assert not passes("block quick\npass\n", packet("1.2.3.4"))
    assert not passes("pass\nblock\n", packet("1.2.3.4"))


def test_nothing_matches_so_it_passes() -> None:
    assert passes("block on em0\n", packet("1.2.3.4"))


def test_on_not_rdomain_never_matches() -> None:
    assert passes("block quick on ! rdomain 101\n", packet("1.2.3.4", rdomain=0))


def test_a_group_matches_its_interfaces_and_not_is_all_others() -> None:
    assert not passes("block on okubsd\n", packet("1.2.3.4"))
    assert not passes("block on ! em0\n", packet("1.2.3.4"))
    assert passes("block on ! tap101\n", packet("1.2.3.4"))


def test_quick_in_an_anchor_ends_everything() -> None:
    main = 'anchor "okubsd/*"\nblock quick\n'
    assert passes(main, packet("1.2.3.4"), okubsd__a="pass quick\n")
    assert not passes(main, packet("1.2.3.4"), okubsd__a="pass\n")
    assert not passes(main, packet("1.2.3.4"), other__a="pass quick\n")


def test_anchors_come_in_the_order_of_their_names() -> None:
    main = 'anchor "okubsd/*"\n'
    assert not passes(main, packet("1.2.3.4"), okubsd__a="pass\n", okubsd__b="block\n")


def test_a_called_anchor_can_have_a_filter() -> None:
    assert passes('anchor "a" on em0\n', packet("1.2.3.4"), a="block quick\n")


def test_received_on_is_for_packets_that_go_out() -> None:
    out = packet("1.2.3.4", direction="out", interface="em0", received_on=("tap101", "okubsd"))
    assert not passes("block out on em0 received-on okubsd\n", out)
    assert not passes("block out on em0 received-on any\n", out)
    assert passes("block out on em0 ! received-on okubsd\n", out)
    assert passes("block received-on tap101\n", packet("1.2.3.4"))
    assert passes("block out received-on any\n", packet("1.2.3.4", direction="out", interface="em0"))


def test_skipped_interfaces_are_not_looked_at() -> None:
    assert passes("set skip on lo\nblock quick\n", packet("1.2.3.4", interface="lo101", groups=("lo",)))


def test_tables_take_the_most_specific_entry() -> None:
    text = "table <t> const { 10.0.0.0/8 !10.1.0.0/16 }\nblock quick to <t>\n"
    assert not passes(text, packet("10.2.0.1"))
    assert passes(text, packet("10.1.0.1"))
    assert passes("block quick to <nowhere>\n", packet("10.1.0.1"))


def test_a_table_is_found_beside_its_rule_or_at_the_root_and_nowhere_between() -> None:
    beside = 'anchor "a" {\ntable <t> const { 10.0.0.1 }\nblock quick to <t>\n}\n'
    between = 'anchor "a" {\ntable <t> const { 10.0.0.1 }\nanchor "b" {\nblock quick to <t>\n}\n}\n'
    root = 'table <t> const { 10.0.0.1 }\nanchor "a" {\nanchor "b" {\nblock quick to <t>\n}\n}\n'
    assert [passes(text, packet("10.0.0.1")) for text in (beside, between, root)] == [False, True, False]


def test_two_inline_anchors_of_one_name_are_refused() -> None:
    with pytest.raises(ConfError, match="already exists"):
        rules('anchor "a" {\npass\n}\nanchor "a" {\nblock\n}\n')


def test_a_queue_is_refused_while_its_interface_is_not_there() -> None:
    text = "queue q on tap101 bandwidth 10M default\npass\n"
    parse_pf(text, "pf.conf", PfHost(present=frozenset({"em0", "tap101"})))
    with pytest.raises(ConfError, match="1: not an interface"):
        parse_pf(text, "pf.conf", PfHost(present=frozenset({"em0"})))


def test_self_is_every_address_of_the_host() -> None:
    assert not passes("block quick to (self)\n", packet("203.0.113.77"))
    assert passes("block quick to (self)\n", packet("203.0.113.78"))


def test_ports_protocols_and_families_have_to_match() -> None:
    text = "block quick inet proto { tcp udp } to port { 53 8000:8100 }\n"
    assert not passes(text, packet("1.2.3.4", target_port=8050))
    assert passes(text, packet("1.2.3.4", target_port=8101))
    assert passes(text, packet("1.2.3.4", protocol="icmp", target_port=53))
    assert passes("block quick inet6\n", packet("1.2.3.4"))


def test_antispoof_refuses_a_network_elsewhere_and_nothing_of_its_own_interface() -> None:
    text = "antispoof quick for em1\n"
    assert not passes(text, packet("1.2.3.4", source="203.0.113.5"))
    assert passes(text, packet("1.2.3.4", source="203.0.113.5", interface="em1", groups=()))
    assert passes(text, packet("1.2.3.4", source="198.51.100.5"))
    # The network of an interface, and not only its address.
    assert not passes("block quick from (em1:network)\n", packet("1.2.3.4", source="203.0.113.200"))
    assert passes("block quick from (em1)\n", packet("1.2.3.4", source="203.0.113.200"))


@pytest.mark.parametrize(
    ("ports", "blocked", "passed"),
    [
        ("< 1024", (0, 1023), (1024, 65535)),
        ("<= 1024", (0, 1024), (1025, 65535)),
        ("> 1024", (1025, 65535), (0, 1024)),
        (">= 1024", (1024, 65535), (0, 1023)),
        ("!= 25", (24, 26, 65535), (25,)),
        ("ssh", (22,), (21, 23)),
        ("{ bootps bootpc ntp }", (67, 68, 123), (66, 69)),
        ("{ domain www https }", (53, 80, 443), (54, 81)),
    ],
)
def test_a_port_is_what_it_says(ports: str, blocked: tuple[int, ...], passed: tuple[int, ...]) -> None:
    text = f"block quick proto tcp to port {ports}\n"
    assert not [port for port in blocked if passes(text, packet("1.2.3.4", target_port=port))]
    assert [port for port in passed if passes(text, packet("1.2.3.4", target_port=port))] == list(passed)


def test_flags_and_tos_are_read_with_their_words() -> None:
    assert not passes("block quick proto tcp flags S/SA tos 0x10\n", packet("1.2.3.4"))


def test_a_tunnel_of_unknown_mtu_clamps_nothing() -> None:
    assert "max-mss" not in render_anchor(way_out(NAT, out="wg102"))
    assert "max-mss 1380" in render_anchor(way_out(NAT, out="wg102", mtu=1420))
    assert "max-mss" not in render_anchor(way_out(NAT, mtu=1420))
