"""Saved states: whose they are, how they are told from bad ones, and the program that gives a guest entropy."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from okubsd import layout
from okubsd.cli.main import call
from okubsd.errors import BadState
from okubsd.guest.identity import Awake, Lease, Secrets, mac_of, render_identity
from okubsd.guest.reseed import SEED_BYTES, render_program, render_seed
from okubsd.host import saved
from okubsd.host.places import Places
from okubsd.model import Image, Request, Vm
from okubsd.plan.gateway import Links
from okubsd.plan.saved import state_of
from okubsd.plan.seats import choose_seat
from okubsd.plan.seats.base import Boot
from okubsd.plan.start import plan_start
from okubsd.plan.steps import render_plan
from okubsd.qemu.argv import IDENTITY_BYTES
from tests.test_plan import BUILT, HOST, RECIPES, STATE, VM

BOOT = Boot(vm=VM, recipes=RECIPES, host=msgspec.structs.replace(HOST, machine="m"), state=STATE, links=Links())
NAME = state_of(BOOT)


def with_host(**changes: object) -> Boot:
    return msgspec.structs.replace(BOOT, host=msgspec.structs.replace(BOOT.host, **changes))


def with_vm(**changes: object) -> Boot:
    return msgspec.structs.replace(BOOT, vm=msgspec.structs.replace(VM, **changes))


def newer(name: str) -> dict[str, Image]:
    return {**BUILT, name: msgspec.structs.replace(BUILT[name], build="c" * 12)}


def test_a_start_from_a_saved_state_is_pinned(golden: object) -> None:
    boot = with_host(saved=frozenset({NAME}), pool=Path("/s/pool"))
    plan = plan_start(boot, choose_seat(VM, boot.host, None), Request(headless=True))
    golden("start-saved.plan", render_plan(plan))  # type: ignore[operator]


def test_vms_that_are_alike_go_on_from_one_state() -> None:
    assert NAME and state_of(with_vm(name="other", color="red")) == NAME


@pytest.mark.parametrize(
    "boot",
    [
        with_host(machine="another"),
        with_host(images=newer("boot")),
        with_host(images=newer("base")),
        with_host(images=newer("firefox")),
        with_vm(memory=VM.memory * 2),
        with_vm(cpus=VM.cpus + 1),
        with_vm(home=VM.home * 2),
        with_vm(disposable=True),
    ],
    ids=["machine", "kernel", "base", "app", "memory", "cpus", "home", "no home"],
)
def test_another_machine_has_another_state(boot: Boot) -> None:
    assert state_of(boot) not in ("", NAME)


def test_what_has_no_state_of_its_own_boots() -> None:
    gateway = {**RECIPES, "firefox": msgspec.structs.replace(RECIPES["firefox"], gateway=True)}
    assert state_of(msgspec.structs.replace(BOOT, recipes=gateway)) == ""
    assert state_of(with_host(images={})) == state_of(with_vm(rescue=True)) == ""


# --- on the disk ------------------------------------------------------------------------------------


def a_state(top: Path) -> Path:
    directory = top / "state/pool/0123456789abcdef"
    directory.mkdir(parents=True)
    (directory / layout.MEMORY).write_bytes(bytes(range(256)) * 64)
    (directory / layout.MACHINE).write_bytes(b"machine" * 100)
    files = {name: saved.describe(directory / name) for name in (layout.MEMORY, layout.MACHINE)}
    found = saved.State(directory.name, 1, {"boot": "b" * 12}, 1 << 20, 1, 0, files)
    (directory / layout.SAVED).write_bytes(msgspec.json.encode(found))
    return directory


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return a_state(tmp_path)


def test_a_whole_state_is_taken_whoever_copied_it(state: Path) -> None:
    saved.check(state)
    (state / layout.MEMORY).touch()
    saved.check(state)


@given(
    name=st.sampled_from([layout.MEMORY, layout.MACHINE]),
    where=st.floats(0, 0.999),
    bit=st.integers(0, 7),
    cut=st.booleans(),
)
def test_a_state_that_was_changed_is_refused(
    name: str, where: float, bit: int, cut: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = a_state(tmp_path_factory.mktemp("s"))
    data = bytearray((directory / name).read_bytes())
    at = int(where * len(data))
    data[at] ^= 1 << bit
    (directory / name).write_bytes(data[:at] if cut else data)
    with pytest.raises(BadState):
        saved.check(directory)


@given(cut=st.integers(0, 400))
def test_a_broken_description_of_a_state_is_no_state(cut: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = a_state(tmp_path_factory.mktemp("s"))
    text = (directory / layout.SAVED).read_bytes()
    (directory / layout.SAVED).write_bytes(text[:cut])
    if cut < len(text):
        assert saved.read_state(directory) is None
        with pytest.raises(BadState):
            saved.check(directory)


def test_states_of_builds_that_are_gone_go_too(state: Path) -> None:
    places = Places(state=state.parents[1], share=Path("/share"))
    (state.parent / ".making-x").mkdir()
    assert [one.name for one in saved.states(places)] == [state.name]
    assert saved.discard_stale(places) == [state.name] and saved.states(places) == []
    saved.sweep(places)
    assert list(state.parent.iterdir()) == []


def test_a_command_that_may_change_images_drops_stale_states_and_one_that_reads_does_not(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OKUBSD_STATE", str(state.parents[1]))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert call(["image", "ls"]) == 0 and state.exists()
    assert call(["image", "prune"]) == 0 and not state.exists()


# --- what a guest is told ----------------------------------------------------------------------------


def test_who_goes_on_is_told_what_nobody_else_knows() -> None:
    secrets = Secrets(bytes(32), bytes(32), "ssh-ed25519 A", bytes(16))
    first, second = (
        render_identity(Vm(name=name, image="i"), Lease(), secrets, awake=Awake(seed, 1))
        for name, seed in (("a", b"1" * SEED_BYTES), ("b", b"2" * SEED_BYTES))
    )
    assert b"clock=1\nmac=52:54:00:" in first and render_seed(b"1" * SEED_BYTES) in first
    assert render_seed(b"2" * SEED_BYTES) in second and mac_of("a") != mac_of("b")
    assert len(first) < IDENTITY_BYTES


@pytest.mark.spawns
@pytest.mark.skipif(os.geteuid() != 0, reason="only root adds entropy")
def test_the_program_adds_entropy_or_says_that_it_did_not(tmp_path: Path) -> None:
    program = tmp_path / "reseed"
    program.write_bytes(render_program())
    program.chmod(0o755)
    seed = render_seed(os.urandom(SEED_BYTES))
    codes = [subprocess.run([program], input=data, check=False).returncode for data in (seed, seed[:-1], b"")]
    assert codes == [0, 1, 1]
    with contextlib.suppress(FileNotFoundError):
        told = subprocess.run(["strace", str(program)], input=seed, capture_output=True, check=True).stderr.decode()
        assert "RNDADDENTROPY, {entropy_count=512, buf_size=64" in told and "RNDRESEEDCRNG) = 0" in " ".join(
            told.split()
        )
