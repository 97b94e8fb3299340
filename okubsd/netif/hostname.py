"""hostname.if(5) files: what netstart(8) does for the loopback of a VM's rdomain."""

from __future__ import annotations

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


def tap_file(number: int, group: str, owner: str) -> str:
    """Return hostname.tapN of a VM that QEMU runs: what vmd does for its own, done before; QEMU sets nothing.

    The device belongs to ``owner``, who runs QEMU.
    """
    host, _ = guest_of_qemu(number)
    return f"rdomain {number}\ngroup {group}\ninet {host} 255.255.255.254\n!/sbin/chown {owner} /dev/\\$if\nup\n"


def in_rdomain(number: int, argv: Argv) -> Argv:
    """Return ``argv`` run in the routing table ``number``; any user may enter one, none can leave it (route(8))."""
    return ("route", "-T", str(number), "exec", *argv)
