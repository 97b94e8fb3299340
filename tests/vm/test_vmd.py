"""The whole OpenBSD path on real guests: apply, start as an ordinary user, a window, and back.

vmd, pf, doas and the rest are simulated (tests/openbsd/sim.py); the guests are real, on a machine of vmd's shape:
SeaBIOS from the boot drive, one CPU, no ACPI, no APIC, qcow2 overlays, DHCP on a tap in a namespace of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from okubsd.host.store import hash_file
from tests.openbsd.conftest import okubsd_group  # noqa: F401  (a fixture that is used by being there)
from tests.openbsd.test_compile import WG
from tests.openbsd.world import World as Host
from tests.vm.world import World

DESCRIPTION = """\
host: {owner: alice}
defaults: {image: term, memory: 192M, home: 64M, display: 800x600}
vms:
  term: {image: term}
  kept: {image: term, keep: yes, network: none}
  gone: {image: term, keep: yes, disposable: yes}
  emulated: {image: term, keep: yes, backend: qemu}
  way: {image: vpn-gateway, keep: yes, disposable: yes, tunnel: vpn.conf, memory: 192M}
  behind: {image: term, keep: yes, disposable: yes, network: out}
  lab1: {image: term, keep: yes, disposable: yes, network: lab}
  lab2: {image: term, keep: yes, disposable: yes, network: lab}
networks:
  out: {gateway: way}
  lab: {switch: 10.77.0.1/24}
"""


def trust(built: World, host: Host, archive: Path, user: str) -> None:
    """Have ``user`` take what was exported in ``built``, after an archive that nobody trusts was refused."""
    done = host.okubsd("image", "import", str(archive), user=user)
    assert done.returncode == 1 and "not trusted here" in done.stderr
    (own,) = [key for key in json.loads(built.ok("key", "ls", "--json"))["keys"] if key["own"]]
    host.must("key", "trust", str(archive), own["fingerprint"], user=user)


@pytest.fixture(scope="module")
def openbsd(built: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A simulated OpenBSD with real images imported and the description applied."""
    host = Host(tmp_path_factory.mktemp("ob"))
    host.write(DESCRIPTION.replace("image: term, ", "", 1))
    for path in (host.description.parent / "vpn.conf",):
        path.write_text(WG)
        path.chmod(0o600)
    built.ok("image", "build", "vpn-gateway")
    archive = host.root / "images.tar"
    built.ok("image", "export", "--alone", "--force", str(archive), "boot", "base", "term", "vpn-gateway")
    trust(built, host, archive, "root")
    host.must("image", "import", str(archive))
    host.must("apply", "-y")
    archive.unlink()
    yield host
    end_all(host)


def end_all(host: Host) -> None:
    for pid in host.state.get("holders", {}).values():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for vm in host.state.get("running", {}).values():
        with contextlib.suppress(ProcessLookupError):
            os.kill(vm["pid"], signal.SIGTERM)


@pytest.fixture
def ob(openbsd: Host) -> Iterator[Host]:
    """The host, with nothing running before and nothing left after."""
    openbsd.faults()
    yield openbsd
    openbsd.must("stop", "--all", "--force", user="alice")
    openbsd.faults()
    end = time.monotonic() + 5
    while (left := [line for line in processes() if str(openbsd.root) in line]) and time.monotonic() < end:
        time.sleep(0.1)
    assert left == [], "processes are left behind"
    assert all(a["text"].startswith("block drop quick on tap") for n, a in openbsd.state["anchors"].items() if n)


def processes() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return found


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def guest(ob: Host, name: str, *command: str) -> str:
    """Run a command in the guest and return what it printed."""
    return ob.must("run", name, "--", *command, user="alice").strip()


def test_a_window_through_the_whole_path(ob: Host, tmp_path: Path) -> None:
    done = ob.okubsd("start", "term", "--headless", "--timing", user="alice")
    assert done.returncode == 0, done.stderr + ob.consoles()
    assert "term: on vmd, since this host has one" in done.stderr
    picture = tmp_path / "term.png"
    ob.must("screenshot", "term", str(picture), user="alice")
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and picture.stat().st_size > 1000
    status = json.loads(ob.must("status", "term", "--json", user="alice"))
    assert status["state"] == "running" and status["weaker_walls"] == [] and status["clock"] == "runs with the host's"
    assert status["address"] == "100.64.1.3"
    # The network was opened only after the tap was looked at, for the guest's own address.
    anchor = ob.state["anchors"]["okubsd/term"]
    assert anchor["macros"] == {"G": "100.64.1.3"} and "rdr-to 9.9.9.9" in anchor["text"]
    again = ob.okubsd("start", "term", "--headless", user="alice")
    assert again.returncode == 0 and "the app is shown already" in again.stderr
    ob.must("stop", "term", user="alice")
    assert "stopped" in ob.run("vmctl", "status", "term").stdout


@pytest.mark.parametrize("virtio", ["legacy", "modern"])
def test_the_guest_takes_vmds_machine(virtio: str, ob: Host) -> None:
    ob.change(virtio=virtio)
    ob.must("start", "kept", "--no-app", user="alice")
    interrupts = guest(ob, "kept", "cat", "/proc/interrupts")
    assert "XT-PIC" in interrupts and "APIC-edge" not in interrupts and "MSI" not in interrupts
    assert guest(ob, "kept", "sh", "-c", "ls -d /sys/firmware/acpi 2>/dev/null || echo none") == "none"
    clock = guest(ob, "kept", "cat", "/sys/devices/system/clocksource/clocksource0/current_clocksource")
    assert clock == "tsc"
    words = guest(ob, "kept", "cat", "/proc/cmdline")
    for word in ("reboot=t", "console=ttyS0,115200", "tsc_early_khz=2600000", "tsc=reliable"):
        assert word in words
    features = guest(ob, "kept", "sh", "-c", "cat /sys/bus/virtio/devices/*/features | cut -c33")
    # Bit 32 is VIRTIO_F_VERSION_1.
    assert set(features.split()) == {"1" if virtio == "modern" else "0"}
    assert guest(ob, "kept", "cat", "/sys/class/net/eth0/address") == "fe:e1:bb:01:65:01"
    assert re.fullmatch(r"\S+ \S+ \S+ \S+ \S+", guest(ob, "kept", "sh", "-c", "echo vd a b c d"))
    assert guest(ob, "kept", "sh", "-c", "ls /dev/vd?").split() == [f"/dev/vd{letter}" for letter in "abcd"]


def test_what_a_guest_writes_is_in_its_home_or_gone(ob: Host) -> None:
    images = {path: hash_file(path) for path in (ob.root / "var/okubsd/images").glob("*/current/drive.qcow2")}
    assert len(images) == 4
    for name in ("kept", "gone"):
        ob.must("start", name, "--no-app", user="alice")
        guest(ob, name, "sh", "-c", "echo mine >~/kept; echo x >/tmp/x; sync")
        ob.must("run", "--root", name, "--", "sh", "-c", "echo x >/usr/bin/planted", user="alice")
        ob.must("restart", name, "--headless", user="alice")
        assert guest(ob, name, "sh", "-c", "cat ~/kept 2>/dev/null || echo none") == (
            "mine" if name == "kept" else "none"
        )
        assert guest(ob, name, "sh", "-c", "ls /tmp/x /usr/bin/planted 2>/dev/null | wc -l") == "0"
        ob.must("stop", name, user="alice")
    assert {path: hash_file(path) for path in images} == images, "the shared images are as they were"


def test_the_file_system_of_a_home_never_grows_over_what_says_who_the_guest_is(ob: Host) -> None:
    ob.must("start", "term", "--no-app", user="alice")
    # It grows by itself, a moment after the boot.
    script = (
        "sleep 5; drive=$(cat /run/okubsd/home-drive); cat /sys/class/block/${drive#/dev/}/size; "
        "dumpe2fs -h $drive 2>/dev/null | sed -n -e 's/^Block count: *//p' -e 's/^Block size: *//p'"
    )
    sectors, blocks, size = map(int, ob.must("run", "-r", "term", "--", "sh", "-c", script, user="alice").split())
    assert blocks * size == sectors * 512 - (1 << 20)
    ob.must("stop", "term", user="alice")


def test_only_nat_has_a_way_out(ob: Host) -> None:
    ob.must("start", "kept", "--no-app", user="alice")
    ob.must("start", "term", "--no-app", user="alice")
    shown = "cat /proc/net/route | grep -c '^eth0.00000000'; cat /etc/resolv.conf 2>/dev/null | wc -l"
    assert guest(ob, "kept", "sh", "-c", shown).split() == ["0", "0"]
    assert guest(ob, "term", "sh", "-c", shown).split() == ["1", "1"]
    rows = [line.split()[-1] for line in ob.run("vmctl", "status", "-r").stdout.splitlines()[1:]]
    assert sorted(rows) == ["kept", "term"]


@pytest.mark.parametrize(
    ("faults", "words"),
    [
        ({"tap_rdomain": 0}, "tap100 is not in rdomain 100"),
        ({"tap_rdomain": 101}, "tap100 is not in rdomain 100"),
        ({"tap_group": "other"}, "tap100 is not in the group okubsd"),
        ({"tap": "missing"}, "tap100 is not there"),
    ],
)
def test_a_tap_that_is_not_in_its_place_stops_the_vm(faults: dict[str, object], words: str, ob: Host) -> None:
    ob.faults(**faults)
    done = ob.okubsd("start", "term", "--no-app", user="alice")
    assert done.returncode == 1 and words in done.stderr and "it was stopped" in done.stderr
    assert ob.run("vmctl", "status", "-r").stdout.count("\n") == 1


def test_two_starts_make_one_vm_and_a_killed_one_is_begun_anew(ob: Host) -> None:
    import subprocess
    import sys

    argv = [sys.executable, "-m", "tests.openbsd.as_user", "start", "kept", "--no-app"]
    both = [subprocess.Popen(argv, env=ob.env("alice"), cwd=ob.root, stderr=subprocess.PIPE) for _ in range(2)]
    assert [process.wait(120) for process in both] == [0, 0]
    assert ob.run("vmctl", "status", "-r").stdout.count("kept") == 1
    ob.must("stop", "kept", user="alice")
    killed = subprocess.Popen(argv, env=ob.env("alice"), cwd=ob.root, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while "kept" not in ob.state.get("running", {}) and time.monotonic() < end:
        time.sleep(0.05)
    killed.kill()
    killed.wait()
    ob.must("start", "kept", "--no-app", user="alice")
    assert guest(ob, "kept", "echo", "here") == "here"


def test_a_guest_that_does_not_power_off_is_ended(ob: Host) -> None:
    ob.must("start", "kept", "--no-app", user="alice")
    ob.must("run", "--root", "kept", "--", "rm", "/usr/lib/okubsd/poweroff", user="alice")
    done = ob.okubsd("stop", "kept", "-t", "2", user="alice")
    assert done.returncode == 0 and "does not power off by itself" in done.stderr


def test_the_clock_is_set_after_a_sleep(ob: Host) -> None:
    ob.must("start", "kept", "--no-app", user="alice")
    ob.must("run", "--root", "kept", "--", "date", "-s", "2020-01-01", user="alice")
    ob.must("clock", "--all", user="alice")
    assert abs(int(guest(ob, "kept", "date", "+%s")) - time.time()) < 5


def test_a_vm_waits_until_it_is_started(ob: Host, tmp_path: Path) -> None:
    done = ob.okubsd("pool", "start", "kept", user="alice")
    assert done.returncode == 0 and "kept: waits for okubsd start kept" in done.stderr, done.stderr + ob.consoles()
    assert " paused kept" in ob.run("vmctl", "status", "kept").stdout
    (row,) = [vm for vm in json.loads(ob.must("list", "--json", user="alice"))["vms"] if vm["name"] == "kept"]
    assert row["state"] == "waits"
    (one,) = json.loads(ob.must("pool", "ls", "--json", user="alice"))["waiting"]
    assert (one["name"], one["app"], one["good"]) == ("kept", "term", True)
    said = json.loads(ob.must("status", "kept", "--json", user="alice"))
    assert said["begins"] == "at once: it has booted, and waits"
    # Nothing is asked of it meanwhile, not even after the host has slept, and it does not wait twice.
    ob.must("clock", "--all", user="alice")
    assert ob.okubsd("run", "kept", "--", "true", user="alice").returncode == 1
    again = ob.okubsd("pool", "start", "kept", user="alice")
    assert again.returncode == 1 and "'kept' waits already" in again.stderr

    # It goes on, shows what it was started with, and knows the time.
    time.sleep(3)
    done = ob.okubsd("start", "kept", "--headless", user="alice")
    assert done.returncode == 0 and "the app is shown already" in done.stderr, done.stderr + ob.consoles()
    assert " running kept" in ob.run("vmctl", "status", "kept").stdout
    assert abs(int(guest(ob, "kept", "date", "+%s")) - time.time()) < 2
    picture = tmp_path / "kept.png"
    ob.must("screenshot", "kept", str(picture), user="alice")
    assert picture.stat().st_size > 1000
    assert json.loads(ob.must("pool", "ls", "--json", user="alice"))["waiting"] == []
    assert json.loads(ob.must("status", "kept", "--json", user="alice"))["clock"] == "runs with the host's"
    guest(ob, "kept", "sh", "-c", "echo kept >~/waited && sync")
    ob.must("stop", "kept", user="alice")

    # One that waits and is not wanted ends as any other: what is in its home stays, and it is not called paused.
    ob.must("pool", "start", "kept", user="alice")
    ob.must("pool", "clear", user="alice")
    assert " stopped kept" in ob.run("vmctl", "status", "kept").stdout
    ob.must("start", "kept", "--no-app", user="alice")
    assert guest(ob, "kept", "cat", "waited") == "kept"
    ob.must("stop", "--force", "kept", user="alice")


def test_a_vm_that_cannot_wait_runs_on(ob: Host) -> None:
    ob.faults(pause="refused")
    done = ob.okubsd("pool", "start", "kept", user="alice")
    assert done.returncode == 1 and "vmd does not have it wait" in done.stderr
    assert guest(ob, "kept", "echo", "runs") == "runs"
    assert json.loads(ob.must("pool", "ls", "--json", user="alice"))["waiting"] == []
    # A mark that was left, as by a kill between it and the pause, is not believed.
    mark = ob.root / "home/alice/vms/kept/waiting.json"
    mark.write_text(json.dumps({"name": "kept", "origin": "kept", "app": "term", "made": 1, "key": "x"}))
    assert [
        vm["state"] for vm in json.loads(ob.must("list", "--json", user="alice"))["vms"] if vm["name"] == "kept"
    ] == ["running"]
    ob.must("pool", "clear", user="alice")
    assert guest(ob, "kept", "echo", "runs") == "runs"
    # Of one that somebody else had stand still, it is said how it goes on.
    ob.faults()
    assert ob.run("vmctl", "pause", "kept", user="alice").returncode == 0
    mark.unlink()
    done = ob.okubsd("start", "kept", "--headless", user="alice")
    assert done.returncode == 1 and "stands still" in done.stderr and "vmctl unpause kept" in done.stderr


def test_a_vm_that_waits_is_started_anew_once_it_is_described_otherwise(ob: Host) -> None:
    ob.must("pool", "start", "kept", user="alice")
    text = ob.description.read_text()
    try:
        ob.write(text.replace("kept: {", "kept: {color: purple, ", 1))
        (one,) = json.loads(ob.must("pool", "ls", "--json", user="alice"))["waiting"]
        assert not one["good"]
        done = ob.okubsd("start", "kept", "--headless", user="alice")
        assert done.returncode == 0 and "booting" in done.stderr, done.stderr + ob.consoles()
    finally:
        ob.write(text)


def test_a_start_in_the_middle_of_a_preparation_has_the_vm_go_on(ob: Host) -> None:
    argv = [str(ob.root / "bin/__okubsd"), "pool", "start", "kept"]
    preparing = subprocess.Popen(argv, env=ob.env("alice"), cwd=ob.root, stderr=subprocess.PIPE)
    end = time.monotonic() + 60
    while "kept" not in ob.state.get("running", {}) and time.monotonic() < end:
        time.sleep(0.1)
    done = ob.okubsd("start", "kept", "--headless", user="alice")
    assert preparing.wait(60) == 0
    assert done.returncode == 0 and "waiting for another okubsd" in done.stderr, done.stderr
    assert " running kept" in ob.run("vmctl", "status", "kept").stdout
    assert guest(ob, "kept", "echo", "runs") == "runs"


def test_apply_while_it_runs_shuts_and_opens(ob: Host) -> None:
    ob.must("start", "kept", "--no-app", user="alice")
    before = ob.description.read_text()
    ob.write(before.replace("keep: yes, network: none", "keep: yes"))
    try:
        ob.must("apply", "-y")
        anchor = ob.state["anchors"]["okubsd/kept"]
        assert "rdr-to" in anchor["text"] and anchor["macros"]["G"].startswith("100.64.")
        assert guest(ob, "kept", "echo", "still here") == "still here"
    finally:
        ob.write(before)
        ob.must("apply", "-y")
    assert "rdr-to" not in ob.state["anchors"]["okubsd/kept"]["text"]


def test_the_console_is_a_root_shell_of_the_owners(ob: Host) -> None:
    import sys

    import pexpect

    ob.must("start", "kept", "--no-app", user="alice")
    argv = ["-m", "tests.openbsd.as_user", "console", "kept"]
    child = pexpect.spawn(sys.executable, argv, env=ob.env("alice"), cwd=str(ob.root), timeout=30)
    child.expect("Connected")
    child.send("\r")
    child.send("echo uid=$(id -u)\r")
    child.expect("uid=0")
    child.send("~.\r")
    child.expect(pexpect.EOF)
    stopped = ob.okubsd("console", "gone", user="alice")
    assert stopped.returncode == 1 and "is not running" in stopped.stderr


def test_a_changed_byte_of_a_shared_drive_is_seen(ob: Host) -> None:
    drive = (ob.root / "var/okubsd/images/base/current/drive.qcow2").resolve()
    data = drive.read_bytes()
    try:
        drive.chmod(0o644)
        drive.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        done = ob.okubsd("start", "kept", "--no-app", user="alice")
        assert done.returncode == 1 and "image 'base' is damaged" in done.stderr
    finally:
        drive.write_bytes(data)
        drive.chmod(0o444)


def test_qemu_beside_vmd_runs_on_its_prepared_tap(ob: Host, built: World, tmp_path: Path) -> None:
    archive = tmp_path / "images.tar"
    built.ok("image", "export", "--alone", "--force", str(archive), "boot", "base", "term")
    trust(built, ob, archive, "alice")
    ob.must("image", "import", str(archive), user="alice")
    done = ob.okubsd("start", "emulated", "--headless", user="alice")
    assert done.returncode == 0, done.stderr
    assert "emulated: on QEMU, since the description says so" in done.stderr
    picture = tmp_path / "emulated.png"
    ob.must("screenshot", "emulated", str(picture), user="alice")
    assert picture.stat().st_size > 1000
    status = json.loads(ob.must("status", "emulated", "--json", user="alice"))
    assert any("under OpenBSD's vmd" in wall for wall in status["weaker_walls"])
    number = next(int(line.split()[1]) for line in (ob.root / "etc/okubsd/numbers").read_text().splitlines()
                  if line.startswith("emulated "))  # fmt: skip
    assert ob.state["anchors"]["okubsd/emulated"]["macros"] == {"G": f"100.127.{number}.3"}
    assert guest(ob, "emulated", "sh", "-c", "cat /proc/net/route | grep -c '^eth0.00000000'") == "1"
    ob.must("stop", "emulated", user="alice")
    assert ob.state["anchors"]["okubsd/emulated"]["text"] == f"block drop quick on tap{number}\n"


def test_a_vm_behind_a_gateway_vm(ob: Host) -> None:
    """Both on vmd: the gateway loads its modules from the boot drive, and the link is a switch of theirs alone."""
    done = ob.okubsd("start", "behind", "--no-app", user="alice")
    assert done.returncode == 0 and "its gateway way was started" in done.stderr, done.stderr
    shown = guest(ob, "behind", "sh", "-c", "busybox ip -4 address show dev eth1; busybox ip route show")
    assert "inet 100.126.1.3/31" in shown and "default via 100.126.1.2 dev eth1" in shown
    guest(ob, "behind", "timeout", "3", "bash", "-c", "echo x >/dev/udp/192.0.2.53/53; sleep 1")
    root = ("run", "--root", "way", "--")
    routes = ob.must(*root, "ip", "route", user="alice")
    # The way to the tunnel's end is by the host's side of its own tap, which DHCP told.
    assert re.search(r"(?m)^198\.51\.100\.7 via 100\.64\.\d+\.2 dev eth0", routes) and "default dev wg0" in routes
    asked = ob.must(*root, "nft", "list", "counter", "inet", "okubsd", "asked1", user="alice")
    assert "packets 0" not in asked, "what the VM sends arrives, and its DNS is diverted"
    assert "198.51.100.7:51820" in ob.must(*root, "wg", "show", "wg0", "endpoints", user="alice")
    status = json.loads(ob.must("status", "behind", "--json", user="alice"))
    assert status["gateway"] == "way runs"
    # pf lets out of the gateway what its tunnel needs, and of the VM behind it nothing at all.
    anchors = ob.state["anchors"]
    assert "to 198.51.100.7/32 port 51820" in anchors["okubsd/way"]["text"]
    assert "block return in quick inet from $G label" in anchors["okubsd/way"]["text"]
    assert "egress" not in anchors["okubsd/behind"]["text"]
    assert "pass in" not in anchors["okubsd/behind"]["text"]


def test_a_call_into_a_guest_that_stands_still_leaves_nothing(ob: Host) -> None:
    """Who waits in it is killed, then the VM by force: no ssh of either is left, which ``ob`` sees to."""
    ob.must("start", "kept", "--no-app", user="alice")
    for root in ((), ("--root",)):
        ob.must("run", *root, "kept", "--", "true", user="alice")
    argv = (sys.executable, "-m", "tests.openbsd.as_user", "run", "--root", "kept", "--", "sleep", "1000")
    with subprocess.Popen(argv, env=ob.env("alice"), cwd=ob.root) as waiting:
        device = ob.state["running"]["kept"]["pid"]
        (qemu,) = (pid for pid in children(device) if "qemu" in Path(f"/proc/{pid}/cmdline").read_text())
        os.kill(qemu, signal.SIGSTOP)
        waiting.kill()


def test_vms_on_a_switch_meet_only_where_that_is_said(ob: Host) -> None:
    """Both have an address by dhcpd on their second NIC, and no way out; the host's end answers the sender only."""
    both = {"lab1": "10.77.0.2", "lab2": "10.77.0.3"}
    for name, address in both.items():
        ob.must("start", name, "--no-app", user="alice")
        shown = guest(ob, name, "sh", "-c", "busybox ip -4 address show dev eth1; busybox ip route show")
        assert f"inet {address}/24" in shown and "default" not in shown

    def reached() -> list[str]:
        ping = "busybox ping -c 1 -W 2 {} >/dev/null && echo {}; true"
        found = []
        for name, own in both.items():
            for other in ("10.77.0.1", *both.values()):
                if other != own:
                    command = ("run", "--root", name, "--", "sh", "-c", ping.format(other, f"{name}-{other}"))
                    found += ob.must(*command, user="alice").split()
        return found

    apart = ["lab1-10.77.0.1", "lab2-10.77.0.1"]
    assert reached() == apart
    before = ob.description.read_text()
    ob.write(before.replace("switch: 10.77.0.1/24", "switch: 10.77.0.1/24, meet: yes"))
    try:
        ob.must("apply", "-y")
        assert sorted(reached()) == sorted([*apart, "lab1-10.77.0.3", "lab2-10.77.0.2"])
    finally:
        ob.write(before)
        ob.must("apply", "-y")
    assert reached() == apart
