"""Read the user's files: the description, its drop-ins, and the recipes."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from okubsd.config.description import parse_description
from okubsd.config.recipe import parse_recipe
from okubsd.errors import BadDescription
from okubsd.host.places import Places, description_candidates
from okubsd.model import Recipe, Wish

# Part of every recipe's digest: raise it when a change of the builder changes what comes out.
_BUILDER = b"okubsd image 5\n"


def read_text(path: Path) -> str:
    """Return the UTF-8 text of ``path``.  Raises BadDescription naming the file where it cannot be had."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadDescription([f"{path}: cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError as error:
        raise BadDescription(
            [f"{path}: is not UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}"]
        ) from None


def read_wish(places: Places, given: str, recipes: dict[str, Recipe]) -> Wish:
    """Return the description this user means; ``given`` is what -f named, ``recipes`` what VMs can be made of."""
    path = find_description(places, given)
    drop_ins = sorted((path.parent / "vm.d").glob("*.yaml"))
    texts = [(drop_in, read_text(drop_in)) for drop_in in drop_ins]
    return parse_description(path, read_text(path), texts, recipes)


def find_description(places: Places, given: str = "") -> Path:
    """Return the first okubsd.yaml that there is.  Raises BadDescription where there is none."""
    candidates = description_candidates(given, places.share)
    for path in candidates:
        if path.is_file():
            return path
    raise BadDescription([f"{candidates[0]}: there is no such file"])


def recipe_directories(places: Places) -> dict[str, Path]:
    """Return recipe names to directories: the shipped ones, and the user's own in their place or beside them."""
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    found = {}
    for top in (places.share / "images", Path("/etc/okubsd/images"), config / "okubsd/images"):
        found.update({path.parent.name: path.parent for path in sorted(top.glob("*/recipe.yaml"))})
    return found


def read_recipes(places: Places) -> dict[str, Recipe]:
    """Return all recipes by name.  Raises BadDescription with the mistakes of every one of them."""
    recipes: dict[str, Recipe] = {}
    mistakes: list[str] = []
    for name, directory in recipe_directories(places).items():
        try:
            path = directory / "recipe.yaml"
            recipes[name] = parse_recipe(name, path, read_text(path), digest_of(directory))
        except BadDescription as error:
            mistakes += error.mistakes
    if mistakes:
        raise BadDescription(mistakes)
    return recipes


def digest_of(directory: Path) -> str:
    """Return the SHA-256, in hex, over the names, permissions and contents below ``directory``."""
    total = hashlib.sha256(_BUILDER)
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            total.update(f"{path.relative_to(directory)}\0{path.stat().st_mode & 0o111:o}\0".encode())
            total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()
