"""A plan that is being performed: what became known, what was started, and how long each phase took."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from okubsd import layout
from okubsd.config.names import quoted
from okubsd.errors import Problem
from okubsd.host import door
from okubsd.host.places import Places
from okubsd.host.session import Session
from okubsd.model import Argv
from okubsd.plan.steps import Phase, Slot, StartDisplay


class Timing(msgspec.Struct, frozen=True):
    """How long one start took: seconds by phase, and when it began (seconds since the epoch)."""

    began: float
    phases: dict[str, float]

    @property
    def total(self) -> float:
        """Return the seconds of all phases."""
        return sum(self.phases.values())


class Performance:
    """A plan being performed: its slots, its children, its clock."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.places = session.places
        self.report = session.report
        self.slots: dict[Slot, str] = {}
        self.qemu: subprocess.Popen[bytes] | None = None
        self.booted_at = 0.0
        self.server: subprocess.Popen[bytes] | None = None
        self.glass: subprocess.Popen[bytes] | None = None
        self.shown_at: Path | None = None
        self.display_step: StartDisplay | None = None
        self.exit_end = -1
        self.phases: dict[str, float] = {}
        self._inner = 0.0
        self.app_was_running = False

    def fill(self, argv: Argv) -> Argv:
        """Return ``argv`` with every slot replaced by what is known now."""
        filled = argv
        for slot, value in self.slots.items():
            filled = tuple(word.replace(slot, value) for word in filled)
        return filled

    def say(self, words: str) -> None:
        """Tell a user who looks on how far it is: in the terminal, and on the desktop where the glass is there."""
        self.report(words)
        if self.shown_at is not None:
            from okubsd.host import windows

            windows.say(self.shown_at, words)

    def close(self) -> None:
        """Close the descriptors that only the performing needed."""
        if self.exit_end >= 0:
            os.close(self.exit_end)
        self.exit_end = -1

    def check_alive(self, log: Path | None = None) -> None:
        """Raise Problem if the QEMU or the X server that was started has ended."""
        started = ((self.qemu, "QEMU", layout.QEMU_LOG), (self.server, "the X server", layout.DISPLAY_LOG))
        for process, what, name in started:
            if process is not None and process.poll() is not None:
                said = last_lines(log.with_name(name)) if log else ""
                raise Problem(f"{what} ended with code {process.returncode}{said}")

    @contextlib.contextmanager
    def timed(self, phase: Phase) -> Iterator[None]:
        """Count the time of the block for ``phase``, and for no phase around it."""
        start, inner = time.monotonic(), self._inner
        self._inner = 0.0
        try:
            yield
        finally:
            spent = time.monotonic() - start
            self.phases[phase] = self.phases.get(phase, 0.0) + spent - self._inner
            self._inner = inner + spent


def last_lines(log: Path, count: int = 3) -> str:
    """Return ": " and the last lines of a log, printable, or ""."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - 4096))
            lines = [line for line in stream.read().decode(errors="replace").splitlines() if line.strip()]
    except OSError:
        return ""
    return ": " + quoted("; ".join(lines[-count:]), 400)[1:-1] if lines else ""


_KEPT_TIMINGS = 100


def record_timing(places: Places, name: str, timing: Timing) -> None:
    """Keep the phases of the last starts, a JSON object a line."""
    path = places.vm(name) / layout.TIMINGS
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    lines.append(msgspec.json.encode(timing) + b"\n")
    door.write(path, b"".join(lines[-_KEPT_TIMINGS:]), lasting=False)


def read_timings(places: Places, name: str) -> list[Timing]:
    """Return the recorded starts of the VM, oldest first."""
    try:
        text = (places.vm(name) / layout.TIMINGS).read_bytes()
        return msgspec.json.Decoder(Timing).decode_lines(text)
    except (OSError, ValueError, msgspec.MsgspecError):
        return []


# A shell on the console may have written its prompt before it.
_SAID = re.compile(rb"(?m)^(?:[#$] )?okubsd: ([a-z0-9-]+) ended with ([0-9]{1,3}): ?(.*)$")


def app_words(console_log: Path, app: str, after: int) -> tuple[str, int]:
    """Return ": " and what ``app`` said before it ended, as its guest told it on the console, and its exit code.

    Both are "" and 0 while it runs.
    Only what stands behind the first ``after`` bytes of the log counts.
    """
    try:
        with console_log.open("rb") as stream:
            stream.seek(max(after, console_log.stat().st_size - 65536))
            found = [found[1:] for found in _SAID.findall(stream.read(65536)) if found[0] == app.encode()]
    except OSError:
        return "", 0
    if not found:
        return "", 0
    code, words = found[-1]
    return ": " + quoted(words.decode(errors="replace").strip() or "it said nothing", 400)[1:-1], int(code)
