"""Copies are whole or not at all: by OpenSSH's own server on this host, and by servers that mean it badly."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from okubsd.cli.copy import path_in_guest
from okubsd.errors import Problem, TimedOut, Unreachable
from okubsd.host import door
from okubsd.host.copying import Files, Progress, fetch, fetch_tree, parse_tree, part_name, send, send_tree, spoken_by
from okubsd.host.copying.files import digest_of, digests_there
from okubsd.model import Vm
from tests.conftest import CHECKOUT

pytestmark = pytest.mark.spawns

SERVER = "/usr/lib/openssh/sftp-server"
VM = Vm(name="term", image="term")


def ask(command: str, seconds: float, largest: int) -> door.Done:
    # As the guest's login shell does.
    return door.ask(("sh", "-c", f'run() {{ "$@"; }}; {command}'), timeout=seconds, largest=largest)


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """The directory that stands for the guest's home."""
    (tmp_path / "there").mkdir()
    return tmp_path / "there"


@contextlib.contextmanager
def opened(there: Path) -> Iterator[Files]:
    """The real server, at home in ``there``."""

    def at_home(command: str, seconds: float, largest: int) -> door.Done:
        return ask(f"cd {there} && {command}", seconds, largest)

    with spoken_by((SERVER, "-d", str(there)), VM, at_home) as guest:
        yield guest


@pytest.fixture
def guest(there: Path) -> Iterator[Files]:
    with opened(there) as made:
        yield made


def filled(path: Path, size: int) -> Path:
    path.write_bytes(random.Random(size).randbytes(size))
    return path


@pytest.mark.parametrize("size", [0, 1, 32 << 10, 3 << 20, (4 << 20) + 1, 100 << 20])
def test_a_file_goes_in_and_out_whole(size: int, guest: Files, there: Path, tmp_path: Path) -> None:
    source = filled(tmp_path / "a b.bin", size)
    source.chmod(0o751)
    os.utime(source, (1_000_000_000, 1_000_000_000))
    send(guest, source, b"", Progress())
    sent = there / "a b.bin"
    assert sent.read_bytes() == source.read_bytes()
    assert stat.S_IMODE(sent.stat().st_mode) == 0o751 and sent.stat().st_mtime == 1_000_000_000
    fetch(guest, b"a b.bin", tmp_path / "back", Progress())
    assert (tmp_path / "back").read_bytes() == source.read_bytes()
    assert stat.S_IMODE((tmp_path / "back").stat().st_mode) == 0o751
    assert [path.name for path in there.iterdir()] == ["a b.bin"]


def test_a_sparse_file_of_5_gb_stays_sparse(guest: Files, there: Path, tmp_path: Path) -> None:
    source = tmp_path / "sparse"
    with source.open("wb") as stream:
        stream.truncate(5 << 30)
        stream.seek(3 << 30)
        stream.write(b"middle")
    send(guest, source, b"", Progress())
    sent = there / "sparse"
    assert sent.stat().st_size == 5 << 30 and sent.stat().st_blocks * 512 < 1 << 20
    with sent.open("rb") as stream:
        stream.seek(3 << 30)
        assert stream.read(6) == b"middle"


def test_zeros_of_a_guest_become_a_hole_here(guest: Files, there: Path, tmp_path: Path) -> None:
    (there / "zeros").write_bytes(bytes(2 << 20) + b"end" + bytes(1 << 20))
    fetch(guest, b"zeros", tmp_path / "zeros", Progress())
    assert (tmp_path / "zeros").read_bytes() == (there / "zeros").read_bytes()
    assert (tmp_path / "zeros").stat().st_blocks * 512 < 1 << 18


@pytest.mark.parametrize("name", [b"caf\xe9", b"-x", b"a\nb", b"a\xe2\x80\xaeb", b"'q' $(id)", b"\\b"])
def test_names_are_bytes(name: bytes, guest: Files, there: Path, tmp_path: Path) -> None:
    source = tmp_path / os.fsdecode(name)
    source.write_bytes(b"x")
    send(guest, source, b"", Progress())
    assert [os.fsencode(path.name) for path in there.iterdir()] == [name]
    (tmp_path / "in").mkdir()
    fetch(guest, name, tmp_path / "in", Progress())
    assert [os.fsencode(path.name) for path in (tmp_path / "in").iterdir()] == [name]


def test_the_home_may_be_called_by_its_tilde() -> None:
    assert path_in_guest("~/s.sh") == b"s.sh" and path_in_guest("~") == b"" and path_in_guest("/~/x") == b"/~/x"


def test_what_says_that_it_is_empty_is_read_to_its_end(guest: Files, there: Path, tmp_path: Path) -> None:
    send(guest, Path("/proc/version"), b"", Progress())
    assert (there / "version").read_bytes() == Path("/proc/version").read_bytes()
    fetch(guest, b"/proc/version", tmp_path / "v", Progress())
    assert (tmp_path / "v").read_bytes() == Path("/proc/version").read_bytes()


def test_only_regular_files_are_copied_and_nothing_is_waited_for(guest: Files, there: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    os.mkfifo(there / "fifo")
    for source in (tmp_path / "fifo", Path("/dev/zero"), tmp_path):
        with pytest.raises(Problem, match=r"is (no regular file|a directory)"):
            send(guest, source, b"x", Progress())
    with pytest.raises(Problem, match="is a directory in the guest"):
        fetch(guest, b".", tmp_path / "x", Progress())
    for nothing in (b"/dev/null", b"fifo"):
        with pytest.raises(Problem, match="is no regular file"):
            fetch(guest, nothing, tmp_path / "x", Progress())
    assert not (there / "x").exists() and not (tmp_path / "x").exists()


def test_a_directory_that_is_not_there_does_not_become_a_file(guest: Files, there: Path, tmp_path: Path) -> None:
    source = filled(tmp_path / "a", 10)
    with pytest.raises(Problem, match="there is no directory 'nosuch/' in the guest"):
        send(guest, source, b"nosuch/", Progress())
    with pytest.raises(Problem, match=r"there is no '.*nosuch/x'"):
        send(guest, source, b"nosuch/x", Progress())
    assert list(there.iterdir()) == []


def test_a_full_guest_is_told_and_keeps_what_it_had(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    small = tmp_path / "small"
    small.mkdir()
    # A root directory that is no mount point, as a chroot's, cannot be made private; what is mounted here can.
    script = (
        f"mount --make-rprivate $(stat -c %m {small}) && mount -t tmpfs -o size=1m tmpfs {small} && "
        f"exec {SERVER} -d {small}"
    )

    def within(command: str, seconds: float, largest: int) -> door.Done:
        return ask(command.replace("--", f"-- {small}/", 1) if command.startswith("df") else command, seconds, largest)

    source = filled(tmp_path / "three.bin", 3_000_000)
    with spoken_by(("unshare", "--mount", "--propagation", "unchanged", "sh", "-c", script), VM, within) as guest:
        guest.has_no_room = lambda _: True  # type: ignore[method-assign]  # df would have to be in that mount
        send(guest, filled(tmp_path / "old", 10), b"three.bin", Progress())
        with pytest.raises(Problem, match=r"there is no room in the guest for 'three\.bin'"):
            send(guest, source, b"three.bin", Progress())
        fetch(guest, b"three.bin", tmp_path / "kept", Progress())
        assert (tmp_path / "kept").read_bytes() == (tmp_path / "old").read_bytes()
        names = guest.client.listdir(".")
        assert names == ["three.bin"]


def test_a_full_host_is_told_as_the_hosts(guest: Files, there: Path, tmp_path: Path) -> None:
    filled(there / "x", 100)
    with pytest.raises(Problem, match="is no regular file"):
        fetch(guest, b"x", Path("/dev/full"), Progress())
    with pytest.raises(Problem, match=r"/proc"):
        fetch(guest, b"x", Path("/proc/x"), Progress())


def test_a_source_that_shrinks_or_grows(guest: Files, there: Path, tmp_path: Path) -> None:
    source = filled(tmp_path / "a", 1 << 20)

    class Shrinks(Progress):
        def __call__(self, done: int, total: int) -> None:
            os.truncate(source, 100_000)

    with pytest.raises(Problem, match="became shorter"):
        send(guest, source, b"", Shrinks())
    assert not (there / "a").exists()
    before = filled(source, 1 << 20).read_bytes()

    class Grows(Progress):
        def __call__(self, done: int, total: int) -> None:
            with source.open("ab") as stream:
                stream.write(b"more")

    send(guest, source, b"b", Grows())
    assert (there / "b").read_bytes() == before


def test_a_source_that_vanishes_is_copied_all_the_same(guest: Files, there: Path, tmp_path: Path) -> None:
    source = filled(tmp_path / "a", 1 << 20)
    data = source.read_bytes()

    class Vanishes(Progress):
        def __call__(self, done: int, total: int) -> None:
            source.unlink(missing_ok=True)

    send(guest, source, b"", Vanishes())
    assert (there / "a").read_bytes() == data


def test_a_cut_copy_goes_on_where_it_ended(guest: Files, there: Path, tmp_path: Path) -> None:
    source = filled(tmp_path / "a", 1 << 20)
    changed = int(source.stat().st_mtime)
    part = there / os.fsdecode(part_name(b"a", os.fsencode(source), 1 << 20, changed))
    part.write_bytes(source.read_bytes()[: 1 << 19])
    seen: list[int] = []

    class Notes(Progress):
        def __call__(self, done: int, total: int) -> None:
            seen.append(done)

    send(guest, source, b"", Notes())
    assert seen[0] == 1 << 19 and (there / "a").read_bytes() == source.read_bytes()
    part.write_bytes(b"damaged" * 1000)
    with pytest.raises(Problem, match="as it is here"):
        send(guest, source, b"", Progress())
    send(guest, source, b"", Progress())
    assert (there / "a").read_bytes() == source.read_bytes()


def test_a_copy_that_lies_elsewhere_each_time_is_gone_on_with(guest: Files, there: Path, tmp_path: Path) -> None:
    """From guest to guest: what is brought lies in a directory of another name at each call."""

    class Cut(Progress):
        def __call__(self, done: int, total: int) -> None:
            if done:
                raise KeyboardInterrupt

    for number in range(3):
        top = tmp_path / f"random{number}/top"
        top.mkdir(parents=True)
        filled(top / "a", 1 << 20)
        os.utime(top / "a", (5, 5))
        with contextlib.suppress(KeyboardInterrupt):
            send(guest, top / "a", b"one", Cut() if number < 2 else Progress(), origin=b"web:a")
        with contextlib.suppress(KeyboardInterrupt):
            send_tree(guest, top, b"", Cut() if number < 2 else Progress(), origin=b"web:top")
    assert {path.name for path in there.iterdir()} == {"one", "top"}
    assert [path.name for path in (there / "top").iterdir()] == ["a"]


def test_a_part_that_somebody_else_laid_is_not_written_to(guest: Files, there: Path, tmp_path: Path) -> None:
    filled(there / "x", 1000)
    os.utime(there / "x", (5, 5))
    victim = filled(tmp_path / "victim", 10)
    part = tmp_path / os.fsdecode(part_name(b"got", b"term:x", 1000, 5))
    for lay in (part.symlink_to, part.hardlink_to):
        lay(victim)
        fetch(guest, b"x", tmp_path / "got", Progress())
        assert (tmp_path / "got").read_bytes() == (there / "x").read_bytes() and len(victim.read_bytes()) == 10


def tree(top: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(top)): p.read_bytes() if p.is_file() else None for p in top.rglob("*")}


def test_directories_go_in_and_out(guest: Files, there: Path, tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "sub/empty").mkdir(parents=True)
    filled(top / "one", 1000)
    filled(top / "sub/two", 70_000).chmod(0o700)
    (top / os.fsdecode(b"caf\xe9")).write_bytes(b"x")
    wanted = tree(top)
    (top / "link").symlink_to("/etc/passwd")
    assert send_tree(guest, top, b"", Progress()) == 1
    assert tree(there / "top") == wanted
    (there / "top/link").symlink_to("/etc/passwd")
    assert fetch_tree(guest, b"top", tmp_path / "back", Progress()) == 1
    assert tree(tmp_path / "back") == wanted
    assert fetch_tree(guest, b"top", tmp_path / "back", Progress()) == 1
    assert tree(tmp_path / "back/top") == wanted


def test_many_files_are_compared_at_once(guest: Files, there: Path, tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "it's").mkdir(parents=True)
    for number in range(300):
        (top / f"it's/{number} \n'é'").write_text(f"{number}\n")
    asked, whole = list[bytes](), guest.run

    def run(*words: bytes, seconds: float = 120, largest: int = 1 << 16) -> door.Done:
        asked.append(b" ".join(words))
        return whole(*words, seconds=seconds, largest=largest)

    guest.run = run  # type: ignore[method-assign]
    send_tree(guest, top, b"", Progress())
    assert tree(there / "top") == tree(top)
    digests = [words for words in asked if words.startswith(b"sha256sum")]
    # A guest's ssh server takes 9000 bytes.
    assert 2 <= len(digests) <= 10 and max(map(len, digests)) < 8500


def test_one_file_of_many_that_differs_is_found(guest: Files, there: Path, tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    for number in range(20):
        (top / str(number)).write_text(f"{number}\n")
    whole = guest.run

    def run(*words: bytes, seconds: float = 120, largest: int = 1 << 16) -> door.Done:
        """As the guest's disk changes one of them."""
        if words[0] == b"sha256sum":
            (there / os.fsdecode(words[9])).write_text("xx\n")
        return whole(*words, seconds=seconds, largest=largest)

    guest.run = run  # type: ignore[method-assign]
    with pytest.raises(Problem, match=r"has not got '.*top/15' as it is here$"):
        send_tree(guest, top, b"", Progress())
    # None of them has got its name.
    assert all(name.startswith(".okubsd-part-") for name in os.listdir(there / "top"))  # noqa: PTH208


def test_all_that_differ_are_forgotten_at_once(guest: Files, there: Path, tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    for number in range(6):
        filled(top / str(number), 100)
    whole = guest.run

    def run(*words: bytes, seconds: float = 120, largest: int = 1 << 16) -> door.Done:
        done = whole(*words, seconds=seconds, largest=largest)
        return door.Done(0, b"".join(b"0" * 64 + line[64:] for line in done.out.splitlines(keepends=True)))

    guest.run = run  # type: ignore[method-assign]
    with pytest.raises(Problem, match=r"as it is here, nor 5 other files$"):
        send_tree(guest, top, b"", Progress())
    assert list((there / "top").iterdir()) == []


def test_a_guest_that_says_nothing_is_asked_once(guest: Files, tmp_path: Path) -> None:
    top, asked = tmp_path / "top", list[float]()
    top.mkdir()
    for number in range(400):
        (top / str(number)).write_text("x")
    whole = guest.run

    def run(*words: bytes, seconds: float = 120, largest: int = 1 << 16) -> door.Done:
        if words[0] != b"sha256sum":
            return whole(*words, seconds=seconds, largest=largest)
        asked.append(seconds)
        return door.Done(door.GAVE_UP)

    guest.run = run  # type: ignore[method-assign]
    with pytest.raises(TimedOut, match="does not say what it has got"):
        send_tree(guest, top, b"", Progress())
    assert len(asked) == 1


@pytest.mark.parametrize("name", [b"a\\b", b"a\nb", b"a b", b"\\", b"\xe9", b"a\\nb"])
def test_digests_are_told_by_names(name: bytes, guest: Files, there: Path) -> None:
    (there / os.fsdecode(name)).write_bytes(b"x")
    (there / "last").write_bytes(b"y")
    told = digests_there(guest, [(name, 1), (b"none", 1), (b"last", 1)])
    assert told == {name: hashlib.sha256(b"x").hexdigest(), b"last": hashlib.sha256(b"y").hexdigest()}


@given(st.binary(max_size=300))
def test_what_a_guest_says_of_digests_is_taken_or_not(said: bytes) -> None:
    class Says:
        vm = VM

        def run(self, *_: bytes, **__: object) -> door.Done:
            return door.Done(0, said + b"\n" + b"a" * 64 + b"  ./x\n")

    told = digests_there(Says(), [(b"x", 1), (b"y", 1)])  # type: ignore[arg-type]
    assert told.keys() <= {b"x", b"y"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_a_cut_copy_of_files_that_are_to_be_read_only_goes_on(there: Path, tmp_path: Path) -> None:
    """The guest's user is not root, and may not write to what is to be read only."""
    top = tmp_path / "top"
    top.mkdir()
    for number in range(5):
        filled(top / str(number), 1000).chmod(0o444 if number else 0o044)
    os.chown(there, 65534, 65534)
    tmp_path.chmod(0o755)

    class Cut(Progress):
        def __call__(self, done: int, total: int) -> None:
            if done > 2500:
                raise KeyboardInterrupt

    argv = ("setpriv", "--reuid", "65534", "--clear-groups", SERVER, "-d", str(there))

    def within(command: str, seconds: float, largest: int) -> door.Done:
        return ask(f"cd {there} && {command}", seconds, largest)

    with pytest.raises(KeyboardInterrupt), spoken_by(argv, VM, within) as guest:
        send_tree(guest, top, b"", Cut())
    with spoken_by(argv, VM, within) as guest:
        send_tree(guest, top, b"", Progress())
    assert tree(there / "top") == tree(top)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (there / "top").iterdir()} == {0o444, 0o044}


def test_nothing_of_a_listing_goes_through_a_link_that_is_there(there: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (tmp_path / "back/top").mkdir(parents=True)
    (tmp_path / "back/top/link").symlink_to(victim)
    (there / "top/link").mkdir(parents=True)
    (there / "top/link/keys").write_text("evil\n")
    for listing in (b"d 0 1 755 \0f 5 1 644 link/keys\0", b"d 0 1 755 \0d 0 1 755 link\0f 5 1 644 link/keys\0"):
        with opened(there) as guest:
            guest.run = lambda *_, listing=listing, **__: door.Done(0, listing)  # type: ignore[method-assign]
            with pytest.raises(Problem):
                fetch_tree(guest, b"top", tmp_path / "back", Progress())
    assert list(victim.iterdir()) == []


def test_a_copy_of_one_guest_is_not_gone_on_with_from_another(there: Path, tmp_path: Path) -> None:
    (there / "tool").write_bytes(b"A" * (1 << 20))
    os.utime(there / "tool", (1, 1))
    other = there / os.fsdecode(part_name(b"tool", b"other:tool", 1 << 20, 1))
    (tmp_path / other.name).write_bytes(b"B" * 1000)
    with opened(there) as guest:
        fetch(guest, b"tool", tmp_path / "tool", Progress())
        assert (tmp_path / "tool").read_bytes() == (there / "tool").read_bytes()
        mine = tmp_path / os.fsdecode(part_name(b"tool", b"term:tool", 1 << 20, 1))
        mine.write_bytes(b"B" * 1000)
        mine.chmod(0o600)
        with pytest.raises(Problem, match="is another file than when its copy was begun"):
            fetch(guest, b"tool", tmp_path / "tool", Progress())
        assert not mine.exists() and (tmp_path / "tool").read_bytes() == (there / "tool").read_bytes()


@pytest.mark.parametrize("name", [b"-delete", b"(", b"!", b"-files0-from"])
def test_a_name_is_no_expression_of_find(name: bytes, guest: Files, there: Path, tmp_path: Path) -> None:
    (there / "precious").write_text("x")
    (there / os.fsdecode(name)).mkdir()
    (there / os.fsdecode(name) / "in").write_text("in")
    fetch_tree(guest, name, tmp_path / "back", Progress())
    assert (tmp_path / "back/in").read_text() == "in" and (there / "precious").exists()


def test_dates_before_1970_and_after_2106_and_modes_of_directories(guest: Files, there: Path, tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "closed").mkdir(parents=True)
    (top / "old").write_text("x")
    os.utime(top / "old", (-5, -5))
    (top / "late").write_text("x")
    os.utime(top / "late", (2**33, 2**33))
    (top / "closed").chmod(0o700)
    os.utime(top / "closed", (1_000_000_000, 1_000_000_000))
    send_tree(guest, top, b"", Progress())
    assert stat.S_IMODE((there / "top/closed").stat().st_mode) == 0o700
    os.utime(there / "top/old", (-5, -5))
    fetch_tree(guest, b"top", tmp_path / "back", Progress())
    for made in (there / "top/closed", tmp_path / "back/closed"):
        assert stat.S_IMODE(made.stat().st_mode) == 0o700 and made.stat().st_mtime == 1_000_000_000
    assert (tmp_path / "back/old").read_text() == "x" and (there / "top/old").exists()


def test_a_private_target_stays_private(guest: Files, there: Path, tmp_path: Path) -> None:
    (there / "x").write_text("x")
    (tmp_path / "x").write_text("old")
    (tmp_path / "x").chmod(0o600)
    fetch(guest, b"x", tmp_path / "x", Progress())
    assert (tmp_path / "x").read_text() == "x" and stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o600


def test_odd_targets_are_told_in_a_sentence(guest: Files, there: Path, tmp_path: Path) -> None:
    (there / "x").write_text("x")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for target in (tmp_path / "loop", tmp_path / ("a" * 300)):
        with pytest.raises(Problem):
            fetch(guest, b"x", target, Progress())


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x", "a//b", ".", "a/", "a" * 300])
def test_a_hostile_listing_leads_nowhere(path: str) -> None:
    with pytest.raises(ValueError, match="leads elsewhere"):
        parse_tree(f"d 0 1.5 755 \0f 3 1.5 644 {path}\0".encode())


@given(st.binary(max_size=200))
def test_any_listing_is_taken_or_refused(data: bytes) -> None:
    for listing in (data, b"d 0 1 755 \0f 1 1 644 " + data + b"\0"):
        with contextlib.suppress(ValueError):
            entries, _ = parse_tree(listing)
            assert not any(b".." in entry.path.split(b"/") or entry.path.startswith(b"/") for entry in entries)


@contextlib.contextmanager
def hostile(kind: str) -> Iterator[Files]:
    argv = (sys.executable, str(CHECKOUT / "tests/sftp_double.py"), kind)
    with spoken_by(argv, VM, lambda *_: door.Done(1)) as made:
        yield made


@pytest.mark.parametrize(
    ("kind", "said", "error"),
    [
        ("promises", "became shorter", Problem), ("shorter", "became shorter", Problem),
        ("huge", "does not speak SFTP", Unreachable), ("garbage", "did not answer within", TimedOut),
        ("silent", "did not answer within", TimedOut), ("drips", "did not answer within", TimedOut), ("chatty", "did not answer within", TimedOut),
        ("dies", "was cut", Unreachable), ("names", "no regular file", Problem),
    ],
)  # fmt: skip
def test_a_hostile_server_is_told_and_leaves_nothing(
    kind: str, said: str, error: type[Problem], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("okubsd.host.copying.files.ANSWER_SECONDS", 2.0)
    # However small the disk is that this runs on.
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1 << 40})())
    with pytest.raises(error, match=said) as told, hostile(kind) as guest:
        fetch(guest, b"x", tmp_path / "got", Progress())
    assert told.value.sentence.isprintable() and not (tmp_path / "got").exists()


def test_a_promise_of_more_than_there_is_room_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1 << 30})())
    with pytest.raises(Problem, match="there is no room for 75161927680 bytes"), hostile("promises") as guest:
        fetch(guest, b"x", tmp_path / "got", Progress())
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_sends_without_end_gets_no_more_than_it_said(tmp_path: Path) -> None:
    with hostile("endless") as guest:
        fetch(guest, b"x", tmp_path / "got", Progress())
    assert (tmp_path / "got").read_bytes() == b"xxxx"


@pytest.mark.parametrize(("kind", "said"), [("refuses", "the guest refused"), ("forgets", "has not got")])
def test_a_server_that_does_not_write_is_found_out(kind: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(Problem, match=said) as told, hostile(kind) as guest:
        send(guest, filled(tmp_path / "a", 100_000), b"x", Progress())
    assert told.value.sentence.isprintable()


def test_two_hundred_copies_that_are_cut_anywhere_are_never_wrong(there: Path, tmp_path: Path) -> None:
    chance = random.Random(7)
    finished = 0
    for number in range(200):
        source = filled(tmp_path / "source", chance.randrange(1, 3 << 20))
        wanted, target = source.read_bytes(), f"f{number % 5}"
        before = (there / target).read_bytes() if (there / target).exists() else None
        inward = chance.random() < 0.5
        if not inward:
            source = there / f"s{number % 3}"
            source.write_bytes(wanted)
        cut = chance.randrange(1, 1 + len(wanted) // (32 << 10) * 2 + 2)

        class Cuts(Progress):
            count = 0

            def __init__(self, at: int) -> None:
                self.at = at

            def __call__(self, done: int, total: int) -> None:
                self.count += 1
                if self.count == self.at:
                    subprocess.run(["pkill", "-KILL", "-f", f"{SERVER} -d {there}"], check=False)

        here = tmp_path / target
        old = here.read_bytes() if here.exists() else None
        try:
            with opened(there) as guest:
                if inward:
                    send(guest, source, target.encode(), Cuts(cut))
                else:
                    fetch(guest, source.name.encode(), here, Cuts(cut))
        except (Problem, BrokenPipeError):
            now = (there / target) if inward else here
            kept = before if inward else old
            assert (now.read_bytes() if now.exists() else None) in (kept, wanted)
        else:
            finished += 1
            assert ((there / target) if inward else here).read_bytes() == wanted
    assert 0 < finished < 200


def test_the_digest_is_that_of_the_file(tmp_path: Path) -> None:
    path = filled(tmp_path / "a", 3_000_000)
    with path.open("rb") as stream:
        assert digest_of(stream, 3_000_000) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_copy_that_is_interrupted_leaves_no_program(there: Path, tmp_path: Path) -> None:
    source, before = filled(tmp_path / "a", 1 << 20), threading.active_count()

    class Interrupts(Progress):
        def __call__(self, done: int, total: int) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), opened(there) as guest:
        send(guest, source, b"", Interrupts())
    end = time.monotonic() + 10
    argv = ["pgrep", "-f", f"{SERVER} -d {there}"]
    while subprocess.run(argv, capture_output=True, check=False).returncode == 0 and time.monotonic() < end:
        time.sleep(0.05)
    assert subprocess.run(argv, capture_output=True, check=False).returncode == 1
    assert threading.active_count() <= before


def test_the_program_ends_by_itself_as_the_copy_does(there: Path, tmp_path: Path) -> None:
    """Its wrapper notes how it ended: a server that is ended by a signal takes the next session with it."""
    note = tmp_path / "note"
    script = f"trap 'echo signal >{note}; exit' TERM; {SERVER} -d {there}; code=$?; sleep 0.2; echo $code >{note}"
    with spoken_by(("sh", "-c", script), VM, lambda *_: door.Done(0)) as guest:
        send(guest, filled(tmp_path / "a", 1000), b"", Progress())
    assert note.read_text() == "0\n"
