"""Guests that go on from a saved state: seen to start, to share no secret, and to boot where the state is bad."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from okubsd import layout
from okubsd.host.store import hash_file
from tests.vm.world import World, wait_until

# All that a guest would have in common with another, had it not been told who it is.
SECRETS = """
cat /proc/sys/kernel/random/boot_id /sys/class/net/eth0/address /proc/sys/kernel/hostname
head -c 32 /dev/urandom | md5sum
md5sum </run/okubsd/host_key
md5sum </run/okubsd/Xauthority
cat /etc/machine-id 2>/dev/null || cat /run/machine-id 2>/dev/null || head -c 16 /dev/random | md5sum
"""


@pytest.fixture
def pool(world: World) -> Iterator[Path]:
    world.ok("pool", "make", "term")
    yield world.state / layout.POOL
    world.ok("pool", "clear")


def states(world: World) -> dict[str, list[str]]:
    found = json.loads(world.ok("pool", "ls", "--json"))["states"]
    return {state["state"]: state["vms"] for state in found}


def copies(world: World) -> list[str]:
    return sorted(path.name for path in (world.state / "vms").glob("term-*"))


def test_two_guests_of_one_state_share_no_secret(world: World, pool: Path) -> None:
    found = states(world)
    name = next(state for state, vms in found.items() if "kept" in vms)
    assert {"term", "kept"} <= set(found[name]) and "browser" not in found[name]
    before = hash_file(pool / name / layout.MEMORY)
    told = {}
    for vm in ("term", "kept"):
        assert f"# go on from {pool / name}" in world.ok("start", "-n", "--headless", vm)
        world.ok("start", "--headless", vm)
    for vm in ("term", "kept"):
        told[vm] = world.ok("run", "--root", vm, "--", "sh", "-c", SECRETS).splitlines()
        drift = int(world.ok("run", vm, "--", "date", "+%s")) - int(time.time())
        assert abs(drift) <= 3
        assert "drive" not in world.ok("run", vm, "--", "ls", "-a", "/run/okubsd/own")
    assert len(told["term"]) == len(told["kept"]) == 7
    assert [a for a, b in zip(told["term"], told["kept"], strict=True) if a == b] == []
    # What they wrote is theirs.
    assert hash_file(pool / name / layout.MEMORY) == before
    for vm in ("term", "kept"):
        world.ok("stop", vm)
    world.assert_nothing_left()


def test_a_home_lasts_through_a_saved_state(world: World, pool: Path) -> None:
    world.ok("run", "term", "--", "rm", "-f", "turns")
    world.ok("stop", "term")
    for turn in (1, 2):
        world.ok("start", "--headless", "term")
        assert world.ok("run", "term", "--", "sh", "-c", "echo x >>~/turns; wc -l <~/turns").strip() == str(turn)
        world.ok("stop", "term")


def test_a_copy_goes_on_too_and_leaves_nothing(world: World, pool: Path) -> None:
    world.ok("pool", "make", "gone")
    world.ok("start", "--headless", "gone")
    assert world.ok("run", "gone", "--", "sh", "-c", "findmnt -no FSTYPE /home || mount | grep ' /home '").strip()
    world.ok("stop", "gone")


@pytest.mark.parametrize("what", ["machine flipped", "machine cut", "memory cut", "no description"])
def test_a_bad_state_is_told_and_the_vm_boots(what: str, world: World, pool: Path) -> None:
    world.ok("pool", "make", "term")
    name = next(state for state, vms in states(world).items() if "term" in vms)
    part = pool / name / (layout.MEMORY if what.startswith("memory") else layout.MACHINE)
    data = part.read_bytes()
    if what == "no description":
        (pool / name / layout.SAVED).write_text("{}")
    elif what == "machine flipped":
        part.write_bytes(data[:1000] + bytes([data[1000] ^ 1]) + data[1001:])
    else:
        part.write_bytes(data[: len(data) // 2])
    done = world.call("start", "--headless", "term")
    assert done.code == 0 and "cannot be gone on from" in done.err and "and the VM boots" in done.err
    assert name not in states(world)
    world.ok("stop", "term")
    world.ok("pool", "make", "term")


def test_a_maker_that_is_killed_leaves_nothing(world: World, pool: Path) -> None:
    world.ok("pool", "clear", "term")
    maker = world.begin("pool", "make", "term")
    wait_until(lambda: any(path.stat().st_size for path in pool.glob(f".making-*/{layout.CONSOLE_LOG}")))
    maker.send_signal(signal.SIGKILL)
    maker.wait()
    wait_until(lambda: not [words for _, words in world.processes() if "drive_identity" in words])
    world.ok("pool", "make", "term")
    assert list(pool.glob(".making-*")) == [] and "term" in next(iter(states(world).values()))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_a_full_disk_is_told_and_nothing_is_left(world: World) -> None:
    """The memory of the guest is a file: QEMU is ended by the kernel where that has no room to grow."""
    pool = world.state / layout.POOL
    pool.mkdir(mode=0o700, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m,mode=0700", "tmpfs", str(pool)], check=True)
    try:
        done = world.call("pool", "make", "term")
        assert done.code == 1 and f"there is no room for a saved state in '{pool}'" in done.err, done.err
        assert list(pool.iterdir()) == [] and states(world) == {}
    finally:
        subprocess.run(["umount", str(pool)], check=True)
    # And the VM boots, as without a state.
    with world.up("term"):
        assert world.running("term")


def test_a_copy_that_waits_is_there_at_once_and_only_once(world: World, desktop: str) -> None:
    world.ok("pool", "start", "term")
    waiting = json.loads(world.ok("pool", "ls", "--json"))["waiting"]
    assert [(one["name"], one["good"]) for one in waiting] == [("term-1", True)]

    def state() -> list[str]:
        rows = json.loads(world.ok("list", "--json"))["vms"]
        return [row["state"] for row in rows if row["name"] == "term-1"]

    # Its keeper writes down that it stands still.
    wait_until(lambda: state() == ["waits"])
    (qemu,) = world.qemus("term-1")
    done = world.call("start", "--disposable", "term", env={"DISPLAY": desktop})
    assert done.code == 0 and "a copy of term that waited" in done.err and world.qemus("term-1") == [qemu]
    shown = json.loads(world.ok("windows", "--json"))["windows"]
    assert [window["vm"] for window in shown] == ["term-1"]
    assert abs(int(world.ok("run", "term-1", "--", "date", "+%s")) - int(time.time())) <= 3
    # Nobody waits any more: the next one boots.
    assert "that waited" not in world.call("start", "--disposable", "--headless", "term").err
    assert copies(world) == ["term-1", "term-2"]
    world.ok("stop", "term-1")
    world.ok("stop", "term-2")
    wait_until(lambda: not copies(world))


def test_a_copy_that_waits_with_another_description_is_not_taken(world: World) -> None:
    world.ok("pool", "start", "term")
    text = world.description.read_text()
    world.description.write_text(text.replace("term: {image: term}", "term: {image: term, color: red}"))
    try:
        assert [one["good"] for one in json.loads(world.ok("pool", "ls", "--json"))["waiting"]] == [False]
        assert "that waited" not in world.call("start", "--disposable", "--headless", "term").err
        assert "term-1: ended" in world.call("pool", "clear").err
    finally:
        world.description.write_text(text)
    world.ok("stop", "term-2")


def test_a_copy_that_waits_is_not_lost_to_a_wrong_display_and_ends_by_a_stop(world: World) -> None:
    world.ok("pool", "start", "term")
    wrong = world.call("start", "--disposable", "term", env={"DISPLAY": ":77"})
    assert wrong.code != 0 and ":77" in wrong.err
    assert [one["good"] for one in json.loads(world.ok("pool", "ls", "--json"))["waiting"]] == [True]
    world.ok("stop", "term-1")
    wait_until(lambda: not copies(world))


def test_a_maker_of_a_copy_that_is_killed_leaves_one_that_is_known(world: World) -> None:
    maker = world.begin("pool", "start", "term")
    wait_until(lambda: world.qemus("term-1") != [])
    maker.send_signal(signal.SIGKILL)
    maker.wait()
    assert "term-1: ended" in world.call("pool", "clear").err
    wait_until(lambda: world.qemus("term-1") == [])
