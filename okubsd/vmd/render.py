"""The vm.conf(5) text of okubsd."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from okubsd.vmd.conf import Disk

HEADER = "# Written by okubsd from okubsd.yaml; 'okubsd apply' writes it anew.\n"


class Nic(msgspec.Struct, frozen=True, kw_only=True):
    """A NIC on a switch: its tap's number, the switch, the rdomain, and the guest's Ethernet address on it."""

    tap: int
    switch: str
    rdomain: int
    lladdr: str


class SwitchBlock(msgspec.Struct, frozen=True, kw_only=True):
    """A switch: its name, the number of its veb(4), and the rdomain of that."""

    name: str
    number: int
    rdomain: int


class VmBlock(msgspec.Struct, frozen=True, kw_only=True):
    """What one vm block says: ``memory`` in MB, ``number`` is that of its tap, ``nics`` are on switches."""

    name: str
    memory: int
    disks: tuple[Disk, ...]
    owner: str
    number: int
    rdomain: int
    group: str
    nics: tuple[Nic, ...] = ()


def render_conf(
    blocks: Iterable[VmBlock], control_group: str, staggered: tuple[int, int], switches: Iterable[SwitchBlock] = ()
) -> str:
    """Return the whole included vm.conf; ``staggered`` is how many VMs vmd starts at once, and the seconds between."""
    parallel, delay = staggered
    top = f'{HEADER}socket owner ":{control_group}"\nstaggered start parallel {parallel} delay {delay}\n'
    top += "".join("\n" + render_switch(switch) for switch in switches)
    return top + "".join("\n" + render_block(block) for block in blocks)


def render_switch(switch: SwitchBlock) -> str:
    """Return one switch block; vmd sets the rdomain of its interface, to 0 where none is said (observed)."""
    return f'switch "{switch.name}" {{\n\tinterface veb{switch.number}\n\trdomain {switch.rdomain}\n}}\n'


def render_block(block: VmBlock) -> str:
    """Return one vm block.

    `disable`: vmd starts every VM that is not disabled as soon as it reads of it, before its drives and
    its anchor are ready.  Every option stands on a line of its own and every path in quotes (parse.y).
    """
    disks = "".join(f'\tdisk "{disk.path}" format "{disk.format}"\n' for disk in block.disks)
    return (
        f'vm "{block.name}" {{\n'
        "\tdisable\n"
        f"\tmemory {block.memory}M\n"
        f"{disks}"
        f'\towner "{block.owner}"\n'
        f"\tlocal interface tap{block.number} {{\n"
        f"\t\trdomain {block.rdomain}\n"
        f'\t\tgroup "{block.group}"\n'
        f"\t\tlocked lladdr {lladdr(block.number)}\n"
        "\t}\n" + "".join(_nic(nic, block.group) for nic in block.nics) + "}\n"
    )


def _nic(nic: Nic, group: str) -> str:
    return (
        f"\tinterface tap{nic.tap} {{\n"
        f'\t\tswitch "{nic.switch}"\n'
        f"\t\trdomain {nic.rdomain}\n"
        f'\t\tgroup "{group}"\n'
        f"\t\tlocked lladdr {nic.lladdr}\n"
        "\t}\n"
    )


def lladdr(number: int, nic: int = 1) -> str:
    """Return the fixed Ethernet address of the VM with ``number``; vmd's own random ones begin with fe:e1:bb:d.

    ``nic`` tells its NICs apart: 1 is the host's way in.
    """
    return f"fe:e1:bb:01:{number:02x}:{nic:02x}"
