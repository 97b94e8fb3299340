"""The host's APT sources and proxies, as far as they hold the release that an image is built from.

Read into values and rendered anew.  Source: sources.list(5), both of its formats; apt-transport-http(1); StringToBool()
of apt-pkg/contrib/strutl.cc.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import msgspec

# What an image is built for.
ARCHITECTURE = "amd64"


class Source(msgspec.Struct, frozen=True):
    """One source: where, which suite, which components, and how it is trusted.

    ``keyrings`` are paths, ``key_block`` an armored key as the lines of a Signed-By field, ``trusted`` says that the
    administrator wants no signature at all.
    """

    uri: str
    suite: str
    components: tuple[str, ...]
    keyrings: tuple[str, ...] = ()
    key_block: tuple[str, ...] = ()
    trusted: bool = False


_LINE = re.compile(r"deb\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)(?P<components>(?:\s+\S+)+)\s*")
_KEYRING = re.compile(r"/[A-Za-z0-9._/+-]+")
_URI = re.compile(r"[a-z][a-z0-9+.-]{1,20}:[!-Z^-~]{1,500}")
_WORD = re.compile(r"[A-Za-z0-9./_-]{1,100}")
_ARMOR = re.compile(r"-----(?:BEGIN|END) PGP PUBLIC KEY BLOCK-----|[A-Za-z0-9+/=]{1,80}|[A-Z][A-Za-z]*: [ -~]{0,100}|")

_FALSE = frozenset({"no", "false", "without", "off", "disable", "0"})
_TRUE = frozenset({"yes", "true", "with", "on", "enable", "1"})


def parse_list(text: str) -> Iterator[Source]:
    """Yield the binary sources of a one-line-style file."""
    for line in text.splitlines():
        match = _LINE.fullmatch(line.split("#")[0].rstrip())
        if not match:
            continue
        options = dict(word.split("=", 1) for word in (match["options"] or "").split() if "=" in word)
        if "arch" in options and ARCHITECTURE not in options["arch"].split(","):
            continue
        yield from _source(
            match["uri"],
            match["suite"],
            match["components"].split(),
            keyrings=options.get("signed-by", "").split(","),
            trusted=options.get("trusted", "").lower() in _TRUE,
        )


def parse_deb822(text: str) -> Iterator[Source]:
    """Yield the binary sources of a deb822-style file."""
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for stanza in re.split(r"\n\s*\n", lines):
        fields = {key.lower(): value for key, value in re.findall(r"(?m)^([\w-]+):[ \t]*(.*(?:\n[ \t].*)*)", stanza)}
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").strip().lower() in _FALSE:
            continue
        architectures = fields.get("architectures", ARCHITECTURE).split()
        if ARCHITECTURE not in architectures:
            continue
        signed, block = fields.get("signed-by", "").strip(), ()
        if "BEGIN PGP" in signed:
            block, signed = tuple(line.strip() for line in signed.splitlines()), ""
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                yield from _source(
                    uri,
                    suite,
                    fields.get("components", "").split(),
                    keyrings=re.split(r"[\s,]+", signed),
                    block=block,
                    trusted=fields.get("trusted", "").strip().lower() in _TRUE,
                )


def _source(
    uri: str, suite: str, components: list[str], *, keyrings: list[str], trusted: bool, block: tuple[str, ...] = ()
) -> Iterator[Source]:
    """Yield the source, unless a word of it is none."""
    if not _URI.fullmatch(uri) or not all(_WORD.fullmatch(word) for word in (suite, *components)):
        return
    lines = tuple("" if line == "." else line for line in block)
    good_block = lines if all(_ARMOR.fullmatch(line) for line in lines) else ()
    paths = tuple(path for path in keyrings if _KEYRING.fullmatch(path))
    yield Source(uri, suite, tuple(components), paths, good_block, trusted)


# What a mirror calls a release besides its name; which that is, changes with time.
ALIASES = ("stable", "oldstable", "oldoldstable", "testing", "unstable", "sid")


def of_release(sources: Iterable[Source], codename: str) -> tuple[Source, ...]:
    """Return the distribution's own ``sources`` for ``codename``: the suite, its updates and security.

    A host whose sources do not name its release has it by one of the ``ALIASES``.  A vendor's repository that happens
    to be on the host does not get into an image: its suites have other names, or it does not have the distribution's
    component "main".
    """
    known = tuple(sources)
    for name in (codename, *ALIASES):
        suites = {name, f"{name}-updates", f"{name}-security"}
        found = tuple(source for source in known if source.suite in suites and "main" in source.components)
        # A vendor calls its only suite "stable" too; the distribution has updates or security beside it, or is alone.
        if any(source.suite == name for source in found):
            return found if name == codename else _of_distribution(found, name)
    return ()


def _of_distribution(sources: tuple[Source, ...], name: str) -> tuple[Source, ...]:
    beside = {_site(source.uri) for source in sources if source.suite != name}
    own = tuple(
        source for source in sources if _site(source.uri) in beside or source.uri.rstrip("/").endswith("/debian")
    )
    return own if any(source.suite == name for source in own) else ()


def _site(uri: str) -> str:
    return uri.rstrip("/").rpartition("/")[0] or uri


def of_mirror(mirror: str, suite: str) -> tuple[Source, ...]:
    """Return the one source of a recipe that names its mirror."""
    return (Source(mirror, suite, ("main",)),)


def render_sources(sources: Iterable[Source]) -> str:
    """Return ``sources`` as a deb822-style file."""
    return "\n".join(_stanza(source) for source in sources)


def _stanza(source: Source) -> str:
    lines = ["Types: deb", f"URIs: {source.uri}", f"Suites: {source.suite}"]
    lines += [f"Components: {' '.join(source.components)}"] if source.components else []
    if source.key_block:
        lines += ["Signed-By:", *(f" {line or '.'}" for line in source.key_block)]
    elif source.keyrings:
        lines.append(f"Signed-By: {','.join(source.keyrings)}")
    lines += ["Trusted: yes"] if source.trusted else []
    return "".join(f"{line}\n" for line in lines)


_PROXY = re.compile(
    r"(Acquire::(?:http|https|ftp)::(?:Proxy|ProxyAutoDetect|Proxy-Auto-Detect)(?:::[A-Za-z0-9.:-]{1,253})?)"
    r' "([!#-\[\]-~]{1,500})";'
)


def parse_proxies(text: str) -> tuple[tuple[str, str], ...]:
    """Return the proxies of `apt-config dump` as (option, value); they may hold a password."""
    return tuple((match[1], match[2]) for line in text.splitlines() if (match := _PROXY.fullmatch(line.strip())))


def render_apt_conf(proxies: Iterable[tuple[str, str]]) -> str:
    """Return an apt.conf(5) with ``proxies``."""
    return "".join(f'{option} "{value}";\n' for option, value in proxies)
