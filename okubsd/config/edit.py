"""Put a rule into a description and take it out again, at its place in the text: all else stays to the byte.

The YAML is only looked at, never written anew: comments, order and quotes are the user's.
"""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

from okubsd.errors import Problem

_Node = Any
_Loader: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
_PLAIN = re.compile(r"[A-Za-z0-9./-]+(?::[0-9]+(?:-[0-9]+)?)?")


def add_rule(text: str, vm: str | None, key: str, rule: str) -> str:
    """Return ``text`` with ``rule`` (YAML of one element) at the end of the list ``key`` of a VM.

    ``vm`` is its name in a whole description, None in a file that describes one VM only.
    Raises Problem where the text has no place for it.
    """
    node = _vm_node(text, vm)
    found = _value(node, key)
    if found is None:
        return _add_key(text, node, key, rule)
    if not isinstance(found, yaml.SequenceNode):
        raise Problem(f"'{key}' is no list there", "edit the description by hand")
    return _add_element(text, found, rule)


def remove_rule(text: str, vm: str | None, key: str, index: int) -> str:
    """Return ``text`` without the element ``index`` of the list ``key`` of a VM; the last takes the key with it."""
    node = _vm_node(text, vm)
    found = _value(node, key)
    if not isinstance(found, yaml.SequenceNode) or not 0 <= index < len(found.value):
        raise Problem(f"there is no such rule below '{key}'", "edit the description by hand")
    if len(found.value) == 1:
        return _remove_pair(text, node, key)
    return _remove_element(text, found, index)


def remove_vm(text: str, vm: str) -> str:
    """Return ``text`` without the VM ``vm``, its comments within it included.  Raises Problem where it is not there."""
    node = _value(yaml.compose(text, Loader=_Loader), "vms")
    if _value(node, vm) is None:
        raise Problem(f"'{vm}' is not in the description", "edit the description by hand")
    return _remove_pair(text, node, vm)


def rename_vm(text: str, old: str, new: str) -> str:
    """Return ``text`` with the VM ``old`` called ``new``, also where a network names it as its gateway.

    Raises Problem where it is not there.
    """
    root = yaml.compose(text, Loader=_Loader)
    vms, networks = _value(root, "vms"), _value(root, "networks")
    names = [name for name, _ in vms.value if name.value == old] if isinstance(vms, yaml.MappingNode) else []
    if not names:
        raise Problem(f"'{old}' is not in the description", "edit the description by hand")
    if isinstance(networks, yaml.MappingNode):
        gateways = (_value(network, "gateway") for _, network in networks.value)
        names += [node for node in gateways if isinstance(node, yaml.ScalarNode) and node.value == old]
    for node in sorted(names, key=lambda node: -node.start_mark.index):
        text = text[: node.start_mark.index] + new + text[node.end_mark.index :]
    return text


def quote(rule: str) -> str:
    """Return ``rule`` as a YAML scalar that means it and nothing else."""
    return rule if _PLAIN.fullmatch(rule) else json.dumps(rule)


def render_element(rule: str, until: str = "", comment: str = "") -> str:
    """Return a rule, with its end and its comment if it has them, as one YAML element."""
    if not until and not comment:
        return quote(rule)
    pairs = {"to": rule, "until": until, "comment": comment}
    return (
        "{"
        + ", ".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in pairs.items() if value)
        + "}"
    )


def _vm_node(text: str, vm: str | None) -> _Node:
    """Return the mapping of the VM in ``text``."""
    root = yaml.compose(text, Loader=_Loader)
    node = root
    for key in () if vm is None else ("vms", vm):
        node = _value(node, key)
    if not isinstance(node, yaml.MappingNode) or not node.value:
        raise Problem(f"'{vm}' is no mapping of keys there", "edit the description by hand")
    return node


def _value(node: _Node, key: str) -> _Node | None:
    if not isinstance(node, yaml.MappingNode):
        return None
    return next((value for name, value in node.value if name.value == key), None)


def _line_start(text: str, at: int) -> int:
    return text.rfind("\n", 0, at) + 1


def _line_end(text: str, at: int) -> int:
    """Return where the line that holds ``at`` ends, its newline included."""
    end = text.find("\n", at)
    return len(text) if end < 0 else end + 1


def _content_end(text: str, node: _Node) -> int:
    """Return where the last line of ``node`` ends: a block's own mark is where the next thing begins."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _content_end(text, last[1] if isinstance(last, tuple) else last)
    if isinstance(node, yaml.ScalarNode) and node.style in ("|", ">"):
        at = node.end_mark.index
        return _line_end(text, len(text[:at].rstrip()) - 1)
    return _line_end(text, max(node.start_mark.index, node.end_mark.index - 1))


def _insert_line(text: str, at: int, line: str) -> str:
    joint = "" if at == 0 or text[at - 1] == "\n" else "\n"
    return f"{text[:at]}{joint}{line}\n{text[at:]}"


def _add_key(text: str, node: _Node, key: str, rule: str) -> str:
    if node.flow_style:
        at = node.end_mark.index - 1
        return f"{text[:at].rstrip()}, {key}: [{rule}]{text[at:]}"
    indent = " " * node.start_mark.column
    return _insert_line(text, _content_end(text, node), f"{indent}{key}:\n{indent}  - {rule}")


def _add_element(text: str, node: _Node, rule: str) -> str:
    if node.flow_style or not node.value:
        at = node.end_mark.index - 1
        comma = ", " if node.value else ""
        return f"{text[:at].rstrip()}{comma}{rule}{text[at:]}"
    indent = " " * node.start_mark.column
    return _insert_line(text, _content_end(text, node), f"{indent}- {rule}")


def _remove_element(text: str, node: _Node, index: int) -> str:
    element = node.value[index]
    if not node.flow_style:
        return text[: _line_start(text, element.start_mark.index)] + text[_content_end(text, element) :]
    if index:
        return text[: node.value[index - 1].end_mark.index] + text[element.end_mark.index :]
    return text[: element.start_mark.index] + text[node.value[1].start_mark.index :]


def _remove_pair(text: str, node: _Node, key: str) -> str:
    index = next(i for i, (name, _) in enumerate(node.value) if name.value == key)
    name, value = node.value[index]
    if not node.flow_style:
        return text[: _line_start(text, name.start_mark.index)] + text[_content_end(text, value) :]
    if index:
        return text[: node.value[index - 1][1].end_mark.index] + text[value.end_mark.index :]
    rest = node.value[1][0].start_mark.index if len(node.value) > 1 else node.end_mark.index - 1
    return text[: name.start_mark.index] + text[rest:]
