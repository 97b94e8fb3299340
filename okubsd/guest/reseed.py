"""A program for a guest that goes on from a saved state: it gives the kernel entropy that no other guest has, at once.

What the kernel is told by write(2) it uses minutes later; these two calls of ioctl(2) need a program of their own, and
no small one has them.  Source: random(4); drivers/char/random.c of Linux.
"""

from __future__ import annotations

import struct

from okubsd.guest.assembly import Jump, Label, Room, assemble, call, render, room_of

# struct rand_pool_info: how many bits this is worth, how many bytes follow (random(4)).
SEED_BYTES = 64
_HEADER = struct.Struct("<ii")
_ADD, _NOW = 0x40085203, 0x5207
_PATH = b"/dev/random\0"
_READ, _OPEN, _IOCTL, _EXIT = 0, 2, 16, 60
_KEEP, _KEPT = b"\x89\xc3", b"\x89\xdf"  # mov ebx, eax; mov edi, ebx


def render_seed(data: bytes) -> bytes:
    """Return what the program reads from its input: the SEED_BYTES of ``data``, with what they are worth."""
    assert len(data) == SEED_BYTES
    return _HEADER.pack(8 * len(data), len(data)) + data


def render_program() -> bytes:
    """Return a static program of x86-64: it adds the seed on its input, has it used, and ends with 0 then."""
    size = _HEADER.size + SEED_BYTES
    room = room_of(len(_code(Room(0, 0), size)), len(_PATH))
    return render(_code(room, size), _PATH, size)


def _code(room: Room, size: int) -> bytes:
    return assemble(
        call(_OPEN, edi=room.constants, esi=1),
        Jump("negative", "end"),
        _KEEP,
        call(_READ, edi=0, esi=room.buffer, edx=size) + b"\x83\xf8" + bytes([size]),  # cmp eax, size
        Jump("not zero", "end"),
        _KEPT + call(_IOCTL, esi=_ADD, edx=room.buffer),
        Jump("not zero", "end"),
        _KEPT + call(_IOCTL, esi=_NOW, edx=0),
        Jump("not zero", "end"),
        call(_EXIT, edi=0),
        Label("end"),
        call(_EXIT, edi=1),
    )
