"""Take what a display's clipboard holds, and offer it something, as one of its clients (ICCCM, section 2).

The display may be a guest's, whose programs answer with what they like, without end, or not at all.  So a child asks,
which is bounded in time and memory; the parent gets a kind and bytes, and believes neither.
"""

from __future__ import annotations

import contextlib
import re
import select
import socket
import time
from typing import Any

from okubsd.config.sizes import render_size
from okubsd.display.clip import LARGEST, PNG, TEXT, Clip
from okubsd.errors import Problem, TimedOut
from okubsd.host import door
from okubsd.host.window import authority, open_display, own_authority, preload

# How long a clipboard may take to hand over what it holds, in seconds: to say nothing, and altogether.  The child has a
# little less than its parent.
_QUIET_SECONDS, _TAKE_SECONDS = 4.0, 15.0
_GRACE = 2.0

# What the child may hold beside what is taken or offered, in bytes.
_MEMORY = 256 << 20

# One piece of a transfer by INCR, and what is sent in one piece; a server takes 256 kB at least (X protocol, setup).
_PIECE = 128 << 10

# How much of a list of targets is looked at, in units of four bytes.
_TARGETS = 256


class Display:
    """A display to speak to: its ``name`` as in DISPLAY, ``cookie`` None where the user's own authority is meant."""

    def __init__(self, of: str, name: str, cookie: bytes | None) -> None:
        self.of, self.name, self.cookie = of, name, cookie

    def authority(self) -> contextlib.AbstractContextManager[None]:
        """Let python-xlib find the cookie for as long as a child is begun."""
        if self.cookie is None:
            return own_authority(self.name)
        return authority(int(self.name.lstrip(":")), self.cookie)


def take(display: Display, limit: int = LARGEST) -> tuple[str, bytes]:
    """Return the kind and the bytes of what the clipboard of ``display`` holds, at most ``limit`` bytes.

    Raises Problem where it holds nothing that may cross, or too much, TimedOut where nobody answers.
    """
    preload()
    with display.authority():
        child = door.Child(lambda end: _take(end, display.name, limit), memory=_MEMORY + 4 * limit)
        try:
            said = child.ask(_TAKE_SECONDS + _GRACE)
            if said is None or said == b"late":
                raise TimedOut(f"{display.of}: nobody hands over what is in its clipboard", "copy it there once more")
            match = re.fullmatch(rb"(text|png) ([0-9]{1,9})", said)
            if match is None:
                raise Problem(f"{display.of}: {_reason(said, limit)}")
            data = child.read_rest(int(match[2]), _GRACE) if int(match[2]) <= limit else None
        finally:
            child.end()
    if data is None:
        raise Problem(f"{display.of}: {_reason(b'large', limit)}")
    return match[1].decode(), data


_REASONS = {
    b"none": "its clipboard is empty",
    b"text": "its clipboard is empty",
    b"png": "its clipboard is empty",
    b"other": "its clipboard holds neither text nor a PNG",
}


def _reason(said: bytes, limit: int) -> str:
    if said == b"large":
        return f"its clipboard holds more than {render_size(limit)}"
    return _REASONS.get(said, "its display does not answer")


class Offer:
    """A clip that is offered to a display until somebody took it, or its time is over."""

    def __init__(self, display: Display, clip: Clip, seconds: float) -> None:
        """Become the owner of the clipboard of ``display`` for ``seconds``.  Raises Problem where that fails."""
        preload()
        self._seconds = seconds
        with display.authority():
            memory = _MEMORY + len(clip.data)
            self._child = door.Child(lambda end: _offer(end, display.name, clip, seconds), memory=memory)
            try:
                if self._child.ask(_TAKE_SECONDS + _GRACE) != b"offered":
                    raise Problem(f"{display.of}: its display does not let the clipboard be set")
            except BaseException:
                self._child.end()
                raise

    def wait(self) -> str:
        """Return what became of it: "taken", "partly", "replaced" by something that was copied there, or "over"."""
        try:
            said = self._child.ask(self._seconds + _GRACE)
        finally:
            self._child.end()
        return said.decode() if said in (b"taken", b"partly", b"replaced") else "over"


# --- in the child -------------------------------------------------------------------------------


class _Client:
    """A client of a display with a window of one pixel that nobody sees, and one deadline for everything.

    ``quiet`` is how many seconds nothing may happen.
    """

    def __init__(self, name: str, seconds: float, quiet: float, limit: int = LARGEST) -> None:
        from Xlib import X

        self.end, self.quiet, self.limit = time.monotonic() + seconds, quiet, limit
        self.opened = open_display(name)
        # A window of a guest's may be gone at any moment.
        self.failed = False
        self.opened.set_error_handler(self._fail)
        screen = self.opened.screen()
        mask = X.PropertyChangeMask
        self.window = screen.root.create_window(0, 0, 1, 1, 0, screen.root_depth, event_mask=mask)

    def _fail(self, *_: Any) -> None:
        self.failed = True

    def atom(self, name: str) -> int:
        return int(self.opened.intern_atom(name))

    def event(self) -> Any:
        """Return the next event, None when the time is over."""
        while not self.opened.pending_events():
            left = min(self.quiet, self.end - time.monotonic())
            if left <= 0 or not select.select([self.opened.fileno()], [], [], left)[0]:
                return None
        return self.opened.next_event()

    def server_time(self) -> int | None:
        """Return the time of the server, as it stamps a property that changes by nothing."""
        from Xlib import X

        self.window.change_property(self.atom("OKUBSD_TIME"), self.atom("INTEGER"), 32, [], X.PropModeAppend)
        while (event := self.event()) is not None:
            if event.type == X.PropertyNotify:
                return int(event.time)
        return None


class _Late(Exception):
    """The time was over before an answer was there."""


class _Large(Exception):
    """There is more than may cross."""


def _take(end: socket.socket, name: str, limit: int) -> None:
    client = _Client(name, _TAKE_SECONDS, _QUIET_SECONDS, limit)
    try:
        kind, data = _taken(client)
    except _Late:
        end.sendall(b"late\n")
        return
    except _Large:
        end.sendall(b"large\n")
        return
    end.sendall(b"%s %d\n" % (kind.encode(), len(data)) + data if data else kind.encode() + b"\n")


def _taken(client: _Client) -> tuple[str, bytes]:
    """Return the kind and the bytes of the clipboard, or the reason why there is none and nothing."""
    from Xlib import X

    if client.opened.get_selection_owner(client.atom("CLIPBOARD")) == X.NONE:
        return "none", b""
    targets = _targets(client)
    for target, kind in (("UTF8_STRING", TEXT), ("image/png", PNG), ("STRING", TEXT)):
        if client.atom(target) in targets:
            data = _converted(client, target)
            return kind, data.decode("latin-1").encode() if target == "STRING" else data
    return "other", b""


def _targets(client: _Client) -> set[int]:
    """Return the atoms of what the owner says it can give; only the first thousand bytes are looked at."""
    answer = _answer(client, "TARGETS", _TARGETS)
    return set(answer.value) if answer is not None and answer.format == 32 else set()


def _answer(client: _Client, target: str, most: int) -> Any:
    """Return the property that the owner answers with, None where it refuses.  Raises _Late."""
    from Xlib import X

    place = client.atom("OKUBSD_CLIP")
    client.window.convert_selection(client.atom("CLIPBOARD"), client.atom(target), place, X.CurrentTime)
    while (event := client.event()) is not None:
        if event.type == X.SelectionNotify and event.target == client.atom(target):
            if event.property == X.NONE:
                return None
            return client.window.get_property(place, X.AnyPropertyType, 0, most, delete=True)
    raise _Late


def _converted(client: _Client, target: str) -> bytes:
    """Return what the owner gives as ``target``, b"" where it does not.  Raises _Late or _Large."""
    answer = _answer(client, target, client.limit // 4 + 1)
    if answer is None:
        return b""
    if answer.property_type == client.atom("INCR"):
        return _by_pieces(client)
    if answer.bytes_after or len(answer.value) > client.limit:
        raise _Large
    return bytes(answer.value) if answer.format == 8 else b""


def _by_pieces(client: _Client) -> bytes:
    from Xlib import X

    place, found = client.atom("OKUBSD_CLIP"), bytearray()
    while (event := client.event()) is not None:
        if event.type != X.PropertyNotify or event.atom != place or event.state != X.PropertyNewValue:
            continue
        answer = client.window.get_property(place, X.AnyPropertyType, 0, client.limit // 4 + 1, delete=True)
        if answer is None or answer.format != 8 or not answer.value:
            return bytes(found)
        found += answer.value
        if answer.bytes_after or len(found) > client.limit:
            raise _Large
    raise _Late


def _offer(end: socket.socket, name: str, clip: Clip, seconds: float) -> None:
    from Xlib import X

    client = _Client(name, seconds + _GRACE, seconds + _GRACE)
    moment, selection = client.server_time(), client.atom("CLIPBOARD")
    if moment is None:
        return
    client.window.set_selection_owner(selection, moment)
    if client.opened.get_selection_owner(selection) != client.window:
        return
    client.end = time.monotonic() + seconds
    end.sendall(b"offered\n")
    while (event := client.event()) is not None:
        if event.type == X.SelectionClear:
            end.sendall(b"replaced\n")
            return
        if event.type != X.SelectionRequest:
            continue
        client.failed = False
        outcome = _handed(client, event, clip, moment)
        # The server drops what it has not read when a client goes that has not read everything: wait for it.
        client.opened.sync()
        # Whoever asks for a window that is not there gets nothing.
        if outcome and not client.failed:
            end.sendall(outcome)
            return


def _handed(client: _Client, event: Any, clip: Clip, moment: int) -> bytes:
    """Answer one who asks for the clipboard; return whether all of the clip was sent, or a part, b"" for nothing."""
    target = "UTF8_STRING" if clip.kind == TEXT else "image/png"
    place = event.property or event.target
    kinds = {client.atom(name): name for name in ("TARGETS", "TIMESTAMP", target)}
    asked = kinds.get(event.target)
    if asked == "TARGETS":
        event.requestor.change_property(place, client.atom("ATOM"), 32, list(kinds))
    elif asked == "TIMESTAMP":
        event.requestor.change_property(place, client.atom("INTEGER"), 32, [moment])
    elif asked == target and len(clip.data) <= _PIECE:
        event.requestor.change_property(place, event.target, 8, clip.data)
    elif asked == target:
        _notify(client, event, place, begun=len(clip.data))
        return _sent_by_pieces(client, event, place, clip.data)
    _notify(client, event, place if asked else 0)
    return b"taken\n" if asked == target else b""


def _notify(client: _Client, event: Any, place: int, begun: int = 0) -> None:
    """Tell who asked where the answer is, 0 for a refusal; ``begun`` is how many bytes come by pieces."""
    from Xlib import X
    from Xlib.protocol import event as events

    if begun:
        event.requestor.change_attributes(event_mask=X.PropertyChangeMask)
        event.requestor.change_property(place, client.atom("INCR"), 32, [begun])
    event.requestor.send_event(
        events.SelectionNotify(
            time=event.time,
            requestor=event.requestor,
            selection=event.selection,
            target=event.target,
            property=place,
        )
    )
    client.opened.flush()


def _sent_by_pieces(client: _Client, asked: Any, place: int, data: bytes) -> bytes:
    """Send ``data`` by pieces, each when the one before was taken; return how much was sent, as _handed()."""
    from Xlib import X

    pieces = [data[at : at + _PIECE] for at in range(0, len(data), _PIECE)] + [b""]
    while pieces and (event := client.event()) is not None:
        of_this = event.type == X.PropertyNotify and event.window == asked.requestor and event.atom == place
        if of_this and event.state == X.PropertyDelete:
            asked.requestor.change_property(place, asked.target, 8, pieces.pop(0))
            client.opened.flush()
    # The last piece is empty: it only says that there are no more.
    sent = len(data) // _PIECE + (len(data) % _PIECE > 0) - max(0, len(pieces) - 1)
    return b"" if not sent else b"taken\n" if len(pieces) <= 1 else b"partly\n"
