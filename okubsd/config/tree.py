"""Read YAML into values that remember their line, and collect every mistake of a file at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from okubsd.config.names import did_you_mean, quoted
from okubsd.errors import Mistake

# A description of 500 VMs is about 100 kB; nothing honest is larger than this.
LARGEST_FILE = 4 << 20
_DEEPEST = 8

# What an alias or deep nesting cannot do without; a file that has none of it is not looked through for them.
# Looked for one after the other, which is quicker than all at once.
_SUSPICIOUS = tuple(
    re.compile(text, re.MULTILINE) for text in (r"[&*]", r"[\[{]\s*[\[{]", r"^ {17}", r"^(?:\s*- ?){4}")
)

# Nodes are all that is wanted: what a scalar means is for the parser of its key to say.
_Loader: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})


class Mistakes:
    """The mistakes found in one file, as sentences that begin with file, line and key."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: list[str] = []

    def add(self, line: int, key: str, sentence: str, *, found: str = "", allowed: str = "") -> None:
        """Note ``sentence`` about the value at ``key`` ("vms.browser.memory") on ``line``.

        ``found`` is what is there, ``allowed`` what could be, where there is such a thing.
        """
        # A key is whatever somebody wrote there.
        shown = quoted(key, 120)[1:-1] if key else ""
        where = f"{self.path}:{line}: " + (f"{shown}: " if key else "")
        mistake = Mistake(where + sentence, file=str(self.path), line=line, path=shown, found=found, allowed=allowed)
        self.found.append(mistake)


def _line_of(node: Any) -> int:
    """Return the line of a YAML node, from 1."""
    return int(node.start_mark.line) + 1


class Value:
    """A YAML node, its dotted key and its line; turned into Python only where it is asked for."""

    def __init__(self, node: Any, key: str, mistakes: Mistakes) -> None:
        self.node = node
        self.key = key
        self.mistakes = mistakes

    @property
    def line(self) -> int:
        """Return the line of the file, from 1."""
        return _line_of(self.node)

    @property
    def shape(self) -> str:
        """Return what the node is, in words for a message."""
        if isinstance(self.node, yaml.MappingNode):
            return "a mapping"
        if isinstance(self.node, yaml.SequenceNode):
            return "a list"
        return quoted(self.node.value)

    def wrong(self, allowed: str, hint: str = "") -> None:
        """Note that this value is not what is allowed here."""
        sentence = f"found {self.shape}, allowed is {allowed}{hint}"
        self.mistakes.add(self.line, self.key, sentence, found=self.shape, allowed=allowed)

    def scalar(self) -> str | None:
        """Return the text of a scalar that is not null, or None."""
        node = self.node
        if not isinstance(node, yaml.ScalarNode) or (node.value in _NULLS and not node.style):
            return None
        return str(node.value)

    @property
    def is_empty(self) -> bool:
        """Return whether there is nothing behind the key."""
        return isinstance(self.node, yaml.ScalarNode) and self.node.value in _NULLS and not self.node.style

    def items(self) -> Iterator[tuple[str, Value]] | None:
        """Return the pairs of a mapping, noting doubled and odd keys; None where it is none.

        What has nothing behind its key, as when all of it is commented out, is an empty one.
        """
        if self.is_empty:
            return iter(())
        if not isinstance(self.node, yaml.MappingNode):
            return None
        return self._pairs()

    def _pairs(self) -> Iterator[tuple[str, Value]]:
        seen: dict[str, Any] = {}
        for name_node, node in self.node.value:
            name = str(name_node.value) if isinstance(name_node, yaml.ScalarNode) else ""
            child = Value(node, f"{self.key}.{name}" if self.key else name, self.mistakes)
            if not name:
                self.mistakes.add(_line_of(name_node), self.key, "a key must be a plain word")
            elif name in seen:
                first = _line_of(seen[name])
                self.mistakes.add(_line_of(name_node), child.key, f"is written twice, first on line {first}")
            else:
                seen[name] = name_node
                yield name, child

    def elements(self) -> list[Value] | None:
        """Return the elements of a list, [] where there is nothing behind its key, or None where it is none."""
        if self.is_empty:
            return []
        if not isinstance(self.node, yaml.SequenceNode):
            return None
        return [Value(node, f"{self.key}[{i}]", self.mistakes) for i, node in enumerate(self.node.value)]

    def fields(self, parsers: Mapping[str, Callable[[Value], Any]]) -> dict[str, Any]:
        """Return the parsed fields of a mapping whose keys are all in ``parsers``.

        A field whose parser noted a mistake is left out; so is a key that nobody knows.
        """
        pairs = self.items()
        if pairs is None:
            self.wrong("a mapping of " + ", ".join(parsers))
            return {}
        result: dict[str, Any] = {}
        for name, value in pairs:
            if name not in parsers:
                hint = did_you_mean(name, parsers)
                allowed = ", ".join(parsers)
                sentence = f"unknown key, allowed are {allowed}{hint}"
                self.mistakes.add(value.line, value.key, sentence, found=quoted(name), allowed=allowed)
                continue
            parsed = parsers[name](value)
            if parsed is not None:
                result[name] = parsed
        return result


def read_tree(text: str, mistakes: Mistakes) -> Value | None:
    """Return the root of the YAML ``text``, or None (with a mistake noted, unless it is empty).

    Aliases are refused: nothing in a description needs them and they let a small file grow without bound.
    """
    try:
        if len(text) > LARGEST_FILE:
            mistakes.add(1, "", f"the file is larger than {LARGEST_FILE >> 20} MiB")
            return None
        if any(pattern.search(text) for pattern in _SUSPICIOUS) and not _is_flat(text, mistakes):
            return None
        node = yaml.compose(text, Loader=_Loader)
    except RecursionError:
        mistakes.add(1, "", f"nested deeper than {_DEEPEST} levels")
        return None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        what = quoted(getattr(error, "problem", None) or str(error).split("\n")[0], 120).strip("'")
        mistakes.add(mark.line + 1 if mark else 1, "", f"this is not YAML: {what}")
        return None
    return None if node is None else Value(node, "", mistakes)


def _is_flat(text: str, mistakes: Mistakes) -> bool:
    """Return whether ``text`` has no alias and no deep nesting; note where it has."""
    depth = 0
    event: Any
    for event in yaml.parse(text, Loader=_Loader):
        line = event.start_mark.line + 1
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent):
            mistakes.add(line, "", "aliases (*name) are not taken")
            return False
        if depth > _DEEPEST:
            mistakes.add(line, "", f"nested deeper than {_DEEPEST} levels")
            return False
    return True
