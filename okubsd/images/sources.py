"""The host's APT sources, as far as they hold the release that an image is built from.

Source: sources.list(5), both of its formats.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import msgspec


class Source(msgspec.Struct, frozen=True):
    """One line of a sources.list: where, which suite, which components, and the trusted keyring's path."""

    uri: str
    suite: str
    components: tuple[str, ...]
    signed_by: str = ""


_LINE = re.compile(r"deb\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)(?P<components>(?:\s+\S+)+)\s*")
_KEYRING = re.compile(r"/[A-Za-z0-9._/+-]+")


def parse_list(text: str) -> Iterator[Source]:
    """Yield the binary sources of a one-line-style file."""
    for line in text.splitlines():
        match = _LINE.fullmatch(line.split("#")[0].rstrip())
        if match:
            options = dict(word.split("=", 1) for word in (match["options"] or "").split() if "=" in word)
            yield Source(match["uri"], match["suite"], tuple(match["components"].split()), options.get("signed-by", ""))


def parse_deb822(text: str) -> Iterator[Source]:
    """Yield the binary sources of a deb822-style file."""
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for stanza in re.split(r"\n\s*\n", lines):
        fields = {key.lower(): value for key, value in re.findall(r"(?m)^([\w-]+):[ \t]*(.*(?:\n[ \t].*)*)", stanza)}
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").strip().lower() == "no":
            continue
        keyring = fields.get("signed-by", "").strip()
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                yield Source(uri, suite, tuple(fields.get("components", "").split()), keyring)


def of_release(sources: Iterable[Source], codename: str) -> tuple[Source, ...]:
    """Return the distribution's own ``sources`` for ``codename``: the suite, its updates and security.

    A vendor's repository that happens to be on the host does not get into an image: its suites have other
    names, or it does not have the distribution's component "main".
    """
    suites = {codename, f"{codename}-updates", f"{codename}-security"}
    return tuple(source for source in sources if source.suite in suites and "main" in source.components)


def of_mirror(mirror: str, suite: str) -> tuple[Source, ...]:
    """Return the one source of a recipe that names its mirror."""
    return (Source(mirror, suite, ("main",)),)


def render_list(sources: Iterable[Source]) -> str:
    """Return ``sources`` as a sources.list; a key block in place of a path is left to the host's keyrings."""
    lines = []
    for source in sources:
        option = f"[signed-by={source.signed_by}] " if _KEYRING.fullmatch(source.signed_by) else ""
        lines.append(f"deb {option}{source.uri} {source.suite} {' '.join(source.components)}\n")
    return "".join(lines)
