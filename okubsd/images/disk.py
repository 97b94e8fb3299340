"""One disk that boots by itself: the boot drive's partition, then base, app and home as three more (MBR)."""

from __future__ import annotations

import struct
from pathlib import Path

from okubsd.config.names import quoted
from okubsd.errors import Misuse, Problem

_MIB, _SECTOR = 1 << 20, 512
_LINUX = 0x83
# The table of an MBR: four entries of 16 bytes, then the mark.
_TABLE, _ENTRY, _MARK = 446, 16, b"\x55\xaa"

# vga=current: syslinux otherwise clears the screen.  The drives are partitions of the first virtio disk.
KERNEL = (
    "vga=current console=tty0 console=ttyS0,115200 quiet loglevel=3 reboot=t panic=1 cryptomgr.notests "
    "lsm=lockdown,yama,landlock audit=0 ipv6.disable=1 "
    "drive_base=/dev/vda2 drive_app=/dev/vda3 drive_home=/dev/vda4"
)

FORMATS = ("raw", "qcow2", "vmdk", "vdi", "vhdx")


def places_of(boot: int, *parts: int) -> list[tuple[int, int]]:
    """Return the offset and the size in bytes of each of the ``parts`` behind ``boot`` bytes, by whole MiB."""
    found, at = [], _up(boot)
    for size in parts:
        found.append((at, _up(size)))
        at += _up(size)
    return found


def _up(size: int) -> int:
    return -(-size // _MIB) * _MIB


def with_partitions(mbr: bytes, places: list[tuple[int, int]]) -> bytes:
    """Return the first sector ``mbr``, which has one partition, with three more at ``places``.

    Raises Problem where it has not, or where one would begin behind 2 TiB.
    """
    if len(mbr) != _SECTOR or mbr[-2:] != _MARK or not any(mbr[_TABLE : _TABLE + _ENTRY]):
        raise Problem("the boot drive has no partition table", "okubsd image build --force boot")
    table = mbr[_TABLE : _TABLE + _ENTRY]
    for at, size in places:
        if (at + size) // _SECTOR >= 1 << 32 or len(places) > 3:
            raise Problem("the disk would be larger than a partition table can tell")
        # No CHS: what is beyond it is told as the largest.
        table += struct.pack("<B3sB3sII", 0, b"\xfe\xff\xff", _LINUX, b"\xfe\xff\xff", at // _SECTOR, size // _SECTOR)
    return mbr[:_TABLE] + table.ljust(4 * _ENTRY, b"\0") + _MARK


def files_of(target: Path, forms: str) -> dict[str, Path]:
    """Return the file of each format: ``target`` for one, and ``target``.FORMAT for several between commas.

    Raises Misuse for a word that is no format.
    """
    words = forms.split(",")
    wrong = next((word for word in words if word not in FORMATS), None)
    if wrong is not None:
        raise Misuse(f"{quoted(wrong)} is no format of a disk", f"one of {', '.join(FORMATS)}, or several: raw,qcow2")
    if len(words) == 1:
        return {words[0]: target}
    return {word: target.with_name(f"{target.name}.{word}") for word in words}
