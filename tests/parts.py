"""Run the parts of the tests one after the other, also when one fails, and end in one total.

python tests/parts.py NAME...     of: unit, fast, oldest, vm

A guest with a software CPU, on a busy machine, now and then stands still by itself.  So a few tests with guests that
failed are run once more, alone; the total says which needed that, and one that fails twice has failed.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]

# What touches a library, run with the oldest versions of all that setup.py allows.
OLDEST = ("tests/test_transfer.py", "tests/test_safety.py", "tests/test_cli.py", "tests/test_config.py",
          "tests/test_guest.py", "tests/test_host.py", "tests/test_images.py", "tests/openbsd/test_exchange.py")  # fmt: skip

# What calls programs waits for them half of the time; two guests with software CPUs fill two processors.
BUSY, WAITING, GUESTS = "auto", str(2 * (os.cpu_count() or 1)), "2"

# Where the VMs of the tests have their images (tests/vm/conftest.py).
STORE = CHECKOUT / "out/tests"

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
    """How a part went: pytest's exit code, its tests by their names with what became of each, in how many seconds.

    What becomes of a test is "" where it passed, else the words of JUnit's reports: "skipped", "failure", "error".
    """

    part: str
    code: int
    cases: dict[str, str]
    seconds: float

    def count(self, *became: str) -> int:
        return sum(each in became for each in self.cases.values())

    @property
    def failed(self) -> list[str]:
        return sorted(name for name, became in self.cases.items() if became in ("failure", "error"))


def read(report: Path) -> dict[str, str]:
    """Return the tests that a JUnit report tells of, by node id, and what became of each.

    A test that failed and whose end had an error, too, failed.
    """
    found: dict[str, str] = {}
    for case in ET.parse(report).getroot().iter("testcase") if report.exists() else ():
        name = f"{str(case.get('classname')).replace('.', '/')}.py::{case.get('name')}"
        became = next((tag for tag in ("failure", "error", "skipped") if case.find(tag) is not None), "")
        found[name] = became if found.get(name) != "failure" else "failure"
    return found


def run(part: str, report: Path, *only: str) -> Row:
    """Run one part, or of it the tests ``only``, one after the other."""
    began = time.monotonic()
    argv = [
        interpreter(part),
        "-m",
        "pytest",
        *PARTS[part],
        *(("-n", "0", *only) if only else ()),
        f"--junitxml={report}",
    ]
    code = subprocess.run(argv, cwd=CHECKOUT, env={**os.environ, "PYTHONPATH": str(CHECKOUT)}, check=False).returncode
    return Row(part, code, read(report), time.monotonic() - began)


def collected(part: str) -> set[str]:
    """Return the node ids of the tests that a part has."""
    options = [word for word in PARTS[part] if word not in ("-n", GUESTS, "--dist", "loadscope")]
    argv = [interpreter(part), "-m", "pytest", *options, "-q", "--collect-only"]
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(argv, cwd=CHECKOUT, env=env, capture_output=True, text=True, check=False)
    return {line for line in done.stdout.splitlines() if "::" in line}


def deserves_another(first: Row, tests: set[str]) -> bool:
    """Return whether a part of ``tests`` that failed is run once more.

    All of it was run, and a few tests failed by themselves: not a worker, and not what comes after them.
    """
    a_few = first.part == AGAIN and first.code == 1 and 1 <= len(first.failed) <= MOST_AGAIN
    return a_few and first.cases.keys() == tests and first.count("error") == 0


def is_mended(first: Row, second: Row) -> bool:
    """Return whether all that failed the ``first`` time, and nothing else, was run again and passed."""
    return second.code == 0 and second.cases == dict.fromkeys(first.failed, "")


def total(rows: list[Row], seconds: dict[str, Row]) -> tuple[str, bool]:
    """Return the table of all ``rows`` with what was run once more, by part, and whether all of it passed."""
    lines = [f"{'part':<8} {'tests':>6} {'failed':>7} {'skipped':>8} {'seconds':>8}"]
    for row in rows:
        skipped = row.count("skipped")
        lines.append(f"{row.part:<8} {len(row.cases):>6} {len(row.failed):>7} {skipped:>8} {row.seconds:>8.0f}")
    took = sum(row.seconds for row in (*rows, *seconds.values()))
    tests, failed = sum(len(row.cases) for row in rows), sum(len(row.failed) for row in rows)
    lines.append(f"{'total':<8} {tests:>6} {failed:>7} {'':>8} {took:>8.0f}")
    mended = [row.part for row in rows if row.part in seconds and is_mended(row, seconds[row.part])]
    for row in rows:
        if row.part in mended:
            lines.append(f"passed when run once more, alone: {', '.join(row.failed)}")
    bad = [row.part for row in rows if row.code != 0 and row.part not in mended]
    return "\n".join([*lines, *([f"not passed: {', '.join(bad)}"] if bad else [])]), not bad


@contextlib.contextmanager
def compiling(names: list[str], config: Path) -> Iterator[subprocess.Popen[bytes] | None]:
    """Have the guests' kernel compiled beside the parts before those with guests, in what processors have left.

    Yield who does it, None where no part comes before.  What it says is in out/tests/kernel.log; where it fails, the
    guests' part builds it once more and tells why.  ``config`` is a directory without a description.
    """
    if "vm" not in names[1:]:
        yield None
        return
    STORE.mkdir(parents=True, exist_ok=True)
    of_user = ("OKUBSD_CONFIG", "LANG", "LC_ALL", "LC_MESSAGES")
    env = {key: value for key, value in os.environ.items() if key not in of_user}
    env |= {"PYTHONPATH": str(CHECKOUT), "OKUBSD_STATE": str(STORE / "state"), "XDG_CONFIG_HOME": str(config)}
    argv = ["nice", "-n", "15", interpreter("vm"), "-m", "okubsd", "image", "build", "kernel"]
    with (STORE / "kernel.log").open("wb") as log:
        child = subprocess.Popen(argv, cwd=config, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield child
    finally:
        child.terminate()
        child.wait()


def main(names: list[str]) -> int:
    """Run the parts ``names`` and print the total; return 0 only where all of them passed."""
    rows, seconds = [], {}
    with tempfile.TemporaryDirectory() as scratch, compiling(names, Path(scratch)) as kernel:
        for name in names:
            print(f"== {name}", flush=True)
            if name == "vm" and kernel is not None:
                kernel.wait()
            rows.append(run(name, Path(scratch) / f"{name}.xml"))
            if rows[-1].code == 1 and name == AGAIN and deserves_another(rows[-1], collected(name)):
                print(f"== {name}, once more: {', '.join(rows[-1].failed)}", flush=True)
                seconds[name] = run(name, Path(scratch) / f"{name}-again.xml", *rows[-1].failed)
    table, passed = total(rows, seconds)
    print(f"\n{table}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or list(PARTS)))
