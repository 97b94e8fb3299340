"""`okubsd report`: what is taken out of it, and that what tells of a fault stays."""

from __future__ import annotations

import base64
import ipaddress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from okubsd.plan.report import LONGEST, Part, Scrubber, render_report
from tests.conftest import CHECKOUT

WG_KEY = base64.b64encode(bytes(range(32))).decode()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"wgkey {WG_KEY} wgport 51820", "wgkey <key> wgport 51820"),
        (f"wgpeer {WG_KEY} wgendpoint 203.0.113.9 51820", "wgpeer <key> wgendpoint <address-1> 51820"),
        ("PrivateKey = short", "PrivateKey = <key>"),
        ("nwid home wpakey hunter22", "nwid home wpakey <key>"),
        ("password: hunter2", "password: <key>"),
        ("<auth-user-pass>\nalice\nhunter2\n</auth-user-pass>\nverb 3", "<key>\nverb 3"),
        ("<key>\n-----BEGIN PRIVATE KEY-----\nMIIEv\n-----END PRIVATE KEY-----\n</key>\nx", "<key>\nx"),
        ("a -----BEGIN OPENSSH PRIVATE KEY-----\ncut off", "a <key>"),
        ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ alice", "ssh-ed25519 <key> <user-1>"),
        ("cookie 0123456789abcdef0123456789abcdef", "cookie <key>"),
        ("lladdr fe:e1:ba:d0:55:56", "lladdr <lladdr-1>"),
        ("inet 198.51.100.7/24 and 198.51.100.7:443", "inet <address-1>/24 and <address-1>:443"),
        ("198.51.100.7 > 198.51.100.8.53:", "<address-1> > <address-2>.53:"),
        ("inet6 2001:db8::1%em0 to [2001:DB8:0::1]", "inet6 <address-1>%em0 to [<address-1>]"),
        ("at desk.example.org by alice, malice", "at <host-1> by <user-1>, malice"),
    ],
)
def test_what_is_taken_out(text: str, shown: str) -> None:
    assert Scrubber(["desk.example.org"], ["alice"])(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "block drop out quick on egress from 100.64.1.3 to { 10.0.0.0/8 172.16.0.0/12 }",
        "inet 127.0.0.1 netmask 255.255.255.254",
        "12:34:56 vmd[123]: vm/term/vionet0: started",
        "OpenBSD 7.7 (GENERIC) build 0123456789ab; ::1 fe80::/10; QEMU 7.2.22",
        "fingerprint SHA256:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8",
    ],
)
def test_what_tells_of_a_fault_stays(text: str) -> None:
    assert Scrubber(["desk.example.org"], ["alice"])(text) == text


def test_the_same_address_has_one_name_in_every_part() -> None:
    parts = (Part("one", "203.0.113.1 203.0.113.2"), Part("two", "203.0.113.2"))
    assert render_report(parts, Scrubber()) == ("===== one\n<address-1> <address-2>\n\n===== two\n<address-2>\n\n")


def test_a_part_is_bounded_and_keeps_its_end() -> None:
    text = render_report([Part("log", "x" * (LONGEST + 1) + "end")], str)
    assert len(text) < LONGEST + 100
    assert text.endswith("end\n\n")


@given(
    st.binary(min_size=32, max_size=32), st.sampled_from([" ", "\n", "=", '"']), st.sampled_from([" ", "\n", ";", '"'])
)
def test_no_key_of_wireguard_survives(key: bytes, before: str, after: str) -> None:
    text = base64.b64encode(key).decode()
    assert text not in Scrubber()(f"wgkey{before}{text}{after}")


@given(st.ip_addresses())
def test_no_address_of_the_internet_survives(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    if address.is_global and not address.is_multicast:
        assert str(address) not in Scrubber()(f"inet {address} to {address}, [{address}]").replace(":443", "")


@pytest.mark.spawns
def test_a_report_is_one_private_file_and_overwrites_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    from okubsd.cli.main import call

    monkeypatch.setenv("OKUBSD_CONFIG", str(CHECKOUT / "etc/okubsd.yaml"))
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "report.txt"
    assert call(["report", "--output", str(out)]) == 0
    text = out.read_text()
    assert out.stat().st_mode & 0o777 == 0o600
    for part in ("===== okubsd doctor", "===== uname -srm", "okubsd.yaml", "===== okubsd status browser"):
        assert part in text
    assert call(["report", "--output", str(out)]) == 2
    assert out.read_text() == text
