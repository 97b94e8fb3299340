"""What a guest's desktop file says of its program: a name, a word, categories; never a command of it.

Source: Desktop Entry Specification 1.5.
"""

from __future__ import annotations

import posixpath
import re
import shlex

import msgspec

from okubsd.config.names import CONTROL
from okubsd.model import Argv

# The main categories of the Desktop Menu Specification 1.1; what else a guest writes is not passed on.
CATEGORIES = frozenset(
    {
        *("AudioVideo", "Audio", "Video", "Development", "Education", "Game", "Graphics", "Network", "Office"),
        *("Science", "Settings", "System", "Utility"),
    }
)
_LONGEST, _MOST_LINES = 64 << 10, 2000
_ICON = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}")


class Foreign(msgspec.Struct, frozen=True):
    """A program of a guest as its desktop file has it: the name in each language, a word on it, the name of its icon.

    ``program`` is the last part of the first word that it would run.
    """

    program: str
    names: dict[str, str]
    comments: dict[str, str]
    icon: str
    categories: tuple[str, ...]


def parse_foreign(untrusted: bytes) -> Foreign | None:
    """Return what a desktop file of a guest says, None where it shows no program."""
    keys = _group(untrusted[:_LONGEST].decode("utf-8", errors="replace"))
    command = _words(keys.get("Exec", ""))
    program = next((word for word in command if word != "env" and "=" not in word), "")
    if keys.get("Type") != "Application" or not program or "true" in (keys.get("Hidden"), keys.get("NoDisplay")):
        return None
    icon = keys.get("Icon", "")
    wanted = tuple(word for word in keys.get("Categories", "").split(";") if word in CATEGORIES)
    return Foreign(
        program=posixpath.basename(program),
        names=_in_languages(keys, "Name"),
        comments=_in_languages(keys, "Comment"),
        icon=icon if _ICON.fullmatch(icon) else "",
        categories=tuple(dict.fromkeys(wanted)),
    )


def _group(text: str) -> dict[str, str]:
    """Return the keys of the first group, which is the program's."""
    keys: dict[str, str] = {}
    inside = False
    for line in text.splitlines()[:_MOST_LINES]:
        if line.startswith("["):
            if inside:
                break
            inside = line.strip() == "[Desktop Entry]"
        elif inside and "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            keys.setdefault(key.strip(), value.strip())
    return keys


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:
        return []


def _in_languages(keys: dict[str, str], key: str) -> dict[str, str]:
    """Return the values of ``key``: that of "" is for every language that has none."""
    found = {"": plain_words(keys.get(key, ""))}
    for name, value in keys.items():
        match = re.fullmatch(rf"{key}\[([A-Za-z_@.-]{{2,20}})\]", name)
        if match:
            found[match[1]] = plain_words(value)
    return {language: words for language, words in found.items() if words}


def plain_words(untrusted: str, limit: int = 80) -> str:
    """Return words of a guest as they may stand in a menu: one line, no letter that is not seen, no escape."""
    text = CONTROL.sub("", untrusted.replace("\t", " ").replace("\n", " ")).replace("\\", "")
    return "".join(letter for letter in text if letter.isprintable())[:limit].strip()


def in_language(values: dict[str, str], language: str) -> str:
    """Return the value for a ``language`` such as pt_BR.UTF-8: its own, that of pt, or that for all."""
    locale = language.partition(".")[0].partition("@")[0]
    return values.get(locale) or values.get(locale.partition("_")[0]) or values.get("", "")


def find_foreign(found: list[Foreign], command: Argv) -> Foreign | None:
    """Return the desktop file of those ``found`` that is about the program of a recipe's ``command``."""
    program = posixpath.basename(command[0])
    same = [foreign for foreign in found if foreign.program == program]
    return same[0] if same else None
