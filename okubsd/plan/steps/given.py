"""The steps by which a guest that runs is given something of this host."""

from __future__ import annotations

import shlex
from pathlib import Path

from okubsd.display.orders import Attending
from okubsd.model import Share, Vm
from okubsd.plan.steps.base import Step


class Publish(Step, frozen=True, kw_only=True):
    """Give ``port`` of the guest to this host's loopback as ``host_port``."""

    vm: Vm
    host_port: int
    port: int


class BeginShare(Step, frozen=True, kw_only=True):
    """Have a directory of this host in the guest, as ``share`` of its description wishes."""

    vm: Vm
    share: Share

    def show(self) -> str:
        way = ("--rw",) if self.share.writable else ()
        place = ("--at", self.share.at) if self.share.at else ()
        return shlex.join(("okubsd", "share", *way, *place, self.vm.name, self.share.path))


class Attend(Step, frozen=True, kw_only=True):
    """Start what hears the guest of ``vm``: what it asks of this host, and what it plays."""

    vm: Vm
    orders: Attending
    log: Path
    run: Path

    def show(self) -> str:
        return shlex.join((*self.argv, self.orders.render())) + " &"
