"""A program for a guest: it leads an app without a network to its display.

X11 comes to a guest by a port of its loopback, which an app in a network namespace of its own does not have.  This
program listens at the socket of display 10 in /tmp/.X11-unix, and joins each connection with that port.
Source: unix(7), ip(7), connect(2); X11 display names are those of X(7).
"""

from __future__ import annotations

import struct

from okubsd.guest.assembly import Jump, Label, Part, Room, assemble, call, load, render, room_of

PATH = "/tmp/.X11-unix/X10"
_PORT = 6010
# struct sockaddr_un, sockaddr_in, and a sigaction that ignores (the kernel's has the handler, flags, restorer, mask).
_AF_UNIX, _AF_INET = 1, 2
_INET = struct.pack("<H", _AF_INET) + struct.pack("!H", _PORT) + bytes((127, 0, 0, 1)) + bytes(8)
_IGNORED = struct.pack("<QQQQ", 1, 0, 0, 0)
_BLOCK, _PAUSE_MS = 1 << 16, 100

_READ, _WRITE, _CLOSE, _POLL, _RT_SIGACTION = 0, 1, 3, 7, 13
_SOCKET, _CONNECT, _ACCEPT, _SHUTDOWN, _BIND, _LISTEN = 41, 42, 43, 48, 49, 50
_FORK, _EXIT, _UNLINK, _SETSID = 57, 60, 87, 112
_STREAM, _SIGCHLD, _SIGPIPE, _BOTH = 1, 17, 13, 2

# The listener is in r12, the client in ebx, the display in ebp.
_KEEP_LISTENER, _LISTENER = b"\x41\x89\xc4", b"\x44\x89\xe7"  # mov r12d, eax; mov edi, r12d
_KEEP_CLIENT, _CLIENT = b"\x89\xc3", b"\x89\xdf"  # mov ebx, eax; mov edi, ebx
_KEEP_DISPLAY, _DISPLAY = b"\x89\xc5", b"\x89\xef"  # mov ebp, eax; mov edi, ebp
_EXCHANGE = b"\x87\xeb"  # xchg ebx, ebp
_COUNT = b"\x89\xc2"  # mov edx, eax
_ADVANCE = b"\x01\xc6\x29\xc2"  # add esi, eax; sub edx, eax
# The fourth argument of rt_sigaction(2): the bytes of a set of signals.
_EIGHT = b"\x41\xba\x08\x00\x00\x00"  # mov r10d, 8


def render_program(path: str = PATH) -> bytes:
    """Return a static program of x86-64: it ends with 0 when one listens at ``path``, and goes on behind that."""
    unix = struct.pack("<H", _AF_UNIX) + path.encode() + b"\0"
    constants = unix + _INET + _IGNORED
    room = room_of(len(_code(Room(0, 0), len(unix))), len(constants))
    return render(_code(room, len(unix)), constants, _BLOCK)


def _code(room: Room, unix: int) -> bytes:
    """Return the code; the first ``unix`` bytes of the constants are the address that it listens at."""
    inet = room.constants + unix
    ignored = inet + len(_INET)
    return assemble(
        _EIGHT,
        # Its children are collected by nobody; an end that is gone is told by write(2).
        call(_RT_SIGACTION, edi=_SIGCHLD, esi=ignored, edx=0),
        call(_RT_SIGACTION, edi=_SIGPIPE, esi=ignored, edx=0),
        *_listen(room.constants, unix),
        *_serve(inet),
        *_copy(room.buffer),
        Label("failed"),
        call(_EXIT, edi=1),
    )


def _listen(unix: int, length: int) -> tuple[Part, ...]:
    """Make the socket, unless somebody listens there; whoever called goes on when one listens."""
    return (
        call(_SOCKET, edi=_AF_UNIX, esi=_STREAM, edx=0),
        Jump("negative", "failed"),
        _KEEP_LISTENER + _LISTENER + call(_CONNECT, esi=unix, edx=length),
        Jump("not zero", "alone"),
        call(_EXIT, edi=0),
        Label("alone"),
        # What one that has ended left is in the way.
        call(_UNLINK, edi=unix + 2),
        _LISTENER + call(_BIND, esi=unix, edx=length),
        Jump("not zero", "failed"),
        _LISTENER + call(_LISTEN, esi=64),
        Jump("not zero", "failed"),
        call(_FORK),
        Jump("negative", "failed"),
        Jump("zero", "detach"),
        call(_EXIT, edi=0),
        Label("detach"),
        call(_SETSID),
    )


def _serve(inet: int) -> tuple[Part, ...]:
    """Have two processes for each connection: one carries to the display, one from it."""
    return (
        Label("accept"),
        _LISTENER + call(_ACCEPT, esi=0, edx=0),
        Jump("negative", "pause"),
        _KEEP_CLIENT + call(_FORK),
        Jump("zero", "connect"),
        _CLIENT + call(_CLOSE),
        Jump("always", "accept"),
        Label("pause"),
        # Descriptors or memory may be had again.
        call(_POLL, edi=0, esi=0, edx=_PAUSE_MS),
        Jump("always", "accept"),
        Label("connect"),
        _LISTENER + call(_CLOSE),
        call(_SOCKET, edi=_AF_INET, esi=_STREAM, edx=0),
        Jump("negative", "failed"),
        _KEEP_DISPLAY + _DISPLAY + call(_CONNECT, esi=inet, edx=len(_INET)),
        Jump("not zero", "failed"),
        call(_FORK),
        Jump("negative", "failed"),
        Jump("zero", "copy"),
        _EXCHANGE,
    )


def _copy(buffer: int) -> tuple[Part, ...]:
    """Carry what comes from ebx to ebp; when one of them ends, both do."""
    return (
        Label("copy"),
        _CLIENT + call(_READ, esi=buffer, edx=_BLOCK),
        Jump("not positive", "ended"),
        _COUNT + load("esi", buffer),
        Label("write"),
        _DISPLAY + call(_WRITE),
        Jump("not positive", "ended"),
        _ADVANCE,
        Jump("not zero", "write"),
        Jump("always", "copy"),
        Label("ended"),
        _CLIENT + call(_SHUTDOWN, esi=_BOTH),
        _DISPLAY + call(_SHUTDOWN, esi=_BOTH),
    )
