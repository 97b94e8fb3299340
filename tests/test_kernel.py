"""The recipe of the guests' own kernel: how it is compiled, and when the image that it makes stays."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from okubsd.config.recipe import parse_recipe
from okubsd.errors import BadDescription
from okubsd.guest.audit import OPTIONS
from okubsd.host.places import Places
from okubsd.host.reading import read_recipes
from okubsd.images import commands
from okubsd.model import Image, Kind
from okubsd.plan.images import recipe_of, stale_images
from tests.conftest import CHECKOUT

CONFIG = (CHECKOUT / "images/kernel/config").read_text()
TEXT = "kind: boot\nimage: boot\nkernel: config\npackages: [linux-source]\n"
KERNEL = parse_recipe("kernel", Path("k"), TEXT, "d")


def test_a_kernel_is_compiled_in_the_tree_of_its_packages() -> None:
    argv = commands.bootstrap_argv(
        KERNEL, "bookworm", Path("/s"), (), Path("/t"), root=False, kernel=Path("/tmp/a b/kernel")
    )
    assert "--variant=essential" in argv
    assert """--customize-hook=cp -r '/tmp/a b/kernel' "$1/kernel" && chroot "$1" sh /kernel/compile""" in argv


@pytest.mark.parametrize("text", ["kind: app\nfrom: base\napps: {a: [a]}\nkernel: config\n", "kind: boot\nkernel: c\n"])
def test_only_a_boot_image_has_a_kernel(text: str) -> None:
    with pytest.raises(BadDescription, match="which 'image' names"):
        parse_recipe("x", Path("x"), text)


def test_an_image_of_another_recipe_stays_until_it_is_asked_for() -> None:
    recipes = {"boot": parse_recipe("boot", Path("b"), "kind: boot\n", "new"), "kernel": KERNEL}
    of = {
        name: Image(name="boot", kind=Kind.BOOT, build="b", recipe="old", base="", built=0, parts=(), made_of=name)
        for name in ("", "kernel")
    }
    assert stale_images(("boot",), recipes, {"boot": of[""]}) == ("boot",)
    assert stale_images(("boot",), recipes, {"boot": of["kernel"]}) == ()
    assert recipe_of("boot", of["kernel"], recipes) is recipes["kernel"]
    assert recipe_of("boot", of[""], recipes) is recipe_of("boot", None, recipes) is recipes["boot"]


def test_a_recipe_for_the_image_of_another_changes_with_that(tmp_path: Path) -> None:
    for name, text in (("boot", "kind: boot\n"), ("kernel", "kind: boot\nimage: boot\nkernel: config\n")):
        (tmp_path / "images" / name).mkdir(parents=True)
        (tmp_path / "images" / name / "recipe.yaml").write_text(text)
    places = Places(share=tmp_path, state=tmp_path / "state")
    before = read_recipes(places)["kernel"].digest
    (tmp_path / "images/boot/init").write_text("#!/bin/sh\n")
    assert read_recipes(places)["kernel"].digest != before


def test_each_option_of_the_kernel_has_its_reason() -> None:
    lines = CONFIG.splitlines()
    options = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r'CONFIG_[A-Z0-9_]+=(y|n|[0-9]+|"[a-z,]*") +# \S.{2,70}', line) for line in options)
    names = [line.split("=")[0] for line in options]
    assert len(names) == len(set(names))


def test_the_kernel_has_what_an_audit_asks_for() -> None:
    given = dict(re.findall(r"(?m)^CONFIG_(\w+)=(\S+)", CONFIG))
    # What no option turns off, or what the last is implied by.
    implied = {"STRICT_MODULE_RWX", "DEVKMEM"}
    missed = {name for name, (value, _) in OPTIONS.items() if given.get(name, "n") != value} - implied
    assert missed == set()
