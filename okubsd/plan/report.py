"""A report of a fault: parts of text, with what tells who someone is or lets anybody in taken out."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable

import msgspec

from okubsd.rules import SPECIAL

# No part is longer; of a log its end is what tells.  In characters.
LONGEST = 1 << 16

_IPV4 = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?!\d)")
_IPV6 = re.compile(r"(?<![\w:.])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:])")
_LLADDR = re.compile(r"(?<![\w:])(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}(?![\w:])")

# What says nothing of anybody: this host, what vmd gives, masks, multicast (RFC 6890, vm.conf(5)); and the networks
# that rules name as a whole, each by its first address.
_COMMON = tuple(map(ipaddress.ip_network, ("0.0.0.0/8", "127.0.0.0/8", "100.64.0.0/10", "224.0.0.0/3", "::/127")))
_NAMED = frozenset({*(special.network.partition("/")[0] for special in SPECIAL), "192.0.2.0", "fe80::", "fc00::"})

_KEYS = (
    # What openvpn(8) takes within its file; a user and a password can be among it.
    re.compile(
        r"<(ca|cert|extra-certs|key|dh|pkcs12|secret|tls-auth|tls-crypt(?:-v2)?|auth-user-pass)>.*?(?:</\1>|\Z)",
        re.DOTALL,
    ),
    # PEM (RFC 7468) and the static key of openvpn(8); one that was cut off, too.
    re.compile(r"-----BEGIN [^\n-]+-----.*?(?:-----END [^\n-]+-----|\Z)", re.DOTALL),
    # A line of base64 that lost its beginning, and a key of wg(4): 32 bytes.
    re.compile(r"(?m)^[A-Za-z0-9+/]{60,80}={0,2}$"),
    re.compile(r"(?<![A-Za-z0-9+/])[A-Za-z0-9+/]{43}=(?!=)"),
    # An ssh key (RFC 4253), and what is written in hex: a cookie, a static key.
    re.compile(r"\bAAAA[A-Za-z0-9+/]{20,}={0,2}"),
    re.compile(r"\b[0-9A-Fa-f]{32,}\b"),
)
_NAMED_SECRET = re.compile(
    r"(?i)\b(wgkey|wgpsk|private_?key|preshared_?key|passw(?:or)?d|wpakey|nwkey)(\s*[=:]\s*|\s+)(?!<)(\S+)"
)


class Part(msgspec.Struct, frozen=True):
    """One part: what it shows, as a command line or a path, and its text."""

    title: str
    text: str


class Scrubber:
    """Takes keys, addresses and names out of text; the same address gets the same stand-in everywhere.

    ``hosts`` are names of hosts, ``people`` names of users; one of two letters would be found in too many words.
    """

    def __init__(self, hosts: Iterable[str] = (), people: Iterable[str] = ()) -> None:
        self._seen: dict[str, str] = {}
        self._words = {
            word: kind for kind, words in (("host", hosts), ("user", people)) for word in words if len(word) > 2
        }

    def __call__(self, text: str) -> str:
        """Return ``text`` without what is taken out."""
        for pattern in _KEYS:
            text = pattern.sub("<key>", text)
        text = _NAMED_SECRET.sub(r"\1\2<key>", text)
        text = _LLADDR.sub(lambda found: self._instead(found[0].lower(), "lladdr"), text)
        text = _IPV6.sub(self._address, text)
        text = _IPV4.sub(self._address, text)
        return self._without_words(text)

    def _address(self, found: re.Match[str]) -> str:
        try:
            address = ipaddress.ip_address(found[0])
        except ValueError:
            return found[0]
        if str(address) in _NAMED or any(address in network for network in _COMMON):
            return found[0]
        return self._instead(str(address), "address")

    def _instead(self, word: str, kind: str) -> str:
        if word not in self._seen:
            count = 1 + sum(stand_in.startswith(f"<{kind}-") for stand_in in self._seen.values())
            self._seen[word] = f"<{kind}-{count}>"
        return self._seen[word]

    def _without_words(self, text: str) -> str:
        if not self._words:
            return text
        longest_first = sorted(self._words, key=len, reverse=True)
        pattern = re.compile(rf"(?<![\w-])({'|'.join(map(re.escape, longest_first))})(?![\w-])")
        return pattern.sub(lambda found: self._instead(found[0], self._words[found[0]]), text)


def render_report(parts: Iterable[Part], scrub: Callable[[str], str]) -> str:
    """Return the report: each part below a line with its title, bounded, and scrubbed."""
    lines = []
    for part in parts:
        text = part.text if len(part.text) <= LONGEST else f"[...]\n{part.text[-LONGEST:]}"
        lines.append(f"===== {scrub(part.title)}\n{scrub(text).rstrip() or '(nothing)'}\n\n")
    return "".join(lines)
