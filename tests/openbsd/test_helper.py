"""The one program that runs as root: what it takes, what it refuses, under the Korn shells that are at hand."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.openbsd.world import World, twin

pytestmark = pytest.mark.spawns

SHELLS = ("/bin/mksh", "/bin/ksh93")


@pytest.fixture(params=SHELLS, ids=lambda path: Path(path).name)
def applied(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    """A host on which the description was applied, its helper run by one of the shells."""
    return twin(tmp_path, request.param, World.fake_images, World.lay)


def helper(world: World, *args: str, user: str = "alice", data: str = "") -> subprocess.CompletedProcess[str]:
    """Call the helper by doas, as okubsd does."""
    return world.run("doas", "-n", "/usr/local/libexec/okubsd-helper", *args, user=user, data=data)


HOSTILE = [
    "", "-", "-x", ".", "..", "../etc", "a/b", "/etc/passwd", "a b", "a;id", "$(id)", "`id`", "a\nb", "a*", "1a", "_a",
    "é", "a" * 33, "term\n", "term ", "*", "t?rm", "TERM/../term",
]  # fmt: skip


def test_a_hostile_name_is_refused(applied: World) -> None:
    before = applied.tree("var/okubsd", "etc")
    for number, name in enumerate(HOSTILE):
        done = helper(applied, ("create", "prepare", "open", "close", "remove")[number % 5], name)
        assert done.returncode == 1 and "that is no name of a VM" in done.stderr, done
    assert applied.tree("var/okubsd", "etc") == before


def test_a_wrong_call_is_refused(applied: World) -> None:
    for args in ((), ("open",), ("open", "term", "more"), ("", ""), ("format", "term"), ("-h", "term")):
        done = helper(applied, *args)
        assert done.returncode == 1 and done.stderr.startswith("okubsd-helper: "), args


def test_a_vm_that_root_did_not_write_down_is_refused(applied: World) -> None:
    assert "there is no such VM" in helper(applied, "open", "other").stderr
    record = applied.root / "etc/okubsd/vms/linked"
    record.symlink_to("term")
    assert "there is no such VM" in helper(applied, "open", "linked").stderr
    record.unlink()
    (applied.root / "etc/okubsd/vms/term").write_text("owner alice\nnumber 1;id\nhome 1\nboot b\nbase b\napp b\n")
    assert "is damaged" in helper(applied, "close", "term").stderr
    (applied.root / "etc/okubsd/vms/term").write_text("owner alice\nnumber 1\nhome 1\nboot ../../x\nbase b\napp b\n")
    assert "is damaged" in helper(applied, "close", "term").stderr


def test_a_vm_belongs_to_its_owner(applied: World) -> None:
    done = helper(applied, "close", "term", user="bob")
    assert done.returncode == 1 and "it belongs to alice, not to bob" in done.stderr
    assert helper(applied, "close", "term").returncode == 0
    done = helper(applied, "remove", "nosuch")
    assert done.returncode == 1 and "only root removes a VM" in done.stderr


def test_doas_lets_the_group_in_and_nobody_else(applied: World) -> None:
    done = helper(applied, "close", "term", user="carol")
    assert done.returncode == 1 and "doas: Operation not permitted" in done.stderr
    assert applied.run("doas", "-n", "/bin/sh", user="alice").returncode == 1


def test_prepare_makes_everything_anew(applied: World) -> None:
    drives = applied.root / "var/okubsd/vms/term"
    (drives / "base.qcow2").write_bytes(b"a guest wrote this")
    identity = "070701 who you are".ljust(1024, "\0")
    done = helper(applied, "prepare", "term", data=identity)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (drives / "base.qcow2").read_bytes()[:4] == b"QFI\xfb"
    home = (drives / "home.img").read_bytes()
    assert len(home) == 65 << 20 and home[64 << 20 :].rstrip(b"\0") == identity.rstrip("\0").encode()
    assert home[1080:1082] == b"\x53\xef", "the home has an ext4 (its magic)"
    assert applied.state["anchors"]["okubsd/term"]["text"] == "block drop quick on tap100\n"
    assert applied.state["interfaces"]["lo100"][0] == "rdomain 100"
    assert [path.name for path in drives.iterdir() if "new" in path.name] == []
    # The home is made once; the identity is written over, with nothing of the old one behind it.
    (drives / "home.img").open("r+b").write(b"mine")
    helper(applied, "prepare", "term", data="short")
    home = (drives / "home.img").read_bytes()
    assert home[:4] == b"mine" and home[64 << 20 :].rstrip(b"\0") == b"short"


def test_a_disposable_vm_has_nothing_of_before(applied: World) -> None:
    home = applied.root / "var/okubsd/vms/vault/home.img"
    home.write_bytes(b"left behind".ljust(1 << 20, b"x"))
    assert helper(applied, "prepare", "vault", data="who").returncode == 0
    assert home.read_bytes().rstrip(b"\0") == b"who"


def test_an_identity_that_is_too_large_is_refused(applied: World) -> None:
    done = helper(applied, "prepare", "term", data="x" * (1 << 20))
    assert done.returncode == 1 and "the identity is too large" in done.stderr


def test_open_wants_a_tap(applied: World) -> None:
    done = helper(applied, "open", "term")
    assert (done.returncode, done.stdout) == (3, "") and "tap100 is not there" in done.stderr


def test_remove_forgets_the_anchor(applied: World) -> None:
    helper(applied, "close", "term")
    assert "okubsd/term" in applied.state["anchors"]
    assert helper(applied, "remove", "term").returncode == 0
    assert "okubsd/term" not in applied.state["anchors"]


def test_what_fails_is_said(applied: World) -> None:
    applied.faults(pf="okubsd/term")
    done = helper(applied, "prepare", "term", data="x")
    assert done.returncode == 1 and "term: pfctl failed: pfctl: DIOCADDRULE: Device busy" in done.stderr
