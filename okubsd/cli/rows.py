"""What is said of a VM in a line of a list, and what of it a restart changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from okubsd import layout
from okubsd.config.sizes import render_size
from okubsd.host.running import PAUSED
from okubsd.host.session import Session
from okubsd.model import Vm

# What a VM keeps until it is stopped, whatever the description says meanwhile.
_KEPT: dict[str, Callable[[Vm], str]] = {
    "image": lambda vm: vm.image,
    "memory": lambda vm: render_size(vm.memory),
    "cpus": lambda vm: str(vm.cpus),
    "network": lambda vm: vm.network.name,
    "home": lambda vm: render_size(vm.home),
    "display": lambda vm: f"{vm.face} {vm.display[0]}x{vm.display[1]}",
    "disposable": lambda vm: "yes" if vm.disposable else "no",
    "keep": lambda vm: "yes" if vm.keep else "no",
}


def changes(started: Vm, described: Vm) -> dict[str, str]:
    """Return what of a running VM will be different after a restart, by the keys of the description."""
    return {key: say(described) for key, say in _KEPT.items() if started.image and say(started) != say(described)}


def state_in_words(session: Session, name: str, stall: str | None) -> str:
    """Return "running", or that the VM stands still because of ``stall``, or "stopped" where that is None."""
    if stall == PAUSED:
        # Nothing is wrong: somebody had it stop, or it waits to be taken.
        return "waits" if (session.places.vm(name) / layout.WAITING).exists() else "paused"
    return "stopped" if stall is None else f"paused: {stall}" if stall else "running"


def row(session: Session, vm: Vm, stall: str | None, *, described: bool) -> tuple[str, ...]:
    state = state_in_words(session, vm.name, stall)
    if not vm.image:
        return (vm.name, state, "-", "-", "-", "(not in the description)")
    apps = " ".join(apps_of(session, vm)) or "-"
    known = described or session.known_description is None
    return (
        vm.name,
        state,
        vm.image,
        render_size(vm.memory),
        vm.network.name,
        f"(a copy of {vm.copy_of})" if vm.copy_of else apps if known else "(not in the description)",
    )


def apps_of(session: Session, vm: Vm) -> tuple[str, ...]:
    recipe = session.known_recipes.get(vm.image)
    return vm.apps or (tuple(recipe.apps) if recipe else ())


def summary(session: Session, vm: Vm, stall: str | None) -> dict[str, Any]:
    """Return what `list --json` says of a VM; ``stall`` is why it stands still, None where it does not run."""
    state = state_in_words(session, vm.name, stall)
    return {
        "name": vm.name,
        "state": state.partition(":")[0],
        "stands_still": state.partition(": ")[2] or None,
        "image": vm.image,
        "memory_bytes": vm.memory,
        "network": vm.network.name,
        "apps": apps_of(session, vm),
        "color": vm.color,
        "disposable": vm.disposable,
        "autostart": vm.autostart,
    }
