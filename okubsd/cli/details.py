"""Everything that okubsd status says of one VM."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from okubsd import layout
from okubsd.cli.rows import changes, summary
from okubsd.config.sizes import render_megabytes, render_size
from okubsd.errors import Problem
from okubsd.host import facts, gateway, lifecycle, locks, performance, rules, shares, speaking, versions, waking
from okubsd.host.engine import engine
from okubsd.host.publish import published
from okubsd.host.session import Session
from okubsd.model import Vm
from okubsd.plan.facts import HostFacts, VmFacts
from okubsd.plan.saved import state_of
from okubsd.plan.seats import engine_for
from okubsd.plan.seats.base import Boot, Seat
from okubsd.plan.seats.vmd import refuse_without_memory

# A guest that fell to another clock runs at a half or a fifth of the time; less than this is the measuring's.
_CLOCK_TOLERANCE = 0.25


def details_of(session: Session, vm: Vm) -> dict[str, Any]:
    """Return what there is to say about one VM, in the order it is said."""
    state = facts.ask_vm(session.places, vm.name)
    host = facts.ask_host(session.places, vm)
    timings = performance.read_timings(session.places, vm.name)
    described = session.known_description.find(vm.name) if session.known_description else None
    return {
        **summary(session, vm, state.stall if state.running else None),
        "after_restart": changes(vm, described) if state.running and described else {},
        "stale": versions.stale_builds(session.places, vm.name) if state.running else {},
        "display": f":{state.display}" if state.display is not None else None,
        **_network(session, vm, running=state.running),
        **_given(session, vm, state),
        **_seat(session, vm, host, state),
        "selftest": _selftest(session, vm),
        "last_start_seconds": round(timings[-1].total, 2) if timings else None,
        "last_start_phases": {k: round(v, 2) for k, v in timings[-1].phases.items()} if timings else None,
    }


def _given(session: Session, vm: Vm, state: VmFacts) -> dict[str, Any]:
    """Return what the VM has of this host's, and what of it is heard."""
    recipe = session.known_recipes.get(vm.image)
    sound = speaking.read_sound(state.directory)
    loud = f"{sound.volume} of 100{', muted' if sound.muted else ''}"
    shared = shares.shares(state.run) if state.running else []
    return {
        "sound": loud if recipe is not None and recipe.sound and vm.sound else None,
        "microphone": locks.is_alive(state.run / layout.MIC_LIFE) or None,
        "shares": [f"{one.path} -> {one.at} {'rw' if one.writable else 'ro'}" for one in shared],
        "hook": vm.hook or None,
        "language": vm.locale if vm.locale not in ("", "C") else None,
    }


def _selftest(session: Session, vm: Vm) -> str | None:
    """Return when the VM's walls were tried last, and how many held; None where they were not."""
    from okubsd.host.selftest.lines import last_report

    report = last_report(session.places.vm(vm.name))
    if report is None:
        return None
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(report.when))
    return f"{report.summary()}, {when}"


def _seat(session: Session, vm: Vm, host: HostFacts, state: VmFacts) -> dict[str, Any]:
    """Return what is to be said of where the VM runs, or would run."""
    try:
        chosen = lifecycle.chosen_seat(session.places, vm, host)
        backend = f"{chosen.title}, since {chosen.why}"
    except Problem as problem:
        chosen, backend = None, f"{engine_for(vm, host.backends)}: {problem.sentence}"
    seat = state.seat or chosen
    walls = seat.weaker_walls(vm, host) if seat else []
    described = engine(seat.engine if seat else engine_for(vm, host.backends)).describe(session, vm, host, state)
    return {"backend": backend, "begins": _begins(session, vm, host, state, seat), "weaker_walls": walls, **described}


def _begins(session: Session, vm: Vm, host: HostFacts, state: VmFacts, seat: Seat | None) -> str:
    """Return how a start of the VM begins, in words: from a saved state, or by a boot, and why."""
    if seat is None:
        return ""
    if seat.engine != "qemu":
        return _begins_on_vmd(vm, host, state, waits=waking.waits(session.places, vm.name))
    recipes, description = session.known_recipes, session.known_description
    if description is None or vm.image not in recipes:
        return ""
    try:
        links = gateway.ask_links(session.places, vm, description, recipes)
        name = state_of(Boot(vm=vm, recipes=recipes, host=host, state=state, links=links))
    except Problem:
        return ""
    if not name:
        return "by a boot: it has or is a gateway, or its images are not built"
    return f"from the saved state {name}" if name in host.saved else f"by a boot: okubsd pool make {vm.name} saves one"


def _begins_on_vmd(vm: Vm, host: HostFacts, state: VmFacts, *, waits: bool) -> str:
    """Return the same of a VM of vmd's, which saves no guests: one that is booted beforehand has its memory."""
    if state.running:
        return "at once: it has booted, and waits" if waits else "by a boot"
    try:
        refuse_without_memory(vm, host.usable_memory, host.taken_memory)
    except Problem as problem:
        return f"by a boot, and none can wait: {problem.sentence}"
    return f"by a boot: okubsd pool start {vm.name} has it booted beforehand"


def _network(session: Session, vm: Vm, *, running: bool) -> dict[str, Any]:
    """Return what is to be said of the VM's way out: its gateway, its rules, and the names in them."""
    if not running or session.known_description is None:
        return {"rules": len(vm.rules) or None}
    return {
        "gateway": gateway.gateway_state(session.places, vm, session.description),
        "proxy": rules.proxy_state(session, vm),
        "tunnel": _tunnel(session, vm),
        "rules": len(vm.rules) or None,
        "names": rules.names_state(session, vm),
        "published": [
            f"127.0.0.1:{host} -> {port}" for host, port in published(session.places.vm_run(vm.name)).items()
        ],
    }


def _tunnel(session: Session, vm: Vm) -> str | None:
    """Return how the tunnel of the VM's network is, in words, None where it has none, or only root is told."""
    from okubsd.cli.vpn import interface_of
    from okubsd.host.vpn import ask_tunnels

    if not vm.network.kind.is_tunnel:
        return None
    for state in ask_tunnels(session, lambda network: interface_of(session, network)):
        if state.network == vm.network.name:
            peers = "; ".join(f"{peer.endpoint} {peer.in_words()}" for peer in state.peers)
            return f"{state.holder} is {'up' if state.up else 'down'}{': ' + peers if peers else ''}"
    return None


# How `status` calls what `status --json` has, in its order; sizes are in bytes there.
_WORDS = {
    "name": "name",
    "state": "state",
    "image": "image",
    "memory_bytes": "memory",
    "network": "network",
    "apps": "apps",
    "color": "color",
    "disposable": "disposable",
    "autostart": "autostart",
    "after_restart": "after a restart",
    "stale": "older builds",
    "display": "display",
    "gateway": "gateway",
    "proxy": "proxy",
    "tunnel": "tunnel",
    "rules": "rules",
    "names": "names",
    "published": "published",
    "shares": "shares",
    "sound": "sound",
    "microphone": "microphone",
    "hook": "hook",
    "language": "language",
    "pid": "process",
    "resident_bytes": "memory in use",
    "vmd_state": "state in vmd",
    "owner": "owner",
    "build": "build",
    "home": "home",
    "home_bytes": "home size",
    "home_bytes_used": "home in use",
    "begins": "begins",
    "backend": "runs on",
    "interface": "interface",
    "address": "address",
    "clock": "clock",
    "weaker_walls": "weaker walls",
    "selftest": "self-test",
    "last_start_seconds": "last start",
    "last_start_phases": "",
}


def in_words(details: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what people are told of ``details``: a name, and a value in words; what there is nothing of is left out."""
    for key, name in _WORDS.items():
        value = details.get(key)
        if key == "state" and details.get("stands_still"):
            value = f"paused: {details['stands_still']}"
        if name and value is not False and value not in (None, "", [], (), {}):
            yield name, _say(key, value)


def _say(key: str, value: Any) -> str:
    if value is True:
        return "yes"
    if key == "memory_bytes":
        return render_size(value)
    if key.endswith(("_bytes", "_used")):
        return render_megabytes(value)
    if key == "last_start_seconds":
        return f"{value} s"
    if isinstance(value, dict):
        return ", ".join(f"{name} {word}" for name, word in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
