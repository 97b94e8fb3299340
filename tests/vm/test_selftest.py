"""The self-test with real guests: every line is held, and red where its wall is switched off."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from okubsd.guest.ssh import ssh_argv
from okubsd.host import facts, keys
from okubsd.host.guest import Guest
from okubsd.host.places import find_places
from okubsd.host.running import read_started
from okubsd.host.selftest import inside
from okubsd.host.selftest.lines import Verdict
from okubsd.model import Vm
from okubsd.plan.seats.namespace import Namespace
from tests.conftest import CHECKOUT
from tests.vm.world import World

pytestmark = pytest.mark.vm


def tried(world: World, vm: str, **env: str) -> tuple[int, dict[str, str]]:
    """Return the exit code of a self-test, and what became of each line."""
    done = world.call("selftest", vm, "--json", env=env)
    lines: list[dict[str, Any]] = json.loads(done.out)["lines"]
    return done.code, {line["name"]: line["verdict"] for line in lines}


@pytest.mark.parametrize("face", ["seamless", "window"])
def test_every_wall_of_a_shown_vm_holds(face: str, world: World, desktop: str) -> None:
    text = world.description.read_text()
    world.description.write_text(text.replace("display: 800x600", f"display: {face} 800x600"))
    manager = subprocess.Popen(["openbox"], env={**world.env, "DISPLAY": desktop})
    try:
        world.ok("start", "kept", env={"DISPLAY": desktop})
        code, lines = tried(world, "kept", DISPLAY=desktop)
        assert (code, {name for name, verdict in lines.items() if verdict != "held"}) == (
            0,
            {"no network", "other VMs"},
        ), lines
        assert "held" in world.status("kept")["selftest"]
        # The app lived through all of it.
        assert len(json.loads(world.ok("windows", "kept", "--json"))["windows"]) == 1
    finally:
        world.description.write_text(text)
        manager.kill()
        manager.wait()


def test_walls_inside_and_around_are_red_where_there_are_none(world: World) -> None:
    with world.up("vault"), world.up("kept"):
        code, lines = tried(world, "vault")
        inner = {name: verdict for name, verdict in lines.items() if verdict != "not tried"}
        assert (
            code == 0
            and set(inner.values()) == {"held"}
            and {"setuid", "images", "ssh", "no network", "other VMs"} <= set(inner)
        )
        # What the connection brings beside windows leads to the host.
        places = find_places(world.env)
        brought = ssh_argv(
            Vm(name="vault", image=""), places.vm_run("vault"), "-O", "forward", "-R", "7777:127.0.0.1:1"
        )
        subprocess.run(brought, check=True)
        assert inside.use_channels(victim_of(world, "vault")).verdict is Verdict.BROKE
        # A setuid program, as a careless image would have it.
        world.ok("run", "--root", "kept", "--", "cp", "/bin/sh", "/usr/bin/careless")
        world.ok("run", "--root", "kept", "--", "chmod", "4755", "/usr/bin/careless")
        code, lines = tried(world, "kept")
        assert code == 1 and lines["setuid"] == "BROKE" and lines["images"] == "held"
        # A drive that can be written to and is no home: the home's own, by another name.
        again = "mknod /dev/vdz b $(cat /sys/block/vdc/dev | tr : ' ')"
        world.ok("run", "--root", "kept", "--", "sh", "-c", again)
        assert inside.change_images(victim_of(world, "kept")).verdict is Verdict.BROKE


def test_a_host_that_is_reached_is_told(world: World) -> None:
    with world.up("kept"):
        host = facts.ask_host(find_places(world.env), guest_of(world, "kept").vm)
        address = next(found for found in host.addresses if ":" not in found)
        code, lines = tried(world, "kept")
        assert code == 0 and lines[f"host {address}"] == "held"
        seat = facts.ask_vm(find_places(world.env), "kept").seat
        assert isinstance(seat, Namespace)
        argv, _ = seat.refuse_addresses(host)
        subprocess.run(argv, input=f"route del prohibit {address}\n", text=True, check=True)
        code, lines = tried(world, "kept")
        assert code == 1 and lines[f"host {address}"] == "BROKE"
        # No rule of the user's lets a VM to its host.
        world.ok("net", "allow", "kept", f"{address}/32")
        code, lines = tried(world, "kept")
        assert code == 0 and lines[f"host {address}"] == "held"
        assert "no VM is let to this host" in world.call("why", "kept", f"{address}:80").out


# A VM of no network on a QEMU that leads to its host, and in no namespace.
NO_WALL = """
from okubsd.network import user
from okubsd.plan.facts import HostFacts
shut = user.netdev_option
user.netdev_option = lambda network: shut(network).replace("restrict=on", "restrict=off")
HostFacts.weakness = lambda *_: "a test takes it away"
from okubsd.__main__ import main
main()
"""


def test_a_vm_without_a_network_that_has_one_is_red(world: World) -> None:
    argv = [sys.executable, "-c", NO_WALL, "-f", str(world.description), "start", "vault", "--no-app"]
    try:
        subprocess.run(argv, env={**world.env, "PYTHONPATH": str(CHECKOUT)}, check=True, capture_output=True)
        code, lines = tried(world, "vault")
        broke = {name for name, verdict in lines.items() if verdict == "BROKE"}
        assert code == 1 and "no network" in broke and "host 10.0.2.2" in broke, lines
        # The test leaves no route behind.
        assert "default" not in world.ok("run", "--root", "vault", "--", "ip", "route")
    finally:
        world.call("stop", "--force", "vault")


def victim_of(world: World, name: str) -> inside.Victim:
    return inside.Victim(guest_of(world, name), (), (), (), ())


def guest_of(world: World, name: str) -> Guest:
    places = find_places(world.env)
    vm = read_started(places, name)
    assert vm is not None and keys.read_cookie(places.vm_run(name)) is not None
    return Guest.find(places, vm)
