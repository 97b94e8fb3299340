"""What a guest is told, and how it is reached: bytes and text by value."""

from __future__ import annotations

import base64
import getpass
import subprocess
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from okubsd.errors import Problem
from okubsd.guest.cpio import directory, fifo, file, render_cpio
from okubsd.guest.identity import (
    FAMILY_LOCAL,
    Lease,
    Secrets,
    dropbear_key,
    host_key_line,
    render_identity,
    render_settings,
    render_xauthority,
)
from okubsd.guest.ssh import connect_argv, render_ssh_config, show_app_argv
from okubsd.host import facts, guest, programs, records, zone
from okubsd.host.places import Places
from okubsd.model import NAT, NONE, Network, NetworkKind, Vm, Zone
from okubsd.plan.facts import VmFacts
from okubsd.plan.seats.namespace import Namespace
from okubsd.vmd.helper import Record

VM = Vm(name="My_Browser.1", image="firefox")


def test_a_cpio_member_is_padded_and_trailed() -> None:
    archive = render_cpio([directory("d"), file("d/f", b"abc", 0o600)])
    assert archive[:6] == b"070701"
    assert archive[110:112] == b"d\0"
    assert b"d/f\0abc\0" in archive.replace(b"d/f\0\0\0abc", b"d/f\0abc")
    assert archive.rstrip(b"\0").endswith(b"TRAILER!!!")
    assert len(archive) % 512 == 0


@pytest.mark.spawns
def test_the_systems_cpio_reads_ours(tmp_path: Path) -> None:
    archive = render_cpio([directory("d"), file("d/f", b"abc" * 1000), file("g", b"")])
    done = subprocess.run(["busybox", "cpio", "-t"], input=archive, capture_output=True, check=False)
    if done.returncode == 127:
        pytest.fail("busybox is missing")
    assert done.stdout.split() == [b"d", b"d/f", b"g"]


def test_settings_are_shell_words() -> None:
    text = render_settings(VM, Lease("10.0.2.15/24", "10.0.2.2", "10.0.3.3"))
    assert "name=my-browser-1\n" in text
    assert "home=drive\nguard=warn\npersist=''\nhook=no\nkeep=no\naddress=10.0.2.15\nnetmask=255.255.255.0\n" in text
    assert "home=tmpfs" in render_settings(Vm(name="a", image="x", disposable=True), Lease())


def test_the_same_identity_gives_the_same_bytes_and_holds_no_more_than_it_says() -> None:
    secrets = Secrets(bytes(32), bytes(range(32)), "ssh-ed25519 AAAA", b"c" * 16)
    archive = render_identity(VM, Lease(), secrets)
    assert archive == render_identity(VM, Lease(), secrets)
    for name in (b"run/okubsd/settings", b"run/okubsd/host_key", b"ssh/authorized_keys", b"okubsd/Xauthority"):
        assert archive.count(name) == 1


def test_a_dropbear_key_is_name_seed_and_public_key() -> None:
    key = dropbear_key(b"s" * 32, b"p" * 32)
    assert key == b"\0\0\0\x0bssh-ed25519" + b"\0\0\0\x40" + b"s" * 32 + b"p" * 32


def test_a_pinned_host_key_is_a_known_hosts_line() -> None:
    alias, kind, blob = host_key_line("browser", b"p" * 32).split()
    assert (alias, kind) == ("browser", "ssh-ed25519")
    assert base64.b64decode(blob) == b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + b"p" * 32


def test_an_xauthority_entry_matches_any_host_or_one() -> None:
    assert render_xauthority(b"c" * 16)[:6] == b"\xff\xff\0\0\0\0"
    assert render_xauthority(b"c" * 16, FAMILY_LOCAL, "me", "7")[:9] == b"\x01\x00\0\x02me\0\x017"


def test_the_ssh_config_pins_and_shares(golden: object) -> None:
    text = render_ssh_config(VM, "127.0.0.1", 40123, Path("/state/vms/b"), Path("/run/o/b"))
    golden("ssh_config", text)  # type: ignore[operator]


def test_a_percent_in_a_path_is_no_token() -> None:
    text = render_ssh_config(VM, "127.0.0.1", 1, Path("/a%h b"), Path("/run%n"))
    assert 'IdentityFile "/a%%h b/id_ed25519"' in text
    assert 'ControlPath "/run%%n/ssh-%r"' in text


def test_an_apps_arguments_stay_words() -> None:
    argv = show_app_argv(VM, Path("/run"), "firefox", ("a b", "$(reboot)", "'"), another=True)
    assert argv[-1] == "run /usr/lib/okubsd/app -n firefox 'a b' '$(reboot)' ''\"'\"''"


def test_the_display_is_forwarded_to_the_guests_loopback_only() -> None:
    argv = connect_argv(VM, Path("/run"), Path("/tmp/.X11-unix/X9"))
    assert "127.0.0.1:6010:/tmp/.X11-unix/X9" in argv
    assert "ExitOnForwardFailure=yes" in argv


@given(st.binary(max_size=300), st.integers(min_value=0, max_value=0o777))
def test_cpio_members_start_on_four_bytes(data: bytes, mode: int) -> None:
    assume(b"070701" not in data)
    archive = render_cpio([file("x", data, mode), file("y", b"")])
    assert archive.count(b"070701") == 3 and archive.index(b"070701", 6) % 4 == 0


def test_the_header_of_a_member_is_whole() -> None:
    archive = render_cpio([file("f", b"abc", 0o640, owner=1000)])
    fields = [int(archive[6 + 8 * i : 14 + 8 * i], 16) for i in range(13)]
    # Inode, mode, user, group, links, date, size; devices; the length of the name and the checksum (initramfs, "newc").
    assert fields[1:7] == [0o100640, 1000, 1000, 1, 0, 3] and fields[11:] == [2, 0]
    modes = {name: int(render_cpio([member])[14:22], 16) & 0o7777 for name, member in
             (("directory", directory("d")), ("fifo", fifo("f", 0o622)))}  # fmt: skip
    assert modes == {"directory": 0o755, "fifo": 0o622}


def test_the_users_directory_is_the_users_alone() -> None:
    archive = render_identity(VM, Lease(), Secrets(bytes(32), bytes(32), "ssh-ed25519 AAAA", bytes(16)))
    at = archive.index(b"run/user/1000\0") - 110
    assert archive[at : at + 6] == b"070701"
    fields = [int(archive[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(4)]
    assert fields[1:] == [0o40700, 1000, 1000]


def test_another_users_guest_is_his_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = VmFacts(name="a", directory=tmp_path, run=tmp_path / "run", seat=Namespace())
    places = Places(tmp_path, tmp_path)
    monkeypatch.setattr(facts, "ask_vm", lambda *_: state)
    mine = getpass.getuser()
    for vmd, owner, said in ((False, "x", "still starting"), (True, mine, "still starting"), (True, "al", "is al's")):
        record = Record(name="a", owner=owner, number=1, group="g", boot="", base="", app="", home=0)
        monkeypatch.setattr(programs, "has_vmd", lambda vmd=vmd: vmd)
        monkeypatch.setattr(records, "read_record", lambda *_, record=record: record)
        with pytest.raises(Problem, match=said):
            guest.Guest.find(places, Vm(name="a", image="term"))


TUNNEL = Network(name="t", kind=NetworkKind.WIREGUARD)


@pytest.mark.parametrize(
    ("network", "timezone", "has"),
    [
        (NAT, Zone.AUTO, True), (NONE, Zone.AUTO, True), (TUNNEL, Zone.AUTO, False), (TUNNEL, Zone.HOST, True),
        (Network(name="g", kind=NetworkKind.GATEWAY, gateway="x"), Zone.AUTO, False), (NAT, Zone.UTC, False),
    ],
)  # fmt: skip
def test_a_guest_behind_a_tunnel_does_not_know_where_its_user_lives(
    network: Network, timezone: Zone, has: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "Mars").write_bytes(b"TZif2" + bytes(40))
    monkeypatch.setattr(zone, "_ZONES", tmp_path)
    vm = Vm(name="a", image="term", network=network, timezone=timezone)
    found = zone.zone_of(vm, {"TZ": "Mars"})
    assert found.startswith(b"TZif") is has
    archive = render_identity(vm, Lease(), Secrets(bytes(32), bytes(32), "key", bytes(16)), zone=found)
    assert (b"run/okubsd/localtime" in archive) is has


@pytest.mark.parametrize("name", ["../Mars", "/etc/passwd", "Mars\n", "nosuch", "text", "large", "a/../Mars"])
def test_what_is_no_time_zone_is_utc(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "zones").mkdir()
    (tmp_path / "Mars").write_bytes(b"TZif2")
    (tmp_path / "zones/text").write_bytes(b"Mars")
    (tmp_path / "zones/large").write_bytes(b"TZif2" + bytes(1 << 20))
    monkeypatch.setattr(zone, "_ZONES", tmp_path / "zones")
    monkeypatch.setattr(zone, "_LOCALTIME", tmp_path / "nosuch")
    assert zone.zone_of(Vm(name="a", image="term"), {"TZ": name}) == b""
