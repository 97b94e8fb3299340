"""Tunnels, switches, names and rules that end, on a simulated host: what the helper and apply do about them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from okubsd.cli.why import hidden_file
from okubsd.host.system import HostRoot
from okubsd.model import Network, NetworkKind, Vm
from tests.conftest import CHECKOUT
from tests.openbsd.test_compile import OVPN, PRIVATE, SHARED, WG
from tests.openbsd.test_helper import SHELLS, helper
from tests.openbsd.world import World, twin

pytestmark = pytest.mark.spawns

DESCRIPTION = """\
host: {owner: alice}
networks:
  proton: {wireguard: vpn.conf}
  work: {openvpn: work.ovpn}
  lab: {switch: 10.77.0.1/24}
  club: {switch: 10.78.0.1/24, meet: yes}
vms:
  a: {image: term, network: proton, disposable: yes}
  b: {image: term, network: proton, disposable: yes}
  plain: {image: term, disposable: yes}
  office: {image: term, network: work, disposable: yes}
  lab1: {image: term, network: lab, disposable: yes}
  club1: {image: term, network: club, disposable: yes}
"""


def describe(world: World, text: str = DESCRIPTION) -> None:
    world.write(text)
    for name, content in (("vpn.conf", WG), ("work.ovpn", OVPN)):
        path = world.description.parent / name
        path.write_text(content)
        path.chmod(0o600)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return twin(tmp_path, "/bin/mksh", World.fake_images, describe)


def calls(world: World) -> list[str]:
    """Return what was done to interfaces and flows since the last time."""
    found = list(world.state.get("calls", []))
    world.change(calls=[])
    return found


def test_apply_brings_networks_up_and_shows_no_key(world: World) -> None:
    out = world.must("apply", "-y")
    assert PRIVATE not in out and SHARED not in out and "+wgkey (hidden)" in out
    made = world.state["interfaces"]
    numbers = dict(line.split() for line in (world.root / "etc/okubsd/numbers").read_text().splitlines()[1:])
    proton, work, lab = (numbers[f"@{name}"] for name in ("proton", "work", "lab"))
    assert {f"wg{proton}", f"lo{proton}", f"tun{work}", f"veb{lab}", f"vport{lab}"} <= set(made)
    assert world.state["vmd"], "vmd lives: its switches were there before it read of them"
    assert (world.root / f"etc/hostname.wg{proton}").stat().st_mode & 0o777 == 0o600
    assert "nothing to do" in world.okubsd("apply", "-y").stderr


def test_a_tunnel_whose_file_changes_is_made_anew_and_nothing_else(world: World) -> None:
    world.must("apply", "-y")
    anchors = world.state["anchors"]
    calls(world)
    path = world.description.parent / "vpn.conf"
    path.write_text(WG.replace("198.51.100.7", "198.51.100.8"))
    out = world.must("apply", "-y")
    assert "-wgpeer" in out and PRIVATE not in out
    number = next(name for name in world.state["interfaces"] if name.startswith("wg"))[2:]
    assert calls(world) == [f"destroy wg{number}", f"netstart lo{number}", f"netstart wg{number}"]
    assert world.state["anchors"] == anchors
    path.write_text(WG.replace("198.51.100.7", "198.51.100.8").replace(PRIVATE, SHARED))
    out = world.must("apply", "-y")
    assert "what changes is not shown, for it holds keys" in out and SHARED not in out
    path.write_text(WG.replace("[Peer]", "[Pear]"))
    done = world.okubsd("apply", "-y")
    assert done.returncode == 8 and "there are [Interface] and [Peer]" in done.stderr
    assert calls(world)[-1] == f"netstart wg{number}", "and nothing after that"


def test_unapply_takes_networks_away(world: World) -> None:
    before = world.tree("etc")
    world.must("apply", "-y")
    world.must("unapply", "-y")
    assert not [name for name in world.state["interfaces"] if name.startswith(("wg", "tun", "veb", "vport"))]
    assert world.tree("etc") == before


def test_why_tells_the_way_of_each_network(world: World) -> None:
    world.fake_images("vpn-gateway")
    text = DESCRIPTION.replace("networks:\n", "networks:\n  out: {gateway: way}\n", 1)
    text += "  way: {image: vpn-gateway, disposable: yes, tunnel: other.conf}\n"
    other = world.description.parent / "other.conf"
    other.write_text(WG.replace(PRIVATE, SHARED))
    other.chmod(0o600)
    describe(world, text + "  behind: {image: term, network: out, disposable: yes}\n")
    world.must("apply", "-y")
    for name, words in (
        ("plain", "leaves by the uplink"), ("a", "leaves by the tunnel of network 'proton'"),
        ("office", "leaves by the tunnel of network 'work'"), ("behind", "reaches it through the VM 'way'"),
    ):  # fmt: skip
        assert words in world.must("why", name, "203.0.113.80:443"), name
    done = world.okubsd("why", "behind", "10.0.0.1")
    assert done.returncode == 1 and "does not reach it" in done.stdout
    assert world.okubsd("why", "lab1", "203.0.113.80").returncode == 1


def test_check_asks_openbsd_about_every_file_that_an_apply_would_let_it_judge(world: World) -> None:
    calls(world)
    assert json.loads(world.must("check", "--json"))["judges"] == ["okubsd", "vmd", "doas", "dhcpd", "pfctl"]
    assert calls(world) == ["dhcpd -n", "dhcpd -n"], "one for each switch, and no interface was touched"


def test_why_needs_no_key_of_another_network(world: World) -> None:
    world.must("apply", "-y")
    path = world.description.parent / "vpn.conf"
    path.write_text("[Interface]\n")
    assert "leaves by the uplink" in world.must("why", "plain", "203.0.113.80:443")
    assert world.okubsd("why", "a", "203.0.113.80:443").returncode == 8


def test_why_says_what_this_user_may_not_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on OpenBSD, where the rules of the site are root's."""
    system, key = HostRoot(world.root), world.description.parent / "vpn.conf"
    plain = Vm(name="plain", image="term")
    tunneled = msgspec.structs.replace(plain, network=Network(name="proton", kind=NetworkKind.WIREGUARD, file=str(key)))
    hidden = {str(key)}
    monkeypatch.setattr("os.access", lambda path, mode: str(path) not in hidden)
    assert (hidden_file(system, plain), hidden_file(system, tunneled)) == (None, key)
    key.unlink()
    assert hidden_file(system, tunneled) is None, "what is missing is no secret"
    hidden.add(str(world.root / "etc/pf.conf"))
    assert hidden_file(system, plain) == world.root / "etc/pf.conf"


def test_the_administrators_own_files_stay(world: World) -> None:
    """Tunnels and recipes may lie in /etc/okubsd, beside what is written there."""
    own = world.root / "etc/okubsd/proton.conf"
    own.parent.mkdir(exist_ok=True)
    own.write_text("mine")
    world.must("apply", "-y")
    world.must("unapply", "-y")
    assert own.read_text() == "mine"


def test_an_interface_of_the_administrators_is_not_taken(world: World) -> None:
    (world.root / "etc/hostname.wg106").write_text("wgkey mine\n")
    done = world.okubsd("apply", "-y")
    assert done.returncode == 1 and "/etc/hostname.wg106 is not okubsd's" in done.stderr


@pytest.fixture(params=SHELLS, ids=lambda path: Path(path).name)
def laid(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    world = twin(tmp_path, request.param, World.fake_images, describe, World.lay)
    calls(world)
    return world


def runs(world: World, name: str, number: int, rdomain: int) -> None:
    """Let vmd's part of the simulator say that a VM runs."""
    running = world.state.get("running", {})
    running[name] = {"pid": 1, "vm": world.state["vms"][name], "host": f"100.64.{number}.2", "rdomain": rdomain,
                     "group": "okubsd"}  # fmt: skip
    world.change(running=running)


def test_vms_that_share_a_tunnel_come_and_go_without_touching_each_other(laid: World) -> None:
    for name in ("a", "b"):
        assert helper(laid, "prepare", name, data="who").returncode == 0
    done = calls(laid)
    assert done.count("netstart wg106") == 1, "the tunnel is brought up by the first, and left alone by the second"
    assert not any(call.startswith("kill 106 0.0.0.0/0") for call in done)
    for number, name in enumerate(("a", "b"), 1):
        runs(laid, name, number, 106)
        opened = helper(laid, "open", name)
        assert (opened.returncode, opened.stdout) == (0, f"100.64.{laid.state['ids'][name]}.3\n"), opened.stderr
    calls(laid)
    assert helper(laid, "close", "a").returncode == 0
    mine = f"100.64.{laid.state['ids']['a']}.3"
    assert calls(laid) == [f"kill 106 {mine}", f"kill 106 0.0.0.0/0 {mine}", f"kill {mine}"]
    assert 'anchor "tap" on tap101' in laid.state["anchors"]["okubsd/b"]["text"]
    assert laid.state["anchors"]["okubsd/a"]["text"] == "block drop quick on tap100\n"


def test_a_tap_in_the_wrong_rdomain_is_not_opened(laid: World) -> None:
    runs(laid, "a", 1, 100)
    done = helper(laid, "open", "a")
    assert done.returncode == 3 and "tap100 is not in rdomain 106" in done.stderr
    assert "okubsd/a" not in laid.state["anchors"]


def test_ports_of_a_switch_are_closed_unless_vms_are_to_meet(laid: World) -> None:
    for name, number in (("lab1", 104), ("club1", 105)):
        assert helper(laid, "prepare", name, data="who").returncode == 0
        runs(laid, name, number, number)
        assert helper(laid, "open", name).returncode == 0
    assert [call for call in calls(laid) if "protected" in call] == [
        # Before vmd opens it, and looked after again when the network is opened.
        "protected veb108 tap1104 1",
        "protected veb108 tap1104 1",
        "-protected veb109 tap1105",
    ]
    assert (laid.root / "dev/tap1104").exists() and (laid.root / "dev/tap1105").exists()


def test_a_guest_that_resets_itself_keeps_its_walls(laid: World) -> None:
    assert helper(laid, "prepare", "lab1", data="who").returncode == 0
    made = [call for call in calls(laid) if "tap" in call]
    assert made == ["create tap104", "create tap1104", "add veb108 tap1104", "protected veb108 tap1104 1"]
    runs(laid, "lab1", 104, 104)
    assert helper(laid, "open", "lab1").returncode == 0
    reset(laid, "lab1")
    assert laid.state["protected"]["veb108"] == {"tap1104": 1}
    # A tap of vmd's own making would not have been the same one again.
    laid.change(interfaces={name: lines for name, lines in laid.state["interfaces"].items() if name != "tap1104"})
    reset(laid, "lab1")
    assert laid.state["protected"]["veb108"] == {}
    laid.change(running={})
    # The next start makes them anew, and nothing of the last one is left in them.
    assert helper(laid, "prepare", "lab1", data="who").returncode == 0
    assert "destroy tap104" in calls(laid) and laid.state["protected"]["veb108"] == {"tap1104": 1}


def test_a_switch_that_is_made_anew_gets_the_ports_of_those_that_run_again(world: World) -> None:
    world.must("apply", "-y")
    assert helper(world, "prepare", "lab1", data="who").returncode == 0
    runs(world, "lab1", 104, 104)
    assert helper(world, "open", "lab1").returncode == 0
    calls(world)
    describe(world, DESCRIPTION.replace("10.77.0.1/24", "10.79.0.1/24"))
    world.must("apply", "-y")
    done = [call for call in calls(world) if "veb108" in call]
    assert done == ["destroy veb108", "netstart veb108", "add veb108 tap1104", "protected veb108 tap1104 1"]


def test_taps_and_loopbacks_go_with_their_vms(world: World) -> None:
    world.must("apply", "-y")
    for name in ("lab1", "plain"):
        assert helper(world, "prepare", name, data="who").returncode == 0
    assert {"tap104", "tap1104", "lo104", "tap102", "lo102"} <= set(world.state["interfaces"])
    describe(world, DESCRIPTION.replace("  lab1: {image: term, network: lab, disposable: yes}\n", ""))
    world.must("apply", "-y")
    left = set(world.state["interfaces"])
    assert not left & {"tap104", "tap1104", "lo104"} and {"tap102", "lo102"} <= left
    # What became free is free for the next.
    describe(world, DESCRIPTION.replace("lab1:", "lab2:"))
    world.must("apply", "-y")
    assert helper(world, "prepare", "lab2", data="who").returncode == 0
    world.must("unapply", "-y")
    assert not [name for name in world.state["interfaces"] if name.startswith(("tap", "lo1"))]
    world.must("apply", "-y")


def test_a_vm_that_runs_is_not_prepared_again(laid: World) -> None:
    assert helper(laid, "prepare", "lab1", data="who").returncode == 0
    runs(laid, "lab1", 104, 104)
    before = laid.tree("var/okubsd")
    done = helper(laid, "prepare", "lab1", data="other")
    assert done.returncode == 1 and "it runs: tap104 is open" in done.stderr
    assert laid.tree("var/okubsd") == before


def test_an_interface_that_goes_while_queues_are_loaded_is_looked_for_again(laid: World) -> None:
    describe(laid, DESCRIPTION.replace("plain: {image", "plain: {bandwidth: {down: 1M}, image"))
    laid.must("apply", "-y")
    assert helper(laid, "prepare", "plain", data="who").returncode == 0
    once = laid.root / "sim/queue-fails-once"
    once.touch()
    assert helper(laid, "shape", "plain").returncode == 0
    assert laid.state["queues"] and not once.exists()


def reset(world: World, name: str) -> None:
    """Have the guest of a VM that runs reset itself: vmd opens its taps again."""
    code = (
        "from tests.openbsd.sim.device import forget_taps; from tests.openbsd.sim.state import state\n"
        f"with state() as s: forget_taps(s, s.vms[{name!r}])"
    )
    done = world.run(sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr


def test_a_switch_that_lets_vms_meet_is_told_of_those_that_run(world: World) -> None:
    world.must("apply", "-y")
    for name, number in (("lab1", 104), ("club1", 105)):
        runs(world, name, number, number)
    calls(world)
    anchors = {name: text for name, text in world.tree("etc").items() if "/pf/" in name}
    describe(world, DESCRIPTION.replace("switch: 10.77.0.1/24", "switch: 10.77.0.1/24, meet: yes"))
    world.must("apply", "-y")
    assert [call for call in calls(world) if "protected" in call] == ["-protected veb108 tap1104"]
    assert {name: text for name, text in world.tree("etc").items() if "/pf/" in name} == anchors
    describe(world)
    world.must("apply", "-y")
    assert [call for call in calls(world) if "protected" in call] == ["protected veb108 tap1104 1"]


RULES = """\
host: {{owner: alice}}
vms:
  a:
    image: term
    disposable: yes
    deny: [any]
    allow:
      - page.example.org
      - dead.example.org:80
      - {{to: 'tcp any:6000', until: {soon}}}
      - {{to: 'tcp any:7000', until: {past}}}
"""


def stamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))


def test_a_rule_ends_by_a_job_and_is_not_loaded_again(laid: World) -> None:
    describe(laid, RULES.format(soon=stamp(600), past=stamp(7200)))
    laid.lay()
    runs(laid, "a", 1, 100)
    assert helper(laid, "open", "a").returncode == 0
    text = laid.state["anchors"]["okubsd/a"]["text"]
    assert "port 6000" in text and "port 7000" in text
    (first, command), (later, _) = laid.state["jobs"]
    assert command == "/usr/local/libexec/okubsd-helper expire a" and first < later
    laid.change(ahead=1200)
    calls(laid)
    assert helper(laid, "expire", "a").returncode == 0
    killed = [call for call in calls(laid) if call.startswith("kill")]
    assert killed == ["kill 100 100.64.1.3", "kill 100.64.1.3"]
    # The rules of it are another anchor's, which is flushed; a new start loads them no more.
    helper(laid, "close", "a")
    assert helper(laid, "open", "a").returncode == 0
    text = laid.state["anchors"]["okubsd/a"]["text"]
    assert "port 6000" not in text and "port 7000" in text and "block return in quick inet from $G" in text
    helper(laid, "close", "a")


def test_names_fill_tables_for_as_long_as_the_network_is_open(laid: World) -> None:
    describe(laid, RULES.format(soon=stamp(3600), past=stamp(3600)))
    laid.lay()
    laid.change(dns={"page.example.org": ["203.0.113.80", "10.0.0.1"]})
    runs(laid, "a", 1, 100)
    assert helper(laid, "open", "a").returncode == 0
    end = time.monotonic() + 20
    while "tables" not in laid.state or len(laid.state["tables"]) < 2:
        assert time.monotonic() < end, laid.state["calls"]
        time.sleep(0.1)
    assert laid.state["tables"] == {"okubsd/a/tap/rd:name1": ["203.0.113.80"], "okubsd/a/tap/rd:name2": []}
    assert "ask @9.9.9.9 page.example.org A" in laid.state["calls"], "by the network's own resolver"
    asked = [call for call in laid.state["calls"] if call.startswith(("ask ", "as nobody "))]
    assert asked[0::2] == ["as nobody drill"] * (len(asked) // 2), "nothing of root's reads a stranger's packets"
    assert helper(laid, "close", "a").returncode == 0
    pattern = f"names {laid.root}/var/run/okubsd/a.names"
    end = time.monotonic() + 10
    while subprocess.run(["pgrep", "-f", pattern], capture_output=True, check=False).returncode == 0:
        assert time.monotonic() < end, "the follower ends with the network"
        time.sleep(0.1)


def test_one_rule_of_one_vm_touches_its_anchor_only(world: World) -> None:
    world.must("apply", "-y")
    runs(world, "b", 2, 106)
    before = world.tree("etc")
    calls(world)
    done = world.okubsd("net", "deny", "b", "any:25", "--comment", "no mail")
    assert done.returncode == 0 and "it is in force" in done.stderr, done.stderr
    after = world.tree("etc")
    assert [name for name in after if after[name] != before.get(name)] == ["etc/okubsd/pf/b.conf"]
    assert "port 25" in world.state["anchors"]["okubsd/b"]["text"] and "okubsd/a" not in world.state["anchors"]
    assert all(call.startswith("kill") for call in calls(world)), "no interface was touched"
    assert "nothing to do" in world.okubsd("apply", "-y").stderr, "it is what a whole apply would have made"
    # Who is not root changes the description, and is told what is left to do.
    done = world.okubsd("net", "allow", "b", "any:25", user="alice")
    assert done.returncode == 0 and "it takes effect with: doas okubsd apply" in done.stderr
    assert "etc/okubsd/pf/b.conf" in world.okubsd("apply", "-n").stdout
    done = world.okubsd("why", "b", "198.51.100.7:25")
    assert done.returncode == 1 and "deny any:25 (no mail)" in done.stdout


@pytest.mark.parametrize("shell", SHELLS)
def test_what_openvpn_calls_takes_addresses_and_nothing_else(shell: str, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/hostname.tun107").touch()
    (tmp_path / "bin").mkdir()
    for name in ("ifconfig", "route"):
        (tmp_path / "bin" / name).write_text(f'#!/bin/sh\necho {name} "$@" >>{tmp_path}/told\n')
        (tmp_path / "bin" / name).chmod(0o755)
    text = (CHECKOUT / "libexec/okubsd-tun").read_text()
    script = tmp_path / "okubsd-tun"
    script.write_text(text.replace("\nroot=\n", f"\nroot={tmp_path}\n").replace("\nPATH=", f"\nPATH={tmp_path}/bin:"))

    def up(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([shell, str(script), *words], env=env, capture_output=True, text=True, check=False)

    good = {"ifconfig_local": "10.8.0.6", "route_vpn_gateway": "10.8.0.5"}
    assert up("tun107", "1500", **good).returncode == 0
    assert (tmp_path / "told").read_text() == (
        "ifconfig tun107 inet 10.8.0.6 10.8.0.5 netmask 255.255.255.255 mtu 1500 up\n"
        "route -qn -T 107 delete -inet default 10.8.0.5\nroute -qn -T 107 add -inet default 10.8.0.5\n"
    )
    (tmp_path / "told").unlink()
    for words, env in (
        (("tun108", "1500"), good), (("em0", "1500"), good), (("tun107", "1;id"), good), (("tun107",), good),
        (("tun107", "1500"), {}), (("tun107", "1500"), good | {"ifconfig_local": "10.8.0.6 -x"}),
        (("tun107", "1500"), good | {"route_vpn_gateway": "$(id)"}),
    ):  # fmt: skip
        assert up(*words, **env).returncode == 1, (words, env)
    assert not (tmp_path / "told").exists()
