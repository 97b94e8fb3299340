"""Everything the host tells one guest at boot, as the cpio archive that becomes its /run."""

from __future__ import annotations

import base64
import ipaddress
import shlex
import struct
from collections.abc import Iterable

import msgspec

from okubsd.config.names import host_name
from okubsd.guest.cpio import Entry, directory, fifo, file, render_cpio
from okubsd.model import Vm

# The unprivileged user of every guest (images/tree.py).
USER_ID = 1000


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """The second interface of a guest, by which its packets leave: its ``address`` is in CIDR notation."""

    address: str
    gateway: str = ""
    mtu: int = 1500


class Lease(msgspec.Struct, frozen=True):
    """The addresses of a guest; "" where there is none, "dhcp" where the host is asked.

    ``address`` is in CIDR notation; with a ``link`` it is only what the host reaches the guest by.
    """

    address: str = ""
    gateway: str = ""
    resolver: str = ""
    link: Link | None = None


class Awake(msgspec.Struct, frozen=True):
    """What a guest is told besides that goes on from a saved state: entropy, the time in seconds since the epoch."""

    seed: bytes
    clock: int


class Secrets(msgspec.Struct, frozen=True):
    """The key material of one VM; never printed, written 0600 only.

    ``host_seed`` and ``host_public`` are the raw 32 bytes of the guest's ed25519 host key (RFC 8032),
    ``client_public`` the authorized_keys line of the host's key, ``cookie`` the 16 bytes for X11.
    """

    host_seed: bytes
    host_public: bytes
    client_public: str
    cookie: bytes


def render_identity(
    vm: Vm,
    lease: Lease,
    secrets: Secrets,
    off: str = "reboot",
    gateway: Iterable[Entry] = (),
    zone: bytes = b"",
    consoles: str = "ttyS0",
    awake: Awake | None = None,
) -> bytes:
    """Return the cpio archive that tells a guest who it is and who may come in.

    ``off`` is what ends it for good: "reboot" or "poweroff".  ``gateway`` are the files of one that passes on what
    other VMs send.  ``zone`` is its time zone (tzfile(5)), b"" for UTC, ``consoles`` are terminals with a root shell,
    ``awake`` is what one is told that goes on from a saved state.
    """
    gateway = tuple(gateway)
    settings = render_settings(vm, lease, off, forward=bool(gateway), consoles=consoles)
    seed = []
    if awake is not None:
        from okubsd.guest.reseed import render_seed

        seed = [file("run/okubsd/seed", render_seed(awake.seed))]
        settings += f"clock={awake.clock}\nmac={mac_of(vm.name)}\n"
    return render_cpio(
        [
            directory("run"),
            directory("run/okubsd"),
            file("run/okubsd/settings", settings.encode()),
            *seed,
            file("run/okubsd/host_key", dropbear_key(secrets.host_seed, secrets.host_public)),
            directory("run/okubsd/ssh"),
            file("run/okubsd/ssh/authorized_keys", f"{secrets.client_public}\n".encode(), 0o644),
            file("run/okubsd/Xauthority", render_xauthority(secrets.cookie), owner=USER_ID),
            directory("run/okubsd/apps", 0o700, owner=USER_ID),
            directory("run/okubsd/own", 0o700, owner=USER_ID),
            directory("run/okubsd/sound", 0o700, owner=USER_ID),
            # Anybody may say that a window was closed; only PID 1 hears it.
            fifo("run/okubsd/request", 0o622),
            # By this one guests ask the host for something, which reads it as the user.
            fifo("run/okubsd/asks", 0o622, owner=USER_ID),
            *_locale_files(vm),
            directory("run/user"),
            directory(f"run/user/{USER_ID}", 0o700, owner=USER_ID),
            *([file("run/okubsd/localtime", zone, 0o644)] if zone else []),
            *gateway,
        ]
    )


def _locale_files(vm: Vm) -> list[Entry]:
    """Return what tells programs their language, [] where there is none but English (locale(7))."""
    return [] if vm.locale in ("", "C") else [file("run/okubsd/locale", f"{vm.locale}.UTF-8\n".encode(), 0o644)]


def mac_of(name: str) -> str:
    """Return the address of the first NIC of the VM called ``name``: one of QEMU's, and no other VM's."""
    import hashlib

    return ":".join(("52:54:00", *(f"{byte:02x}" for byte in hashlib.sha256(name.encode()).digest()[:3])))


def render_settings(
    vm: Vm, lease: Lease, off: str = "reboot", *, forward: bool = False, consoles: str = "ttyS0"
) -> str:
    """Return the settings as assignments that a POSIX shell reads."""
    address, netmask = _split(lease.address)
    link = lease.link or Link(address="")
    link_address, link_netmask = _split(link.address)
    values = {
        "name": host_name(vm.name),
        "home": "tmpfs" if vm.disposable or vm.rescue else "drive",
        "guard": vm.guard.value,
        "persist": " ".join(vm.persist),
        "hook": "yes" if vm.hook else "no",
        "keep": "yes" if vm.keep else "no",
        "address": address,
        "netmask": netmask,
        "gateway": lease.gateway,
        "resolver": lease.resolver,
        "off": off,
        "link_address": link_address,
        "link_netmask": link_netmask,
        "link_gateway": link.gateway,
        "link_mtu": str(link.mtu),
        "forward": "yes" if forward else "no",
        "consoles": consoles,
    }
    return "".join(f"{key}={shlex.quote(value)}\n" for key, value in values.items())


def _split(address: str) -> tuple[str, str]:
    """Return an address in CIDR notation as ifconfig(8) of busybox wants it: apart from its netmask."""
    if "/" not in address:
        return address, ""
    interface = ipaddress.IPv4Interface(address)
    return str(interface.ip), str(interface.netmask)


def dropbear_key(seed: bytes, public: bytes) -> bytes:
    """Return an ed25519 private key as dropbear stores it: its name, then seed and public key.

    Source: dropbear, ed25519.c, buf_put_ed25519_priv_key().
    """
    return b"".join(struct.pack(">I", len(part)) + part for part in (b"ssh-ed25519", seed + public))


def host_key_line(alias: str, public: bytes) -> str:
    """Return the known_hosts line (sshd(8)) that pins the host key of ``alias``."""
    blob = b"".join(struct.pack(">I", len(part)) + part for part in (b"ssh-ed25519", public))
    return f"{alias} ssh-ed25519 {base64.b64encode(blob).decode()}\n"


# Xauth.h: an entry of the first family matches any host, one of the second this host's unix sockets.
FAMILY_WILD, FAMILY_LOCAL = 65535, 256


def render_xauthority(cookie: bytes, family: int = FAMILY_WILD, address: str = "", display: str = "") -> bytes:
    """Return an Xauthority file with one MIT-MAGIC-COOKIE-1 for ``address`` and ``display`` ("" matches all).

    Source: Xauth(3); libXau, AuWrite.c.
    """
    fields = (address.encode(), display.encode(), b"MIT-MAGIC-COOKIE-1", cookie)
    counted = b"".join(struct.pack(">H", len(field)) + field for field in fields)
    return struct.pack(">H", family) + counted
