"""The accelerator probe: a firmware that goes all the way to a 64-bit kernel's place in memory, counts, and says "k".

A /dev/kvm that opens proves nothing.  There are hosts where QEMU gives up setting a register, and hosts (nested
ones without hardware help) where firmware runs and every 64-bit kernel hangs.  So the probe does what a kernel
does: protected mode, page tables, long mode, a jump to the upper half; and then it counts to fifty million, which
takes a processor some hundredths of a second and an emulation of single instructions longer than anybody waits.
"""

from __future__ import annotations

from pathlib import Path

from okubsd.model import Argv
from okubsd.qemu.argv import QEMU

SIGN = b"k"

# An x86 starts at the last 16 bytes of the firmware, in real mode (Intel SDM 3A, 10.1.4); the 64 KiB of the
# firmware end at 4 GiB.  Page tables are made at 0x1000 to 0x5fff: 1 GiB from 0, 1 GiB below 4 GiB, and the
# latter once more at 0xffffffff80000000, where a Linux kernel lies.
_START, _CODE_AT = 0xFFF0, 0xFD00
_CODE = bytes.fromhex(
    # fd00: real mode
    "fa"  # cli
    "2e660f011608fe"  # lgdtl %cs:gdtp
    "0f20c0 0c01 0f22c0"  # cr0 |= PE
    "66ea18fdffff0800"  # ljmpl $8, start32
    # fd18: start32, protected mode
    "66b81000 8ed8 8ec0 8ed0"  # ds = es = ss = $16
    "fc 31c0 bf00100000 b900180000 f3ab"  # clear 0x1000..0x6fff
    "c7050010000003200000"  # PML4[0] = 0x2000, present and writable
    "c705f81f000003500000"  # PML4[511] = 0x5000
    "c7050020000003300000"  # PDPT[0] = 0x3000
    "c7051820000003400000"  # PDPT[3] = 0x4000
    "c705f05f000003400000"  # upper PDPT[510] = 0x4000
    "b883000000 ba830000c0 31c9"  # 2 MiB pages from 0, and from 3 GiB
    "8904cd00300000 8914cd00400000"  # 1: fill both page directories
    "0500002000 81c200002000 41 81f900020000 75de"  # next 2 MiB; 512 entries; jne 1b
    "0f20e0 83c820 0f22e0"  # cr4 |= PAE
    "b800100000 0f22d8"  # cr3 = 0x1000
    "b9800000c0 0f32 0d00010000 0f30"  # EFER |= LME
    "0f20c0 0d00000080 0f22c0"  # cr0 |= PG
    "eac2fdffff1800"  # ljmpl $24, start64
    # fdc2: start64, long mode
    "bc00700000"  # movl $0x7000, %esp
    "48c7c0d0fdffbf ffe0"  # jmp *$0xffffffffbffffdd0, the next instruction's place in the upper half
    # fdd0: the upper half
    "b980f0fa02 ffc9 75fc"  # count 50 000 000 down
    "66baf803 b06b ee"  # outb $'k', $0x3f8, the data register of COM1
    "0f011c24 0f0b"  # lidt of nothing; ud2: a triple fault, at which QEMU ends (-no-reboot)
    "f4f4"  # to the next multiple of eight
)
# fde8: the descriptors (none, 32-bit code, data, 64-bit code), and what lgdt reads.
_DESCRIPTORS = bytes.fromhex("0000000000000000 ffff0000009acf00 ffff00000092cf00 ffff0000009aaf00 1f00e8fdffff")
_GDT_AT = 0xFDE8


def render_rom() -> bytes:
    """Return the 64 KiB of the probe's firmware, filled with hlt."""
    rom = bytearray(b"\xf4" * 0x10000)
    rom[_CODE_AT : _CODE_AT + len(_CODE)] = _CODE
    rom[_GDT_AT : _GDT_AT + len(_DESCRIPTORS)] = _DESCRIPTORS
    rom[_START : _START + 3] = b"\xe9\x0d\xfd"  # jmp to 0xfd00
    return bytes(rom)


def probe_argv(rom: Path, accelerator: str) -> Argv:
    """Return the QEMU that runs the firmware at ``rom`` with ``accelerator``; serial on stdout."""
    return (
        QEMU,
        *("-M", "q35", "-accel", accelerator, "-cpu", "max" if accelerator == "tcg" else "host", "-m", "4M"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot"),
        *("-bios", str(rom)),
    )
