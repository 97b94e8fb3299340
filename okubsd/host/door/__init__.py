"""The one door: every program is spawned here, and every lock taken; so are files written that must be whole."""

from okubsd.host.door.child import Child, end_with_parent, fork
from okubsd.host.door.common import Done, Verbosity, end_process, reason
from okubsd.host.door.files import append, exchange, make_private, point, sync, write
from okubsd.host.door.guests import (
    GAVE_UP,
    MOST_OF_A_GUEST,
    NOBODY_READS,
    Clean,
    ask,
    call_interactive,
    end_listening,
    joined,
    listen,
    spawn_measured,
    stream,
)
from okubsd.host.door.spawning import begin, begin_fed, kill, must, run, spawn

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
    "begin_fed",
    "call_interactive",
    "end_listening",
    "end_process",
    "end_with_parent",
    "exchange",
    "fork",
    "joined",
    "kill",
    "listen",
    "make_private",
    "must",
    "point",
    "reason",
    "run",
    "spawn",
    "spawn_measured",
    "stream",
    "sync",
    "write",
]
