"""Directories of this host in a VM: how a description writes them, and where they are there (okubsd.yaml(5), share)."""

from __future__ import annotations

import itertools
import re
from pathlib import PurePosixPath
from typing import Any

from okubsd.config import fields
from okubsd.config.tree import Value
from okubsd.model import Share

HOME = "/home/user"

# A place below the home of the guest's user.
BELOW = re.compile(r"(?!.*(^|/)\.\.?(/|$))(?!.*//)[A-Za-z0-9_][A-Za-z0-9._/+-]{0,200}")
_RULE = "a place below the home of the guest's user"

# A directory of this host, from the root or from the home.
_HERE = re.compile(r"(~?/)(?!.*(^|/)\.\.?(/|$))[^\x00-\x1f\x7f-\x9f]{1,1000}")
_HERE_RULE = "the path of a directory, from / or ~/"

_MODES = {"ro": False, "rw": True}


def place_in_guest(name: str, at: str) -> str:
    """Return where a directory called ``name`` is to be in the guest: ``at``, below the home, or by its name.

    Raises ValueError, in words, for what is no place there.
    """
    wanted = at.removeprefix("~/").removeprefix(f"{HOME}/").rstrip("/") or name
    if not BELOW.fullmatch(wanted):
        raise ValueError(f"is no place below the home of the guest's user: {wanted}")
    return f"{HOME}/{wanted}"


def parse_share(value: Value) -> Share | None:
    """Parse a directory: its path alone, or with `mode` and `at`."""
    before = len(value.mistakes.found)
    if value.scalar() is not None:
        path = fields.matching(_HERE, _HERE_RULE)(value)
        given: dict[str, Any] = {"path": path} if path else {}
    else:
        given = value.fields(_FIELDS)
    if "path" not in given:
        if len(value.mistakes.found) == before:
            value.wrong(_HERE_RULE)
        return None
    try:
        place_in_guest(PurePosixPath(given["path"]).name, given.get("at", ""))
    except ValueError:
        value.wrong("a directory with 'at', " + _RULE)
        return None
    return Share(path=given["path"], at=given.get("at", ""), writable=_MODES[given.get("mode", "ro")])


_FIELDS: dict[str, fields.Parser[Any]] = {
    "path": fields.matching(_HERE, _HERE_RULE),
    "mode": fields.one_of(tuple(_MODES)),
    "at": fields.matching(re.compile(rf"(~/|{HOME}/)?{BELOW.pattern}"), f"{_RULE}, such as ~/src"),
}


def doubled(shares: tuple[Share, ...]) -> str:
    """Return the place in the guest that two of ``shares`` would have, or one below the other, "" for none."""
    places = sorted(place_in_guest(PurePosixPath(share.path).name, share.at) + "/" for share in shares)
    return next((one.rstrip("/") for before, one in itertools.pairwise(places) if one.startswith(before)), "")
