"""A seat: where a VM runs, chosen once, and the answer to everything that differs by it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import msgspec

from okubsd.model import Argv, Vm
from okubsd.plan.gateway import Links
from okubsd.plan.steps.base import Plan, Step
from okubsd.recipe import Recipe

if TYPE_CHECKING:
    from okubsd.plan.facts import HostFacts, VmFacts


class Boot(msgspec.Struct, frozen=True, kw_only=True):
    """What a boot is decided from; ``links`` are those to the VM's gateway, or of a gateway to its clients.

    ``waits`` says that the guest is to stand still when it has booted.
    """

    vm: Vm
    recipes: Mapping[str, Recipe]
    host: HostFacts
    state: VmFacts
    links: Links
    waits: bool = False


class Seat(msgspec.Struct, frozen=True, kw_only=True):
    """Where a VM runs: what every kind of seat answers.

    ``engine`` names the module of host/engine that does it; ``why`` is the reason of the choice, in words, and
    ``root`` whether we are root.
    """

    engine: ClassVar[str] = ""
    # How `status` calls what runs the VM.
    title: ClassVar[str] = ""

    why: str = ""
    root: bool = False

    def reach(self, argv: Argv) -> Argv:
        """Return ``argv`` run where the guest can be reached from."""
        return argv

    def programs(self, vm: Vm) -> tuple[str, ...]:
        """Return the programs that booting ``vm`` takes beside ssh."""
        raise NotImplementedError

    def boot(self, boot: Boot) -> tuple[list[Step], list[Step]]:
        """Return the steps that begin a boot, and those that wait until the guest answers.

        Raises Problem or HostLacks where this seat cannot have the VM.
        """
        raise NotImplementedError

    def shown(self, vm: Vm, run: Path) -> list[Step]:
        """Return what is done once a booted VM shows its window."""
        return []

    def end(self, name: str, run: Path, pid: int | None) -> Plan:
        """Return the steps that end the VM called ``name`` without asking its guest; each passes over what is gone."""
        raise NotImplementedError

    def change_rules(self, vm: Vm, host: HostFacts, state: VmFacts) -> tuple[Plan, str]:
        """Return the steps that put the rules of ``vm`` in force, and what is so then, as a sentence.

        Raises HostLacks where nothing here could hold them.
        """
        raise NotImplementedError

    def told(self, host: HostFacts, vm: Vm) -> list[str]:
        """Return what the user is told at every start, a sentence each."""
        return []

    def weaker_walls(self, vm: Vm, host: HostFacts) -> list[str]:
        """Return what is weaker than it could be for ``vm`` here, a sentence each."""
        return []
