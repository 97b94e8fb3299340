"""The steps of a stop: the guest is asked, then what runs it, then the kernel; what hung on it is cleaned up."""

from __future__ import annotations

import shlex
from pathlib import Path

from okubsd.plan.steps.base import Step


class PowerOff(Step, frozen=True, kw_only=True):
    """Ask the guest of the VM ``name`` to power off, and wait up to ``patience`` seconds until it did."""

    name: str
    run: Path
    patience: int
    engine: str


class EndQemu(Step, frozen=True, kw_only=True):
    """End the QEMU of the VM ``name`` if it runs: by its monitor at ``qmp``, then by SIGKILL to ``pid``."""

    name: str
    run: Path
    qmp: Path
    pid: int | None

    def show(self) -> str:
        kill = f"\nkill -KILL {self.pid}  # if that does not end it" if self.pid is not None else ""
        return f"# then 'quit' on {self.qmp}{kill}"


class EndVmd(Step, frozen=True, kw_only=True):
    """Have vmd stop the VM ``name`` if it runs by ``argv``, then by force."""

    name: str
    force: tuple[str, ...]

    def show(self) -> str:
        return f"{shlex.join(self.argv)}\n{shlex.join(self.force)}"


class CloseNetwork(Step, frozen=True, kw_only=True):
    """Have the helper shut the network of the VM ``name``; what it says when it cannot is told, and hinders nothing."""

    name: str


class CleanUp(Step, frozen=True, kw_only=True):
    """End the ssh connections and the X server of the VM ``name``, and empty its run directory."""

    name: str

    def show(self) -> str:
        return f"# end what is left of {self.name}: ssh connections, its X server, sockets"
