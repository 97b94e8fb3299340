"""Ask the glass of a VM for its windows on the desktop: what there is, to raise one, to close one."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import msgspec

from okubsd import layout

# What the glass may take for an answer, in seconds, and how long that may be, in bytes.
_SECONDS, _LONGEST = 3.0, 1 << 20


class Question(msgspec.Struct, frozen=True):
    """What is asked: "windows", or to "raise" or "close" the ``window``, or to "say" ``words``."""

    do: str
    window: int = 0
    words: str = ""


class WindowRow(msgspec.Struct, frozen=True):
    """One window as `okubsd windows` shows it; its place and size are those of the guest's pixels on the desktop."""

    window: int
    app: str
    title: str
    x: int
    y: int
    width: int
    height: int
    painted: bool
    focused: bool


def windows_of(run: Path) -> tuple[WindowRow, ...]:
    """Return the windows that are shown of the VM with the run directory ``run``, () where nobody shows any."""
    try:
        return msgspec.json.decode(_ask(run, Question("windows")), type=tuple[WindowRow, ...])
    except (OSError, msgspec.DecodeError):
        return ()


def do(run: Path, what: str, window: int) -> bool:
    """Raise or close a window; return whether there is such a one."""
    try:
        return msgspec.json.decode(_ask(run, Question(what, window)), type=bool)
    except (OSError, msgspec.DecodeError):
        return False


def say(run: Path, words: str) -> None:
    """Have the glass show how far a start is, where there is one."""
    if (run / layout.GLASS).exists():
        with contextlib.suppress(OSError):
            _ask(run, Question("say", words=words))


def is_ready(run: Path) -> bool:
    """Return whether somebody shows windows of the VM, and is ready for the first."""
    try:
        return msgspec.json.decode(_ask(run, Question("ready")), type=bool)
    except (OSError, msgspec.DecodeError):
        return False


def _ask(run: Path, question: Question) -> bytes:
    """Return the line that the glass answers.  Raises OSError where nobody does in time."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_SECONDS)
        connection.connect(str(run / layout.GLASS))
        connection.sendall(msgspec.json.encode(question) + b"\n")
        return connection.makefile("rb").readline(_LONGEST)


def best_of(windows: tuple[WindowRow, ...], app: str) -> WindowRow | None:
    """Return the window that is most likely that of ``app``: by the name of its program, or else the latest."""
    named = [row for row in windows if app.replace("-", "") in row.app.lower() or row.app.lower() in app]
    return (named or list(windows))[-1] if windows else None
