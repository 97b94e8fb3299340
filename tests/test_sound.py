"""Sound of guests: what the programs of this host are called with, and what of samples is played, late or dropped."""

from __future__ import annotations

import math
import select
import struct
import sys
from pathlib import Path

import pytest

from okubsd.host import speaking
from okubsd.host.waiting import wait_until
from okubsd.sound import BYTES_PER_SECOND, Sound, is_silence, player_argv, players, recorder_argv, recorders

# Plays by writing what it gets to a file.
WRITER = "import sys\nwith open({!r}, 'ab', 0) as out:\n    while data := sys.stdin.buffer.raw.read(4096):\n        out.write(data)\n"


def tone(seconds: float, hertz: int = 440) -> bytes:
    samples = (int(12000 * math.sin(2 * math.pi * hertz * at / 48_000)) for at in range(int(48_000 * seconds)))
    return b"".join(struct.pack("<hh", sample or 1, sample or 1) for sample in samples)


def test_the_hosts_own_player_comes_first() -> None:
    assert players(openbsd=True)[0] == recorders(openbsd=True)[0] == "aucat"
    # One of a library that somebody installed, with no server that runs.
    assert players(openbsd=False)[0] == "pacat" and recorders(openbsd=False)[0] == "parec"
    assert {*players(openbsd=True)} == {*players(openbsd=False)} == {"aucat", "pacat", "pw-cat"}


@pytest.mark.parametrize("program", ["aucat", "pacat", "pw-cat"])
def test_a_volume_is_the_players_own(program: str) -> None:
    quiet, loud = player_argv(program, "web", 0), player_argv(program, "web", 100)
    assert quiet[0] == program and quiet != loud
    assert {"aucat": "127", "pacat": "--volume=65536", "pw-cat": "1.00"}[program] in loud


def test_the_players_of_openbsd_and_of_pulseaudio_are_called_as_their_manuals_say() -> None:
    assert player_argv("aucat", "web", 50) == (
        *("aucat", "-h", "raw", "-e", "s16le", "-r", "48000", "-c", "0:1", "-v", "63", "-i", "-"),
    )
    assert recorder_argv("aucat", "web")[-2:] == ("-o", "-")
    assert recorder_argv("parec", "web") == (
        *("parec", "--raw", "--format=s16le", "--rate=48000", "--channels=1", "--latency-msec=40"),
        *("--client-name=okubsd-web", "--stream-name=web"),
    )


def test_silence_is_nothing_but_zeros() -> None:
    assert is_silence(bytes(100)) and is_silence(b"") and not is_silence(bytes(99) + b"\1")


class Heard:
    """A speaker whose player writes to a file."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        code = WRITER.format(str(path))
        monkeypatch.setattr(speaking, "player_argv", lambda *_: (sys.executable, "-c", code))
        self.speaker = speaking.Speaker("web", ("pacat",), Sound())

    def has(self, count: int) -> bool:
        return bool(wait_until(lambda: self.path.exists() and self.path.stat().st_size >= count, 20, pause=0.02))


@pytest.fixture
def heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Heard:
    return Heard(tmp_path / "heard", monkeypatch)


@pytest.mark.spawns
def test_what_comes_in_pieces_is_played_whole(heard: Heard) -> None:
    samples = tone(0.5)
    for at in range(0, len(samples), 1001):
        heard.speaker.play(samples[at : at + 1001], 1.0)
    # What the player has not taken yet goes on as soon as it takes more.
    while (feeds := heard.speaker.feeds) is not None:
        assert select.select([], [feeds], [], 20)[1]
        heard.speaker.go_on()
    assert heard.has(len(samples)) and heard.path.read_bytes() == samples
    heard.speaker.close()


@pytest.mark.spawns
def test_a_player_that_takes_nothing_is_not_waited_for_and_gets_whole_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speaking, "player_argv", lambda *_: ("sleep", "60"))
    speaker = speaking.Speaker("web", ("pacat",), Sound())
    for _ in range(40):
        speaker.play(tone(0.25), 1.0)
    assert len(speaker._waiting) <= 2 * BYTES_PER_SECOND + 4
    assert (speaker._given + len(speaker._waiting)) % 4 == 0
    speaker.close()
    assert speaker._player is None


@pytest.mark.spawns
def test_another_player_is_tried_where_one_has_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = tmp_path / "tried"
    tried.write_text("")
    script = f'echo "$0" >>{tried}; [ "$0" = aucat ] && exec cat >/dev/null; exit 1'
    monkeypatch.setattr(speaking, "player_argv", lambda program, *_: ("sh", "-c", script, program))
    speaker = speaking.Speaker("web", ("pacat", "aucat"), Sound())
    for now in (0.0, 3.0, 6.0, 9.0):
        speaker.play(tone(0.01), now)
        player = speaker._player
        wait_until(lambda: tried.read_text().count("\n") == min(2, 1 + int(now) // 3), 20, pause=0.02)  # noqa: B023
        if player is not None and now == 0.0:
            player.wait(20)
    assert tried.read_text().split() == ["pacat", "aucat"]
    speaker.close()


@pytest.mark.spawns
def test_a_player_that_ended_is_begun_anew_and_silence_has_none(heard: Heard) -> None:
    speaker = heard.speaker
    speaker.play(bytes(400), 0.0)
    assert speaker._player is not None
    speaker._player.kill()
    speaker._player.wait()
    speaker.play(tone(0.01), 1.0)
    assert speaker._player.poll() is not None
    speaker.play(tone(0.01), 3.0)
    assert speaker._player.poll() is None
    speaker.play(bytes(400), 30.0)
    assert speaker._player is not None
    speaker.rest(35.0)
    assert speaker._player is None
    speaker.play(tone(0.01), 40.0)
    assert speaker._player is not None
    speaker.set(Sound(muted=True))
    assert speaker._player is None
    speaker.play(tone(0.01), 50.0)
    assert speaker._player is None


def test_how_loud_a_vm_is_is_kept_and_a_broken_file_is_none(tmp_path: Path) -> None:
    assert speaking.read_sound(tmp_path) == Sound()
    speaking.write_sound(tmp_path, Sound(30, muted=True))
    assert speaking.read_sound(tmp_path) == Sound(30, muted=True)
    (tmp_path / "sound.json").write_text("{")
    assert speaking.read_sound(tmp_path) == Sound()


def test_what_is_late_is_left_out_in_silence_and_else_only_after_some_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = [0]

    def write(speaker: speaking.Speaker) -> None:
        speaker._waiting = speaker._waiting[taken[0] :]

    monkeypatch.setattr(speaking.Speaker, "_is_there", lambda *_: True)
    monkeypatch.setattr(speaking.Speaker, "_write", write)
    speaker = speaking.Speaker("web", ("pacat",), Sound())
    second = BYTES_PER_SECOND

    def late(samples: bytes, now: float) -> float:
        for at in range(0, second, second // 10):
            speaker.play(samples[at : at + second // 10], now + at / second)
        return len(speaker._waiting) / second

    # A player that began half a second late, and then keeps pace.
    speaker.play(tone(0.5), 0.9)
    taken[0] = second // 10
    heard = [round(late(tone(1), now), 1) for now in (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)]
    assert heard[:4] == [0.5, 0.5, 0.5, 0.5] and heard[5] <= 0.1
    speaker.play(tone(0.5), 7.0)
    assert late(bytes(second), 8.0) > 0.3 and late(bytes(second), 9.0) <= 0.1
