"""What APT says of newer packages: the words that it is asked with, and its answer (apt-get(8), apt-cache(8))."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from okubsd.config.names import PACKAGE_NAME
from okubsd.images.fitting import compare
from okubsd.model import Argv

# "NAME | VERSION | URI SUITE/COMPONENT ARCHITECTURE Packages", as `apt-cache madison` prints them.
_OFFER = re.compile(r" *(\S{1,200}) \| *(\S{1,200}) \| (\S{1,1000}) (\S{1,200}) \S{1,20} Packages")


class Offer(msgspec.Struct, frozen=True):
    """The newest version of a package in the archives, and whether it is in one of the distribution's security team."""

    version: str
    security: bool


class Upgrade(msgspec.Struct, frozen=True):
    """A package of which there is a newer version, and whether the distribution's security team has made it."""

    package: str
    old: str
    new: str
    security: bool


def apt_argv(program: str, directory: Path, *words: str) -> Argv:
    """Return a ``program`` of APT's that has all below ``directory``, and nothing of the host's but its keyrings."""
    places = {
        "Dir::State": directory / "state",
        "Dir::State::status": directory / "status",
        "Dir::Cache": directory / "cache",
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": directory / "sources",
        "Dir::Etc::main": "/dev/null",
        "Dir::Etc::parts": "/dev/null",
        "Dir::Etc::preferences": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
        "APT::Architecture": "amd64",
        "APT::Architectures": "amd64",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
        # A mirror that stalls or says no is told, and not waited for.
        "Acquire::Retries": "1",
        "Acquire::http::Timeout": "20",
        "Acquire::https::Timeout": "20",
        "APT::Update::Error-Mode": "any",
    }
    options = [word for name, value in places.items() for word in ("-o", f"{name}={value}")]
    return (program, "-q", *options, *words)


def parse_offers(text: str) -> dict[str, Offer]:
    """Return the newest of each package by the output of `apt-cache madison`."""
    found: dict[str, Offer] = {}
    for line in text.splitlines():
        match = _OFFER.fullmatch(line)
        if match is None or not PACKAGE_NAME.fullmatch(match[1]):
            continue
        offer = Offer(match[2], match[4].partition("/")[0].endswith("-security"))
        known = found.get(match[1])
        order = 1 if known is None else compare(offer.version, known.version)
        if order > 0 or (order == 0 and offer.security):
            found[match[1]] = offer
    return found


def upgrades(packages: Mapping[str, str], offers: Mapping[str, Offer]) -> tuple[Upgrade, ...]:
    """Return what of ``packages``, name to version, is older than what is offered; security first, then by name."""
    found = [
        Upgrade(name, version, offers[name].version, offers[name].security)
        for name, version in packages.items()
        if name in offers and compare(offers[name].version, version) > 0
    ]
    return tuple(sorted(found, key=lambda upgrade: (not upgrade.security, upgrade.package)))


def own_packages(whole: Mapping[str, str], base: Mapping[str, str]) -> dict[str, str]:
    """Return the packages that an app has beside those of its base, or in another version."""
    return {name: version for name, version in whole.items() if base.get(name) != version}


def parse_debs(names: Iterable[str]) -> tuple[str, ...]:
    """Return "name version" of every archive name_version_architecture.deb of APT's cache, sorted."""
    found = [re.fullmatch(r"([a-z0-9][a-z0-9.+-]+)_([^_/]+)_(amd64|all)\.deb", name.strip()) for name in names]
    return tuple(sorted(f"{match[1]} {match[2].replace('%3a', ':')}" for match in found if match))
