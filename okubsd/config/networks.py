"""The networks of a description: how they are read, and what of them does not go together."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from okubsd.config import fields
from okubsd.config.names import (
    GATEWAY_SUFFIX,
    NETWORK_NAME,
    NETWORK_NAME_RULE,
    VM_NAME,
    did_you_mean,
    quoted,
)
from okubsd.config.tree import Value
from okubsd.model import NAT, NONE, Network, NetworkKind, Vm
from okubsd.recipe import Recipe

PATH = re.compile(r"[^\x00-\x1f\x7f-\x9f\"]{1,255}")

# A guest has one control NIC, and one for each VM that goes through it; q35 has slots for this many.
MOST_CLIENTS = 16

NETWORK_FIELDS: Mapping[str, fields.Parser[Any]] = {
    "wireguard": fields.matching(PATH, "the path of a wg-quick file"),
    "openvpn": fields.matching(PATH, "the path of an OpenVPN configuration"),
    "gateway": fields.matching(VM_NAME, "the name of a VM"),
    "switch": fields.ipv4_interface,
    "nat": fields.yes_or_no,
    "meet": fields.yes_or_no,
    "resolver": fields.ipv4,
}

_WAYS = ("wireguard", "openvpn", "gateway", "switch", "nat")


def beside(description: Path, name: str) -> str:
    """Return the path ``name``, which is beside the ``description`` unless it is absolute."""
    return str(description.parent.absolute() / Path(name).expanduser())


def parse_network(name: str, tree: Value) -> Network | None:
    """Return the network of one tree, or None after noting its mistakes."""
    before = len(tree.mistakes.found)
    if not NETWORK_NAME.fullmatch(name):
        tree.mistakes.add(tree.line, "", f"{quoted(name)} is no name for a network: {NETWORK_NAME_RULE}")
    elif name in (NONE.name, NAT.name):
        tree.mistakes.add(tree.line, tree.key, f"'{name}' is there already and cannot be changed; choose another name")
    given = tree.fields(NETWORK_FIELDS)
    if len(tree.mistakes.found) > before:
        return None
    ways = [kind for kind in _WAYS if kind in given]
    if len(ways) != 1:
        tree.wrong(f"a network with one of the keys {', '.join(_WAYS)}")
        return None
    if "meet" in given and "switch" not in given:
        tree.mistakes.add(tree.line, f"{tree.key}.meet", "only the VMs on a switch can meet; take the line out")
        return None
    kind, value = ways[0], given.pop(ways[0])
    if kind in ("wireguard", "openvpn"):
        given["file"] = beside(tree.mistakes.path, value)
    elif kind != "nat":
        given["address" if kind == "switch" else kind] = value
    return Network(name=name, kind=NetworkKind(kind), **given)


def check_network(
    tree: Value, values: dict[str, Any], recipes: Mapping[str, Recipe], networks: Mapping[str, Network]
) -> None:
    """Note a network that is not described, rules where nothing leaves, and a tunnel of a VM that is no gateway."""
    name = values.get("network", NAT.name)
    if name not in networks:
        known = ", ".join(networks)
        sentence = f"there is no network '{name}', there are {known}{did_you_mean(name, networks)}"
        tree.mistakes.add(tree.line, f"{tree.key}.network".lstrip("."), sentence, found=quoted(name), allowed=known)
    elif networks[name].kind is NetworkKind.NONE and any(key in values for key in ("allow", "deny")):
        sentence = f"nothing leaves the network '{name}', so a rule does nothing; take it out, or change 'network'"
        tree.mistakes.add(tree.line, f"{tree.key}.network".lstrip("."), sentence)
    recipe = recipes.get(values["image"])
    if "tunnel" in values and not (recipe is not None and recipe.gateway):
        sentence = f"only a gateway has a tunnel, and the image '{values['image']}' is none; name a network instead"
        tree.mistakes.add(tree.line, f"{tree.key}.tunnel".lstrip("."), sentence)


def gateway_mistakes(path: Path, vms: tuple[Vm, ...], recipes: Mapping[str, Recipe]) -> list[str]:
    """Return what is wrong with the gateways of ``vms``: unknown ones, no gateways, loops, too many clients."""
    by_name = {vm.name: vm for vm in vms}
    found = []
    for vm in vms:
        network = vm.network
        if network.kind.is_tunnel and f"{network.name}{GATEWAY_SUFFIX}" in by_name:
            taken = f"{network.name}{GATEWAY_SUFFIX}"
            found.append(f"{path}: vms.{taken}: this is the name of the gateway of network '{network.name}'")
        if network.kind is not NetworkKind.GATEWAY:
            continue
        gateway = by_name.get(network.gateway)
        where = f"{path}: networks.{network.name}.gateway"
        if gateway is None:
            found.append(f"{where}: there is no VM '{network.gateway}'{did_you_mean(network.gateway, by_name)}")
        elif not recipes[gateway.image].gateway:
            gateways = ", ".join(sorted(name for name, recipe in recipes.items() if recipe.gateway))
            sentence = f"VM '{gateway.name}' is no gateway; the images of gateways are {gateways}"
            found.append(f"{where}: {sentence}")
    found = list(dict.fromkeys(found))
    return found or [*_loops(path, by_name), *_crowds(path, vms)]


def _loops(path: Path, by_name: Mapping[str, Vm]) -> list[str]:
    """Return a sentence for each loop of gateways, with the loop in it."""
    loops: dict[frozenset[str], str] = {}
    for name in by_name:
        kind, here = [name], name
        while by_name[here].network.kind is NetworkKind.GATEWAY:
            here = by_name[here].network.gateway
            if here in kind:
                loop = kind[kind.index(here) :]
                loops.setdefault(frozenset(loop), " -> ".join([*loop, here]))
                break
            kind.append(here)
    return [f"{path}: the gateways go in a circle: {loop}" for loop in loops.values()]


def _crowds(path: Path, vms: tuple[Vm, ...]) -> list[str]:
    counts: dict[str, int] = {}
    for vm in vms:
        if vm.network.kind is NetworkKind.GATEWAY:
            counts[vm.network.gateway] = counts.get(vm.network.gateway, 0) + 1
    return [
        f"{path}: {count} VMs go through '{gateway}', and a gateway takes {MOST_CLIENTS}"
        for gateway, count in counts.items()
        if count > MOST_CLIENTS
    ]
