"""open.rules: which VM opens which addresses and files (okubsd(1), FILES).

A line is `url HOST VM [APP]` or `file NAME VM [APP]`, with `disposable` or `here` behind it; the first that fits
decides.
Source: RFC 3986 for addresses; fnmatch(3) for patterns.
"""

from __future__ import annotations

import fnmatch
import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from urllib.parse import quote, urlsplit

import msgspec

from okubsd.config.names import APP_NAME, did_you_mean, quoted
from okubsd.errors import BadDescription

URL, FILE = "url", "file"
# A copy that is thrown away, or the VM itself: what each kind does where a rule says neither.
DISPOSABLE, HERE = "disposable", "here"
_USUAL = {URL: False, FILE: True}

_FORM = "a line is 'url HOST VM [APP]' or 'file NAME VM [APP]', with 'disposable' or 'here' behind it"
_PATTERN = re.compile(r"[A-Za-z0-9._*?\[\]!+@~ -]{1,200}")
_SCHEMES = ("http", "https")
# A host has at most 253 letters (RFC 1035, 2.3.4).
_LONGEST, _LONGEST_HOST = 4000, 253
# Letters that IDNA of 2003 and of 2008 do not have alike (Unicode UTS 46, section 7).
_DEVIATING = frozenset("\u00df\u1e9e\u03c2\u200c\u200d")
# What stands in an address as it is (RFC 3986, 2.2 and 2.3), and the mark of what was quoted already.
_SAFE = "/%:@!$&'()*+,;=~-._?"


class Address(msgspec.Struct, frozen=True):
    """The address of a page, written anew, and its host."""

    text: str
    host: str


class OpenRule(msgspec.Struct, frozen=True):
    """One line: what it is about, who opens it with what ("" for the first app), and where the line stands."""

    kind: str
    pattern: str
    vm: str
    app: str
    disposable: bool
    place: str

    def fits(self, kind: str, name: str) -> bool:
        """Return whether it is about the host of an address, or the name of a file."""
        return self.kind == kind and fnmatch.fnmatchcase(name.lower(), self.pattern.lower())


def parse_address(text: str) -> Address:
    """Return the address ``text``, written anew.  Raises ValueError, in words, for what no browser is to be given."""
    if len(text) > _LONGEST or not text.isprintable():
        raise ValueError("is no address: it is too long, or has letters that are not seen")
    parts = urlsplit(text)
    if parts.scheme not in _SCHEMES or not parts.hostname:
        raise ValueError(f"is no address of a page, which begins with {' or '.join(f'{word}://' for word in _SCHEMES)}")
    if parts.username is not None or parts.password is not None:
        raise ValueError("has a name or password in it, which is passed on to nobody")
    if len(parts.hostname) > _LONGEST_HOST:
        raise ValueError("has a host that is too long for any")
    if set(parts.hostname) & _DEVIATING:
        raise ValueError("has a letter in its host that programs take for different ones")
    try:
        host = parts.hostname.encode("idna").decode("ascii").lower().removesuffix(".")
        port = f":{parts.port}" if parts.port is not None else ""
    except (UnicodeError, ValueError):
        raise ValueError("has no host that there can be") from None
    if not re.fullmatch(r"[a-z0-9.:_-]{1,253}", host) or not _is_plain(host, bracketed="[" in parts.netloc):
        raise ValueError("has no host that there can be")
    shown = f"[{host}]" if ":" in host else host
    path = quote(parts.path or "/", safe=_SAFE)
    query = f"?{quote(parts.query, safe=_SAFE)}" if parts.query else ""
    fragment = f"#{quote(parts.fragment, safe=_SAFE)}" if parts.fragment else ""
    return Address(f"{parts.scheme}://{shown}{port}{path}{query}{fragment}", host)


def _is_plain(host: str, *, bracketed: bool) -> bool:
    """Return whether a host that is an address is written in the one usual way (URL Standard, "ends in a number")."""
    if bracketed or ":" in host:
        return _parses(ipaddress.IPv6Address, host)
    last = host.rpartition(".")[2]
    return _parses(ipaddress.IPv4Address, host) if re.fullmatch(r"[0-9]+|0x[0-9a-f]*", last) else bool(last)


def _parses(kind: Callable[[str], object], text: str) -> bool:
    try:
        return bool(kind(text))
    except ValueError:
        return False


def choose(rules: Iterable[OpenRule], kind: str, name: str) -> OpenRule | None:
    """Return the first of ``rules`` that fits, None where none does."""
    return next((rule for rule in rules if rule.fits(kind, name)), None)


def parse_rules(files: Iterable[tuple[Path, str]], vms: Mapping[str, tuple[str, ...]]) -> tuple[OpenRule, ...]:
    """Return the rules of ``files``, paths with their texts; ``vms`` are the VMs that there are, with their apps.

    Raises BadDescription with every mistake of every file.
    """
    rules, mistakes = [], list[str]()
    for path, text in files:
        for number, written in enumerate(text.split("\n"), 1):
            words = written.partition("#")[0].split()
            if not words:
                continue
            found = _rule(words, vms, f"{path}:{number}")
            if isinstance(found, str):
                mistakes.append(f"{path}:{number}: {found}")
            else:
                rules.append(found)
    if mistakes:
        raise BadDescription(mistakes)
    return tuple(rules)


def _rule(words: list[str], vms: Mapping[str, tuple[str, ...]], place: str) -> OpenRule | str:
    """Return the rule that ``words`` are, or what is wrong with them."""
    manner = words.pop() if words[-1] in (DISPOSABLE, HERE) else ""
    if len(words) not in (3, 4):
        return _FORM
    kind, pattern, vm, app = (*words, "")[:4]
    if kind not in _USUAL:
        return f"{quoted(kind)} is neither url nor file{did_you_mean(kind, _USUAL)}"
    if not _PATTERN.fullmatch(pattern):
        return f"{quoted(pattern)} is no pattern of names"
    if vm not in vms:
        return f"there is no VM {quoted(vm)}{did_you_mean(vm, vms)}"
    if app and (not APP_NAME.fullmatch(app) or app not in vms[vm]):
        return f"VM '{vm}' has no app {quoted(app)}{did_you_mean(app, vms[vm])}"
    disposable = manner == DISPOSABLE if manner else _USUAL[kind]
    return OpenRule(kind, pattern, vm, app, disposable, place)
