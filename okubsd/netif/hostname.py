"""hostname.if(5) files: what netstart(8) does for the loopback of a VM's rdomain."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from itertools import islice

from okubsd.model import Argv


def loopback_file(number: int) -> str:
    """Return hostname.loN; the rdomain comes first, since a change of it takes the addresses away.

    The reject route answers a guest without a way out at once, instead of letting its packets vanish.
    """
    return (
        f"rdomain {number}\n"
        "inet 127.0.0.1/8\n"
        f"!/sbin/route -qn -T {number} add -inet -reject -priority 60 default 127.0.0.1\n"
    )


def guest_of_qemu(number: int) -> tuple[str, str]:
    """Return the host's and the guest's address of a VM that QEMU runs beside vmd.

    They are the last of vmd's own default prefix, which vmd itself reaches with its 16000th VM.
    """
    return f"100.127.{number}.2", f"100.127.{number}.3"


def tap_file(number: int, rdomain: int, group: str, owner: str) -> str:
    """Return hostname.tapN of a VM that QEMU runs: what vmd does for its own, done before; QEMU sets nothing.

    The device belongs to ``owner``, who runs QEMU.
    """
    host, _ = guest_of_qemu(number)
    return f"rdomain {rdomain}\ngroup {group}\ninet {host} 255.255.255.254\n!/sbin/chown {owner} /dev/\\$if\nup\n"


def in_rdomain(number: int, argv: Argv) -> Argv:
    """Return ``argv`` run in the routing table ``number``; any user may enter one, none can leave it (route(8))."""
    return ("route", "-T", str(number), "exec", *argv)


def veb_file(number: int, rdomain: int, port: str = "") -> str:
    """Return hostname.vebN: a switch that holds the taps vmd adds, and the host's ``port`` on it if it has one."""
    added = f"add {port}\n" if port else ""
    return f"rdomain {rdomain}\n{added}up\n"


def vport_file(number: int, group: str, address: str, config: str, leases: str) -> str:
    """Return hostname.vportN: the host's end of a switch, with its own address, rdomain and dhcpd(8).

    ``config`` is the dhcpd.conf(5), ``leases`` where dhcpd keeps what it gave.
    """
    interface = ipaddress.IPv4Interface(address)
    daemon = f"/sbin/route -T {number} exec /usr/sbin/dhcpd -c {config} -l {leases} vport{number}"
    again = f"/usr/bin/pgrep -U _dhcp -qf 'dhcpd .*vport{number}$'"
    return (
        f"rdomain {number}\ngroup {group}\ninet {interface.ip} {interface.netmask}\nup\n"
        f"!/usr/bin/touch {leases}\n!{again} || {daemon}\n"
    )


def dhcpd_conf(address: str, hosts: Mapping[str, str]) -> str:
    """Return the dhcpd.conf(5) of a switch: each of ``hosts`` (name to Ethernet address) has an address of its own.

    A name is a word of dhcpd.conf(5), which takes none in quotes (observed).

    There is no router and no resolver: a switch is for VMs that meet, and leads nowhere else.  Raises ValueError
    where the network is too small.
    """
    interface = ipaddress.IPv4Interface(address)
    network = interface.network
    free = [str(other) for other in islice(network.hosts(), len(hosts) + 1) if other != interface.ip]
    if len(free) < len(hosts):
        raise ValueError(f"there are {len(hosts)} VMs on it, and {network} has room for {len(free)}")
    lines = [f"subnet {network.network_address} netmask {network.netmask} {{"]
    for (name, ethernet), fixed in zip(hosts.items(), free, strict=False):
        lines.append(f"\thost {name} {{ hardware ethernet {ethernet}; fixed-address {fixed}; }}")
    return "".join(f"{line}\n" for line in (*lines, "}"))
