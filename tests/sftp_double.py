"""Servers that speak SFTP (draft-ietf-secsh-filexfer-02) on standard input and output, and mean it badly.

python sftp_double.py KIND
"""

from __future__ import annotations

import struct
import sys
import time
from collections.abc import Callable

INIT, VERSION, OPEN, CLOSE, READ, WRITE, LSTAT, FSTAT, SETSTAT, FSETSTAT = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
STAT, RENAME, EXTENDED = 17, 18, 200
STATUS, HANDLE, DATA, ATTRS = 101, 102, 103, 105


def packet(kind: int, body: bytes) -> None:
    sys.stdout.buffer.write(struct.pack(">IB", len(body) + 1, kind) + body)
    sys.stdout.buffer.flush()


def text(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def attributes(size: int, mode: int = 0o100644) -> bytes:
    return struct.pack(">IQIII", 0x0000000D, size, mode, 1, 1)


def status(number: bytes, code: int, words: bytes = b"") -> None:
    packet(STATUS, number + struct.pack(">I", code) + text(words) + text(b""))


def requests() -> object:
    source = sys.stdin.buffer
    while head := source.read(5):
        length, kind = struct.unpack(">IB", head)
        body = source.read(length - 1)
        yield kind, body[:4], body[4:]


class Polite:
    """Answers everything as a server with one file of four bytes would; kinds below change an answer."""

    size = 4

    def answer(self, kind: int, number: bytes, body: bytes) -> None:
        if kind in (STAT, LSTAT, FSTAT):
            packet(ATTRS, number + attributes(self.size))
        elif kind == OPEN:
            packet(HANDLE, number + text(b"h"))
        elif kind == READ:
            self.read(number, *struct.unpack(">QI", body[5:17]))
        else:
            status(number, 0)

    def read(self, number: bytes, offset: int, length: int) -> None:
        data = b"abcd"[offset : offset + length]
        packet(DATA, number + text(data)) if data else status(number, 1)


class Promises(Polite):
    """Says 70 GB."""

    size = 70 << 30


class Endless(Polite):
    """Sends more than was asked for, and more than it said."""

    def read(self, number: bytes, offset: int, length: int) -> None:
        packet(DATA, number + text(b"x" * length))


class Shorter(Polite):
    """Says more than it has."""

    size = 9


class Huge(Polite):
    """Announces an answer of 15 MB, and sends it."""

    def read(self, number: bytes, offset: int, length: int) -> None:
        packet(DATA, number + text(b"x" * (15 << 20)))


class Garbage(Polite):
    """Sends what is no answer."""

    def answer(self, kind: int, number: bytes, body: bytes) -> None:
        packet(HANDLE, number[:2])


class Silent(Polite):
    """Does not answer to reads."""

    def read(self, number: bytes, offset: int, length: int) -> None:
        time.sleep(600)


class Drips(Polite):
    """Answers a byte at a time."""

    size = 1 << 30

    def read(self, number: bytes, offset: int, length: int) -> None:
        time.sleep(0.3)
        packet(DATA, number + text(b"x"))


class Chatty(Polite):
    """Answers to questions that nobody asked, for ever."""

    def read(self, number: bytes, offset: int, length: int) -> None:
        while True:
            packet(DATA, struct.pack(">I", 0xFFFFFFFF) + text(b"x" * 1000))


class Refuses(Polite):
    """Takes everything but what is written."""

    def answer(self, kind: int, number: bytes, body: bytes) -> None:
        if kind == WRITE:
            status(number, 4, b"\x1b]0;owned\x07 Failure")
        elif kind in (STAT, LSTAT):
            status(number, 2)
        else:
            super().answer(kind, number, body)


class Forgets(Refuses):
    """Says that it wrote everything, and has nothing."""

    def answer(self, kind: int, number: bytes, body: bytes) -> None:
        if kind in (STAT, LSTAT):
            status(number, 2)
        else:
            Polite.answer(self, kind, number, body)


class Dies(Polite):
    """Ends at the first read."""

    def read(self, number: bytes, offset: int, length: int) -> None:
        sys.exit(1)


class Names(Polite):
    """Has a file that is a device."""

    def answer(self, kind: int, number: bytes, body: bytes) -> None:
        if kind in (STAT, LSTAT, FSTAT):
            packet(ATTRS, number + attributes(4, 0o020644))
        else:
            super().answer(kind, number, body)


KINDS: dict[str, Callable[[], Polite]] = {
    kind.__name__.lower(): kind
    for kind in (
        Polite,
        Promises,
        Endless,
        Shorter,
        Huge,
        Garbage,
        Silent,
        Drips,
        Chatty,
        Refuses,
        Forgets,
        Dies,
        Names,
    )
}


def main() -> None:
    server = KINDS[sys.argv[1]]()
    for kind, number, body in requests():  # type: ignore[attr-defined]
        if kind == INIT:
            packet(VERSION, struct.pack(">I", 3))
        else:
            server.answer(kind, number, body)


if __name__ == "__main__":
    main()
