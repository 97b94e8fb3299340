"""Measure the compiler: how long, and how much memory, for many VMs; and what `list` costs with as many."""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from pathlib import Path

from okubsd.bench.common import Rows
from okubsd.errors import Problem
from okubsd.host import door, programs
from okubsd.model import Argv

# rdomain(4) has numbers for 255 networks, so many VMs are those of several hosts.
_PER_HOST = 250
_IMPORTS = "import yaml, msgspec, click"


def describe(first: int, count: int, numbers: str) -> str:
    """Return a description of ``count`` VMs whose names begin at ``first``."""
    top = f"host: {{owner: alice, numbers: {numbers}}}\nvms:\n"
    return top + "".join(
        f"  vm{number}: {{image: term, memory: 512M, network: {'none' if number % 3 else 'nat'}}}\n"
        for number in range(first, first + count)
    )


def measure(count: int, rounds: int) -> Rows:
    """Return the figures of compiling ``count`` VMs, a value a round.  Raises Problem where a call fails."""
    rows: Rows = {}
    with tempfile.TemporaryDirectory(prefix="okubsd-bench-") as name:
        top = Path(name)
        hosts = [min(_PER_HOST, count - at) for at in range(0, count, _PER_HOST)]
        for index, vms in enumerate(hosts):
            (top / f"host{index}.yaml").write_text(describe(index * _PER_HOST, vms, "1-255"))
        (top / "all.yaml").write_text(describe(0, count, "1-255"))
        for number in range(rounds):
            spent = 0.0
            for index in range(len(hosts)):
                spent += _seconds(_okubsd(top / f"host{index}.yaml", "render", str(top / f"tree{number}-{index}")))
            _add(rows, f"{count} VMs rendered and checked, {len(hosts)} hosts (s)", spent)
            _add(rows, "  peak memory of that (MiB)", _peak_memory())
            _add(rows, f"python -c '{_IMPORTS}' (s)", _seconds((sys.executable, "-c", _IMPORTS)))
            _add(rows, f"okubsd list, {count} VMs (s)", _seconds(_okubsd(top / "all.yaml", "list")))
    names = list(rows)
    rows["RATIO list to the imports"] = [a / b for a, b in zip(rows[names[3]], rows[names[2]], strict=True)]
    return rows


def _add(rows: Rows, name: str, value: float) -> None:
    rows.setdefault(name, []).append(value)


def _okubsd(description: Path, *args: str) -> Argv:
    return programs.okubsd_argv("-q", "-f", str(description), *args)


def _seconds(argv: Argv) -> float:
    start = time.monotonic()
    # One core, as the goal has it.
    done = door.run(("taskset", "-c", "0", *argv) if programs.find_program("taskset") else argv, timeout=300)
    if done.code != 0:
        raise Problem(f"{' '.join(argv[-3:])} failed while it was measured: {door.reason(done)}")
    return time.monotonic() - start


def _peak_memory() -> float:
    """Return the peak resident memory, in MiB, of the largest child so far."""
    unit = 1 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit / (1 << 20)


def describe_host() -> str:
    """Return the date and the machine, in a line."""
    return f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, {os.uname().sysname} {os.uname().release}"
