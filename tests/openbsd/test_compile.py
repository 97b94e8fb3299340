"""A description becomes files: golden trees, and properties of every tree."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from okubsd.config.description import parse_description
from okubsd.config.recipe import parse_recipe
from okubsd.errors import BadDescription
from okubsd.hostfile import How
from okubsd.model import Description
from okubsd.netif.numbers import give_numbers, parse_numbers, render_numbers
from okubsd.pf.grammar import parse_pf
from okubsd.pf.rules import PfRule
from okubsd.plan.changes import wanted_files
from okubsd.plan.compile import Compiled, compile_host
from okubsd.plan.judge import compiled_mistakes
from okubsd.plan.limits import OPENBSD, limits
from okubsd.recipe import Recipe
from okubsd.vmd.grammar import parse_conf
from okubsd.vpn.keys import TunnelKeys
from okubsd.vpn.openvpn import parse_openvpn
from okubsd.vpn.wg_quick import parse_wg_quick
from tests.conftest import same_as_file

RECIPES: dict[str, Recipe] = {
    name: parse_recipe(name, Path("r"), "from: base\napps: {app: [a]}\n") for name in ("term", "firefox", "gimp")
}
for _name in ("tor-gateway", "vpn-gateway"):
    RECIPES[_name] = parse_recipe(
        _name, Path("r"), "from: base\ngateway: yes\npackages: [iproute2, nftables, dnsmasq-base]\n"
    )

# Throw-away keys: 32 bytes of one letter each.
PRIVATE, PUBLIC, SHARED = (base64.b64encode(letter * 32).decode() for letter in (b"a", b"b", b"c"))
WG = f"""
[Interface]
PrivateKey = {PRIVATE}
Address = 10.66.0.2/32, fd00::2/128
DNS = 10.64.0.1
[Peer]
PublicKey = {PUBLIC}
PresharedKey = {SHARED}
AllowedIPs = 0.0.0.0/0, ::/0
Endpoint = 198.51.100.7:51820
PersistentKeepalive = 25
"""
OVPN = "client\ndev tun\nproto udp\nremote 198.51.100.9 1194\nremote-cert-tls server\n<ca>\n-----BEGIN CERTIFICATE-----\nMIIBAAAA\n-----END CERTIFICATE-----\n</ca>\n"
SECRETS = TunnelKeys(
    tunnels={name: parse_wg_quick(Path("vpn.conf"), WG) for name in ("proton", "home")},
    clients={"work": parse_openvpn(Path("work.ovpn"), OVPN)},
)
NOW = 1795600000.0


def wish_of(text: str) -> Description:
    return parse_description(Path("/etc/okubsd/okubsd.yaml"), text, [], RECIPES)


def compiled(text: str, kept: dict[str, int] | None = None, user: str = "alice") -> Compiled:
    return compile_host(wish_of(text), RECIPES, kept or {}, user, SECRETS, NOW)


def as_text(result: Compiled) -> str:
    """Return the whole tree as one text."""
    parts = [f"==> /{file.path} {file.mode:04o} {file.how} <==\n{file.text}" for file in result.files]
    return "\n".join(parts)


FORTY = "host: {owner: alice}\nvms:\n" + "".join(
    f"  vm{i}x: {{image: {('term', 'firefox', 'gimp')[i % 3]}, network: {('nat', 'none')[i % 2]}}}\n" for i in range(40)
)
GOLDEN = {
    "one": "vms: {work: {image: term}}",
    "none": "vms: {vault: {image: term, network: none}}",
    "empty": "vms: {}",
    "disposable": "vms: {dvm: {image: firefox, disposable: yes, memory: 2G}}",
    "autostart": "vms: {a: {image: term, autostart: yes}, b: {image: term}, c: {image: gimp, autostart: yes}}",
    "two-owners": "host: {owner: alice}\nvms: {a: {image: term}, b: {image: term, owner: bob}}",
    "numbers": "host: {numbers: 10-20}\nvms: {a: {image: term, number: 200}, b: {image: term}, c: {image: term}}",
    "resolver": "host: {resolver: 192.0.2.53}\nvms: {a: {image: term}}",
    "host-options": (
        "host: {owner: alice, group: kubsd, resolver: 1.1.1.1, backend: vmd, numbers: 30-99,"
        " staggered: {parallel: 2, delay: 7}}\nvms: {a: {image: term}}"
    ),
    "every-option": (
        "defaults: {network: none, memory: 1G}\nhost: {owner: alice}\n"
        "vms: {full: {image: firefox, memory: 1536M, cpus: 2, network: nat, display: 800x600, apps: [app], home: 3G,"
        " color: red, autostart: yes, disposable: no, keep: yes, boot_timeout: 60, backend: vmd, owner: bob,"
        " number: 155}}"
    ),
    "odd-names": "vms: {disk: {image: term}, local: {image: term}, a.b-c_d: {image: term}, Work9: {image: term}}",
    "with-qemu": "vms: {a: {image: term}, q: {image: term, backend: qemu}}",
    "wireguard": (
        "networks: {proton: {wireguard: vpn.conf}}\n"
        "vms: {a: {image: term, network: proton}, b: {image: term, network: proton}, c: {image: term}}"
    ),
    "openvpn": "networks: {work: {openvpn: work.ovpn}}\nvms: {a: {image: term, network: work}}",
    "switch": (
        "networks: {lab: {switch: 10.77.0.1/24}, club: {switch: 10.78.0.1/29, meet: yes}}\n"
        "vms: {a: {image: term, network: lab}, b: {image: term, network: lab}, c: {image: term, network: club}}"
    ),
    "gateway": (
        "networks: {tor: {gateway: onion}}\n"
        "vms: {onion: {image: tor-gateway}, a: {image: term, network: tor}, b: {image: term, network: tor}}"
    ),
    "rules": (
        "networks: {proton: {wireguard: vpn.conf}}\nhost: {uplink: em0}\nvms:\n"
        "  a:\n    image: term\n    deny: [any]\n    allow:\n"
        "      - example.org:443\n      - {to: 192.168.1.5:631, protocol: tcp, comment: the printer \\}\n"
        "      - {to: 'tcp any:6000-6010', until: 2027-01-01T00:00Z}\n"
        "      - {to: 'example.org:80', until: 2027-01-01T00:00Z}\n"
        "      - {to: any:22, until: 2020-01-01}\n      - icmp 198.51.100.0/24\n"
        "    bandwidth: {down: 20M, up: 512K}\n"
        "  b: {image: term, network: proton, allow: [www.example.org], bandwidth: {down: 1G, up: 5M}}\n"
        "  w: {image: term, preset: web}\n  m: {image: term, preset: mail}\n  p: {image: term, preset: p2p}\n"
        "  o: {image: term, preset: offline}\n"
    ),
    "forty": FORTY,
}


@pytest.mark.parametrize("name", GOLDEN)
def test_the_tree_is_as_expected(name: str) -> None:
    same_as_file(Path(__file__).parent / f"golden/{name}.tree", as_text(compiled(GOLDEN[name])))


@pytest.mark.parametrize("name", GOLDEN)
def test_what_is_rendered_is_taken(name: str) -> None:
    result = compiled(GOLDEN[name])
    assert compiled_mistakes(result, wanted_files(result, {})) == []


def unnamed(rules: Iterable[PfRule]) -> list[str]:
    """Return the inline anchors without a name, which nobody can change from outside."""
    found = [rule.text for rule in rules if rule.action == "anchor" and rule.anchor is None and not rule.named]
    return found + [text for rule in rules for text in unnamed(rule.children)]


def tables_of(path: str, rules: Iterable[PfRule]) -> set[str]:
    """Return the tables that rules name, as "ANCHOR:TABLE": pf looks beside a rule."""
    found = set()
    for rule in rules:
        found |= {f"{path}:{peer.value}" for peer in rule.target if peer.kind == "table"}
        found |= tables_of(f"{path}/{rule.named}", rule.children)
    return found


def assert_every_table_is_filled(result: Compiled) -> None:
    """What follows names fills the very tables that the rules name, and no other."""
    files = {file.path: file.text for file in result.files}
    for vm in result.vms:
        path = f"etc/okubsd/pf/{vm.vm.name}.conf"
        named = tables_of(f"okubsd/{vm.vm.name}", parse_pf(files[path], path, None, {"G": "100.64.1.3"}).rules)
        lines = files.get(f"etc/okubsd/names/{vm.vm.name}", "").splitlines()
        assert {line.split()[1] for line in lines} == named and len(set(lines)) == len(lines)


@pytest.mark.parametrize("name", GOLDEN)
def test_every_table_that_a_rule_names_is_filled(name: str) -> None:
    assert_every_table_is_filled(compiled(GOLDEN[name]))


NAMED = st.lists(
    st.tuples(
        st.sampled_from(["example.org", "example.org:443", "www.example.org:22", "192.0.2.7:22"]),
        st.sampled_from(["", "2027-01-01", "2027-02-01", "2020-01-01"]),
    ),
    max_size=6,
)


@given(NAMED, NAMED)
@settings(max_examples=100, deadline=None)
def test_rules_with_names_that_end_have_tables_of_their_own(
    allow: list[tuple[str, str]], deny: list[tuple[str, str]]
) -> None:
    def words(rules: list[tuple[str, str]]) -> str:
        return ", ".join(f"{{to: '{to}'{f', until: {end}' if end else ''}}}" for to, end in rules)

    assert_every_table_is_filled(
        compiled(f"vms: {{a: {{image: term, allow: [{words(allow)}], deny: [{words(deny)}]}}}}")
    )


@pytest.mark.parametrize("name", GOLDEN)
def test_pf_takes_the_rules_of_a_boot_and_what_ends_can_be_ended(name: str) -> None:
    """Before any VM runs there is no tap: a queue on one would leave the host without rules; nor does a table nest."""
    for file in compiled(GOLDEN[name]).files:
        if file.path == "etc/okubsd/pf.conf":
            assert "\nqueue " not in file.text
        if file.path.startswith("etc/okubsd/pf/"):
            assert "table <" not in file.text and "\nqueue " not in file.text
            assert unnamed(parse_pf(file.text, file.path, None, {"G": "100.64.1.3"}).rules) == []
        if file.path.startswith("etc/okubsd/queues/"):
            at = file.path.rpartition("/")[2]
            assert set(re.findall(r"^queue \S+ (?:parent \S+ )?on (\S+)", file.text, re.MULTILINE)) <= {at}


VM_NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9._-]{0,31}", fullmatch=True).filter(
    lambda name: name.lower() not in {"all", "host", "okubsd", "self", "any"}
)
VMS = st.dictionaries(
    VM_NAMES,
    st.fixed_dictionaries(
        {"image": st.sampled_from(sorted(RECIPES)), "network": st.sampled_from(["nat", "none"])},
        optional={
            "memory": st.integers(96, 4096).map(lambda size: f"{size}M"),
            "disposable": st.sampled_from(["yes", "no"]),
            "autostart": st.sampled_from(["yes", "no"]),
            "owner": st.sampled_from(["alice", "bob"]),
            "number": st.integers(1, 255),
        },
    ),
    max_size=20,
)


def as_yaml(vms: dict[str, dict[str, object]]) -> str:
    lines = ["vms:" if vms else "vms: {}"]
    for name, keys in vms.items():
        lines.append(f'  "{name}": {{{", ".join(f"{key}: {value}" for key, value in keys.items())}}}')
    return "\n".join(lines) + "\n"


@given(VMS)
@settings(max_examples=150, deadline=None)
def test_every_accepted_description_renders_to_accepted_text(vms: dict[str, dict[str, object]]) -> None:
    try:
        result = compiled(as_yaml(vms))
    except BadDescription:
        return
    wanted = wanted_files(result, {})
    assert compiled_mistakes(result, wanted) == []
    conf = parse_conf(next(file.text for file in result.files if file.path == "etc/okubsd/vm.conf"))
    taps = [vm.interfaces[0] for vm in conf.vms]
    for values in (
        [tap.name for tap in taps], [tap.rdomain for tap in taps], [tap.lladdr for tap in taps],
        [disk.path for vm in conf.vms for disk in vm.disks],
    ):  # fmt: skip
        assert len(set(values)) == len(values)
    assert all(tap.locked and tap.local and tap.group == "okubsd" and 1 <= (tap.rdomain or 0) <= 255 for tap in taps)
    assert all(not vm.enabled for vm in conf.vms), "vmd would start it before it is prepared"
    assert all(len(vm.disks) == 4 for vm in conf.vms)


@given(st.lists(VM_NAMES, unique=True, max_size=12), st.lists(VM_NAMES, unique=True, max_size=12))
def test_a_number_stays_with_its_vm(before: list[str], after: list[str]) -> None:
    old = give_numbers(before, {}, {})
    new = give_numbers(after, {}, parse_numbers(render_numbers(old)))
    assert all(new[name] == old[name] for name in after if name in old)
    assert len(set(new.values())) == len(after)


def test_a_wished_number_comes_first() -> None:
    assert give_numbers(["a", "b"], {"b": 100}, {"a": 100}) == {"a": 101, "b": 100}


def test_there_are_only_so_many_numbers() -> None:
    with pytest.raises(BadDescription, match=r"host\.numbers: there are 3 VMs for 2 numbers"):
        compiled("host: {numbers: 5-6}\nvms: {a: {image: term}, b: {image: term}, c: {image: term}}")


def test_somebody_owns_every_vm() -> None:
    with pytest.raises(BadDescription, match="nobody owns a, b; write 'owner' below 'host'"):
        compiled("vms: {a: {image: term}, b: {image: term}, c: {image: term, owner: bob}}", user="")


@pytest.mark.parametrize(
    ("usable", "words"),
    [
        (2 << 30, ["wants 2048 MB, and this host has 2048 MB"]),
        (5 << 30, ["start at boot want 4096 MB together"]),
        (8 << 30, []),
        (0, []),
    ],
)
def test_memory_is_summed_against_the_host(usable: int, words: list[str]) -> None:
    description = wish_of(
        "vms: {a: {image: term, memory: 2G, autostart: yes}, b: {image: term, memory: 2G, autostart: yes}}"
    )
    found = limits(description, OPENBSD, usable=usable)
    assert all(any(word in mistake for mistake in found) for word in words) and bool(found) is bool(words)


BROKEN_HOSTS = {
    "host: {owner: Alice}": "host.owner: found 'Alice', allowed is a user name",
    "host: {owner: 'a b'}": "host.owner",
    "host: {group: okubsd1}": "host.group: found 'okubsd1', allowed is a group name",
    "host: {group: averyveryverylonggroup}": "host.group",
    "host: {resolver: 127.0.0.1}": "host.resolver: found '127.0.0.1', allowed is an IPv4 address of another host",
    "host: {resolver: '::1'}": "host.resolver",
    "host: {resolver: dns.example}": "host.resolver",
    "host: {numbers: 0-10}": "host.numbers",
    "host: {numbers: 20-10}": "host.numbers",
    "host: {numbers: 100-256}": "host.numbers",
    "host: {backend: vmm}": "host.backend: found 'vmm', allowed is auto or vmd or qemu; did you mean 'vmd'?",
    "host: {staggered: {parallel: 0}}": "host.staggered.parallel",
    "host: {ownr: alice}": "host.ownr: unknown key, allowed are backend, owner, group, resolver, numbers, staggered",
    "host: [alice]": "host: found a list",
    "vms: {a: {image: term, number: 256}}": "vms.a.number: found '256', allowed is a whole number from 1 to 255",
    "vms: {a: {image: term, number: 7}, b: {image: term, number: 7}}": "VM 'a' has the number 7 already",
    "vms: {a: {image: term, owner: '-x'}}": "vms.a.owner",
    "vms: {a: {image: term, backend: kvm}}": "vms.a.backend",
    "defaults: {number: 3}": "defaults.number: unknown key",
}


@pytest.mark.parametrize("text", BROKEN_HOSTS)
def test_a_wrong_host_is_told_in_words(text: str) -> None:
    with pytest.raises(BadDescription) as error:
        wish_of(text if "vms" in text else f"{text}\nvms: {{}}")
    assert BROKEN_HOSTS[text] in str(error.value)
    assert re.match(r"/etc/okubsd/okubsd\.yaml:\d+: ", error.value.mistakes[0])


def test_only_marked_blocks_go_into_the_administrators_files() -> None:
    result = compiled(GOLDEN["one"])
    shared = {file.path for file in result.files if file.how in (How.BLOCK, How.BEFORE_RULES)}
    assert shared == {"etc/vm.conf", "etc/pf.conf", "etc/doas.conf", "etc/sysctl.conf"}
    assert all(
        file.path.startswith(("etc/okubsd/", "etc/hostname.lo")) for file in result.files if file.how is How.WHOLE
    )


@pytest.mark.parametrize(("memory", "size"), [("512M", 512 << 20), ("1048576K", 1 << 30), ("2G", 2 << 30)])
def test_a_memory_of_vm_conf_is_so_many_bytes(memory: str, size: int) -> None:
    (vm,) = parse_conf(f'vm "a" {{\n\tdisk "/d"\n\tmemory {memory}\n}}\n').vms
    assert vm.memory == size


def test_an_allow_block_may_have_lines() -> None:
    text = 'vm "a" {\n\tdisk "/d"\n\tallow instance {\n\t\tboot,\n\t\tmemory\n\t}\n}\n'
    assert len(parse_conf(text).vms) == 1
