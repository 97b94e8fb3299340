"""The second wall in real guests: what an app does not see and cannot ask for, each with a control outside of it."""

from __future__ import annotations

import json

import pytest

from tests.vm.world import World, wait_until

pytestmark = pytest.mark.vm

# What an app runs behind, called by who is not behind anything.
AS_APP = ("/usr/lib/okubsd/wall", "sh", "-c")
FREE = ("sh", "-c")


def tried(world: World, wall: tuple[str, ...], script: str) -> bool:
    """Return whether ``script`` works in the guest behind ``wall``; the guest itself has to say so."""
    told = f"if {{ {script}; }} >/dev/null; then echo works; else echo fails; fi"
    done = world.call("run", "--no-sandbox", "kept", "--", *wall, told)
    assert done.out in ("works\n", "fails\n"), f"{script}: {done.code}, {done.out!r}, {done.err!r}"
    print(script, done.out, done.err)
    return done.out == "works\n"


# What works outside of the wall, as user 1000, and not behind it.
KEPT_FROM_AN_APP = {
    "the keys that open the guest": "grep -q ssh- ~/.ssh/authorized_keys",
    "what the host says of this VM": "test -d /run/okubsd/apps",
    "other processes": 'test -n "$(grep -l dropbear /proc/[0-9]*/comm)"',
    # It changes how its own mounts are passed on, which is a mount(2).
    "a mount in a namespace of its own": "unshare -Urm true",
    "packets without a protocol": "busybox arping -c 1 -w 1 -I eth0 192.0.2.1 2>&1 | grep -qv 'not supported'",
}


def test_an_app_sees_and_asks_for_less_than_is_there(world: World) -> None:
    with world.up("kept"):
        for what, script in KEPT_FROM_AN_APP.items():
            assert not tried(world, AS_APP, script), what
            if "packets" not in what:
                assert tried(world, FREE, script), f"{what}: the control does not work"
        status = world.ok("run", "--no-sandbox", "kept", "--", *AS_APP, "cat /proc/self/status")
        assert all(line in status for line in ("NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000000"))
        # What it is there for: its home, files that were copied in, and a browser's own sandbox.
        assert tried(world, AS_APP, "echo x >~/kept && echo x >/tmp/kept")
        assert world.ok("run", "kept", "--", "cat", "/home/user/kept", "/tmp/kept") == "x\nx\n"
        assert tried(world, AS_APP, "unshare -U true")
        assert not tried(world, AS_APP, "echo x >/etc/kept") and not tried(world, AS_APP, "echo x >~/.ssh/kept")


def test_a_command_of_the_hosts_gains_nothing_either(world: World) -> None:
    with world.up("kept"):
        status = world.ok("run", "kept", "--", "cat", "/proc/self/status")
        assert "NoNewPrivs:\t1" in status and "Seccomp:\t2" in status
        assert world.call("run", "kept", "--", *FREE, KEPT_FROM_AN_APP["a mount in a namespace of its own"]).code != 0
        free = world.ok("run", "--no-sandbox", "kept", "--", "cat", "/proc/self/status")
        assert "Seccomp:\t0" in free


def test_the_app_of_a_vm_runs_behind_it(world: World) -> None:
    with world.up("kept", "--headless"):
        script = (
            'for p in /proc/[0-9]*; do grep -qx xterm $p/comm && grep -E "NoNewPrivs|Seccomp:" $p/status; done; true'
        )
        said = world.ok("run", "-r", "kept", "--", "sh", "-c", script)
        assert said.split() == ["NoNewPrivs:", "1", "Seccomp:", "2"]


# What a paper would do that tells somebody that it was read.
TELLS = "busybox nc -w 2 127.0.0.1 22 </dev/null"
ALONE = """
from: base
packages: [xterm, x11-utils]
apps: {term: [xterm]}
sandbox: {network: no}
"""


def test_an_app_without_a_network_shows_its_window_and_reaches_nobody(world: World) -> None:
    recipe = world.config / "okubsd/images/alone/recipe.yaml"
    recipe.parent.mkdir(parents=True)
    recipe.write_text(ALONE)
    text = world.description.read_text()
    world.description.write_text(f"{text}  alone: {{image: alone, network: nat, keep: yes}}\n")
    try:
        with world.up("alone", "--headless"):
            # Its window is there: a start that returns has seen it painted.
            script = (
                "for p in /proc/[0-9]*; do grep -qx xterm $p/comm && ls -l $p/ns/net; done; ls -l /proc/self/ns/net"
            )
            app, free = (
                line.split()[-1] for line in world.ok("run", "-r", "alone", "--", "sh", "-c", script).splitlines()
            )
            assert app != free
            call = ("run", "--no-sandbox", "alone", "--")
            assert world.call(*call, "sh", "-c", TELLS).code == 0
            assert world.call(*call, *AS_APP, TELLS).code != 0
            # A second client comes by the same relay, and so does one of the guest's own.
            for env in ("DISPLAY=:10", "DISPLAY=127.0.0.1:10"):
                wall = AS_APP if env.endswith("=:10") else FREE
                said = world.ok(*call, *wall, f"XAUTHORITY=/run/okubsd/Xauthority {env} xwininfo -root")
                assert "Width:" in said
    finally:
        world.end_all()
        world.call("image", "rm", "alone")
        world.description.write_text(text)
        recipe.unlink()


PLANTED = (
    "echo 'alias sudo=evil' >>~/.bashrc; mkdir -p ~/.config/autostart ~/.local; mkfifo ~/.zshrc; "
    "echo '[Desktop Entry]' >~/.config/autostart/x.desktop; ln -s /etc ~/.local/share"
)
FOUND = [".local/share", ".bashrc", ".zshrc", ".config/autostart/x.desktop"]


def test_what_a_home_would_run_by_itself_is_told_locked_or_taken_away(world: World) -> None:
    text = world.description.read_text()
    try:
        with world.up("kept"):
            world.ok("run", "kept", "--", "sh", "-c", PLANTED)
            # By default it is told, when the VM boots and when somebody asks; what is accepted is known.
            assert json.loads(world.ok("guard", "kept", "--json"))["unknown"] == FOUND
            world.ok("restart", "kept", "--headless")
            wait_until(lambda: world.ok("log", "kept").count("guard: ") >= len(FOUND))
            world.ok("guard", "kept", "--accept")
            # Only plain files are; the rest is told again.
            assert json.loads(world.ok("guard", "kept", "--json"))["unknown"] == [".local/share", ".zshrc"]
            world.ok("run", "kept", "--", "sh", "-c", "echo x >>~/.bashrc; echo x >>~/.config/autostart/x.desktop")
        world.description.write_text(text.replace("kept: {", "kept: {guard: lock, "))
        with world.up("kept"):
            assert "lock" not in world.ok("run", "kept", "--", "cat", "/home/user/.bashrc").splitlines()[-1]
            said = [line for line in world.ok("log", "kept").splitlines() if "guard: " in line]
            assert len([line for line in said if "was not known" in line]) == len(FOUND)
            assert any(".bashrc was not known: the known one is there again" in line for line in said)
            assert world.call("run", "kept", "--", "sh", "-c", "echo x >>~/.bashrc").code != 0
            assert world.call("run", "kept", "--", "ls", "/home/user/.config/autostart/x.desktop").code != 0
            # Nothing of it is lost.
            taken = world.ok("run", "-r", "kept", "--", "ls", "-A", "/home/.okubsd/taken").split()
            assert len(taken) == len(FOUND)
        world.description.write_text(text)
        # Without its home it boots, too, and what was locked can be had.
        world.ok("rescue", "kept")
        script = "busybox mount $(cat /run/okubsd/home-drive) /mnt && ls -A /mnt/user && busybox umount /mnt"
        assert ".bashrc" in world.ok("run", "-r", "kept", "--", "sh", "-c", script).split()
        assert world.ok("run", "kept", "--", "ls", "-A", "/home/user").split().count(".config") == 0
        world.ok("stop", "kept")
        world.description.write_text(text.replace("kept: {", "kept: {guard: off, "))
        with world.up("kept"):
            assert world.call("run", "kept", "--", "sh", "-c", "echo x >>~/.bashrc").code == 0
    finally:
        world.end_all()
        world.description.write_text(text)
        (world.state / "vms/kept/home.img").unlink()


# What hides from who looks: names too long to be moved under, of two lines, with dots, and more files than anybody has.
HIDDEN = (
    "mkdir -p ~/.config/autostart ~/.config/systemd/user ~/bin; echo 'alias sudo=evil' >>~/.bashrc; "
    "cd ~/.config/autostart; touch ..hidden.desktop \"$(printf '%0240d' 1).desktop\" \"$(printf 'a\\n%s .bashrc\\nb' "
    "$(sha256sum <~/.bashrc | cut -d' ' -f1))\"; cp /bin/true ~/bin/ls; "
    "cd ~/.config/systemd/user; for i in $(seq 3000); do : >$i; done"
)


def test_what_hides_is_taken_away_and_no_boot_waits_for_it(world: World) -> None:
    text = world.description.read_text()
    try:
        with world.up("kept"):
            world.ok("run", "kept", "--", "sh", "-c", HIDDEN)
        world.description.write_text(text.replace("kept: {", "kept: {guard: quarantine, "))
        with world.up("kept"):
            said = [line for line in world.ok("log", "kept").splitlines() if "was not known" in line]
            assert len(said) == 6, said
            left = world.ok("run", "kept", "--", "sh", "-c", "ls -A ~/.config/autostart ~/.config/systemd ~/bin")
            assert left.split() == ["/home/user/.config/autostart:", "/home/user/.config/systemd:", "/home/user/bin:"]
            # Accepting is for all that is there, also where nothing else is.
            world.ok("run", "kept", "--", "sh", "-c", "echo x >>~/.bashrc")
            world.ok("guard", "kept", "--accept")
            assert json.loads(world.ok("guard", "kept", "--json"))["unknown"] == []
    finally:
        world.end_all()
        world.description.write_text(text)
        (world.state / "vms/kept/home.img").unlink()


def test_the_window_manager_is_behind_the_wall_and_starts_nothing(world: World) -> None:
    with world.up("kept", "--headless"):
        world.ok(
            "run",
            "kept",
            "--",
            "sh",
            "-c",
            "mkdir -p ~/.matchbox; echo '<ctrl><alt>x=!touch /home/user/started' >~/.matchbox/kbdconfig",
        )
        each = "for p in /proc/[0-9]*; do grep -qx matchbox-window $p/comm && grep -E 'NoNewPrivs|Seccomp:' $p/status; done; true"
        assert world.ok("run", "-r", "kept", "--", "sh", "-c", each).split() == ["NoNewPrivs:", "1", "Seccomp:", "2"]
        world.ok("key", "kept", "Ctrl+Alt+x")
        world.ok("restart", "kept", "--headless")
        world.ok("key", "kept", "Ctrl+Alt+x")
        count = (
            "n=0; for p in /proc/[0-9]*; do grep -qx xterm $p/comm && n=$((n + 1)); done; echo $n; ls ~/started 2>&1"
        )
        said = world.ok("run", "-r", "kept", "--", "sh", "-c", f"{count}; true")
        assert said.split()[0] == "1" and "No such file" in said


def test_of_a_home_only_what_is_listed_is_kept(world: World) -> None:
    text = world.description.read_text()
    world.description.write_text(text.replace("kept: {", "kept: {persist: [Downloads, .config/x], "))
    try:
        with world.up("kept"):
            world.ok("run", "kept", "--", "sh", "-c", "echo a >~/Downloads/a; echo b >~/.config/x/b; echo c >~/c")
            assert (
                world.ok("run", "kept", "--", "stat", "-c", "%U", "/home/user/.config", "/home/user/Downloads")
                == "user\nuser\n"
            )
        with world.up("kept"):
            assert world.ok("run", "kept", "--", "sh", "-c", "cat ~/Downloads/a ~/.config/x/b") == "a\nb\n"
            assert world.call("run", "kept", "--", "test", "-e", "/home/user/c").code == 1
            # What is not kept is not there to be written, either.
            assert world.call("run", "kept", "--", "ls", "/kept").code != 0
    finally:
        world.description.write_text(text)
        (world.state / "vms/kept/home.img").unlink()


@pytest.mark.usefixtures("clouds_kernel")
def test_an_audit_names_what_is_weak(world: World) -> None:
    with world.up("kept", "--headless"), world.up("gone"):
        checks = {one["name"]: one for one in json.loads(world.ok("audit", "kept", "--json"))["vms"][0]["checks"]}
        assert [
            name for name, one in checks.items() if not one["good"] and not name.startswith(("holes", "CONFIG_"))
        ] == []
        assert checks["CONFIG_STRICT_KERNEL_RWX"]["good"] and not checks["CONFIG_MODULES"]["good"]
        world.ok("run", "-r", "kept", "--", "sh", "-c", "cp /usr/bin/busybox /usr/bin/evil; chmod 4755 /usr/bin/evil")
        world.ok(
            "run",
            "-r",
            "kept",
            "--",
            "sh",
            "-c",
            "echo 1 >/proc/sys/kernel/sysrq; dropbear -r /run/okubsd/host_key -p 8080",
        )
        table = world.ok("audit", "kept", "gone")
        assert table.splitlines()[0].split() == ["CHECK", "KEPT", "GONE"]
        for name, seen in (
            ("setuid programs", "/usr/bin/evil"),
            ("kernel.sysrq", "1, so not"),
            ("ports for others", "8080"),
        ):
            (line,) = [line for line in table.splitlines() if line.startswith(name)]
            assert f"WEAK: {seen}" in line and "good: " in line
