"""The second wall: what an app of a guest sees of it (bwrap(1)), and what it may ask of its kernel (seccomp(2)).

The guest runs what the host has written here when an image is built; see images/base/files/usr/lib/okubsd/wall.
"""

from __future__ import annotations

import struct

from okubsd.model import Argv
from okubsd.recipe import Sandbox

HOME = "/home/user"

# The words of the machine and of its 32-bit calls (linux/audit.h, asm/unistd.h), and the language of linux/filter.h.
_X86_64, _X32 = 0xC000003E, 0x40000000
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_NUMBER_AT, _MACHINE_AT, _ARGUMENT_AT, _ARGUMENT = 0, 4, 16, 8
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_EPERM, _ENOSYS, _EPROTONOSUPPORT, _EAFNOSUPPORT = 1, 38, 93, 97

# System calls of x86_64 (asm/unistd_64.h) that no app needs, by what they would reach.
REFUSED: dict[str, tuple[int, ...]] = {
    # What is loaded into the kernel, or replaces it.
    "modules and kexec": (174, 175, 176, 177, 178, 246, 313, 320),
    "bpf, perf, userfaultfd": (298, 321, 323),
    "io_uring": (425, 426, 427),
    "keyrings": (248, 249, 250),
    # mount, umount2, pivot_root, open_tree, move_mount, fsopen, fsconfig, fsmount, fspick, mount_setattr.
    "mounts": (155, 165, 166, 428, 429, 430, 431, 432, 433, 442),
    "the machine": (163, 167, 168, 169, 172, 173, 179, 180, 443),
    "clocks and names": (159, 164, 170, 171, 227, 305),
    # syslog, fanotify_init, open_by_handle_at, lookup_dcookie, vserver, vhangup.
    "what others do": (103, 300, 304, 212, 236, 153),
    # modify_ldt, _sysctl, ustat, uselib.
    "of another age": (154, 156, 136, 134),
}
# socket(2) and the families that an app may ask for: UNIX, INET, INET6, and NETLINK.  Of the latter's protocols it gets
# the list of interfaces and the news of devices (netlink(7)): in a network namespace of its own, which it may make, an
# app would reach nftables and others by the rest.
_SOCKET, FAMILIES, _NETLINK, NETLINK_PROTOCOLS = 41, (1, 2, 10), 16, (0, 15)
# ioctl(2), and the requests that type into a terminal as if its user did: TIOCSTI and TIOCLINUX (ioctl_tty(2)).
_IOCTL, TYPING = 16, (0x5412, 0x541C)


def seccomp_filter() -> bytes:
    """Return the program of a filter for apps of a guest, as `bwrap --seccomp` reads it."""
    numbers = [number for group in REFUSED.values() for number in group]
    steps: list[tuple[int, int, int, int]] = [
        (_LOAD, 0, 0, _MACHINE_AT),
        (_EQUAL, 1, 0, _X86_64),
        # A program of 32 bits finds no system calls: it would have numbers of its own for all of these.
        (_RETURN, 0, 0, _ERRNO | _ENOSYS),
        (_LOAD, 0, 0, _NUMBER_AT),
        *_unless(_AT_LEAST, _X32, _ENOSYS),
    ]
    for number in numbers:
        steps += _unless(_EQUAL, number, _EPERM)
    sockets = _socket_steps()
    steps += [(_EQUAL, 0, len(sockets), _SOCKET), *sockets]
    steps += [(_EQUAL, 0, 2 * len(TYPING) + 1, _IOCTL), (_LOAD, 0, 0, _ARGUMENT_AT + _ARGUMENT)]
    for request in TYPING:
        steps += _unless(_EQUAL, request, _EPERM)
    steps.append((_RETURN, 0, 0, _ALLOW))
    # struct sock_filter { u16 code; u8 jt; u8 jf; u32 k; };
    return b"".join(struct.pack("<HBBI", *step) for step in steps)


def _socket_steps() -> list[tuple[int, int, int, int]]:
    """Return the steps that refuse a socket of another family or protocol, and else go on behind them."""
    protocols = [
        (_LOAD, 0, 0, _ARGUMENT_AT + 2 * _ARGUMENT),
        *((_EQUAL, len(NETLINK_PROTOCOLS) - at, 0, one) for at, one in enumerate(NETLINK_PROTOCOLS)),
        (_RETURN, 0, 0, _ERRNO | _EPROTONOSUPPORT),
        (_LOAD, 0, 0, _NUMBER_AT),
    ]
    # Behind each family are the others, the question for NETLINK, a refusal, and the steps of its protocols.
    behind = 1 + 1 + len(protocols) - 1
    return [
        (_LOAD, 0, 0, _ARGUMENT_AT),
        *((_EQUAL, len(FAMILIES) - 1 - at + behind, 0, family) for at, family in enumerate(FAMILIES)),
        (_EQUAL, 1, 0, _NETLINK),
        (_RETURN, 0, 0, _ERRNO | _EAFNOSUPPORT),
        *protocols,
    ]


def _unless(jump: int, value: int, errno: int) -> list[tuple[int, int, int, int]]:
    """Return the steps that refuse with ``errno`` where what is loaded compares with ``value``."""
    return [(jump, 0, 1, value), (_RETURN, 0, 0, _ERRNO | errno)]


def bwrap_args(sandbox: Sandbox) -> Argv:
    """Return the options of bwrap(1) for apps: a guest to be read, a home, and processes of their own."""
    own: list[str] = []
    if sandbox.home:
        own += ["--tmpfs", HOME]
        for path in sandbox.home:
            own += ["--bind", f"{HOME}/{path}", f"{HOME}/{path}"]
    else:
        own += ["--bind", HOME, HOME]
    for device in sandbox.devices:
        own += ["--dev-bind-try", f"/dev/{device}", f"/dev/{device}"]
    return (
        *("--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-cgroup-try"),
        *(() if sandbox.network else ("--unshare-net",)),
        *("--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"),
        *("--bind", "/tmp", "/tmp", "--bind-try", "/var/tmp", "/var/tmp"),
        # What the host says of this VM stays out of sight, but for the key of the display and the time zone.
        *("--tmpfs", "/run", "--bind", "/run/user/1000", "/run/user/1000"),
        *("--ro-bind", "/run/okubsd/Xauthority", "/run/okubsd/Xauthority"),
        *("--ro-bind-try", "/run/okubsd/localtime", "/run/okubsd/localtime"),
        # And for the pipe by which it asks the host for something.
        *("--bind-try", "/run/okubsd/asks", "/run/okubsd/asks"),
        *("--ro-bind-try", "/run/okubsd/sound", "/run/okubsd/sound"),
        *own,
        *("--tmpfs", f"{HOME}/.ssh", "--remount-ro", f"{HOME}/.ssh", "--chdir", HOME),
    )


def render_args(sandbox: Sandbox) -> bytes:
    """Return the options as `bwrap --args` reads them: each ends in a NUL."""
    return b"".join(word.encode() + b"\0" for word in bwrap_args(sandbox))
