"""What the simulated host remembers between two calls of its programs: one JSON file, held under a lock."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict

import msgspec

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


class State(msgspec.Struct, omit_defaults=False):
    """All of it; tests put faults in by name.

    ``vmd`` is None where it was never started; ``rc`` is what starts at boot, ``calls`` what some programs were asked.
    ``ahead`` are the seconds by which the clock is, ``dns`` the answers to names.
    """

    vms: dict[str, SimVm] = {}
    ids: dict[str, int] = {}
    running: dict[str, Any] = {}
    anchors: dict[str, Anchor] = {}
    tables: dict[str, list[str]] = {}
    queues: list[str] = []
    queue_lines: list[str] = []
    interfaces: dict[str, list[str]] = {}
    protected: dict[str, dict[str, int]] = {}
    holders: dict[str, int] = {}
    jobs: list[Any] = []
    sysctl: dict[str, str] = {}
    rc: list[str] = []
    calls: list[str] = []
    faults: dict[str, Any] = {}
    vmd: bool | None = None
    socket_group: str | None = None
    virtio: str = "modern"
    ahead: int = 0
    dns: dict[str, Any] = {}


@contextlib.contextmanager
def state() -> Iterator[State]:
    """Hold the state, and keep what was changed in it."""
    STATE.parent.mkdir(parents=True, exist_ok=True)
    with (STATE.parent / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = msgspec.json.decode(STATE.read_bytes(), type=State) if STATE.exists() else State()
        before = msgspec.json.encode(found)
        yield found
        after = msgspec.json.encode(found)
        if after != before:
            made = STATE.with_name(f"state.{os.getpid()}")
            made.write_bytes(msgspec.json.format(after, indent=1))
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
