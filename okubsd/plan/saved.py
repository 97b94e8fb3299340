"""Saved states: which guests can go on from one, and which state is theirs.

A state is that of a guest which is nobody yet, so all VMs that are alike go on from one: the same builds, memory and
CPUs, a home drive of the same size, and the QEMU that saved it.
"""

from __future__ import annotations

import hashlib

from okubsd.model import Vm
from okubsd.plan.images import images_of, stale_images
from okubsd.plan.seats.base import Boot
from okubsd.recipe import Recipe

# Changed where a state of before would not be understood.
_FORMAT = "1"


def builds_of(boot: Boot) -> dict[str, str]:
    """Return the builds that are booted, by the names of their images; what may be built first is not among them."""
    names = images_of(boot.vm, boot.recipes)
    stale = stale_images(names, boot.recipes, boot.host.images)
    # An app may not fit a base that is made anew.
    later = {*stale, boot.vm.image} if boot.recipes[boot.vm.image].base in stale else {*stale}
    return {name: boot.host.images[name].build for name in names if name not in later}


def can_go_on(vm: Vm, recipe: Recipe, boot: Boot) -> bool:
    """Return whether a VM can go on from a saved state: it has no gateway and is none, whose links are its own."""
    linked = boot.links.through is not None or boot.links.clients is not None
    return not (linked or recipe.gateway or vm.rescue)


def home_size(boot: Boot) -> int:
    """Return how many bytes the home drive has when the VM starts, 0 where there is none."""
    return 0 if boot.vm.disposable else max(boot.vm.home, boot.state.home_size)


def state_of(boot: Boot) -> str:
    """Return the name of the saved state that a VM would go on from, "" where it cannot."""
    vm, host = boot.vm, boot.host
    recipe = boot.recipes[vm.image]
    builds = builds_of(boot)
    if not can_go_on(vm, recipe, boot) or set(builds) != set(images_of(vm, boot.recipes)):
        return ""
    words = [_FORMAT, vm.memory, vm.cpus, home_size(boot), host.accelerator.name, host.machine]
    words += [f"{name} {build}" for name, build in sorted(builds.items())]
    return hashlib.sha256("\n".join(map(str, words)).encode()).hexdigest()[:16]
