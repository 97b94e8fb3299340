"""Run the parts of the tests one after the other, also when one fails, and end in one total.

python tests/parts.py NAME...     of: unit, fast, oldest, vm

A guest with a software CPU, on a busy machine, now and then stands still by itself.  So a few tests with guests that
failed are run once more, alone; the total says which needed that, and one that fails twice has failed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]

# What touches a library, run with the oldest versions of all that setup.py allows.
OLDEST = ("tests/test_transfer.py", "tests/test_safety.py", "tests/test_cli.py", "tests/test_config.py",
          "tests/test_guest.py", "tests/test_host.py", "tests/test_images.py", "tests/openbsd/test_exchange.py")  # fmt: skip

# What calls programs waits for them half of the time; two guests with software CPUs fill two processors.
BUSY, WAITING, GUESTS = "auto", str(2 * (os.cpu_count() or 1)), "2"

# What is run once more, alone, after it failed: a part, and how many of its tests at most.
AGAIN, MOST_AGAIN = "vm", 3

# The arguments of each part for pytest(1).
PARTS: dict[str, tuple[str, ...]] = {
    "unit": ("-m", "not vm and not spawns", "-n", BUSY),
    "fast": ("-m", "spawns and not vm", "-n", WAITING),
    "oldest": ("-m", "not vm", "-n", WAITING, "-p", "no:cacheprovider", *OLDEST),
    "vm": ("-m", "vm", "-n", GUESTS, "--dist", "loadscope"),
}


def interpreter(part: str) -> str:
    """Return the Python that a part runs with."""
    return str(CHECKOUT / (".venv-oldest" if part == "oldest" else ".venv") / "bin/python")


@dataclass(frozen=True)
class Row:
    """How a part went: pytest's exit code, how many tests it ran and skipped, which failed, in how many seconds."""

    part: str
    code: int
    tests: int
    skipped: int
    failed: frozenset[str]
    seconds: float


def read(report: Path) -> tuple[int, int, frozenset[str]]:
    """Return how many tests a JUnit report tells of, how many were skipped, and which failed or had an error."""
    if not report.exists():
        return 0, 0, frozenset()
    cases = list(ET.parse(report).getroot().iter("testcase"))
    failed = [c for c in cases if c.find("failure") is not None or c.find("error") is not None]
    skipped = [c for c in cases if c.find("skipped") is not None]
    names = {f"{case.get('classname')}::{case.get('name')}" for case in failed}
    return len({(c.get("classname"), c.get("name")) for c in cases}), len(skipped), frozenset(names)


def run(part: str, report: Path, *options: str) -> Row:
    """Run one part with ``options`` for pytest(1) beside its own."""
    began = time.monotonic()
    argv = [interpreter(part), "-m", "pytest", *PARTS[part], *options, f"--junitxml={report}"]
    code = subprocess.run(argv, cwd=CHECKOUT, env={**os.environ, "PYTHONPATH": str(CHECKOUT)}, check=False).returncode
    tests, skipped, failed = read(report)
    return Row(part, code, tests, skipped, failed, time.monotonic() - began)


def again(first: Row, report: Path) -> Row | None:
    """Run what failed in ``first`` once more, alone; return how that went, or None where it is not for that."""
    if first.part != AGAIN or first.code != 1 or not 1 <= len(first.failed) <= MOST_AGAIN:
        return None
    print(f"== {first.part}, once more: {', '.join(sorted(first.failed))}", flush=True)
    second = run(first.part, report, "-n", "0", "--last-failed", "--last-failed-no-failures", "none")
    # What was failing is what has to be run: anything else proves nothing.
    return second if second.tests == len(first.failed) else None


def total(rows: list[Row], seconds: dict[str, Row]) -> tuple[str, bool]:
    """Return the table of all ``rows`` with what was run once more, by part, and whether all of it passed."""
    lines = [f"{'part':<8} {'tests':>6} {'failed':>7} {'skipped':>8} {'seconds':>8}"]
    for row in rows:
        lines.append(f"{row.part:<8} {row.tests:>6} {len(row.failed):>7} {row.skipped:>8} {row.seconds:>8.0f}")
    took = sum(row.seconds for row in (*rows, *seconds.values()))
    tests, failed = sum(row.tests for row in rows), sum(len(row.failed) for row in rows)
    lines.append(f"{'total':<8} {tests:>6} {failed:>7} {'':>8} {took:>8.0f}")
    mended = {part for part, row in seconds.items() if row.code == 0}
    for row in rows:
        if row.part in mended:
            lines.append(f"passed when run once more, alone: {', '.join(sorted(row.failed))}")
    bad = [row.part for row in rows if row.code != 0 and row.part not in mended]
    return "\n".join([*lines, *([f"not passed: {', '.join(bad)}"] if bad else [])]), not bad


def main(names: list[str]) -> int:
    """Run the parts ``names`` and print the total; return 0 only where all of them passed."""
    rows, seconds = [], {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in names:
            print(f"== {name}", flush=True)
            rows.append(run(name, Path(scratch) / f"{name}.xml"))
            second = again(rows[-1], Path(scratch) / f"{name}-again.xml")
            if second is not None:
                seconds[name] = second
    table, passed = total(rows, seconds)
    print(f"\n{table}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or list(PARTS)))
