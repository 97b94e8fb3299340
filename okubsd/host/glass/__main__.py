"""The glass: show the windows of a VM's own display on the user's desktop (okubsd-desktop(7)).

Two halves and one that minds them.  The reader speaks to the nested display only, the painter to the user's only; the
minder speaks to neither.  Where one half ends, so does the other, and both begin anew: what runs in the guest goes on.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import struct
import sys
import time
from pathlib import Path

import msgspec

from okubsd import layout
from okubsd.display.orders import Orders, parse_orders
from okubsd.display.server import display_socket
from okubsd.display.words import Asked, Told
from okubsd.errors import HostLacks
from okubsd.host import door, keys, locks, running
from okubsd.host.glass import sandbox
from okubsd.host.glass.control import Control
from okubsd.host.glass.desk import Look
from okubsd.host.glass.painter import Deeds, Painter
from okubsd.host.glass.reader import Reader
from okubsd.host.glass.whole import WholeReader
from okubsd.host.glass.wire import SLOT_SIZE, Hung, Slots, Wire, pair
from okubsd.host.sockets import listener_pid
from okubsd.host.window import authority, open_desktop, open_display
from okubsd.plan.steps.base import Slot

# What a half may hold, in bytes of data; how often both may begin anew within how many seconds.
_MEMORY = 320 << 20
_TRIES, _TRY_SECONDS, _SETTLE_SECONDS = 5, 60.0, 0.3
# How long the nested display may take to tell its number, and how often is looked whether the VM lives.
_DISPLAY_SECONDS, _LOOK_SECONDS = 20.0, 1.0
# The exit code of a half that has nothing to begin anew for.
_FOR_GOOD = 3


def main() -> int:
    """Mind the halves until the VM ends."""
    orders = parse_orders(sys.argv[1])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    begun: list[float] = []
    life, idle = _Life(Path(orders.run)), None
    while _settled(begun) and len([moment for moment in begun if moment > time.monotonic() - _TRY_SECONDS]) < _TRIES:
        begun.append(time.monotonic())
        number = _display_number(Path(orders.run))
        idle = idle or (_hold(Path(orders.run), number) if number is not None else None)
        if number is None or not _halves(orders, number, life, idle):
            return 0
        # What a start says is said by the first halves.
        orders = msgspec.structs.replace(orders, words="")
    print("okubsd: the windows ended too often", file=sys.stderr)
    return 1


def _settled(begun: list[float]) -> bool:
    """Leave the servers a moment to notice that the halves of before are gone."""
    if begun:
        time.sleep(_SETTLE_SECONDS)
    return True


def _display_number(run: Path) -> int | None:
    """Return the number of the nested display, once it listens; None where it is gone or does not come.

    It is not called to see whether it listens: it ends with its last client.
    """
    end = time.monotonic() + _DISPLAY_SECONDS
    while time.monotonic() < end and locks.is_alive(run / layout.DISPLAY_LIFE):
        number = running.display_number(run)
        if number is not None and display_socket(number).exists():
            return number
        time.sleep(0.01)
    return None


class _Life:
    """Whether the VM lives: by the lock of its QEMU, or else by the connection to it, once there was one."""

    def __init__(self, run: Path) -> None:
        self._lock, self._socket = run / layout.QEMU_LIFE, run / f"{layout.SSH_SOCKET}user"
        self._seen = False

    def goes_on(self) -> bool:
        if self._lock.exists():
            self._seen = True
            return locks.is_alive(self._lock)
        connected = listener_pid(self._socket) is not None
        self._seen = self._seen or connected
        return connected or not self._seen


def _halves(orders: Orders, number: int, life: _Life, idle: socket.socket | None) -> bool:
    """Run both halves until one ends, or the VM does; return whether they are to begin anew."""
    slots = Slots(SLOT_SIZE)
    ours, theirs = pair()
    guard, held = os.pipe()

    def read() -> int:
        ours.close()
        os.close(held)
        return _read(orders, number, Wire(theirs, Asked), slots)

    def paint() -> int:
        theirs.close()
        os.close(held)
        return _paint(orders, number, Wire(ours, Told), slots, guard)

    children = [door.fork(read), door.fork(paint)]
    ours.close()
    theirs.close()
    os.close(guard)
    try:
        return _wait(children, life, idle)
    finally:
        os.close(held)
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _hold(run: Path, number: int) -> socket.socket | None:
    """Be a client of the nested display that does nothing: it ends with its last one, and a half can die.

    Nothing that comes of it is looked at (X protocol, section 8: connection setup).
    """
    cookie = keys.read_cookie(run)
    if cookie is None:
        return None
    name = b"MIT-MAGIC-COOKIE-1"
    order = b"l" if sys.byteorder == "little" else b"B"
    padded = b"".join(part + bytes(-len(part) % 4) for part in (name, cookie))
    idle = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        idle.connect(str(display_socket(number)))
        idle.sendall(struct.pack("=cxHHHHxx", order, 11, 0, len(name), len(cookie)) + padded)
    except OSError:
        idle.close()
        return None
    idle.setblocking(False)
    return idle


def _drain(idle: socket.socket | None) -> None:
    """Take what the nested display tells every client, and drop it."""
    with contextlib.suppress(OSError):
        while idle is not None and idle.recv(1 << 16):
            pass


def _wait(children: list[int], life: _Life, idle: socket.socket | None) -> bool:
    """Wait until a half ends, or the VM does; return whether another try may do better."""
    codes: dict[int, int] = {}
    while life.goes_on() and not codes:
        # A child that ends interrupts nothing here: it is looked after, often enough for anybody who waits.
        end = time.monotonic() + _LOOK_SECONDS
        while time.monotonic() < end and not codes:
            _drain(idle)
            time.sleep(0.1)
            codes = _ended(children)
    if codes:
        # One half ends with the other: which of them had a reason is known when both had time to.
        time.sleep(0.2)
        codes |= _ended([pid for pid in children if pid not in codes])
    children[:] = [pid for pid in children if pid not in codes]
    return bool(codes) and _FOR_GOOD not in codes.values()


def _ended(children: list[int]) -> dict[int, int]:
    """Return the exit codes of those ``children`` that ended."""
    ended = (os.waitpid(pid, os.WNOHANG) for pid in children)
    return {pid: os.waitstatus_to_exitcode(status) for pid, status in ended if pid}


def _read(orders: Orders, number: int, wire: Wire, slots: Slots) -> int:
    """Be the reader, until the nested display is gone, or the painter; return our exit code."""
    from Xlib import error

    cookie = keys.read_cookie(Path(orders.run))
    if cookie is None:
        return _FOR_GOOD
    with authority(number, cookie):
        opened = open_display(f":{number}")
    del cookie
    # Before the first answer of a guest's is read.
    sandbox.enter(_MEMORY)
    with contextlib.suppress(error.ConnectionClosedError, Hung):
        reader = Reader(opened, wire, slots) if orders.whole is None else WholeReader(opened, wire, slots, orders.whole)
        reader.run()
    return 0


def _painter(orders: Orders, number: int, wire: Wire, slots: Slots, control: Control) -> Painter:
    """Return a painter on the user's display.  Raises HostLacks where that does not answer, or lacks colors."""
    look = Look(
        orders.vm, orders.color, orders.ink, orders.network, orders.scale, orders.fullscreen, orders.keys
    )  # fmt: skip
    keyboard = tuple(f":{number}" if word == Slot.DISPLAY else word for word in orders.keyboard)
    sent = itertools.count()
    deeds = Deeds(
        # Each drop by a command of its own: none waits for another, and none takes its place.
        send=lambda paths: control.run(f"send-{next(sent)}", (*orders.okubsd, "send", *paths, orders.vm)),
        cross=lambda word: control.run("cross", (*orders.okubsd, "clip", word, orders.vm)),
        # As often as the user's keyboard changes; a program of the desktop's own, not of a guest's.
        remap=lambda: control.run("remap", keyboard),
    )
    return Painter(open_desktop(orders.desktop), wire, slots, look, deeds)


def _paint(orders: Orders, number: int, wire: Wire, slots: Slots, guard: int) -> int:
    """Be the painter, until the user's display is gone, the reader, or the minder; return our exit code."""
    from Xlib import error

    control = Control(Path(orders.run) / layout.GLASS)
    try:
        painter = _painter(orders, number, wire, slots, control)
    except Hung:
        return 0
    except HostLacks as problem:
        print(f"okubsd: {problem.sentence}", file=sys.stderr)
        return _FOR_GOOD
    if orders.words:
        painter.say(orders.words)
    try:
        while True:
            ready = painter.turn([guard, *control.waiting()])
            if guard in ready:
                return 0
            control.turn(painter, ready)
    except Hung:
        return 0
    except error.ConnectionClosedError:
        # Somebody of the desktop ended us as a client (XKillClient), or it is gone: then the next try says so.
        return 0


if __name__ == "__main__":
    sys.exit(main())
