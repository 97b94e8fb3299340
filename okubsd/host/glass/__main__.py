"""The glass: show the windows of a VM's own display on the user's desktop (okubsd-desktop(7)).

Two halves and one that minds them (minder.py).  The reader speaks to the nested display only, the painter to the
user's only; the minder speaks to neither.  Where one half ends, so does the other, and both begin anew: what runs in
the guest goes on.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import itertools
import os
import resource
import socket
import struct
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from okubsd import layout
from okubsd.display.orders import Orders, parse_orders
from okubsd.display.server import display_socket
from okubsd.display.words import Asked, Told
from okubsd.errors import HostLacks
from okubsd.host import door, keys, locks, programs, running
from okubsd.host.glass import minder, sandbox
from okubsd.host.glass.control import Control
from okubsd.host.glass.desk import Look
from okubsd.host.glass.painter import Deeds, Painter
from okubsd.host.glass.reader import Reader
from okubsd.host.glass.whole import WholeReader
from okubsd.host.glass.wire import SLOT_SIZE, Hung, Slots, Wire, pair
from okubsd.host.sockets import listener_pid
from okubsd.host.window import authority, open_desktop, open_display
from okubsd.model import Slot

# What a half may hold, in bytes of data; how often both may begin anew within how many seconds.
_MEMORY = 320 << 20
# A guest can keep its display and the reader busy; what else the user does comes first (nice(3)).
_NICER = 5
_TRIES, _TRY_SECONDS, _SETTLE_SECONDS = 5, 60.0, 0.3
# What a half keeps of memory for the next time, in bytes: for pictures of a film, and for select(2); malloc.h.
_PICTURES, _SELECT = 4 << 20, 1 << 20
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
# How long the nested display may take to tell its number.
_DISPLAY_SECONDS, _ANSWER_SECONDS = 20.0, 10.0
# The extensions that either half speaks; python-xlib takes memory, and reads what comes, for all that it knows.
_EXTENSIONS = ("xtest", "composite", "randr", "xfixes", "damage", "screensaver")


def main() -> int:
    """Begin both halves, and become what minds them."""
    orders, past = parse_orders(sys.argv[1]), _Past.parse(sys.argv[2:])
    _share_what_is_loaded()
    if past.again:
        # Leave the servers a moment to notice that the halves of before are gone.
        time.sleep(_SETTLE_SECONDS)
        # What a start says is said by the first halves.
        orders = msgspec.structs.replace(orders, words="")
    if len(past.begun) >= _TRIES:
        print("okubsd: the windows ended too often", file=sys.stderr)
        _say_on_desktop(orders, f"its windows ended too often; okubsd start {orders.vm} shows them again")
        return 1
    begun = (*past.begun, time.monotonic())
    run = Path(orders.run)
    number = _display_number(run)
    if number is None:
        if past.again and _vm_lives(run):
            _say_on_desktop(orders, f"its display has ended; okubsd start {orders.vm} gives it a new one")
        return 0
    # Anew each time: the display may be another one.  The one before goes once this one is there.
    idle = _hold(run, number)
    if idle < 0:
        idle = past.idle
    else:
        _close(past.idle)
    _mind(run, _halves(orders, number, idle), msgspec.structs.replace(past, idle=idle, begun=begun))
    return 0


def _vm_lives(run: Path) -> bool:
    life = run / layout.QEMU_LIFE
    return locks.is_alive(life) if life.exists() else listener_pid(run / f"{layout.SSH_SOCKET}user") is not None


def _say_on_desktop(orders: Orders, words: str) -> None:
    """Say in a window of ours why the VM's are gone; it is a program of its own, and ends by itself."""
    said = msgspec.structs.replace(orders, words=f"{orders.vm}: {words}")
    door.spawn(programs.farewell_argv(said.render()), Path(orders.run) / layout.FAREWELL_LOG)


class _Past(msgspec.Struct, frozen=True):
    """What is known of the tries before: that there were any (``again``), when the latest were ``begun``, the idle
    client, and whether the VM was ``seen``.
    """

    again: bool = False
    idle: int = -1
    begun: tuple[float, ...] = ()
    seen: bool = False

    @classmethod
    def parse(cls, words: Sequence[str]) -> _Past:
        """Return the past that ``words`` are: those of _mind(), and one of the minder's; none is no past."""
        if not words:
            return cls()
        idle, *begun, seen = words
        recent = (moment for moment in map(float, begun) if moment > time.monotonic() - _TRY_SECONDS)
        return cls(again=True, idle=int(idle), begun=tuple(recent), seen=seen == "1")


def _mind(run: Path, halves: Halves, past: _Past) -> None:
    """Become the program that minds the halves, which calls us again as we were called."""
    ourselves = sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 2]
    again = (sys.executable, *ourselves[1:], str(past.idle), *map(repr, past.begun))
    life = (str(run / layout.QEMU_LIFE), str(run / f"{layout.SSH_SOCKET}user"), "1" if past.seen else "0")
    numbers = (past.idle, halves.held, *halves.pids)
    for descriptor in (past.idle, halves.held):
        if descriptor >= 0:
            os.set_inheritable(descriptor, True)
    os.execv(sys.executable, (sys.executable, "-I", "-S", minder.__file__, *life, *map(str, numbers), *again))


def _share_what_is_loaded() -> None:
    """Import all that a half needs, and keep it out of later collections, which would write to it and so copy it."""
    from Xlib import ext

    ext.__extensions__[:] = [row for row in ext.__extensions__ if row[1] in _EXTENSIONS]
    for name in ("display", "support.unix_connect", *(f"ext.{module}" for module in _EXTENSIONS)):
        importlib.import_module(f"Xlib.{name}")
    gc.collect()
    gc.freeze()


def _keep_memory(size: int) -> None:
    """Have the C library keep up to ``size`` bytes that are freed at its heap's end, and make no mapping for less.

    glibc gives back more than 128 KB, and asks for it again, with each select(2) and each picture, which is two fifths
    of what a film costs.  Others have no mallopt(3), or do nothing by it.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_TRIM_THRESHOLD, size)
        libc.mallopt(_MMAP_THRESHOLD, size // 2)


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


class Halves(msgspec.Struct, frozen=True):
    """The pids of the reader and of the painter, and the end of a pipe that tells both that we live."""

    pids: tuple[int, int]
    held: int


def _halves(orders: Orders, number: int, idle: int) -> Halves:
    """Begin both halves; neither holds the ``idle`` client of the nested display."""
    slots = Slots(SLOT_SIZE)
    ours, theirs = pair()
    guard, held = os.pipe()

    def read() -> int:
        _keep_memory(_PICTURES)
        os.nice(_NICER)
        ours.close()
        _close(held, idle)
        return _read(orders, number, Wire(theirs, Asked), slots)

    def paint() -> int:
        _keep_memory(_SELECT)
        theirs.close()
        _close(held, idle)
        return _paint(orders, number, Wire(ours, Told), slots, guard)

    found = Halves((door.fork(read), door.fork(paint)), held)
    ours.close()
    theirs.close()
    os.close(guard)
    return found


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        if descriptor >= 0:
            os.close(descriptor)


def _hold(run: Path, number: int) -> int:
    """Be a client of the nested display that does nothing: it ends with its last one, and a half can die.

    Return its descriptor, -1 where that fails.  Nothing that comes of it is looked at (X protocol, section 8:
    connection setup).
    """
    cookie = keys.read_cookie(run)
    if cookie is None:
        return -1
    name = b"MIT-MAGIC-COOKIE-1"
    order = b"l" if sys.byteorder == "little" else b"B"
    padded = b"".join(part + bytes(-len(part) % 4) for part in (name, cookie))
    idle = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        idle.connect(str(display_socket(number)))
        idle.settimeout(_ANSWER_SECONDS)
        idle.sendall(struct.pack("=cxHHHHxx", order, 11, 0, len(name), len(cookie)) + padded)
        # It is a client once it is answered.
        if not idle.recv(1):
            raise OSError("it is not let in")
    except OSError:
        idle.close()
        return -1
    idle.setblocking(False)
    return idle.detach()


def _read(orders: Orders, number: int, wire: Wire, slots: Slots) -> int:
    """Be the reader, until the nested display is gone, or the painter; return our exit code."""
    from Xlib import error

    cookie = keys.read_cookie(Path(orders.run))
    if cookie is None:
        return minder.FOR_GOOD
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

    # A soft limit: the programs that it begins may raise theirs.
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, resource.getrlimit(resource.RLIMIT_DATA)[1]))
    control = Control(Path(orders.run) / layout.GLASS)
    try:
        painter = _painter(orders, number, wire, slots, control)
    except Hung:
        return 0
    except HostLacks as problem:
        print(f"okubsd: {problem.sentence}", file=sys.stderr)
        return minder.FOR_GOOD
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
