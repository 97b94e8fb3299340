"""What must not break a VM, its home, or the host: each fault is injected, and then all goes on."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from okubsd.host.running import live_server
from tests.vm.world import World, wait_until

# Shares of the time that a start takes here: booting, waiting, connecting, showing.
MOMENTS = (0.02, 0.1, 0.25, 0.5, 0.7, 0.85)


@pytest.fixture(scope="module")
def usual(built: World) -> float:
    """Return the seconds that a start takes that nobody interrupts."""
    began = time.monotonic()
    built.ok("start", "kept", "--headless")
    taken = time.monotonic() - began
    built.ok("stop", "kept")
    return taken


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_start_killed_at_any_moment_is_gone_on_with(world: World, usual: float, moment: float) -> None:
    call = world.begin("start", "kept", "--headless")
    time.sleep(moment * usual)
    call.send_signal(signal.SIGKILL)
    call.communicate()
    world.ok("start", "kept", "--headless")
    assert len(world.qemus("kept")) == 1
    assert world.ok("run", "kept", "--", "ls", "/run/okubsd/apps").split() == ["term"]
    world.ok("stop", "kept")
    world.assert_nothing_left()


@pytest.mark.parametrize(
    ("moment", "sign"), [*((moment, signal.SIGINT) for moment in MOMENTS), (0.1, signal.SIGTERM), (0.5, signal.SIGTERM)]
)
def test_ctrl_c_at_any_moment_leaves_nothing(world: World, usual: float, moment: float, sign: signal.Signals) -> None:
    call = world.begin("start", "kept", "--headless")
    time.sleep(moment * usual)
    call.send_signal(sign)
    _, err = call.communicate(timeout=60)
    if call.returncode == 0:
        assert world.running("kept")
        return
    assert call.returncode in (130, -sign) and b"Traceback" not in err, err
    world.assert_nothing_left()
    assert not world.running("kept")


def test_a_killed_qemu_takes_everything_with_it(world: World) -> None:
    world.ok("start", "kept", "--headless")
    os.kill(world.qemus("kept")[0], signal.SIGKILL)
    wait_until(lambda: world.processes() == [])
    assert not world.running("kept")
    world.ok("start", "kept", "--headless")
    assert world.ok("run", "kept", "--", "uname").strip() == "Linux"


@pytest.mark.usefixtures("clouds_kernel")
def test_a_guest_panic_ends_the_vm_and_is_in_its_log(world: World) -> None:
    with world.up("kept"):
        world.ok("run", "kept", "--", "sh", "-c", "echo saved > ~/before; sync")
        world.call("run", "--root", "kept", "--", "sh", "-c", "echo c > /proc/sysrq-trigger", timeout=60)
        wait_until(lambda: not world.running("kept"))
        assert "Kernel panic" in world.ok("log", "kept")
        world.ok("start", "kept", "--no-app")
        assert world.ok("run", "kept", "--", "cat", "before") == "saved\n"


def test_a_guest_that_never_answers_is_given_up_and_ended(world: World) -> None:
    call = world.begin("start", "hasty", "--headless")
    wait_until(lambda: world.qemus("hasty") != [])
    os.kill(world.qemus("hasty")[0], signal.SIGSTOP)
    _, err = call.communicate(timeout=120)
    assert call.returncode == 6 and b"not ready within 8 seconds" in err
    world.assert_nothing_left()


def test_a_guest_that_stands_still_loses_its_power_only_where_that_is_said(world: World) -> None:
    world.ok("start", "kept", "--no-app")
    os.kill(world.qemus("kept")[0], signal.SIGSTOP)
    done = world.call("stop", "--timeout", "2", "kept")
    assert done.code == 1 and "stands still: stopped by a signal" in done.err
    assert "try: okubsd stop -f kept" in done.err and world.qemus("kept")
    assert world.call("stop", "-f", "kept").code == 0
    world.assert_nothing_left()


def test_one_changed_byte_of_an_image_stops_the_start(world: World) -> None:
    drive = (world.state / "images/term/current/drive.squashfs").resolve()
    good = drive.read_bytes()
    try:
        drive.chmod(0o644)
        with drive.open("r+b") as stream:
            stream.seek(len(good) // 2)
            stream.write(bytes([good[len(good) // 2] ^ 1]))
        done = world.call("start", "kept", "--headless")
        assert done.code == 1 and "is damaged" in done.err and "image build --force term" in done.err
        world.assert_nothing_left()
    finally:
        drive.write_bytes(good)
        drive.chmod(0o444)
    world.ok("start", "kept", "--no-app")


def test_a_key_with_a_wrong_mode_stops_the_start(world: World) -> None:
    world.ok("run", "kept", "--", "true")
    world.ok("stop", "kept")
    key = world.state / "vms/kept/id_ed25519"
    key.chmod(0o644)
    try:
        done = world.call("start", "kept", "--headless")
        assert done.code == 1 and f"chmod 0600 {key}" in done.err
        world.assert_nothing_left()
    finally:
        key.chmod(0o600)


def test_a_missing_key_stops_the_start_and_says_how_to_get_another(world: World) -> None:
    world.ok("run", "kept", "--", "true")
    world.ok("stop", "kept")
    directory = world.state / "vms/kept"
    (directory / "host_ed25519").unlink()
    done = world.call("start", "kept", "--headless")
    assert done.code == 1 and "is missing" in done.err
    (directory / "known_hosts").unlink()
    world.ok("start", "kept", "--no-app")
    world.ok("run", "kept", "--", "true")


def test_stale_files_of_another_process_are_no_vm(world: World) -> None:
    world.ok("start", "kept", "--headless")
    run = world.run_dir("kept")
    saved = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    world.ok("stop", "kept")
    for name, data in saved.items():
        (run / name).write_bytes(data)
    assert not world.running("kept")
    world.ok("start", "kept", "--headless")
    assert len(world.qemus("kept")) == 1


def test_two_vms_have_different_ways_in(world: World) -> None:
    world.ok("start", "kept", "--no-app")
    world.ok("start", "spy", "--no-app")
    spaces = {Path(f"/proc/{world.qemus(vm)[0]}/ns/net").readlink() for vm in ("kept", "spy")}
    assert len(spaces) == 2 and Path("/proc/self/ns/net").readlink() not in spaces
    assert (
        world.ok("run", "kept", "--", "uname", "-n") == "kept\n"
        and world.ok("run", "spy", "--", "uname", "-n") == "spy\n"
    )


def test_a_clock_that_jumps_in_the_guest_does_no_harm(world: World) -> None:
    with world.up("kept"):
        for when in ("2001-01-01 00:00", "2039-01-01 00:00"):
            world.ok("run", "--root", "kept", "--", "date", "-s", when)
            assert world.ok("run", "kept", "--", "uname").strip() == "Linux"
            world.ok("start", "kept", "--headless", "--new")
    world.assert_nothing_left()


def test_stopping_during_a_start_waits_for_it_and_then_stops(world: World) -> None:
    call = world.begin("start", "kept", "--headless")
    wait_until(lambda: world.qemus("kept") != [])
    done = world.call("stop", "kept")
    assert done.code == 0 and "waiting for another okubsd" in done.err
    call.communicate(timeout=60)
    assert call.returncode == 0 and not world.running("kept")
    world.assert_nothing_left()


def small_disk(world: World, where: Path, size: str) -> dict[str, str]:
    """Mount ``size`` of memory at ``where`` as a state directory whose images are the world's."""
    where.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(where)], check=True)
    (where / "images").mkdir()
    return {"OKUBSD_STATE": str(where)}


def test_a_full_disk_at_a_first_start_is_told_and_leaves_nothing(world: World, tmp_path: Path) -> None:
    where = tmp_path / "small"
    env = small_disk(world, where, "80M")
    try:
        for name in ("boot", "base", "term"):
            (where / "images" / name).symlink_to(world.state / "images" / name)
        (where / "key").symlink_to(world.state / "key")
        filler = where / "filler"
        filler.write_bytes(bytes(shutil.disk_usage(where).free - 4096))
        done = world.call("start", "kept", "--headless", env=env)
        assert done.code == 1 and "No space left" in done.err and "Traceback" not in done.err, done.err
        assert not list(where.glob("vms/*/home*")) and not world.processes()
        filler.unlink()
        world.ok("start", "kept", "--no-app", env=env)
        world.ok("stop", "kept", env=env)
    finally:
        world.call("stop", "--all", "--force", env=env)
        subprocess.run(["umount", str(where)], check=True)


def test_a_full_disk_during_a_build_is_told_and_leaves_nothing(world: World, tmp_path: Path) -> None:
    where = tmp_path / "small"
    env = small_disk(world, where, "60M")
    try:
        done = world.call("image", "build", "boot", env=env)
        assert done.code == 1 and "Traceback" not in done.err, done.err
        assert "No space left" in done.err or "not built" in done.err
        assert sorted(path.name for path in (where / "images").iterdir()) == [".lock"]
    finally:
        subprocess.run(["umount", str(where)], check=True)


def test_builds_killed_and_doubled_make_one_image_each(world: World) -> None:
    before = world.ok("image", "path", "term")
    for moment in (0.5, 4.0):
        call = world.begin("image", "build", "--force", "term")
        time.sleep(moment)
        call.send_signal(signal.SIGKILL)
        call.communicate()
        assert world.ok("image", "path", "term") == before
    # A start goes on with the image that is there while another is being made.
    build = world.begin("image", "build", "--force", "term")
    second = world.begin("image", "build", "--force", "term")
    world.ok("start", "kept", "--no-app")
    assert build.wait(timeout=300) == 0 and second.wait(timeout=300) == 0
    for call in (build, second):
        call.communicate()
    # The same packages gave the same bytes, three times.
    assert world.ok("image", "path", "term") == before
    assert list(world.state.glob("images/.making-*")) == []


def test_ctrl_c_during_a_build_leaves_the_image_that_was(world: World) -> None:
    before = world.ok("image", "path", "term")
    call = world.begin("image", "build", "--force", "term")
    time.sleep(3)
    call.send_signal(signal.SIGINT)
    _, err = call.communicate(timeout=60)
    assert call.returncode == 130 and b"Traceback" not in err, err
    assert world.ok("image", "path", "term") == before
    world.assert_nothing_left()


def test_fifty_starts_and_stops_leak_nothing(world: World) -> None:
    """Two VMs come and go at the same time, 25 times each."""
    vms = ("term", "kept")

    def count() -> list[int]:
        return [len(list(world.run_base.rglob("*"))), *(len(list((world.state / "vms" / vm).iterdir())) for vm in vms)]

    servers: set[int] = set()

    def come_and_go(vm: str, times: int) -> None:
        for number in range(times):
            world.ok("start", vm, *(("--headless",) if number % 5 == 0 else ("--no-app",)))
            servers.update(pid for pid in (live_server(world.run_dir(vm)),) if pid)
            world.ok("stop", vm)

    def both(times: int) -> None:
        with ThreadPoolExecutor(len(vms)) as pool:
            assert list(pool.map(come_and_go, vms, (times, times))) == [None, None]

    both(2)  # the second boot keeps the first one's log
    before = count()
    both(25)
    world.assert_nothing_left()
    assert count() == before
    # An X server that ends by itself takes its lock and its socket with it (Xserver(1)).
    held = {int(path.read_text()) for path in Path("/tmp").glob(".X*-lock")}
    assert servers and not held & servers
