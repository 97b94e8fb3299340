"""What root wrote down of the VMs of an OpenBSD host, and vmd's own table of them."""

from __future__ import annotations

import subprocess
from pathlib import Path

from okubsd import layout
from okubsd.errors import Problem
from okubsd.host import door
from okubsd.host.places import Places
from okubsd.host.system import HostRoot
from okubsd.vmd.control import VmStatus, parse_answer, parse_status, status_argv
from okubsd.vmd.helper import Record, parse_record

# vmctl waits for acknowledgements that can get lost; no call of it is waited for longer than this, in seconds.
CALL_SECONDS = 30


def read_record(places: Places, name: str) -> Record | None:
    """Return what root wrote down of the VM, or None."""
    stat = HostRoot(places.system).read(f"{layout.RECORDS}/{name}")
    return parse_record(stat.text) if stat else None


def ask_status(name: str = "") -> tuple[VmStatus, ...]:
    """Return what vmd says of its VMs, or of the one called ``name``; () where it knows of none.

    Raises Problem where vmd does not answer or says what nobody understands.
    """
    try:
        done = door.run(status_argv(name), timeout=CALL_SECONDS)
    except subprocess.TimeoutExpired:
        raise Problem("vmd does not answer", "doas rcctl check vmd") from None
    if done.code != 0 and done.err:
        answer = parse_answer(done.code, done.err.decode(errors="replace"))
        raise Problem(f"vmctl status: {answer.outcome}: {answer.words}", answer.hint)
    try:
        rows = parse_status(done.out.decode(errors="replace"))
    except ValueError as error:
        raise Problem(str(error)) from None
    return tuple(row for row in rows if not name or row.name == name)


def status_of(name: str) -> VmStatus | None:
    """Return what vmd says of the VM called ``name``, or None where it does not know it."""
    return next(iter(ask_status(name)), None)


def sysctl(name: str) -> str:
    """Return the value of a sysctl(8), "" where there is none."""
    done = door.run(("sysctl", "-n", name), timeout=10)
    return done.out.decode(errors="replace").strip() if done.code == 0 else ""


def usable_memory() -> int:
    """Return the bytes of memory that this OpenBSD has for programs, 0 where it cannot be told."""
    text = sysctl("hw.usermem")
    return int(text) if text.isdigit() else 0


def tsc_khz() -> int | None:
    """Return the rate of the host's time stamp counter in kHz, or None where it does not say."""
    text = sysctl("machdep.tscfreq")
    return int(text) // 1000 if text.isdigit() and int(text) >= 1000 else None


def read_head(path: str) -> bytes | None:
    """Return the first 64 KiB of a file, or None where there is none."""
    try:
        with Path(path).open("rb") as stream:
            return stream.read(1 << 16)
    except (FileNotFoundError, IsADirectoryError):
        return None
