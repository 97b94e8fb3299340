"""Sound of guests: raw samples in one direction, and the programs of this host that play and record them.

Sources: aucat(1) of OpenBSD; pacat(1) of PulseAudio, which PipeWire speaks too; pw-cat(1).
"""

from __future__ import annotations

import msgspec

from okubsd.model import Argv

# Signed, 16 bits, little endian, two channels: of each second this many bytes.
RATE, CHANNELS = 48_000, 2
BYTES_PER_SECOND = RATE * CHANNELS * 2
_LATENCY_MS = 40

# Who plays and who records.
_PLAYERS = ("pacat", "pw-cat", "aucat")
_RECORDERS = ("parec", "pw-cat", "aucat")

# Volumes as these programs count them (aucat -v, pacat --volume).
_LOUDEST_AUCAT, _LOUDEST_PULSE = 127, 65536


class Sound(msgspec.Struct, frozen=True):
    """How loud a VM is, of 100, and whether it is muted."""

    volume: int = 100
    muted: bool = False


def players(*, openbsd: bool) -> Argv:
    """Return who plays, in the order that they are looked for: a host's own comes before what may lie there unused."""
    return _own_first(_PLAYERS, openbsd=openbsd)


def recorders(*, openbsd: bool) -> Argv:
    """Return who records, in the same order."""
    return _own_first(_RECORDERS, openbsd=openbsd)


def _own_first(names: Argv, *, openbsd: bool) -> Argv:
    return (names[-1], *names[:-1]) if openbsd else names


def player_argv(program: str, vm: str, volume: int) -> Argv:
    """Return the ``program`` that plays what comes by its input, as that of ``vm``, at a ``volume`` of 100."""
    if program == "aucat":
        loud = str(volume * _LOUDEST_AUCAT // 100)
        return ("aucat", *_of_aucat(CHANNELS), "-v", loud, "-i", "-")
    if program == "pacat":
        return ("pacat", "--playback", *_of_pulse(vm, CHANNELS), f"--volume={volume * _LOUDEST_PULSE // 100}")
    return ("pw-cat", "--playback", *_of_pipewire(CHANNELS), "--volume", f"{volume / 100:.2f}", "-")


def recorder_argv(program: str, vm: str) -> Argv:
    """Return the ``program`` that prints what this host's microphone hears, by one channel, for ``vm``."""
    if program == "aucat":
        return ("aucat", *_of_aucat(1), "-o", "-")
    if program == "parec":
        return ("parec", *_of_pulse(vm, 1))
    return ("pw-cat", "--record", *_of_pipewire(1), "-")


def _of_aucat(channels: int) -> Argv:
    return ("-h", "raw", "-e", "s16le", "-r", str(RATE), "-c", f"0:{channels - 1}")


def _of_pipewire(channels: int) -> Argv:
    return ("--rate", str(RATE), "--channels", str(channels), "--format", "s16", "--latency", f"{_LATENCY_MS}ms")


def _of_pulse(vm: str, channels: int) -> Argv:
    kind = ("--raw", "--format=s16le", f"--rate={RATE}", f"--channels={channels}", f"--latency-msec={_LATENCY_MS}")
    return (*kind, f"--client-name=okubsd-{vm}", f"--stream-name={vm}")


def is_silence(samples: bytes) -> bool:
    """Return whether nobody hears anything of ``samples``."""
    return samples.count(0) == len(samples)
