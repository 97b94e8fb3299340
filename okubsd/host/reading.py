"""Read the user's files: the description, its drop-ins, and the recipes."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO

import msgspec

from okubsd.config.description import parse_description
from okubsd.config.locales import host_locale
from okubsd.config.names import quoted
from okubsd.config.recipe import parse_recipe
from okubsd.errors import BadDescription, Problem
from okubsd.host.places import Places, description_candidates, xdg_directory
from okubsd.host.trust import entry_mistake, opened_mistake, place_mistake
from okubsd.model import Description
from okubsd.recipe import Recipe

# Part of every recipe's digest: raise it when a change of the builder changes what comes out.
_BUILDER = b"okubsd image 12\n"


# Of a text that somebody writes; a description of 500 VMs is a hundredth of it.
_LARGEST_TEXT = 16 << 20


def read_text(path: Path) -> str:
    """Return the UTF-8 text of ``path``, without a byte order mark; nothing but a regular file is opened.

    Raises BadDescription naming the file where it cannot be had.
    """
    return _read(path, lambda descriptor: "")


def read_trusted(path: Path) -> str:
    """Return the text of ``path``, which decides what okubsd does: nobody but root and its user may have written it.

    Raises BadDescription naming the file where it cannot be had, or others could have written it.
    """
    return _read(path, lambda descriptor: opened_mistake(descriptor) or place_mistake(path, there=True))


def read_secret(path: Path) -> str:
    """Return the text of ``path``, which holds keys: as read_trusted(), and nobody else may read it.

    What is root's may also be read by a group that root gave it to: so users start what root applied.
    """

    def judge(descriptor: int) -> str:
        status = os.fstat(descriptor)
        mode = status.st_mode & 0o777
        others = 0o037 if status.st_uid == 0 and status.st_gid != 0 else 0o077
        if mode & others:
            return f"it holds keys and can be read by others (mode {mode:04o}); chmod 0600 {path}"
        return opened_mistake(descriptor) or place_mistake(path, there=True)

    return _read(path, judge)


def open_regular(path: Path) -> IO[bytes]:
    """Open the regular file ``path``; nothing is waited for that is none.  Raises Problem where it cannot be."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Problem(f"{quoted(path, 200)}: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Problem(f"{quoted(path, 200)} is no regular file")
    return os.fdopen(descriptor, "rb")


def _read(path: Path, judge: Callable[[int], str]) -> str:
    """Return the text of ``path``, after ``judge`` found nothing wrong with what is open."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise BadDescription([f"{path}: cannot be read: {error.strerror}"]) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST_TEXT:
            raise BadDescription([f"{path}: is no text: no regular file, or larger than {_LARGEST_TEXT >> 20} MiB"])
        mistake = judge(descriptor)
        if mistake:
            raise BadDescription([f"{path}: is not read, since {mistake}"])
        with os.fdopen(os.dup(descriptor), "rb") as stream:
            return stream.read(_LARGEST_TEXT).decode("utf-8-sig")
    except OSError as error:
        raise BadDescription([f"{path}: cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError as error:
        raise BadDescription(
            [f"{path}: is not UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}"]
        ) from None
    finally:
        os.close(descriptor)


def read_description(places: Places, given: str, recipes: dict[str, Recipe]) -> Description:
    """Return the description this user means; ``given`` is what -f named, ``recipes`` what VMs can be made of."""
    path = find_description(places, given)
    texts = [(drop_in, read_trusted(drop_in)) for drop_in in drop_ins_of(path)]
    return understood(parse_description(path, read_trusted(path), texts, recipes))


def understood(description: Description) -> Description:
    """Return ``description`` with the language of the user in the VMs that are to have that."""
    locale = host_locale(os.environ)
    vms = (msgspec.structs.replace(vm, locale=vm.locale or locale) for vm in description.vms)
    return msgspec.structs.replace(description, vms=tuple(vms))


def drop_ins_of(path: Path) -> list[Path]:
    """Return the drop-ins of the description ``path``, in order; an editor's own files begin with a dot."""
    found = (path.parent / "vm.d").glob("*.yaml")
    return sorted(drop_in for drop_in in found if not drop_in.name.startswith("."))


def misnamed_files(path: Path, candidates: Iterable[Path] = ()) -> list[Path]:
    """Return the files that are not read because they end in .yml: beside ``path``, or in place of a candidate."""
    found = {*(path.parent / "vm.d").glob("*.yml"), *(file.with_suffix(".yml") for file in (path, *candidates))}
    return sorted(file for file in found if not file.name.startswith(".") and file.exists())


def find_description(places: Places, given: str = "") -> Path:
    """Return the first okubsd.yaml that there is.  Raises BadDescription where there is none."""
    candidates = description_candidates(given, places.share)
    for path in candidates:
        if path.is_file():
            return path
    raise BadDescription([f"{candidates[0]}: there is no such file"])


def recipe_directories(places: Places) -> dict[str, Path]:
    """Return recipe names to directories: the shipped ones, and the user's own in their place or beside them."""
    config = xdg_directory(os.environ, "XDG_CONFIG_HOME", ".config")
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
            recipes[name] = parse_recipe(name, path, _read_recipe(places, path), digest_of(directory))
        except BadDescription as error:
            mistakes += error.mistakes
    if mistakes:
        raise BadDescription(mistakes)
    return {name: _with_other(places, recipe) for name, recipe in recipes.items()}


def _with_other(places: Places, recipe: Recipe) -> Recipe:
    """Return a recipe that makes the image of another, with the other's own files in its digest, as it has them."""
    other = recipe_directories(places).get(recipe.image)
    if other is None:
        return recipe
    return msgspec.structs.replace(
        recipe, digest=hashlib.sha256(f"{recipe.digest} {digest_of(other)}".encode()).hexdigest()
    )


def _read_recipe(places: Places, path: Path) -> str:
    # What was installed with the program is as good as the program.
    if path.is_relative_to(places.share):
        return read_text(path)
    text = read_trusted(path)
    for below in sorted(path.parent.rglob("*")):
        mistake = entry_mistake(below)
        if mistake:
            # It would be root's in the image.
            raise BadDescription([f"{path}: is not read, since {mistake}"])
    return text


def digest_of(directory: Path) -> str:
    """Return the SHA-256, in hex, over the names, permissions and contents below ``directory``.

    A link counts as what it says, and is not followed: a recipe may come from a stranger.
    """
    total = hashlib.sha256(_BUILDER)
    for path in sorted(directory.rglob("*")):
        if path.is_symlink():
            total.update(f"{path.relative_to(directory)}\0link\0{path.readlink()}\0".encode(errors="surrogateescape"))
        elif path.is_file():
            total.update(f"{path.relative_to(directory)}\0{path.stat().st_mode & 0o111:o}\0".encode())
            with path.open("rb") as stream:
                total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()
