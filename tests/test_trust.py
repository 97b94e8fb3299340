"""Places are judged before anything in them is believed, as real users of the system see them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from okubsd.errors import BadDescription, Problem
from okubsd.host.places import LONGEST_SOCKET, Places, find_places
from okubsd.host.reading import read_secret, read_text, read_trusted
from okubsd.host.trust import place_mistake, trusted_owners
from tests.conftest import CHECKOUT

ALICE, BOB = 20001, 20002

AsUser = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be several users")


def owned(path: Path, uid: int, mode: int = 0o700) -> Path:
    """Return the directory ``path``, made for the user ``uid``."""
    path.mkdir(parents=True, exist_ok=True)
    os.chown(path, uid, uid)
    path.chmod(mode)
    return path


@pytest.fixture
def homes(tmp_path: Path) -> Path:
    """Homes of two users below a directory of root's."""
    tmp_path.chmod(0o755)
    for name, uid in (("alice", ALICE), ("bob", BOB)):
        owned(tmp_path / name, uid)
    return tmp_path


@pytest.fixture(scope="session")
def checkout() -> Iterator[Path]:
    """A copy of okubsd, and of the libraries it was installed with, that every user can read."""
    with tempfile.TemporaryDirectory(prefix="okt-") as name:
        top = Path(name)
        top.chmod(0o755)
        no_code = shutil.ignore_patterns("__pycache__")
        for directory in ("okubsd", "images", "etc"):
            shutil.copytree(CHECKOUT / directory, top / directory, ignore=no_code)
        tools = shutil.ignore_patterns("__pycache__", "hypothesis*", "mypy*", "okubsd*", "pip*", "*pytest*", "ruff*")
        shutil.copytree(sysconfig.get_path("purelib"), top / "libraries", ignore=tools)
        yield top


def readable_python() -> str:
    """Return a Python that every user can start: the one that the virtual environment is of, or the system's."""
    found = (sys.executable, os.path.realpath(sys.executable), "/usr/bin/python3")
    as_alice = ("setpriv", f"--reuid={ALICE}", f"--regid={ALICE}", "--clear-groups")
    version = f"import sys; sys.exit(sys.version_info[:2] != {sys.version_info[:2]})"
    for python in found:
        if (
            subprocess.run([*as_alice, python, "-c", version], cwd="/", capture_output=True, check=False).returncode
            == 0
        ):
            return python
    pytest.skip("other users can start no Python of this version")


@pytest.fixture
def as_user(checkout: Path) -> AsUser:
    """Return what calls okubsd as a user, by number, in an environment that has nothing but what is given."""
    python = readable_python()

    def call(uid: int, env: Mapping[str, str], *args: str) -> subprocess.CompletedProcess[str]:
        argv = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", python, "-m", "okubsd", *args]
        given = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{checkout}:{checkout}/libraries"}
        given |= {"PYTHONDONTWRITEBYTECODE": "1", **env}
        return subprocess.run(argv, env=given, capture_output=True, text=True, cwd="/", check=False)

    return call


@pytest.mark.spawns
@pytest.mark.parametrize("runtime", [None, "relative/run", "/nowhere/run", "bob"])
def test_a_user_needs_no_runtime_directory_and_uses_nobody_elses(
    homes: Path, runtime: str | None, as_user: AsUser
) -> None:
    env = {"HOME": str(homes / "alice")}
    if runtime is not None:
        env["XDG_RUNTIME_DIR"] = str(homes / "bob") if runtime == "bob" else runtime
    done = as_user(ALICE, env, "list")
    assert done.returncode == 0 and "browser" in done.stdout, done.stderr
    assert not list((homes / "bob").iterdir()) and not Path("/relative").exists()


@pytest.mark.spawns
@pytest.mark.parametrize(
    ("uid", "env"),
    [
        (0, {"HOME": "alice"}),
        (0, {"HOME": "root", "XDG_STATE_HOME": "alice/.local/state"}),
        (0, {"HOME": "root", "OKUBSD_STATE": "alice/state"}),
        (BOB, {"HOME": "alice"}),
        (BOB, {"HOME": "bob", "OKUBSD_STATE": "open/state"}),
        (BOB, {"HOME": "bob", "OKUBSD_STATE": "link/state"}),
    ],
    ids=["root by su", "root by sudo -E", "root in alice's", "bob by su", "a directory of all", "a link in one"],
)
def test_nobody_elses_directory_is_obeyed(homes: Path, uid: int, env: dict[str, str], as_user: AsUser) -> None:
    state = owned(homes / "alice/.local/state/okubsd/run/term", ALICE)
    proof = homes / "proof"
    proof.touch()
    proof.chmod(0o666)
    (state / "ssh_config").write_text(f"Host *\n\tProxyCommand sh -c 'echo obeyed >{proof}'\n")
    (homes / "root").mkdir()
    owned(homes / "alice/state", ALICE)
    owned(homes / "open", 0, 0o777)
    owned(homes / "sticky", 0, 0o1777)
    (homes / "sticky/link").symlink_to(homes / "alice")
    os.chown(homes / "sticky/link", ALICE, ALICE, follow_symlinks=False)
    where = {key: str(homes / value.replace("link", "sticky/link")) for key, value in env.items()}
    homes_of_all = owned(homes / "alice", ALICE, 0o755)
    assert homes_of_all.exists()
    for args in (("list",), ("run", "term", "--", "id"), ("stop", "term"), ("status", "term"), ("start", "-n", "term")):
        done = as_user(uid, where, *args)
        assert done.returncode == 1 and "Traceback" not in done.stderr, (args, done.stderr)
        assert (
            "okubsd keeps its VMs in" in done.stderr and "OKUBSD_STATE a directory that is yours alone" in done.stderr
        )
    assert proof.read_text() == ""


@pytest.mark.spawns
def test_two_users_do_not_meet(homes: Path, as_user: AsUser) -> None:
    for name, uid in (("alice", ALICE), ("bob", BOB)):
        done = as_user(uid, {"HOME": str(homes / name)}, "list", "--names")
        assert done.returncode == 0 and "term" in done.stdout.split()


def test_the_run_directory_lies_where_no_logout_comes_by(tmp_path: Path) -> None:
    places = find_places({"HOME": str(tmp_path), "XDG_RUNTIME_DIR": "/run/user/0", "XDG_STATE_HOME": "not/absolute"})
    assert places.vm_run("term") == tmp_path / ".local/state/okubsd/run/term"


def test_a_relative_state_directory_is_refused() -> None:
    with pytest.raises(Problem, match="no absolute path"):
        find_places({"OKUBSD_STATE": "state"})


def test_sockets_with_too_long_names_are_told_before_anything_is_begun(tmp_path: Path) -> None:
    places = Places(tmp_path / ("a" * LONGEST_SOCKET), tmp_path)
    with pytest.raises(Problem, match=f"{LONGEST_SOCKET} are taken"):
        places.check_sockets("term")


def test_what_others_can_write_is_told_with_the_place(tmp_path: Path) -> None:
    mine = owned(tmp_path / "a/b", 0)
    assert place_mistake(mine / "c") == ""
    owned(tmp_path / "a", 0, 0o777)
    assert place_mistake(mine / "c") == f"'{tmp_path}/a' can be written by others"
    owned(tmp_path / "a", 0, 0o1777)
    assert place_mistake(mine / "c") == ""
    (tmp_path / "a/link").symlink_to(mine)
    assert "is a link in a directory that others can write" in place_mistake(tmp_path / "a/link")
    owned(tmp_path / "a", 0)
    assert place_mistake(tmp_path / "a/link/c") == ""
    owned(mine, ALICE)
    assert place_mistake(tmp_path / "a/link/c") == f"'{mine}' belongs to user {ALICE}"
    assert place_mistake(mine, ALICE) == ""


def test_links_that_go_round_are_told(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert "too many links" in place_mistake(tmp_path / "a")


def test_a_user_believes_root_and_himself() -> None:
    assert trusted_owners(ALICE) == {0, ALICE}


def test_a_description_of_somebody_elses_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "okubsd.yaml"
    path.write_text("vms: {}\n")
    assert read_trusted(path) == "vms: {}\n"
    os.chown(path, ALICE, ALICE)
    with pytest.raises(BadDescription, match=f"belongs to user {ALICE}"):
        read_trusted(path)
    os.chown(path, 0, 0)
    path.chmod(0o666)
    with pytest.raises(BadDescription, match="can be written by others"):
        read_trusted(path)


def test_nothing_but_a_regular_file_is_read_as_text(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero"), tmp_path):
        with pytest.raises(BadDescription):
            read_text(path)


def test_a_byte_order_mark_is_not_part_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\xef\xbb\xbfvms: {}\n")
    assert read_text(tmp_path / "x") == "vms: {}\n"


@pytest.mark.spawns
def test_keys_of_roots_are_read_by_the_group_that_root_gave_them_to(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives a file to a group")
    path = tmp_path / "vpn.conf"
    path.write_text("[Interface]\n")
    os.chown(path, 0, 12345)
    path.chmod(0o640)
    assert read_secret(path) == "[Interface]\n"
    for mode in (0o644, 0o660, 0o650):
        path.chmod(mode)
        with pytest.raises(BadDescription, match=r"can be read by others|could have written"):
            read_secret(path)
    # A file of a user's own is for nobody else, whatever its group, and so is one of root's own group.
    for owner, group in ((12345, 12345), (0, 0)):
        os.chown(path, owner, group)
        path.chmod(0o640)
        with pytest.raises(BadDescription):
            read_secret(path)
