"""Give a port of a guest to the host's loopback, and take it back.

ssh(1) listens, in our own network, and talks to the guest inside the VM's shared connection: the guest gains no way
to the host by it, and it ends with the VM.
"""

from __future__ import annotations

import re
from pathlib import Path

from okubsd import layout
from okubsd.errors import Problem, TimedOut, Unreachable
from okubsd.guest.ssh import publish_argv, unpublish_argv
from okubsd.host import door
from okubsd.host.guest import Guest
from okubsd.host.sockets import listener_pid
from okubsd.host.waiting import wait_until
from okubsd.model import Vm

_SOCKET = re.compile(rf"{layout.PUBLISHED}(\d{{1,5}})-(\d{{1,5}})")
_CALL = 20


def published(run: Path) -> dict[int, int]:
    """Return the published ports of the VM with the run directory ``run``: those of the host to those of the guest."""
    found = {}
    for path in run.glob(f"{layout.PUBLISHED}*") if run.is_dir() else ():
        match = _SOCKET.fullmatch(path.name)
        if match and listener_pid(path) is not None:
            found[int(match[1])] = int(match[2])
    return dict(sorted(found.items()))


def publish(guest: Guest, port: int, host_port: int) -> None:
    """Let the host's loopback reach ``port`` of the guest as its own ``host_port``.

    Raises Problem where that is taken, or the guest cannot be reached.
    """
    vm, run = guest.vm, guest.run
    if not guest.connected and guest.ask(("true",), timeout=_CALL).code != 0:
        # It goes through the shared connection, which a first call opens.
        raise Unreachable(f"{vm.name}: the guest cannot be reached by ssh", f"okubsd log {vm.name}")
    if host_port in published(run):
        raise Problem(
            f"{vm.name}: port {host_port} is published already", f"okubsd publish --stop {vm.name} {host_port}"
        )
    socket = run / f"{layout.PUBLISHED}{host_port}-{port}"
    socket.unlink(missing_ok=True)
    done = door.ask(publish_argv(vm, run, socket, port, host_port), timeout=_CALL)
    if done.code == door.GAVE_UP:
        raise TimedOut(f"{vm.name}: port {host_port} was not published within {_CALL} seconds")
    if done.code != 0:
        raise Problem(f"{vm.name}: port {host_port} of this host was not published: {door.reason(done)}")


def is_open(guest: Guest, port: int) -> bool:
    """Return whether somebody in the guest listens on ``port`` of its loopback."""
    return guest.ask(("bash", "-c", f": </dev/tcp/127.0.0.1/{port}"), timeout=_CALL).code == 0


def unpublish(vm: Vm, run: Path, host_port: int) -> bool:
    """Take a port back; return whether it was published."""
    port = published(run).get(host_port)
    if port is None:
        return False
    socket = run / f"{layout.PUBLISHED}{host_port}-{port}"
    door.ask(unpublish_argv(vm, run, socket), timeout=_CALL)
    wait_until(lambda: listener_pid(socket) is None, 5, pause=0.02)
    return True
