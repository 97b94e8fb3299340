"""An OpenVPN client configuration as values, from which the file that openvpn(8) reads is made anew.

Nothing of the given file is passed on as text: a line becomes a word that is known with arguments of its kind, a block
becomes the bytes of its keys.  What could run a program, read or write a file, or open a management port is refused
by name.  Source: openvpn(8) 2.6 and its --help; the lexical rules are those of parse_line() in options_parse.c.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec

from okubsd.config.names import did_you_mean, quoted
from okubsd.errors import BadDescription
from okubsd.vpn.openvpn_blocks import parse_block
from okubsd.vpn.openvpn_words import BLOCKS, IN_CONNECTION, PASSED_OVER, REFUSED, TAKEN, Kind, known_words

_LARGEST = 256 << 10

# openvpn reads a line into 256 bytes and takes what follows for another one (OPTION_LINE_SIZE).
_LONGEST_LINE = 254
# Of what is no configuration at all, the first lines say enough.
_MOST_MISTAKES = 50


# Reads a file that lies beside the configuration, by its bare name; raises ValueError, in words, where it must not.
Beside = Callable[[str], str]


class Directive(msgspec.Struct, frozen=True):
    """One line: a word of openvpn's and its arguments, none of which has a quote or a backslash."""

    word: str
    arguments: tuple[str, ...] = ()


class Block(msgspec.Struct, frozen=True):
    """One inline file, <word> to </word>, line by line."""

    word: str
    lines: tuple[str, ...]


class OpenVpnClient(msgspec.Struct, frozen=True, kw_only=True):
    """The configuration of a client.

    ``connections`` are the ways to reach the server, each as the directives of one <connection>; ``passed_over`` says
    what the file has that means nothing here, a phrase each.
    """

    directives: tuple[Directive, ...]
    connections: tuple[tuple[Directive, ...], ...] = ()
    blocks: tuple[Block, ...] = ()
    passed_over: tuple[str, ...] = ()

    def __repr__(self) -> str:
        # What is printed by accident tells no key.
        return f"OpenVpnClient({len(self.directives)} directives)"


def nothing_beside(_name: str) -> str:
    """Refuse every file: for a configuration that was not read from a directory."""
    raise ValueError("put its contents into the file, as an inline block")


class _Reader:
    """The file being read; mistakes and what is passed over are collected."""

    def __init__(self, path: Path, beside: Beside) -> None:
        self.path = path
        self.beside = beside
        self.found: list[str] = []
        self.passed: dict[str, str] = {}
        self.ignorable: set[str] = set()
        # The client's own port is of nobody's choosing, so that nothing listens at one that is known.
        self.directives: list[Directive] = [Directive("nobind")]
        self.wanted: dict[str, int] = {}
        self.connections: list[tuple[Directive, ...]] = []
        self.blocks: dict[str, Block] = {}

    def wrong(self, line: int, sentence: str) -> None:
        if len(self.found) < _MOST_MISTAKES:
            self.found.append(f"{self.path}:{line}: {sentence}")

    def add_block(self, line: int, word: str, lines: Iterable[str]) -> None:
        if word in self.blocks:
            self.wrong(line, f"'{word}' is given twice")
            return
        try:
            self.blocks[word] = Block(word, parse_block(BLOCKS[word], list(lines)))
        except ValueError as error:
            # What is wrong may be half a key: it is not repeated.
            self.wrong(line, f"'{word}': {error}")


def parse_openvpn(path: Path, text: str, beside: Beside = nothing_beside) -> OpenVpnClient:
    """Return the client configuration ``text`` that was read from ``path``; ``beside`` reads a file next to it.

    Raises BadDescription with every mistake; no key is told in it.
    """
    if len(text) > _LARGEST or "\0" in text:
        raise BadDescription([f"{path}: this is no OpenVPN configuration: it is larger than 256 KiB, or not text"])
    reader = _Reader(path, beside)
    lines = list(enumerate(text.removeprefix("\ufeff").split("\n"), 1))
    _note_ignorable(reader, lines)
    _read_lines(reader, iter(lines))
    _judge(reader)
    if reader.found:
        raise BadDescription(reader.found)
    passed = tuple(f"'{word}' ({why})" for word, why in reader.passed.items())
    return OpenVpnClient(
        directives=tuple(reader.directives),
        connections=tuple(reader.connections),
        blocks=tuple(reader.blocks.values()),
        passed_over=passed,
    )


def tokens(line: str) -> list[str]:
    """Return the words of ``line`` as openvpn splits it.  Raises ValueError for what it would not take, in words.

    A backslash, which quotes for openvpn, is not taken at all: no provider's file has one.
    """
    found, word, quote = [], "", ""
    begun = False
    for letter in line:
        if quote:
            if letter == quote:
                found.append(word)
                word, quote, begun = "", "", False
            else:
                word += letter
        elif letter in " \t\r":
            if begun:
                found.append(word)
                word, begun = "", False
        elif letter == "\\" or not (letter.isascii() and letter.isprintable()):
            raise ValueError("has a backslash or a letter that is not ASCII")
        elif not begun and letter in "#;":
            return found
        elif not begun and letter in "\"'":
            quote = letter
        else:
            word, begun = word + letter, True
    if quote:
        raise ValueError("has a quote that does not end")
    return [*found, word] if begun else found


def _read_lines(reader: _Reader, lines: Iterator[tuple[int, str]]) -> None:
    """Read the lines of a whole file, its blocks included."""
    for number, line in lines:
        if len(reader.found) >= _MOST_MISTAKES:
            return
        words = _words_of(reader, number, line)
        opened = re.fullmatch(r"<([a-z0-9-]{1,40})>", words[0]) if len(words) == 1 else None
        if opened is None:
            if words:
                _read_directive(reader, number, words, reader.directives)
            continue
        body = _read_body(reader, number, opened[1], lines)
        if opened[1] == "connection":
            _read_connection(reader, body)
        elif opened[1] in BLOCKS:
            reader.add_block(number, opened[1], (text for _, text in body))
        else:
            reader.wrong(number, f"<{opened[1]}> is not known here")


def _words_of(reader: _Reader, number: int, line: str) -> list[str]:
    """Return the words of a line, [] for a comment and for what is wrong, which is noted."""
    stripped = line.strip(" \t\r")
    if not stripped or stripped[0] in "#;":
        return []
    try:
        if len(line.encode(errors="replace")) > _LONGEST_LINE:
            raise ValueError(f"is longer than the {_LONGEST_LINE} bytes that openvpn reads of a line")
        return tokens(line)
    except ValueError as error:
        reader.wrong(number, f"the line {error}")
        return []


def _read_body(reader: _Reader, number: int, word: str, lines: Iterator[tuple[int, str]]) -> list[tuple[int, str]]:
    """Return the lines of an inline block, which ends as it does for openvpn: at a line that begins with its end."""
    body = []
    for at, line in lines:
        if not line.lstrip(" \t\r\v\f").startswith(f"</{word}>"):
            body.append((at, line.strip(" \t\r")))
            continue
        if line.strip(" \t\r") != f"</{word}>":
            reader.wrong(at, f"something follows </{word}> on its line")
        return body
    reader.wrong(number, f"<{word}> does not end")
    return []


def _read_connection(reader: _Reader, body: list[tuple[int, str]]) -> None:
    into: list[Directive] = []
    for number, line in body:
        words = _words_of(reader, number, line)
        if words and words[0] not in IN_CONNECTION:
            reader.wrong(number, f"{quoted(words[0], 40)} does not belong into <connection>")
        elif words:
            _read_directive(reader, number, words, into)
    reader.connections.append(tuple(into))


def _note_ignorable(reader: _Reader, lines: list[tuple[int, str]]) -> None:
    """Note which unknown words the file itself says may be passed over."""
    for _, line in lines:
        words = line.split()
        if words[:1] == ["ignore-unknown-option"]:
            reader.ignorable.update(words[1:])


def _read_directive(reader: _Reader, number: int, words: list[str], into: list[Directive]) -> None:
    word, arguments = words[0].removeprefix("--"), words[1:]
    if word == "setenv" and arguments[:1] == ["opt"] and len(arguments) > 1:
        # openvpn reads the rest as a directive, and minds nothing that it does not know.
        if arguments[1] not in known_words():
            reader.passed[arguments[1]] = "the file says that it may be"
            return
        word, arguments = arguments[1], arguments[2:]
    if word in REFUSED:
        reader.wrong(number, f"'{word}' {REFUSED[word]}; take the line out")
    elif word in ("dev", "dev-type"):
        if not re.fullmatch(r"tun[0-9]{0,3}", "".join(arguments)):
            reader.wrong(number, f"'{word}' is for okubsd to say, and it makes a tun")
    elif word in PASSED_OVER:
        reader.passed.setdefault(word, PASSED_OVER[word])
    elif word in BLOCKS and arguments in ([], ["[inline]"]):
        # Its block may stand elsewhere in the file.
        reader.wanted.setdefault(word, number)
    elif word in BLOCKS:
        _read_named(reader, number, word, arguments)
    elif word == "port":
        _read_taken(reader, number, "rport", arguments, into)
    elif word in TAKEN:
        _read_taken(reader, number, word, arguments, into)
    elif word in reader.ignorable:
        reader.passed[word] = "the file says that it may be"
    else:
        near = did_you_mean(word, known_words())
        reader.wrong(number, f"the directive {quoted(word, 40)} is not known here{near}")


def _read_named(reader: _Reader, number: int, word: str, arguments: list[str]) -> None:
    """Read a directive that names a file: it is taken from beside the configuration, and put inline."""
    name, *rest = arguments
    if rest and word == "tls-auth" and rest[0] in ("0", "1"):
        reader.directives.append(Directive("key-direction", (rest[0],)))
    elif rest:
        reader.wrong(number, f"'{word}' has more than the name of a file")
    if BLOCKS[word] is Kind.FINGERPRINTS:
        reader.add_block(number, word, [name])
        return
    try:
        lines = reader.beside(name).removeprefix("\ufeff").split("\n")
    except ValueError as error:
        reader.wrong(number, f"'{word}' names the file {quoted(name)}: {error}")
        return
    reader.add_block(number, word, (line.strip(" \t\r") for line in lines))


def _read_taken(reader: _Reader, number: int, word: str, arguments: list[str], into: list[Directive]) -> None:
    kinds, least = TAKEN[word]
    if not least <= len(arguments) <= len(kinds):
        reader.wrong(number, f"'{word}' has {len(arguments)} arguments, and takes {_count(least, len(kinds))}")
        return
    for kind, argument in zip(kinds, arguments, strict=False):
        mistake = "" if re.fullmatch(kind, argument) else f"'{word}' cannot be {quoted(argument)}"
        if kind is Kind.ADDRESS:
            mistake = _address_mistake(word, argument)
        if mistake:
            reader.wrong(number, mistake)
            return
    into.append(Directive(word, tuple(arguments)))


def _count(least: int, most: int) -> str:
    return str(most) if least == most else f"{least} to {most}"


def _address_mistake(word: str, text: str) -> str:
    try:
        address = ipaddress.IPv4Address(text)
    except ValueError:
        return f"'{word}' {quoted(text)} is a name, which would be looked up outside the tunnel; write its IPv4 address"
    if address.is_loopback or address.is_multicast or address.is_unspecified or str(address) == "255.255.255.255":
        return f"'{word}' {quoted(text)} is not the address of another host"
    return ""


def _judge(reader: _Reader) -> None:
    """Note what a file lacks as a whole."""
    for word, number in reader.wanted.items():
        if word not in reader.blocks:
            needed = "a user and a password, a line each" if word == "auth-user-pass" else "the contents of a file"
            reader.wrong(number, f"'{word}' wants {needed}: write them as a block, <{word}> to </{word}>")
    if reader.found:
        return
    words = {directive.word for directive in reader.directives}
    if "client" not in words and not {"tls-client", "pull"} <= words:
        reader.found.append(f"{reader.path}: 'client' is missing")
    remotes = [d for group in (reader.directives, *reader.connections) for d in group if d.word == "remote"]
    if not remotes:
        reader.found.append(f"{reader.path}: 'remote' is missing")


def render_config(client: OpenVpnClient) -> str:
    """Return the file that openvpn(8) is given: what sets anything up is left to the caller's arguments."""
    lines = [_render(directive) for directive in client.directives]
    for connection in client.connections:
        lines += ["<connection>", *map(_render, connection), "</connection>"]
    for block in client.blocks:
        # Whatever a block is made of, no line of it is one that openvpn reads as something else.
        assert not any(line.lstrip().startswith("<") for line in block.lines)
        lines += [f"<{block.word}>", *block.lines, f"</{block.word}>"]
    return "".join(f"{line}\n" for line in lines)


def _render(directive: Directive) -> str:
    return " ".join((directive.word, *map(_argument, directive.arguments)))


def _argument(text: str) -> str:
    """Return an argument, quoted where it could be taken for several, or for a comment."""
    return text if re.fullmatch(r"[A-Za-z0-9.:+!@_/=-]+", text) else f'"{text}"'


def tun_file(number: int, group: str, name: str, config: str, up: str) -> str:
    """Return hostname.tunN of the network ``name`` in rdomain ``number``.

    openvpn(8) talks to its server in rdomain 0 and opens the interface, which is in another; the program ``up``
    gives that its address and the route.  ``config`` is the path of its configuration.
    """
    daemon = (
        f"/usr/local/sbin/openvpn --config {config} --daemon okubsd-{name} --dev tun{number} --dev-type tun "
        f"--ifconfig-noexec --route-noexec --script-security 2 --up {up} --persist-tun --persist-key"
    )
    # netstart(8) may run this again; the first one stays.  By the real user (pgrep(1), -U): the effective one of a
    # program that somebody else started, such as su(1), may be root, and its arguments anything.
    again = f"/usr/bin/pgrep -U root -qf 'openvpn .*--dev tun{number} '"
    return f"rdomain {number}\ngroup {group}\nup\n!{again} || {daemon}\n"
