"""The accelerator probe: a firmware of eight bytes that says "k" on the serial line and halts.

A /dev/kvm that opens proves nothing: there are hosts where every guest hangs on it, or where QEMU
gives up setting a register.  A guest that gets as far as one letter has run.
"""

from __future__ import annotations

from pathlib import Path

from okubsd.model import Argv
from okubsd.qemu.argv import QEMU

SIGN = b"k"

# An x86 starts at the last 16 bytes of the firmware, in real mode (Intel SDM 3A, 10.1.4).
_START = 0xFFF0
_CODE = bytes.fromhex(
    "ba f8 03"  # mov dx, 0x3f8     the data register of COM1
    "b0 6b"  # mov al, 'k'
    "ee"  # out dx, al
    "fa f4"  # cli; hlt
)


def render_rom() -> bytes:
    """Return the 64 KiB of the probe's firmware, filled with hlt."""
    rom = bytearray(b"\xf4" * 0x10000)
    rom[_START : _START + len(_CODE)] = _CODE
    return bytes(rom)


def probe_argv(rom: Path, accelerator: str) -> Argv:
    """Return the QEMU that runs the firmware at ``rom`` with ``accelerator``; serial on stdout."""
    return (
        QEMU,
        *("-M", "q35", "-accel", accelerator, "-cpu", "host", "-m", "4M"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot"),
        *("-bios", str(rom)),
    )
