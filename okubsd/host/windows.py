"""Ask the glass of a VM for its windows on the desktop: what there is, to raise one, to close one."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec

from okubsd import layout
from okubsd.decode import read_json
from okubsd.errors import Problem

# What the glass may take for an answer, in seconds, and how long that may be, in bytes.
_SECONDS, _LONGEST, _LINE = 3.0, 1 << 20, 100


class Question(msgspec.Struct, frozen=True):
    """What is asked: "windows", or to "raise" or "close" the ``window``, or to "say" or "whisper" ``words``.

    "microphone" has the labels say that the VM has one, for as long as the asker stays.
    """

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
        return read_json(_ask(run, Question("windows")), tuple[WindowRow, ...])
    except (OSError, ValueError):
        return ()


def do(run: Path, what: str, window: int) -> bool:
    """Raise or close a window; return whether there is such a one."""
    try:
        return read_json(_ask(run, Question(what, window)), bool)
    except (OSError, ValueError):
        return False


def say(run: Path, words: str) -> None:
    """Have the glass show how far a start is, where there is one."""
    if (run / layout.GLASS).exists():
        with contextlib.suppress(OSError):
            _ask(run, Question("say", words=words))


def whisper(run: Path, words: str) -> None:
    """Have the labels of a VM show what came of what its guest asked; nothing is expected because of it."""
    if (run / layout.GLASS).exists():
        with contextlib.suppress(OSError):
            _ask(run, Question("whisper", words=words))


def is_ready(run: Path) -> bool:
    """Return whether somebody shows windows of the VM, and is ready for the first."""
    try:
        return read_json(_ask(run, Question("ready")), bool)
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def marked(run: Path) -> Iterator[socket.socket]:
    """Have every label of the VM say for the block that it has the microphone; what is yielded ends with the glass.

    Raises Problem where nobody shows the VM's windows: nothing is heard in secret.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.settimeout(_SECONDS)
            connection.connect(str(run / layout.GLASS))
            connection.sendall(msgspec.json.encode(Question("microphone")) + b"\n")
            told = connection.recv(_LINE)
        except OSError:
            told = b""
        if told != b"true\n":
            raise Problem("nobody shows its windows, whose labels would say that it has the microphone")
        yield connection


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
