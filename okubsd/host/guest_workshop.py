"""A VM as the place where images are built: for hosts that have no mmdebstrap, such as OpenBSD.

The programs run in the guest, as its root; what they read is copied there, and what they made is copied back.  What of
a tree goes into a drive is decided here, as ever.  The guest sees packages and recipes, and no key.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from okubsd.errors import Problem
from okubsd.host import door
from okubsd.host.copying.files import Files, Progress, files_of
from okubsd.host.copying.inward import fetch_file
from okubsd.host.copying.outward import send
from okubsd.host.copying.trees import send_tree
from okubsd.host.guest import ROOT, Guest
from okubsd.model import Argv

# Where a build is in the guest: on the drive of its home, which has room, and where root makes devices.
_TOP = "/home/user/build"
_SECONDS = 60.0
# What a program of a build says at most, in bytes, and how long a line may be.
_LARGEST, _LONGEST = 64 << 20, 4096


class InGuest:
    """A workshop in a guest: each directory of this host that a build names has one there."""

    root = True

    def __init__(self, guest: Guest, files: Files) -> None:
        self._guest, self._files = guest, files
        self._directories: dict[str, str] = {}

    def _there(self, path: Path) -> str:
        """Return how a file of this host is called in the guest."""
        parent = str(path.parent)
        if parent not in self._directories:
            directory = f"{_TOP}/{len(self._directories)}"
            _must(self._guest, ("install", "-d", "-o", "user", directory), f"making {directory} in the guest")
            self._directories[parent] = directory
        return f"{self._directories[parent]}/{path.name}"

    def put(self, *paths: Path) -> None:
        for path in paths:
            there, step = os.fsencode(self._there(path)), Progress()
            if path.is_dir():
                send_tree(self._files, path, there.rpartition(b"/")[0], step)
            else:
                send(self._files, path, there, step)

    def get(self, *paths: Path) -> None:
        for path in paths:
            there = self._there(path)
            _must(self._guest, ("chown", "user", there), f"reading {there} in the guest")
            fetch_file(self._files, os.fsencode(there), path, Progress())

    def _translated(self, word: str) -> str:
        for here, there in sorted(self._directories.items(), key=lambda pair: -len(pair[0])):
            word = word.replace(here, there)
        return word

    def run(
        self,
        argv: Argv,
        *,
        env: Mapping[str, str] | None = None,
        stdin: Path | None = None,
        data: bytes = b"",
        on_line: Callable[[str], None] | None = None,
        mounts: bool = False,
    ) -> door.Done:
        del mounts
        words = tuple(self._translated(word) for word in argv)
        settings = tuple(f"{name}={self._translated(value)}" for name, value in (env or {}).items())
        words = ("env", *settings, *words)
        if stdin is not None:
            words = ("sh", "-c", 'exec "$@" <"$0"', self._there(stdin), *words)
        elif on_line is None:
            return self._guest.ask(words, user=ROOT, timeout=_SECONDS, data=data)
        return self._follow(words, on_line or (lambda _: None))

    def _follow(self, words: Argv, on_line: Callable[[str], None]) -> door.Done:
        """Run what takes long; each line of its errors is told as it comes."""
        heard = _Lines(on_line)
        code = self._guest.stream(words, lambda chunk: b"", heard, user=ROOT)
        return door.Done(code, err=heard.kept)


class _Lines:
    """Bytes into lines: bounded, and the last ones kept."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line, self._rest, self._heard = on_line, b"", 0
        self.kept = b""

    def __call__(self, chunk: bytes) -> bytes:
        self._heard += len(chunk)
        if self._heard > _LARGEST:
            raise Problem("a program of the build in the guest says too much")
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        self._rest = self._rest[-_LONGEST:]
        for line in lines:
            self.kept = (self.kept + line[:_LONGEST] + b"\n")[-_LONGEST * 16 :]
            self._on_line(line[:_LONGEST].decode(errors="replace"))
        return b""


def _must(guest: Guest, words: Argv, what: str) -> None:
    done = guest.ask(words, user=ROOT, timeout=_SECONDS)
    if done.code != 0:
        raise Problem(f"{guest.vm.name}: {what} failed: {door.reason(done)}", f"okubsd log {guest.vm.name}")


@contextlib.contextmanager
def in_guest(guest: Guest) -> Iterator[InGuest]:
    """Have a workshop in a guest for the block; nothing of what was built is left there."""
    # Devices are made in a tree; only root builds there.
    _must(guest, ("busybox", "mount", "-o", "remount,dev,suid", "/home"), "letting root make devices in the home")
    _must(guest, ("rm", "-rf", "--one-file-system", _TOP), "removing what an earlier build left")
    try:
        with files_of(guest) as files:
            yield InGuest(guest, files)
    finally:
        guest.ask(("rm", "-rf", "--one-file-system", _TOP), user=ROOT, timeout=_SECONDS)
