"""Tell how a VM would be stopped."""

from __future__ import annotations

import shlex

from okubsd.guest.ssh import power_off_argv
from okubsd.model import Vm
from okubsd.network.user import enter_argv
from okubsd.plan.facts import VmFacts


def plan_stop(vm: Vm, state: VmFacts, *, force: bool, root: bool) -> str:
    """Return the ways of stopping ``vm``, in the order they are tried, as lines of shell."""
    if state.qemu_pid is None:
        return f"# {vm.name} is not running\n"
    lines = []
    if not force:
        argv = power_off_argv(vm, state.run)
        lines.append(shlex.join(enter_argv(str(state.qemu_pid), argv, root=root) if state.confined else argv))
    lines += [f"# then 'quit' on {state.run / 'qmp'}", f"kill -KILL {state.qemu_pid}  # if that does not end it"]
    return "".join(f"{line}\n" for line in lines)
