"""Whether an app image fits a base that it was not built on.

The drive of an app holds what its packages add to the base, so it relies on libraries of the base that it does not
have itself, and it hides files of the base that its packages have otherwise.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator, Mapping

from okubsd.images.tree import Index
from okubsd.model import Image
from okubsd.recipe import Recipe

# A shared library, and the name that programs ask the loader for where it is a file (ld.so(8)); a link always is one.
_LIBRARY = re.compile(r"usr/lib/(.+/)?[^/]+\.so\.[0-9][^/]*")
_ASKED_FOR = re.compile(r".+\.so\.[0-9]+")
# What every tree makes for itself, from all that is in it.
_MADE_BY_ALL = re.compile(r"etc/.*|var/.*|usr/share/(mime|icons|fonts|glib-2\.0|applications)/.*|.*\.cache")

_MOST_REASONS = 5


def needs_of(tree: Index, base: Index) -> dict[str, str]:
    """Return what an app with the whole ``tree`` needs of ``base``: path to digest.

    A library that it takes from there is needed as it is called, with "" for the digest; a file that it hides is needed
    unchanged, or as the app has it, since another would be hidden too: those two digests, with a space between.
    """
    needs: dict[str, str] = {}
    for path, node in base.items():
        mine = tree.get(path)
        if mine == node and _LIBRARY.fullmatch(path):
            needs |= {path: ""} if stat.S_ISLNK(node.mode) or _ASKED_FOR.fullmatch(path) else {}
        elif mine is not None and mine != node and stat.S_ISREG(node.mode) and not _MADE_BY_ALL.fullmatch(path):
            needs[path] = f"{node.content} {mine.content}" if stat.S_ISREG(mine.mode) else node.content
    return dict(sorted(needs.items()))


def needs_of_recipe(recipe: Recipe) -> dict[str, str]:
    """Return the same of what an image has its base do by its recipe."""
    return {} if recipe.sandbox.network else {"usr/lib/okubsd/relay": ""}


def fit_mistakes(app: Image, base: Image, index: Index) -> list[str]:
    """Return why ``app`` does not fit ``base``, whose tree is ``index``; nothing where it does."""
    if app.base == base.build:
        return []
    return [*_older_packages(app, base), *_missing(app.needs, index)][:_MOST_REASONS]


def _older_packages(app: Image, base: Image) -> Iterator[str]:
    made_with = versions(app.packages)
    for package, version in versions(base.packages).items():
        if package in made_with and compare(version, made_with[package]) < 0:
            yield f"it was made with {package} {made_with[package]}, and the base has {version}"


def _missing(needs: Mapping[str, str], index: Index) -> Iterator[str]:
    for path, digest in needs.items():
        node = index.get(path)
        if node is None and not digest:
            yield f"it needs /{path}, which the base does not have"
        elif node is not None and digest and node.content not in digest.split():
            yield f"it would hide the base's newer /{path}"


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Return "name version" lines of a manifest as a mapping."""
    return {name: version for name, _, version in (line.partition(" ") for line in packages)}


def compare(one: str, other: str) -> int:
    """Return a number below, equal to or above 0: ``one`` is older, the same or newer (deb-version(7))."""
    ours, theirs = _parts(one), _parts(other)
    if ours[0] != theirs[0]:
        return ours[0] - theirs[0]
    return _compare_part(ours[1], theirs[1]) or _compare_part(ours[2], theirs[2])


def _parts(version: str) -> tuple[int, str, str]:
    epoch, colon, rest = version.partition(":")
    rest = rest if colon else version
    upstream, dash, revision = rest.rpartition("-")
    number = int(epoch) if colon and epoch.isdigit() else 0
    return (number, upstream, revision) if dash else (number, rest, "0")


def _compare_part(one: str, other: str) -> int:
    """Compare words and numbers in turn; a word always comes first, and may be empty."""
    ours, theirs = re.findall(r"(\D*)(\d*)", one), re.findall(r"(\D*)(\d*)", other)
    for at in range(max(len(ours), len(theirs))):
        word, number = ours[at] if at < len(ours) else ("", "")
        their_word, their_number = theirs[at] if at < len(theirs) else ("", "")
        if word != their_word:
            return -1 if _order(word) < _order(their_word) else 1
        if int(number or 0) != int(their_number or 0):
            return int(number or 0) - int(their_number or 0)
    return 0


def _order(word: str) -> list[int]:
    """Return what a word sorts by: '~' before its end, letters before all else."""
    ranks = [-1 if letter == "~" else ord(letter) if letter.isalpha() else ord(letter) + 256 for letter in word]
    return [*ranks, 0]
