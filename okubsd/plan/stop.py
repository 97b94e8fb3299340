"""Decide how a VM is stopped: its guest is asked, then what runs it is ended, then what hung on it is cleaned up."""

from __future__ import annotations

from okubsd.guest.ssh import power_off_argv
from okubsd.model import Vm
from okubsd.plan.facts import VmFacts
from okubsd.plan.steps import Plan, PowerOff

# How many seconds a guest gets to power off.
PATIENCE = 20


def plan_stop(vm: Vm, state: VmFacts, *, force: bool = False, patience: int = PATIENCE) -> Plan:
    """Return the steps that stop a running ``vm``, () where it does not run.

    ``force`` leaves out to ask its guest, which gets ``patience`` seconds otherwise.
    """
    if state.seat is None:
        return ()
    argv = state.seat.reach(power_off_argv(vm, state.run))
    asked = PowerOff(name=vm.name, run=state.run, argv=argv, patience=patience, engine=state.seat.engine)
    return (*(() if force else (asked,)), *state.seat.end(vm.name, state.run, state.pid))
