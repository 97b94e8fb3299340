"""A directory that is shared with a guest: what it may do in it, and that nothing leads out of it."""

from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import paramiko
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from okubsd.errors import Misuse
from okubsd.host import shares, sharing
from okubsd.host.copying.files import _Channel


class Shared:
    """A directory with a secret beside it, and clients of who serves it."""

    def __init__(self, top: Path) -> None:
        self.top = top / "shared"
        (self.top / "sub").mkdir(parents=True)
        (self.top / "a").write_text("hello")
        (top / "secret").write_text("secret")
        (self.top / "out").symlink_to("../secret")
        (self.top / "up").symlink_to("..")
        self.held = os.open(self.top, os.O_RDONLY | os.O_DIRECTORY)
        self.ends: list[socket.socket] = []

    def client(self, *, writable: bool) -> paramiko.SFTPClient:
        ours, theirs = socket.socketpair()
        served = threading.Thread(target=sharing.serve, args=(theirs, self.held), kwargs={"writable": writable})
        served.daemon = True
        served.start()
        self.ends += [ours, theirs]
        return paramiko.SFTPClient(_Channel(ours))  # type: ignore[arg-type]

    def end(self) -> None:
        for end in self.ends:
            end.close()
        os.close(self.held)


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Shared]:
    made = Shared(tmp_path)
    yield made
    made.end()


def test_what_is_written_is_there_without_privileges(shared: Shared) -> None:
    guest = shared.client(writable=True)
    with guest.open("/sub/new", "wb") as stream:
        stream.write(b"x" * 100_000)
    guest.chmod("/sub/new", 0o6755)
    guest.utime("/sub/new", (1, 2))
    status = (shared.top / "sub/new").stat()
    assert (status.st_size, stat.S_IMODE(status.st_mode), status.st_mtime) == (100_000, 0o755, 2)
    guest.rename("/sub/new", "/b")
    guest.mkdir("/d")
    guest.posix_rename("/a", "/b")
    guest.truncate("/b", 2)
    assert sorted(guest.listdir("/")) == ["b", "d", "out", "sub", "up"] and (shared.top / "b").read_text() == "he"
    guest.remove("/b")
    guest.rmdir("/d")
    assert {path.name for path in shared.top.iterdir()} == {"sub", "out", "up"}


def test_what_is_to_be_read_only_is_never_changed(shared: Shared) -> None:
    guest = shared.client(writable=False)
    with guest.open("/a") as stream:
        assert stream.read() == b"hello"
    for change in (
        lambda: guest.open("/a", "wb"), lambda: guest.open("/n", "xb"), lambda: guest.remove("/a"),
        lambda: guest.mkdir("/n"), lambda: guest.rmdir("/sub"), lambda: guest.rename("/a", "/n"),
        lambda: guest.posix_rename("/a", "/n"), lambda: guest.chmod("/a", 0o777), lambda: guest.truncate("/a", 0),
        lambda: guest.utime("/a", (1, 1)), lambda: guest.symlink("/etc", "/n"),
    ):  # fmt: skip
        with pytest.raises(OSError, match=r".+"):
            change()
    assert (shared.top / "a").read_text() == "hello" and len(list(shared.top.iterdir())) == 4


PARTS = st.sampled_from(["..", ".", "", "up", "out", "sub", "a", "secret", "shared", "x\0y", "etc", "passwd"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.lists(PARTS, max_size=6).map("/".join), absolute=st.booleans())
def test_no_path_leads_out(path: str, absolute: bool, shared: Shared) -> None:
    served = sharing.Served(None, shared.held, writable=True)
    asked = f"/{path}" if absolute else path
    handle = served.open(asked, os.O_RDONLY, paramiko.SFTPAttributes())
    if isinstance(handle, sharing._File):
        assert handle.read(0, 100) in (b"hello", b"")
        handle.close()
    link = served.symlink("/etc", asked)
    assert link == paramiko.SFTP_PERMISSION_DENIED
    listed = served.list_folder(asked)
    assert not isinstance(listed, list) or "secret" not in {one.filename for one in listed}


def test_a_directory_that_is_replaced_by_a_link_is_still_the_one_that_was_shared(
    shared: Shared, tmp_path: Path
) -> None:
    guest = shared.client(writable=True)
    shared.top.rename(tmp_path / "aside")
    shared.top.symlink_to(tmp_path)
    (tmp_path / "aside/sub").rmdir()
    (tmp_path / "aside/sub").symlink_to(tmp_path)
    assert "secret" not in guest.listdir("/")
    with pytest.raises(OSError, match=r".+"):
        guest.open("/sub/secret")
    with pytest.raises(OSError, match=r".+"):
        guest.open("/sub/planted", "wb")
    assert not (tmp_path / "planted").exists()


def test_a_pipe_is_not_waited_for_and_a_long_message_ends_the_talk(shared: Shared) -> None:
    os.mkfifo(shared.top / "pipe")
    guest = shared.client(writable=True)
    with pytest.raises(OSError, match=r".+"):
        guest.open("/pipe")
    ours, theirs = socket.socketpair()
    talk = threading.Thread(target=sharing.serve, args=(theirs, shared.held), kwargs={"writable": True}, daemon=True)
    talk.start()
    ours.sendall(b"\0\0\0\5\1\0\0\0\3" + b"\xff\xff\xff\xff" + b"x" * 100)
    talk.join(20)
    assert not talk.is_alive()
    ours.close()
    theirs.close()
    served = sharing.Served(None, shared.held, writable=True)
    opened = [served.open("/a", os.O_RDONLY, paramiko.SFTPAttributes()) for _ in range(200)]
    handles = [one for one in opened if isinstance(one, sharing._File)]
    assert len(handles) == 128
    for handle in handles:
        handle.close()


@pytest.mark.parametrize("bad", ["/", "~", "~/.ssh", "~/.config/x", "file"])
def test_homes_and_hidden_directories_are_not_shared(bad: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    for name in (".ssh", ".config/x", "src"):
        (home / name).mkdir(parents=True)
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(home))
    path = tmp_path / "file" if bad == "file" else Path(bad.replace("~", str(home)))
    with pytest.raises(Misuse):
        shares.need_shareable(path)
    assert shares.need_shareable(home / "src") == (home / "src").resolve()


def test_a_share_lies_below_the_home_of_the_guests_user() -> None:
    assert shares.place_in_guest(Path("/x/my-src"), "") == "/home/user/my-src"
    assert shares.place_in_guest(Path("/x"), "~/a/b/") == "/home/user/a/b"
    for bad in ("/etc", "../x", "a/../../b", "a b", ".ssh", "a;b"):
        with pytest.raises(Misuse):
            shares.place_in_guest(Path("/x"), bad)
