"""What a light Qubes, a launcher and an installer have to do, each as one story of a user: from nothing to a window.

The stories are those that the systems before okubsd are known by: Qubes' disposables and policy, OpenKuBSD's list,
Crostini's launcher, x11docker's one command.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.world import World, wait_until


def entries(home: Path) -> dict[str, str]:
    """Return the desktop files that were written, by their names."""
    return {path.name: path.read_text() for path in (home / "applications").glob("okubsd-*.desktop")}


def test_disposables_leave_nothing_and_a_vm_keeps_its_home_alone(world: World) -> None:
    vms, before = world.state / "vms", {path.name for path in (world.state / "vms").iterdir()}
    names = []
    for _ in range(2):
        held = world.begin("run", "--disposable", "term", "--", "sh", "-c", "hostname; sleep 600")
        assert held.stdout is not None
        names.append(held.stdout.readline().decode().strip())
        assert names[-1] in {row["name"] for row in json.loads(world.ok("list", "--json"))["vms"]}
        if len(names) == 1:
            first = held
    assert len({*names}) == 2 and all(name.startswith("term-") for name in names)
    for process in (first, held):
        process.terminate()
        process.wait(60)
    assert not {*names} & {row["name"] for row in json.loads(world.ok("list", "--json"))["vms"]}
    assert world.call("run", "--disposable", "term", "--", "/bin/true").code == 0
    assert {path.name for path in vms.iterdir()} <= before | {"term"}
    # And one that is killed leaves nothing either.
    killed = world.begin("run", "--disposable", "term", "--", "sh", "-c", "hostname; sleep 600")
    assert killed.stdout is not None and killed.stdout.readline()
    killed.kill()
    killed.wait()
    wait_until(lambda: world.call("list").code == 0 and {path.name for path in vms.iterdir()} <= before | {"term"}, 60)
    mark = "echo mine >~/mark; echo mine >/usr/mark 2>/dev/null; true"
    with world.up("kept"):
        world.ok("run", "--root", "kept", "--", "sh", "-c", mark.replace("~", "/home/user"))
    with world.up("kept"):
        assert world.ok("run", "kept", "--", "cat", "/home/user/mark") == "mine\n"
        assert world.call("run", "kept", "--", "cat", "/usr/mark").code != 0
    policy = world.config / "okubsd/policy.d/story.policy"
    policy.parent.mkdir(exist_ok=True)
    policy.write_text("clip kept vault deny\n")
    done = world.call("policy", "test", "clip", "kept", "vault")
    policy.unlink()
    assert done.code == 1 and f"{policy}:1" in done.out + done.err


@pytest.fixture
def kube(built: World, tmp_path: Path) -> Iterator[World]:
    """The world with a VM as OpenKuBSD's: a template, a home of its own, a shared directory, a hook."""
    text, shared = built.description.read_text(), tmp_path / "shared"
    shared.mkdir()
    (shared / "from-host").write_text("host\n")
    keys = f"{{image: spy, keep: yes, hook: yes, share: [{{path: {shared}, mode: rw, at: shared}}]}}"
    built.description.write_text(f"{text}\n  kube: {keys}\n  www: {{image: spy, keep: yes}}\n")
    yield built
    built.end_all()
    built.description.write_text(text)


def test_all_of_openkubsds_list(kube: World, desktop: str, tmp_path: Path) -> None:
    """Nine points: template, reset, name, share, own display, clipboard once, on demand, hook, menu entry."""
    world, env, data = kube, {"DISPLAY": desktop, "XDG_DATA_HOME": str(tmp_path / "data")}, tmp_path / "data"
    world.ok("run", "kube", "--", "sh", "-c", "echo 'echo hooked >~/hooked' >~/.rc.local; echo kept >~/kept")
    world.ok("run", "--root", "kube", "--", "sh", "-c", "echo changed >>/etc/motd")
    world.ok("stop", "kube")
    # One command, from a VM that does not run.
    world.ok("start", "kube", env=env)

    def inside(script: str, vm: str = "kube") -> str:
        return world.ok("run", vm, "--", "sh", "-c", script)

    builds = json.loads(world.ok("image", "ls", "--json"))["images"]
    templates = {row["name"]: row["build"] for row in builds}
    points = {
        "a template that its VMs share": templates["spy"] == world.status("kube")["build"],
        "all but the home is reset": "changed" not in inside("cat /etc/motd") and inside("cat ~/kept") == "kept\n",
        "it has a name": _by_name(world, tmp_path) == "kube\n",
        "a share, seen from both sides": inside("cat ~/shared/from-host; echo guest >~/shared/from-guest") == "host\n"
        and (tmp_path / "shared/from-guest").read_text() == "guest\n",
        "a display of its own": world.status("kube")["display"] not in (None, desktop),
        "the hook of its home ran": inside("cat ~/hooked") == "hooked\n",
    }
    # The second is booted on demand, by what wants it.
    world.ok("start", "www", env=env)
    points["on demand"] = world.running("www")
    display, clip = "export DISPLAY=127.0.0.1:10 XAUTHORITY=/run/okubsd/Xauthority; ", "xclip -selection clipboard"
    inside(f"{display} printf crossing | {clip}")

    def pasted() -> bool:
        return world.call("run", "www", "--", "sh", "-c", f"{display} timeout 20 {clip} -o").out == "crossing"

    with subprocess.Popen(world.argv("clip", "kube", "www", "-t", "60"), env=world.env) as crossing:
        wait_until(pasted, 60)
        crossing.wait(60)
    points["a clip crosses once"] = not pasted()
    world.ok("menu", "sync", env=env)
    path = data / "applications/okubsd-kube-term.desktop"
    judged = subprocess.run(["desktop-file-validate", str(path)], capture_output=True, text=True, check=False)
    points["an entry of the menu, which is well-formed"] = judged.returncode == 0 and judged.stdout == ""
    world.ok("menu", "rm", env=env)
    assert len(points) == 9 and all(points.values()), points
    world.ok("stop", "--all")
    world.assert_nothing_left()


def _by_name(world: World, tmp_path: Path) -> str:
    config = tmp_path / "ssh_config"
    config.write_text(f"Include {world.run_base}/*/ssh_config\n")
    argv = ["ssh", "-F", str(config), "kube.okubsd", "hostname"]
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=120).stdout


def test_a_package_with_an_entry_has_one_in_the_menus_until_it_is_gone(world: World, tmp_path: Path) -> None:
    recipe, text = world.config / "okubsd/images/shelf/recipe.yaml", world.description.read_text()
    recipe.parent.mkdir()
    env, home = {"XDG_DATA_HOME": str(tmp_path)}, tmp_path
    two = "from: base\npackages: [xterm, x11-apps]\napps:\n  xterm: [xterm]\n  xeyes: [xeyes]\n"
    try:
        recipe.write_text(two)
        world.description.write_text(f"{text}\n  shelf: {{image: shelf}}\n")
        world.ok("image", "build", "shelf")
        world.ok("menu", "sync", env=env)
        found = entries(home)["okubsd-shelf-xterm.desktop"]
        (run,) = (line for line in found.splitlines() if line.startswith("Exec=") and "--disposable" not in line)
        assert run.endswith("start shelf xterm"), run
        (icon,) = (line.partition("=")[2] for line in found.splitlines() if line.startswith("Icon="))
        assert Path(icon).read_bytes().startswith(b"\x89PNG")
        for path in (home / "applications").glob("okubsd-*.desktop"):
            judged = subprocess.run(["desktop-file-validate", str(path)], capture_output=True, text=True, check=False)
            assert (judged.returncode, judged.stdout) == (0, "")
        # The package goes, and its entry with it; what else is there stays.
        recipe.write_text("from: base\npackages: [xterm]\napps:\n  xterm: [xterm]\n")
        world.ok("image", "build", "shelf", env=env)
        world.ok("menu", "sync", env=env)
        assert "okubsd-shelf-xterm.desktop" in entries(home) and "okubsd-shelf-xeyes.desktop" not in entries(home)
    finally:
        world.description.write_text(text)
        world.call("image", "rm", "shelf")
        recipe.unlink()
        recipe.parent.rmdir()


def test_one_command_from_nothing_to_an_app_in_a_vm(tmp_path_factory: pytest.TempPathFactory, desktop: str) -> None:
    """Install, start, window: no file is edited, and what is weaker here than elsewhere is told."""
    top = tmp_path_factory.mktemp("n")
    names = ("OKUBSD_CONFIG", "XAUTHORITY", "LANG", "LC_ALL")
    env = {key: value for key, value in os.environ.items() if key not in names}
    fresh = World(top, top)
    fresh.env = {**env, "OKUBSD_STATE": str(top / "s"), "XDG_CONFIG_HOME": str(top / "config"), "HOME": str(top),
                 "XDG_DATA_HOME": str(top / "data"), "DISPLAY": desktop, "PYTHONPATH": fresh.env["PYTHONPATH"]}  # fmt: skip
    fresh.description.unlink()
    fresh.state, fresh.run_base = top / "s", top / "s/run"
    try:
        done = fresh.call("install", "geany", timeout=3000)
        assert done.code == 0, done.err
        assert "okubsd-geany-geany.desktop" in entries(top / "data")
        fresh.ok("start", "geany")
        (window,) = json.loads(fresh.ok("windows", "--json"))["windows"]
        assert window["painted"] and window["app"].lower() == "geany"
        told = fresh.ok("status", "geany")
        assert "weaker walls" in told and "runs on" in told
        fresh.ok("stop", "geany")
        # And away again, with nothing of it left but the images that others stand on.
        fresh.ok("uninstall", "--yes", "geany")
        assert not entries(top / "data").keys() & {"okubsd-geany-geany.desktop"}
        assert not (fresh.state / "vms/geany").exists()
    finally:
        fresh.end_all()
    fresh.assert_nothing_left()
