"""Attach a terminal to the unix socket of a guest's serial console."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import termios
import tty
from collections.abc import Iterator
from pathlib import Path

from okubsd.errors import Problem

# As cu(1) and ssh(1) have it: '~.' at the start of a line.
_ESCAPE, _LEAVE = b"~", b"."


@contextlib.contextmanager
def _raw(terminal: int) -> Iterator[None]:
    """Set ``terminal`` raw, so that every key goes to the guest; leave a pipe as it is."""
    if not os.isatty(terminal):
        yield
        return
    before = termios.tcgetattr(terminal)
    tty.setraw(terminal)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


class EscapeFilter:
    """Pass on what is typed, until '~.' at the start of a line."""

    def __init__(self) -> None:
        self._at_start = True
        self._pending = False
        self.left = False

    def feed(self, typed: bytes) -> bytes:
        """Return what of ``typed`` goes to the guest; ``left`` is set once the user leaves."""
        out = bytearray()
        for byte in (bytes([value]) for value in typed):
            if self._pending:
                self._pending = False
                if byte == _LEAVE:
                    self.left = True
                    break
                out += byte if byte == _ESCAPE else _ESCAPE + byte
            elif self._at_start and byte == _ESCAPE:
                self._pending = True
                continue
            else:
                out += byte
            self._at_start = byte in (b"\r", b"\n")
        return bytes(out)


def attach(path: Path, source: int, target: int) -> None:
    """Join ``source`` and ``target`` with the console at ``path`` until the user leaves or the VM ends.

    Raises Problem where the console cannot be opened.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as guest:
        try:
            guest.connect(str(path))
        except OSError as error:
            raise Problem(f"the console cannot be opened: {error.strerror}") from None
        with _raw(source):
            _relay(guest, source, target)


def _relay(guest: socket.socket, source: int, target: int) -> None:
    keys = EscapeFilter()
    watched: list[socket.socket | int] = [guest, source]
    while not keys.left:
        ready, _, _ = select.select(watched, [], [])
        if guest in ready:
            data = guest.recv(4096)
            if not data:
                return
            os.write(target, data)
        if source in ready:
            typed = os.read(source, 4096)
            if not typed:
                # A script's input has ended; what the guest still says comes within a moment.
                watched.remove(source)
                guest.settimeout(2)
                with contextlib.suppress(TimeoutError):
                    while data := guest.recv(4096):
                        os.write(target, data)
                return
            guest.sendall(keys.feed(typed))
