"""The painter's other ear: a socket on which `okubsd windows`, `raise` and `close` ask, and programs that it began."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from okubsd.decode import read_json
from okubsd.display.frame import plain
from okubsd.host import door
from okubsd.host.glass import marking
from okubsd.host.windows import Question, WindowRow

if TYPE_CHECKING:
    from okubsd.host.glass.painter import Painter

# A question is one line of JSON, at most so long; who asks has so many seconds to do so.
_LONGEST, _SECONDS = 4096, 0.5


class Control:
    """The socket at ``path``, and the programs that were begun: one of each kind at a time."""

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(8)
        self._listener.settimeout(_SECONDS)
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._next: dict[str, tuple[str, ...]] = {}
        # Who gives the VM a microphone, each for as long as he stays.
        self._hearing: list[socket.socket] = []

    def waiting(self) -> list[Any]:
        """Return what to wait for: those who ask, and the words of the programs that were begun."""
        return [self._listener, *self._hearing, *(child.stdout for child in self._children.values())]

    def run(self, kind: str, argv: tuple[str, ...]) -> None:
        """Begin a program whose last line is shown; where one of its kind runs, the last that is asked for is next."""
        if kind in self._children:
            self._next[kind] = argv
        elif argv:
            self._children[kind] = door.begin(argv)

    def turn(self, painter: Painter, ready: list[Any]) -> None:
        """Answer who asks, and show what a program said."""
        if self._listener in ready:
            with contextlib.suppress(OSError, ValueError):
                self._answer(painter)
        for hearing in [one for one in self._hearing if one in ready]:
            self._hearing.remove(hearing)
            hearing.close()
            marking.mark_hearing(painter, on=bool(self._hearing))
        for kind, child in [*self._children.items()]:
            if child.stdout is None or child.stdout not in ready:
                continue
            said = os.read(child.stdout.fileno(), 4096)
            if said:
                painter.notice(plain(said.decode(errors="replace").strip().rpartition("\n")[2], 200))
                continue
            child.wait()
            del self._children[kind]
            self.run(kind, self._next.pop(kind, ()))

    def _answer(self, painter: Painter) -> None:
        asking, _ = self._listener.accept()
        with contextlib.ExitStack() as stack:
            stack.enter_context(asking)
            asking.settimeout(_SECONDS)
            # A question comes in one piece, or its asker is not waited for.
            question = read_json(asking.recv(_LONGEST), Question)
            if question.do == "microphone":
                marking.mark_hearing(painter, on=True)
                asking.sendall(b"true\n")
                self._hearing.append(asking)
                stack.pop_all()
                return
            asking.sendall(msgspec.json.encode(answer(painter, question)) + b"\n")


def answer(painter: Painter, question: Question) -> Any:
    """Do what is asked, and return what is to be said to it."""
    if question.do == "windows":
        return [row(pane) for pane in painter.panes.values() if not pane.menu]
    if question.do == "ready":
        return painter.ready
    pane = painter.panes.get(question.window)
    if question.do in ("raise", "close") and pane is not None and not pane.menu:
        (painter.bring_up if question.do == "raise" else painter.ask_to_close)(pane)
        return True
    if question.do in ("say", "whisper"):
        words = plain(question.words, 200)
        painter.say(words) if question.do == "say" else marking.whisper(painter, words)
        return True
    return False


def row(pane: Any) -> WindowRow:
    """Return what is told of a window."""
    return WindowRow(
        pane.number, pane.app, pane.title, pane.x, pane.y, pane.width, pane.height, pane.painted, pane.focused
    )
