"""The block of one VM in vm.conf(5): its options, each once, and the words of OpenBSD's parser for what is wrong."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from okubsd.vmd.conf import (
    LARGEST_MEMORY,
    MOST_DISKS,
    MOST_INTERFACES,
    Disk,
    Interface,
)

if TYPE_CHECKING:
    from okubsd.vmd.grammar import ConfParser


_SCALE = {"": 0, "b": 0, "k": 10, "m": 20, "g": 30, "t": 40}


class VmBlock:
    """The options of one vm block as they are read."""

    def __init__(self, parser: ConfParser) -> None:
        self.parser = parser
        self.given: dict[str, Any] = {}
        self.disks: list[Disk] = []
        self.interfaces: list[Interface] = []
        self.warnings: list[str] = []

    def option(self) -> None:
        parser, line = self.parser, self.parser.next.line
        match parser.word(
            "enable", "disable", "disk", "local", "interface", "interfaces", "boot", "cdrom", "memory", "owner",
            "allow", "sev", "seves",
        ):  # fmt: skip
            case "disable":
                self.given["enabled"] = False
            case "disk":
                self._disk(line)
            case "local":
                parser.word("interface")
                self._interface(line, local=True)
            case "interface":
                self._interface(line, local=False)
            case "interfaces":
                if not 0 <= parser.number() <= MOST_INTERFACES:
                    raise parser.fail("too many interfaces", line)
            case word:
                self._setting(word, line)

    def _setting(self, word: str, line: int) -> None:
        parser = self.parser
        match word:
            case "boot":
                self._boot(line)
            case "cdrom":
                self._once("cdrom", "cdrom specified more than once", line, parser.string())
            case "memory":
                self._memory(line)
            case "owner":
                if "owner" in self.given:
                    self.warnings.append(f"{line}: a second owner; the last one wins")
                self.given["owner"] = parser.owner()
            case "allow":
                self._allow()
            case _:
                pass

    def _once(self, key: str, sentence: str, line: int, value: object) -> None:
        if key in self.given:
            raise self.parser.fail(sentence, line)
        self.given[key] = value

    def _disk(self, line: int) -> None:
        parser = self.parser
        path, kind = parser.string(), ""
        if parser.accept("format"):
            kind = parser.string()
            if kind not in ("raw", "qcow2"):
                raise parser.fail(f"unrecognized disk format {kind}", line)
        if len(self.disks) >= MOST_DISKS or not parser.host.has_file(path):
            raise parser.fail(f"failed to parse disks: {path}", line)
        self.disks.append(Disk(path, kind))

    def _interface(self, line: int, *, local: bool) -> None:
        self.interfaces.append(self.parser.interface(local=local))
        if len(self.interfaces) > MOST_INTERFACES:
            raise self.parser.fail(f"too many interfaces: {len(self.interfaces)}", line)

    def _boot(self, line: int) -> None:
        if self.parser.accept("device"):
            self.parser.word("disk", "cdrom", "net")
            return
        self._once("boot", "kernel specified more than once", line, self.parser.string())

    def _memory(self, line: int) -> None:
        parser = self.parser
        text = parser.take().text if parser.next.kind == "number" else parser.string()
        size = scan_scaled(text)
        if size is None or not 1 << 20 <= size <= LARGEST_MEMORY:
            raise parser.fail(f"failed to parse size: {text}", line)
        self._once("memory", "argument specified more than once", line, size)

    def _allow(self) -> None:
        """Read `allow instance { ... }`: words divided by commas or newlines."""
        parser = self.parser
        parser.word("instance")
        braces = parser.next.kind == "{"
        if braces:
            parser.take()
        while True:
            parser.skip_newlines() if braces else None
            if braces and parser.next.kind == "}":
                parser.take()
                return
            if parser.word("boot", "memory", "interface", "disk", "cdrom", "instance", "owner") == "owner":
                parser.owner()
            if parser.next.kind == ",":
                parser.take()
            elif not braces:
                return


def scan_scaled(text: str) -> int | None:
    """Return the bytes that scan_scaled(3) reads in ``text``, or None."""
    match = re.fullmatch(r"(\d+)(?:\.(\d+))?([bkmgt]?)", text, re.IGNORECASE)
    if match is None:
        return None
    unit: int = 1 << _SCALE[match[3].lower()]
    digits = match[2] or "0"
    fraction = int(int(digits) * unit / 10 ** len(digits))
    return int(match[1]) * unit + fraction
