"""What a report of a fault is made of: what programs say, and the ends of logs."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from okubsd import layout
from okubsd.errors import Problem
from okubsd.host import door, programs
from okubsd.host.places import Places
from okubsd.host.system import HostRoot
from okubsd.model import Argv, Description
from okubsd.plan.report import LONGEST, Part

_CALL = 20

# What tells how an OpenBSD host stands; none of it changes anything.
_OPENBSD: tuple[Argv, ...] = (
    ("sysctl", "-n", "kern.version"),
    ("vmctl", "status"),
    ("pfctl", "-s", "info"),
    ("pfctl", "-s", "rules", "-a", "*"),
    ("pfctl", "-v", "-s", "queue"),
    ("ifconfig",),
    ("rcctl", "ls", "on"),
)


def host_parts(system: HostRoot) -> Iterator[Part]:
    """Yield what the programs of the host say of it."""
    yield _said(("uname", "-srm"))
    calls = _OPENBSD if programs.find_program("vmctl") else (("qemu-system-x86_64", "--version"),)
    yield from map(_said, calls)
    log = system.path("var/log/daemon")
    if log.exists():
        about = (b"vmd", b"okubsd", b"vm/", b"dhcpd")
        lines = [line for line in _end_of(log).splitlines() if any(word in line.encode() for word in about)]
        yield Part("/var/log/daemon", "\n".join(lines))


def file_parts(system: HostRoot, names: Iterable[str]) -> Iterator[Part]:
    """Yield the files ``names`` as they lie on the host; what may not be read says so."""
    for name in names:
        try:
            stat = system.read(name)
        except Problem as problem:
            yield Part(f"/{name.lstrip('/')}", problem.sentence)
        else:
            yield Part(f"/{name.lstrip('/')}", stat.text if stat else "(not there)")


def log_parts(places: Places, name: str) -> Iterator[Part]:
    """Yield the ends of the logs of the VM called ``name``."""
    for log in layout.LOGS:
        path = places.vm(name) / log
        if path.is_file():
            yield Part(f"{name}: {log}", _end_of(path))


def names_of_hosts(description: Description | None) -> set[str]:
    """Return the names of hosts that a report would tell: this one's, and those in rules."""
    own = socket.gethostname()
    rules = [rule.target for vm in description.vms for rule in vm.rules] if description else []
    return {own, own.partition(".")[0], *(target for target in rules if not target[0].isdigit() and target != "any")}


def _said(argv: Argv) -> Part:
    title = shlex.join(argv)
    if programs.find_program(argv[0]) is None:
        return Part(title, "(not on this host)")
    try:
        done = door.run(argv, timeout=_CALL)
    except subprocess.TimeoutExpired:
        return Part(title, f"(no end within {_CALL} seconds)")
    said = (done.out + done.err).decode(errors="replace")
    return Part(title, said if done.code == 0 else f"{said}(exit {done.code})")


def _end_of(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - LONGEST))
            return stream.read(LONGEST).decode(errors="replace")
    except OSError as error:
        return f"({error.strerror})"
