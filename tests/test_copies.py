"""Copies for one use: their names, who holds them, and that nothing of them is left."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from okubsd import layout
from okubsd.errors import HostLacks, Misuse
from okubsd.host import copies, programs, running
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
