"""Which images a VM is made of, and which of them are to be built."""

from __future__ import annotations

from collections.abc import Mapping

from okubsd.model import Image, Kind, Vm
from okubsd.recipe import Recipe

BOOT_IMAGE = "boot"


def images_of(vm: Vm, recipes: Mapping[str, Recipe]) -> tuple[str, ...]:
    """Return the names of the images on the VM's drives: boot, base, app."""
    return (BOOT_IMAGE, recipes[vm.image].base, vm.image)


def stale_images(names: tuple[str, ...], recipes: Mapping[str, Recipe], images: Mapping[str, Image]) -> tuple[str, ...]:
    """Return those of ``names`` that are missing or were made from another recipe, in building order."""
    order = (Kind.BOOT, Kind.BASE, Kind.APP)
    stale = [name for name in names if name not in images or _is_stale(images[name], recipes[name])]
    return tuple(sorted(stale, key=lambda name: order.index(recipes[name].kind)))


def _is_stale(image: Image, recipe: Recipe) -> bool:
    # One that was made of another recipe was asked for by its name, and may take long: it stays until it is again.
    return not image.made_of and (image.recipe != recipe.digest or not has_locales(image, recipe))


def has_locales(image: Image, recipe: Recipe) -> bool:
    """Return whether an image has all languages that are asked for; one that has more is as good."""
    return set(recipe.locales) <= set(image.locales)


def recipe_of(name: str, image: Image | None, recipes: Mapping[str, Recipe]) -> Recipe | None:
    """Return the recipe that the image called ``name`` is made of, of which ``image`` is the current one, if any."""
    made_of = image.made_of if image is not None else ""
    return recipes.get(made_of) or recipes.get(name)
