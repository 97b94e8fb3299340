"""Marked blocks, qcow2 headers, boot drives, records: text and bytes by value."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from okubsd.config.marked import BEGIN, END, with_block, without_block
from okubsd.errors import Problem
from okubsd.images import bootdrive
from okubsd.layout import HELPER
from okubsd.vmd.helper import Record, Verb, doas_line, helper_argv, parse_record, render_record
from okubsd.vmd.qcow2 import chain_mistakes, header_mistakes, parse_header

LINES = st.lists(
    st.sampled_from(["set skip on lo", "block return", "pass", "# a comment", "", 'a = "b"', "pass in \\", "  on em0"])
)


@given(LINES, st.booleans(), st.booleans())
def test_a_block_goes_in_and_out_without_a_trace(lines: list[str], ended: bool, before_rules: bool) -> None:
    text = "\n".join(lines) + ("\n" if ended and lines else "")
    made = with_block(text, "include\n", before_rules=before_rules)
    assert f"\ninclude\n{END}\n" in made and made.count(BEGIN) == 1
    assert without_block(made) == text
    again = with_block(made, "other\n", before_rules=before_rules)
    assert f"\nother\n{END}\n" in again and without_block(again) == text


def test_a_file_that_was_not_there_goes_again() -> None:
    made = with_block(None, "x\n")
    assert without_block(made) is None
    # What somebody wrote into it since then stays.
    assert without_block(made + "mine\n") == "mine\n"


def test_the_block_comes_before_the_first_rule() -> None:
    text = 'ext = "em0"\nset skip on lo\ntable <t> persist\npass quick on em0\nblock\n'
    assert with_block(text, "x\n", before_rules=True).index(BEGIN) == text.index("pass quick")


def test_a_file_without_a_block_stays_as_it_is() -> None:
    assert without_block("pass\n") == "pass\n"


# --- qcow2 -------------------------------------------------------------------------------


def header(version: int = 3, bits: int = 16, incompatible: int = 0, order: int = 4, backing: bytes = b"", crypt: int = 0,
           snapshots: int = 0) -> bytes:  # fmt: skip
    """Return a header as QEMU lays it out, the base's path behind it."""
    at = 112 if backing else 0
    first = struct.pack(
        ">4sIQIIQIIQQIIQ", b"QFI\xfb", version, at, len(backing), bits, 1 << 20, crypt, 1, 0, 0, 1, snapshots, 0
    )
    return (first + struct.pack(">QQQII", incompatible, 0, 0, order, 104)).ljust(112, b"\0") + backing


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, ""),
        ({"incompatible": 1}, ""),
        ({"version": 2}, "version 2, vmd takes version 3"),
        ({"order": 3}, "8 bits, vmd takes 16"),
        ({"incompatible": 4}, "an external data file"),
        ({"incompatible": 8}, "another compression"),
        ({"incompatible": 16}, "extended L2 entries"),
        ({"incompatible": 1 << 40}, "the unknown feature 40"),
        ({"crypt": 1}, "encrypted"),
        ({"snapshots": 2}, "internal snapshots"),
    ],
)
def test_what_vmd_does_not_take_of_a_header_is_said(values: dict[str, int], words: str) -> None:
    mistakes = header_mistakes(parse_header(header(**values)))  # type: ignore[arg-type]
    assert words in " ".join(mistakes) and bool(mistakes) is bool(words)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_header_are_said_to_be_none(data: bytes) -> None:
    for candidate in (data, b"QFI\xfb" + data):
        try:
            parse_header(candidate)
        except ValueError as error:
            assert str(error)


def chain(**files: bytes) -> list[str]:
    return chain_mistakes("/v/top", {f"/v/{name}": data for name, data in files.items()}.get)


def test_a_chain_is_looked_at_to_its_end() -> None:
    assert chain(top=header(backing=b"/v/base"), base=header()) == []
    assert chain(top=header(backing=b"base"), base=header()) == []
    assert chain(top=header(backing=b"/v/gone")) == ["/v/gone: there is no such image"]
    assert chain(top=header(backing=b"/v/base"), base=b"raw") == ["/v/base: it is not a qcow2 image"]
    assert "of another size" in chain(top=header(backing=b"/v/base"), base=header(bits=12))[0]
    four = {"a": header(backing=b"/v/b"), "b": header(backing=b"/v/c"), "c": header()}
    assert chain(top=header(backing=b"/v/a"), **four) == []
    assert "more than 4 images" in chain(top=header(backing=b"/v/z"), z=header(backing=b"/v/a"), **four)[0]
    assert "more than 4 images" in chain(top=header(backing=b"/v/top"))[0]


@pytest.mark.spawns
def test_what_qemu_img_makes_is_read(tmp_path: Path) -> None:
    for options, good in (("compat=1.1", True), ("compat=0.10", False), ("compat=1.1,extended_l2=on", False)):
        path = tmp_path / options
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", options, str(path), "8M"], check=True)
        found = parse_header(path.read_bytes()[: 1 << 16])
        assert found.size == 8 << 20 and (header_mistakes(found) == []) is good


# --- boot drives ----------------------------------------------------------------------------


def test_the_command_line_is_made_for_the_host() -> None:
    config = bootdrive.render_config(2599998)
    assert len(config) == 1024
    for word in (b"reboot=t", b"console=ttyS0,115200", b"tsc_early_khz=2599998", b"tsc=reliable", b"acpi=off"):
        assert word in config
    assert b"tsc" not in bootdrive.render_config(None)


def test_the_slot_of_a_drive_is_filled_in_place() -> None:
    drive = b"a" * 5000 + bootdrive.render_config() + b"z" * 5000
    made = bootdrive.with_config(drive, bootdrive.render_config(123456))
    assert len(made) == len(drive) and b"tsc_early_khz=123456" in made and made.endswith(b"z" * 5000)
    for wrong in (b"no slot", drive + drive):
        with pytest.raises(Problem, match="no place for a configuration"):
            bootdrive.with_config(wrong, bootdrive.render_config())


def test_the_partition_is_large_enough() -> None:
    assert bootdrive.partition_mib(1) == 20
    assert bootdrive.partition_mib(14 << 20, 30 << 20) == 46


# --- the helper ---------------------------------------------------------------------------------


def test_what_is_called_is_what_is_allowed() -> None:
    assert helper_argv(Verb.OPEN, "work", root=False) == ("doas", "-n", HELPER, "open", "work")
    assert helper_argv(Verb.OPEN, "work", root=True) == (HELPER, "open", "work")
    assert doas_line("okubsd") == f"permit nopass :okubsd as root cmd {HELPER}\n"


def test_a_record_is_read_back() -> None:
    values = {"name": "a", "owner": "alice", "number": 100, "group": "okubsd", "boot": "boot", "base": "base",
              "app": "term", "home": 64, "backend": "vmd"}  # fmt: skip
    assert parse_record(render_record(values)) == Record(**values)  # type: ignore[arg-type]
    assert parse_record("name a\n") is None and parse_record("") is None


def test_the_path_of_a_base_that_is_cut_short_is_said_so() -> None:
    whole = header(backing=b"/base.qcow2")
    assert parse_header(whole).backing == "/base.qcow2"
    with pytest.raises(ValueError, match="the path of its base is cut short"):
        parse_header(whole[:-1])
