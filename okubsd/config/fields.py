"""Parsers of single values: each returns the typed value, or None after noting the mistake."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Collection
from typing import TypeVar

from okubsd.config.names import did_you_mean
from okubsd.config.sizes import parse_size, render_size
from okubsd.config.tree import Value

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


def pixels(value: Value) -> tuple[int, int] | None:
    """Parse WIDTHxHEIGHT; X11 coordinates are 16 bits signed."""
    match = _PIXELS.fullmatch(value.scalar() or "")
    if match and all(160 <= int(number) <= 32767 for number in match.groups()):
        return int(match[1]), int(match[2])
    value.wrong("WIDTHxHEIGHT in pixels from 160x160 to 32767x32767, such as 1280x800")
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
