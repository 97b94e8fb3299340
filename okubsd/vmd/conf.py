"""What a vm.conf(5) says, and what vmd(8) refuses of it late, or takes although it is never meant.

Source: usr.sbin/vmd/parse.y, config.c, priv.c and vmd.c of OpenBSD 7.6 to 7.8.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

MOST_DISKS = 4  # VM_MAX_DISKS_PER_VM
MOST_INTERFACES = 4  # VM_MAX_NICS_PER_VM
LONGEST_NAME = 63  # VMM_MAX_NAME_LEN less its NUL
LARGEST_RDOMAIN = 255  # RT_TABLEID_MAX
LARGEST_MEMORY = 128 << 30  # vmm.h
LONGEST_GROUP = 15  # IFNAMSIZ less its NUL

_LOADABLE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Interface(msgspec.Struct, frozen=True, kw_only=True):
    """One NIC of a VM: its tap ("" if vmd chooses), and where it is put."""

    name: str = ""
    local: bool = False
    switch: str = ""
    group: str = ""
    lladdr: str = ""
    locked: bool = False
    rdomain: int | None = None
    up: bool = True


class Disk(msgspec.Struct, frozen=True):
    """One disk: its path, its format ("" if vmd looks for itself)."""

    path: str
    format: str = ""


class ConfVm(msgspec.Struct, frozen=True, kw_only=True):
    """One vm block; ``memory`` in bytes, None for vmd's 512 MB."""

    name: str
    line: int
    parent: str = ""
    enabled: bool = True
    memory: int | None = None
    disks: tuple[Disk, ...] = ()
    interfaces: tuple[Interface, ...] = ()
    owner: str = ""
    boot: str = ""
    cdrom: str = ""
    warnings: tuple[str, ...] = ()


class Switch(msgspec.Struct, frozen=True, kw_only=True):
    """One switch block and the bridge it puts taps into."""

    name: str
    line: int
    interface: str
    rdomain: int | None = None
    group: str = ""


class Conf(msgspec.Struct, frozen=True, kw_only=True):
    """A whole vm.conf, its included files among it; ``warnings`` are what OpenBSD takes without a word."""

    vms: tuple[ConfVm, ...] = ()
    switches: tuple[Switch, ...] = ()
    socket_owner: str = ""
    local_prefix: str = ""
    staggered: tuple[int, int] | None = None
    includes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def load_errors(conf: Conf) -> list[str]:
    """Return what vmd refuses only when it loads ``conf``, though `vmd -n` is content with it."""
    known = {vm.name for vm in conf.vms}
    found = []
    for vm in conf.vms:
        if not _LOADABLE_NAME.fullmatch(vm.name):
            found.append(f'{vm.line}: vm "{vm.name}" failed: Invalid argument (invalid VM name)')
        elif vm.parent and vm.parent not in known:
            found.append(f'{vm.line}: vm "{vm.name}" failed: Unknown error 1007')
        elif not vm.parent and not (vm.disks or vm.boot or vm.cdrom):
            found.append(f'{vm.line}: vm "{vm.name}" failed: Invalid argument (no kernel or disk/cdrom specified)')
    return found


def traps(conf: Conf) -> list[str]:
    """Return what OpenBSD takes without a word, and what is never meant: doubled names, taps, addresses, disks."""
    found = [*conf.warnings, *(warning for vm in conf.vms for warning in vm.warnings)]
    taps = [interface for vm in conf.vms for interface in vm.interfaces]
    switches = {switch.name for switch in conf.switches}
    found += _doubled("vm", (vm.name for vm in conf.vms))
    found += _doubled("switch", (switch.name for switch in conf.switches))
    found += _doubled("disk", (disk.path for vm in conf.vms for disk in vm.disks))
    found += _doubled("interface", (tap.name for tap in taps if tap.name))
    found += _doubled("lladdr", (tap.lladdr for tap in taps if tap.lladdr))
    found += [f'switch "{tap.switch}" is not defined' for tap in taps if tap.switch and tap.switch not in switches]
    return found


def _doubled(what: str, names: Iterable[str]) -> list[str]:
    seen: set[str] = set()
    found = []
    for name in names:
        if name in seen:
            found.append(f"{what} {name} is used twice; vmd takes it, and one of both does not work")
        seen.add(name)
    return found
