"""Compile a description into the files of an OpenBSD host: vm.conf, pf anchors, interfaces, doas, sysctl."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping

import msgspec

from okubsd.errors import BadDescription
from okubsd.model import Backend, HostWish, Recipe, Vm, Way, Wish
from okubsd.netif.hostname import loopback_file, tap_file
from okubsd.netif.numbers import give_numbers, render_numbers
from okubsd.pf.render import GROUP, render_anchor, render_main
from okubsd.plan.backend import HOST_MEMORY
from okubsd.plan.images import BOOT_IMAGE, images_of
from okubsd.vmd.conf import Disk
from okubsd.vmd.helper import DRIVES, RECORDS, doas_line, render_record
from okubsd.vmd.render import VmBlock, render_conf

CONF_DIRECTORY = "etc/okubsd"
VM_CONF = f"{CONF_DIRECTORY}/vm.conf"
PF_CONF = f"{CONF_DIRECTORY}/pf.conf"
ANCHORS = f"{CONF_DIRECTORY}/pf"
NUMBERS = f"{CONF_DIRECTORY}/numbers"
AUTOSTART = f"{CONF_DIRECTORY}/autostart"

_FORWARDING = "net.inet.ip.forwarding=1\n"


class How(enum.StrEnum):
    """How a file of the host comes to hold what it should."""

    WHOLE = "whole"  # the file is ours
    BLOCK = "block"  # a marked block at its end
    BEFORE_RULES = "before rules"  # a marked block before the first filter rule
    RCCTL = "rcctl"  # lines that rcctl(8) keeps; it would not keep our marks


class HostFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file: its path without the leading slash, its text (of the block where it has one), its permissions."""

    path: str
    text: str
    how: How = How.WHOLE
    mode: int = 0o644


class CompiledVm(msgspec.Struct, frozen=True, kw_only=True):
    """One VM as vmd gets it."""

    vm: Vm
    number: int
    owner: str
    images: tuple[str, ...] = ()

    @property
    def on_vmd(self) -> bool:
        """Return whether vmd runs it, where there is a vmd."""
        return self.vm.backend is not Backend.QEMU


class Compiled(msgspec.Struct, frozen=True, kw_only=True):
    """All of it: the files in the order of their paths, and the VMs in the order they were written."""

    files: tuple[HostFile, ...]
    vms: tuple[CompiledVm, ...]
    group: str

    def find(self, name: str) -> CompiledVm | None:
        """Return the compiled VM called ``name``, or None."""
        return next((vm for vm in self.vms if vm.vm.name == name), None)


def compile_host(wish: Wish, recipes: Mapping[str, Recipe], kept: Mapping[str, int], user: str) -> Compiled:
    """Return the files of an OpenBSD host for ``wish``.

    ``kept`` are the numbers of before, ``user`` owns the VMs that name nobody.
    Raises BadDescription where the numbers do not suffice or nobody owns a VM.
    """
    vms = wish.vms
    numbers = _numbers(wish, vms, kept)
    unowned = [vm.name for vm in vms if not (vm.owner or wish.host.owner or user)]
    if unowned:
        raise BadDescription([f"{wish.path}: nobody owns {', '.join(unowned)}; write 'owner' below 'host'"])
    compiled = tuple(
        CompiledVm(
            vm=vm,
            number=numbers[vm.name],
            owner=vm.owner or wish.host.owner or user,
            images=images_of(vm, recipes) if vm.backend is not Backend.QEMU else (),
        )
        for vm in vms
    )
    files = [
        *_files_of_host(wish.host, compiled, recipes),
        *(f for vm in compiled for f in _files_of(vm, wish.host, recipes)),
    ]
    return Compiled(files=tuple(sorted(files, key=lambda file: file.path)), vms=compiled, group=wish.host.group)


def _numbers(wish: Wish, vms: tuple[Vm, ...], kept: Mapping[str, int]) -> dict[str, int]:
    wished = {vm.name: vm.number for vm in vms if vm.number is not None}
    try:
        return give_numbers((vm.name for vm in vms), wished, kept, *wish.host.numbers)
    except ValueError as error:
        raise BadDescription([f"{wish.path}: host.numbers: {error}; give 'numbers' a wider range"]) from None


def _files_of_host(host: HostWish, vms: tuple[CompiledVm, ...], recipes: Mapping[str, Recipe]) -> Iterable[HostFile]:
    conf = render_conf((_block(vm) for vm in vms if vm.on_vmd), host.group, host.staggered)
    numbers = render_numbers({vm.vm.name: vm.number for vm in vms})
    autostart = "".join(f"{vm.owner} {vm.vm.name}\n" for vm in vms if vm.vm.autostart)
    yield HostFile(path=VM_CONF, text=conf)
    yield HostFile(path=PF_CONF, text=render_main(), mode=0o600)
    yield HostFile(path=NUMBERS, text=numbers)
    yield HostFile(path=AUTOSTART, text=autostart)
    yield HostFile(path="etc/vm.conf", text=f'include "/{VM_CONF}"\n', how=How.BLOCK)
    yield HostFile(path="etc/pf.conf", text=f'include "/{PF_CONF}"\n', how=How.BEFORE_RULES, mode=0o600)
    yield HostFile(path="etc/doas.conf", text=doas_line(host.group), how=How.BLOCK, mode=0o600)
    yield HostFile(path="etc/rc.conf.local", text="pkg_scripts=okubsd\nvmd_flags=\n", how=How.RCCTL)
    if any(vm.vm.network.way is Way.NAT for vm in vms):
        yield HostFile(path="etc/sysctl.conf", text=_FORWARDING, how=How.BLOCK)


def _files_of(vm: CompiledVm, host: HostWish, recipes: Mapping[str, Recipe]) -> Iterable[HostFile]:
    anchor = render_anchor(vm.vm.name, vm.number, vm.vm.network, host.resolver)
    yield HostFile(path=f"{ANCHORS}/{vm.vm.name}.conf", text=anchor, mode=0o600)
    yield HostFile(path=f"{RECORDS[1:]}/{vm.vm.name}", text=render_record(_record(vm, recipes)))
    yield HostFile(path=f"etc/hostname.lo{vm.number}", text=loopback_file(vm.number), mode=0o640)
    if not vm.on_vmd:
        tap = tap_file(vm.number, GROUP, vm.owner)
        yield HostFile(path=f"etc/hostname.tap{vm.number}", text=tap, mode=0o640)


def _record(vm: CompiledVm, recipes: Mapping[str, Recipe]) -> dict[str, str | int]:
    return {
        "name": vm.vm.name,
        "owner": vm.owner,
        "number": vm.number,
        "group": GROUP,
        "boot": BOOT_IMAGE,
        "base": recipes[vm.vm.image].base,
        "app": vm.vm.image,
        # A disposable VM has no home; its last drive only carries who it is.
        "home": 0 if vm.vm.disposable else vm.vm.home >> 20,
        "backend": "vmd" if vm.on_vmd else "qemu",
    }


def drives_of(vm: Vm) -> tuple[Disk, ...]:
    """Return the drives of ``vm`` in the order the guest sees them: boot, base, app, home."""
    top = f"{DRIVES}/{vm.name}"
    shared = tuple(Disk(f"{top}/{name}.qcow2", "qcow2") for name in ("boot", "base", "app"))
    return (*shared, Disk(f"{top}/home.img", "raw"))


def _block(vm: CompiledVm) -> VmBlock:
    return VmBlock(
        name=vm.vm.name,
        memory=vm.vm.memory >> 20,
        disks=drives_of(vm.vm),
        owner=vm.owner,
        number=vm.number,
        group=GROUP,
    )


def memory_mistakes(wish: Wish, usable: int) -> list[str]:
    """Return where the VMs want more memory than the host's ``usable`` bytes leave them (0: not known)."""
    if not usable:
        return []
    found = [
        f"{wish.path}: VM '{vm.name}' wants {vm.memory >> 20} MB, and this host has {usable >> 20} MB for everything"
        for vm in wish.vms
        if vm.memory + HOST_MEMORY > usable
    ]
    at_boot = sum(vm.memory for vm in wish.vms if vm.autostart)
    if not found and at_boot + HOST_MEMORY > usable:
        found.append(
            f"{wish.path}: the VMs that start at boot want {at_boot >> 20} MB together, "
            f"and this host has {usable >> 20} MB, of which {HOST_MEMORY >> 20} are its own"
        )
    return found
