"""A player in a process of its own: bounded in time and memory, killed at the end.

python-xlib cannot hold two servers in one process; and whoever speaks to a guest's display is not to hang us.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from okubsd.host import door
from okubsd.host.window import open_desktop

_MEMORY = 512 << 20
_SECONDS = 10.0
# Who did not answer so often is not waited for any more, but for a moment.
_MOST_MISSED, _MOMENT = 3, 0.2
# What it does just now ends within so many seconds: a key that it holds is let go of.
_LEAVE_SECONDS = 2.0
# Opening a display through a guest takes longer than anything that is asked of it.
_OPEN_SECONDS = 30.0


class Actor:
    """One player; what it does not answer in time is None."""

    def __init__(self, opens: Callable[[], Any]) -> None:
        """Open a display in a child.  Raises ConnectionError where that fails."""
        self._child = door.Child(lambda end: _play(end, opens), memory=_MEMORY)
        if self._child.ask(_OPEN_SECONDS) != b"open":
            self._child.end()
            raise ConnectionError
        self._number = self._missed = 0

    def do(self, deed: str, *words: Any, seconds: float = _SECONDS) -> Any:
        """Have something done (player.Player) and return what came of it; None where no answer came."""
        self.begin(deed, *words)
        return self.answer(seconds)

    def begin(self, deed: str, *words: Any) -> None:
        """Have something begun, whose answer() comes later."""
        self._number += 1
        self._child.tell(json.dumps([self._number, deed, *words]).encode())

    def answer(self, seconds: float = _SECONDS) -> Any:
        """Return what came of what was begun last; None where no answer came in time."""
        end = time.monotonic() + (seconds if self._missed < _MOST_MISSED else _MOMENT)
        while answer := self._child.ask(max(0.0, end - time.monotonic())):
            with contextlib.suppress(ValueError):
                number, value = json.loads(answer)
                # An answer that was not waited for any more is none to this.
                if number == self._number:
                    self._missed = 0
                    return value
        self._missed += 1
        return None

    def leave(self) -> None:
        """Have it let go of all that it holds, and end it."""
        self.do("leave", seconds=_LEAVE_SECONDS)
        self.end()

    def end(self) -> None:
        """End it, and with it all that it has on its display."""
        self._child.end()


def _play(end: socket.socket, opens: Callable[[], Any]) -> None:
    from okubsd.host.selftest.player import Player

    player = Player(opens())
    _let_go_at_the_end(player)
    end.sendall(b"open\n")
    buffer = b""
    while True:
        player.pump()
        player.display.flush()
        queued = bool(player.display.display.event_queue)
        ready, _, _ = select.select([end, player.display.fileno()], [], [], 0 if queued else None)
        if end not in ready:
            continue
        chunk = end.recv(65536)
        if not chunk:
            player.leave()
            return
        *lines, buffer = (buffer + chunk).split(b"\n")
        for line in lines:
            number, deed, *words = json.loads(line)
            end.sendall(json.dumps([number, getattr(player, deed)(*words)]).encode() + b"\n")


def _let_go_at_the_end(player: Any) -> None:
    """Let go of every key also where whoever has begun us is killed, or the user interrupts it."""

    def leave(*_: object) -> None:
        player.leave()
        os._exit(0)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, leave)
    door.end_with_parent(signal.SIGTERM)


def on_desktop(name: str) -> Callable[[], Any]:
    """Return what opens the user's own display."""
    return lambda: open_desktop(name)


def through(path: Path, cookie: bytes) -> Callable[[], Any]:
    """Return what opens the display that the socket at ``path`` leads to, with its ``cookie``."""

    def opens() -> Any:
        from Xlib import display as xdisplay
        from Xlib import error
        from Xlib.support import connect

        # python-xlib finds sockets and cookies by the display's name only, and this one has none.
        connect.get_socket = lambda *_: _connected(path)
        connect.get_auth = lambda *_: (b"MIT-MAGIC-COOKIE-1", cookie)
        opened = xdisplay.Display(":0")
        opened.display.error_classes.update(error.xerror_class)
        opened.display.error_classes.pop(0, None)
        return opened

    return opens


def _connected(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.settimeout(_OPEN_SECONDS)
    made.connect(os.fspath(path))
    made.settimeout(None)
    return made
