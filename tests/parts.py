"""Run the parts of the tests one after the other, also when one fails, and end in one total.

python tests/parts.py NAME...     of: unit, fast, oldest, vm
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]

# What touches a library, run with the oldest versions of all that setup.py allows.
OLDEST = ("tests/test_transfer.py", "tests/test_safety.py", "tests/test_cli.py", "tests/test_config.py",
          "tests/test_guest.py", "tests/test_host.py", "tests/test_images.py", "tests/openbsd/test_exchange.py")  # fmt: skip

# What calls programs waits for them half of the time; two guests with software CPUs fill two processors.
BUSY, WAITING, GUESTS = "auto", str(2 * (os.cpu_count() or 1)), "2"

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


def run(part: str, report: Path) -> tuple[int, dict[str, int], float]:
    """Run one part; return its exit code, its counts, and its seconds."""
    began = time.monotonic()
    argv = [interpreter(part), "-m", "pytest", *PARTS[part], f"--junitxml={report}"]
    code = subprocess.run(argv, cwd=CHECKOUT, env={**os.environ, "PYTHONPATH": str(CHECKOUT)}, check=False).returncode
    counts = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
    if report.exists():
        for suite in ET.parse(report).getroot().iter("testsuite"):
            counts = {name: counts[name] + int(suite.get(name, 0)) for name in counts}
    return code, counts, time.monotonic() - began


def main(names: list[str]) -> int:
    """Run the parts ``names`` and print the total; return 0 only where all of them passed."""
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in names:
            print(f"== {name}", flush=True)
            rows.append((name, *run(name, Path(scratch) / f"{name}.xml")))
    print(f"\n{'part':<8} {'tests':>6} {'failed':>7} {'skipped':>8} {'seconds':>8}")
    for name, _, counts, seconds in rows:
        failed = counts["failures"] + counts["errors"]
        print(f"{name:<8} {counts['tests']:>6} {failed:>7} {counts['skipped']:>8} {seconds:>8.0f}")
    total = sum(counts["tests"] for _, _, counts, _ in rows)
    failed = sum(counts["failures"] + counts["errors"] for _, _, counts, _ in rows)
    bad = [name for name, code, _, _ in rows if code != 0]
    print(f"{'total':<8} {total:>6} {failed:>7} {'':>8} {sum(seconds for *_, seconds in rows):>8.0f}")
    if bad:
        print(f"not passed: {', '.join(bad)}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or list(PARTS)))
