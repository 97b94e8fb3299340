"""What a self-test says: what was tried, what was seen, and whether the wall held."""

from __future__ import annotations

import contextlib
import enum
from pathlib import Path

import msgspec

from okubsd import layout
from okubsd.decode import read_json

_LONGEST_REPORT = 1 << 20


class Verdict(enum.StrEnum):
    """What is to be thought of one wall."""

    HELD = "held"
    BROKE = "BROKE"
    NO_CONTROL = "no control"  # the attack does not work on the guest's own side either, so it says nothing
    NO_ANSWER = "no answer"  # who plays a side did not answer, so it says nothing
    NOT_TRIED = "not tried"  # there is nothing of the kind to try


class Line(msgspec.Struct, frozen=True):
    """One wall: its name, what was tried against it, and what was seen."""

    name: str
    tried: str
    seen: str
    verdict: Verdict


class Report(msgspec.Struct, frozen=True):
    """A whole self-test, and when it was (seconds since the epoch)."""

    when: float
    lines: tuple[Line, ...]

    @property
    def held(self) -> bool:
        """Whether walls were tried, and each of them held: an attack that says nothing is no pass."""
        verdicts = {line.verdict for line in self.lines}
        return Verdict.HELD in verdicts and verdicts <= {Verdict.HELD, Verdict.NOT_TRIED}

    @property
    def broke(self) -> bool:
        """Whether a wall did not hold."""
        return any(line.verdict is Verdict.BROKE for line in self.lines)

    def summary(self) -> str:
        """Return how many walls there are of each verdict, in words."""
        counts = {verdict: sum(line.verdict is verdict for line in self.lines) for verdict in Verdict}
        return ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)


def judge(name: str, tried: str, *, broke: bool, control: bool, seen: str) -> Line:
    """Return the line of an attack; ``control`` says that it works where there is no wall."""
    verdict = Verdict.BROKE if broke else Verdict.HELD if control else Verdict.NO_CONTROL
    return Line(name, tried, seen, verdict)


def no_answer(name: str, tried: str, why: str) -> Line:
    """Return the line of an attack whose players did not play."""
    return Line(name, tried, why, Verdict.NO_ANSWER)


def not_tried(name: str, tried: str, why: str) -> Line:
    """Return the line of an attack that could not be begun."""
    return Line(name, tried, why, Verdict.NOT_TRIED)


def last_report(directory: Path) -> Report | None:
    """Return the last self-test of the VM with the state ``directory``, None where there was none."""
    with contextlib.suppress(OSError, ValueError), (directory / layout.SELFTEST).open("rb") as stream:
        return read_json(stream.read(_LONGEST_REPORT), Report)
    return None
