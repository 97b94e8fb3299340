"""Tell how a VM would be stopped."""

from __future__ import annotations

import shlex

from okubsd.guest.ssh import power_off_argv
from okubsd.model import Argv, Vm
from okubsd.plan.backend import reach
from okubsd.plan.facts import VmFacts
from okubsd.vmd.control import stop_argv
from okubsd.vmd.helper import Verb, helper_argv


def plan_stop(vm: Vm, state: VmFacts, *, force: bool, root: bool) -> str:
    """Return the ways of stopping ``vm``, in the order they are tried, as lines of shell."""
    if not state.running:
        return f"# {vm.name} is not running\n"
    lines = [] if force else [shlex.join(reach(state, power_off_argv(vm, state.run), root=root))]
    if state.on_vmd:
        lines += [shlex.join(argv) for argv in stop_argvs(vm.name)]
        lines.append(shlex.join(helper_argv(Verb.CLOSE, vm.name, root=root)))
    else:
        lines += [f"# then 'quit' on {state.run / 'qmp'}", f"kill -KILL {state.qemu_pid}  # if that does not end it"]
    return "".join(f"{line}\n" for line in lines)


def stop_argvs(name: str) -> tuple[Argv, Argv]:
    """Return the calls of vmctl that end a VM which does not power off by itself: asked, then forced."""
    return stop_argv(name, force=False), stop_argv(name, force=True)
