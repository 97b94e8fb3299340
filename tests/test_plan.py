"""Decisions as values: the same wish and facts give the same plan."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from okubsd.errors import HostLacks, Unknown
from okubsd.model import NAT, NONE, Accelerator, Image, Kind, Recipe, Request, Vm
from okubsd.plan.facts import HostFacts, VmFacts
from okubsd.plan.start import plan_start, stale_images
from okubsd.plan.steps import BuildImages, Connect, MakeHome, ShowApp, StartDisplay, StartQemu, StartUplink, render_plan
from okubsd.plan.stop import plan_stop

VM = Vm(name="browser", image="firefox", memory=2 << 30, cpus=2)
RECIPES = {
    "boot": Recipe(name="boot", kind=Kind.BOOT, digest="1"),
    "base": Recipe(name="base", kind=Kind.BASE, digest="2"),
    "firefox": Recipe(name="firefox", kind=Kind.APP, base="base", digest="3", apps={"firefox": ("f",), "safe": ("s",)}),
}
STATE = VmFacts(name="browser", directory=Path("/s/vms/browser"), run=Path("/r/browser"))
RUNNING = msgspec.structs.replace(
    STATE, qemu_pid=7, display=3, connected=True, has_keys=True, has_home=True, confined=True
)


def image(name: str, recipe: str) -> Image:
    return Image(name=name, kind=RECIPES[name].kind, build="b" * 12, recipe=recipe, base="", built=0, parts=())


BUILT = {name: image(name, recipe.digest) for name, recipe in RECIPES.items()}
HOST = HostFacts(
    root=False,
    display=":0",
    image_files=Path("/s/images"),
    images=BUILT,
    accelerator=Accelerator("tcg", "why"),
    wall="",
    addresses=("203.0.113.9",),
)


def kinds(plan: tuple[object, ...]) -> list[str]:
    return [type(step).__name__ for step in plan]


def test_a_first_start_is_pinned(golden: object) -> None:
    host = msgspec.structs.replace(HOST, images={})
    golden("start.plan", render_plan(plan_start(VM, RECIPES, host, STATE, Request())))  # type: ignore[operator]


def test_a_start_without_namespaces_is_pinned(golden: object) -> None:
    host = msgspec.structs.replace(HOST, wall="this system has no network namespaces")
    vm = msgspec.structs.replace(VM, network=NONE, disposable=True)
    golden("start-plain.plan", render_plan(plan_start(vm, RECIPES, host, STATE, Request(headless=True))))  # type: ignore[operator]


def test_a_running_vm_only_shows_the_app() -> None:
    assert kinds(plan_start(VM, RECIPES, HOST, RUNNING, Request())) == ["ShowApp"]


def test_a_vm_whose_display_was_closed_gets_another() -> None:
    state = msgspec.structs.replace(RUNNING, display=None)
    plan = plan_start(VM, RECIPES, HOST, state, Request())
    assert kinds(plan) == ["StartDisplay", "WaitDisplay", "Disconnect", "Connect", "ShowApp"]


def test_a_vm_that_was_booted_without_window_is_connected_to() -> None:
    state = msgspec.structs.replace(RUNNING, connected=False, display=None)
    assert kinds(plan_start(VM, RECIPES, HOST, state, Request())) == [
        "StartDisplay",
        "WaitDisplay",
        "Connect",
        "ShowApp",
    ]


def test_booting_only_needs_no_display() -> None:
    host = msgspec.structs.replace(HOST, display="")
    plan = plan_start(VM, RECIPES, host, STATE, Request(windowless=True))
    assert not any(isinstance(step, StartDisplay | ShowApp | Connect) for step in plan)
    assert plan_start(VM, RECIPES, host, RUNNING, Request(windowless=True)) == ()


def test_without_a_display_a_start_says_what_to_do() -> None:
    host = msgspec.structs.replace(HOST, display="")
    with pytest.raises(HostLacks) as caught:
        plan_start(VM, RECIPES, host, STATE, Request())
    assert "--headless" in caught.value.hint


@pytest.mark.parametrize(
    ("program", "request_"), [("Xephyr", Request()), ("Xvfb", Request(headless=True)), ("ssh", Request())]
)
def test_a_missing_program_is_told_before_anything_is_begun(program: str, request_: Request) -> None:
    host = msgspec.structs.replace(HOST, missing={program: "sudo apt-get install it"})
    with pytest.raises(HostLacks, match=program) as caught:
        plan_start(VM, RECIPES, host, STATE, request_)
    assert caught.value.hint == "sudo apt-get install it"


def test_an_unknown_app_is_told_with_the_nearest() -> None:
    with pytest.raises(Unknown, match="did you mean 'firefox'"):
        plan_start(VM, RECIPES, HOST, RUNNING, Request(app="firefx"))
    with pytest.raises(Unknown):
        plan_start(msgspec.structs.replace(VM, apps=("safe",)), RECIPES, HOST, RUNNING, Request(app="firefox"))


def test_the_first_allowed_app_is_the_default() -> None:
    vm = msgspec.structs.replace(VM, apps=("safe",))
    plan = plan_start(vm, RECIPES, HOST, RUNNING, Request())
    assert isinstance(plan[0], ShowApp) and plan[0].app == "safe"


def test_images_are_built_bases_first_and_only_if_stale() -> None:
    names = ("firefox", "base", "boot")
    assert stale_images(names, RECIPES, {}) == ("boot", "base", "firefox")
    assert stale_images(names, RECIPES, BUILT) == ()
    assert stale_images(names, RECIPES, {**BUILT, "base": image("base", "old")}) == ("base",)


def test_a_running_vm_is_not_held_up_by_a_new_recipe() -> None:
    host = msgspec.structs.replace(HOST, images={})
    assert not any(isinstance(step, BuildImages) for step in plan_start(VM, RECIPES, host, RUNNING, Request()))


def test_a_home_is_made_once() -> None:
    state = msgspec.structs.replace(STATE, has_home=True, has_keys=True)
    assert "MakeHome" not in kinds(plan_start(VM, RECIPES, HOST, state, Request()))
    assert any(isinstance(step, MakeHome) for step in plan_start(VM, RECIPES, HOST, STATE, Request()))


def test_none_has_a_namespace_but_no_uplink() -> None:
    vm = msgspec.structs.replace(VM, network=NONE)
    plan = plan_start(vm, RECIPES, HOST, STATE, Request())
    uplink = next(step for step in plan if isinstance(step, StartUplink))
    assert uplink.argv == () and uplink.batch == "link set lo up\n"


def test_without_an_uplink_only_none_keeps_its_namespace() -> None:
    host = msgspec.structs.replace(HOST, uplink="/dev/net/tun may not be opened by you")
    for network, confined in ((NONE, True), (NAT, False)):
        plan = plan_start(msgspec.structs.replace(VM, network=network), RECIPES, host, STATE, Request())
        assert any(isinstance(step, StartUplink) for step in plan) is confined


def test_what_a_guest_can_write_is_bounded() -> None:
    plan = plan_start(VM, RECIPES, HOST, STATE, Request())
    assert next(step for step in plan if isinstance(step, StartQemu)).largest_file == VM.home


def test_stopping_is_told_in_the_order_it_is_tried() -> None:
    lines = plan_stop(VM, RUNNING, force=False, root=True).splitlines()
    assert "poweroff" in lines[0] and "quit" in lines[1] and lines[2].startswith("kill -KILL 7")
    assert "poweroff" not in plan_stop(VM, RUNNING, force=True, root=True)
    assert "not running" in plan_stop(VM, STATE, force=False, root=True)
