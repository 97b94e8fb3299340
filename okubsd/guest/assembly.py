"""Programs of some hundred bytes for a guest, where no small program of the distribution does what is needed.

They are static ELF programs of x86-64 that call the kernel and nothing else.
Source: System V ABI, AMD64 supplement, chapters 3 and A; System V gABI, chapter 4 (ELF); Intel SDM, volume 2.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

_BASE, _HEADERS = 0x400000, 64 + 56
# The instructions that load a constant into a register, and those that jump, without what follows them.
_LOADS = {"eax": b"\xb8", "ebx": b"\xbb", "edx": b"\xba", "esi": b"\xbe", "edi": b"\xbf"}
_JUMPS = {
    "always": b"\xe9",
    "zero": b"\x0f\x84",
    "not zero": b"\x0f\x85",
    "negative": b"\x0f\x88",
    "not positive": b"\x0f\x8e",
}
_SYSCALL = b"\x0f\x05"
_TEST = b"\x85\xc0"  # test eax, eax


@dataclass(frozen=True)
class Label:
    """A place in a program; it takes no room."""

    name: str


@dataclass(frozen=True)
class Jump:
    """Go on at the label ``to`` when the last answer was ``when``: a key of the table of jumps."""

    when: str
    to: str


Part = bytes | Label | Jump


def load(register: str, value: int) -> bytes:
    """Return the instruction that sets the 32-bit ``register``."""
    return _LOADS[register] + struct.pack("<I", value)


def call(number: int, **registers: int) -> bytes:
    """Return the call of the kernel's function ``number`` (asm/unistd_64.h), and the test of its answer.

    ``registers`` are those of its arguments that are set for it; the others keep what they have.
    """
    return b"".join(load(name, value) for name, value in registers.items()) + load("eax", number) + _SYSCALL + _TEST


def assemble(*parts: Part) -> bytes:
    """Return the bytes of a program's ``parts``."""
    places, at = dict[str, int](), 0
    for part in parts:
        if isinstance(part, Label):
            places[part.name] = at
        at += _length(part)
    code = b""
    for part in parts:
        if isinstance(part, bytes):
            code += part
        elif isinstance(part, Jump):
            code += _JUMPS[part.when] + struct.pack("<i", places[part.to] - len(code) - _length(part))
    return code


def _length(part: Part) -> int:
    if isinstance(part, Jump):
        return len(_JUMPS[part.when]) + 4
    return len(part) if isinstance(part, bytes) else 0


@dataclass(frozen=True)
class Room:
    """Where a program's constants lie, and behind them the bytes that it may write to."""

    constants: int
    buffer: int


def room_of(code: int, constants: int) -> Room:
    """Return the addresses that follow ``code`` bytes of code and ``constants`` bytes of constants."""
    return Room(_BASE + _HEADERS + code, _BASE + _HEADERS + code + constants)


def render(code: bytes, constants: bytes, room: int) -> bytes:
    """Return the file of a program: headers, ``code``, ``constants``, then ``room`` bytes of memory."""
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = ident + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, _BASE + _HEADERS, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    whole = _HEADERS + len(code) + len(constants)
    segment = struct.pack("<IIQQQQQQ", 1, 7, 0, _BASE, _BASE, whole, whole + room, 4096)
    return header + segment + code + constants
