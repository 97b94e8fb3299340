"""Perform plans: one table says which function does which step, whatever plan the step is of."""

from __future__ import annotations

import importlib
import time
from typing import Any

from okubsd.host.performance import Performance, Timing
from okubsd.plan import steps
from okubsd.plan.steps import Plan, Step

_KEPT, _DISPLAY, _GIVEN, _STOP, _APPLY = (
    f"okubsd.host.perform.{name}" for name in ("kept", "display", "given", "stop", "apply")
)
_QEMU, _VMD = "okubsd.host.engine.qemu", "okubsd.host.engine.vmd"

# Module and function for every step; a module is loaded with the first of its steps.
HOW: dict[type[Step], tuple[str, str]] = {
    steps.BuildImages: (_KEPT, "build_images"),
    steps.VerifyImages: (_KEPT, "verify_images"),
    steps.MakeKeys: (_KEPT, "make_keys"),
    steps.MakeHome: (_KEPT, "make_home"),
    steps.GrowHome: (_KEPT, "grow_home"),
    steps.WriteInitrd: (_KEPT, "write_initrd"),
    steps.WriteSshConfig: (_KEPT, "write_ssh_config"),
    steps.StartQemu: (_QEMU, "run"),
    steps.Resume: ("okubsd.host.saved", "resume"),
    steps.StartUplink: (_QEMU, "join_network"),
    steps.LoadRules: (_QEMU, "load_rules"),
    steps.EndQemu: (_QEMU, "end"),
    steps.Prepare: (_VMD, "prepare"),
    steps.LinkTap: (_VMD, "link_tap"),
    steps.StartVmd: (_VMD, "run"),
    steps.OpenNetwork: (_VMD, "open_network"),
    steps.WaitGuest: (_VMD, "wait_for_guest"),
    steps.CompareClocks: ("okubsd.host.engine.clocks", "compare_clocks"),
    steps.EndVmd: (_VMD, "end"),
    steps.CloseNetwork: (_VMD, "close_network"),
    steps.WaitReady: (_DISPLAY, "wait_ready"),
    steps.WatchClient: (_DISPLAY, "watch_client"),
    steps.StartDisplay: (_DISPLAY, "start_display"),
    steps.StartGlass: (_DISPLAY, "start_glass"),
    steps.WaitDisplay: (_DISPLAY, "wait_display"),
    steps.Disconnect: (_DISPLAY, "disconnect"),
    steps.Connect: (_DISPLAY, "connect"),
    steps.Publish: (_GIVEN, "publish_port"),
    steps.BeginShare: (_GIVEN, "begin_share"),
    steps.Attend: (_GIVEN, "attend"),
    steps.ShowApp: (_DISPLAY, "show_app"),
    steps.PowerOff: (_STOP, "power_off"),
    steps.CleanUp: (_STOP, "clean_up"),
    steps.Call: (_APPLY, "call"),
    steps.Stage: (_APPLY, "stage"),
    steps.Journal: (_APPLY, "keep_journal"),
    steps.Replace: (_APPLY, "replace"),
    steps.Remove: (_APPLY, "remove"),
    steps.Finish: (_APPLY, "finish"),
    steps.Tidy: (_APPLY, "tidy"),
    steps.PutRules: (_APPLY, "put_rules"),
}


def perform_step(step: Step, performance: Performance) -> None:
    """Perform one step.  Raises Problem where it fails."""
    module, function = HOW[type(step)]
    does: Any = getattr(importlib.import_module(module), function)
    does(step, performance)


def perform(plan: Plan, performance: Performance) -> Timing:
    """Perform ``plan`` and return how long its phases took.  Raises Problem where a step fails."""
    began = time.time()
    try:
        for step in plan:
            said = step.progress()
            if said:
                performance.say(said)
            with performance.timed(step.phase):
                perform_step(step, performance)
    finally:
        performance.close()
    return Timing(began, performance.phases)
