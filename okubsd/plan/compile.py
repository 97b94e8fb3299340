"""Compile a description into the files of an OpenBSD host: vm.conf, pf anchors, interfaces, doas, sysctl."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping

import msgspec

from okubsd.errors import BadDescription
from okubsd.model import TUNNELS, Backend, Network, Recipe, Vm, Way, Wish
from okubsd.netif.hostname import dhcpd_conf, loopback_file, tap_file, veb_file, vport_file
from okubsd.netif.numbers import render_numbers
from okubsd.pf.render import (
    GROUP,
    UPLINK,
    Exit,
    anchor_path,
    render_anchor,
    render_main,
    render_names,
    render_queues,
    rules_path,
)
from okubsd.plan.backend import HOST_MEMORY
from okubsd.plan.exits import (
    CLIENT_NIC,
    Numbers,
    Secrets,
    bandwidth_mistakes,
    exit_of,
    link_name,
    nics_of,
    number_all,
    switch_mistakes,
)
from okubsd.plan.images import BOOT_IMAGE, images_of
from okubsd.vmd.conf import Disk
from okubsd.vmd.helper import DRIVES, RECORDS, doas_line, render_record
from okubsd.vmd.render import Nic, SwitchBlock, VmBlock, lladdr, render_conf
from okubsd.vpn.openvpn import render_config, tun_file
from okubsd.vpn.wg import wg_file

CONF_DIRECTORY = "etc/okubsd"
VM_CONF = f"{CONF_DIRECTORY}/vm.conf"
PF_CONF = f"{CONF_DIRECTORY}/pf.conf"
ANCHORS = f"{CONF_DIRECTORY}/pf"
NUMBERS = f"{CONF_DIRECTORY}/numbers"
AUTOSTART = f"{CONF_DIRECTORY}/autostart"
NAMES = f"{CONF_DIRECTORY}/names"
# The queues of an interface, which are loaded while it is there.
QUEUES = f"{CONF_DIRECTORY}/queues"
# What dhcpd(8) leases on a switch.
LEASES = f"{CONF_DIRECTORY}/dhcpd"

# Both live beside the helper (okubsd(8), FILES).
_TUN_PROGRAM = "/usr/local/libexec/okubsd-tun"


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
    """One VM as vmd gets it; ``exit`` is its way out, ``nics`` those beside the host's way in."""

    vm: Vm
    number: int
    owner: str
    exit: Exit
    images: tuple[str, ...] = ()
    nics: tuple[Nic, ...] = ()

    @property
    def on_vmd(self) -> bool:
        """Return whether vmd runs it, where there is a vmd."""
        return self.vm.backend is not Backend.QEMU

    @property
    def rdomain(self) -> int:
        """Return the rdomain that the host reaches it in."""
        return self.exit.rdomain


class Compiled(msgspec.Struct, frozen=True, kw_only=True):
    """All of it: the files in the order of their paths, and the VMs in the order they were written."""

    files: tuple[HostFile, ...]
    vms: tuple[CompiledVm, ...]
    group: str

    def find(self, name: str) -> CompiledVm | None:
        """Return the compiled VM called ``name``, or None."""
        return next((vm for vm in self.vms if vm.vm.name == name), None)


def compile_host(
    wish: Wish,
    recipes: Mapping[str, Recipe],
    kept: Mapping[str, int],
    user: str,
    secrets: Secrets | None = None,
    now: float = 0.0,
) -> Compiled:
    """Return the files of an OpenBSD host for ``wish``.

    ``kept`` are the numbers of before, ``user`` owns the VMs that name nobody, ``secrets`` what the files of tunnels
    say, ``now`` is seconds since the epoch: rules that ended before are left out.
    Raises BadDescription where the numbers do not suffice, nobody owns a VM, or vmd has not enough NICs.
    """
    vms, secrets = wish.vms, secrets or Secrets()
    numbers = number_all(wish, kept)
    unowned = [vm.name for vm in vms if not (vm.owner or wish.host.owner or user)]
    if unowned:
        raise BadDescription([f"{wish.path}: nobody owns {', '.join(unowned)}; write 'owner' below 'host'"])
    mistakes = [*switch_mistakes(wish), *bandwidth_mistakes(wish)]
    if mistakes:
        raise BadDescription(mistakes)
    compiled = tuple(
        CompiledVm(
            vm=vm,
            number=numbers.vm(vm),
            owner=vm.owner or wish.host.owner or user,
            exit=exit_of(vm, numbers, wish.host, secrets),
            images=images_of(vm, recipes) if vm.backend is not Backend.QEMU else (),
            nics=nics_of(vm, wish, numbers) if vm.backend is not Backend.QEMU else (),
        )
        for vm in vms
    )
    networks = tuple(network for network in wish.networks if network.way in (*TUNNELS, Way.SWITCH))
    files = [
        *_files_of_host(wish, compiled, networks, numbers),
        *(f for network in networks for f in _files_of_network(network, wish, numbers, secrets)),
        *(f for vm in compiled for f in _files_of(vm, recipes, now)),
    ]
    return Compiled(files=tuple(sorted(files, key=lambda file: file.path)), vms=compiled, group=wish.host.group)


def compile_rules(wish: Wish, name: str, kept: Mapping[str, int], secrets: Secrets, now: float) -> tuple[HostFile, ...]:
    """Return the files that hold the rules of the VM called ``name``, and no others.

    ``kept`` are the numbers of this host; raises BadDescription where the VM has none there.
    """
    vm = next(vm for vm in wish.vms if vm.name == name)
    numbers = number_all(wish, kept)
    if kept.get(name) != numbers.vm(vm):
        raise BadDescription([f"{wish.path}: VM '{name}' was not installed on this host yet; doas okubsd apply"])
    return tuple(_rules_of(exit_of(vm, numbers, wish.host, secrets), now))


def _files_of_host(
    wish: Wish, vms: tuple[CompiledVm, ...], networks: tuple[Network, ...], numbers: Numbers
) -> Iterable[HostFile]:
    host = wish.host
    switches = [
        *(_switch(network.name, numbers.network(network)) for network in networks if network.way is Way.SWITCH),
        *(_switch(link_name(vm.number), vm.number) for vm in vms if vm.vm.network.way is Way.GATEWAY),
    ]
    conf = render_conf((_block(vm) for vm in vms if vm.on_vmd), host.group, host.staggered, switches)
    autostart = "".join(f"{vm.owner} {vm.vm.name}\n" for vm in vms if vm.vm.autostart)
    ports = [f"vport{numbers.network(network)}" for network in networks if network.way is Way.SWITCH]
    yield HostFile(path=VM_CONF, text=conf)
    yield HostFile(path=PF_CONF, text=render_main(ports), mode=0o600)
    for interface, text in render_queues((vm.exit for vm in vms), host.uplink).items():
        yield HostFile(path=f"{QUEUES}/{interface}", text=text, mode=0o600)
    yield HostFile(path=NUMBERS, text=render_numbers(numbers.given))
    yield HostFile(path=AUTOSTART, text=autostart)
    yield HostFile(path="etc/vm.conf", text=f'include "/{VM_CONF}"\n', how=How.BLOCK)
    yield HostFile(path="etc/pf.conf", text=f'include "/{PF_CONF}"\n', how=How.BEFORE_RULES, mode=0o600)
    yield HostFile(path="etc/doas.conf", text=doas_line(host.group), how=How.BLOCK, mode=0o600)
    yield HostFile(path="etc/rc.conf.local", text="pkg_scripts=okubsd\nvmd_flags=\n", how=How.RCCTL)
    if any(vm.exit.out for vm in vms):
        yield HostFile(path="etc/sysctl.conf", text=_FORWARDING, how=How.BLOCK)


def _switch(name: str, number: int) -> SwitchBlock:
    return SwitchBlock(name=name, number=number, rdomain=number)


def _files_of_network(network: Network, wish: Wish, numbers: Numbers, secrets: Secrets) -> Iterable[HostFile]:
    """Yield the interfaces of one network; those of tunnels hold keys."""
    number = numbers.network(network)
    yield HostFile(path=f"etc/hostname.lo{number}", text=loopback_file(number), mode=0o640)
    match network.way:
        case Way.WIREGUARD if network.name in secrets.tunnels:
            text = wg_file(number, GROUP, secrets.tunnels[network.name])
            yield HostFile(path=f"etc/hostname.wg{number}", text=text, mode=0o600)
        case Way.OPENVPN if network.name in secrets.clients:
            config = f"{CONF_DIRECTORY}/openvpn/{network.name}.conf"
            text = tun_file(number, GROUP, network.name, f"/{config}", _TUN_PROGRAM)
            yield HostFile(path=config, text=render_config(secrets.clients[network.name]), mode=0o600)
            yield HostFile(path=f"etc/hostname.tun{number}", text=text, mode=0o600)
        case Way.SWITCH:
            yield from _files_of_switch(network, number, wish, numbers)
        case _:
            pass


def _files_of_switch(network: Network, number: int, wish: Wish, numbers: Numbers) -> Iterable[HostFile]:
    # By its number, since a VM's name may hold what dhcpd.conf(5) takes for something else.
    here = [vm for vm in wish.vms if vm.network == network]
    on_it = {f"vm{numbers.vm(vm)}": lladdr(numbers.vm(vm), CLIENT_NIC) for vm in here}
    config = f"{LEASES}/{network.name}.conf"
    try:
        conf = dhcpd_conf(network.address, on_it)
    except ValueError as error:
        raise BadDescription([f"{wish.path}: networks.{network.name}.switch: {error}"]) from None
    leases = f"/var/db/okubsd-{network.name}.leases"
    yield HostFile(path=config, text=conf)
    yield HostFile(path=f"etc/hostname.veb{number}", text=veb_file(number, number, f"vport{number}"), mode=0o640)
    port = vport_file(number, GROUP, network.address, f"/{config}", leases)
    yield HostFile(path=f"etc/hostname.vport{number}", text=port, mode=0o640)


def _files_of(vm: CompiledVm, recipes: Mapping[str, Recipe], now: float) -> Iterable[HostFile]:
    yield from _rules_of(vm.exit, now)
    yield HostFile(path=f"{RECORDS[1:]}/{vm.vm.name}", text=render_record(_record(vm, recipes)))
    if vm.rdomain == vm.number:
        yield HostFile(path=f"etc/hostname.lo{vm.number}", text=loopback_file(vm.number), mode=0o640)
    if vm.vm.network.way is Way.GATEWAY and vm.on_vmd:
        yield HostFile(path=f"etc/hostname.veb{vm.number}", text=veb_file(vm.number, vm.number), mode=0o640)
    if not vm.on_vmd:
        tap = tap_file(vm.number, vm.rdomain, GROUP, vm.owner)
        yield HostFile(path=f"etc/hostname.tap{vm.number}", text=tap, mode=0o640)


def _rules_of(vm: Exit, now: float) -> Iterable[HostFile]:
    yield HostFile(path=f"{ANCHORS}/{vm.name}.conf", text=render_anchor(vm, now), mode=0o600)
    names = render_names(vm, now)
    if names:
        yield HostFile(path=f"{NAMES}/{vm.name}", text=names)


def _record(vm: CompiledVm, recipes: Mapping[str, Recipe]) -> dict[str, str | int]:
    number, network = vm.number, vm.vm.network
    links = [f"lo{vm.rdomain}"]
    links += [vm.exit.out] if network.way in TUNNELS else []
    # The interfaces that are there before vmd puts taps into them.
    links += [f"veb{nic.rdomain}" for nic in vm.nics]
    links += [f"vport{vm.nics[0].rdomain}"] if network.way is Way.SWITCH else []
    return {
        "name": vm.vm.name,
        "owner": vm.owner,
        "number": number,
        "rdomain": vm.rdomain,
        "anchor": anchor_path(vm.vm.name),
        "inner": rules_path(vm.vm.name),
        "group": GROUP,
        "boot": BOOT_IMAGE,
        "base": recipes[vm.vm.image].base,
        "app": vm.vm.image,
        # A disposable VM has no home; its last drive only carries who it is.
        "home": 0 if vm.vm.disposable else vm.vm.home >> 20,
        "backend": "vmd" if vm.on_vmd else "qemu",
        "links": " ".join(links),
        **({"taps": " ".join(str(nic.tap) for nic in vm.nics)} if vm.nics else {}),
        # Ports of a switch that are protected by the same number do not reach each other (veb(4)).
        **({"meets" if network.meet else "protected": _port(vm.nics[0])} if network.way is Way.SWITCH else {}),
        # Whose resolver the names in rules are looked up by, and from which routing table.
        **({"resolver": f"{vm.exit.resolver} {0 if vm.exit.out == UPLINK else vm.rdomain}"} if vm.exit.out else {}),
    }


def _port(nic: Nic) -> str:
    return f"veb{nic.rdomain} tap{nic.tap}"


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
        rdomain=vm.rdomain,
        group=GROUP,
        nics=vm.nics,
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
