"""What a mistake, a guest or a busy host must not do: small parts of it, without a VM."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from okubsd.cli.check import _as_dict
from okubsd.cli.doctor import build_obstacles
from okubsd.cli.main import BUG, call
from okubsd.cli.rows import changes
from okubsd.cli.session import Harmless, harmless, print_json
from okubsd.config.edit import remove_vm, rename_vm
from okubsd.errors import BadClock, BadDescription, HostLacks, Mistake, Problem, Unreachable
from okubsd.host import door, homes, keeper, locks, running, sockets, walls
from okubsd.host.door import Done
from okubsd.host.perform import display
from okubsd.host.perform.display import check_clock
from okubsd.host.performance import app_words
from okubsd.host.places import find_places
from okubsd.host.reading import drop_ins_of, misnamed_files
from okubsd.model import Network, NetworkKind, Vm
from okubsd.plan import steps
from okubsd.plan.facts import Accelerator
from okubsd.plan.limits import QEMU, limits
from tests.conftest import CHECKOUT
from tests.test_network import wish_of

# --- mistakes lock nobody out -------------------------------------------------------------------


@pytest.fixture
def described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A description of the user's own."""
    path = tmp_path / "okubsd.yaml"
    path.write_text("vms:\n  term: {image: term, memory: 160M}  # mine\n  mail: {image: term}\n")
    monkeypatch.setenv("OKUBSD_CONFIG", str(path))
    return path


def test_a_broken_description_still_lists_what_runs(described: Path, capsys: pytest.CaptureFixture[str]) -> None:
    described.write_text("vms: [\n")
    assert call(["list"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("NAME") and captured.err.count("the description has mistakes") == 1
    assert call(["start", "term", "--headless"]) == 8


def test_a_broken_recipe_still_lists_what_runs(
    described: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "config/okubsd/images/mine/recipe.yaml"
    broken.parent.mkdir(parents=True)
    broken.write_text("from: [\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    assert call(["list"]) == 0 and "the description has mistakes" in capsys.readouterr().err


def test_check_lists_every_mistake_as_json(described: Path, capsys: pytest.CaptureFixture[str]) -> None:
    described.write_text("vms:\n  a: {image: term, memory: 1}\n  b: {image: nosuch}\n")
    assert call(["check", "--json"]) == 8
    told = json.loads(capsys.readouterr().out)
    first, second = told["mistakes"]
    assert first["file"] == str(described) and first["line"] == 2 and first["path"] == "vms.a.memory"
    assert first["found"] == "'1'" and first["allowed"].startswith("a size from") and second["line"] == 3
    assert second["found"] == "'nosuch'" and "term" in second["allowed"]


def test_a_mistake_that_is_only_text_is_told_with_its_place() -> None:
    told = _as_dict("/etc/okubsd.yaml:7: vms.a.home: it has 64M now")
    assert (told["file"], told["line"], told["path"]) == ("/etc/okubsd.yaml", 7, "vms.a.home")
    assert Mistake("x", file="f", line=3) == "x"


def test_editors_files_are_not_read_and_other_names_are_told(described: Path) -> None:
    drop_ins = described.parent / "vm.d"
    drop_ins.mkdir()
    (drop_ins / ".#mail.yaml").symlink_to("alice@host.4242:1700000000")
    for name in (".mail.yaml", "._mail.yaml", "bank.yaml", "other.yml"):
        (drop_ins / name).write_text("image: term\n")
    assert [path.name for path in drop_ins_of(described)] == ["bank.yaml"]
    assert [path.name for path in misnamed_files(described)] == ["other.yml"]
    instead = described.parent / "elsewhere/okubsd.yml"
    instead.parent.mkdir()
    instead.touch()
    assert instead in misnamed_files(described, [instead.with_suffix(".yaml")])
    assert call(["check"]) == 0


@pytest.mark.parametrize(
    "text", ["vms:\n  t:\n    image: term\n    deny: [any]\n    allow:\n", "vms:\n", "networks:\nvms:\n"]
)
def test_what_is_commented_out_is_empty(text: str, described: Path) -> None:
    described.write_text(text)
    assert call(["check"]) == 0


def test_check_judges_this_host_or_another(described: Path, capsys: pytest.CaptureFixture[str]) -> None:
    described.write_text("networks: {lab: {switch: 10.77.0.1/24}}\nvms: {a: {image: term, network: lab}}\n")
    assert call(["check"]) == 8
    assert "which only OpenBSD's vmd has" in capsys.readouterr().err
    assert call(["check", "--for", "openbsd"]) == 0
    described.write_text("vms: {a: {image: term, bandwidth: {up: 1M}}}\n")
    assert call(["check"]) == 0
    assert call(["check", "--for", "openbsd"]) == 8


def test_more_vms_behind_a_tunnel_are_qemus_limit_only() -> None:
    names = ", ".join(f"v{i}: {{image: term, network: p}}" for i in range(17))
    description = wish_of(f"networks: {{p: {{wireguard: f}}}}\nvms: {{{names}}}")
    (told,) = limits(description, QEMU)
    assert "17 VMs go through 'p.gw'" in told


def test_a_smaller_home_is_a_mistake() -> None:
    description = wish_of("vms: {a: {image: term, home: 64M}, b: {image: term, home: 64M, disposable: yes}}")
    (told,) = limits(description, QEMU, sizes={"a": 256 << 20, "b": 256 << 20})
    assert "vms.a.home: it has 256M now, and a home never shrinks" in told


# --- what runs is known by its start ------------------------------------------------------------


def test_what_changed_since_the_start_is_told() -> None:
    started = Vm(name="a", image="term", memory=256 << 20)
    later = msgspec.structs.replace(started, memory=512 << 20, network=Network(name="none", kind=NetworkKind.NONE))
    assert changes(started, later) == {"memory": "512M", "network": "none"}
    assert changes(started, started) == {} and changes(Vm(name="a", image=""), later) == {}


def test_a_vm_is_read_as_it_was_started(tmp_path: Path) -> None:
    places = find_places()
    run = places.vm_run("term")
    run.mkdir(parents=True)
    vm = Vm(name="term", image="term", memory=1 << 30)
    running.write_started(run, vm)
    assert running.read_started(places, "term") == vm
    (run / "started.json").write_text("{")
    assert running.started_or_bare(places, "term") == Vm(name="term", image="")
    running.write_started(run, Vm(name="other", image="term"))
    assert running.read_started(places, "term") is None


def test_renaming_keeps_home_keys_and_the_pinned_host(tmp_path: Path) -> None:
    from okubsd.host import keys

    places = find_places()
    places.vm("old").mkdir(parents=True)
    keys.make_keys(places.vm("old"), "old")
    (places.vm("old") / "home.img").write_bytes(b"home")
    homes.rename(places, "old", "new")
    assert (places.vm("new") / "home.img").read_bytes() == b"home" and not places.vm("old").exists()
    assert (places.vm("new") / "known_hosts").read_text().count("new ssh-ed25519 ") == 1
    places.vm("old").mkdir()
    (places.vm("old") / "home.img").write_bytes(b"other")
    with pytest.raises(Problem, match="has something of an earlier VM 'new'"):
        homes.rename(places, "old", "new")


def test_a_rename_and_a_removal_touch_nothing_else_of_the_text() -> None:
    text = "# mine\nnetworks:\n  p: {gateway: gw}   # through it\nvms:\n  gw: {image: tor-gateway}  # way out\n  a: {image: term}\n"
    assert rename_vm(text, "gw", "way") == text.replace("gw: {image", "way: {image").replace(
        "gateway: gw", "gateway: way"
    )
    assert remove_vm(text, "a") == text.replace("  a: {image: term}\n", "")
    with pytest.raises(Problem, match="is not in the description"):
        remove_vm(text, "nosuch")


def test_rename_and_rm_change_the_description_and_the_home(described: Path) -> None:
    places = find_places()
    places.vm("mail").mkdir(parents=True)
    (places.vm("mail") / "home.img").write_bytes(b"x")
    assert call(["rename", "mail", "post"]) == 0
    assert described.read_text() == "vms:\n  term: {image: term, memory: 160M}  # mine\n  post: {image: term}\n"
    assert call(["rename", "mail", "post"]) == 4, "it was done"
    assert call(["rm", "--yes", "--keep-home", "post"]) == 0
    assert (places.vm("post") / "home.img").exists() and "post" not in described.read_text()
    assert call(["rm", "--yes", "post"]) == 0 and not places.vm("post").exists()


# --- a host that says no ------------------------------------------------------------------------


@pytest.mark.parametrize("args", [["rm", "--yes", "t"], ["rename", "t", "u"]])
def test_a_vm_that_is_started_meanwhile_is_not_removed_or_renamed(
    args: list[str], described: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "vms:\n  t: {image: term, keep: yes}\n"
    described.write_text(text)
    home = homes.home_of(find_places(), "t")
    home.parent.mkdir(parents=True)
    home.write_bytes(b"mine")
    # It is stopped when that is asked first, and runs when the lock was got.
    states = iter((False, True))
    monkeypatch.setattr("okubsd.host.running.is_running", lambda places, name: next(states))
    assert call(args) == 1
    assert home.read_bytes() == b"mine" and described.read_text() == text


def test_bad_news_of_kvm_are_asked_three_times_and_by_doctor_always(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    answers = [Accelerator("tcg", "busy")] * 3 + [Accelerator("kvm", "ran")] * 2

    def probe() -> Accelerator:
        asked.append(1)
        return answers[len(asked) - 1]

    monkeypatch.setattr(walls, "probe_accelerator", probe)
    places = find_places()
    assert [walls.ask_accelerator(places).name for _ in range(5)] == ["tcg"] * 5 and len(asked) == 3
    assert walls.ask_accelerator(places, anew=True).name == "kvm" and walls.ask_accelerator(places).name == "kvm"
    assert len(asked) == 4


@pytest.mark.spawns
def test_whether_namespaces_are_allowed_is_asked_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["refused", ""])
    monkeypatch.setattr(walls, "_try_wall", lambda: next(answers))
    assert walls.ask_wall() == "refused" and walls.ask_wall() == ""


def test_a_users_build_needs_other_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("okubsd.cli.doctor.is_root", lambda: False)
    monkeypatch.setattr("okubsd.cli.doctor._has_subordinates", lambda user: False)
    assert any("usermod --add-subuids" in told for told in build_obstacles())


def test_a_display_that_is_dead_is_told_before_anything_is_built(tmp_path: Path) -> None:
    with pytest.raises(HostLacks, match="the X display :31999 does not answer"):
        sockets.check_desktop(":31999")
    sockets.check_desktop("far.example:0")


@pytest.mark.spawns
def test_a_dry_start_needs_no_display(
    described: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walls, "ask_accelerator", lambda places: Accelerator("tcg", "x"))
    monkeypatch.setattr(walls, "_try_wall", lambda: "refused")
    assert call(["start", "-n", "term"]) == 0 and "Xvfb" in capsys.readouterr().out
    assert call(["start", "-n", "--json", "term"]) == 0
    steps = json.loads(capsys.readouterr().out)["steps"]
    (qemu,) = [step["argv"] for step in steps if step["step"] == "StartQemu"]
    devices = [qemu[at + 1].split(",")[0] for at, word in enumerate(qemu) if word == "-device"]
    assert devices == ["virtio-blk-pci"] * 3 + ["virtio-net-pci", "virtio-rng-pci"]
    assert call(["start", "--json", "term"]) == 2
    assert call(["restart", "-n", "term"]) == 0 and "qemu-system" in capsys.readouterr().out


def test_a_bug_is_told_with_a_file_and_not_as_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("odd \x1b[31m")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(running, "ask_stalls", fail)
    assert call(["list"]) == BUG
    err = capsys.readouterr().err
    assert "this is a bug of okubsd" in err and "Traceback" not in err and "\x1b" not in err
    (told,) = tmp_path.glob("okubsd-bug-*.txt")
    assert "Traceback" in told.read_text() and told.stat().st_mode & 0o077 == 0


@pytest.mark.spawns
def test_an_interrupt_while_modules_are_read_says_nothing(tmp_path: Path) -> None:
    code = "import os, signal, sys; sys.argv = ['okubsd', 'list']; import okubsd.__main__ as m\n"
    code += "class Hit:\n    def find_spec(self, name, path=None, target=None):\n"
    code += "        if name == 'click': os.kill(os.getpid(), signal.SIGINT)\n"
    code += "sys.meta_path.insert(0, Hit()); m.main()"
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGINT and done.stderr == ""


# --- guests: words, displays, locks -------------------------------------------------------------

HIDDEN = "\u202a\u202e\u2066\u2069\u200e\u200f\u061c\u2028\u2029\ufeff\U000e0041\x9b\x1b"


def test_letters_that_are_not_seen_do_not_reach_a_terminal() -> None:
    assert (
        harmless(f"a{HIDDEN}b") == "ab"
        and harmless("\u0645\u06cc\u200c\u062e 👩\u200d💻") == "\u0645\u06cc\u200c\u062e 👩\u200d💻"
    )


@given(st.lists(st.binary(max_size=20), max_size=20))
def test_pieces_say_the_same_as_the_whole(pieces: list[bytes]) -> None:
    clean, whole = Harmless(), Harmless()
    told = b"".join([*(clean(piece) for piece in pieces if piece), clean(b"")])
    joined = b"".join(pieces)
    assert told == (whole(joined) if joined else b"") + whole(b"")
    assert not set(told.decode()) & set(HIDDEN)


def test_what_was_typed_reaches_no_terminal_raw(described: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for args in (["image", "rm", "a\x1b[31mb"], ["run", "te\u202erm", "--", "ls"], ["list", "\x1b[31m"]):
        assert call(args) != 0
        assert not set("\x1b\u202e") & set(capsys.readouterr().err), args


def test_json_is_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    print_json(word=f"ü{HIDDEN}")
    out = capsys.readouterr().out
    assert out.isascii() and out.isprintable() is False and json.loads(out)["word"] == f"ü{HIDDEN}"
    assert all(letter == "\n" or letter.isprintable() for letter in out)


def test_an_app_is_told_by_its_own_last_words(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    log.write_text(
        "okubsd: term ended with 1: before\nokubsd: ready 1\nokubsd: other ended with 1: no\nokubsd: term ended with 0: \n"
    )
    assert app_words(log, "term", 0) == (": it said nothing", 0)
    assert app_words(log, "term", log.stat().st_size) == ("", 0)
    log.write_bytes(b"okubsd: term ended with 3: \x1b]0;x\x07cannot\xff open\n")
    assert app_words(log, "term", 0)[0].isprintable() and "cannot" in app_words(log, "term", 0)[0]


def test_a_clock_that_runs_away_is_noticed_and_a_slow_boot_is_none() -> None:
    for uptime, elapsed in ((2.4, 3.0), (40.0, 45.0), (2.0, 90.0), (24.0, 1.0)):
        check_clock(uptime, elapsed)
    with pytest.raises(BadClock, match="43 times too fast"):
        check_clock(258.0, 6.0)


@given(st.binary(max_size=200))
def test_any_log_is_read(data: bytes) -> None:
    import tempfile

    with tempfile.NamedTemporaryFile() as file:
        file.write(data + b"\nokubsd: term ended with 3: " + data)
        file.flush()
        assert app_words(Path(file.name), "term", 0)[0].isprintable()


def test_a_child_that_hangs_is_killed_and_one_that_dies_is_told() -> None:
    def hang(end: socket.socket) -> None:
        end.sendall(b"here\n")
        time.sleep(1000)

    child = door.Child(hang, memory=1 << 30)
    assert child.ask(20) == b"here" and child.ask(0.1) is None
    child.end()

    def die(end: socket.socket) -> None:
        raise RuntimeError("no")

    child = door.Child(die, memory=1 << 30)
    assert child.ask(20) == b""
    child.end()


def test_a_child_may_hold_no_more_than_it_is_given() -> None:
    def swell(end: socket.socket) -> None:
        held = bytearray(2 << 30)
        end.sendall(b"%d\n" % len(held))

    child = door.Child(swell, memory=512 << 20)
    assert child.ask(20) == b""
    child.end()


def test_a_child_holds_no_lock_of_its_parents(tmp_path: Path) -> None:
    def wait(end: socket.socket) -> None:
        end.sendall(b"here\n")
        end.recv(1)

    with locks.locked(tmp_path / "lock"):
        child = door.Child(wait, memory=1 << 30)
        assert child.ask(20) == b"here"
    with locks.locked(tmp_path / "lock", seconds=0.5):
        pass
    child.end()


def test_a_lock_is_not_waited_for_longer_than_it_is_worth(tmp_path: Path) -> None:
    told: list[int] = []
    with (
        locks.locked(tmp_path / "lock"),
        pytest.raises(locks.Busy),
        locks.locked(tmp_path / "lock", lambda: told.append(1), seconds=0.1),
    ):
        pass
    assert told == [1]


# --- the keeper ---------------------------------------------------------------------------------


class FakeQemu(threading.Thread):
    """Speaks as much QMP as the keeper listens to."""

    def __init__(self, run: Path) -> None:
        super().__init__(daemon=True)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(run / "events"))
        self.listener.listen(1)
        self.status = "running"
        self.heard: list[str] = []
        self.connection: socket.socket | None = None

    def run(self) -> None:
        self.connection, _ = self.listener.accept()
        # Who listens may have gone already.
        with contextlib.suppress(BrokenPipeError), self.connection.makefile("rb") as stream:
            self.say({"QMP": {}})
            for line in stream:
                command = json.loads(line)["execute"]
                self.heard.append(command)
                if command == "cont":
                    self.status = "running"
                    self.say({"return": {}})
                    self.say({"event": "RESUME"})
                elif command == "query-status":
                    self.say({"return": {"running": self.status == "running", "status": self.status}})
                else:
                    self.say({"return": {}})

    def say(self, message: Any) -> None:
        assert self.connection is not None
        self.connection.sendall(json.dumps(message).encode() + b"\r\n")


def wait_until(true: Any, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_guest_goes_on_when_there_is_room_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = [0]
    monkeypatch.setattr(keeper, "free", lambda path: room[0])
    qemu = FakeQemu(tmp_path)
    qemu.start()
    kept = threading.Thread(target=keeper.main, args=(str(tmp_path), str(tmp_path)), daemon=True)
    kept.start()
    wait_until(lambda: "query-status" in qemu.heard)
    qemu.status = "io-error"
    qemu.say({"event": "BLOCK_IO_ERROR", "data": {"nospace": True}})
    wait_until((tmp_path / "stall").exists)
    assert (tmp_path / "stall").read_text().strip() == keeper.NO_ROOM and "cont" not in qemu.heard
    room[0] = 1 << 30
    wait_until(lambda: "cont" in qemu.heard and not (tmp_path / "stall").exists())
    assert qemu.connection is not None
    qemu.connection.shutdown(socket.SHUT_RDWR)
    kept.join(20)
    assert not kept.is_alive(), "it ends with QEMU"


@pytest.mark.spawns
def test_where_nothing_more_can_be_written_it_is_still_said_that_there_is_no_room(tmp_path: Path) -> None:
    """The run directory lies on the file system of the homes, unless somebody moved them."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    script = (
        f"mount --make-rprivate $(stat -c %m {tmp_path}) && mount -t tmpfs -o size=64k tmpfs {tmp_path} && "
        f"exec {sys.executable} - {tmp_path}"
    )
    program = (
        "import os, sys\nfrom okubsd.host import keeper\n"
        "made = keeper.Keeper.__new__(keeper.Keeper)\n"
        "made.home = sys.argv[1]\nmade.stall = made.home + '/stall'\nmade._free_to_write()\n"
        "try:\n    open(made.home + '/home.img', 'wb').write(bytes(1 << 20))\nexcept OSError: pass\n"
        "for status in ('io-error', 'running', 'io-error'):\n"
        "    made._set(status)\n    print(open(made.stall).read().strip() if os.path.exists(made.stall) else '-')\n"
    )
    argv = ["unshare", "--mount", "--propagation", "unchanged", "sh", "-c", script]
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(argv, input=program, env=env, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [keeper.NO_ROOM, "-", keeper.NO_ROOM], done.stderr


def test_a_guests_clock_is_set_when_the_host_has_slept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept = [100.0]
    monkeypatch.setattr(keeper, "asleep", lambda: slept[0])
    called: list[list[str]] = []
    monkeypatch.setattr(keeper.subprocess, "run", lambda argv, **_: called.append(argv))
    qemu = FakeQemu(tmp_path)
    qemu.start()
    made = keeper.Keeper(str(tmp_path), str(tmp_path), ["okubsd", "clock", "web"], [])
    made.wake()
    slept[0] = 101.0
    made.wake()
    assert called == []
    slept[0] = 3700.0
    made.wake()
    made.wake()
    assert called == [["okubsd", "clock", "web"]]
    made.qmp.shutdown(socket.SHUT_RDWR)
    qemu.join(20)


@given(st.lists(st.binary(max_size=60), max_size=5))
def test_whatever_a_monitor_says_the_keeper_lives(lines: list[bytes]) -> None:
    made = keeper.Keeper.__new__(keeper.Keeper)
    made.pending, made.stalled, made.stall, made.home = b"", False, "/nonexistent/stall", "/"
    made.send = lambda command: None  # type: ignore[method-assign]
    for line in lines:
        made.take(line + b"\n")
        made.take(b'{"return": ' + line + b"}\n")


def test_a_log_that_grew_too_long_begins_anew(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    with log.open("wb") as stream:
        stream.truncate(65 << 20)
    keeper.bound_log(str(tmp_path))
    assert log.read_bytes() == b"okubsd: the log was longer than 64 MB, and begins anew\n"
    keeper.bound_log(str(tmp_path / "nowhere"))


def test_a_process_that_a_signal_stopped_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "live_qemu", lambda run: os.getpid())
    assert running.why_it_stands_still(tmp_path) == ""
    (tmp_path / "stall").write_text(keeper.NO_ROOM)
    assert running.why_it_stands_still(tmp_path) == keeper.NO_ROOM
    monkeypatch.setattr(running, "live_qemu", lambda run: None)
    assert running.why_it_stands_still(tmp_path) == ""


def test_bad_descriptions_keep_their_mistakes() -> None:
    with pytest.raises(BadDescription) as error:
        wish_of("vms: {a: {image: term, memory: 1}}")
    assert isinstance(error.value.mistakes[0], Mistake)


# --- what a start that was killed has left ---------------------------------------------------------


def _performance(booted_at: float = 0.0) -> Any:
    return SimpleNamespace(fill=lambda argv: argv, booted_at=booted_at)


@pytest.mark.parametrize(
    ("answers", "asked"),
    [
        ((Done(0),), 1),
        ((Done(255, err=b"Error: remote port forwarding failed for listen port 6010\n"), Done(0)), 2),
    ],
)
def test_a_port_that_another_connection_still_holds_is_waited_for(
    answers: tuple[Done, ...], asked: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given, calls = iter(answers), list[object]()
    monkeypatch.setattr(display.door, "ask", lambda argv, **_: calls.append(argv) or next(given))
    display.connect(steps.Connect(argv=("ssh",), what="x", socket=tmp_path / "none"), _performance())
    assert len(calls) == asked


def test_who_does_not_answer_is_asked_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[object] = []
    monkeypatch.setattr(display.door, "ask", lambda argv, **_: calls.append(argv) or Done(255, err=b"refused\n"))
    with pytest.raises(Unreachable, match="x: refused"):
        display.connect(steps.Connect(argv=("ssh",), what="x", socket=tmp_path / "none"), _performance())
    assert len(calls) == 1


@pytest.mark.parametrize(("booted_at", "tries"), [(0.0, 2), (5.0, 1)])
def test_an_app_that_ended_is_started_once_more_only_where_it_may_be_another_starts(
    booted_at: float, tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[object] = []

    def show(*given: object) -> None:
        shown.append(given)
        raise display._Ended("it ended")

    monkeypatch.setattr(display, "_show_app", show)
    with pytest.raises(Problem, match="it ended"):
        display.show_app(SimpleNamespace(), _performance(booted_at))  # type: ignore[arg-type]
    assert len(shown) == tries
