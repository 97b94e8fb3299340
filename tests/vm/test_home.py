"""Living in a VM: what it plays is heard, what it asks is asked, what is the user's is there, in his language."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import signal
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.world import World, wait_until

RECIPE = """
from: base
packages: [xterm, libglib2.0-bin]
sound: yes
notifications: yes
memory: 256M
files: files
opens: {paper: note.txt}
apps:
  term: [xterm]
  paper: [sh, -c, 'test -r "$1" && exec xterm -T "$(basename "$1")" -e sleep 600', sh]
  teller: [/usr/local/bin/teller]
  viewer: [sh, -c, 'echo "$1" >>~/opened; exec xterm', sh]
"""

# An app that tells by D-Bus, as browsers do: with a picture, an action and markup that it may not have.
TELLER = """#!/bin/sh
gdbus call --session --dest org.freedesktop.Notifications --object-path /org/freedesktop/Notifications \\
	--method org.freedesktop.Notifications.Notify teller 0 mail-unread "by a bus" "<i>from</i>
a friend" "['default', 'Open']" "{'urgency': <byte 2>}" 5000
exec xterm
"""

VMS = """
  heard: {{image: heard, memory: 256M, keep: yes, locale: pt_BR, hook: yes,
          share: [{{path: {shared}, mode: rw, at: ~/here}}, {shared}/none]}}
"""

_RATE, _HERTZ = 48_000, 440
_RAW = ("--raw", "--format=s16le", f"--rate={_RATE}", "--channels=2")
# A tone, as an app in a guest plays it: behind its wall, and with what it finds of sound there.
_PLAY = ("/usr/lib/okubsd/wall", "sh", "-c", 'pacat "$@" ~/tone', "sh", *_RAW)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("shared")
    (made / "mine").write_text("of the host's\n")
    return made


@pytest.fixture(scope="module")
def home(built: World, shared: Path) -> Iterator[World]:
    """The world with a VM that has all of it; its image is built once."""
    text, recipe = built.description.read_text(), built.config / "okubsd/images/heard"
    recipe.mkdir()
    (recipe / "recipe.yaml").write_text(RECIPE)
    teller = recipe / "files/usr/local/bin/teller"
    teller.parent.mkdir(parents=True)
    teller.write_text(TELLER)
    teller.chmod(0o755)
    (recipe / "note.txt").write_text("a note\n")
    built.description.write_text(text + VMS.format(shared=shared))
    try:
        built.ok("image", "build", "heard")
        yield built
    finally:
        built.end_all()
        built.description.write_text(text)
        shutil.rmtree(recipe)


class Speakers:
    """A sound server of this host's that nobody hears, and what was played on it."""

    def __init__(self, tmp: Path) -> None:
        self.env = {"PULSE_SERVER": f"unix:{tmp}/native", "HOME": str(tmp), "XDG_RUNTIME_DIR": str(tmp)}
        modules = (
            f"module-native-protocol-unix socket={tmp}/native auth-anonymous=1",
            "module-null-sink sink_name=host",
        )
        loads = [word for module in modules for word in ("-L", module)]
        argv = ["pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1", "--use-pid-file=no", *loads]
        env = {**os.environ, **self.env}
        self.server = subprocess.Popen(argv, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until((tmp / "native").exists, 60)
        argv = ["parec", "-d", "host.monitor", *_RAW]
        self.recorder = subprocess.Popen(argv, env=env, stdout=subprocess.PIPE)
        self.heard = bytearray()
        threading.Thread(target=self._hear, daemon=True).start()

    def _hear(self) -> None:
        assert self.recorder.stdout is not None
        while data := self.recorder.stdout.read1(65536):  # type: ignore[attr-defined]
            self.heard += data

    def tones(self) -> list[float]:
        """Return the pitch of each fiftieth of a second that is heard without a gap, in hertz."""
        samples = struct.unpack(f"<{len(self.heard) // 2}h", bytes(self.heard[: len(self.heard) // 2 * 2]))[::2]
        found, long = [], _RATE // 50
        for at in range(0, len(samples) - long, long):
            piece = samples[at : at + long]
            if min(max(map(abs, piece[part : part + 60])) for part in range(0, long - 60, 60)) > 500:
                rises = [place for place in range(1, long) if piece[place - 1] < 0 <= piece[place]]
                found.append((len(rises) - 1) * _RATE / (rises[-1] - rises[0]) if len(rises) > 1 else 0.0)
        return found

    @contextlib.contextmanager
    def speaking(self, tone: Path) -> Iterator[None]:
        """Have the tone be there for a microphone to hear, again and again."""
        argv = ["sh", "-c", 'while :; do cat "$0"; done | pacat "$@"', str(tone), *_RAW]
        speaker = subprocess.Popen(argv, env={**os.environ, **self.env}, start_new_session=True)
        try:
            yield
        finally:
            os.killpg(speaker.pid, signal.SIGKILL)
            speaker.wait()

    def end(self) -> None:
        for process in (self.recorder, self.server):
            process.kill()
            process.wait()


@pytest.fixture
def speakers(tmp_path: Path) -> Iterator[Speakers]:
    made = Speakers(tmp_path)
    yield made
    made.end()


@contextlib.contextmanager
def shown(home: World, desktop: str, **env: str) -> Iterator[None]:
    """Have the VM's window on the desktop for the block."""
    home.ok("start", "heard", env={"DISPLAY": desktop, **env})
    try:
        yield
    finally:
        home.ok("stop", "heard")


def hears(home: World) -> bool:
    """Return whether an app of the guest hears more than silence by its microphone."""
    script = "timeout 2 parec --raw --format=s16le --rate=48000 --channels=1 | tr -d '\\0' | wc -c"
    return int(home.ok("run", "heard", "--", "sh", "-c", script)) > 1000


def test_what_a_vm_plays_is_heard_and_it_hears_by_leave_only(
    home: World, desktop: str, speakers: Speakers, tmp_path: Path
) -> None:
    tone = tmp_path / "tone"
    wave = (int(12000 * math.sin(2 * math.pi * _HERTZ * at / _RATE)) for at in range(_RATE * 4))
    tone.write_bytes(b"".join(struct.pack("<hh", sample, sample) for sample in wave))
    with shown(home, desktop, **speakers.env):
        home.ok("volume", "heard", "100")
        home.ok("cp", str(tone), "heard:tone")
        wait_until(lambda: home.call("run", "heard", "--", "pactl", "info").code == 0, 120)
        home.ok("run", "--no-sandbox", "heard", "--", *_PLAY)
        wait_until(lambda: len(speakers.tones()) > 10, 60)
        # A busy host loses some of it; what it plays is the tone.
        heard = sorted(speakers.tones())
        assert abs(heard[len(heard) // 2] - _HERTZ) <= 10, heard
        # Muted, and loud again.
        home.ok("volume", "heard", "mute")
        assert json.loads(home.ok("volume", "heard", "--json"))["muted"] is True
        assert home.call("volume", "heard", "101").code == 2
        home.ok("volume", "heard", "unmute")
        # What is said here is heard there between two commands, and at no other time.
        env = {"DISPLAY": desktop, **speakers.env}
        with speakers.speaking(tone):
            assert not hears(home)
            home.ok("mic", "on", "heard", env=env)
            wait_until(lambda: hears(home), 60)
            assert home.status("heard")["microphone"] is True
            home.ok("mic", "off", "heard", env=env)
            wait_until(lambda: not hears(home), 60)
            # Also where who gives it is killed.
            home.ok("mic", "on", "heard", env=env)
            os.kill(int((home.run_dir("heard") / "mic.life").read_text()), signal.SIGKILL)
            wait_until(lambda: not hears(home), 60)
            assert home.status("heard")["microphone"] is None
            policy = home.config / "okubsd/policy.d/mic.policy"
            policy.parent.mkdir(exist_ok=True)
            policy.write_text("mic @host heard deny\n")
            refused = home.call("mic", "on", "heard", env=env)
            policy.unlink()
            assert refused.code == 1 and "mic.policy:1" in refused.err and not hears(home)
        # Nothing of an app's is loaded into the server, which runs outside of its wall.
        wall = ("run", "--no-sandbox", "heard", "--", "/usr/lib/okubsd/wall")
        assert home.call(*wall, "pactl", "load-module", "module-null-sink").code != 0
        assert home.call(*wall, "pactl", "exit").code != 0 or home.ok("run", "heard", "--", "pactl", "info")
    home.assert_nothing_left()


def test_what_is_the_users_is_there_in_his_language(home: World, desktop: str, shared: Path, tmp_path: Path) -> None:
    script = tmp_path / "rc"
    script.write_text("echo hooked >~/hooked\n")
    with home.up("heard"):
        home.ok("cp", str(script), "heard:.rc.local")
    home.ok("guard", "heard", "--accept") if home.call("guard", "heard").code == 0 else None
    done = home.call("start", "heard", env={"DISPLAY": desktop})
    assert done.code == 0, done.err
    # What cannot be shared is told, and the VM is there.
    assert f"{shared}/none' is not shared" in done.err
    said = home.ok("run", "heard", "--", "sh", "-c", "cat hooked here/mine; echo of the guest >here/new; ps | head -1")
    assert said.split("\n")[:2] == ["hooked", "of the host's"] and "COMMAND" in said
    assert (shared / "new").read_text() == "of the guest\n"
    shell = "read -r LANG </run/okubsd/locale; export LANG; date -d 2026-01-31 +%A; locale -a; locale charmap"
    said = home.ok("run", "heard", "--", "sh", "-c", shell)
    assert "sábado" in said and "pt_BR.utf8" in said and "UTF-8" in said
    status = home.status("heard")
    assert status["hook"] is True and status["language"] == "pt_BR"
    assert status["shares"] == [f"{shared} -> /home/user/here rw"]
    home.ok("stop", "heard")
    home.assert_nothing_left()


def test_what_a_guest_asks_is_asked_of_the_policy(home: World, desktop: str, tmp_path: Path) -> None:
    rules, policy = home.config / "okubsd/open.rules", home.config / "okubsd/policy.d/asks.policy"
    policy.parent.mkdir(exist_ok=True)
    told = tmp_path / "bin/notify-send"
    told.parent.mkdir()
    told.write_text(f'#!/bin/sh\nprintf "%s|" "$@" >>{tmp_path}/told\n')
    told.chmod(0o755)
    env = {"PATH": f"{told.parent}:{os.environ['PATH']}", "DISPLAY": desktop}
    opens = ("run", "--no-sandbox", "heard", "--", "/usr/lib/okubsd/wall", "xdg-open")

    def opened() -> str:
        return home.call("run", "heard", "--", "cat", "opened").out

    rules.write_text("url own.invalid heard viewer\nurl * vault here\n")
    try:
        with shown(home, desktop, **env):
            home.ok("run", "heard", "--", "rm", "-f", "opened")
            home.ok(*opens, "http://own.invalid/a b")
            wait_until(lambda: opened() == "http://own.invalid/a%20b\n", 60)
            # Another VM is not asked for where the policy says no, and none is started.
            policy.write_text("open heard vault deny\nnotify heard @host deny\n")
            home.ok(*opens, "http://other.invalid/")
            home.ok("run", "heard", "--", "notify-send", "not", "shown")
            policy.write_text("open heard vault deny\n")
            home.ok("run", "heard", "--", "notify-send", "-t", "5", "a title", "<b>bold</b>")
            wait_until((tmp_path / "told").exists)
            said = (tmp_path / "told").read_text()
            assert said == "--app-name=okubsd|--|[heard] a title|&lt;b&gt;bold&lt;/b&gt;|"
            # An app that speaks D-Bus is heard the same way.
            home.ok("start", "heard", "teller", env=env)
            wait_until(lambda: "bus" in (tmp_path / "told").read_text(), 60)
            assert (tmp_path / "told").read_text()[len(said) :].startswith("--app-name=okubsd|--|[heard] by a bus|")
            assert "from" in (tmp_path / "told").read_text() and "<i>" not in (tmp_path / "told").read_text()
            assert not home.running("vault")
            assert home.call(*opens, "/etc/passwd").code == 3 and home.call(*opens, "nothing").code == 2
            # A flood hurts nobody: what is too much is dropped, and the next is heard.
            flood = "for i in $(seq 200); do echo 'open\thttp://own.invalid/flood' >/run/okubsd/asks; done"
            home.ok("run", "--no-sandbox", "heard", "--", "sh", "-c", flood)
            wait_until(lambda: home.call(*opens, "http://own.invalid/last").code == 0 and "last" in opened(), 120)
            assert opened().count("flood") <= 60
    finally:
        rules.unlink()
        policy.unlink(missing_ok=True)
    home.assert_nothing_left()


def test_an_image_is_tried_with_the_file_of_its_recipe(home: World) -> None:
    done = home.call("image", "try", "heard", "--json")
    rows = {row["app"]: row for row in json.loads(done.out)["tried"]}
    assert rows["paper"]["fault"] == "" and rows["paper"]["file"] == "note.txt" and rows["term"]["fault"] == ""
    assert 0 < rows["paper"]["memory_bytes"] < 256 << 20 and rows["paper"]["seconds"] > 0
    assert done.code == 0 and not (home.state / "trial/vms").exists()
    home.assert_nothing_left()
