"""Play what a guest sends: samples come in, a program of this host plays them, and what is late is dropped."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import IO

import msgspec

from okubsd import layout
from okubsd.decode import read_json
from okubsd.host import door, programs
from okubsd.model import Argv
from okubsd.sound import BYTES_PER_SECOND, Sound, is_silence, player_argv, players

# After so many seconds of silence nobody has to play it, and a player that ended is begun again after so many.
_SILENT_SECONDS, _AGAIN_SECONDS = 30.0, 2.0
_PATIENT_SECONDS = 3
# What waits for a player, in bytes: two seconds at most, for one that begins.  What has waited for a whole second is
# late: silence of it is left out, and what is heard only where it has been more than a tenth of a second, and for some
# seconds: a short sound is heard whole.
_MOST_WAITING, _LATE, _TOO_LATE = 2 * BYTES_PER_SECOND, BYTES_PER_SECOND // 100, BYTES_PER_SECOND // 10
_FRAME = 4


def find_players() -> Argv:
    """Return the programs of this host that play sound, the one that is tried first before the others."""
    names = players(openbsd=sys.platform.startswith("openbsd"))
    return tuple(name for name in names if programs.find_program(name))


def read_sound(directory: Path) -> Sound:
    """Return how loud the VM is that has the ``directory``."""
    try:
        return read_json((directory / layout.SOUND).read_bytes(), Sound)
    except (OSError, ValueError):
        return Sound()


def write_sound(directory: Path, sound: Sound) -> None:
    """Keep how loud a VM is."""
    door.write(directory / layout.SOUND, msgspec.json.encode(sound))


class Speaker:
    """Plays the samples of the VM called ``vm`` as ``sound`` says, by the first of ``programs`` that does not fail."""

    def __init__(self, vm: str, programs: Argv, sound: Sound) -> None:
        self.sound = sound
        self._vm, self._programs = vm, programs
        self._player: subprocess.Popen[bytes] | None = None
        # The beginning of a frame whose end has not come; what waits for the player, and how much it was given.
        self._begun = self._waiting = b""
        self._given = 0
        # The least that waited since, which is how late everything is.
        self._least, self._since, self._late_for = 0, 0.0, 0
        self._heard_at = self._from = 0.0

    def set(self, sound: Sound) -> None:
        """Be as loud as ``sound`` says from now on: the player is begun anew."""
        if sound != self.sound:
            self.sound = sound
            self.close()

    def play(self, samples: bytes, now: float) -> None:
        """Play ``samples`` at the time ``now``, in seconds, as far as the player takes them; it never waits."""
        samples = self._begun + samples
        whole = len(samples) - len(samples) % _FRAME
        samples, self._begun = samples[:whole], samples[whole:]
        silent = is_silence(samples)
        if not silent:
            self._heard_at = now
        elif now > self._heard_at + _SILENT_SECONDS:
            self.close()
            return
        if self.sound.muted or not self._is_there(now):
            return
        self._waiting += samples
        self._write()
        self._leave_out(len(self._waiting) - _MOST_WAITING)
        self._catch_up(now)

    @property
    def feeds(self) -> IO[bytes] | None:
        """Return what the player takes from, where something waits for it: go_on() is due when it can be written to."""
        return self._player.stdin if self._player is not None and self._waiting else None

    def go_on(self) -> None:
        """Give the player what waits, as far as it takes it."""
        if self._player is not None:
            self._write()

    def _catch_up(self, now: float) -> None:
        """Leave out what was late for a whole second: clocks differ, and each hiccup of a player would add to it."""
        self._least = min(self._least, len(self._waiting))
        if now < self._since + 1.0:
            return
        late = self._least - _LATE
        self._late_for = self._late_for + 1 if late > _TOO_LATE else 0
        if self._late_for > _PATIENT_SECONDS or (late > 0 and is_silence(self._waiting[:late])):
            self._leave_out(late)
        self._least, self._since = len(self._waiting), now

    def _leave_out(self, late: int) -> None:
        """Drop the oldest ``late`` bytes: whole frames, or the channels change places."""
        late -= late % _FRAME
        if late > 0:
            end = -self._given % _FRAME
            self._waiting = self._waiting[:end] + self._waiting[end + late :]

    def rest(self, now: float) -> None:
        """Have nobody play while there is nothing to play."""
        if now > self._heard_at + _SILENT_SECONDS:
            self.close()

    def _is_there(self, now: float) -> bool:
        if self._player is not None and self._player.poll() is None:
            return True
        if now < self._from:
            return False
        self._lose()
        self._from = now + _AGAIN_SECONDS
        self._player = door.begin_fed(player_argv(self._programs[0], self._vm, self.sound.volume))
        return True

    def _write(self) -> None:
        assert self._player is not None and self._player.stdin is not None
        try:
            written = os.write(self._player.stdin.fileno(), self._waiting)
        except BlockingIOError:
            return
        except OSError:
            self._lose()
            return
        self._waiting = self._waiting[written:]
        self._given += written

    def _lose(self) -> None:
        """Have the next program play, where one ended by itself: it may know a sound server that runs."""
        if self._player is not None:
            self._programs = (*self._programs[1:], self._programs[0])
        self.close()

    def close(self) -> None:
        """Have nobody play any more."""
        player, self._player, self._waiting, self._given = self._player, None, b"", 0
        if player is not None:
            if player.stdin is not None:
                with contextlib.suppress(OSError):
                    player.stdin.close()
            door.end_process(player)
