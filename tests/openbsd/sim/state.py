"""What the simulated host remembers between two calls of its programs: one JSON file, held under a lock.

The programs are called thousands of times by the tests, so what they import is little.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict

from .host import ROOT

STATE = ROOT / "sim/state.json"


class SimVm(TypedDict):
    """One VM as vmd got it from vm.conf(5)."""

    name: str
    memory: int
    disks: list[tuple[str, str]]
    owner: str
    tap: str
    rdomain: int
    group: str
    lladdr: str
    local: bool
    ports: list[dict[str, str]]


class Running(TypedDict):
    """A VM that runs: its process, and where its tap came to be."""

    pid: int
    vm: SimVm
    rdomain: int
    group: str
    host: str


class Anchor(TypedDict, total=False):
    """What pf has in one anchor: the text that was loaded, its macros, its rules and its tables."""

    text: str
    macros: dict[str, str]
    rules: list[str]
    tables: list[str]


class State:
    """All of it; tests put faults in by name.

    ``vmd`` is None where it was never started; ``rc`` is what starts at boot, ``calls`` what some programs were asked.
    ``ahead`` are the seconds by which the clock is, ``dns`` the answers to names.
    """

    def __init__(self, **kept: Any) -> None:
        self.vms: dict[str, SimVm] = {}
        self.ids: dict[str, int] = {}
        self.running: dict[str, Any] = {}
        self.anchors: dict[str, Anchor] = {}
        self.tables: dict[str, list[str]] = {}
        self.queues: list[str] = []
        self.queue_lines: list[str] = []
        self.interfaces: dict[str, list[str]] = {}
        self.protected: dict[str, dict[str, int]] = {}
        self.holders: dict[str, int] = {}
        self.paused: list[str] = []
        self.jobs: list[Any] = []
        self.sysctl: dict[str, str] = {}
        self.rc: list[str] = []
        self.calls: list[str] = []
        self.faults: dict[str, Any] = {}
        self.vmd: bool | None = None
        self.socket_group: str | None = None
        self.virtio = "modern"
        self.ahead = 0
        self.dns: dict[str, Any] = {}
        unknown = kept.keys() - vars(self).keys()
        if unknown:
            raise ValueError(f"the simulator knows no {sorted(unknown)}")
        vars(self).update(kept)


@contextlib.contextmanager
def state() -> Iterator[State]:
    """Hold the state, and keep what was changed in it."""
    STATE.parent.mkdir(parents=True, exist_ok=True)
    with (STATE.parent / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = STATE.read_text() if STATE.exists() else ""
        found = State(**json.loads(before or "{}"))
        yield found
        after = json.dumps(vars(found), indent=1)
        if after != before:
            made = STATE.with_name(f"state.{os.getpid()}")
            made.write_text(after)
            made.replace(STATE)


def alive(pid: int) -> bool:
    """Return whether ``pid`` is a process that has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def running(s: State) -> dict[str, Any]:
    """Return the VMs that run, after forgetting those that ended."""
    s.running = {name: vm for name, vm in s.running.items() if alive(vm["pid"])}
    return s.running
