"""A guest that is taken over, root included, tries to hurt the host: every command ends in time, and the VM is stopped."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from okubsd.host import keys
from okubsd.host.running import live_display, live_qemu, live_server
from tests.vm.world import World, client_of, wait_until

# Of one call of okubsd: the seconds that the manual promises for what a guest does not answer, and then some.
_MOST_SECONDS = 100
# What a call of ours, and each process that it waits for, holds at most, in bytes.
_MOST_MEMORY = 150 << 20


@pytest.fixture
def shown(world: World) -> Iterator[Any]:
    """A client of the display of a VM that shows its app."""
    world.ok("start", "kept", "--headless")
    run = world.run_dir("kept")
    number, cookie = live_display(run), keys.read_cookie(run)
    assert number is not None and cookie is not None
    with client_of(number, cookie) as display:
        yield display


# Runs a program, and writes the KiB of the largest of it and what it waited for into a descriptor (getrusage(2),
# RUSAGE_CHILDREN).  A process of its own, as a program inherits the peak of who calls it, and pytest is large.
_MEASURE = """
import os, resource, subprocess, sys
code = subprocess.run(["timeout", "--kill-after=9", "600", *sys.argv[2:]]).returncode
os.write(int(sys.argv[1]), b"%d" % resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code if code >= 0 else 128 - code)
"""


def measured(world: World, *args: str) -> tuple[int, str, float, int]:
    """Call okubsd and return its code, its errors, the seconds it took and the bytes that it held at most."""
    began = time.monotonic()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, tempfile.TemporaryFile("w+") as peak:
        argv = (sys.executable, "-S", "-c", _MEASURE, str(peak.fileno()), *world.argv(*args))
        keep = (peak.fileno(),)
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=world.env,
            pass_fds=keep,
            timeout=620,
            check=False,
        )
        assert out.seek(0, os.SEEK_END) < 64 << 20
        err.seek(0)
        said = err.read().decode(errors="replace")
        peak.seek(0)
        return done.returncode, said, time.monotonic() - began, int(peak.read()) << 10


def ends_well(world: World, *args: str, seconds: float = _MOST_SECONDS) -> tuple[int, str]:
    """Assert that a call ends in time and without a traceback; return its code and errors."""
    code, err, spent, held = measured(world, *args)
    assert held < _MOST_MEMORY, f"{args}: a call of ours takes what a guest sends into memory"
    assert spent < seconds and "Traceback" not in err and "bug of okubsd" not in err, (args, spent, err)
    return code, err


def test_a_display_offers_only_what_apps_need(shown: Any) -> None:
    offered = set(shown.list_extensions())
    refused = {"MIT-SHM", "SECURITY", "GLX", "XVideo", "DOUBLE-BUFFER", "X-Resource", "MIT-SCREEN-SAVER", "DPMS"}
    assert not offered & refused and {"RENDER", "XFIXES", "RANDR"} <= offered


def test_a_guest_that_takes_memory_gets_an_error_and_the_desktop_nothing_of_it(world: World, shown: Any) -> None:
    from Xlib import error

    server = live_server(world.run_dir("kept"))
    refused: list[object] = []
    shown.set_error_handler(lambda problem, _: refused.append(problem))
    for _ in range(60):
        shown.screen().root.create_pixmap(2048, 2048, 24)
    shown.sync()
    assert any(isinstance(problem, error.BadAlloc) for problem in refused)
    resident = next(
        line for line in Path(f"/proc/{server}/status").read_text().splitlines() if line.startswith("VmRSS")
    )
    assert int(resident.split()[1]) << 10 < 700 << 20
    assert live_server(world.run_dir("kept")) == server


def test_a_grabbed_display_holds_no_command_up(world: World, shown: Any, tmp_path: Path) -> None:
    shown.grab_server()
    shown.sync()
    code, err = ends_well(world, "screenshot", "kept", str(tmp_path / "x.png"))
    assert code == 6 and "its display did not answer within" in err
    code, _ = ends_well(world, "start", "kept", "--headless", "--new")
    assert code == 6
    assert ends_well(world, "status", "kept", seconds=20)[0] == 0
    assert ends_well(world, "stop", "kept", seconds=60)[0] == 0


def test_a_forced_stop_waits_for_no_start(world: World, shown: Any) -> None:
    shown.grab_server()
    shown.sync()
    starting = world.begin("start", "kept", "--headless", "--new")
    time.sleep(3)
    assert ends_well(world, "stop", "-f", "kept", seconds=30)[0] == 0
    assert not world.qemus("kept")
    starting.communicate(timeout=60)


def test_ten_thousand_windows_and_a_huge_property_are_looked_at_in_time(
    world: World, shown: Any, tmp_path: Path
) -> None:
    root = shown.screen().root
    for _ in range(10_000):
        root.create_window(0, 0, 40, 40, 0, shown.screen().root_depth).map()
    shown.sync()
    atom = shown.intern_atom("WM_CLASS")
    made = root.create_window(0, 0, 40, 40, 0, shown.screen().root_depth)
    made.change_property(atom, shown.intern_atom("STRING"), 8, b"x" * (200 << 10))
    for _ in range(40):
        made.change_property(atom, shown.intern_atom("STRING"), 8, b"x" * (200 << 10), mode=2)
    made.map()
    shown.sync()
    ends_well(world, "screenshot", "kept", str(tmp_path / "x.png"))
    ends_well(world, "start", "kept", "--headless", "--new", seconds=240)
    assert ends_well(world, "stop", "-f", "kept", seconds=60)[0] == 0


# What root of a guest puts in the place of its programs.
_EVIL = {
    "an ssh server's shell that talks for ever": ("/bin/sh", "#!/bin/busybox sh\nexec cat /dev/zero\n"),
    "an app script that talks for ever": ("/usr/lib/okubsd/app", "#!/bin/busybox sh\nexec cat /dev/zero\n"),
    "an app script that never ends": ("/usr/lib/okubsd/app", "#!/bin/busybox sh\nexec sleep 100000\n"),
    "an sftp server that is silent": ("/usr/lib/sftp-server", "#!/bin/busybox sh\nexec sleep 100000\n"),
    "an sftp server that talks for ever": ("/usr/lib/sftp-server", "#!/bin/busybox sh\nexec cat /dev/urandom\n"),
    "a power-off that does not": ("/usr/lib/okubsd/poweroff", "#!/bin/busybox sh\nexec cat /dev/zero\n"),
}


@pytest.mark.parametrize("what", _EVIL)
def test_a_hostile_guest_ends_every_command_in_time(what: str, world: World, tmp_path: Path) -> None:
    path, text = _EVIL[what]
    source = tmp_path / "source"
    source.write_bytes(os.urandom(100_000))
    with world.up("kept"):
        for target in {path, "/usr/lib/openssh/sftp-server"} if "sftp" in path else {path}:
            script = f"rm -f {target}.new; cat >{target}.new; chmod 755 {target}.new; mv -f {target}.new {target}"
            world.ok("run", "--root", "kept", "--", "/bin/busybox", "sh", "-c", script, data=text.encode())
        for args in (
            ("list",),
            ("status", "kept"),
            ("clock", "kept"),
            ("cp", str(source), "kept:x"),
            ("cp", "kept:/etc/hostname", str(tmp_path / "back")),
            ("start", "kept", "--headless"),
        ):
            ends_well(world, *args)
        assert ends_well(world, "stop", "kept", seconds=90)[0] == 0
    assert not world.qemus("kept")


def test_what_a_guest_says_as_an_error_reaches_no_terminal_raw(world: World) -> None:
    import pexpect

    command = ["run", "kept", "--", "sh", "-c", "printf 'a\\033]0;owned\\007b\\342\\200\\256c\\n' >&2"]
    with world.up("kept"):
        shell = pexpect.spawn(world.argv()[0], [*world.argv(*command)[1:]], env=world.env, timeout=60)
        shell.expect(pexpect.EOF)
        assert b"\x1b]" not in shell.before and "a]0;ownedbc" in shell.before.decode()


def test_a_reader_that_goes_ends_the_command_in_the_guest(world: World) -> None:
    with world.up("kept"):
        words = " ".join(world.argv("run", "kept", "--", "yes"))
        done = subprocess.run(
            ["sh", "-c", f"{words} | head -2"], env=world.env, capture_output=True, timeout=60, check=False
        )
        assert done.stdout == b"y\ny\n" and b"Traceback" not in done.stderr
        wait_until(lambda: world.call("run", "kept", "--", "sh", "-c", "cat /proc/[0-9]*/comm | grep -x yes").code == 1)


def test_an_interrupt_ends_the_command_in_the_guest(world: World) -> None:
    with world.up("kept"):
        running = world.begin("run", "kept", "--", "sleep", "1234")
        wait_until(
            lambda: world.call("run", "kept", "--", "sh", "-c", "cat /proc/[0-9]*/comm | grep -x sleep").code == 0
        )
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=60)
        assert running.returncode == 130 and b"Traceback" not in err
        found = world.ok(
            "run",
            "kept",
            "--",
            "sh",
            "-c",
            "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline; echo; done 2>/dev/null",
        )
        assert "sleep 1234" not in [line.strip() for line in found.splitlines()]


def test_a_host_without_room_is_told_and_the_guest_goes_on_when_there_is_some(world: World) -> None:
    before, home = world.description.read_text(), world.state / "vms/small"
    home.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=90m", "tmpfs", str(home)], check=True)
    home.chmod(0o700)
    try:
        world.description.write_text(before.replace("home: 32M, keep", "home: 256M, keep"))
        world.ok("start", "small", "--no-app")
        writing = world.begin(
            "run", "small", "--", "sh", "-c", "dd if=/dev/urandom of=big bs=1M count=120; sync; echo whole"
        )
        wait_until(lambda: world.status("small")["state"] == "paused", 120)
        assert "no room on the host for its home" in world.ok("list")
        for args in (("run", "small", "--", "true"), ("cp", "small:x", "/tmp"), ("stop", "small")):
            code, err = ends_well(world, *args, seconds=20)
            assert code == 1 and "stands still: no room on the host" in err, err
        subprocess.run(["mount", "-o", "remount,size=500m", str(home)], check=True)
        out, _ = writing.communicate(timeout=300)
        assert b"whole" in out and writing.returncode == 0
        assert world.status("small")["state"] == "running"
        world.ok("stop", "small")
    finally:
        world.call("stop", "-f", "small")
        world.description.write_text(before)
        subprocess.run(["umount", str(home)], check=False)


def test_windows_outlive_a_guest_that_stands_still_and_a_network_that_is_gone(world: World) -> None:
    """Longer than three of the questions that ssh used to ask every 15 seconds; five minutes were tried by hand."""
    from okubsd.host.monitor import monitor

    for vm in ("kept", "term"):
        world.ok("start", vm, "--headless")
    stopped, cut = live_qemu(world.run_dir("kept")), world.run_dir("term") / "qmp"
    assert stopped is not None
    os.kill(stopped, signal.SIGSTOP)
    with monitor(cut) as qemu:
        qemu.human("set_link net0 off")
    assert "stopped by a signal" in world.ok("list")
    time.sleep(50)
    os.kill(stopped, signal.SIGCONT)
    with monitor(cut) as qemu:
        qemu.human("set_link net0 on")
    for vm in ("kept", "term"):
        assert live_display(world.run_dir(vm)) is not None
        wait_until(lambda vm=vm: world.call("run", vm, "--", "ls", "/run/okubsd/apps").out == "term\n", 120)


def test_a_home_grows_with_its_description_and_never_shrinks(world: World) -> None:
    before = world.description.read_text()
    with world.up("small"):
        world.ok("run", "small", "--", "sh", "-c", "echo mine >kept")
        first = int(world.ok("run", "small", "--", "stat", "-f", "-c", "%b", "/home"))
        world.description.write_text(before.replace("home: 32M, keep", "home: 128M, keep"))
        assert "home 128M" in world.ok("list")
    with world.up("small"):
        wait_until(lambda: int(world.ok("run", "small", "--", "stat", "-f", "-c", "%b", "/home")) > 3 * first)
        assert world.ok("run", "small", "--", "cat", "kept") == "mine\n"
    world.description.write_text(before)
    done = world.call("check")
    assert done.code == 8 and "vms.small.home: it has 128M now, and a home never shrinks" in done.err


def test_a_mistake_in_a_file_keeps_nobody_out(world: World, tmp_path: Path) -> None:
    before = world.description.read_text()
    with world.up("kept"):
        world.description.write_text(before + "nonsense: [\n")
        try:
            for args in (
                ("list",), ("status", "kept"), ("log", "kept"), ("run", "kept", "--", "true"), ("clock", "--all"),
                ("cp", "kept:/etc/passwd", str(tmp_path / "x")),
            ):  # fmt: skip
                assert ends_well(world, *args)[0] == 0, args
            assert "the description has mistakes" in world.call("list").err
            assert world.call("start", "term", "--headless").code == 8
            assert ends_well(world, "stop", "--all")[0] == 0 and not world.qemus("kept")
        finally:
            world.description.write_text(before)


def test_a_vm_is_renamed_and_removed_with_all_that_is_its(world: World) -> None:
    before = world.description.read_text()
    try:
        with world.up("small"):
            world.ok("run", "small", "--", "sh", "-c", "echo mine >kept")
            assert world.call("rename", "small", "moved").code == 1
        world.ok("rename", "small", "moved")
        with world.up("moved"):
            assert world.ok("run", "moved", "--", "cat", "kept") == "mine\n"
            world.description.write_text(before.replace("  small: {image: term, home: 32M, keep: yes}\n", ""))
            assert "moved" in world.ok("list")
            world.ok("stop", "moved")
        world.ok("rm", "--yes", "moved")
        assert not (world.state / "vms/moved").exists() and "moved" not in world.ok("list")
    finally:
        world.description.write_text(before)


def test_an_app_that_ends_before_its_window_is_told_in_its_own_words(world: World) -> None:
    with world.up("kept"):
        script = "#!/bin/sh\necho cannot open its nose >&2\nexit 3\n"
        world.ok("run", "--root", "kept", "--", "sh", "-c", "cat >/etc/okubsd/apps/term", data=script.encode())
        code, err = ends_well(world, "start", "kept", "--headless")
        assert code == 1 and "'term' ended before it showed a window: cannot open its nose" in err, err


def test_a_log_without_end_does_not_fill_the_disk(world: World) -> None:
    with world.up("kept"):
        log = world.state / "vms/kept/console.log"
        with log.open("ab") as stream:
            stream.write(b"x" * (65 << 20))
        wait_until(lambda: log.stat().st_size < 1 << 20, 60)
        world.ok("run", "--root", "kept", "--", "sh", "-c", "echo goes on >/dev/ttyS0")
        wait_until(lambda: b"goes on" in log.read_bytes())
        assert b"begins anew" in log.read_bytes()


def test_an_address_that_the_host_gets_later_is_refused_too(world: World) -> None:
    # Whoever connects is taken into the queue, and nobody has to answer.
    address, server = "203.0.113.250", socket.create_server(("0.0.0.0", 0), backlog=100)
    reach = f"exec 3<>/dev/tcp/{address}/{server.getsockname()[1]} && echo reached"

    def reached() -> bool:
        return "reached" in world.call("run", "spy", "--", "timeout", "5", "bash", "-c", reach).out

    with world.up("spy"):
        subprocess.run(["ip", "address", "add", f"{address}/32", "dev", "lo"], check=True)
        try:
            control = subprocess.run(["bash", "-c", reach], capture_output=True, check=False)
            assert b"reached" in control.stdout, "the control: the host itself reaches it"
            wait_until(lambda: not reached(), 60)
            for _ in range(3):
                assert not reached()
        finally:
            subprocess.run(["ip", "address", "del", f"{address}/32", "dev", "lo"], check=False)
            server.close()
