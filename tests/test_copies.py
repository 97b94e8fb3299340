"""Copies for one use: their names, who holds them, and that nothing of them is left."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

import pytest

from okubsd import layout
from okubsd.errors import HostLacks, Misuse
from okubsd.host import copies, locks, programs, running
from okubsd.host.session import Session


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    text = "vms: {work: {image: term, keep: yes}, work-2: {image: term}, " + "x" * 30 + ": {image: term}}"
    (tmp_path / "okubsd.yaml").write_text(text)
    monkeypatch.setattr(programs, "has_vmd", lambda: False)
    monkeypatch.setenv("OKUBSD_STATE", str(tmp_path / "state"))
    return Session(str(tmp_path / "okubsd.yaml"))


def test_a_copy_has_the_first_free_name_and_no_home(session: Session) -> None:
    vm = session.vm("work")
    with copies.making(session, vm) as one, copies.making(session, vm) as other:
        # What is described is nobody's copy.
        assert (one.name, other.name) == ("work-1", "work-3")
        assert one.copy_of == "work" and one.disposable and not one.keep and one.image == vm.image
        assert copies.is_copy(session.places, "work-1") and not copies.is_copy(session.places, "work")
    assert list((session.places.state / layout.STATE_VMS).iterdir()) == []


def test_one_that_is_being_started_is_not_forgotten(session: Session) -> None:
    with copies.making(session, session.vm("work")) as copy:
        assert not copies.forget(session, copy.name)
        copies.forget_ended(session)
        assert copies.is_copy(session.places, copy.name)


def test_one_that_runs_stays_and_one_that_ended_unseen_goes(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    alive = {"work-1"}
    monkeypatch.setattr(running, "is_running", lambda _, name: name in alive)
    monkeypatch.setattr("okubsd.host.lifecycle.end_half_started", lambda *_: None)
    with copies.making(session, session.vm("work")) as copy:
        (session.places.vm(copy.name) / layout.CONSOLE_LOG).write_text("said")
        session.places.vm_run(copy.name).mkdir(parents=True)
    assert copies.is_copy(session.places, "work-1")
    alive.clear()
    with copies.making(session, session.vm("work")) as copy:
        assert copy.name == "work-1" and not (session.places.vm("work-1") / layout.CONSOLE_LOG).exists()
        assert not session.places.vm_run("work-1").exists()


def test_who_cleans_up_while_a_name_is_taken_takes_nothing_away(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one moment between a directory and its lock: whoever loses it takes the next name."""
    real, first = fcntl.flock, []

    def late(stream: object, kind: int) -> None:
        if not first:
            first.append(stream)
            assert copies.forget(session, "work-1")
        real(stream, kind)  # type: ignore[arg-type]

    monkeypatch.setattr(copies.fcntl, "flock", late)
    with copies.making(session, session.vm("work")) as copy:
        assert copy.name == "work-3"


def test_what_is_no_copy_is_never_removed(session: Session) -> None:
    kept = session.places.vm("work")
    kept.mkdir(parents=True)
    (kept / layout.HOME).write_text("precious")
    for name in ("work", "nosuch", "../work", ".", ""):
        assert not copies.forget(session, name)
    assert (kept / layout.HOME).read_text() == "precious"


def test_a_name_that_is_too_long_and_a_host_with_vmd_are_told(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Misuse, match="too long"), copies.making(session, session.vm("x" * 30)):
        pass
    monkeypatch.setattr(programs, "has_vmd", lambda: True)
    with pytest.raises(HostLacks, match="QEMU only"), copies.making(session, session.vm("work")):
        pass


def test_a_described_vm_is_never_forgotten(session: Session) -> None:
    """Whatever a copy of its name left: a power cut, another description, a restart in the wrong moment."""
    for name in ("work-2", "work-9"):
        kept = session.places.vm(name)
        kept.mkdir(parents=True)
        (kept / layout.COPY_OF).write_text("work\n")
    (session.places.vm("work-9") / layout.HOME).write_text("precious")
    copies.forget_ended(session)
    assert session.places.vm("work-2").is_dir() and (session.places.vm("work-9") / layout.HOME).is_file()


@pytest.mark.parametrize("cut", range(1, 6))
def test_what_a_killed_call_leaves_of_a_copy_goes_with_the_next(
    cut: int, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    vms = session.places.state / layout.STATE_VMS
    kept = session.places.vm("work-1")
    kept.mkdir(parents=True)
    for name in (layout.COPY_OF, "host_ed25519", "id_ed25519", layout.CONSOLE_LOG):
        (kept / name).write_text("x")
    left = [cut]
    real = os.unlink

    def unlink(*args: object, **more: object) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Killed
        real(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "unlink", unlink)
    with contextlib.suppress(Killed):
        copies.forget(session, "work-1")
    monkeypatch.setattr(os, "unlink", real)
    (vms / "work-7").mkdir()
    copies.forget_ended(session)
    assert list(vms.iterdir()) == []


def test_two_starts_never_get_one_name(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    real, others = fcntl.flock, list[str]()

    def late(stream: object, kind: int) -> None:
        if not others:
            others.append("")
            copies.forget(session, "work-1")
            name, lock = copies._take_one(session.places, session.description, "work")
            others[:] = [name]
            held.append(lock)
        real(stream, kind)  # type: ignore[arg-type]

    held: list[object] = []
    monkeypatch.setattr(copies.fcntl, "flock", late)
    with copies.making(session, session.vm("work")) as copy:
        assert copy.name not in others


def test_a_vm_behind_a_gateway_has_no_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "networks: {t: {gateway: tor}}\nvms: {tor: {image: tor-gateway}, web: {image: firefox, network: t}}"
    (tmp_path / "okubsd.yaml").write_text(text)
    monkeypatch.setattr(programs, "has_vmd", lambda: False)
    monkeypatch.setenv("OKUBSD_STATE", str(tmp_path / "state"))
    session = Session(str(tmp_path / "okubsd.yaml"))
    assert not copies.can_copy(session.vm("web")) and copies.can_copy(session.vm("tor"))
    with pytest.raises(HostLacks, match="no way through the network 't'"), copies.making(session, session.vm("web")):
        pass


def test_a_lock_that_outlived_its_copy_goes_and_that_of_a_described_vm_stays(session: Session) -> None:
    for name in ("web-7", "web"):
        (session.places.vm(name)).mkdir(parents=True, exist_ok=True)
        (session.places.vm(name) / layout.VM_LOCK).touch()
    copies.forget(session, "web-7")
    copies.forget(session, "web")
    assert not session.places.vm("web-7").exists() and (session.places.vm("web") / layout.VM_LOCK).exists()
    session.places.vm("web-8").mkdir()
    (session.places.vm("web-8") / layout.VM_LOCK).touch()
    with locks.locked(session.places.vm("web-8") / layout.VM_LOCK):
        copies.forget(session, "web-8")
    assert session.places.vm("web-8").exists()
