"""Everything that okubsd status says of one VM."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from okubsd.cli.look import changes, summary
from okubsd.cli.session import Session
from okubsd.config.sizes import render_megabytes, render_size
from okubsd.errors import Problem
from okubsd.host import facts, gateway, lifecycle, rules, store, vmd
from okubsd.host.homes import home_of
from okubsd.host.publish import published
from okubsd.model import TUNNELS, Backend, Vm, Way
from okubsd.netif.ifconfig import tap_mistakes
from okubsd.pf.render import GROUP
from okubsd.plan.backend import choose_backend
from okubsd.plan.facts import HostFacts, VmFacts

# A guest that fell to another clock runs at a half or a fifth of the time; less than this is the measuring's.
_CLOCK_TOLERANCE = 0.25


def details_of(session: Session, vm: Vm) -> dict[str, Any]:
    """Return what there is to say about one VM, in the order it is said."""
    state = facts.ask_vm(session.places, vm.name)
    on_vmd = vmd.has_vmd() and vm.backend is not Backend.QEMU and state.qemu_pid is None
    host = facts.ask_host(session.places, booting=True, on_vmd=on_vmd)
    timings = lifecycle.read_timings(session.places, vm.name)
    described = session.known_wish.find(vm.name) if session.known_wish else None
    return {
        **summary(session, vm, state.running),
        "after_restart": changes(vm, described) if state.running and described else {},
        "display": f":{state.display}" if state.display is not None else None,
        **_network(session, vm, running=state.running),
        **(_on_vmd(session, vm, host, state) if on_vmd else _on_qemu(session, vm, host, state)),
        "last_start_seconds": round(timings[-1].total, 2) if timings else None,
        "last_start_phases": {k: round(v, 2) for k, v in timings[-1].phases.items()} if timings else None,
    }


def _network(session: Session, vm: Vm, *, running: bool) -> dict[str, Any]:
    """Return what is to be said of the VM's way out: its gateway, its rules, and the names in them."""
    if not running or session.known_wish is None:
        return {"rules": len(vm.flows) or None}
    return {
        "gateway": gateway.gateway_state(session.places, vm, session.wish),
        "proxy": rules.proxy_state(session.places, session.site, vm),
        "tunnel": _tunnel(session, vm),
        "rules": len(vm.flows) or None,
        "names": rules.names_state(session.places, session.site, vm),
        "published": [
            f"127.0.0.1:{host} -> {port}" for host, port in published(session.places.vm_run(vm.name)).items()
        ],
    }


def _tunnel(session: Session, vm: Vm) -> str | None:
    """Return how the tunnel of the VM's network is, in words, None where it has none, or only root is told."""
    from okubsd.cli.vpn import interface_of
    from okubsd.host.vpn import ask_tunnels

    if vm.network.way not in TUNNELS:
        return None
    for state in ask_tunnels(session.places, session.site, lambda network: interface_of(session, network)):
        if state.network == vm.network.name:
            peers = "; ".join(f"{peer.endpoint} {peer.in_words()}" for peer in state.peers)
            return f"{state.holder} is {'up' if state.up else 'down'}{': ' + peers if peers else ''}"
    return None


def _on_qemu(session: Session, vm: Vm, host: HostFacts, state: VmFacts) -> dict[str, Any]:
    image = store.current_image(session.places, vm.image)
    return {
        "pid": state.qemu_pid,
        "resident_bytes": facts.memory_of(state.qemu_pid) if state.qemu_pid else None,
        "build": image.build if image else "not built",
        "home": str(state.directory / "home.img") if state.has_home else "made at the first start",
        "home_bytes": home_of(session.places, vm.name).stat().st_size if state.has_home else None,
        "home_bytes_used": facts.disk_use(state.directory / "home.img"),
        "backend": f"qemu, {host.accelerator.name}: {host.accelerator.why}",
        "weaker_walls": [
            *weaker_walls(vm, "" if state.confined or host.vmd else host.weakness(vm.network)),
            *([] if host.seccomp else [_NO_SECCOMP]),
        ],
    }


def _on_vmd(session: Session, vm: Vm, host: HostFacts, state: VmFacts) -> dict[str, Any]:
    image = store.current_image(session.places.of_system, vm.image)
    try:
        backend = f"vmd, since {choose_backend(vm, host, state).why}"
    except Problem as problem:
        backend = f"vmd: {problem.sentence}"
    number = state.record.number if state.record else None
    rdomain = state.record.table if state.record else 0
    tap = vmd.look_at_tap(number) if number is not None and state.running else None
    return {
        "pid": state.vmd.pid if state.vmd else None,
        "vmd_state": state.vmd.state if state.vmd else "not known to vmd",
        "owner": state.record.owner if state.record else None,
        "build": image.build if image else "not here",
        "backend": backend,
        "interface": f"tap{number} in rdomain {rdomain}" if number is not None else None,
        "address": tap.guest if tap else None,
        "clock": clock_sentence(vmd.read_clock(state.run)) if state.running else None,
        "weaker_walls": tap_mistakes(tap, number, rdomain, GROUP) if number is not None and state.running else [],
    }


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
    "display": "display",
    "gateway": "gateway",
    "proxy": "proxy",
    "tunnel": "tunnel",
    "rules": "rules",
    "names": "names",
    "published": "published",
    "pid": "process",
    "resident_bytes": "memory in use",
    "vmd_state": "state in vmd",
    "owner": "owner",
    "build": "build",
    "home": "home",
    "home_bytes": "home size",
    "home_bytes_used": "home in use",
    "backend": "runs on",
    "interface": "interface",
    "address": "address",
    "clock": "clock",
    "weaker_walls": "weaker walls",
    "last_start_seconds": "last start",
    "last_start_phases": "",
}


def in_words(details: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what people are told of ``details``: a name, and a value in words; what there is nothing of is left out."""
    for key, name in _WORDS.items():
        value = details.get(key)
        if key == "state" and details.get("stands_still"):
            value = f"paused: {details['stands_still']}"
        if name and value not in (None, "", [], (), {}):
            yield name, _say(key, value)


def _say(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if key == "memory_bytes":
        return render_size(value)
    if key.endswith(("_bytes", "_used")):
        return render_megabytes(value)
    if key == "last_start_seconds":
        return f"{value} s"
    if isinstance(value, dict):
        return ", ".join(f"{name} {word}" for name, word in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def clock_sentence(clock: vmd.Clock | None) -> str | None:
    """Return how fast the guest's clock runs, and what to do about a slow one; None where nobody knows."""
    if clock is None or clock.speed is None:
        return None
    if abs(clock.speed - 1) <= _CLOCK_TOLERANCE:
        return "runs with the host's"
    return (
        f"runs at {clock.speed:.2f} of the host's time, so its time-outs are wrong; "
        "import the images again on this host, which then tells the guest its rate"
    )


_NO_SECCOMP = "QEMU's system calls are not filtered on this system"


def weaker_walls(vm: Vm, wall: str) -> list[str]:
    """Return what is weaker than it could be for this VM here, a sentence each."""
    found = ["QEMU runs as an ordinary process of yours; under OpenBSD's vmd it would be several confined ones"]
    if facts.is_root():
        found = ["QEMU runs as root, if without root's capabilities; start VMs as an ordinary user instead"]
    if wall:
        reach = (
            "can reach services on this host's loopback"
            if vm.network.way is Way.NAT
            else "relies on QEMU's restrict=on"
        )
        found.append(f"no network namespace ({wall}): the guest {reach}")
    return found
