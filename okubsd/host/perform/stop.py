"""The steps of a stop: what is asked of the guest, and what is left to clean up."""

from __future__ import annotations

import signal

from okubsd import layout
from okubsd.guest.ssh import disconnect_argv
from okubsd.host import door, locks, running
from okubsd.host.engine import engine
from okubsd.host.performance import Performance
from okubsd.host.sockets import listener_pid
from okubsd.host.waiting import wait_until
from okubsd.model import Vm
from okubsd.plan import steps

# In seconds: what a call of ssh gets, and an X server to end.
_SSH_CALL, _KILL = 10, 5


def power_off(step: steps.PowerOff, performance: Performance) -> None:
    """Ask the guest to power off; what it does not do in time is done without it, and told."""
    if (step.run / layout.SSH_CONFIG).exists():
        door.ask(step.argv, timeout=min(_SSH_CALL, step.patience))
        if engine(step.engine).gone(step.name, step.run, step.patience):
            return
    performance.report(f"{step.name}: the guest does not power off by itself; its home is not unmounted cleanly")


def clean_up(step: steps.CleanUp, performance: Performance) -> None:
    """End the VM's ssh connections and X server, and empty its run directory."""
    run = performance.places.vm_run(step.name)
    for who in ("user", "root"):
        # Whoever listens there may have forked since it began to, so it is asked rather than killed by its pid.
        socket = run / f"{layout.SSH_SOCKET}{who}"
        if socket.exists() and listener_pid(socket) is not None:
            door.ask(disconnect_argv(Vm(name=step.name, image=""), run, user=who), timeout=_SSH_CALL)
    for life in (layout.MIC_LIFE, layout.ATTENDED_LIFE, layout.GLASS_LIFE):
        beside = locks.living_pid(run / life)
        if beside is not None:
            door.kill(beside, signal.SIGTERM)
    pid = running.live_server(run)
    if pid is not None:
        door.kill(pid, signal.SIGTERM)
        if not wait_until(lambda: not locks.is_alive(run / layout.DISPLAY_LIFE), _KILL, pause=0.02):
            door.kill(pid, signal.SIGKILL)
    for path in run.iterdir() if run.is_dir() else ():
        path.unlink(missing_ok=True)
