"""The walls, tried from inside a guest that is taken over."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.world import Done, World, wait_until

SETUID = "find / -xdev -perm /6000 -type f 2>/dev/null"


def test_the_guests_user_has_no_way_up(world: World) -> None:
    with world.up("kept", "--headless"):
        assert world.ok("run", "kept", "--", "sh", "-c", SETUID + "; true") == ""
        shadow = world.ok("run", "--root", "kept", "--", "cat", "/etc/shadow")
        assert all(line.split(":")[1] == "*" for line in shadow.splitlines())
        mounts = world.ok("run", "kept", "--", "cat", "/proc/mounts")
        home = next(line for line in mounts.splitlines() if " /home " in line)
        assert "nosuid" in home and "nodev" in home
        script = "for p in /proc/[0-9]*; do grep -q xterm $p/comm 2>/dev/null && grep NoNewPrivs $p/status; done; true"
        assert world.ok("run", "kept", "--", "sh", "-c", script).split() == ["NoNewPrivs:", "1"]
        assert world.call("run", "kept", "--", "sh", "-c", "echo x > /usr/x").code != 0
        assert world.call("run", "kept", "--", "cat", "/run/okubsd/host_key").code != 0
        # The host's own key, which opens every guest of its, is in none of them.
        script = "grep -rlI 'OPENSSH PRIVATE KEY' /run /home /root /etc /tmp 2>/dev/null; true"
        assert world.ok("run", "--root", "kept", "--", "sh", "-c", script) == ""


def test_even_the_guests_root_cannot_write_the_shared_drives(world: World) -> None:
    with world.up("kept"):
        for drive in ("vda", "vdb"):
            done = world.call(
                "run", "--root", "kept", "--", "dd", "if=/dev/zero", f"of=/dev/{drive}", "bs=4096", "count=1"
            )
            assert done.code != 0


def test_no_secret_is_in_a_shared_image_or_in_an_argv(world: World) -> None:
    with world.up("kept", "--headless"):
        secrets = [(world.state / "vms/kept" / name).read_bytes() for name in ("id_ed25519", "host_ed25519")]
        cookie = (world.run_dir("kept") / "cookie").read_bytes()
        for _, words in world.processes():
            assert cookie.hex() not in words
        for path in world.state.glob("images/*/*/*"):
            if path.is_file():
                data = path.read_bytes()
                assert not any(secret[-64:] in data for secret in secrets) and cookie not in data
        modes = [path.stat().st_mode & 0o077 for path in world.state.glob("vms/kept/*ed25519")]
        assert modes == [0, 0]


def test_a_vm_sees_neither_the_windows_nor_the_clipboard_of_another(world: World) -> None:
    world.ok("start", "shut", "term", "--headless", "--", "-T", "window-of-shut", "-e", "sleep", "999")
    world.ok("start", "spy", "--headless")
    env = "export DISPLAY=127.0.0.1:10 XAUTHORITY=/run/okubsd/Xauthority; "

    def inside(vm: str, script: str) -> str:
        return world.call("run", vm, "--", "sh", "-c", env + script).out

    inside(
        "shut",
        "printf secret-of-shut | xclip -selection clipboard; printf secret-of-shut | xclip",
    )
    assert "window-of-shut" in inside("shut", "xwininfo -root -tree")
    assert "secret-of-shut" in inside("shut", "xclip -o -selection clipboard")
    assert "window-of-shut" not in inside("spy", "xwininfo -root -tree; xdotool search --name . ; true")
    for selection in ("clipboard", "primary", "secondary"):
        assert "secret" not in inside("spy", f"timeout 5 xclip -o -selection {selection} 2>&1; true")
    assert "X." in inside("spy", "xinput list 2>&1 | sed 's/^/X./'")
    own, other = inside("spy", "xwd -root -silent | wc -c"), inside("shut", "xwd -root -silent | wc -c")
    assert int(own) > 1000 and int(other) > 1000
    # Neither the display of the other VM nor one of the host can be reached at all.
    for display in ("10.0.2.2:0", "10.0.2.2:1", "127.0.0.1:0", "10.0.2.15:11"):
        script = f"DISPLAY={display} timeout 8 xwininfo -root >/dev/null 2>&1; echo $?"
        assert inside("spy", script).strip() not in ("0", ""), display
    assert inside("spy", "ls /tmp/.X11-unix 2>/dev/null") == ""


@pytest.fixture
def outside() -> Iterator[str]:
    """A host beyond the uplink: a web server in a network namespace of the test's own, at 198.51.100.2."""
    if os.geteuid() != 0:
        pytest.fail("this test makes a network namespace and so needs root")
    run = subprocess.run
    name = f"okt{os.getpid()}"
    run(["ip", "netns", "add", name], check=True)
    server = None
    try:
        run(["ip", "link", "add", "okt0", "type", "veth", "peer", "name", "okt1", "netns", name], check=True)
        run(["ip", "address", "add", "198.51.100.1/24", "dev", "okt0"], check=True)
        run(["ip", "link", "set", "okt0", "up"], check=True)
        inner = ["nsenter", f"--net=/run/netns/{name}"]
        run([*inner, "ip", "address", "add", "198.51.100.2/24", "dev", "okt1"], check=True)
        run([*inner, "ip", "link", "set", "okt1", "up"], check=True)
        server = subprocess.Popen(
            [*inner, "python3", "-m", "http.server", "--bind", "198.51.100.2", "8080"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        yield "198.51.100.2"
    finally:
        if server is not None:
            server.kill()
            server.wait()
        run(["ip", "link", "delete", "okt0"], check=False, capture_output=True)
        run(["ip", "netns", "delete", name], check=False)


@contextlib.contextmanager
def listening(address: str) -> Iterator[tuple[int, list[str]]]:
    """A service of the host on ``address``; yields its port and the list of who came."""
    came: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            came.append(self.client_address[0])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer((address, 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1], came
    finally:
        server.shutdown()
        server.server_close()


def test_what_was_copied_crosses_only_by_the_users_word_once_and_without_control_letters(world: World) -> None:
    world.ok("start", "shut", "--headless")
    world.ok("start", "spy", "--headless")
    env = "export DISPLAY=127.0.0.1:10 XAUTHORITY=/run/okubsd/Xauthority; "
    take = "timeout 20 xclip -o -selection clipboard"

    def inside(vm: str, script: str) -> Done:
        return world.call("run", vm, "--", "sh", "-c", env + script)

    inside("shut", "printf 'ls\\033[2J -l\\n' | xclip -selection clipboard")
    world.ok("clip", "copy", "shut")
    assert "letters from shut, 1 unseen taken out (U+001B): ls[2J -l" in world.ok("clip", "show")
    assert inside("spy", take).code != 0
    with subprocess.Popen(
        world.argv("clip", "paste", "spy", "-t", "60"), env=world.env, stderr=subprocess.PIPE
    ) as paste:
        wait_until(lambda: inside("spy", take).out == "ls[2J -l\n")
        assert paste.wait(60) == 0
    assert inside("spy", take).code != 0
    assert world.call("clip", "paste", "spy").code == 1
    crossing = json.loads(world.ok("log", "--crossings", "--json"))["crossings"][-1]
    assert (crossing["source"], crossing["target"], crossing["outcome"]) == ("shut", "spy", "taken")
    inside("shut", "head -c 3000000 /dev/zero | tr '\\0' x | xclip -selection clipboard")
    with subprocess.Popen(world.argv("clip", "shut", "spy", "-t", "60"), env=world.env, stderr=subprocess.PIPE) as give:
        assert give.stderr is not None and b"3000000 letters from shut" in give.stderr.readline()
        wait_until(lambda: inside("spy", f"{take} | wc -c").out == "3000000\n")
        assert give.wait(60) == 0


def get(world: World, vm: str, host: str, port: int) -> bool:
    """Return whether the guest's root gets an answer from ``host``."""
    script = f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | timeout 8 nc -w 5 {host} {port} | head -c 12"
    return world.call("run", "--root", vm, "--", "sh", "-c", script).out.startswith("HTTP/1.0 200")


def test_nat_reaches_out_but_neither_the_host_nor_another_vm(world: World, outside: str) -> None:
    world.ok("start", "spy", "--no-app")
    world.ok("start", "kept", "--no-app")
    assert get(world, "spy", outside, 8080)
    with listening("127.0.0.1") as (port, came):
        for host in ("10.0.2.2", "127.0.0.1", "10.0.3.2"):
            assert not get(world, "spy", host, port), host
        assert came == []
    with listening("198.51.100.1") as (port, came):
        assert not get(world, "spy", "198.51.100.1", port)
        assert came == []
    config = (world.run_dir("kept") / "ssh_config").read_text()
    other = int(next(line.split()[1] for line in config.splitlines() if line.startswith("\tPort")))
    for host in ("10.0.2.2", "127.0.0.1"):
        script = f"timeout 8 nc -w 5 {host} {other} </dev/null | head -c 3"
        assert world.call("run", "--root", "spy", "--", "sh", "-c", script).out != "SSH"


def test_none_reaches_nothing_not_even_with_routes_of_its_own(world: World, outside: str) -> None:
    world.ok("start", "shut", "--no-app")
    add = "ip route add default via 10.0.2.2; ip link set eth0 up; true"
    world.call("run", "--root", "shut", "--", "busybox", "sh", "-c", add)
    with listening("127.0.0.1") as (port, came):
        assert not get(world, "shut", outside, 8080)
        for host in ("10.0.2.2", "198.51.100.1"):
            assert not get(world, "shut", host, port), host
        assert came == []
    resolve = world.call("run", "shut", "--", "timeout", "8", "getent", "hosts", "www.example.org")
    assert resolve.out == ""


def test_the_guest_listens_on_ssh_and_its_own_display_only(world: World) -> None:
    with world.up("kept", "--headless"):
        # There is no IPv6 in a guest.
        assert world.call("run", "kept", "--", "cat", "/proc/net/tcp6").code != 0
        lines = world.ok("run", "kept", "--", "cat", "/proc/net/tcp").splitlines()
        listening = {line.split()[1] for line in lines if " 0A " in line}
        assert {entry.split(":")[1] for entry in listening} == {"0016", f"{6010:04X}"}
        assert f"0100007F:{6010:04X}" in listening


def test_another_host_key_is_not_taken(world: World) -> None:
    with world.up("kept"):
        pinned = world.state / "vms/kept/known_hosts"
        good = pinned.read_text()
        try:
            pinned.write_text(
                (world.state / "vms/kept/id_ed25519.pub").read_text().replace("ssh-ed25519", "kept ssh-ed25519", 1)
            )
            done = world.call("run", "kept", "--", "true")
            assert done.code == 255 and "verification failed" in done.err.lower()
        finally:
            pinned.write_text(good)
        assert world.call("run", "kept", "--", "true").code == 0


def test_the_x_cookie_of_one_vm_opens_no_other(world: World) -> None:
    world.ok("start", "kept", "--headless")
    world.ok("start", "term", "--headless")
    files = [(world.run_dir(vm) / "cookie").read_bytes() for vm in ("kept", "term")]
    assert files[0] != files[1]
    assert all(Path(path).stat().st_mode & 0o077 == 0 for path in world.run_base.glob("*/cookie"))
