"""A program for a guest that goes on from a saved state: it gives the kernel entropy that no other guest has, at once.

What the kernel is told by write(2) it uses minutes later; these two calls of ioctl(2) need a program of their own, and
no small one has them.  Source: random(4); drivers/char/random.c of Linux; System V ABI, chapter 4 (ELF).
"""

from __future__ import annotations

import struct

# struct rand_pool_info: how many bits this is worth, how many bytes follow (random(4)).
SEED_BYTES = 64
_HEADER = struct.Struct("<ii")
_ADD, _NOW = 0x40085203, 0x5207
_BASE, _CODE = 0x400000, 64 + 56
_PATH = b"/dev/random\0"
_READ, _OPEN, _IOCTL, _EXIT = 0, 2, 16, 60
_SYSCALL = b"\x0f\x05"


def render_seed(data: bytes) -> bytes:
    """Return what the program reads from its input: the SEED_BYTES of ``data``, with what they are worth."""
    assert len(data) == SEED_BYTES
    return _HEADER.pack(8 * len(data), len(data)) + data


def render_program() -> bytes:
    """Return a static program of x86-64: it adds the seed on its input, has it used, and ends with 0 then."""
    size = _HEADER.size + SEED_BYTES
    length = len(_code(0, 0, size))
    path = _BASE + _CODE + length
    buffer = path + len(_PATH)
    return _headers(length + len(_PATH), size) + _code(path, buffer, size) + _PATH


def _code(path: int, buffer: int, size: int) -> bytes:
    # Each part leaves its answer in eax; where that is not what is wanted, the program jumps to its end with 1.
    opened = _eax(_OPEN) + _edi(path) + _esi(1) + _SYSCALL + b"\x85\xc0"  # test eax, eax
    keep = b"\x89\xc3"  # mov ebx, eax
    read = _eax(_READ) + _edi(0) + _esi(buffer) + _edx(size) + _SYSCALL + b"\x83\xf8" + bytes([size])  # cmp eax, size
    add, now = _ioctl(_ADD, buffer), _ioctl(_NOW, 0)
    good = _edi(0) + b"\xeb\x05"  # jmp over the next
    end = _edi(1) + _eax(_EXIT) + _SYSCALL
    # js, jne and jnz are two bytes each.
    tails = [(b"\x78", opened), (b"\x75", keep + read), (b"\x75", add), (b"\x75", now)]
    code, left = b"", sum(len(part) + 2 for _, part in tails) + len(good)
    for jump, part in tails:
        left -= len(part) + 2
        code += part + jump + bytes([left])
    return code + good + end


def _ioctl(request: int, argument: int) -> bytes:
    # mov edi, ebx; test eax, eax
    return _eax(_IOCTL) + b"\x89\xdf" + _esi(request) + _edx(argument) + _SYSCALL + b"\x85\xc0"


def _eax(value: int) -> bytes:
    return b"\xb8" + struct.pack("<I", value)


def _edi(value: int) -> bytes:
    return b"\xbf" + struct.pack("<I", value)


def _esi(value: int) -> bytes:
    return b"\xbe" + struct.pack("<I", value)


def _edx(value: int) -> bytes:
    return b"\xba" + struct.pack("<I", value)


def _headers(length: int, room: int) -> bytes:
    """Return the ELF header and one program header for ``length`` bytes, with ``room`` to write to behind them."""
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    entry = _BASE + _CODE
    header = ident + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, entry, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    whole = _CODE + length
    return header + struct.pack("<IIQQQQQQ", 1, 7, 0, _BASE, _BASE, whole, whole + room, 4096)
