"""What runs VMs on this host: a module for each engine, all with the same functions.

A seat (okubsd/plan/seats) names its engine; only that module is loaded.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast

from okubsd.host.places import Places
from okubsd.host.session import Session
from okubsd.model import Vm
from okubsd.plan.facts import HostFacts, VmFacts


class Engine(Protocol):
    """What every engine does.  What it does for the steps of a plan is in the table of host/perform."""

    def state(self, places: Places, name: str) -> Mapping[str, Any]:
        """Return where this engine runs the VM called ``name``, and how: fields of VmFacts, none where it does not."""

    def host_facts(self, places: Places) -> Mapping[str, Any]:
        """Return what a boot by this engine has to know of the host: fields of HostFacts."""

    def gone(self, name: str, run: Path, patience: float) -> bool:
        """Return whether the VM ends within ``patience`` seconds."""

    def pause(self, name: str, run: Path) -> None:
        """Have the guest stand still.  Raises Problem where it cannot."""

    def unpause(self, name: str, run: Path) -> None:
        """Have a guest that stands still go on.  Raises Problem where it cannot."""

    def console(self, name: str, run: Path) -> None:
        """Join the terminal with the guest's serial line until the user leaves."""

    def describe(self, session: Session, vm: Vm, host: HostFacts, state: VmFacts) -> Mapping[str, Any]:
        """Return what `status` says of a VM that this engine runs, or would run."""


def engine(name: str) -> Engine:
    """Return the engine called ``name``."""
    return cast(Engine, importlib.import_module(f"okubsd.host.engine.{name}"))
