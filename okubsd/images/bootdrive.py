"""The boot drive: what a machine without a kernel loader of its own (vmd(8)) starts from by its BIOS.

An MBR, one FAT16 partition, syslinux, and the very kernel and initramfs that QEMU is given directly.  The
kernel's command line lies in a slot of fixed size, so that a host can put its own there without any tool.
Source: syslinux(1), mtools(1), sfdisk(8); measured: smaller partitions become FAT12, which syslinux's MBR boots not.
"""

from __future__ import annotations

from pathlib import Path

from okubsd.errors import Problem
from okubsd.model import Argv

MBR = Path("/usr/lib/syslinux/mbr/mbr.bin")

# The partition begins at 1 MiB; 2 KiB clusters make FAT16 from 17 MiB on.
OFFSET = 1 << 20
_SECTOR, _CLUSTER = 512, 4
_LEAST_MIB, _SPARE_MIB = 20, 2
_SERIAL = "6f6b7562"  # "okub": a volume's number is its date unless it is told

_MARK = b"# okubsd: 1024 bytes\n"
_SLOT = 1024

# acpi=off, reboot=t: vmd has no ACPI, and its keyboard controller resets nothing.  vga=current: syslinux
# otherwise clears the screen, on a serial line with escape codes.
_KERNEL = (
    "vga=current console=ttyS0,115200 quiet loglevel=3 acpi=off reboot=t panic=1 no_timer_check "
    "cryptomgr.notests lsm=lockdown,yama,landlock audit=0 ipv6.disable=1 8250.nr_uarts=1 "
    "drive_base=/dev/vdb drive_app=/dev/vdc drive_home=/dev/vdd"
)

# mtools and syslinux date what they write; the same input is to give the same bytes.
ENVIRONMENT = {"MTOOLSRC": "/dev/null", "MTOOLS_SKIP_CHECK": "1", "TZ": "UTC0", "SOURCE_DATE_EPOCH": "1767225600"}


def render_config(tsc_khz: int | None = None, kernel: str = _KERNEL) -> bytes:
    """Return syslinux.cfg, padded to its slot, with the command line ``kernel``.

    ``tsc_khz`` is the rate of the host's time stamp counter: without it a guest of vmd's falls to a clock that
    runs at a half or a fifth of the time.  None leaves the kernel to find out.
    """
    clock = f" tsc=reliable tsc_early_khz={tsc_khz}" if tsc_khz else ""
    lines = ("PROMPT 0", "NOESCAPE 1", "DEFAULT l", "LABEL l", " LINUX vmlinuz", " INITRD initrd,network")
    text = _MARK + "".join(f"{line}\n" for line in (*lines, f" APPEND {kernel}{clock}")).encode()
    assert len(text) <= _SLOT
    return text.ljust(_SLOT, b"\n")


def with_config(drive: bytes, config: bytes) -> bytes:
    """Return the boot ``drive`` with ``config`` in its slot.  Raises Problem where there is no slot."""
    at = drive.find(_MARK)
    if at < 0 or drive.find(_MARK, at + 1) >= 0 or len(config) != _SLOT:
        raise Problem("the boot drive has no place for a configuration", "okubsd image build --force boot")
    return drive[:at] + config + drive[at + _SLOT :]


def partition_mib(*files: int) -> int:
    """Return the MiB of a partition that holds files of these sizes in bytes."""
    return max(_LEAST_MIB, -(-sum(files) >> 20) + _SPARE_MIB)


def partition_table(mib: int) -> bytes:
    """Return the input of sfdisk(8): one bootable FAT16 (LBA) partition."""
    sectors = (mib << 20) // _SECTOR
    return f"label: dos\nlabel-id: 0x{_SERIAL}\n{OFFSET // _SECTOR},{sectors},0e,*\n".encode()


def sfdisk_argv(drive: Path) -> Argv:
    """Return sfdisk(8) that reads the partition table from its input."""
    return ("sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", str(drive))


def format_argv(drive: Path, mib: int) -> Argv:
    """Return mformat(1) for the partition: sizes in sectors, a fixed serial number and label."""
    sectors = (mib << 20) // _SECTOR
    size = ("-T", str(sectors), "-h", "64", "-s", "32", "-H", str(OFFSET // _SECTOR), "-c", str(_CLUSTER))
    return ("mformat", "-i", f"{drive}@@{OFFSET}", *size, "-N", _SERIAL, "-v", "OKUBSD", "::")


def loader_argv(drive: Path) -> Argv:
    """Return syslinux(1) that puts the boot loader into the partition."""
    return ("syslinux", "--offset", str(OFFSET), "--install", str(drive))


def copy_argv(drive: Path, source: Path, name: str) -> Argv:
    """Return mcopy(1) that puts the file ``source`` on the partition as ``name``."""
    return ("mcopy", "-i", f"{drive}@@{OFFSET}", str(source), f"::/{name}")
