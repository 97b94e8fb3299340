"""What every step of a plan is, and the words that all of them use."""

from __future__ import annotations

import enum
import shlex

import msgspec

from okubsd.model import Argv


class Phase(enum.StrEnum):
    """The phases that a start is timed by, in their order."""

    IMAGES = "images"
    BOOT = "boot"
    DISPLAY = "display"
    SSH = "ssh"
    APP = "app"
    WINDOW = "window"
    PAINT = "paint"


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step; ``phase`` is what its time counts for, ``what`` names it where it fails.

    ``argv`` is the command that it runs, () for none.
    """

    phase: Phase = Phase.BOOT
    what: str = ""
    argv: Argv = ()

    def show(self) -> str:
        """Return the step as a line of shell, or as a comment where no command does it."""
        return shlex.join(self.argv) if self.argv else f"# {self.what}"

    def progress(self) -> str:
        """Return what is told to a user who looks on, "" for nothing."""
        return ""


Plan = tuple[Step, ...]


def render_plan(plan: Plan) -> str:
    """Return the plan as text, a step a line (or a few)."""
    return "".join(f"{step.show()}\n" for step in plan)
