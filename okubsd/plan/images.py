"""Which images a VM is made of, and which of them are to be built."""

from __future__ import annotations

from collections.abc import Mapping

from okubsd.model import Image, Kind, Recipe, Vm

BOOT_IMAGE = "boot"


def images_of(vm: Vm, recipes: Mapping[str, Recipe]) -> tuple[str, ...]:
    """Return the names of the images on the VM's drives: boot, base, app."""
    return (BOOT_IMAGE, recipes[vm.image].base, vm.image)


def stale_images(names: tuple[str, ...], recipes: Mapping[str, Recipe], images: Mapping[str, Image]) -> tuple[str, ...]:
    """Return those of ``names`` that are missing or were made from another recipe, in building order."""
    order = (Kind.BOOT, Kind.BASE, Kind.APP)
    stale = [name for name in names if name not in images or images[name].recipe != recipes[name].digest]
    return tuple(sorted(stale, key=lambda name: order.index(recipes[name].kind)))
