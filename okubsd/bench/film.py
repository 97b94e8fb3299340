"""What a film costs that a program draws on a VM's display: 854 by 480 pixels, 24 pictures a second.

The program runs on this host and draws without ssh: a guest on a software CPU cannot send 40 MB a second, and what
shows them is what is measured.
"""

from __future__ import annotations

import os
import select
import signal
import time
from typing import Any

from okubsd.bench.contestants import Contestant, spent
from okubsd.display.server import display_socket
from okubsd.errors import Problem, TimedOut
from okubsd.host import door, keys, running, window

WIDTH, HEIGHT, RATE, SECONDS = 854, 480, 24, 10
# One request of X11's holds at most this many bytes of a picture (X protocol, section 1: 65535 units of four).
_LARGEST = 65000 * 4
_BYTES, _DEPTH = 4, 24
# The colors of the pictures, as far apart as they can be told after a screen of 16 bits.
_STEP = 0x08
# How far apart the desktop is looked at for it, in pixels.
_GRID = 40


def play(contestant: Contestant, opened: Any) -> tuple[float, float]:
    """Play a film on a VM's display; return how many of 24 pictures a second the desktop ``opened`` shows, and their
    cost: the seconds of processor, a second, of all that carries and shows them.

    Raises Problem where the VM has no display of its own, TimedOut where nothing is shown.
    """
    run = contestant.session.places.vm_run(contestant.vm.name)
    number, cookie = running.live_display(run), keys.read_cookie(run)
    if number is None or cookie is None or not display_socket(number).exists():
        raise Problem(f"'{contestant.vm.name}' has no display of its own to show a film on")
    player = door.fork(lambda: _draw(number, cookie))
    try:
        _wait_for_picture(opened)
        before, began = spent(contestant.pids()), time.monotonic()
        seen = _count(opened, began + SECONDS)
        taken = time.monotonic() - began
        return seen / taken, (spent(contestant.pids()) - before) / taken
    finally:
        os.kill(player, signal.SIGKILL)
        os.waitpid(player, 0)


def _color(number: int) -> int:
    """Return the color of a picture, and of no other one near it, as 0xRRGGBB."""
    return 0x0000FF | (number * _STEP & 0xFF) << 16 | (number // 32 * _STEP & 0xFF) << 8


def _is_picture(color: int) -> bool:
    return color & 0xFF == 0xFF and not color & 0x070700


def _draw(number: int, cookie: bytes) -> int:
    """Be the program: draw pictures at their times until we are killed."""
    from Xlib import X

    with window.authority(number, cookie):
        opened = window.open_display(f":{number}")
    root = opened.screen().root
    shown = root.create_window(0, 0, WIDTH, HEIGHT, 0, _DEPTH, event_mask=0)
    shown.set_wm_name("film")
    shown.map()
    gc, rows = shown.create_gc(), _LARGEST // (WIDTH * _BYTES)
    began = time.monotonic()
    for picture in range(RATE * SECONDS * 6):
        line = _color(picture).to_bytes(_BYTES, "little") * WIDTH
        for top in range(0, HEIGHT, rows):
            height = min(rows, HEIGHT - top)
            shown.put_image(gc, 0, top, WIDTH, height, X.ZPixmap, _DEPTH, 0, line * height)
        # No picture is drawn before the one before it arrived.
        opened.sync()
        time.sleep(max(0.0, began + (picture + 1) / RATE - time.monotonic()))
    return 0


def _pixel(opened: Any, x: int, y: int) -> int:
    from Xlib import X

    found = opened.screen().root.get_image(x, y, 1, 1, X.ZPixmap, 0xFFFFFFFF)
    return int.from_bytes(found.data[:3], "little")


def _place(opened: Any) -> tuple[int, int] | None:
    """Return a place of the desktop where the film is shown, None where it is not yet."""
    from Xlib import X

    screen = opened.screen()
    width = screen.width_in_pixels
    for y in range(_GRID, screen.height_in_pixels, _GRID):
        row = screen.root.get_image(0, y, width, 1, X.ZPixmap, 0xFFFFFFFF).data
        points = range(_GRID, width, _GRID)
        shown = [x for x in points if _is_picture(int.from_bytes(row[4 * x : 4 * x + 3], "little"))]
        if len(shown) >= WIDTH // _GRID // 2:
            return shown[len(shown) // 2], y
    return None


def _wait_for_picture(opened: Any) -> None:
    end = time.monotonic() + 30
    while _place(opened) is None:
        if time.monotonic() > end:
            raise TimedOut("no picture of the film was shown within 30 seconds")
        time.sleep(0.1)
    time.sleep(1)


def _count(opened: Any, end: float) -> int:
    """Return how many pictures the desktop shows until ``end``."""
    from Xlib.ext import damage

    place = _place(opened)
    if place is None:
        raise TimedOut("the film is not shown any more")
    opened.damage_query_version()
    watched = opened.screen().root.damage_create(damage.DamageReportNonEmpty)
    seen, last = 0, -1
    while time.monotonic() < end:
        while opened.pending_events():
            opened.next_event()
        # Whatever changes from here on is told anew.
        opened.damage_subtract(watched)
        color = _pixel(opened, *place)
        seen, last = seen + (color != last), color
        # An event may have come before the pixel's answer: then nothing more comes to wait for.
        if not opened.pending_events():
            select.select([opened.fileno()], [], [], max(0.0, min(0.1, end - time.monotonic())))
    opened.damage_destroy(watched)
    return seen
