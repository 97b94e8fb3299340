"""What the measurements of starts share."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from okubsd.errors import Problem
from okubsd.host import door, programs
from okubsd.host.session import Session, silent
from okubsd.model import Argv, Description, Vm

# The name of a figure to its values, one a round.
Rows = dict[str, list[float]]


_MOST_SECONDS = 900


def seconds(argv: Argv, *, code: int = 0, env: Mapping[str, str] | None = None) -> float:
    """Return how long ``argv`` takes.  Raises Problem unless it exits with ``code``."""
    start = time.monotonic()
    try:
        done = door.run(argv, timeout=_MOST_SECONDS, env=env)
    except subprocess.TimeoutExpired:
        raise Problem(f"{' '.join(argv[2:5])} takes more than {_MOST_SECONDS} seconds") from None
    if done.code != code:
        raise Problem(f"{' '.join(argv[2:5])} failed while it was measured: {door.reason(done)}")
    return time.monotonic() - start


def alone(session: Session, vm: Vm) -> Session:
    """Return a session that describes ``vm`` alone, and tells nobody."""
    return Session.of(session.places, Description(Path("bench"), (vm,)), session.recipes, silent)


def called(session: Session, *words: str) -> Argv:
    """Return the argv of okubsd itself, with the description that is measured, and without its words."""
    return programs.okubsd_argv("-q", "-f", str(session.description.path), *words)
