"""A program beside each QEMU that notices what only the host can: a drive without room, and new addresses.

    keeper.py RUN HOME [WORD ... --] [WORD ...]

It listens to QEMU's events at RUN/events and ends with QEMU.  While QEMU stands still because the file system of HOME
is full, RUN/stall says so; when there is room again the guest goes on.  When the host has slept, the first command is
called, which sets the guest's clock, and when an address of the host changes, the second.  And it keeps the log of the
console, HOME/console.log, from filling the disk.  It imports nothing of ours, so that it stays small; whatever becomes
of it, the VM goes on.

Source: qemu-qmp-ref(7), BLOCK_IO_ERROR, STOP, RESUME; rtnetlink(7), RTMGRP_IPV4_IFADDR; clock_gettime(2).
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import time
from typing import Any

# Less than this, in bytes, and the next write may find the file system full again.
ROOM = 64 << 20

NO_ROOM = f"no room on the host for its home; it goes on when {ROOM >> 20} MB are free"
_OTHER_ERROR = "its home cannot be written on the host"
_PAUSED = "paused"

_LONGEST_WORDS = 100
_LARGEST_LINE = 1 << 20

# What a guest prints goes to console.log beside its home, which may not fill the disk.
_LARGEST_LOG, _LOG_SECONDS = 64 << 20, 20
# A clock that is behind by less is no other day.
_SLEPT_SECONDS = 2.0
_BEGINS_ANEW = b"okubsd: the log was longer than 64 MB, and begins anew\n"
_RTMGRP_IPV4_IFADDR = 0x10


class Keeper:
    """What is known of one QEMU."""

    def __init__(self, run: str, home: str, on_wake: list[str], on_address: list[str]) -> None:
        self.stall = os.path.join(run, "stall")  # noqa: PTH118  # pathlib is not worth its import here
        self.home = home
        self.on_wake, self.on_address = on_wake, on_address
        self.slept = asleep()
        self.qmp = _connect(os.path.join(run, "events"))  # noqa: PTH118
        self.pending = b""
        self.stalled = False
        self._free_to_write()

    def send(self, command: str) -> None:
        self.qmp.sendall(json.dumps({"execute": command}).encode() + b"\r\n")

    def take(self, data: bytes) -> None:
        """Take what QEMU says next."""
        *lines, self.pending = (self.pending + data).split(b"\n")
        for line in lines:
            with contextlib.suppress(ValueError, RecursionError):
                self._heard(json.loads(line))

    def _heard(self, message: Any) -> None:
        if not isinstance(message, dict):
            return
        answer = message.get("return")
        if message.get("event") in ("STOP", "RESUME", "BLOCK_IO_ERROR"):
            self.send("query-status")
        elif isinstance(answer, dict) and "running" in answer:
            self._set(str(answer.get("status")))

    def _set(self, status: str) -> None:
        self.stalled = status == "io-error"
        if status in ("io-error", "paused"):
            full = free(self.home) < ROOM
            self._write((NO_ROOM if full else _OTHER_ERROR) if self.stalled else _PAUSED)
        else:
            with contextlib.suppress(OSError):
                os.replace(self.stall, f"{self.stall}.new")  # noqa: PTH105

    def _free_to_write(self) -> None:
        """Take the room for what is to be said when the very file system that it is said on is full."""
        with contextlib.suppress(OSError), open(f"{self.stall}.new", "w") as stream:  # noqa: PTH123
            stream.write(" " * _LONGEST_WORDS)

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            if not os.path.exists(f"{self.stall}.new"):  # noqa: PTH110
                self._free_to_write()
            with open(f"{self.stall}.new", "r+") as stream:  # noqa: PTH123
                stream.write(text.ljust(_LONGEST_WORDS))
            os.replace(f"{self.stall}.new", self.stall)  # noqa: PTH105

    def wake(self) -> None:
        """Have the guest's clock set where the host has slept since the last look."""
        before, self.slept = self.slept, asleep()
        if self.slept > before + _SLEPT_SECONDS and self.on_wake:
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                subprocess.run(self.on_wake, stdin=subprocess.DEVNULL, timeout=60, check=False)

    def go_on(self) -> None:
        """Let the guest go on if there is room now."""
        if self.stalled and free(self.home) >= ROOM:
            self.send("cont")


def asleep() -> float:
    """Return how many seconds this host has slept since it booted, 0 where it does not tell."""
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return 0.0
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


def free(path: str) -> int:
    """Return how many bytes a user may still write to the file system of ``path``."""
    try:
        found = os.statvfs(path)
    except OSError:
        return 0
    return found.f_bavail * found.f_frsize


def bound_log(home: str) -> None:
    """Begin the log of the console anew where it has grown too long; QEMU appends to it."""
    with contextlib.suppress(OSError):
        path = os.path.join(home, "console.log")  # noqa: PTH118
        if os.stat(path).st_size > _LARGEST_LOG:  # noqa: PTH116
            with open(path, "r+b") as stream:  # noqa: PTH123
                stream.truncate(0)
                stream.write(_BEGINS_ANEW)


def _connect(path: str) -> socket.socket:
    """Return a connection to QEMU's events, once it listens."""
    end = time.monotonic() + 20
    while True:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            made.connect(path)
            made.sendall(b'{"execute": "qmp_capabilities"}\r\n{"execute": "query-status"}\r\n')
            return made
        except OSError:
            made.close()
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def _listen_for_addresses() -> socket.socket | None:
    """Return a socket that tells of changed addresses, or None where the system has none."""
    try:
        made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
        made.bind((0, _RTMGRP_IPV4_IFADDR))
    except (AttributeError, OSError):
        return None
    return made


def main(run: str, home: str, *words: str) -> None:
    """Keep watch until QEMU ends."""
    parted = words.index("--") if "--" in words else 0
    keeper = Keeper(run, home, list(words[:parted]), list(words[parted + 1 :] if "--" in words else words))
    addresses = _listen_for_addresses() if keeper.on_address else None
    watched = [keeper.qmp, *([addresses] if addresses is not None else [])]
    while True:
        ready, _, _ = select.select(watched, [], [], 2 if keeper.stalled else _LOG_SECONDS)
        bound_log(home)
        keeper.wake()
        if keeper.qmp in ready:
            data = keeper.qmp.recv(65536)
            if not data or len(keeper.pending) > _LARGEST_LINE:
                return
            keeper.take(data)
        if addresses is not None and addresses in ready:
            _drain(addresses)
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                subprocess.run(keeper.on_address, stdin=subprocess.DEVNULL, timeout=60, check=False)
        keeper.go_on()


def _drain(addresses: socket.socket) -> None:
    """Wait until no more addresses change for a moment: one change rarely comes alone."""
    with contextlib.suppress(OSError):
        while select.select([addresses], [], [], 1)[0]:
            addresses.recv(65536)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt, OSError, subprocess.SubprocessError):
        main(*sys.argv[1:])
