"""What a look at the host found: all that a plan is decided from."""

from __future__ import annotations

from pathlib import Path

import msgspec

from okubsd.model import Argv, Backend, Image, Network, NetworkKind
from okubsd.plan.seats.base import Seat


class Accelerator(msgspec.Struct, frozen=True):
    """The answer of the accelerator probe: "kvm" or "tcg", and why, in words."""

    name: str
    why: str


class VmFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The state of one VM.

    ``seat`` is where it runs, None where it does not, ``pid`` what the host has for it; ``display`` the number of its
    live X server, ``nested`` whether that has no connection to the desktop, ``glass`` whether its windows are shown
    there, ``attended`` whether somebody hears what it asks and plays; ``connected`` whether the shared ssh connection
    is open; ``home_size`` is that of its home drive in bytes, ``stall`` why a running guest stands still, "" where it
    does not.
    """

    name: str
    directory: Path
    run: Path
    seat: Seat | None = None
    pid: int | None = None
    display: int | None = None
    nested: bool = False
    glass: bool = False
    attended: bool = False
    connected: bool = False
    has_keys: bool = False
    has_home: bool = False
    home_size: int = 0
    stall: str = ""

    @property
    def running(self) -> bool:
        """Return whether it runs."""
        return self.seat is not None


class HostFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the host.

    ``images`` are the current ones by name, ``image_files`` the directory they lie in, ``backends`` what could run a
    VM here.  ``wall`` is "" where VMs can have network namespaces, otherwise why not, and ``uplink`` the same of a way
    out of them.  ``seccomp`` says whether QEMU can filter its system calls, ``usable_memory`` how many bytes there are
    for programs (0: not known), ``taken_memory`` how many of them the VMs of vmd that run may take.
    ``missing`` maps a program that is not there to the command that installs it, ``now`` is seconds since the epoch,
    ``machine`` stands for the QEMU and the CPU that saved states are of, ``saved`` are the names of those that there
    are, in the directory ``pool``.  ``okubsd`` is how we are called again, about a ``description``, ``glass`` what
    shows windows, ``attending`` what hears guests, and ``names_program`` what keeps the addresses of names.
    """

    root: bool
    display: str
    image_files: Path
    images: dict[str, Image]
    accelerator: Accelerator
    wall: str
    uplink: str = ""
    addresses: tuple[str, ...] = ()
    backends: frozenset[Backend] = frozenset({Backend.QEMU})
    seccomp: bool = True
    usable_memory: int = 0
    taken_memory: int = 0
    missing: dict[str, str] = {}
    now: float = 0.0
    okubsd: Argv = ("okubsd",)
    description: str = ""
    glass: Argv = ("okubsd-glass",)
    attending: Argv = ("okubsd-attending",)
    names_program: Path = Path("names")
    machine: str = ""
    saved: frozenset[str] = frozenset()
    pool: Path = Path("pool")

    def weakness(self, network: Network) -> str:
        """Return "" where a VM of ``network`` has a network namespace as its wall, otherwise why not."""
        return self.wall or (self.uplink if network.kind is NetworkKind.NAT else "")
