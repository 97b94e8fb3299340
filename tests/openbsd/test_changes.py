"""Which files of a host change and what becomes of interfaces, by value: what a whole host shows only now and then."""

from __future__ import annotations

import struct

import pytest

from okubsd import layout
from okubsd.config.marked import with_block
from okubsd.hostfile import FileState
from okubsd.plan.changes import Change, is_ours, wanted_files
from okubsd.plan.compile import Compiled
from okubsd.plan.interfaces import destroy_interfaces
from okubsd.vmd import qcow2
from okubsd.vmd.control import stop_argv
from okubsd.vmd.helper import render_record


@pytest.mark.parametrize(
    ("path", "ours"),
    [
        (f"{layout.ETC}/vm/web", True),
        ("etc/hostname.tap101", True),
        ("etc/hostname.veb1", True),
        ("etc/hostname.em0", False),
        ("etc/hostname.tap101.old", False),
        ("etc/pf.conf", False),
    ],
)
def test_what_is_okubsds_alone(path: str, ours: bool) -> None:
    assert is_ours(path) is ours


def test_a_file_that_is_described_no_more_goes_or_loses_its_block() -> None:
    site = FileState(with_block("pass\n", "anchor okubsd\n"), 0o600, 0, 7)
    own = FileState(with_block(None, "anchor okubsd\n"), 0o600)
    wanted = wanted_files(
        Compiled(files=(), vms=(), group="okubsd"),
        {"etc/pf.conf": site, "etc/vm.conf": own, "etc/hostname.tap1": site, "gone": None},
    )
    assert wanted == {"etc/pf.conf": FileState("pass\n", 0o600, 0, 7), "etc/vm.conf": None, "etc/hostname.tap1": None}


def record(number: int, taps: str) -> FileState:
    words = dict.fromkeys(("name", "owner", "group", "boot", "base", "app"), "x")
    return FileState(render_record({**words, "number": number, "home": 1, "taps": taps}), 0o600)


def test_only_taps_and_loopbacks_that_nobody_has_are_taken_down() -> None:
    stays = FileState("up\n", 0o640)
    changes = (
        Change("etc/hostname.tap101", stays, None),
        Change("etc/hostname.lo102", stays, None),
        Change("etc/hostname.veb1", stays, None),
        Change("etc/hostname.tap103", stays, FileState("down\n", 0o640)),
        Change(f"{layout.RECORDS}/web", record(104, "105 106"), record(104, "106")),
        Change(f"{layout.RECORDS}/mail", record(107, ""), None),
    )
    present = {f"{name}{number}" for name in ("tap", "lo", "veb") for number in range(1, 120)}
    taken = [step.argv[1] for step in destroy_interfaces(changes, present)]
    assert taken == ["tap101", "tap105", "tap107", "lo102"]
    assert destroy_interfaces(changes, set()) == []


def test_a_header_of_qcow2_is_whole_or_none() -> None:
    whole = struct.pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", 2, 0, 0, 16, 1 << 30, 0, 0, 0, 0, 0, 0, 0)
    assert qcow2.parse_header(whole) == qcow2.Header(
        version=2, size=1 << 30, cluster_bits=16, refcount_order=4, incompatible=0, backing="", encrypted=False, snapshots=0
    )  # fmt: skip
    with pytest.raises(ValueError, match="cut short"):
        qcow2.parse_header(whole[:-1])
    with pytest.raises(ValueError, match="not a qcow2"):
        qcow2.parse_header(b"")


@pytest.mark.parametrize(
    ("force", "wait", "flags"),
    [(True, True, ("-fw",)), (True, False, ("-f",)), (False, True, ("-w",)), (False, False, ())],
)
def test_vmctl_stops_as_it_is_asked_to(force: bool, wait: bool, flags: tuple[str, ...]) -> None:
    assert stop_argv("web", force=force, wait=wait) == ("vmctl", "stop", *flags, "web")
