"""The kernel that is made for VMs only: compiled once, and booted by both backends, with apps and with a gateway."""

from __future__ import annotations

import json
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.openbsd.conftest import okubsd_group  # noqa: F401  (a fixture that is used by being there)
from tests.openbsd.test_compile import WG
from tests.openbsd.world import World as Host
from tests.vm.test_vmd import guest, ob, openbsd  # noqa: F401  (fixtures)
from tests.vm.world import World, read_png

_MOST_MB = 6

GATEWAY = """
  way: {image: vpn-gateway, keep: yes, disposable: yes, tunnel: vpn.conf, memory: 192M}
"""


@pytest.fixture(scope="module")
def own(built: World) -> Iterator[World]:
    """The world, whose guests have that kernel."""
    yield built
    built.end_all()


def test_an_app_shows_its_window_on_it(own: World, tmp_path: Path) -> None:
    rows = {row["name"]: row for row in json.loads(own.ok("image", "ls", "--json"))["images"]}
    assert rows["boot"]["build"] == rows["kernel"]["build"] and rows["boot"]["state"] == "current"
    own.ok("start", "--headless", "kept")
    own.ok("screenshot", "kept", str(tmp_path / "p.png"))
    assert read_png(tmp_path / "p.png")[:2] == (800, 600)
    assert "cloud" not in own.ok("run", "kept", "--", "uname", "-r")
    assert own.call("run", "kept", "--", "cat", "/proc/modules").code != 0
    size = next((own.state / "images/boot").glob("current/vmlinuz")).stat().st_size
    assert size < _MOST_MB << 20
    # The browsers' own sandboxes, and programs of a user, have what they need, and nobody else has more.
    assert own.ok("run", "kept", "--", "sh", "-c", "unshare -Urpf true && echo made").strip() == "made"
    own.ok("stop", "kept")


def test_it_is_harder_than_the_distributions_own(own: World) -> None:
    own.ok("start", "--headless", "kept")
    checks = json.loads(own.ok("audit", "kept", "--json"))["vms"][0]
    weak = [check["name"] for check in checks["checks"] if not check["good"] and check["name"].startswith("CONFIG")]
    assert weak == [] and checks["score"] >= 95
    own.ok("stop", "kept")


def test_a_web_server_answers_in_64_mb_on_it(own: World) -> None:
    own.ok("image", "build", "web")
    text = own.description.read_text()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own.description.write_text(f"{text}  web: {{image: web, memory: 64M, network: none, publish: ['{port}:80']}}\n")
    try:
        own.ok("start", "web")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60) as page:
            assert b"nginx" in page.read(1 << 16)
        own.ok("stop", "web")
    finally:
        own.call("stop", "-f", "web")
        own.description.write_text(text)


@pytest.mark.parametrize("kernel", ["own", "clouds_kernel"])
def test_a_gateway_has_its_rules_and_its_tunnel_on_it(kernel: str, own: World, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue(kernel)
    own.ok("image", "build", "vpn-gateway")
    text, conf = own.description.read_text(), own.description.parent / "vpn.conf"
    conf.write_text(WG)
    conf.chmod(0o600)
    own.description.write_text(text + GATEWAY)
    try:
        own.ok("start", "way", "--no-app")
        assert ("cloud" in own.ok("run", "way", "--", "uname", "-r")) == (kernel != "own")
        assert "wg0" in own.ok("run", "--root", "way", "--", "ip", "-br", "link", "show", "type", "wireguard")
        rules = own.ok("run", "--root", "way", "--", "nft", "list", "ruleset")
        assert "masquerade" in rules and "drop" in rules
        if kernel == "own":
            # It has no modules, so all that gateways need is there.
            assert own.ok("run", "--root", "way", "--", "ls", "/dev/net/tun").strip() == "/dev/net/tun"
        own.ok("stop", "way")
    finally:
        own.call("stop", "-f", "way")
        own.description.write_text(text)


@pytest.mark.parametrize("virtio", ["legacy", "modern"])
def test_it_takes_vmds_machine(virtio: str, own: World, ob: Host) -> None:  # noqa: F811
    ob.change(virtio=virtio)
    ob.must("start", "kept", "--no-app", user="alice")
    assert "cloud" not in guest(ob, "kept", "uname", "-r")
    clock = guest(ob, "kept", "cat", "/sys/devices/system/clocksource/clocksource0/current_clocksource")
    assert clock == "tsc"
    features = guest(ob, "kept", "sh", "-c", "cat /sys/bus/virtio/devices/*/features | cut -c33")
    assert set(features.split()) == {"1" if virtio == "modern" else "0"}
    assert guest(ob, "kept", "sh", "-c", "echo kept >~/file; ls /dev/vd?").split() == [f"/dev/vd{x}" for x in "abcd"]
