"""The steps that change an OpenBSD host: files, the programs that read them, and a journal to go back by."""

from __future__ import annotations

from typing import TYPE_CHECKING

from okubsd.plan.steps.base import Step

if TYPE_CHECKING:
    from okubsd.hostfile import FileState


class Call(Step, frozen=True, kw_only=True):
    """Run a program that has to end with 0 within ``timeout`` seconds, unless it ``may_fail``."""

    timeout: int = 60
    may_fail: bool = False


class Stage(Step, frozen=True, kw_only=True):
    """Write candidates, path and text, so that the real parsers can judge them."""

    files: tuple[tuple[str, str], ...]


class Journal(Step, frozen=True, kw_only=True):
    """Keep the old files until the last step is done."""

    files: tuple[tuple[str, FileState | None], ...]


class Replace(Step, frozen=True, kw_only=True):
    """Replace a file: aside, fsync, rename."""

    path: str
    file: FileState


class Remove(Step, frozen=True, kw_only=True):
    """Remove a file that is okubsd's."""

    path: str


class Tidy(Step, frozen=True, kw_only=True):
    """Remove the directories at ``empty`` that are, and all that is below ``transient``."""

    empty: tuple[str, ...]
    transient: str


class Finish(Step, frozen=True, kw_only=True):
    """Drop the journal and the candidates: what was begun is done."""


class PutRules(Step, frozen=True, kw_only=True):
    """Compile the rules of the VM ``name``, and put them in force by pf(4)."""

    name: str

    def show(self) -> str:
        return f"# install the rules of {self.name}, and let pf read them"
