"""recipe.yaml into a Recipe (okubsd-image(5))."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from okubsd.config import fields
from okubsd.config.names import APP_NAME, IMAGE_NAME, IMAGE_NAME_RULE, PACKAGE_NAME, USER_NAME, USER_NAME_RULE, quoted
from okubsd.config.tree import Mistakes, Value, read_tree
from okubsd.errors import BadDescription
from okubsd.model import Kind, Proxy, Recipe

_WORD = re.compile(r"[^\0\n]{1,4096}")
_PATH = re.compile(r"/[A-Za-z0-9._/+-]+")
_INSIDE = re.compile(r"[A-Za-z0-9_-]+")
_URL = re.compile(r"https?://[A-Za-z0-9.:/_~-]+")

_command = fields.list_of(fields.matching(_WORD, "a word of a command"), "a command as a list of words")


def _apps(value: Value) -> dict[str, tuple[str, ...]] | None:
    pairs = value.items()
    if pairs is None:
        value.wrong("a mapping of app names to commands")
        return None
    apps = {}
    for name, command in pairs:
        if not APP_NAME.fullmatch(name):
            value.mistakes.add(command.line, command.key, f"{quoted(name)} is no name for an app: {IMAGE_NAME_RULE}")
        words = _command(command)
        if words == ():
            command.wrong("a command of at least one word")
        apps[name] = words or ()
    return apps


def _proxy(value: Value) -> Proxy | None:
    given = value.fields(
        {
            "tcp": fields.whole_between(1, 65535),
            "dns": fields.whole_between(1, 65535),
            "user": fields.matching(USER_NAME, USER_NAME_RULE),
        }
    )
    if len(given) == 3:
        return Proxy(**given)
    value.wrong("a mapping of tcp, dns and user")
    return None


_FIELDS: Mapping[str, fields.Parser[Any]] = {
    "kind": fields.member_of(Kind),
    "from": fields.matching(IMAGE_NAME, "the name of the base image"),
    "packages": fields.list_of(fields.matching(PACKAGE_NAME, "a Debian package name"), "a list of packages"),
    "apps": _apps,
    "services": _command,
    "modules": fields.list_of(fields.matching(_INSIDE, "a module name"), "a list of kernel modules"),
    "network_modules": fields.list_of(fields.matching(_INSIDE, "a module name"), "a list of kernel modules"),
    "gateway": fields.yes_or_no,
    "proxy": _proxy,
    "setuid": fields.list_of(fields.matching(_PATH, "an absolute path"), "a list of paths"),
    "files": fields.matching(_INSIDE, "a directory beside the recipe"),
    "suite": fields.matching(_INSIDE, "a Debian release, such as bookworm"),
    "mirror": fields.matching(_URL, "the URL of a Debian mirror"),
}

# What the gateway's service calls; who has a proxy has a resolver in it.
_GATEWAY_NEEDS = ("iproute2", "nftables", "dnsmasq-base")


def parse_recipe(name: str, path: Path, text: str, digest: str = "") -> Recipe:
    """Return the Recipe called ``name`` from the ``text`` of the file at ``path``.

    ``digest`` is the SHA-256, in hex, over the recipe and its files.  Raises BadDescription with every mistake.
    """
    mistakes = Mistakes(path)
    tree = read_tree(text, mistakes)
    given = tree.fields(_FIELDS) if tree is not None else {}
    if tree is None and not mistakes.found:
        mistakes.add(1, "", "the recipe is empty")
    given["base"] = given.pop("from", "")
    kind = given.setdefault("kind", Kind.APP)
    if not mistakes.found:
        if kind is Kind.APP and not given["base"]:
            mistakes.add(1, "from", "an app image says which base it is from")
        if kind is Kind.APP and not given.get("apps") and not given.get("gateway"):
            mistakes.add(1, "apps", "an app image has at least one app, unless it is a gateway's")
        needed = _GATEWAY_NEEDS[: 2 if given.get("proxy") else 3] if given.get("gateway") else ()
        for package in needed:
            if package not in given.get("packages", ()):
                mistakes.add(1, "packages", f"a gateway needs the package '{package}'")
    if mistakes.found:
        raise BadDescription(mistakes.found)
    return Recipe(name=name, digest=digest, **given)
