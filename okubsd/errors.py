"""What can go wrong, as one sentence, a next step and an exit code.

The exit codes are part of the interface: okubsd(1), EXIT STATUS.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar


class Problem(Exception):
    """A failure that is told to the user in one sentence, never as a traceback.

    ``sentence`` says what is wrong and where, ``hint`` what to do next ("" for nothing).
    """

    code: ClassVar[int] = 1

    def __init__(self, sentence: str, hint: str = "") -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.hint = hint


class Misuse(Problem):
    """The command line is wrong."""

    code = 2


class Partial(Problem):
    """Some of several VMs failed; each was already reported."""

    code = 3


class Unknown(Problem):
    """No such VM, app or image."""

    code = 4


class BadState(Problem):
    """A saved state called ``name`` that cannot be gone on from."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"the saved state {name} cannot be gone on from: {why}", "okubsd pool clear")
        self.name = name


class BadClock(Problem):
    """The clock of a guest that booted does not run at the pace of this host's."""


class TimedOut(Problem):
    """Something did not answer within its time."""

    code = 6


class HostLacks(Problem):
    """The host misses a program or a right."""

    code = 7


class Mistake(str):
    """One mistake of a file as a sentence, with what it is made of where that is known.

    ``file`` and ``line`` say where, ``path`` is the dotted key, ``found`` what is there, ``allowed`` what could be.
    """

    file: str
    line: int
    path: str
    found: str
    allowed: str

    def __new__(
        cls, sentence: str, *, file: str = "", line: int = 0, path: str = "", found: str = "", allowed: str = ""
    ) -> Mistake:
        """Return the ``sentence`` with its parts."""
        made = super().__new__(cls, sentence)
        made.file, made.line, made.path, made.found, made.allowed = file, line, path, found, allowed
        return made


class BadDescription(Problem):
    """The description is wrong; ``mistakes`` holds every one of them, in file order, as text or as Mistake."""

    code = 8

    def __init__(self, mistakes: Iterable[str]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(self.mistakes))


class DisplayGone(Problem):
    """The VM's X server went away while it was needed; a new start makes another."""


class Unreachable(Problem):
    """The guest cannot be reached by ssh; 255 is what ssh(1) itself exits with."""

    code = 255
