"""Beside each VM that is shown: hears what its guest asks of the host, and plays what it plays.

It ends with the VM, or with what shows its windows.  What a guest says is read a little at a time, asked of the
policy, and never waited for.
"""

from __future__ import annotations

import contextlib
import math
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from typing import Any

from okubsd import layout
from okubsd.config.policy import ALLOW
from okubsd.display.asks import LONGEST, NotifyAsked, OpenAsked, Paced, notify_argv, parse_ask
from okubsd.display.clip import HOST
from okubsd.display.frame import plain
from okubsd.display.orders import Attending, parse_attending
from okubsd.errors import BadDescription, Problem
from okubsd.guest.ssh import remote_command
from okubsd.host import door, locks, policy, programs, running, speaking, windows
from okubsd.host.crossings import ALLOWED, REFUSED, write_down
from okubsd.host.guest import Guest
from okubsd.host.session import Session
from okubsd.model import Argv

LISTEN: Argv = ("/usr/lib/okubsd/listen",)
PLAY: Argv = ("/usr/lib/okubsd/sound", "out")

# How often is looked whether the VM is there, and how long a call that ended is left alone, in seconds.
_LOOK_SECONDS, _AGAIN_SECONDS = 5.0, 3.0
# What is read at once, in bytes.
_CHUNK = 1 << 14
_NOTIFY_SECONDS = 5.0
# How long a call is left unread after each reading, in seconds, so that a flood waits in the guest: of sound so
# little that it is not heard, in which eight times as much is read as sounds in it.
_ASKS_REST, _SOUND_REST = 0.1, 0.01
# How long a VM is not heard after none, one, two ... addresses that nobody wanted opened, in seconds.
_QUIET_SECONDS = (0.0, 2.0, 10.0, 60.0, 300.0)


class _Call:
    """A call into the guest that goes on, and is begun anew where it ended."""

    def __init__(self, words: Argv) -> None:
        self._words = words
        self.process: subprocess.Popen[bytes] | None = None
        self._from = 0.0

    def begin(self, guest: Guest, now: float) -> None:
        if self.process is None and now >= self._from:
            self._from = now + _AGAIN_SECONDS
            self.process = door.listen((*guest.argv("-T"), remote_command(self._words)), subprocess.PIPE)

    def read(self) -> bytes:
        """Return what it says, b"" where it has ended."""
        assert self.process is not None and self.process.stdout is not None
        said = os.read(self.process.stdout.fileno(), _CHUNK)
        if not said:
            self.end()
        return said

    def end(self) -> None:
        process, self.process = self.process, None
        if process is not None:
            door.end_listening(process)


class Attendant:
    """What hears one guest."""

    def __init__(self, session: Session, guest: Guest, orders: Attending) -> None:
        self._session, self._guest, self._orders = session, guest, orders
        self._asks, self._plays = _Call(LISTEN), _Call(PLAY)
        self._pending = b""
        self._opening: subprocess.Popen[bytes] | None = None
        self._may_open, self._may_notify = Paced(2, 2.0), Paced(5, 3.0)
        self._refused, self._open_from = 0, 0.0
        # Until when nothing is read of either call.
        self._asks_from = self._plays_from = 0.0
        self._directory = session.places.vm(orders.vm)
        players = speaking.find_players() if orders.heard else ()
        self.speaker = speaking.Speaker(orders.vm, players, speaking.read_sound(self._directory)) if players else None

    def waiting(self, now: float) -> list[Any]:
        """Return what to wait for, after beginning what is to go on; a call that floods is left out for a moment."""
        self._asks.begin(self._guest, now)
        if self.speaker is not None:
            self._plays.begin(self._guest, now)
        asks = self._asks.process if now >= self._asks_from else None
        plays = self._plays.process if now >= self._plays_from else None
        calls = (asks, plays, self._opening)
        return [process.stdout for process in calls if process is not None and process.stdout is not None]

    def reads_again(self, now: float) -> float:
        """Return in how many seconds something is read that is left unread now, infinity where there is nothing."""
        return min((at - now for at in (self._asks_from, self._plays_from) if at > now), default=math.inf)

    @property
    def feeds(self) -> list[Any]:
        """Return what takes more as soon as it can be written to."""
        return [self.speaker.feeds] if self.speaker is not None and self.speaker.feeds is not None else []

    def turn(self, ready: list[Any], now: float) -> None:
        """Take what is there, and give what is waited for."""
        if self.speaker is not None and self.speaker.feeds in ready:
            self.speaker.go_on()
        if self._asks.process is not None and self._asks.process.stdout in ready:
            self._asks_from = now + _ASKS_REST
            self._hear(self._asks.read(), now)
        if self.speaker is not None and self._plays.process is not None and self._plays.process.stdout in ready:
            self._plays_from = now + _SOUND_REST
            self.speaker.play(self._plays.read(), now)
        if self._opening is not None and self._opening.stdout in ready:
            self._opened(self._opening)

    def reload(self) -> None:
        """Be as loud as the user wishes now."""
        if self.speaker is not None:
            self.speaker.set(speaking.read_sound(self._directory))

    def rest(self, now: float) -> None:
        """Have this host's sound at rest where nothing is played."""
        if self.speaker is not None:
            self.speaker.rest(now)

    def close(self) -> None:
        if self._opening is not None:
            # Nobody is there any more who has asked.
            door.end_process(self._opening)
        self._asks.end()
        self._plays.end()
        if self.speaker is not None:
            self.speaker.close()

    # --- what a guest asks -------------------------------------------------------------------------

    def _hear(self, said: bytes, now: float) -> None:
        *lines, self._pending = (self._pending + said).split(b"\n")
        self._pending = self._pending if len(self._pending) <= LONGEST else b""
        for line in lines:
            if self._may(line, now):
                with contextlib.suppress(ValueError):
                    asked = parse_ask(line[:LONGEST])
                    self._open(asked) if isinstance(asked, OpenAsked) else self._notify(asked)

    def _may(self, line: bytes, now: float) -> bool:
        """Return whether a line is looked at: what is too much costs nothing more."""
        if line.startswith(b"open\t"):
            return self._opening is None and now >= self._open_from and self._may_open.may(now)
        return line.startswith(b"notify\t") and self._may_notify.may(now)

    def _open(self, asked: OpenAsked) -> None:
        """Have the address opened where the rules say; the policy, and perhaps the user, are asked by who does it."""
        given = ("-f", self._orders.description) if self._orders.description else ()
        argv = programs.okubsd_argv("-q", *given, "open", "--from", self._orders.vm, "--", asked.address)
        self._opening = door.begin(argv)

    def _opened(self, opening: subprocess.Popen[bytes]) -> None:
        assert opening.stdout is not None
        said = os.read(opening.stdout.fileno(), LONGEST)
        if said:
            windows.whisper(self._guest.run, plain(said.decode(errors="replace").strip().rpartition("\n")[2], 200))
            return
        opening.stdout.close()
        self._opening = None
        # Who says no, or nothing, is asked less and less; a question holds the keyboard.
        self._refused = 0 if opening.wait() == 0 else min(self._refused + 1, len(_QUIET_SECONDS) - 1)
        self._open_from = time.monotonic() + _QUIET_SECONDS[self._refused]

    def _notify(self, asked: NotifyAsked) -> None:
        vm = self._orders.vm
        try:
            # What is written about a VM holds for its copies.
            line = policy.decision(policy.read_policy(self._session), "notify", self._guest.vm.copy_of or vm, HOST)
            # What cannot be written down does not cross, and the attendant goes on.
            write_down(self._session.places, "notify", vm, HOST, ALLOWED if line.action == ALLOW else REFUSED)
        except (BadDescription, Problem):
            return
        if line.action != ALLOW:
            return
        argv = notify_argv(vm, asked)
        if programs.find_program(argv[0]) is None:
            windows.whisper(self._guest.run, f"{asked.title}: {asked.text}" if asked.text else asked.title)
            return
        with contextlib.suppress(subprocess.TimeoutExpired, Problem):
            door.run(argv, timeout=_NOTIFY_SECONDS)


def _attend(attendant: Attendant, guest: Guest, session: Session, hangup: socket.socket) -> None:
    """Attend until the VM ends, or what shows its windows."""
    look_at = time.monotonic() + _LOOK_SECONDS
    while True:
        now = time.monotonic()
        if now >= look_at:
            look_at = now + _LOOK_SECONDS
            shown = locks.is_alive(guest.run / layout.GLASS_LIFE)
            attendant.rest(now)
            if not shown or not running.is_running(session.places, guest.vm.name):
                return
        with selectors.DefaultSelector() as waiting:
            for stream in (hangup, *attendant.waiting(now)):
                waiting.register(stream, selectors.EVENT_READ)
            for stream in attendant.feeds:
                waiting.register(stream, selectors.EVENT_WRITE)
            seconds = min(attendant.reads_again(now), max(0.0, look_at - now))
            ready = [key.fileobj for key, _ in waiting.select(seconds)]
        if hangup in ready:
            hangup.recv(100)
            attendant.reload()
        attendant.turn(ready, time.monotonic())


def main() -> int:
    """Attend to one VM."""
    orders = parse_attending(sys.argv[1])
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setblocking(False)
    signal.set_wakeup_fd(theirs.fileno())
    signal.signal(signal.SIGHUP, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    session = Session(orders.description)
    guest = Guest.find(session.places, running.started_or_bare(session.places, orders.vm))
    attendant = Attendant(session, guest, orders)
    try:
        _attend(attendant, guest, session, ours)
    finally:
        attendant.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
