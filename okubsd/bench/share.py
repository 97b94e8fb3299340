"""Measure a shared directory: many small files and a large one, read by the guest, beside sftp(1) and cp."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from okubsd import layout
from okubsd.bench.common import Rows, called, seconds
from okubsd.errors import Problem
from okubsd.host.session import Session
from okubsd.model import Argv, Description

_VM = "bench-share"
_DESCRIBED = "vms: {%s: {image: term, memory: 512M, home: 3G, network: none, keep: yes}}\n"
# How many small files there are, in how many directories, what each has; and the large one, in bytes.
_FILES, _DIRECTORIES, _SMALL, _LARGE, _BLOCK = 10_000, 100, b"a line\n" * 200, 1 << 30, 1 << 20
# What a guest reads, and drops.
_READ = 'find "$HOME/$1" -type f -exec cat {} + >/dev/null'


def lay(top: Path) -> None:
    """Make what is shared: ``top``/small and ``top``/large."""
    for number in range(_FILES):
        directory = top / f"small/{number % _DIRECTORIES}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{number}").write_bytes(_SMALL)
    (top / "large").mkdir()
    with (top / "large/file").open("wb") as stream:
        for _ in range(_LARGE // _BLOCK):
            stream.write(os.urandom(_BLOCK))


def measure(session: Session, rounds: int) -> Rows:
    """Return the figures, a value a round.  Raises Problem where a call fails."""
    rows: Rows = {}
    with tempfile.TemporaryDirectory(prefix="okubsd-bench-") as scratch:
        top = Path(scratch)
        (top / "okubsd.yaml").write_text(_DESCRIBED % _VM)
        own = Session.of(session.places, Description(top / "okubsd.yaml", ()), session.recipes, session.report)
        lay(top)
        try:
            seconds(called(own, "start", _VM, "--no-app"))
            for _ in range(rounds):
                for name, value in _round(own, top).items():
                    rows.setdefault(name, []).append(value)
        finally:
            # What went wrong before says more than that there is nothing to end.
            with contextlib.suppress(Problem):
                seconds(called(own, "stop", "-f", _VM))
                seconds(called(own, "rm", "--yes", _VM))
    names = list(rows)
    for share, other in zip(names[::2], names[1::2], strict=True):
        ratios = [one / two for one, two in zip(rows[share], rows[other], strict=True)]
        rows[f"RATIO {share.split(',')[0]}"] = ratios
    return rows


def _round(session: Session, top: Path) -> dict[str, float]:
    config, batch = session.places.vm_run(_VM) / layout.SSH_CONFIG, top / "batch"
    batch.write_text(f"mkdir copied\nput -r {top}/small copied\n")
    found = {f"{_FILES} small files, by the share (s)": _read(session, top / "small")}
    found["  the same, by sftp(1) (s)"] = seconds(("sftp", "-q", "-F", str(config), "-b", str(batch), _VM))
    found["a file of 1 GB, by the share (s)"] = _read(session, top / "large")
    found["  the same, by okubsd cp (s)"] = seconds(called(session, "cp", f"{top}/large/file", f"{_VM}:file"))
    seconds(_run(session, "rm", "-rf", "copied", "file"))
    return found


def _read(session: Session, directory: Path) -> float:
    """Share a directory anew, so that nothing of it is known there, and return how long the guest reads it."""
    seconds(called(session, "share", _VM, str(directory)))
    spent = seconds(_run(session, "sh", "-c", _READ, "sh", directory.name))
    seconds(called(session, "unshare", _VM, str(directory)))
    return spent


def _run(session: Session, *words: str) -> Argv:
    return called(session, "run", _VM, "--", *words)
