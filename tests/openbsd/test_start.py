"""Starts on vmd that go wrong: every message of vmctl's, every thing that may be missing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.openbsd.world import DESCRIPTION, World, twin

pytestmark = pytest.mark.spawns


@pytest.fixture
def applied(tmp_path: Path) -> World:
    """A host on which the description was applied, with images that verify."""
    return twin(tmp_path, "/bin/mksh", World.fake_images, World.lay)


def start(world: World, *more: str, user: str = "alice") -> str:
    """Start a VM that cannot be started, and return what was said."""
    done = world.okubsd("start", "term", "--no-app", *more, user=user)
    assert done.returncode not in (0, 99), done.stderr
    assert "Traceback" not in done.stderr and "simulator" not in done.stderr, done.stderr
    return done.stderr


# What the simulated vmctl says, and what the user is told of it: the meaning, and the next step.
MESSAGES = {
    "denied": ("refused", "another user's VM"),
    "disk": ("a drive cannot be opened", "doas okubsd apply"),
    "firmware": ("the firmware is missing", "doas fw_update vmm"),
    "chain": ("a drive is not what vmd takes", "/var/log/daemon"),
    "tap": ("the tap device is missing", "doas okubsd apply  # makes /dev/tapN"),
    "memory": ("there is not enough memory", "stop another VM"),
    "pipe": ("vmd is not running", "doas tail /var/log/daemon"),
    "unheard-of": ("failed: start vm command failed: Device busy", "/var/log/daemon"),
    # vmd said "started", and the VM is gone before its tap can be looked at.
    "dies": ("tap100 is not there", ""),
}


@pytest.mark.parametrize("fault", MESSAGES)
def test_every_message_of_vmctl_is_understood(fault: str, applied: World, monkeypatch: pytest.MonkeyPatch) -> None:
    applied.faults(start=fault)
    said = start(applied)
    meaning, hint = MESSAGES[fault]
    if fault == "dies":
        # Nothing is there for the helper to look at.
        assert "tap100 is down" in said
    else:
        assert meaning in said and hint in said
    assert applied.state["anchors"]["okubsd/term"]["text"] == "block drop quick on tap100\n", (
        "the network is shut again"
    )
    assert applied.state["running"] == {}


def test_vmd_is_down(applied: World) -> None:
    applied.change(vmd=False)
    assert "vmd is not running" in start(applied)
    assert "doas rcctl start vmd" in start(applied)
    listed = applied.okubsd("list", user="alice")
    assert listed.returncode == 1 and "vmd is not running" in listed.stderr


def test_the_socket_is_refused(applied: World) -> None:
    said = start(applied, user="carol")
    assert "the control socket may not be opened" in said and "usermod -G okubsd" in said


def test_somebody_elses_vm(applied: World) -> None:
    assert "it belongs to alice, not to bob" in start(applied, user="bob")


def test_a_vm_that_was_not_applied_does_not_fall_to_qemu(applied: World) -> None:
    applied.write(DESCRIPTION + "  new: {image: term}\n")
    done = applied.okubsd("start", "new", "--no-app", user="alice")
    assert done.returncode == 1 and "was not installed on this host yet" in done.stderr
    assert "doas okubsd apply" in done.stderr


def test_an_image_is_gone(applied: World) -> None:
    shutil.rmtree(applied.root / "var/okubsd/images/term")
    assert "image 'term'" in start(applied)


def test_the_images_of_the_host_are_listed(applied: World) -> None:
    done = applied.okubsd("image", "ls", "-j", user="alice")
    built = {row["name"]: row["build"] for row in json.loads(done.stdout)["images"]}
    assert built["term"] and built["base"] == "0123456789ab" and not built["office"]


def test_a_damaged_drive_is_seen_before_vmd(applied: World) -> None:
    base = applied.root / "var/okubsd/images/base/0123456789ab/drive.qcow2"
    data = bytearray(base.read_bytes())
    data[7] = 2
    base.write_bytes(data)
    said = start(applied)
    assert "version 2, vmd takes version 3" in said


def test_a_key_that_others_can_read(applied: World) -> None:
    applied.faults(start="denied")
    start(applied)
    (applied.root / "home/alice/vms/term/id_ed25519").chmod(0o644)
    assert "can be read by others" in start(applied)


def test_memory_is_not_overcommitted(applied: World) -> None:
    applied.change(sysctl={"hw.usermem": str(1600 << 20)})
    said = start(applied)
    assert "would not leave it 1536" in said and "stop another VM" in said


def test_stopping_what_does_not_run_is_no_failure(applied: World) -> None:
    done = applied.okubsd("stop", "term", user="alice")
    assert done.returncode == 0 and "is not running" in done.stderr


def test_a_plan_shows_the_calls(applied: World) -> None:
    shown = applied.must("start", "-n", "term", "--headless", user="alice")
    lines = shown.splitlines()
    assert "doas -n /usr/local/libexec/okubsd-helper prepare term  # its input: the identity of term" in lines
    assert lines.index("vmctl start term") < lines.index(
        "doas -n /usr/local/libexec/okubsd-helper open term || vmctl stop -fw term"
    )
    assert any(line.startswith("route -T 100 exec ssh ") for line in lines)


def test_vmds_log_is_asked_for_the_reason(applied: World) -> None:
    log = applied.root / "var/log/daemon"
    log.parent.mkdir(parents=True)
    log.write_text(
        "Nov 25 10:00:00 h vmd[1]: vm/other/vioblk0: no\nNov 25 10:00:01 h vm/term/vioblk0: unsupported features 8\n"
    )
    applied.faults(start="chain")
    assert "its log says: Nov 25 10:00:01 h vm/term/vioblk0: unsupported features 8" in start(applied)


QEMU = "host: {owner: alice}\nvms:\n  q: {image: term, backend: qemu, network: %s}\n"


@pytest.mark.parametrize("network", ["nat", "none"])
def test_qemu_beside_vmd_gets_a_prepared_tap(network: str, world: World) -> None:
    world.write(QEMU % network)
    world.must("apply", "-y")
    tree = world.tree("etc")
    assert 'vm "q"' not in tree["etc/okubsd/vm.conf"][0]
    assert tree["etc/hostname.tap100"][0] == (
        "rdomain 100\ngroup okubsd\ninet 100.127.100.2 255.255.255.254\n!/sbin/chown alice /dev/\\$if\nup\n"
    )
    assert (world.root / "dev/tap100").exists() and not (world.root / "var/okubsd/vms/q").exists()
    lines = world.must("start", "-n", "q", "--headless", user="alice").splitlines()
    helper = "doas -n /usr/local/libexec/okubsd-helper"
    (qemu,) = (line for line in lines if line.startswith("qemu-system-x86_64"))
    assert "tap,id=net0,ifname=tap100,script=no,downscript=no" in qemu and "user," not in qemu
    assert lines.index(f"{helper} prepare q") < lines.index(qemu) < lines.index(f"{helper} open q")
    assert any(line.startswith("route -T 100 exec ssh") for line in lines)
    status = world.must("status", "q", user="alice")
    assert "under OpenBSD's vmd it would be several confined ones" in status
    assert "nothing to do" in world.okubsd("apply", "-y").stderr


def test_the_tap_of_qemu_is_set_up_and_looked_at(world: World) -> None:
    world.write(QEMU % "nat")
    world.must("apply", "-y")
    call = ("doas", "-n", "/usr/local/libexec/okubsd-helper")
    assert world.run(*call, "prepare", "q", user="alice").returncode == 0
    assert world.state["interfaces"]["tap100"][0] == "rdomain 100"
    assert world.state["anchors"]["okubsd/q"]["text"] == "block drop quick on tap100\n"
    done = world.run(*call, "open", "q", user="alice")
    assert (done.returncode, done.stdout) == (0, "100.127.100.3\n")
    assert world.state["anchors"]["okubsd/q"]["macros"] == {"G": "100.127.100.3"}


def test_a_device_node_that_is_gone(applied: World) -> None:
    (applied.root / "dev/tap100").unlink()
    said = start(applied)
    assert "the tap device is missing" in said and "doas okubsd apply" in said


def test_a_drive_that_is_gone(applied: World) -> None:
    shutil.rmtree(applied.root / "var/okubsd/vms/term")
    assert "it has no drives; doas okubsd apply" in start(applied)


def test_firmware_that_is_gone(applied: World) -> None:
    (applied.root / "etc/firmware/vmm-bios").unlink()
    assert "doas fw_update vmm" in start(applied)
