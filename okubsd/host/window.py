"""Look at a VM's own display, as one of its clients: is there a window, and what does it show?

The display belongs to a guest that may be hostile: it can hold the server for itself, have ten thousand windows, or
say anything.  So a child looks, which is bounded in time and memory and can be killed; what it says is only matched.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

from okubsd.display.frame import plain
from okubsd.display.png import render_png
from okubsd.errors import DisplayGone, HostLacks, TimedOut
from okubsd.guest.identity import FAMILY_LOCAL, FAMILY_WILD, render_xauthority
from okubsd.host import door

# A window inside another one can be mapped without the root window's hearing of it.
_UNSEEN_SECONDS = 0.1

# The smallest window that counts as an app's; toolkits map helpers of one pixel.
_SMALLEST = 32

# What an X server may take for an answer, in seconds; a busy host's takes its time.
_ANSWER_SECONDS = 20.0

# What the looking child may hold: our own modules, and a few pictures of a large screen.  In bytes.
_CHILD_MEMORY = 768 << 20
_LARGEST_PICTURE, _LONGEST_TITLES = 256 << 20, 64 << 10


def preload() -> None:
    """Import what looking at a display takes, while there is something to wait for anyway."""
    import Xlib.display  # noqa: F401


def open_display(name: str) -> Any:
    """Return the display ``name``, opened, with the errors of the X protocol as what they are.

    python-xlib gives the numbers of the first three to errors of RANDR, which are none; the first of them that comes
    would end its reader.
    """
    from Xlib import display as xdisplay
    from Xlib import error

    opened = xdisplay.Display(name)
    opened.display.error_classes.update(error.xerror_class)
    opened.display.error_classes.pop(0, None)
    return opened


@contextlib.contextmanager
def own_authority(display: str) -> Iterator[None]:
    """Let python-xlib find the user's own cookie of ``display`` also where its entry is for every host (Xau(3))."""
    from Xlib.error import XauthError
    from Xlib.xauth import Xauthority

    number = re.fullmatch(r"(?:unix)?:([0-9]{1,5})(?:\.[0-9]+)?", display)
    entries: list[tuple[int, bytes, bytes, bytes, bytes]] = []
    with contextlib.suppress(XauthError):
        entries = list(Xauthority()) if number else []
    wanted = number[1].encode() if number else b""
    fitting = [entry for entry in entries if entry[2] in (wanted, b"") and entry[3] == b"MIT-MAGIC-COOKIE-1"]
    exact = any(entry[:2] == (FAMILY_LOCAL, socket.gethostname().encode()) for entry in fitting)
    wild = next((entry[4] for entry in fitting if entry[0] == FAMILY_WILD), None)
    with authority(int(wanted), wild) if wild is not None and not exact else contextlib.nullcontext():
        yield


def open_desktop(display: str) -> Any:
    """Return the user's own ``display``, opened.  Raises HostLacks where it does not answer."""
    from Xlib.error import DisplayError, XauthError

    try:
        with own_authority(display):
            return open_display(display)
    except (DisplayError, XauthError, OSError) as error:
        raise HostLacks(f"the X display {display} does not answer: {error}", "xdpyinfo") from None


def size_of(display: str) -> tuple[int, int]:
    """Return width and height of the user's own ``display`` in pixels.  Raises HostLacks where it does not answer."""
    opened = open_desktop(display)
    screen = opened.screen()
    opened.close()
    return int(screen.width_in_pixels), int(screen.height_in_pixels)


@contextlib.contextmanager
def authority(number: int, cookie: bytes) -> Iterator[None]:
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


# --- in the parent ------------------------------------------------------------------------------


class Watcher:
    """A child that looks at a VM's display; its words are matched, and it is killed when it does not answer."""

    def __init__(self, name: str, number: int, cookie: bytes, pid: int | None) -> None:
        """Open display ``number`` of the VM ``name``, whose QEMU is ``pid`` (None: not known).

        Raises DisplayGone or TimedOut where that fails.
        """
        self._name, self._number = name, number
        # The child inherits the name of the file, so it is removed when it has said that it is in.
        with authority(number, cookie):
            self._child = door.Child(lambda end: _look(end, number, pid), memory=_CHILD_MEMORY)
            try:
                if self._ask(b"", _ANSWER_SECONDS) != b"open":
                    raise DisplayGone(f"{name}: its display :{number} does not answer")
            except BaseException:
                self._child.end()
                raise

    def _ask(self, question: bytes, timeout: float) -> bytes:
        if question:
            self._child.tell(question)
        answer = self._child.ask(timeout)
        if answer is None:
            hint = f"okubsd stop -f {self._name}"
            raise TimedOut(f"{self._name}: its display did not answer within {timeout:.0f} seconds", hint)
        if answer == b"":
            raise DisplayGone(f"{self._name}: its display :{self._number} was closed")
        return answer

    def count(self) -> int:
        """Return how many windows of apps there are."""
        answer = self._ask(b"count", _ANSWER_SECONDS)
        return int(answer) if re.fullmatch(rb"[0-9]{1,6}", answer) else 0

    def wait(self, word: bytes, timeout: float, still: Callable[[], None]) -> bool:
        """Wait until a new window is ``word``, "mapped" or "painted"; return whether it was within ``timeout`` seconds.

        ``still`` is called between looks and may raise to end the wait.
        """
        end = time.monotonic() + timeout
        self._child.tell(word)
        while time.monotonic() < end:
            answer = self._child.ask(min(0.2, max(0.01, end - time.monotonic())))
            if answer == b"":
                still()
                raise DisplayGone(f"{self._name}: its display :{self._number} was closed")
            if answer == word:
                return True
            still()
        return False

    def picture(self) -> bytes:
        """Return what the display shows, as PNG.  Raises TimedOut or DisplayGone."""
        answer = self._ask(b"picture", _ANSWER_SECONDS)
        size = int(answer) if re.fullmatch(rb"[0-9]{1,9}", answer) else 0
        data = self._child.read_rest(size, _ANSWER_SECONDS) if 0 < size <= _LARGEST_PICTURE else None
        if data is None:
            raise DisplayGone(f"{self._name}: its display :{self._number} gave no picture")
        return data

    def titles(self) -> list[str]:
        """Return what the windows of apps are called, as far as one may read it."""
        answer = self._ask(b"titles", _ANSWER_SECONDS)
        size = int(answer) if re.fullmatch(rb"[0-9]{1,6}", answer) else 0
        data = self._child.read_rest(size, _ANSWER_SECONDS) if 0 < size <= _LONGEST_TITLES else b""
        return [plain(line) for line in (data or b"").decode(errors="replace").split("\n") if plain(line)]

    def end(self) -> None:
        """End the child."""
        self._child.end()


@contextlib.contextmanager
def watching(name: str, number: int, cookie: bytes, pid: int | None = None) -> Iterator[Watcher]:
    """Have display ``number`` of the VM ``name`` watched for the block, see Watcher."""
    preload()
    watcher = Watcher(name, number, cookie, pid)
    try:
        yield watcher
    finally:
        watcher.end()


def take_picture(name: str, number: int, cookie: bytes) -> bytes:
    """Return what display ``number`` of the VM ``name`` shows, as PNG.  Raises TimedOut or DisplayGone."""
    with watching(name, number, cookie) as watcher:
        return watcher.picture()


def titles(name: str, number: int, cookie: bytes) -> list[str]:
    """Return what the windows on display ``number`` of the VM ``name`` are called.  Raises as take_picture()."""
    with watching(name, number, cookie) as watcher:
        return watcher.titles()


# --- in the child -------------------------------------------------------------------------------


def _look(end: socket.socket, number: int, pid: int | None) -> None:
    """Answer to the parent's words until it goes; whatever happens here is told by our end."""
    opened = open_display(f":{number}")
    known = app_windows(opened)
    end.sendall(b"open\n")
    stream = end.makefile("rb")
    while word := stream.readline(64).strip():
        if word == b"count":
            end.sendall(b"%d\n" % len(app_windows(opened)))
        elif word == b"mapped":
            _wait_for_window(opened, known)
            end.sendall(b"mapped\n")
        elif word == b"painted":
            from okubsd.host.painting import wait_for_paint

            wait_for_paint(opened, lambda: app_windows(opened) - known, pid)
            end.sendall(b"painted\n")
        elif word == b"titles":
            said = "\n".join(_titles(opened)).encode()[:_LONGEST_TITLES]
            end.sendall(b"%d\n" % len(said) + said)
        elif word == b"picture":
            data = _picture(opened)
            end.sendall(b"%d\n" % len(data))
            end.sendall(data)


def app_windows(opened: Any) -> set[int]:
    """Return the ids of the mapped top-level windows of apps (ICCCM: they have a WM_CLASS)."""
    found: set[int] = set()
    _collect(opened.screen().root, found, depth=3)
    return found


def _titles(opened: Any) -> list[str]:
    from Xlib import X, error

    found = []
    for window in app_windows(opened):
        with contextlib.suppress(error.BadWindow):
            named = opened.create_resource_object("window", window)
            title = named.get_property(opened.intern_atom("_NET_WM_NAME"), X.AnyPropertyType, 0, 64)
            title = title or named.get_property(opened.intern_atom("WM_NAME"), X.AnyPropertyType, 0, 64)
            if title is not None and title.format == 8:
                found.append(bytes(title.value).decode(errors="replace"))
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


def _wait_for_window(opened: Any, known: set[int]) -> None:
    """Wait until an app's window is mapped that is not among ``known``.

    The server tells when something changes; it is not asked again and again, which would keep it from the app.
    """
    from Xlib import X

    opened.screen().root.change_attributes(event_mask=X.SubstructureNotifyMask)
    while not app_windows(opened) - known:
        _wait_for_change(opened)


def _wait_for_change(opened: Any) -> None:
    """Wait until something changes on the display, or a moment, for what changes unseen; forget what was told."""
    if not opened.pending_events():
        select.select([opened.fileno()], [], [], _UNSEEN_SECONDS)
    while opened.pending_events():
        opened.next_event()


def _picture(opened: Any) -> bytes:
    from Xlib import X

    root = opened.screen().root
    size = root.get_geometry()
    image = root.get_image(0, 0, size.width, size.height, X.ZPixmap, 0xFFFFFFFF)
    return render_png(size.width, size.height, image.data)
