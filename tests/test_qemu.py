"""QEMU's command line, its monitor's answers, and the probe's firmware."""

from __future__ import annotations

import shlex
from pathlib import Path

import msgspec
import pytest

from okubsd.host import door
from okubsd.model import NAT, NONE, Vm
from okubsd.network import user
from okubsd.qemu.argv import Machine, render_argv
from okubsd.qemu.qmp import parse_answer, parse_usernet, render_command
from okubsd.qemu.rom import probe_argv, render_rom
from okubsd.rules import REFUSED


def machine(home: Path | None = Path("/h,1.img"), accelerator: str = "tcg") -> Machine:
    return Machine(
        kernel=Path("/boot/vmlinuz"),
        initrd=Path("/run/initrd"),
        base=Path("/base"),
        app=Path("/app"),
        home=home,
        run=Path("/run"),
        console_log=Path("/log"),
        accelerator=accelerator,
        netdev=user.netdev_option(NONE),
    )


def test_the_command_line_is_pinned(golden: object) -> None:
    argv = render_argv(Vm(name="browser", image="firefox", memory=2 << 30, cpus=2), machine())
    golden("qemu.argv", shlex.join(argv).replace(" -", "\n-") + "\n")  # type: ignore[operator]


def test_the_devices_are_disks_one_nic_and_rng_and_nothing_else() -> None:
    argv = render_argv(Vm(name="a", image="x"), machine())
    devices = [argv[i + 1].split(",")[0] for i, word in enumerate(argv) if word == "-device"]
    assert devices == ["virtio-blk-pci"] * 3 + ["virtio-net-pci", "virtio-rng-pci"]
    assert argv.count("-serial") == 1 and "-nodefaults" in argv and "-no-user-config" in argv
    assert not {"-usb", "-soundhw", "-audiodev", "-monitor", "-vnc", "-spice"} & set(argv)


def test_a_disposable_vm_has_no_home_drive() -> None:
    argv = render_argv(Vm(name="a", image="x", disposable=True), machine(home=None))
    assert sum("virtio-blk-pci" in word for word in argv) == 2


def test_shared_drives_are_read_only_and_commas_are_doubled() -> None:
    argv = render_argv(Vm(name="a", image="x"), machine())
    drives = [argv[i + 1] for i, word in enumerate(argv) if word == "-drive"]
    assert ["readonly=on" in drive for drive in drives] == [True, True, False]
    assert drives[2].endswith("file=/h,,1.img")


def test_the_sandbox_is_on() -> None:
    argv = render_argv(Vm(name="a", image="x"), machine())
    sandbox = argv[argv.index("-sandbox") + 1]
    assert sandbox == "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


def test_kvm_gets_the_hosts_cpu() -> None:
    argv = render_argv(Vm(name="a", image="x"), machine(accelerator="kvm"))
    assert argv[argv.index("-accel") + 1] == "kvm" and argv[argv.index("-cpu") + 1] == "host"


@pytest.mark.spawns
def test_the_firmware_goes_to_the_upper_half_speaks_and_ends(tmp_path: Path) -> None:
    rom = render_rom()
    assert len(rom) == 65536
    (tmp_path / "rom").write_bytes(rom)
    argv = ("timeout", "--signal=KILL", "20", *probe_argv(tmp_path / "rom", "tcg"))
    done = door.run(argv, timeout=30)
    assert (done.out, done.code) == (b"k", 0)


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        (b'{"QMP": {"version": {}, "capabilities": []}}', False),
        (b'{"return": {}}', True),
        (b'{"error": {"class": "GenericError", "desc": "no"}}', True),
        (b'{"event": "SHUTDOWN", "timestamp": {}}', False),
    ],
)
def test_answers_are_told_from_events(line: bytes, reply: bool) -> None:
    assert parse_answer(line).is_reply is reply


@pytest.mark.parametrize("line", [b"", b"hello", b"[1]", b'{"event": 7}', b"\xff\xfe"])
def test_what_is_not_qmp_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError):
        parse_answer(line)


def test_a_command_is_one_line() -> None:
    assert render_command("quit") == b'{"execute":"quit"}\r\n'
    assert msgspec.json.decode(render_command("x", a="\n"))["arguments"] == {"a": "\n"}


USERNET = """Hub -1 (net0):
  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ
  TCP[HOST_FORWARD]  12       127.0.0.1 37671       10.0.2.15    22     0     0
"""


def test_the_ssh_port_is_found() -> None:
    assert parse_usernet(USERNET) == 37671
    assert parse_usernet(USERNET.replace("   22 ", "   80 ")) is None
    assert parse_usernet("") is None


def test_none_is_restricted_and_has_no_way_out() -> None:
    assert "restrict=on" in user.netdev_option(NONE)
    assert user.lease_for(NONE, "10.0.3.3").gateway == ""
    assert user.namespace_batch(NONE, ["192.0.2.7"]) == "link set lo up\n"


def test_nat_refuses_the_host_and_private_ranges() -> None:
    batch = user.namespace_batch(NAT, ["203.0.113.9"])
    for destination in (*REFUSED, "240.0.0.0/4", "203.0.113.9"):
        assert f"route add prohibit {destination}\n" in batch
    assert "--disable-host-loopback" in user.uplink_argv("1", "3", root=False)


def test_what_the_uplinks_sandbox_takes_away_is_taken_from_nobody_else() -> None:
    argv = user.uplink_argv("1", "3", root=True)
    assert argv[:4] == ("unshare", "--mount", "--", "slirp4netns") and "--enable-sandbox" in argv
    assert user.uplink_argv("1", "3", root=False)[0] == "slirp4netns", "a user's namespace has it already"
    plain = user.uplink_argv("1", "3", root=True, sandbox=False)
    assert plain[0] == "slirp4netns" and "--enable-sandbox" not in plain


def test_a_namespace_needs_a_user_namespace_unless_root() -> None:
    as_root, confined = (user.confine_argv(("x",), root=root) for root in (True, False))
    assert as_root[:2] == ("unshare", "--net") and "--map-root-user" not in as_root and "--map-root-user" in confined
    for argv in (as_root, confined):
        assert "--bounding-set=-all" in argv and "--no-new-privs" in argv and argv[-1] == "x"
    assert "--user" in user.enter_argv("7", ("x",), root=False)
