"""The vm.conf(5) text of okubsd."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from okubsd.vmd.conf import Disk

HEADER = "# Written by okubsd from okubsd.yaml; 'okubsd apply' writes it anew.\n"


class VmBlock(msgspec.Struct, frozen=True, kw_only=True):
    """What one vm block says: ``memory`` in MB, ``number`` is that of its tap and rdomain."""

    name: str
    memory: int
    disks: tuple[Disk, ...]
    owner: str
    number: int
    group: str


def render_conf(blocks: Iterable[VmBlock], control_group: str, staggered: tuple[int, int]) -> str:
    """Return the whole included vm.conf; ``staggered`` is how many VMs vmd starts at once, and the seconds between."""
    parallel, delay = staggered
    top = f'{HEADER}socket owner ":{control_group}"\nstaggered start parallel {parallel} delay {delay}\n'
    return top + "".join("\n" + render_block(block) for block in blocks)


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
        f"\t\trdomain {block.number}\n"
        f'\t\tgroup "{block.group}"\n'
        f"\t\tlocked lladdr {lladdr(block.number)}\n"
        "\t}\n"
        "}\n"
    )


def lladdr(number: int) -> str:
    """Return the fixed Ethernet address of the VM with ``number``; vmd's own random ones begin with fe:e1:bb:d."""
    return f"fe:e1:bb:01:{number:02x}:01"
