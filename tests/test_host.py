"""The door, the store and the keys: what is on disk after a success, a failure and a kill."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from okubsd.errors import BadDescription, HostLacks, Problem, Unknown
from okubsd.host import builder, door, facts, keys, locks, programs, store, walls
from okubsd.host.console import EscapeFilter
from okubsd.host.places import Places, description_candidates, find_places
from okubsd.host.reading import read_description, read_recipes, read_text
from okubsd.host.sockets import listener_pid
from okubsd.model import Image, Kind, Part
from okubsd.recipe import Recipe


@pytest.fixture
def places(tmp_path: Path) -> Places:
    found = find_places()
    found.state.mkdir(parents=True)
    return found


def make_image(places: Places, name: str = "term", data: bytes = b"drive") -> Image:
    made = places.images / ".making-x"
    made.mkdir(parents=True)
    (made / "drive.squashfs").write_bytes(data)
    part = Part("drive.squashfs", store.hash_file(made / "drive.squashfs"), len(data))
    image = Image(name=name, kind=Kind.APP, build=part.sha256[:12], recipe="r", base="", built=1, parts=(part,))
    store.publish(places, image, made)
    return image


def test_a_published_image_is_current_and_the_older_one_stays(places: Places) -> None:
    older = make_image(places)
    newer = make_image(places, data=b"newer")
    assert store.current_image(places, "term") == newer
    names = sorted(path.name for path in (places.images / "term").iterdir())
    assert names == sorted([older.build, newer.build, "current"])


def test_publishing_the_same_bytes_again_is_harmless(places: Places) -> None:
    assert make_image(places) == make_image(places)


def test_one_changed_byte_is_found_before_a_boot(places: Places) -> None:
    image = make_image(places)
    store.verify(places, [image], places.state)
    path = store.part_path(places, image, "drive.squashfs")
    path.chmod(0o644)
    path.write_bytes(b"drivE")
    with pytest.raises(Problem, match="damaged") as caught:
        store.verify(places, [image], places.state)
    assert "image build --force term" in caught.value.hint


def test_a_change_that_sets_the_date_back_is_found_too(places: Places) -> None:
    image = make_image(places)
    store.verify(places, [image], places.state)
    path = store.part_path(places, image, "drive.squashfs")
    before = path.stat()
    path.chmod(0o644)
    path.write_bytes(b"drivE")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(Problem, match="damaged"):
        store.verify(places, [image], places.state)


def test_a_verified_file_is_not_read_again(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    image = make_image(places)
    store.verify(places, [image], places.state)
    monkeypatch.setattr(store, "hash_file", lambda path: pytest.fail(f"{path} was read"))
    store.verify(places, [image], places.state)


def test_a_broken_cache_is_only_a_cache(places: Places) -> None:
    image = make_image(places)
    (places.state / "verified.json").write_bytes(b"\xff{")
    store.verify(places, [image], places.state)


def test_a_half_image_is_none(places: Places) -> None:
    image = make_image(places)
    part = store.part_path(places, image, "drive.squashfs")
    part.unlink()
    assert store.current_image(places, "term") is None
    (places.images / "term/current/manifest.json").chmod(0o644)
    (places.images / "term/current/manifest.json").write_text("{")
    assert list(store.all_images(places)) == []


def test_removing_an_image_that_is_not_there_names_the_nearest(places: Places) -> None:
    make_image(places)
    with pytest.raises(Unknown, match="did you mean 'term'"):
        store.remove(places, "trem")
    store.remove(places, "term")
    assert not (places.images / "term").exists()


def test_a_killed_builds_leftovers_go_at_the_next_build(places: Places) -> None:
    left = places.images / ".making-old"
    (left / "tree").mkdir(parents=True)
    with builder._making(places.images) as made:
        assert made.is_dir() and not left.exists()
    assert not made.exists()


def test_a_failed_build_leaves_the_current_image(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    image = make_image(places)
    recipe = Recipe(name="term", kind=Kind.APP, base="", digest="other")

    def fail(*_: object) -> None:
        raise Problem("No space left on device")

    monkeypatch.setattr(builder, "_build_in", fail)
    with pytest.raises(Problem):
        builder.build(places, recipe, lambda line: None)
    assert store.current_image(places, "term") == image
    assert not list(places.images.glob(".making-*"))


def test_an_up_to_date_image_is_not_built(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    image = make_image(places)
    monkeypatch.setattr(builder, "_build_in", lambda *_: pytest.fail("built"))
    assert builder.build(places, Recipe(name="term", kind=Kind.APP, digest="r"), lambda line: None) == image


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "file"
    door.write(target, b"old")
    monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        door.write(target, b"new")
    assert target.read_bytes() == b"old" and list(tmp_path.iterdir()) == [target]


def test_secrets_are_for_their_owner_alone(tmp_path: Path) -> None:
    keys.make_keys(tmp_path, "browser")
    keys.make_cookie(tmp_path)
    for name in ("id_ed25519", "host_ed25519", "cookie", "Xauthority"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "known_hosts").read_text().startswith("browser ssh-ed25519 ")
    assert len(keys.read_secrets(tmp_path, b"").host_seed) == 32


def test_each_vm_has_keys_of_its_own(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        keys.make_keys(tmp_path / name, name)
    assert (tmp_path / "a/id_ed25519").read_bytes() != (tmp_path / "b/id_ed25519").read_bytes()


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    keys.make_keys(tmp_path, "browser")
    (tmp_path / "id_ed25519").chmod(0o644)
    with pytest.raises(Problem, match="read by others") as caught:
        keys.check_keys(tmp_path)
    assert caught.value.hint == f"chmod 0600 {tmp_path / 'id_ed25519'}"


@pytest.mark.parametrize("name", ["id_ed25519", "host_ed25519", "id_ed25519.pub"])
def test_a_missing_key_is_told(tmp_path: Path, name: str) -> None:
    keys.make_keys(tmp_path, "browser")
    (tmp_path / name).unlink()
    with pytest.raises(Problem, match="missing"):
        keys.read_secrets(tmp_path, b"")


def test_a_damaged_host_key_is_told(tmp_path: Path) -> None:
    keys.make_keys(tmp_path, "browser")
    (tmp_path / "host_ed25519").write_bytes(b"short")
    with pytest.raises(Problem, match="damaged"):
        keys.read_secrets(tmp_path, b"")


def test_a_listener_is_known_by_its_pid_and_a_stale_socket_by_silence(tmp_path: Path) -> None:
    path = tmp_path / "s"
    assert listener_pid(path) is None
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        assert listener_pid(path) is None
        server.listen()
        assert listener_pid(path) == os.getpid()
    assert path.exists() and listener_pid(path) is None


def test_a_pid_that_is_now_another_process_is_nobody(places: Places) -> None:
    run = places.vm_run("browser")
    run.mkdir(parents=True)
    (run / "display").write_text("0\n")
    for name in ("qmp", "qemu.life", "display.life"):
        (run / name).touch()
    state = facts.ask_vm(places, "browser")
    assert not state.running and state.display is None


@pytest.mark.spawns
def test_a_lock_dies_with_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    code = "import fcntl,sys,time; f=open(sys.argv[1],'a'); fcntl.flock(f,fcntl.LOCK_EX); print('held',flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        with path.open("a") as stream, pytest.raises(BlockingIOError):
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with locks.locked(path, lambda: pytest.fail("waited for the dead")):
            pass


@pytest.mark.spawns
def test_a_program_lives_from_before_it_runs_until_it_is_gone(tmp_path: Path) -> None:
    life = tmp_path / "life"
    assert not locks.is_alive(life)
    process = door.spawn(("sleep", "60"), tmp_path / "log", life=life)
    assert locks.is_alive(life) and locks.is_alive(life)
    process.kill()
    process.wait()
    assert not locks.is_alive(life)


def test_a_lock_is_not_passed_on_to_children(tmp_path: Path) -> None:
    with locks.locked(tmp_path / "lock"):
        descriptors = [int(path.name) for path in Path("/proc/self/fd").iterdir()]
        held = [fd for fd in descriptors if _target(fd) == str(tmp_path / "lock")]
        assert held and not any(os.get_inheritable(fd) for fd in held)


def _target(fd: int) -> str:
    try:
        return str(Path(f"/proc/self/fd/{fd}").readlink())
    except OSError:
        return ""


def test_a_directory_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(Problem, match="not a directory of yours"):
        door.make_private(tmp_path)
    link = tmp_path / "link"
    monkeypatch.undo()
    link.symlink_to(tmp_path)
    with pytest.raises(Problem, match="not a directory of yours"):
        door.make_private(link)


def test_a_missing_program_is_a_lack_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HostLacks, match="'nosuchprogram'") as caught:
        door.run(("nosuchprogram",))
    assert "doctor" in caught.value.hint
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(programs, "_EXTRA_PATH", ())
    with pytest.raises(HostLacks, match="Xephyr") as caught:
        door.run(("Xephyr",))
    assert caught.value.hint == "sudo apt-get install xserver-xephyr"


@pytest.mark.spawns
def test_a_program_that_hangs_is_gone_after_its_time() -> None:
    start = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        door.run(("sleep", "60"), timeout=0.2)
    assert time.monotonic() - start < 30
    with pytest.raises(Problem, match="did not end within"):
        door.must(("sleep", "60"), "waiting", timeout=0.2)


@pytest.mark.spawns
def test_a_failure_is_told_in_the_programs_last_words() -> None:
    with pytest.raises(Problem) as caught:
        door.must(("sh", "-c", "printf 'a\\033[31m\\nb\\n' >&2; exit 3"), "trying")
    assert caught.value.sentence == "trying: a?[31m; b"


@pytest.mark.spawns
def test_a_file_does_not_grow_past_its_bound(tmp_path: Path) -> None:
    process = door.spawn(("sh", "-c", "sleep 0.2; yes"), tmp_path / "log", largest_file=65536)
    # It ends by itself, of the signal that a file brings which may not grow.
    assert process.wait(60) != 0
    assert 0 < (tmp_path / "log").stat().st_size <= 65536


@pytest.mark.spawns
@pytest.mark.parametrize(
    ("script", "answer"),
    [("printf k", True), ("sleep 60", False), ("exit 1", False), ("echo error >&2", False)],
    ids=["speaks", "hangs", "fails", "is silent"],
)
def test_the_accelerator_is_what_a_guest_ran_on(
    script: str, answer: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "bin/qemu-system-x86_64"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    device = tmp_path / "kvm"
    device.touch()
    found = walls.probe_accelerator(device, timeout=0.5)
    assert (found.name == "kvm") is answer
    assert answer or "does not run" in found.why


def test_no_device_means_no_probe(tmp_path: Path) -> None:
    assert "has no" in walls.probe_accelerator(tmp_path / "kvm").why


def test_descriptions_are_looked_for_in_order(tmp_path: Path) -> None:
    env = {"HOME": "/h"}
    assert [str(path) for path in description_candidates("", Path("/s"), env)] == [
        "/h/.config/okubsd/okubsd.yaml",
        "/etc/okubsd/okubsd.yaml",
        "/s/etc/okubsd.yaml",
    ]
    assert description_candidates("", Path("/s"), {**env, "OKUBSD_CONFIG": "/c"}) == (Path("/c"),)
    assert description_candidates("mine", Path("/s"), {"OKUBSD_CONFIG": "/c"}) == (Path("mine"),)
    assert description_candidates("", Path("/s"), {"XDG_CONFIG_HOME": "/x"})[0] == Path("/x/okubsd/okubsd.yaml")


def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path: Path, places: Places) -> None:
    with pytest.raises(BadDescription, match="no such file"):
        read_description(places, str(tmp_path / "none.yaml"), {})
    (tmp_path / "latin.yaml").write_bytes(b"vms: \xe9\n")
    with pytest.raises(BadDescription, match="not UTF-8"):
        read_text(tmp_path / "latin.yaml")


def test_the_sample_has_the_eight_vms(places: Places) -> None:
    description = read_description(places, "", read_recipes(places))
    assert {vm.name for vm in description.vms} == {"browser", "gimp", "office", "ide", "p2p", "mail", "vault", "term"}
    assert next(vm for vm in description.vms if vm.name == "vault").network.name == "none"


def test_a_users_recipe_replaces_the_shipped_one(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    own = tmp_path / "config/okubsd/images/term/recipe.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("from: base\npackages: [rxvt-unicode]\napps: {term: [urxvt]}\n")
    assert read_recipes(places)["term"].packages == ("rxvt-unicode",)


def test_a_changed_file_of_a_recipe_changes_its_digest(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    own = tmp_path / "config/okubsd/images/mine"
    (own / "files").mkdir(parents=True)
    (own / "recipe.yaml").write_text("from: base\nfiles: files\napps: {a: [a]}\n")
    (own / "files/x").write_text("1")
    before = read_recipes(places)["mine"].digest
    (own / "files/x").write_text("2")
    assert read_recipes(places)["mine"].digest != before


@pytest.mark.parametrize(
    ("typed", "sent", "left"),
    [
        (b"ls\r", b"ls\r", False),
        (b"~.", b"", True),
        (b"a~.", b"a~.", False),
        (b"a\r~.b", b"a\r", True),
        (b"~~x", b"~x", False),
        (b"~x", b"~x", False),
    ],
)
def test_the_console_is_left_by_tilde_dot_at_a_lines_start(typed: bytes, sent: bytes, left: bool) -> None:
    whole, bytewise = EscapeFilter(), EscapeFilter()
    assert (whole.feed(typed), whole.left) == (sent, left)
    parts = [bytewise.feed(bytes([byte])) for byte in typed if not bytewise.left]
    assert (b"".join(parts), bytewise.left) == (sent, left)


@pytest.mark.spawns
def test_a_guest_that_talks_without_end_or_not_at_all_is_given_up() -> None:
    done = door.ask(("sh", "-c", "cat; echo told >&2; exit 3"), timeout=20, data=b"given")
    assert done == door.Done(3, b"given", b"told\n")
    before = time.monotonic()
    assert door.ask(("yes",), timeout=60) == door.Done(door.GAVE_UP, err=b"it says too much")
    assert door.ask(("sh", "-c", "yes >&2"), timeout=60).code == door.GAVE_UP
    assert door.ask(("sleep", "60"), timeout=0.2) == door.Done(door.GAVE_UP, err=b"no answer")
    # One that closes what it writes to is waited for no longer.
    assert door.ask(("sh", "-c", "exec >&- 2>&-; exec sleep 60"), timeout=0.2).code == door.GAVE_UP
    assert time.monotonic() - before < 30


def test_what_a_guest_says_does_nothing_to_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    from okubsd.cli.session import print_table

    print_table(("NAME", "STATE"), [("a\x1b[2J", "\x9b31mred\x07")])
    assert capsys.readouterr().out == "NAME  STATE\na[2J  31mred\n"
