"""okubsd.yaml and vm.d/*.yaml into a Description (okubsd.yaml(5)): parse, default, validate."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from okubsd.config import fields, rule
from okubsd.config.chords import parse_chord
from okubsd.config.names import (
    APP_NAME,
    GROUP_NAME,
    GROUP_NAME_RULE,
    IMAGE_NAME,
    IMAGE_NAME_RULE,
    INTERFACE_NAME,
    INTERFACE_NAME_RULE,
    NETWORK_NAME,
    NETWORK_NAME_RULE,
    RESERVED,
    USER_NAME,
    USER_NAME_RULE,
    VM_NAME,
    VM_NAME_RULE,
    did_you_mean,
    quoted,
)
from okubsd.config.networks import PATH, beside, check_network, gateway_mistakes, parse_network
from okubsd.config.tree import Mistakes, Value, read_tree
from okubsd.errors import BadDescription
from okubsd.model import NAT, NONE, Backend, Description, Guard, HostDescription, Keys, Network, Share, Vm, Zone
from okubsd.recipe import Recipe
from okubsd.rules import Bandwidth, Rule

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "grey", "black")

# vmd: at most 128 GiB (vmm.h).  Below, Linux and the first drives do not fit (observed: in 64M a web server runs on the
# kernel for VMs only, where that of the distribution ends in the initrd; in 80M that shows a terminal).
_MEMORY = fields.size_between(64 << 20, 128 << 30)
_HOME = fields.size_between(16 << 20, 1 << 40)
_APPS = fields.list_of(fields.matching(APP_NAME, IMAGE_NAME_RULE), "a list of app names")


# A shell of the guest splits them at blanks.
_KEPT_PART = r"[A-Za-z0-9._][A-Za-z0-9._-]*"
_KEPT = re.compile(rf"(?!.*(^|/)\.\.?(/|$))(?!\.(ssh|okubsd)(/|$)){_KEPT_PART}(/{_KEPT_PART})*")
_KEPT_RULE = "a path below the home, of letters, digits, '.', '_' and '-'"
_TAGS = fields.list_of(fields.matching(IMAGE_NAME, IMAGE_NAME_RULE), "a list of tags")


def _rules(*, allow: bool) -> fields.Parser[tuple[Rule, ...]]:
    """Return a parser of a list of rules, each as text or with its particulars."""

    def parse_one(value: Value) -> Rule | None:
        if value.scalar() is not None:
            return _rule(value, value, {}, allow=allow)
        given = value.fields(_RULE_FIELDS)
        if "to" not in given:
            value.wrong("a rule: " + rule.FORM)
            return None
        return _rule(value, given.pop("to"), given, allow=allow)

    return fields.list_of(parse_one, "a list of rules")


def _rule(value: Value, to: Value, given: dict[str, Any], *, allow: bool) -> Rule | None:
    try:
        found = rule.parse_rule(to.scalar() or "", allow=allow)
    except ValueError as error:
        to.wrong(rule.FORM, f"; it {error}")
        return None
    if given.get("protocol") == "icmp" and found.ports:
        value.wrong("a rule of icmp without ports")
        return None
    protocol = given.pop("protocol", "") or found.protocol
    place = {"file": str(value.mistakes.path), "line": value.line}
    return msgspec.structs.replace(found, protocol=protocol, **given, **place)


def _bandwidth(value: Value) -> Bandwidth | None:
    return Bandwidth(**value.fields({"down": fields.bits_per_second, "up": fields.bits_per_second}))


def _keys(value: Value) -> Keys | None:
    found = Keys(**value.fields({"take": fields.chord, "give": fields.chord, "fill": fields.chord}))
    chords = [parse_chord(text) for text in (found.take, found.give, found.fill)]
    if len({(chord.key.lower(), frozenset(chord.held)) for chord in chords}) < len(chords):
        value.wrong("three keys that are not the same")
        return None
    return found


_RULE_FIELDS: Mapping[str, fields.Parser[Any]] = {
    "to": lambda value: value,
    "protocol": fields.one_of(rule.PROTOCOLS),
    "until": fields.moment,
    "comment": fields.matching(re.compile(r"[^\x00-\x1f\x7f-\x9f]{1,200}"), "a comment of one line"),
}


def _shares(value: Value) -> tuple[Share, ...] | None:
    from okubsd.config import sharing

    found = fields.list_of(sharing.parse_share, "a list of directories, such as [~/src/x]")(value)
    place = sharing.doubled(found or ())
    if place:
        value.wrong("directories that have places of their own in the VM", f"; {place} is there twice")
        return None
    return found


VM_FIELDS: Mapping[str, fields.Parser[Any]] = {
    "image": fields.matching(IMAGE_NAME, IMAGE_NAME_RULE),
    "memory": _MEMORY,
    "cpus": fields.whole_between(1, 8),
    "network": fields.matching(NETWORK_NAME, NETWORK_NAME_RULE),
    "preset": fields.one_of(rule.PRESETS),
    "allow": _rules(allow=True),
    "deny": _rules(allow=False),
    "bandwidth": _bandwidth,
    "tunnel": fields.matching(PATH, "the path of a wg-quick file"),
    "display": fields.display,
    # An X server does not start with less.
    "display_memory": fields.size_between(128 << 20, 16 << 30),
    "scale": fields.scale,
    "fullscreen": fields.yes_or_no,
    "keys": _keys,
    "apps": _APPS,
    "tags": _TAGS,
    "home": _HOME,
    "color": fields.one_of(COLORS),
    "autostart": fields.yes_or_no,
    "disposable": fields.yes_or_no,
    "keep": fields.yes_or_no,
    "protect": fields.yes_or_no,
    "persist": fields.list_of(
        fields.matching(_KEPT, "a path below the home, of letters, digits, '.', '_', '-'"), "paths"
    ),
    "publish": fields.list_of(fields.published, "a list of ports, such as [8080:80]"),
    "guard": fields.member_of(Guard),
    "timezone": fields.member_of(Zone),
    "locale": fields.locale,
    "share": _shares,
    "sound": fields.yes_or_no,
    "hook": fields.yes_or_no,
    "boot_timeout": fields.whole_between(5, 3600),
    "backend": fields.member_of(Backend),
    "owner": fields.matching(USER_NAME, USER_NAME_RULE),
    # rdomain(4): 255 is the last; 0 is the host's own.
    "number": fields.whole_between(1, 255),
}
_OF_ONE_VM = ("image", "apps", "number", "allow", "deny", "tunnel")
_DEFAULTS = {name: parser for name, parser in VM_FIELDS.items() if name not in _OF_ONE_VM}


def _staggered(value: Value) -> tuple[int, int] | None:
    given = value.fields({"parallel": fields.whole_between(1, 64), "delay": fields.whole_between(0, 3600)})
    return (given.get("parallel", 1), given.get("delay", 5))


HOST_FIELDS: Mapping[str, fields.Parser[Any]] = {
    "backend": fields.member_of(Backend),
    "owner": fields.matching(USER_NAME, USER_NAME_RULE),
    "group": fields.matching(GROUP_NAME, GROUP_NAME_RULE),
    "resolver": fields.ipv4,
    "numbers": fields.range_between(1, 255),
    "staggered": _staggered,
    "uplink": fields.matching(INTERFACE_NAME, INTERFACE_NAME_RULE),
    "clip_limit": fields.size_between(1 << 10, 64 << 20),
}


def parse_description(
    path: Path, text: str, drop_ins: Iterable[tuple[Path, str]], recipes: Mapping[str, Recipe]
) -> Description:
    """Return what is meant by the description ``text`` and of its drop-ins.

    ``path`` is where the text was read, ``drop_ins`` the files of vm.d with their texts, in order,
    ``recipes`` the images that can be named.  Raises BadDescription with every mistake of every file.
    """
    mistakes = Mistakes(path)
    defaults, host, vms, networks = _parse_main(text, mistakes)
    found = list(mistakes.found)
    for drop_path, drop_text in drop_ins:
        drop_mistakes = Mistakes(drop_path)
        tree = read_tree(drop_text, drop_mistakes)
        if tree is None and not drop_mistakes.found:
            drop_mistakes.add(1, "", "the file is empty; it holds the keys of one VM")
        elif tree is not None:
            vms.append((drop_path.stem, tree))
            _check_name(drop_path.stem, tree.line, drop_mistakes)
        found += drop_mistakes.found
    defaults = {"backend": host.backend, **defaults}
    built = [_build_vm(name, tree, defaults, recipes, networks) for name, tree in vms]
    found += [m for tree in {id(t.mistakes): t.mistakes for _, t in vms}.values() for m in tree.found if m not in found]
    found += _doubled(vms) + _doubled_numbers(vms, built)
    good = tuple(vm for vm in built if vm is not None)
    if not found:
        found = gateway_mistakes(path, good, recipes)
    if found:
        raise BadDescription(found)
    return Description(path, good, host, tuple(networks.values()))


_Main = tuple[dict[str, Any], HostDescription, list[tuple[str, Value]], dict[str, Network]]


def _parse_main(text: str, mistakes: Mistakes) -> _Main:
    """Return the defaults, the host's part, the named VM trees and the networks of okubsd.yaml itself."""
    vms: list[tuple[str, Value]] = []
    networks = {network.name: network for network in (NONE, NAT)}

    def parse_networks(value: Value) -> bool:
        pairs = value.items()
        if pairs is None:
            value.wrong("a mapping of network names to their keys")
            return False
        for name, tree in pairs:
            network = parse_network(name, tree)
            if network is not None:
                networks[name] = network
        return True

    def parse_vms(value: Value) -> bool:
        pairs = value.items()
        if pairs is None:
            value.wrong("a mapping of VM names to their keys")
            return False
        for name, tree in pairs:
            _check_name(name, tree.line, mistakes, f"vms.{name}")
            vms.append((name, tree))
        return True

    tree = read_tree(text, mistakes)
    if tree is None:
        return {}, HostDescription(), vms, networks
    top = tree.fields(
        {
            "defaults": lambda value: value.fields(_DEFAULTS),
            "host": lambda value: value.fields(HOST_FIELDS),
            "networks": parse_networks,
            "vms": parse_vms,
        }
    )
    return top.get("defaults", {}), HostDescription(**top.get("host", {})), vms, networks


def _check_name(name: str, line: int, mistakes: Mistakes, key: str = "") -> None:
    if not VM_NAME.fullmatch(name):
        mistakes.add(line, "", f"{quoted(name)} is no name for a VM: {VM_NAME_RULE}")
    elif name.lower() in RESERVED:
        mistakes.add(line, key, f"'{name}' is a word of the command line; choose another name")


def _build_vm(
    name: str,
    tree: Value,
    defaults: dict[str, Any],
    recipes: Mapping[str, Recipe],
    networks: Mapping[str, Network],
) -> Vm | None:
    """Return the VM of one tree, or None after noting its mistakes."""
    before = len(tree.mistakes.found)
    given = tree.fields(VM_FIELDS)
    if "image" not in given:
        if len(tree.mistakes.found) == before:
            tree.mistakes.add(tree.line, tree.key, "the key 'image' is missing; it names the app image")
        return None
    _check_image(tree, given, recipes)
    values = {**defaults, **given}
    check_network(tree, values, recipes, networks)
    if len(tree.mistakes.found) > before:
        return None
    if "network" in values:
        values["network"] = networks[values["network"]]
    rules = (*values.pop("allow", ()), *values.pop("deny", ()))
    preset = values.pop("preset", "")
    if rules or preset:
        values["rules"] = (*rules, *(rule.preset(preset, str(tree.mistakes.path), tree.line) if preset else ()))
    if "display" in values:
        face, size = values.pop("display")
        values |= {"face": face} if face else {}
        values |= {"display": size} if size else {}
    if "tunnel" in values:
        values["tunnel"] = beside(tree.mistakes.path, values["tunnel"])
    return Vm(name=name, **values)


def _check_image(tree: Value, given: dict[str, Any], recipes: Mapping[str, Recipe]) -> None:
    """Note an image that has no recipe, and apps that the image does not have."""
    image = given["image"]
    where = f"{tree.key}.image".lstrip(".")
    if image not in recipes or not recipes[image].base:
        apps = sorted(name for name, recipe in recipes.items() if recipe.base)
        allowed, hint = ", ".join(apps), did_you_mean(image, apps)
        sentence = f"no recipe for an app image '{image}', there are {allowed}{hint}"
        tree.mistakes.add(tree.line, where, sentence, found=quoted(image), allowed=allowed)
        return
    for app in given.get("apps", ()):
        known = recipes[image].apps
        if app not in known:
            sentence = f"image '{image}' has no app '{app}', it has {', '.join(known)}{did_you_mean(app, known)}"
            where = f"{tree.key}.apps".lstrip(".")
            tree.mistakes.add(tree.line, where, sentence, found=quoted(app), allowed=", ".join(known))


def _doubled_numbers(vms: list[tuple[str, Value]], built: list[Vm | None]) -> list[str]:
    """Return a sentence for each number that two VMs ask for."""
    first: dict[int, str] = {}
    found = []
    for (name, tree), vm in zip(vms, built, strict=True):
        if vm is None or vm.number is None:
            continue
        other = first.setdefault(vm.number, name)
        if other != name:
            place = f"{tree.mistakes.path}:{tree.line}: {tree.key}.number".replace(": .", ": ")
            found.append(f"{place}: VM '{other}' has the number {vm.number} already")
    return found


def _doubled(vms: list[tuple[str, Value]]) -> list[str]:
    """Return a sentence for each VM that is written twice; vmd takes names without regard to file."""
    first: dict[str, Value] = {}
    found = []
    for name, tree in vms:
        other = first.setdefault(name.lower(), tree)
        if other is not tree:
            place = f"{other.mistakes.path}:{other.line}"
            found.append(f"{tree.mistakes.path}:{tree.line}: VM {quoted(name)} is described already in {place}")
    return found
