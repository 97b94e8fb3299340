"""A VM as its user has it: started, used, stopped; seen working in a real guest."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pexpect
import pytest

from okubsd.host import keys, window
from okubsd.host.facts import live_display
from tests.vm.world import World, client_of, read_png, share_of, wait_until

WHITE = (255, 255, 255)


def test_start_shows_a_window_and_says_its_phases(world: World, tmp_path: Path) -> None:
    out = world.ok("start", "term", "--headless", "--timing")
    assert [line.split()[0] for line in out.splitlines()] == [
        "images",
        "boot",
        "display",
        "ssh",
        "app",
        "window",
        "paint",
        "total",
    ]
    world.ok("screenshot", "term", str(tmp_path / "term.png"))
    assert read_png(tmp_path / "term.png")[:2] == (800, 600)
    wait_until(
        lambda: (
            world.ok("screenshot", "term", str(tmp_path / "p.png")) == "" and share_of(tmp_path / "p.png", WHITE) > 0.9
        )
    )
    status = world.status("term")
    assert status["state"] == "running" and status["last_start_seconds"] > 0
    assert abs(sum(status["last_start_phases"].values()) - status["last_start_seconds"]) < 0.1
    world.ok("stop", "term")
    assert world.call("stop", "term").err.strip() == "okubsd: term is not running"
    world.assert_nothing_left()


def test_starting_twice_is_starting_once_and_new_is_another(world: World) -> None:
    world.ok("start", "kept", "--headless")
    again = world.call("start", "kept", "--headless")
    assert again.code == 0 and "shown already" in again.err
    assert world.ok("run", "kept", "--", "sh", "-c", "ls /run/okubsd/apps | wc -l").strip() == "1"
    world.ok("start", "kept", "--new")
    assert world.ok("run", "kept", "--", "sh", "-c", "ls /run/okubsd/apps | wc -l").strip() == "2"
    assert len(world.qemus("kept")) == 1


def test_two_starts_at_once_make_one_vm(world: World) -> None:
    calls = [world.begin("start", "kept", "--headless") for _ in range(2)]
    codes = [call.wait(timeout=300) for call in calls]
    for call in calls:
        call.communicate()
    assert codes == [0, 0] and len(world.qemus("kept")) == 1


def test_run_passes_input_output_and_exit_code(world: World) -> None:
    with world.up("kept"):
        assert world.ok("run", "kept", "--", "cat", data=b"\0\xff\n" * 5000).count("\n") == 5000
        assert world.call("run", "kept", "--", "cat", data=b"\0\xfe\n" * 5000).raw == b"\0\xfe\n" * 5000
        assert world.call("run", "kept", "--", "sh", "-c", "exit 41").code == 41
        assert world.ok("run", "kept", "--", "printf", "%s|", "a b", "$HOME", "'") == "a b|$HOME|'|"
        assert world.ok("run", "kept", "--", "id", "-un").strip() == "user"
        assert world.ok("run", "--root", "kept", "--", "id", "-un").strip() == "root"


def test_run_boots_the_vm_if_need_be(world: World) -> None:
    assert world.ok("run", "term", "--", "uname").strip() == "Linux"
    assert world.running("term")


def test_escape_codes_do_not_reach_a_terminal(world: World) -> None:
    with world.up("kept"):
        command = ["run", "kept", "--", "printf", r"a\033]0;owned\007b\n"]
        shell = pexpect.spawn(sys.executable, ["-m", "okubsd", *command], env=world.env, timeout=60)
        shell.expect(pexpect.EOF)
        assert b"\x1b]" not in shell.before and b"]0;ownedb" in shell.before
        assert world.call(*command).raw == b"a\033]0;owned\007b\n"


def test_home_survives_a_restart_and_the_rest_does_not(world: World) -> None:
    with world.up("kept"):
        world.ok("run", "kept", "--", "sh", "-c", "echo kept > ~/marker; echo x > /tmp/marker")
        world.ok("run", "--root", "kept", "--", "sh", "-c", "echo x > /usr/marker; echo x > /etc/marker")
        world.ok("restart", "kept", "--headless")
        assert world.ok("run", "kept", "--", "cat", "marker") == "kept\n"
        assert world.call("run", "kept", "--", "ls", "/usr/marker", "/tmp/marker", "/etc/marker").code == 2
        assert "recovery" not in world.ok("run", "--root", "kept", "--", "dmesg")


def test_a_disposable_home_is_gone(world: World) -> None:
    with world.up("gone"):
        world.ok("run", "gone", "--", "sh", "-c", "echo x > ~/marker")
    with world.up("gone"):
        assert world.call("run", "gone", "--", "cat", "marker").code == 1
    assert not (world.state / "vms/gone/home.img").exists()


def test_a_guest_has_the_hosts_time_zone(world: World) -> None:
    zone = {"TZ": "America/Sao_Paulo"}
    with world.up("gone", env=zone):
        assert world.ok("run", "gone", "--", "date", "+%z") == "-0300\n"
    text = world.description.read_text()
    world.description.write_text(text.replace("gone: {", "gone: {timezone: UTC, "))
    try:
        with world.up("gone", env=zone):
            assert world.ok("run", "gone", "--", "date", "+%z") == "+0000\n"
    finally:
        world.description.write_text(text)


def kept_of(world: World) -> set[str]:
    """Return every file of this world but its images."""
    found = (path.relative_to(world.state) for path in world.state.rglob("*"))
    return {str(path) for path in found if path.parts[0] != "images"}


def test_of_a_copy_nothing_is_left_however_it_ends(world: World) -> None:
    before = kept_of(world)
    # Two at once, and each has a home of its own.
    for number in (1, 2):
        world.ok("start", "--disposable", "kept", "--headless")
        world.ok("run", f"kept-{number}", "--", "sh", "-c", "test ! -e ~/x && echo x >~/x")
    assert world.ok("list").count("(a copy of kept)") == 2
    assert world.ok("run", "kept-1", "--", "cat", "x") == "x\n"
    world.ok("stop", "kept-1")
    os.kill(world.qemus("kept-2")[0], signal.SIGKILL)
    wait_until(lambda: kept_of(world) == before and not world.processes())
    # Its start is killed while its guest boots: the next copy takes what was left with it.
    begun = world.begin("start", "--disposable", "kept", "--headless")
    wait_until(lambda: bool(world.qemus("kept-1")))
    begun.kill()
    begun.wait()
    world.ok("start", "--disp", "vault", "--headless")
    assert not world.qemus("kept-1")
    # It ends with its app, as every VM that is not kept.
    world.call("run", "vault-1", "--", "busybox", "killall", "xterm")
    wait_until(lambda: kept_of(world) == before and not world.processes())


def test_files_go_in_and_out_whole(world: World, tmp_path: Path) -> None:
    source, back = tmp_path / "a b.bin", tmp_path / "back.bin"
    source.write_bytes(os.urandom(10_000_000))
    source.chmod(0o755)
    with world.up("kept"):
        world.ok("cp", str(source), "kept:")
        digest = world.ok("run", "kept", "--", "sha256sum", "a b.bin").split()[0]
        assert digest == hashlib.sha256(source.read_bytes()).hexdigest()
        assert world.ok("run", "kept", "--", "stat", "-c", "%a", "a b.bin") == "755\n"
        world.ok("cp", "kept:~/a b.bin", str(back))
        assert back.read_bytes() == source.read_bytes()
        for args, said in [
            (("cp", "kept:nosuch", str(tmp_path)), "there is no 'nosuch' in the guest"),
            (("cp", str(tmp_path / "nosuch"), "kept:"), "No such file"),
            (("cp", str(tmp_path), "kept:"), "is a directory"),
            (("cp", "kept:/etc", str(tmp_path / "x")), "is a directory in the guest"),
            (("cp", str(source), "kept:/etc/x"), "does not let its user"),
        ]:
            done = world.call(*args)
            assert done.code == 1 and said in done.err and "Traceback" not in done.err, done.err


def test_directories_and_several_files_go_from_guest_to_guest(world: World, tmp_path: Path) -> None:
    (tmp_path / "top/sub").mkdir(parents=True)
    (tmp_path / "top/sub/x").write_bytes(os.urandom(100_000))
    (tmp_path / "one").write_text("one\n")
    with world.up("kept"), world.up("term"):
        # Of an earlier run of the tests, whose homes are kept.
        world.ok("run", "kept", "--", "rm", "-rf", "inbox", "top")
        world.ok("run", "term", "--", "rm", "-rf", "top")
        world.ok("cp", "-r", str(tmp_path / "top"), "kept:")
        world.ok("cp", str(tmp_path / "one"), str(tmp_path / "top/sub/x"), "kept:top/")
        for number in range(2):
            world.ok("send", str(tmp_path / "one"), str(tmp_path / "top"), "kept")
            assert f"~/inbox/one{'-2' * number}" not in world.call("send", str(tmp_path / "nosuch"), "kept").err
        assert world.ok("run", "kept", "--", "ls", "inbox") == "one\none-2\ntop\ntop-2\n"
        assert world.ok("run", "kept", "--", "cat", "inbox/one-2") == "one\n"
        # From one inbox to another, where the policy lets it.
        world.ok("run", "term", "--", "rm", "-rf", "inbox")
        policy = world.config / "okubsd/policy.d/send.policy"
        policy.parent.mkdir(exist_ok=True)
        policy.write_text("files kept term deny\n")
        refused = world.call("send", "kept:inbox/one", "term")
        policy.unlink()
        assert refused.code == 1 and "send.policy:1" in refused.err
        world.ok("send", "kept:inbox/one", "term")
        assert world.ok("run", "term", "--", "cat", "inbox/one") == "one\n"
        assert world.call("send", "kept:..", "term").code == 2
        # ssh of the user's own, by the connection that is there.
        config = tmp_path / "ssh_config"
        config.write_text(f"Include {world.run_base}/*/ssh_config\n")
        argv = ["ssh", "-F", str(config), "kept.okubsd", "hostname"]
        assert subprocess.run(argv, capture_output=True, text=True, check=True).stdout == "kept\n"
        world.ok("cp", "-r", "kept:top", "term:")
        world.ok("cp", "-r", "term:top", str(tmp_path / "back"))
    assert (tmp_path / "back/sub/x").read_bytes() == (tmp_path / "top/sub/x").read_bytes()
    assert (tmp_path / "back/x").read_bytes() == (tmp_path / "top/sub/x").read_bytes()
    assert (tmp_path / "back/one").read_text() == "one\n"


def test_a_full_home_is_told_and_keeps_what_it_had(world: World, tmp_path: Path) -> None:
    small = tmp_path / "small.bin"
    small.write_bytes(b"old\n")
    with world.up("kept"):
        world.ok("cp", str(small), "kept:")
        world.call("run", "kept", "--", "sh", "-c", "dd if=/dev/zero of=fill bs=1M 2>/dev/null; true")
        small.write_bytes(os.urandom(3_000_000))
        done = world.call("cp", str(small), "kept:")
        assert done.code == 1 and "there is no room in the guest for 'small.bin'" in done.err, done.err
        assert world.ok("run", "kept", "--", "cat", "small.bin") == "old\n"
        assert not [
            name for name in world.ok("run", "kept", "--", "sh", "-c", "rm fill; ls -A").split() if "part" in name
        ]


def test_the_console_is_a_root_shell_that_tilde_dot_leaves(world: World) -> None:
    with world.up("kept"):
        console = pexpect.spawn(sys.executable, ["-m", "okubsd", "console", "kept"], env=world.env, timeout=60)
        console.expect("leaves")
        console.send(b"\r")
        console.expect("# ")
        console.send(b"echo uid=$(id -u) sum=$((6*7))\r")
        console.expect("uid=0 sum=42")
        console.send(b"\r~.")
        console.expect(pexpect.EOF)
        console.close()
        assert console.exitstatus == 0


def test_the_log_is_of_this_boot_and_of_the_one_before(world: World) -> None:
    for _ in range(2):
        with world.up("kept"):
            assert "okubsd: ready" in world.ok("log", "kept")
    assert "okubsd: off" in world.ok("log", "kept") and "okubsd: off" in world.ok("log", "--previous", "kept")


def test_closing_the_window_ends_the_app_and_the_vm_unless_it_is_kept(world: World) -> None:
    for vm, stays in (("term", False), ("kept", True)):
        world.ok("start", vm, "--headless")
        run = world.run_dir(vm)
        number, cookie = live_display(run), keys.read_cookie(run)
        assert number is not None and cookie is not None
        with client_of(number, cookie) as display:
            for window_id in window.app_windows(display):
                display.create_resource_object("window", window_id).kill_client()
            display.sync()
        if stays:
            wait_until(lambda: world.ok("run", "kept", "--", "ls", "/run/okubsd/apps") == "")
            world.ok("start", "kept", "--headless")
        else:
            wait_until(lambda: not world.running("term"))
            world.assert_nothing_left()


def tree_of(world: World, display: str) -> str:
    """Return the windows of a display, as xwininfo(1) tells them."""
    argv, env = ["xwininfo", "-root", "-tree"], {**world.env, "DISPLAY": display}
    return subprocess.run(argv, env=env, capture_output=True, text=True, check=True).stdout


def windows(world: World, vm: str) -> list[dict[str, object]]:
    """Return the windows that a VM shows on the desktop."""
    found: list[dict[str, object]] = json.loads(world.ok("windows", vm, "--json"))["windows"]
    return found


def test_two_apps_are_two_windows_of_the_desktop(world: World, desktop: str) -> None:
    world.ok("start", "kept", env={"DISPLAY": desktop})
    (row,) = windows(world, "kept")
    assert row["app"] == "XTerm" and row["painted"] is True
    assert '"[kept] ' in tree_of(world, desktop) and '("okubsd-kept" "XTerm")' in tree_of(world, desktop)
    # A start of what is shown already raises it; another app is another window.
    again = world.call("start", "kept", env={"DISPLAY": desktop})
    assert again.code == 0 and len(windows(world, "kept")) == 1
    world.ok("start", "kept", "--new", env={"DISPLAY": desktop})
    assert len(windows(world, "kept")) == 2
    world.ok("close", "kept", str(row["window"]))
    wait_until(lambda: len(windows(world, "kept")) == 1)
    assert world.call("close", "kept", str(row["window"])).code == 4
    # The display of the VM has no connection to that of the user.
    server = next(words for _, words in world.processes() if "Xvfb" in words)
    assert "-nolisten tcp" in server and " -ac " not in server
    assert not [words for _, words in world.processes() if "Xephyr" in words]


def test_a_vm_that_nobody_sees_moves_to_the_desktop(world: World, desktop: str) -> None:
    world.ok("start", "kept", "--headless")
    assert windows(world, "kept") == []
    world.ok("start", "kept", env={"DISPLAY": desktop})
    assert len(windows(world, "kept")) == 1


def test_hands_reach_the_display_of_their_vm_only(world: World, desktop: str) -> None:
    world.ok("start", "kept", "--headless")
    before = tree_of(world, desktop)
    text = "echo 'zyäöüß€@{}[]|~ Привет' >~/typed"
    world.ok("click", "kept", "100", "100")
    world.ok("type", "kept", text)
    world.ok("key", "kept", "Return")
    wait_until(lambda: world.call("run", "kept", "--", "cat", "typed").out.strip() == "zyäöüß€@{}[]|~ Привет", 120)
    assert tree_of(world, desktop) == before
    assert world.call("key", "kept", "Ctrl+Nonsense").code == 2


def test_xephyr_shows_the_vm_in_a_titled_window_of_the_desktop(world: World, desktop: str, tmp_path: Path) -> None:
    described = world.description.read_text()
    try:
        world.description.write_text(described.replace("display: 800x600", "display: xephyr 800x600"))
        world.ok("start", "kept", env={"DISPLAY": desktop})
    finally:
        world.description.write_text(described)
    assert '"kept - okubsd"' in tree_of(world, desktop)
    assert (world.run_dir("kept") / "Xauthority").stat().st_mode & 0o777 == 0o600
    xephyr = next(words for _, words in world.processes() if "Xephyr" in words)
    assert "-nolisten tcp" in xephyr and "-resizeable" in xephyr and " -ac " not in xephyr
    # Without the cookie the VM's display lets nobody in.
    inner = f":{world.status('kept')['display'].lstrip(':')}"
    refused = subprocess.run(
        ["xwininfo", "-root"], env={**world.env, "DISPLAY": inner}, capture_output=True, check=False
    )
    assert refused.returncode != 0


@pytest.mark.parametrize(("layout", "typed"), [("de", "zyäöüß@€{}[]|~"), ("br", "ç/?°"), ("fr", "éèç@€{}[]|~")])
def test_keys_arrive_as_the_desktop_has_them(layout: str, typed: str, world: World, desktop: str) -> None:
    env = {**world.env, "DISPLAY": desktop, "LC_ALL": "C.UTF-8"}
    subprocess.run(["setxkbmap", layout], env=env, check=True)
    world.ok("start", "kept", env={"DISPLAY": desktop})
    argv = ["xdotool", "search", "--name", "^.kept. ", "windowfocus"]
    # No window manager gives it the keyboard.
    subprocess.run(argv, env=env, check=True)

    def arrives() -> bool:
        # A busy machine may be late with a modifier of xdotool's: what was typed once has to be right, not each time.
        subprocess.run(["xdotool", "type", "--delay", "60", f"echo '{typed}' >~/typed"], env=env, check=True)
        subprocess.run(["xdotool", "key", "Return"], env=env, check=True)
        time.sleep(1)
        return world.ok("run", "kept", "--", "cat", "typed").strip() == typed

    wait_until(arrives, 120)


def test_a_killed_display_ends_the_app_and_the_next_start_shows_it_again(world: World, desktop: str) -> None:
    world.ok("start", "kept", env={"DISPLAY": desktop})
    os.kill(next(pid for pid, words in world.processes() if "Xvfb" in words), 9)
    wait_until(lambda: world.ok("run", "kept", "--", "ls", "/run/okubsd/apps") == "")
    world.ok("start", "kept", env={"DISPLAY": desktop})
    assert world.status("kept")["display"] and len(windows(world, "kept")) == 1
    assert len(world.qemus("kept")) == 1


def test_the_devices_of_a_running_vm_are_the_pinned_ones(world: World) -> None:
    with world.up("kept"):
        seen = world.ok("run", "kept", "--", "sh", "-c", "cat /sys/bus/virtio/devices/*/device").split()
        # Virtio device types: 1 network, 2 block, 4 entropy (virtio 1.2, section 5).
        assert sorted(int(word, 16) for word in seen) == [1, 2, 2, 2, 4]
        pci = world.ok("run", "kept", "--", "sh", "-c", "cat /sys/bus/pci/devices/*/class").split()
        # Two bridges (host, ISA) and the virtio functions; no USB, sound, graphics or disk controller.
        assert len(pci) == 5 + 2, pci


NOTE = """
from: base
packages: [xterm]
apps:
  edit: [sh, -c, 'echo more >>"$0"; exec xterm -e sleep 4']
  look: [sh, -c, 'exec xterm -e sleep 4']
"""


def test_a_file_is_opened_in_a_copy_and_comes_back_changed(world: World, desktop: str, tmp_path: Path) -> None:
    recipe = world.config / "okubsd/images/note/recipe.yaml"
    recipe.parent.mkdir()
    recipe.write_text(NOTE)
    text = world.description.read_text()
    world.description.write_text(f"{text}  note: {{image: note, network: none}}\n")
    rules, env = world.config / "okubsd/open.rules", {"DISPLAY": desktop}
    rules.write_text("file *.note note\nfile *.seen note look\n")
    path, seen = tmp_path / "a b.note", tmp_path / "x.seen"
    path.write_text("first\n")
    seen.write_text("only looked at\n")
    try:
        assert world.ok("open", "-n", str(path)).startswith("note edit disposable: ")
        done = world.call("open", str(path), env=env)
        assert done.code == 0 and "+more" in done.out, done.err
        # Nobody was there to say yes: both are there.
        beside = tmp_path / "a b.note.okubsd-new"
        assert path.read_text() == "first\n" and beside.read_text() == "first\nmore\n"
        beside.unlink()
        world.ok("open", "--yes", str(path), env=env)
        assert path.read_text() == "first\nmore\n" and sorted(tmp_path.glob("*.okubsd-new")) == []
        world.ok("open", str(seen), env=env)
        assert seen.read_text() == "only looked at\n"
        assert not list((world.state / "vms").glob("note-*"))
        policy = world.config / "okubsd/policy.d/open.policy"
        policy.parent.mkdir(exist_ok=True)
        policy.write_text("open @host note deny\n")
        denied = world.call("open", str(path), env=env)
        policy.unlink()
        assert denied.code != 0 and "open from host to note is denied" in denied.err
        assert world.call("open", str(tmp_path / "none.note"), env=env).code == 2
    finally:
        world.end_all()
        world.description.write_text(text)
        rules.unlink(missing_ok=True)
        world.call("image", "rm", "note")
        recipe.unlink()
        recipe.parent.rmdir()


def test_a_shared_directory_is_there_until_it_is_taken_away(world: World, tmp_path: Path) -> None:
    source = tmp_path / "src"
    (source / "sub").mkdir(parents=True)
    (source / "a").write_text("from the host\n")
    (source / "out").symlink_to("/etc/hostname")
    with world.up("kept"):
        world.ok("share", "kept", str(source))
        assert world.ok("run", "kept", "--", "cat", "src/a") == "from the host\n"
        assert world.call("run", "kept", "--", "sh", "-c", "echo x >src/a").code != 0
        assert world.call("run", "kept", "--", "cat", "src/out").code != 0
        world.ok("share", "kept", str(source), "--rw", "--at", "work")
        world.ok("run", "kept", "--", "sh", "-c", "echo from the guest >work/sub/b && chmod 4777 work/sub/b")
        assert (source / "sub/b").read_text() == "from the guest\n" and (source / "sub/b").stat().st_mode & 0o7000 == 0
        assert world.call("run", "kept", "--", "ln", "-s", "/etc", "work/link").code != 0
        rows = json.loads(world.ok("share", "kept", "--json"))["shares"]
        assert [(row["at"], row["writable"]) for row in rows] == [("/home/user/src", False), ("/home/user/work", True)]
        world.ok("unshare", "kept", "work")
        assert world.ok("run", "kept", "--", "ls", "work") == ""
        refused = world.call("share", "kept", str(tmp_path / "none"))
        assert refused.code == 2
