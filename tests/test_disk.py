"""A disk that boots by itself: where its parts lie, and the table that says so."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from okubsd.errors import Problem
from okubsd.images.bootdrive import render_config
from okubsd.images.disk import KERNEL, places_of, with_partitions

MIB = 1 << 20
ENTRY = struct.pack("<B3sB3sII", 0x80, b"\0\0\0", 0x0E, b"\0\0\0", 2048, 40960)
MBR = bytes(446) + ENTRY + bytes(48) + b"\x55\xaa"


@given(st.integers(1, 1 << 30), st.lists(st.integers(1, 1 << 34), min_size=1, max_size=3))
def test_parts_lie_behind_each_other_by_whole_mib(boot: int, sizes: list[int]) -> None:
    end = boot
    for (at, size), wanted in zip(places_of(boot, *sizes), sizes, strict=True):
        assert at >= end and at - end < MIB and size >= wanted and at % MIB == size % MIB == 0
        end = at + size


def test_the_table_has_what_was_there_and_three_more() -> None:
    table = with_partitions(MBR, places_of(22 * MIB, 5 * MIB, 1, 64 * MIB))
    assert len(table) == 512 and table[446:462] == ENTRY and table[-2:] == b"\x55\xaa"
    rows = [struct.unpack_from("<B3sB3sII", table, 446 + 16 * at) for at in (1, 2, 3)]
    assert [(kind, start // 2048, sectors // 2048) for _, _, kind, _, start, sectors in rows] == [
        (0x83, 22, 5), (0x83, 27, 1), (0x83, 28, 64)
    ]  # fmt: skip


@pytest.mark.spawns
def test_sfdisk_reads_it(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(with_partitions(MBR, places_of(22 * MIB, 5 * MIB, MIB, 64 * MIB)))
    with disk.open("r+b") as stream:
        stream.truncate(92 * MIB)
    done = subprocess.run(["sfdisk", "--dump", str(disk)], capture_output=True, text=True, check=True)
    assert [line.split("start=")[1].split(",")[0].strip() for line in done.stdout.splitlines() if "start=" in line] == [
        "2048", "45056", "55296", "57344"
    ]  # fmt: skip


@pytest.mark.parametrize("mbr", [b"", bytes(512), MBR[:-2] + b"xx", bytes(510) + b"\x55\xaa"])
def test_what_is_no_boot_drive_is_told(mbr: bytes) -> None:
    with pytest.raises(Problem, match="has no partition table"):
        with_partitions(mbr, places_of(MIB, MIB))


def test_what_a_table_cannot_tell_is_told() -> None:
    with pytest.raises(Problem, match="larger than a partition table"):
        with_partitions(MBR, places_of(MIB, 1 << 42))


def test_its_command_line_fits_its_slot() -> None:
    assert KERNEL.encode() in render_config(kernel=KERNEL) and len(render_config(kernel=KERNEL)) == 1024
