"""The one door: every program is spawned here, and every lock taken; so are files written that must be whole."""

from okubsd.host.door.child import Child, fork
from okubsd.host.door.common import Done, Verbosity, reason
from okubsd.host.door.files import append, make_private, point, write
from okubsd.host.door.guests import (
    GAVE_UP,
    MOST_OF_A_GUEST,
    NOBODY_READS,
    Clean,
    ask,
    call_interactive,
    joined,
    spawn_measured,
    stream,
)
from okubsd.host.door.spawning import begin, kill, must, run, spawn

__all__ = [
    "GAVE_UP",
    "MOST_OF_A_GUEST",
    "NOBODY_READS",
    "Child",
    "Clean",
    "Done",
    "Verbosity",
    "append",
    "ask",
    "begin",
    "call_interactive",
    "fork",
    "joined",
    "kill",
    "make_private",
    "must",
    "point",
    "reason",
    "run",
    "spawn",
    "spawn_measured",
    "stream",
    "write",
]
