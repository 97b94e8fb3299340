"""User-mode networking, and the Linux network namespace that is its wall.

QEMU's own user-mode network lets a guest reach the host's loopback.  Where Linux lets us, QEMU
therefore runs in a network namespace of its own: `none` has no way out of it at all, `nat` leaves by
slirp4netns(1), which is told to leave the host's loopback out, and routes in the namespace refuse the
host's addresses and the private ranges.  Nothing of that is within the guest's reach.
"""

from __future__ import annotations

from collections.abc import Iterable

from okubsd.guest.identity import Lease, Link
from okubsd.model import Argv, Network, NetworkKind
from okubsd.rules import REFUSED

# QEMU's defaults for -netdev user (qemu(1)).
_GUEST, GATEWAY, QEMU_RESOLVER = "10.0.2.15/24", "10.0.2.2", "10.0.2.3"
# What slirp4netns gets inside the namespace; its resolver is the third address (slirp4netns(1), --cidr).
_UPLINK, UPLINK_RESOLVER = "10.0.3.0/24", "10.0.3.3"


def netdev_option(network: Network) -> str:
    """Return the value of QEMU's -netdev for ``network``; the host's ssh port is left to the kernel."""
    # What goes through a gateway leaves by another device; this one is the host's way in, and leads nowhere.
    restrict = "off" if network.kind is NetworkKind.NAT else "on"
    return f"user,id=net0,ipv6=off,restrict={restrict},hostfwd=tcp:127.0.0.1:0-:22"


def tap_option(number: int) -> str:
    """Return the value of QEMU's -netdev for the prepared tap of ``number``."""
    return f"tap,id=net0,ifname=tap{number},script=no,downscript=no"


def lease_for(network: Network, resolver: str, *, link: Link | None = None) -> Lease:
    """Return the guest's static addresses; ``resolver`` is whom it asks for names on `nat`.

    A VM behind a gateway has a ``link`` to it, and asks it for names.
    """
    if link is not None:
        return Lease(address=_GUEST, resolver=link.gateway, link=link)
    if network.kind is not NetworkKind.NAT:
        return Lease(address=_GUEST)
    return Lease(address=_GUEST, gateway=GATEWAY, resolver=resolver)


def confine_argv(argv: Argv, *, root: bool) -> Argv:
    """Return ``argv`` run in a network namespace of its own; ``root`` needs no user namespace for it.

    Without root we are the namespace's root, so that we can set it up; ``argv`` itself has no capability in any case.
    """
    drop = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--")
    if root:
        return ("unshare", "--net", "--", *drop, *argv)
    return ("unshare", "--user", "--map-root-user", "--net", "--", *drop, *argv)


def enter_argv(pid: str, argv: Argv, *, root: bool) -> Argv:
    """Return ``argv`` run in the network namespace of process ``pid``."""
    user = () if root else ("--user", "--preserve-credentials")
    return ("nsenter", "--target", pid, *user, "--net", "--", *argv)


# A mount namespace of its own with nothing in it, and a filter of system calls (slirp4netns(1)).
_SANDBOX = ("--enable-sandbox", "--enable-seccomp")

# What slirp4netns takes away in its sandbox goes from every mount namespace that shares it, where root calls it
# (observed: /run/netns was lost).  So root's has a private one before; a user's has, by its user namespace.
_PRIVATE = ("unshare", "--mount", "--")


def uplink_argv(pid: str, exit_fd: str, *, root: bool, sandbox: bool = True) -> Argv:
    """Return slirp4netns(1) for the namespace of ``pid``; it ends when ``exit_fd`` is closed."""
    return (
        *(_PRIVATE if root and sandbox else ()),
        "slirp4netns",
        "--configure",
        *(_SANDBOX if sandbox else ()),
        "--mtu=65520",
        "--disable-host-loopback",
        f"--cidr={_UPLINK}",
        f"--exit-fd={exit_fd}",
        pid,
        "tap0",
    )


def namespace_batch(network: Network, host_addresses: Iterable[str], *, ruled: bool = False) -> str:
    """Return the lines for ``ip -batch`` that set up the namespace of a VM.

    On `nat` they refuse the host's own addresses and, unless it is ``ruled`` by rules of its own, the private ranges;
    the uplink's own network is more specific and stays.
    """
    refused = () if network.kind is not NetworkKind.NAT else (*(() if ruled else REFUSED), *sorted(set(host_addresses)))
    return "".join(f"{line}\n" for line in ("link set lo up", *(f"route add prohibit {net}" for net in refused)))
