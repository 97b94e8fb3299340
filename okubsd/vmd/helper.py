"""The one program that runs as root for an ordinary user, and the doas.conf(5) line that allows it.

Both come from here, so that what is called is what is allowed.  doas cannot match arguments by pattern:
the helper takes a verb and a VM's name, and looks everything else up in files of root's.
"""

from __future__ import annotations

import enum

import msgspec

from okubsd import layout
from okubsd.model import Argv

# The per-VM files that the helper looks things up in (okubsd(8), FILES), as the host's own programs call them.
RECORDS, DRIVES, IMAGES = f"/{layout.RECORDS}", f"/{layout.DRIVES}", f"/{layout.SYSTEM_IMAGES}"


class Verb(enum.StrEnum):
    """What the helper does for a VM."""

    CREATE = "create"  # its drives, so that vm.conf can name them
    PREPARE = "prepare"  # fresh overlays, the identity from stdin, loopback, an anchor that blocks all
    OPEN = "open"  # look at the tap, load the final anchor; print the guest's address
    EXPIRE = "expire"  # take out rules whose time is over
    CLOSE = "close"  # block all, kill its states
    SHAPE = "shape"  # load the queues of the interfaces that are there
    REMOVE = "remove"  # flush its anchor


def helper_argv(verb: Verb, name: str, *, root: bool) -> Argv:
    """Return the call of the helper: by doas(1), which fails rather than asks, unless we are ``root``."""
    call = (layout.HELPER, verb.value, name)
    return call if root else ("doas", "-n", *call)


def doas_line(group: str) -> str:
    """Return the line of doas.conf(5) that lets the members of ``group`` call the helper."""
    return f"permit nopass :{group} as root cmd {layout.HELPER}\n"


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What root wrote down of one VM: ``home`` in MB, 0 for a disposable one; ``backend`` is "vmd" or "qemu".

    ``links`` are the interfaces that have to be there before it starts, ``taps`` the numbers of its taps on
    switches, ``anchor`` and ``inner`` the paths of its anchor and of the one inside that holds its rules,
    ``protected`` the port that reaches no other or ``meets`` one that does, ``resolver`` where and from
    which routing table the names in its rules are looked up.
    """

    name: str
    owner: str
    number: int
    group: str
    boot: str
    base: str
    app: str
    home: int
    backend: str = "vmd"
    rdomain: int = 0
    anchor: str = ""
    inner: str = ""
    links: str = ""
    taps: str = ""
    protected: str = ""
    meets: str = ""
    resolver: str = ""

    @property
    def table(self) -> int:
        """Return the rdomain that the host reaches the VM in; before there were tunnels it was the VM's number."""
        return self.rdomain or self.number


def opening(record: Record) -> tuple[str, str, str]:
    """Return what the helper does by ``record`` when it opens the network of a VM that runs."""
    return record.protected, record.meets, record.resolver


def parse_record(text: str) -> Record | None:
    """Return the record that ``text`` is, or None where it is none."""
    pairs = dict(line.split(" ", 1) for line in text.splitlines() if " " in line and not line.startswith("#"))
    try:
        return msgspec.convert(pairs, Record, strict=False)
    except msgspec.ValidationError:
        return None


def render_record(values: dict[str, str | int]) -> str:
    """Return the record of one VM: a key and a value a line."""
    return "# Written by okubsd; okubsd-helper reads it.\n" + "".join(
        f"{key} {value}\n" for key, value in values.items()
    )
