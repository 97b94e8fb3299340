"""The files that a gateway is told at its start; its tunnel's keys go from the file to the guest only."""

from __future__ import annotations

import time
from pathlib import Path

from okubsd.guest.cpio import Entry
from okubsd.model import Vm
from okubsd.plan.gateway import GatewayConf, gateway_entries


def entries_of(vm: Vm, conf: GatewayConf | None) -> tuple[Entry, ...]:
    """Return what a gateway is told of the VMs behind it, () of a VM that is none."""
    if conf is None:
        return ()
    from okubsd.host import tunnels

    tunnel = tunnels.read_tunnel(Path(vm.tunnel)) if vm.tunnel else None
    return gateway_entries(conf, tunnel, time.time())
