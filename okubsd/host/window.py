"""Look at a VM's own display, as one of its clients: is there a window, and what does it show?

The display belongs to a guest that may be hostile: what it says of itself is only ever matched.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from okubsd.display.png import render_png
from okubsd.errors import DisplayGone
from okubsd.guest.identity import FAMILY_LOCAL, render_xauthority

# A window inside another one can be mapped without the root window's hearing of it.
_UNSEEN_SECONDS = 0.1

# The smallest window that counts as an app's; toolkits map helpers of one pixel.
_SMALLEST = 32


def preload() -> None:
    """Import what looking at a display takes, while there is something to wait for anyway."""
    import Xlib.display  # noqa: F401


@contextlib.contextmanager
def _authority(number: int, cookie: bytes) -> Iterator[None]:
    """Let python-xlib find ``cookie``: it only knows the file that XAUTHORITY names, and only exact entries."""
    before = os.environ.get("XAUTHORITY")
    with tempfile.NamedTemporaryFile(prefix="okubsd-cookie-") as stream:
        stream.write(render_xauthority(cookie, FAMILY_LOCAL, socket.gethostname(), str(number)))
        stream.flush()
        os.environ["XAUTHORITY"] = stream.name
        try:
            yield
        finally:
            del os.environ["XAUTHORITY"]
            if before is not None:
                os.environ["XAUTHORITY"] = before


@contextlib.contextmanager
def display(number: int, cookie: bytes) -> Iterator[Any]:
    """Open local display ``number`` with its ``cookie``.  Raises Problem where that fails."""
    from Xlib import display as xdisplay
    from Xlib import error

    try:
        with _authority(number, cookie):
            opened = xdisplay.Display(f":{number}")
    except (error.DisplayError, error.XError, OSError) as problem:
        raise DisplayGone(f"the VM's display :{number} does not answer: {problem}") from None
    try:
        yield opened
    except (error.ConnectionClosedError, ConnectionError):
        raise DisplayGone(f"the VM's display :{number} was closed") from None
    finally:
        with contextlib.suppress(error.ConnectionClosedError, ConnectionError):
            opened.close()


def app_windows(opened: Any) -> set[int]:
    """Return the ids of the mapped top-level windows of apps (ICCCM: they have a WM_CLASS)."""
    found: set[int] = set()
    _collect(opened.screen().root, found, depth=3)
    return found


def _collect(window: Any, found: set[int], depth: int) -> None:
    from Xlib import X, error

    for child in window.query_tree().children if depth else ():
        # A window may be gone between two questions.
        with contextlib.suppress(error.BadWindow, error.BadDrawable):
            if child.get_attributes().map_state != X.IsViewable:
                continue
            size = child.get_geometry()
            if min(size.width, size.height) >= _SMALLEST and child.get_wm_class() is not None:
                found.add(child.id)
            else:
                _collect(child, found, depth - 1)


def wait_for_window(opened: Any, known: set[int], timeout: float, still: Any) -> bool:
    """Wait until an app's window is mapped that is not among ``known``; return whether there is one.

    ``still`` is called between looks and may raise to end the wait.  The server tells when something changes; it
    is not asked again and again, which would keep it from the app.
    """
    from Xlib import X

    opened.screen().root.change_attributes(event_mask=X.SubstructureNotifyMask)
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if app_windows(opened) - known:
            return True
        still()
        _wait_for_change(opened)
    return False


def _wait_for_change(opened: Any) -> None:
    """Wait until something changes on the display, or a moment, for what changes unseen; forget what was told."""
    if not opened.pending_events():
        select.select([opened.fileno()], [], [], _UNSEEN_SECONDS)
    while opened.pending_events():
        opened.next_event()


def take_picture(number: int, cookie: bytes) -> bytes:
    """Return what display ``number`` shows, as PNG."""
    from Xlib import X

    with display(number, cookie) as opened:
        root = opened.screen().root
        size = root.get_geometry()
        image = root.get_image(0, 0, size.width, size.height, X.ZPixmap, 0xFFFFFFFF)
        return render_png(size.width, size.height, image.data)
