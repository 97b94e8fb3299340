"""Parsers of single values: each returns the typed value, or None after noting the mistake."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Collection
from typing import TypeVar

from okubsd.config.chords import Chord, is_key, parse_chord
from okubsd.config.names import did_you_mean
from okubsd.config.sizes import parse_size, render_size
from okubsd.config.tree import Value
from okubsd.model import Face

T = TypeVar("T")
Parser = Callable[[Value], T | None]

_YES = {"yes": True, "true": True, "on": True, "no": False, "false": False, "off": False}
_PIXELS = re.compile(r"(\d{3,5})x(\d{3,5})")


def one_of(words: Collection[str]) -> Parser[str]:
    """Return a parser of one of ``words``."""

    def parse(value: Value) -> str | None:
        text = value.scalar()
        if text in words:
            return text
        value.wrong(" or ".join(words), did_you_mean(text or "", words))
        return None

    return parse


def member_of(kind: type[enum.StrEnum]) -> Parser[enum.StrEnum]:
    """Return a parser of a member of the enumeration ``kind``."""
    word = one_of([str(member) for member in kind])

    def parse(value: Value) -> enum.StrEnum | None:
        text = word(value)
        return None if text is None else kind(text)

    return parse


def size_between(least: int, most: int) -> Parser[int]:
    """Return a parser of a size from ``least`` to ``most`` bytes."""
    allowed = f"a size from {render_size(least)} to {render_size(most)}, such as 512M or 2G"

    def parse(value: Value) -> int | None:
        try:
            size = parse_size(value.scalar() or "")
        except ValueError:
            size = -1
        if least <= size <= most:
            return size
        value.wrong(allowed)
        return None

    return parse


def whole_between(least: int, most: int) -> Parser[int]:
    """Return a parser of a whole number from ``least`` to ``most``."""

    def parse(value: Value) -> int | None:
        text = value.scalar() or ""
        if re.fullmatch(r"\d{1,9}", text) and least <= int(text) <= most:
            return int(text)
        value.wrong(f"a whole number from {least} to {most}")
        return None

    return parse


def yes_or_no(value: Value) -> bool | None:
    """Parse yes or no (and what YAML 1.1 takes for them)."""
    answer = _YES.get((value.scalar() or "").lower())
    if answer is None:
        value.wrong("yes or no")
    return answer


def display(value: Value) -> tuple[Face | None, tuple[int, int] | None] | None:
    """Parse how a VM is shown, WIDTHxHEIGHT of its screen, or both; X11 coordinates are 16 bits signed."""
    face, size = None, None
    words = (value.scalar() or "").split()
    for word in words:
        match = _PIXELS.fullmatch(word)
        if word in set(Face) and face is None:
            face = Face(word)
        elif match and size is None and all(160 <= int(number) <= 32767 for number in match.groups()):
            size = int(match[1]), int(match[2])
        else:
            words = []
    if not words:
        faces = ", ".join(Face)
        value.wrong(f"one of {faces}, or WIDTHxHEIGHT in pixels from 160x160 to 32767x32767, such as 1280x800, or both")
        return None
    return face, size


_SCALES = {"auto": 0.0, "1": 1.0, "1.5": 1.5, "2": 2.0}


def published(value: Value) -> tuple[int, int] | None:
    """Parse a port of the host's loopback and the guest's that it leads to, in the order of ssh -L; one is both."""
    match = re.fullmatch(r"(?:([0-9]{1,5}):)?([0-9]{1,5})", value.scalar() or "")
    host, guest = (int(match[1] or match[2]), int(match[2])) if match else (0, 0)
    # ssh and the display of the guest are okubsd's own.
    if 0 < host < 65536 and 0 < guest < 65536 and guest not in (22, 6010):
        return host, guest
    value.wrong("PORT or HOSTPORT:PORT, such as 8080:80")
    return None


def scale(value: Value) -> float | None:
    """Parse how large a VM's programs draw; 0 stands for as large as the desktop's."""
    found = _SCALES.get(value.scalar() or "")
    if found is None:
        value.wrong("one of " + ", ".join(_SCALES))
    return found


def chord(value: Value) -> str | None:
    """Parse a key with at least one modifier that no letter is typed with."""
    text = value.scalar() or ""
    try:
        found = parse_chord(text) if re.fullmatch(r"[A-Za-z0-9_+]{1,60}", text) else Chord("")
        held = found.held if is_key(found.key) else ()
    except ValueError:
        held = ()
    if {"Control_L", "Alt_L", "Super_L"} & set(held):
        return text
    value.wrong("a key with Ctrl, Alt or Super, such as Ctrl+Shift+C")
    return None


def matching(pattern: re.Pattern[str], rule: str) -> Parser[str]:
    """Return a parser of text that matches the whole of ``pattern``, told as ``rule``."""

    def parse(value: Value) -> str | None:
        text = value.scalar()
        if text is not None and pattern.fullmatch(text):
            return text
        value.wrong(rule)
        return None

    return parse


def list_of(parser: Parser[T], what: str) -> Parser[tuple[T, ...]]:
    """Return a parser of a list, told as ``what``, each element read by ``parser``."""

    def parse(value: Value) -> tuple[T, ...] | None:
        elements = value.elements()
        if elements is None:
            value.wrong(what)
            return None
        return tuple(item for item in map(parser, elements) if item is not None)

    return parse


def ipv4(value: Value) -> str | None:
    """Parse an IPv4 address that a host may have."""
    import ipaddress

    try:
        address = ipaddress.IPv4Address(value.scalar() or "")
    except ValueError:
        address = None
    if address is None or address.is_loopback or address.is_multicast or address.is_unspecified:
        value.wrong("an IPv4 address of another host, such as 9.9.9.9")
        return None
    return str(address)


def range_between(least: int, most: int) -> Parser[tuple[int, int]]:
    """Return a parser of FIRST-LAST, both from ``least`` to ``most``."""

    def parse(value: Value) -> tuple[int, int] | None:
        match = re.fullmatch(r"(\d{1,4})-(\d{1,4})", value.scalar() or "")
        if match and least <= int(match[1]) <= int(match[2]) <= most:
            return int(match[1]), int(match[2])
        value.wrong(f"FIRST-LAST, two whole numbers from {least} to {most}, such as 100-249")
        return None

    return parse


def ipv4_interface(value: Value) -> str | None:
    """Parse an IPv4 address with the prefix of a network that has room for guests."""
    import ipaddress

    text = value.scalar() or ""
    try:
        interface = ipaddress.IPv4Interface(text) if "/" in text else None
    except ValueError:
        interface = None
    fits = interface is not None and 8 <= interface.network.prefixlen <= 29
    if interface is None or not fits or interface.ip in (interface.network[0], interface.network[-1]):
        value.wrong("an address with its prefix, from /8 to /29, such as 10.77.0.1/24")
        return None
    return str(interface)


_RATE = re.compile(r"(\d{1,6})([KMG])", re.IGNORECASE)


def bits_per_second(value: Value) -> int | None:
    """Parse a bandwidth as pf.conf(5) writes it: a number of K, M or G bits per second."""
    match = _RATE.fullmatch(value.scalar() or "")
    rate = int(match[1]) * {"K": 10**3, "M": 10**6, "G": 10**9}[match[2].upper()] if match else 0
    # Below this a TCP connection hardly starts; pf's queues end at 4 Gbit/s.
    if not 16_000 <= rate <= 4_000_000_000:
        value.wrong("bits per second from 16K to 4G, such as 5M")
        return None
    return rate


_LOCALE = re.compile(r"[a-z]{2,3}_[A-Z]{2}|C")


def locale(value: Value) -> str | None:
    """Parse a language with its territory; auto, the host's, is "" (setlocale(3), ISO 639 and ISO 3166)."""
    text = (value.scalar() or "").removesuffix(".UTF-8")
    if text == "auto":
        return ""
    if _LOCALE.fullmatch(text):
        return text
    value.wrong("auto, C, or a language and a territory, such as pt_BR")
    return None


def moment(value: Value) -> int | None:
    """Parse a date (its end is meant) or a date and time into seconds since the epoch; local time unless it says so."""
    found = parse_moment(value.scalar() or "")
    if found is None:
        value.wrong("a date or a date and time, such as 2027-01-31 or 2027-01-31T18:00")
    return found


def parse_moment(text: str) -> int | None:
    """Return the seconds since the epoch of ``text``, or None where it is no date (ISO 8601)."""
    import datetime

    try:
        if re.fullmatch(r"\d{4}-\d\d-\d\d", text):
            end = datetime.datetime.fromisoformat(text) + datetime.timedelta(days=1)
        elif re.fullmatch(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?(Z|[+-]\d\d:\d\d)?", text):
            end = datetime.datetime.fromisoformat(text)
        else:
            return None
        return int(end.timestamp())
    except (ValueError, OverflowError):
        return None
