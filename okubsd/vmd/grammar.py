"""What vmd(8) reads in a vm.conf(5): the parser's verdict, in its own words.

Source: usr.sbin/vmd/parse.y of OpenBSD 7.6 to 7.8.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

from okubsd.config.parse_y import Cursor, Lexer
from okubsd.vmd.conf import (
    LARGEST_RDOMAIN,
    LONGEST_GROUP,
    LONGEST_NAME,
    Conf,
    ConfVm,
    Interface,
    Switch,
)
from okubsd.vmd.vm_block import VmBlock

_WORDS = """
add agentx allow boot cdrom context delay device disable disk down enable format group id include inet6 instance
interface interfaces lladdr local locked memory net owner parallel path prefix rdomain sev seves size socket
staggered start switch up vm
"""
KEYWORDS = frozenset(_WORDS.split())

_LLADDR = re.compile(r"[0-9a-f]{1,2}(:[0-9a-f]{1,2}){5}", re.IGNORECASE)


class Host(msgspec.Struct, frozen=True):
    """What the parser asks the host: is there such a user, group, disk?  What does an included file say?"""

    has_user: Callable[[str], bool] = lambda name: True
    has_group: Callable[[str], bool] = lambda name: True
    has_file: Callable[[str], bool] = lambda path: True
    read: Callable[[str], str | None] = lambda path: None


def parse_conf(text: str, host: Host | None = None, macros: dict[str, str] | None = None) -> Conf:
    """Return what vmd reads in ``text``.  Raises ConfError with the parser's own message for the first mistake."""
    return ConfParser(Lexer(text, KEYWORDS, macros), host or Host()).parse()


class ConfParser(Cursor):
    def __init__(self, lexer: Lexer, host: Host) -> None:
        super().__init__(lexer)
        self.host = host
        self.warnings: list[str] = []

    # --- tokens -------------------------------------------------------------

    def is_word(self, *words: str) -> bool:
        return self.next.kind == "word" and self.next.text in words

    def word(self, *words: str) -> str:
        if not self.is_word(*words):
            raise self.fail()
        return self.take().text

    def accept(self, *words: str) -> bool:
        return self.is_word(*words) and bool(self.take())

    def string(self) -> str:
        """Return a string; neighbouring ones join, which is hardly ever meant."""
        token = self.mark("string")
        text, expanded = token.text, token.expanded
        while self.next.kind == "string":
            if not expanded and not self.next.expanded:
                self.warnings.append(f"{self.next.line}: neighbouring strings join: {text}{self.next.text}")
            expanded = self.next.expanded
            text += self.take().text
        return text

    # --- file ---------------------------------------------------------------

    def parse(self) -> Conf:
        found = Conf()
        self.skip_newlines()
        while self.next.kind != "end":
            found = self._statement(found)
            self.mark("newline") if self.next.kind != "end" else None
            self.skip_newlines()
        return msgspec.structs.replace(found, warnings=(*found.warnings, *self.warnings))

    def _statement(self, conf: Conf) -> Conf:
        replace = msgspec.structs.replace
        match self.word("include", "local", "socket", "staggered", "agentx", "switch", "vm"):
            case "include":
                return self._include(conf)
            case "local":
                return self._local(conf)
            case "socket":
                self.word("owner")
                return replace(conf, socket_owner=self.owner())
            case "staggered":
                self.word("start"), self.word("parallel")
                parallel = self.number()
                self.word("delay")
                return replace(conf, staggered=(parallel, self.number()))
            case "agentx":
                while self.accept("context", "path"):
                    self.string()
                return conf
            case "switch":
                return replace(conf, switches=(*conf.switches, self._switch()))
            case _:
                return replace(conf, vms=(*conf.vms, self._vm()))

    def _include(self, conf: Conf) -> Conf:
        line, path = self.next.line, self.string()
        text = self.host.read(path)
        if text is None:
            raise self.fail(f"failed to include file {path}", line)
        inner = parse_conf(text, self.host)
        return msgspec.structs.replace(
            conf,
            vms=(*conf.vms, *inner.vms),
            switches=(*conf.switches, *inner.switches),
            socket_owner=inner.socket_owner or conf.socket_owner,
            local_prefix=inner.local_prefix or conf.local_prefix,
            staggered=inner.staggered or conf.staggered,
            includes=(*conf.includes, path, *inner.includes),
            warnings=(*conf.warnings, *inner.warnings),
        )

    def _local(self, conf: Conf) -> Conf:
        line = self.next.line
        if self.accept("inet6"):
            if self.accept("prefix"):
                self.string()
            return conf
        self.word("prefix")
        prefix = self.string()
        length = prefix.partition("/")[2]
        if not length.isdigit():
            raise self.fail(f"invalid local prefix: {prefix}", line)
        if int(length) > 16:
            raise self.fail("invalid local prefix: too large", line)
        if conf.local_prefix:
            self.warnings.append(f"{line}: a second local prefix; the last one wins")
        return msgspec.structs.replace(conf, local_prefix=prefix)

    def owner(self) -> str:
        line = self.next.line
        owner = self.take().text if self.next.kind == "number" else self.string()
        user, _, group = owner.partition(":")
        if user and not user.isdigit() and not self.host.has_user(user):
            raise self.fail(f"failed to get user: {user}", line)
        if group and not group.isdigit() and not self.host.has_group(group):
            raise self.fail(f"failed to get group: {group}", line)
        return owner

    def _group(self) -> str:
        line, group = self.next.line, self.string()
        if len(group) > LONGEST_GROUP or group[-1:].isdigit() or not group:
            raise self.fail(f"invalid group name: {group}", line)
        return group

    def _rdomain(self) -> int:
        line, number = self.next.line, self.number()
        if not 0 <= number <= LARGEST_RDOMAIN:
            raise self.fail(f"invalid rdomain: {number}", line)
        return number

    def _options(self, option: Callable[[], None]) -> int:
        """Read the options of a vm or switch block: the first may share its line with the braces."""
        self.mark("{")
        self.skip_newlines()
        option()
        while True:
            separated = self.next.kind == "newline"
            self.skip_newlines()
            if self.next.kind == "}":
                return self.take().line
            if not separated:
                raise self.fail()
            before = self.at
            option()
            if self.next.kind == "}" and self.at > before:
                raise self.fail()

    # --- switch -------------------------------------------------------------

    def _switch(self) -> Switch:
        line, name = self.next.line, self.string()
        if len(name) > LONGEST_NAME:
            raise self.fail("switch name too long", line)
        given: dict[str, Any] = {}

        def option() -> None:
            at = self.next.line
            match self.word("enable", "disable", "group", "interface", "locked", "up", "down", "rdomain"):
                case "group":
                    given["group"] = self._group()
                case "interface":
                    given["interface"] = interface = self.string()
                    if not re.fullmatch(r"(bridge|veb)\d+", interface):
                        raise self.fail(f"invalid switch interface: {interface}", at)
                case "locked":
                    self.word("lladdr")
                case "rdomain":
                    given["rdomain"] = self._rdomain()
                case _:
                    pass

        end = self._options(option)
        if "interface" not in given:
            raise self.fail(f'switch "{name}" is missing interface name', end)
        return Switch(name=name, line=line, **given)

    # --- vm -----------------------------------------------------------------

    def _vm(self) -> ConfVm:
        line, name = self.next.line, self.string()
        parent = ""
        if self.accept("instance"):
            parent, name = name, self.string()
        if len(name) > LONGEST_NAME:
            raise self.fail("vm name too long", line)
        block = VmBlock(self)
        end = self._options(block.option)
        return ConfVm(
            name=name, line=end, parent=parent, disks=tuple(block.disks), interfaces=tuple(block.interfaces),
            warnings=tuple(block.warnings), **block.given,
        )  # fmt: skip

    def interface(self, *, local: bool) -> Interface:
        """Read what follows the word `interface`."""
        given: dict[str, Any] = {}
        name = self.string() if self.next.kind == "string" else ""
        if self.next.kind == "{":
            self.take()
            self.skip_newlines()
            self._interface_option(given)
            self.skip_newlines()
            while self.next.kind != "}":
                self._interface_option(given)
                self.skip_newlines()
            self.take()
        else:
            while self.is_word("switch", "group", "locked", "lladdr", "rdomain", "up", "down"):
                self._interface_option(given)
        if name and name != "tap" and not re.fullmatch(r"tap\d+", name):
            raise self.fail(f"invalid interface: {name}", self.tokens[self.at - 1].line)
        return Interface(name="" if name == "tap" else name, local=local, **given)

    def _interface_option(self, given: dict[str, Any]) -> None:
        line = self.next.line
        match self.word("switch", "group", "locked", "lladdr", "rdomain", "up", "down"):
            case "switch":
                given["switch"] = self.string()
            case "group":
                given["group"] = self._group()
            case "locked":
                self.word("lladdr")
                given["locked"] = True
                self._lladdr(given, line)
            case "lladdr":
                self._lladdr(given, line)
            case "rdomain":
                given["rdomain"] = self._rdomain()
            case word:
                given["up"] = word == "up"

    def _lladdr(self, given: dict[str, Any], line: int) -> None:
        if self.next.kind != "string":
            return
        address = self.string()
        if not _LLADDR.fullmatch(address):
            raise self.fail(f"invalid address: {address}", line)
        given["lladdr"] = address
