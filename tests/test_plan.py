"""Decisions as values: the same wish and facts give the same plan."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from okubsd.errors import HostLacks, Problem, Unknown
from okubsd.model import NAT, NONE, Backend, Description, Image, Kind, Network, NetworkKind, Request, Vm
from okubsd.plan.facts import Accelerator, HostFacts, VmFacts
from okubsd.plan.gateway import Links, clients_of, implied_gateway
from okubsd.plan.images import stale_images
from okubsd.plan.limits import HOST_MEMORY
from okubsd.plan.seats import choose_seat
from okubsd.plan.seats.base import Boot
from okubsd.plan.seats.namespace import Namespace
from okubsd.plan.seats.vmd import refuse_without_memory
from okubsd.plan.start import choose_app, plan_start
from okubsd.plan.steps import (
    BuildImages,
    Connect,
    MakeHome,
    Plan,
    Publish,
    ShowApp,
    StartDisplay,
    StartQemu,
    StartUplink,
    VerifyImages,
    render_plan,
)
from okubsd.plan.stop import plan_stop
from okubsd.recipe import Recipe  # fmt: skip

VM = Vm(name="browser", image="firefox", memory=2 << 30, cpus=2)
RECIPES = {
    "boot": Recipe(name="boot", kind=Kind.BOOT, digest="1"),
    "base": Recipe(name="base", kind=Kind.BASE, digest="2"),
    "firefox": Recipe(name="firefox", kind=Kind.APP, base="base", digest="3", apps={"firefox": ("f",), "safe": ("s",)}),
}
STATE = VmFacts(name="browser", directory=Path("/s/vms/browser"), run=Path("/r/browser"))
RUNNING = msgspec.structs.replace(
    STATE, seat=Namespace(pid="7"), pid=7, display=3, connected=True, has_keys=True, has_home=True
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


def plan_of(vm: Vm, host: HostFacts, state: VmFacts, request: Request, recipes: dict[str, Recipe] = RECIPES) -> Plan:
    boot = Boot(vm=vm, recipes=recipes, host=host, state=state, links=Links())
    return plan_start(boot, state.seat or choose_seat(vm, host, None), request)


def kinds(plan: tuple[object, ...]) -> list[str]:
    return [type(step).__name__ for step in plan]


def test_a_first_start_is_pinned(golden: object) -> None:
    host = msgspec.structs.replace(HOST, images={})
    golden("start.plan", render_plan(plan_of(VM, host, STATE, Request())))  # type: ignore[operator]


def test_an_app_on_a_base_that_is_made_anew_may_be_made_anew_too() -> None:
    host = msgspec.structs.replace(HOST, images={**BUILT, "base": image("base", "older")})
    build, verify = plan_of(VM, host, STATE, Request())[:2]
    assert isinstance(build, BuildImages) and (build.names, build.app) == (("base",), "firefox")
    assert isinstance(verify, VerifyImages) and set(verify.builds) == {"boot"}


def test_a_start_without_namespaces_is_pinned(golden: object) -> None:
    host = msgspec.structs.replace(HOST, wall="this system has no network namespaces")
    vm = msgspec.structs.replace(VM, network=NONE, disposable=True)
    golden("start-plain.plan", render_plan(plan_of(vm, host, STATE, Request(headless=True))))  # type: ignore[operator]


def test_a_running_vm_only_shows_the_app() -> None:
    assert kinds(plan_of(VM, HOST, RUNNING, Request())) == ["ShowApp"]


def test_a_vm_whose_display_was_closed_gets_another() -> None:
    state = msgspec.structs.replace(RUNNING, display=None)
    plan = plan_of(VM, HOST, state, Request())
    assert kinds(plan) == ["StartDisplay", "StartGlass", "WaitDisplay", "Disconnect", "Connect", "ShowApp", "Attend"]


def test_a_vm_that_was_booted_without_window_is_connected_to() -> None:
    state = msgspec.structs.replace(RUNNING, connected=False, display=None)
    assert kinds(plan_of(VM, HOST, state, Request())) == [
        "StartDisplay",
        "StartGlass",
        "WaitDisplay",
        "Connect",
        "ShowApp",
        "Attend",
    ]


def test_booting_only_needs_no_display() -> None:
    host = msgspec.structs.replace(HOST, display="")
    plan = plan_of(VM, host, STATE, Request(windowless=True))
    assert not any(isinstance(step, StartDisplay | ShowApp | Connect) for step in plan)
    assert plan_of(VM, host, RUNNING, Request(windowless=True)) == ()


def test_without_a_display_a_start_says_what_to_do() -> None:
    host = msgspec.structs.replace(HOST, display="")
    with pytest.raises(HostLacks) as caught:
        plan_of(VM, host, STATE, Request())
    assert "--headless" in caught.value.hint


@pytest.mark.parametrize(
    ("program", "request_"), [("Xvfb", Request()), ("Xvfb", Request(headless=True)), ("ssh", Request())]
)
def test_a_missing_program_is_told_before_anything_is_begun(program: str, request_: Request) -> None:
    host = msgspec.structs.replace(HOST, missing={program: "sudo apt-get install it"})
    with pytest.raises(HostLacks, match=program) as caught:
        plan_of(VM, host, STATE, request_)
    assert caught.value.hint == "sudo apt-get install it"


def test_an_unknown_app_is_told_with_the_nearest() -> None:
    with pytest.raises(Unknown, match="did you mean 'firefox'"):
        plan_of(VM, HOST, RUNNING, Request(app="firefx"))
    with pytest.raises(Unknown):
        plan_of(msgspec.structs.replace(VM, apps=("safe",)), HOST, RUNNING, Request(app="firefox"))


def test_the_first_allowed_app_is_the_default() -> None:
    vm = msgspec.structs.replace(VM, apps=("safe",))
    plan = plan_of(vm, HOST, RUNNING, Request())
    assert isinstance(plan[0], ShowApp) and plan[0].app == "safe"


def test_images_are_built_bases_first_and_only_if_stale() -> None:
    names = ("firefox", "base", "boot")
    assert stale_images(names, RECIPES, {}) == ("boot", "base", "firefox")
    assert stale_images(names, RECIPES, BUILT) == ()
    assert stale_images(names, RECIPES, {**BUILT, "base": image("base", "old")}) == ("base",)


def test_a_running_vm_is_not_held_up_by_a_new_recipe() -> None:
    host = msgspec.structs.replace(HOST, images={})
    assert not any(isinstance(step, BuildImages) for step in plan_of(VM, host, RUNNING, Request()))


def test_a_home_is_made_once() -> None:
    state = msgspec.structs.replace(STATE, has_home=True, has_keys=True)
    assert "MakeHome" not in kinds(plan_of(VM, HOST, state, Request()))
    assert any(isinstance(step, MakeHome) for step in plan_of(VM, HOST, STATE, Request()))


def test_none_has_a_namespace_but_no_uplink() -> None:
    vm = msgspec.structs.replace(VM, network=NONE)
    plan = plan_of(vm, HOST, STATE, Request())
    uplink = next(step for step in plan if isinstance(step, StartUplink))
    assert uplink.argv == () and uplink.batch == "link set lo up\n"


def test_without_an_uplink_only_none_keeps_its_namespace() -> None:
    host = msgspec.structs.replace(HOST, uplink="/dev/net/tun may not be opened by you")
    for network, confined in ((NONE, True), (NAT, False)):
        plan = plan_of(msgspec.structs.replace(VM, network=network), host, STATE, Request())
        assert any(isinstance(step, StartUplink) for step in plan) is confined


def test_what_a_guest_can_write_is_bounded() -> None:
    plan = plan_of(VM, HOST, STATE, Request())
    assert next(step for step in plan if isinstance(step, StartQemu)).largest_file == VM.home
    # A home that was larger once is written to its end.
    kept = msgspec.structs.replace(STATE, has_home=True, home_size=2 * VM.home)
    plan = plan_of(VM, HOST, kept, Request())
    assert next(step for step in plan if isinstance(step, StartQemu)).largest_file == 2 * VM.home


def stop_of(state: VmFacts, *, force: bool = False) -> list[str]:
    return render_plan(plan_stop(VM, state, force=force)).splitlines()


def test_stopping_is_told_in_the_order_it_is_tried() -> None:
    lines = stop_of(RUNNING)
    assert "poweroff" in lines[0] and "quit" in lines[1] and lines[2].startswith("kill -KILL 7")
    assert lines[3].startswith("# end what is left of browser")
    assert "poweroff" not in stop_of(RUNNING, force=True)[0]
    assert stop_of(STATE) == []


def test_a_home_takes_mke2fs_and_a_disposable_vm_has_none() -> None:
    seat = choose_seat(VM, HOST, None)
    assert "mke2fs" in seat.programs(VM)
    assert "mke2fs" not in seat.programs(msgspec.structs.replace(VM, disposable=True))


def test_a_gateway_shows_nothing() -> None:
    gateway = Recipe(name="gw", kind=Kind.APP, base="base", gateway=True)
    with pytest.raises(Unknown, match="is a gateway and shows nothing"):
        choose_app(VM, gateway, "xterm")
    assert choose_app(VM, gateway, "") == ""


def test_a_gateway_of_a_tunnel_has_96_mb_and_its_own_clients_only() -> None:
    tunnel = Network(name="p", kind=NetworkKind.WIREGUARD, file="p.conf")
    gateway = implied_gateway(tunnel)
    assert gateway.memory == 96 << 20 and gateway.name == "p.gw"
    behind = Vm(name="web", image="term", network=tunnel)
    other = Vm(name="a.gw", image="term")
    description = Description(Path("d"), (behind, other), networks=(tunnel,))
    assert clients_of(gateway, description) == (behind,)
    assert clients_of(other, description) == ()


@pytest.mark.parametrize(("taken", "fits"), [(0, True), (512, True), (513, False), (2048, False)])
def test_a_host_keeps_what_it_needs(taken: int, fits: bool) -> None:
    vm = Vm(name="a", image="term", memory=1 << 30)
    usable = (1 << 30) + HOST_MEMORY + (512 << 20)
    if fits:
        refuse_without_memory(vm, usable, taken << 20)
        refuse_without_memory(vm, 0, taken << 40)
        return
    with pytest.raises(Problem, match="would not leave it 1536"):
        refuse_without_memory(vm, usable, taken << 20)


def test_beside_vmd_a_vm_that_was_not_installed_runs_on_nothing() -> None:
    with_vmd = msgspec.structs.replace(HOST, backends=frozenset({Backend.VMD, Backend.QEMU}))
    with pytest.raises(Problem, match="was not installed on this host yet"):
        choose_seat(VM, with_vmd, None)


def test_ports_that_are_published_are_steps_of_a_boot_and_of_nothing_else() -> None:
    vm = msgspec.structs.replace(VM, publish=((8080, 80),))
    steps = plan_of(vm, HOST, STATE, Request())
    assert [(step.host_port, step.port) for step in steps if isinstance(step, Publish)] == [(8080, 80)]
    assert not [step for step in plan_of(vm, HOST, RUNNING, Request()) if isinstance(step, Publish)]


def test_a_vm_with_services_only_boots_and_shows_nothing() -> None:
    recipes = {**RECIPES, "web": Recipe(name="web", kind=Kind.APP, base="base", services=("nginx",))}
    vm = msgspec.structs.replace(VM, image="web")
    assert "ShowApp" not in kinds(plan_of(vm, HOST, STATE, Request(), recipes))
    with pytest.raises(Unknown, match="has services only and shows nothing"):
        plan_of(vm, HOST, STATE, Request(app="nginx"), recipes)
