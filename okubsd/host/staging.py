"""What a build of an image is given of this host's files: copies, where only the build finds them."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

from okubsd.config.names import quoted
from okubsd.errors import Problem
from okubsd.host import packer, store
from okubsd.host.places import Places
from okubsd.host.reading import recipe_directories
from okubsd.images import commands
from okubsd.recipe import Recipe


def stage_kernel(places: Places, recipe: Recipe, scratch: Path) -> Path | None:
    """Put what a kernel is compiled by where a build finds it, and return that directory; None for no kernel."""
    if not recipe.kernel:
        return None
    staged = scratch / "kernel"
    staged.mkdir(mode=0o755)
    for name, target in ((recipe.kernel, "config"), (commands.COMPILE, commands.COMPILE)):
        path = staged / target
        path.write_bytes(packer.read_own(recipe_directories(places)[recipe.name] / name))
        path.chmod(0o644)
    return staged


def stage_debs(recipe: Recipe, scratch: Path) -> Path | None:
    """Put the user's own packages where a build finds them, and return that directory; None for none.

    Raises Problem for one that is not there, or is another than the recipe means.
    """
    if not recipe.debs:
        return None
    staged = scratch / "debs"
    staged.mkdir(mode=0o755)
    for number, deb in enumerate(recipe.debs):
        path, source = staged / f"{number}.deb", Path(deb.path).expanduser()
        try:
            shutil.copyfile(source, path)
        except OSError as error:
            raise Problem(f"{quoted(source, 200)}: {error.strerror}", "see 'debs' of the recipe") from None
        if store.hash_file(path) != deb.sha256:
            raise Problem(
                f"{quoted(source, 200)} is not what the recipe means", f"sha256sum {shlex.quote(str(source))}"
            )
        path.chmod(0o644)
    return staged
