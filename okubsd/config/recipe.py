"""recipe.yaml into a Recipe (okubsd-image(5))."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from okubsd.config import fields
from okubsd.config.names import APP_NAME, IMAGE_NAME, IMAGE_NAME_RULE, PACKAGE_NAME, USER_NAME, USER_NAME_RULE, quoted
from okubsd.config.tree import Mistakes, Value, read_tree
from okubsd.errors import BadDescription
from okubsd.model import Kind
from okubsd.recipe import Deb, Proxy, Recipe, Sandbox, Translations

_WORD = re.compile(r"[^\0\n]{1,4096}")
_PATH = re.compile(r"/[A-Za-z0-9._/+-]+")
_ARCHIVE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,100}")
_INSIDE = re.compile(r"[A-Za-z0-9_-]+")
_URL = re.compile(r"https?://[A-Za-z0-9.:/_~-]+")

_BELOW = re.compile(r"(?!.*(^|/)\.\.?(/|$))[A-Za-z0-9._-][A-Za-z0-9._/+ -]{0,200}")
_DEVICE = re.compile(r"[a-z][a-z0-9]{0,30}(/[a-zA-Z0-9]{1,30})?")

_TRANSLATED = re.compile(r"[a-z0-9][a-z0-9+.-]*(\{\}[a-z0-9+.-]*)?")
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[a-z0-9]+)*")

_EXAMPLE = re.compile(r"([A-Za-z0-9_-]+/)?[A-Za-z0-9_-][A-Za-z0-9_.-]{0,100}")

_DEB = re.compile(r"~?/(?!.*(^|/)\.\.?(/|$))[^\x00-\x1f\x7f]{1,1000}\.deb")
_ABOUT = re.compile(r"[^\x00-\x1f\x7f-\x9f]{1,100}")
_SHA256 = re.compile(r"[0-9a-f]{64}")

_home_paths = fields.list_of(fields.matching(_BELOW, "a path below the home"), "a list of paths below the home")
_devices = fields.list_of(fields.matching(_DEVICE, "a name below /dev"), "a list of names below /dev")
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


def _translations(value: Value) -> Translations | None:
    given = value.fields(
        {
            "package": fields.matching(_TRANSLATED, "the name of a package, with {} for a language"),
            "of": fields.list_of(fields.matching(_LANGUAGE, "a language"), "a list of languages"),
        }
    )
    if "package" in given and ("{}" in given["package"]) == ("of" in given):
        return Translations(**given)
    value.wrong("a mapping of package, and of where it has {} in it")
    return None


def _deb(value: Value) -> Deb | None:
    given = value.fields(
        {
            "path": fields.matching(_DEB, "the path of a .deb, from / or ~/"),
            "sha256": fields.matching(_SHA256, "64 hex digits, as sha256sum(1) prints them"),
        }
    )
    if len(given) == 2:
        return Deb(**given)
    value.wrong("a mapping of path and sha256")
    return None


def _opens(value: Value) -> dict[str, str] | None:
    pairs = value.items()
    if pairs is None:
        value.wrong("a mapping of app names to files beside the recipe")
        return None
    file = fields.matching(_EXAMPLE, "a file beside the recipe")
    return {name: found for name, word in pairs if (found := file(word))}


def _sandbox(value: Value) -> Sandbox | None:
    word = value.scalar()
    if word in ("app", "none"):
        return Sandbox(on=word == "app")
    if word is not None:
        value.wrong("app, none, or a mapping of home, devices and network")
        return None
    return Sandbox(**value.fields({"home": _home_paths, "devices": _devices, "network": fields.yes_or_no}))


_FIELDS: Mapping[str, fields.Parser[Any]] = {
    "kind": fields.member_of(Kind),
    "from": fields.matching(IMAGE_NAME, "the name of the base image"),
    "packages": fields.list_of(fields.matching(PACKAGE_NAME, "a Debian package name"), "a list of packages"),
    "tools": fields.list_of(fields.matching(PACKAGE_NAME, "a Debian package name"), "a list of packages"),
    "apps": _apps,
    "services": _command,
    "modules": fields.list_of(fields.matching(_INSIDE, "a module name"), "a list of kernel modules"),
    "network_modules": fields.list_of(fields.matching(_INSIDE, "a module name"), "a list of kernel modules"),
    "gateway": fields.yes_or_no,
    "builder": fields.yes_or_no,
    "about": fields.matching(_ABOUT, "a few words on one line"),
    "debs": fields.list_of(_deb, "a list of packages, each with path and sha256"),
    "sound": fields.yes_or_no,
    "notifications": fields.yes_or_no,
    "memory": fields.size_between(64 << 20, 128 << 30),
    "opens": _opens,
    "translations": _translations,
    "proxy": _proxy,
    "setuid": fields.list_of(fields.matching(_PATH, "an absolute path"), "a list of paths"),
    "sandbox": _sandbox,
    "container": fields.matching(_ARCHIVE, "a file beside the recipe"),
    "image": fields.matching(IMAGE_NAME, "the name of the image that is made"),
    "kernel": fields.matching(_ARCHIVE, "a file beside the recipe"),
    "files": fields.matching(_INSIDE, "a directory beside the recipe"),
    "suite": fields.matching(_INSIDE, "a Debian release, such as bookworm"),
    "mirror": fields.matching(_URL, "the URL of a Debian mirror"),
}

# What the gateway's service calls; who has a proxy has a resolver in it.
_GATEWAY_NEEDS = ("iproute2", "nftables", "dnsmasq-base")

# What apps are heard by, and what prints what they play (images/base/files/usr/lib/okubsd/sound).
_OF_SOUND = ("pulseaudio", "pulseaudio-utils", "libpulse0")

# What apps are given a bus by, and what takes their notifications there (images/base/files/usr/lib/okubsd/bus).
_OF_NOTIFICATIONS = ("dbus-daemon", "dbus-bin", "dunst")

# Which packages a key brings.
_BROUGHT = {"sound": _OF_SOUND, "notifications": _OF_NOTIFICATIONS}

# What an app image is for, one of these.
_PURPOSES = ("apps", "services", "gateway", "builder", "container")
_NOT_OF_A_CONTAINER = ("packages", "apps", "services", "gateway", "files", *_BROUGHT)


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
        for key, wrong in (*_wrong_purpose(given, kind), *_wrong_together(given, kind)):
            mistakes.add(1, key, wrong)
    if mistakes.found:
        raise BadDescription(mistakes.found)
    for key, brought in _BROUGHT.items():
        if given.get(key):
            given["packages"] = (*given.get("packages", ()), *brought)
    return Recipe(name=name, digest=digest, **given)


def _wrong_purpose(given: Mapping[str, Any], kind: Kind) -> Iterator[tuple[str, str]]:
    """Yield what a recipe lacks for what it is for: a key, and what is wrong, in words."""
    if kind is Kind.APP and not given["base"]:
        yield "from", "an app image says which base it is from"
    if kind is Kind.APP and not any(given.get(key) for key in _PURPOSES):
        yield "apps", "an app image has at least one app or service, is a gateway's or builds others"
    needed = _GATEWAY_NEEDS[: 2 if given.get("proxy") else 3] if given.get("gateway") else ()
    for package in needed:
        if package not in given.get("packages", ()):
            yield "packages", f"a gateway needs the package '{package}'"


def _wrong_together(given: Mapping[str, Any], kind: Kind) -> Iterator[tuple[str, str]]:
    """Yield which keys of a recipe do not go together: a key, and what is wrong, in words."""
    if given.get("container") and any(given.get(key) for key in _NOT_OF_A_CONTAINER):
        yield (
            "container",
            "what is made of a container has no packages, apps, services, files, sound or notifications beside",
        )
    if given.get("kernel") and (kind is not Kind.BOOT or not given.get("image")):
        yield "kernel", "a kernel is compiled for a boot image, which 'image' names"
    for app in given.get("opens", {}).keys() - given.get("apps", {}).keys():
        yield "opens", f"there is no app {quoted(app)} to open it"
    for key in _BROUGHT:
        if given.get(key) and kind is not Kind.APP:
            yield key, f"only an app image has {key}"
    if given.get("tools") and kind is Kind.BOOT:
        yield "tools", "a boot image has no tools"
