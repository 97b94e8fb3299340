"""What ifconfig(8) says of an interface; it exits with 0 also where a change was refused, so it is read back."""

from __future__ import annotations

import ipaddress
import re

import msgspec

_FIRST = re.compile(r"(?P<name>\S+): flags=[0-9a-f]+<(?P<flags>[A-Z0-9_,]*)>(?: rdomain (?P<rdomain>\d+))? mtu \d+")
_GROUPS = re.compile(r"(?m)^\tgroups: (.*)$")
_INET = re.compile(r"(?m)^\tinet (\d+\.\d+\.\d+\.\d+) netmask (0x[0-9a-f]{8})")


class Tap(msgspec.Struct, frozen=True, kw_only=True):
    """An interface as ifconfig shows it; ``address`` is the host's end with its prefix, "" where there is none.

    ``addresses`` are all of IPv4 that it has, with their prefixes.
    """

    name: str
    up: bool
    rdomain: int
    groups: tuple[str, ...]
    address: str = ""
    addresses: tuple[str, ...] = ()

    @property
    def guest(self) -> str:
        """Return the guest's address: the other one of the /31 (vm.conf(5), local interface)."""
        if not self.address:
            return ""
        interface = ipaddress.IPv4Interface(self.address)
        return next((str(other) for other in interface.network if other != interface.ip), "")


def parse_ifconfig(text: str) -> Tap | None:
    """Return the interface that ``text`` is about, or None where it is about none."""
    match = _FIRST.match(text)
    if match is None:
        return None
    groups = _GROUPS.search(text)
    inet = _INET.search(text)
    prefix = bin(int(inet[2], 16)).count("1") if inet else 0
    return Tap(
        name=match["name"],
        up="UP" in match["flags"].split(","),
        rdomain=int(match["rdomain"] or 0),
        groups=tuple(groups[1].split()) if groups else (),
        address=f"{inet[1]}/{prefix}" if inet and prefix == 31 else "",
        addresses=tuple(f"{found}/{int(mask, 16).bit_count()}" for found, mask in _INET.findall(text)),
    )


def parse_all(text: str) -> tuple[Tap, ...]:
    """Return every interface of what `ifconfig` says of all."""
    blocks = re.split(r"(?m)^(?=\S)", text)
    return tuple(found for block in blocks if (found := parse_ifconfig(block)) is not None)


def tap_mistakes(tap: Tap | None, number: int, rdomain: int, group: str) -> list[str]:
    """Return what vmd only logged when it could not set up the tap of the VM with ``number``, in words."""
    if tap is None:
        return [f"tap{number} is not there"]
    found = []
    if tap.rdomain != rdomain:
        found.append(f"{tap.name} is in rdomain {tap.rdomain} instead of {rdomain}")
    if group not in tap.groups:
        found.append(f"{tap.name} is not in the group {group}")
    if not tap.up:
        found.append(f"{tap.name} is down")
    if not tap.address:
        found.append(f"{tap.name} has no address of vmd's")
    return found
