"""Where the walls between two displays are attacked: who plays, and what comes of it."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from okubsd.host.selftest.actor import Actor

# The windows that show a color, in pixels.
SIZE = 64
# How long is waited for an answer of who may have been stopped, for what is to be shown, and whether something comes.
HUNG_SECONDS, SHOWN_SECONDS, MOMENT = 3.0, 5.0, 1.0


class Stage(msgspec.Struct, frozen=True):
    """Who plays: the attacker and a second client on the guest's display, the witness on the desktop.

    ``second`` makes another client of the guest's display, ``another`` one of the desktop.  ``run`` is the VM's run
    directory, ``color`` that of its frames.
    """

    attacker: Actor
    witness: Actor
    second: Callable[[], Actor]
    another: Callable[[], Actor]
    run: Path
    color: int


# Whether a wall broke, whether the attack worked where there is none, what was seen; or why nothing was tried.
Outcome = tuple[bool, bool, str] | str


def mark() -> str:
    """Return a name that nobody else has."""
    return f"okubsd-{secrets.token_hex(8)}"


def some_color() -> int:
    """Return a color that hardly anybody else shows."""
    return secrets.randbelow(1 << 24) | 0x010101


@contextlib.contextmanager
def clean(*actors: Actor) -> Iterator[None]:
    """Have what ``actors`` show taken away after the block."""
    try:
        yield
    finally:
        for actor in actors:
            actor.do("clear")
