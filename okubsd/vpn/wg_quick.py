"""An ordinary wg-quick(8) file as values; what runs commands, or is not known, is refused by name.

Source: wg-quick(8) and wg(8), CONFIGURATION FILE FORMAT.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from okubsd.config.names import did_you_mean, quoted
from okubsd.errors import BadDescription

_LARGEST = 64 << 10
_MOST_PEERS = 64

# wg-quick runs these as root, with a shell.
_HOOKS = frozenset({"preup", "postup", "predown", "postdown"})
# These say how wg-quick should set the host up, which is not what becomes of the file here.
_PASSED_OVER = {
    "saveconfig": "okubsd does not write to the file",
    "table": "routes are made by okubsd",
    "fwmark": "marks are made by okubsd",
}
_DOMAIN = re.compile(r"[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?")

# wg(4): what is left of 1500 for an IPv6 endpoint; the least that IPv4 takes is 576 (RFC 791).
_MTU, _LEAST_MTU, _MOST_MTU = 1420, 576, 9000


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """The other end: keys as base64, ``endpoint`` an IPv4 address and a port, ``allowed`` IPv4 networks."""

    public_key: str
    preshared_key: str = ""
    allowed: tuple[str, ...] = ()
    endpoint: tuple[str, int] | None = None
    keepalive: int = 0


class Tunnel(msgspec.Struct, frozen=True, kw_only=True):
    """One WireGuard interface; IPv6 addresses are left out, since no guest has IPv6.

    ``addresses`` are IPv4 addresses with their prefix, ``resolvers`` IPv4 addresses behind the tunnel;
    ``passed_over`` says what the file has that means nothing here, a phrase each.
    """

    private_key: str
    addresses: tuple[str, ...]
    resolvers: tuple[str, ...] = ()
    mtu: int = _MTU
    port: int | None = None
    peers: tuple[Peer, ...] = ()
    passed_over: tuple[str, ...] = ()

    def __repr__(self) -> str:
        # What is printed by accident tells no key.
        return f"Tunnel({', '.join(self.addresses)})"


class _Section:
    """One section of the file, its keys with their lines."""

    def __init__(self, name: str, line: int) -> None:
        self.name = name
        self.line = line
        self.values: dict[str, list[tuple[int, str]]] = {}


class _Reader:
    """The file being read; mistakes are collected."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: list[tuple[int, str]] = []
        self.passed: dict[str, str] = {}

    def wrong(self, line: int, sentence: str) -> None:
        self.found.append((line, f"{self.path}:{line}: {sentence}"))

    def sections(self, text: str) -> list[_Section]:
        sections: list[_Section] = []
        for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
            words = line.partition("#")[0].strip()
            if words.startswith("[") and words.endswith("]"):
                sections.append(_Section(words[1:-1].strip().lower(), number))
                if sections[-1].name not in _KEYS:
                    self.wrong(number, f"the section {quoted(words)} is not known; there are [Interface] and [Peer]")
            elif words:
                self._pair(words, number, sections)
        return sections

    def _pair(self, words: str, number: int, sections: list[_Section]) -> None:
        key, equals, value = (part.strip() for part in words.partition("="))
        name = key.lower()
        if not equals or not re.fullmatch(r"[A-Za-z]+", key):
            # It may be half a key: it is not repeated.
            self.wrong(number, "this is no 'Key = value'")
        elif not sections:
            self.wrong(number, f"'{key[:40]}' stands before any section")
        elif not value and name not in _REQUIRED and name in {*_HOOKS, *_PASSED_OVER, *_ALL_KEYS}:
            # Routers and their pages write every key, and nothing behind those that are not used.
            return
        elif name in _HOOKS:
            self.wrong(number, f"'{key}' runs a command, which okubsd never does for a tunnel; take the line out")
        elif name in _PASSED_OVER:
            self.passed[key[:40]] = _PASSED_OVER[name]
        elif sections[-1].name in _KEYS and name not in _KEYS[sections[-1].name]:
            known = _KEYS[sections[-1].name]
            self.wrong(number, f"the key '{key[:40]}' is not known here{did_you_mean(name, known)}")
        else:
            values = sections[-1].values.setdefault(name, [])
            if values and name not in _REPEATED:
                self.wrong(number, f"'{key}' is written twice, first on line {values[0][0]}")
            values.append((number, value))

    def fields(self, section: _Section) -> dict[str, Any]:
        """Return the parsed values of a section under the names of our own structs."""
        result: dict[str, Any] = {}
        for name, pairs in section.values.items():
            field, parse, what = _KEYS[section.name][name]
            for line, value in pairs:
                try:
                    parsed = parse(value)
                    if name == "dns" and len(parsed) < len(_split(value)):
                        self.passed.setdefault("DNS", "search domains and IPv6 addresses mean nothing in a guest")
                except ValueError as error:
                    # What is wrong may be a key that lost a letter: its words are told, not its value.
                    self.wrong(line, f"'{name}': {error or what}")
                    continue
                result[field] = (*result.get(field, ()), *parsed) if isinstance(parsed, list) else parsed
        return result


def parse_wg_quick(path: Path, text: str) -> Tunnel:
    """Return the tunnel of the wg-quick(8) file ``text`` that was read from ``path``.

    Raises BadDescription with every mistake; no key is told in it.
    """
    reader = _Reader(path)
    if len(text) > _LARGEST or "\0" in text:
        raise BadDescription([f"{path}: this is no wg-quick file: it is larger than 64 KiB, or not text"])
    sections = reader.sections(text)
    interfaces = [section for section in sections if section.name == "interface"]
    if not interfaces:
        reader.wrong(1, "there is no [Interface]")
    for extra in interfaces[1:]:
        reader.wrong(extra.line, f"a second [Interface], the first is on line {interfaces[0].line}")
    values = reader.fields(interfaces[0]) if interfaces else {}
    if interfaces:
        _need(reader, interfaces[0], ("privatekey", "address"))
        if not values.get("addresses") and "address" in interfaces[0].values and not reader.found:
            reader.wrong(interfaces[0].line, "'address' has no IPv4 address, and guests have no IPv6")
    peers = [_peer(reader, section) for section in sections if section.name == "peer"]
    _judge_peers(reader, [section for section in sections if section.name == "peer"], peers)
    if reader.found:
        raise BadDescription(sentence for _, sentence in sorted(reader.found))
    passed = tuple(f"'{key}' ({why})" for key, why in reader.passed.items())
    return Tunnel(**values, peers=tuple(peer for peer in peers if peer is not None), passed_over=passed)


def _need(reader: _Reader, section: _Section, names: Iterable[str]) -> None:
    for name in names:
        if name not in section.values:
            reader.wrong(section.line, f"[{section.name.title()}] has no '{_SPELLING[name]}'")


def _peer(reader: _Reader, section: _Section) -> Peer | None:
    before = len(reader.found)
    values = reader.fields(section)
    _need(reader, section, ("publickey", "allowedips"))
    return Peer(**values) if len(reader.found) == before else None


def _judge_peers(reader: _Reader, sections: list[_Section], peers: list[Peer | None]) -> None:
    if not sections:
        reader.wrong(1, "there is no [Peer]")
    if len(sections) > _MOST_PEERS:
        reader.wrong(sections[_MOST_PEERS].line, f"more than {_MOST_PEERS} peers")
    good = [(section, peer) for section, peer in zip(sections, peers, strict=True) if peer is not None]
    if len(good) == len(sections) and good and not any(peer.endpoint for _, peer in good):
        reader.wrong(sections[0].line, "no [Peer] has an 'Endpoint', so nobody could be reached")
    keys: dict[str, int] = {}
    # Of two networks the narrower gets a packet, as with any router; only the very same one twice is not plain.
    taken: dict[str, int] = {}
    for section, peer in good:
        first = keys.setdefault(peer.public_key, section.line)
        if first != section.line:
            reader.wrong(section.line, f"this [Peer] has the public key of the one on line {first}")
        for network in peer.allowed:
            other = taken.setdefault(network, section.line)
            if other != section.line:
                sentence = f"'AllowedIPs' {network} is that of the [Peer] on line {other}, too"
                reader.wrong(section.line, f"{sentence}: which of them gets a packet has to be plain")


def _key(text: str) -> str:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("is not base64") from None
    if len(raw) != 32:
        raise ValueError(f"has {len(raw)} bytes, and a key has 32")
    return base64.b64encode(raw).decode()


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _addresses(text: str) -> list[str]:
    return [str(found) for part in _split(text) if (found := _interface(part)).version == 4]


def _interface(text: str) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface:
    try:
        found = ipaddress.ip_interface(text)
    except ValueError:
        raise ValueError(f"{quoted(text)} is no address") from None
    if found.ip.is_loopback or found.ip.is_multicast or found.ip.is_unspecified:
        raise ValueError(f"{quoted(text)} is no address that a host can have")
    return found


def _resolvers(text: str) -> list[str]:
    found = []
    for part in _split(text):
        try:
            address = ipaddress.ip_address(part)
        except ValueError:
            if _DOMAIN.fullmatch(part) and not re.fullmatch(r"[0-9.]+", part):
                continue
            raise ValueError(f"{quoted(part)} is neither an address nor a search domain") from None
        if address.is_loopback or address.is_multicast or address.is_unspecified:
            raise ValueError(f"{quoted(part)} cannot be a resolver behind the tunnel")
        found += [str(address)] if address.version == 4 else []
    return found


def _networks(text: str) -> list[str]:
    found = []
    for part in _split(text):
        try:
            network = ipaddress.ip_network(part, strict=False)
        except ValueError:
            raise ValueError(f"{quoted(part)} is no network") from None
        found += [str(network)] if network.version == 4 else []
    return found


def _endpoint(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if host.startswith("["):
        raise ValueError("is an IPv6 address; okubsd reaches an endpoint by IPv4 only")
    try:
        address = ipaddress.IPv4Address(host)
    except ValueError:
        raise ValueError(
            f"{quoted(text)} is no ADDRESS:PORT; a name would have to be looked up outside the tunnel,"
            " so write its address"
        ) from None
    if address.is_loopback or address.is_multicast or address.is_unspecified or str(address) == "255.255.255.255":
        raise ValueError(f"{quoted(host)} is not the address of another host")
    return str(address), _between(1, 65535)(port)


def _between(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,5}", text) or not least <= int(text) <= most:
            raise ValueError(f"{quoted(text)} is not from {least} to {most}")
        return int(text)

    return parse


def _or_zero(least: int, most: int, default: int | None) -> Callable[[str], int | None]:
    """Return a parser of a number where 0 stands for ``default``."""
    parse = _between(least, most)
    return lambda text: default if text == "0" else parse(text)


def _keepalive(text: str) -> int:
    return 0 if text.lower() == "off" else _between(0, 65535)(text)


_Entry = tuple[str, Callable[[str], Any], str]
_KEYS: dict[str, dict[str, _Entry]] = {
    "interface": {
        "privatekey": ("private_key", _key, "a key"),
        "address": ("addresses", _addresses, "addresses"),
        "dns": ("resolvers", _resolvers, "addresses"),
        "mtu": ("mtu", _or_zero(_LEAST_MTU, _MOST_MTU, _MTU), "a number"),
        "listenport": ("port", _or_zero(1, 65535, None), "a port"),
    },
    "peer": {
        "publickey": ("public_key", _key, "a key"),
        "presharedkey": ("preshared_key", _key, "a key"),
        "allowedips": ("allowed", _networks, "networks"),
        "endpoint": ("endpoint", _endpoint, "an address and a port"),
        "persistentkeepalive": ("keepalive", _keepalive, "seconds"),
    },
}
_ALL_KEYS = frozenset(name for keys in _KEYS.values() for name in keys)
_REQUIRED = frozenset({"privatekey", "address", "publickey", "allowedips"})
_REPEATED = frozenset({"address", "dns", "allowedips"})
_SPELLING = {
    "privatekey": "PrivateKey",
    "address": "Address",
    "publickey": "PublicKey",
    "allowedips": "AllowedIPs",
}


def render_setconf(tunnel: Tunnel) -> str:
    """Return the file for wg(8) setconf: keys and peers, and nothing that sets up an interface."""
    lines = ["[Interface]", f"PrivateKey = {tunnel.private_key}"]
    if tunnel.port is not None:
        lines.append(f"ListenPort = {tunnel.port}")
    for peer in tunnel.peers:
        lines += ["[Peer]", f"PublicKey = {peer.public_key}"]
        if peer.preshared_key:
            lines.append(f"PresharedKey = {peer.preshared_key}")
        # One whose networks are all IPv6 has none here.
        lines += [f"AllowedIPs = {', '.join(peer.allowed)}"] if peer.allowed else []
        if peer.endpoint:
            lines.append(f"Endpoint = {peer.endpoint[0]}:{peer.endpoint[1]}")
        if peer.keepalive:
            lines.append(f"PersistentKeepalive = {peer.keepalive}")
    return "".join(f"{line}\n" for line in lines)
