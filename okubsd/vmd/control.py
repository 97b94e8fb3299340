"""vmctl(8): its argv, its status table, and what its messages mean.

Source: usr.sbin/vmctl/vmctl.c and main.c of OpenBSD; texts observed on 7.6 to 7.7.  It exits with 0 or 1 only,
and 0 proves little: `status NOSUCH` and a start whose drives are bad both end with 0.
"""

from __future__ import annotations

import enum
import re

import msgspec

from okubsd.config.sizes import parse_size
from okubsd.model import Argv


class Outcome(enum.StrEnum):
    """What a call of vmctl came to."""

    DONE = "done"
    ALREADY = "already so"
    REFUSED = "refused"
    NO_VMD = "vmd is not running"
    NO_ACCESS = "the control socket may not be opened"
    NO_DRIVE = "a drive cannot be opened"
    BAD_DRIVE = "a drive is not what vmd takes"
    NO_FIRMWARE = "the firmware is missing"
    NO_TAP = "the tap device is missing"
    UNKNOWN_VM = "vmd does not know the VM"
    BAD_CONFIG = "the configuration was refused"
    NO_MEMORY = "there is not enough memory"
    OTHER = "failed"


# In this order; the first that is found in stderr decides.  (text, outcome, next step)
_MEANINGS = (
    ("Operation already in progress", Outcome.ALREADY, ""),
    ("could not open disk image(s)", Outcome.NO_DRIVE, "doas okubsd apply  # unless another VM uses the drive"),
    ("vmm bios firmware file not found", Outcome.NO_FIRMWARE, "doas fw_update vmm"),
    ("could not find specified iso image", Outcome.NO_DRIVE, "doas okubsd apply"),
    ("no kernel or disk/cdrom specified", Outcome.UNKNOWN_VM, "doas okubsd apply"),
    ("vmd.sock: No such file or directory", Outcome.NO_VMD, "doas rcctl enable vmd && doas rcctl start vmd"),
    ("vmd.sock: Connection refused", Outcome.NO_VMD, "doas rcctl start vmd"),
    ("vmd.sock: Permission denied", Outcome.NO_ACCESS, "doas usermod -G okubsd $USER  # then log in again"),
    ("pipe closed", Outcome.NO_VMD, "doas tail /var/log/daemon"),
    ("Unknown error: -1", Outcome.BAD_DRIVE, "doas tail /var/log/daemon  # has the reason"),
    ("start vm command failed: No such file or directory", Outcome.NO_TAP, "doas okubsd apply  # makes /dev/tapN"),
    ("command failed: No such file or directory", Outcome.UNKNOWN_VM, "okubsd status"),
    ("Cannot allocate memory", Outcome.NO_MEMORY, "stop another VM, or give this one less memory"),
    ("vm not found", Outcome.UNKNOWN_VM, "doas okubsd apply"),
    ("console not found", Outcome.UNKNOWN_VM, "okubsd status"),
    ("cannot stop vm that is not running", Outcome.ALREADY, ""),
    ("failed: Invalid argument", Outcome.ALREADY, ""),
    ("Operation not permitted", Outcome.REFUSED, "it is another user's VM, unknown to vmd, or was reset too often"),
    ("vmctl: command failed", Outcome.BAD_CONFIG, "doas vmd -n -f /etc/vm.conf  # says what is wrong"),
)  # fmt: skip


class VmctlAnswer(msgspec.Struct, frozen=True):
    """An outcome, vmctl's own words for it, and what to do next ("" for nothing)."""

    outcome: Outcome
    words: str = ""
    hint: str = ""

    @property
    def good(self) -> bool:
        """Return whether what was asked for is so now."""
        return self.outcome in (Outcome.DONE, Outcome.ALREADY)


def parse_answer(code: int, stderr: str) -> VmctlAnswer:
    """Return what a call of vmctl that exited with ``code`` came to; words that nobody knows are kept whole."""
    words = "; ".join(line.removeprefix("vmctl: ").strip() for line in stderr.splitlines() if line.strip())
    if code == 0:
        return VmctlAnswer(Outcome.DONE, words)
    for text, outcome, hint in _MEANINGS:
        if text in stderr:
            return VmctlAnswer(outcome, words, hint)
    return VmctlAnswer(Outcome.OTHER, words or f"vmctl ended with exit code {code}", "its log is /var/log/daemon")


# The state of a VM that stands still; one that was stopped so, or that was to be paused and did not run, has it on.
PAUSED = "paused"


class VmStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One row of `vmctl status`: ``pid`` is None where the VM does not run, ``memory`` the MAXMEM in bytes."""

    id: int
    name: str
    state: str
    owner: str
    pid: int | None
    memory: int
    tty: str = ""

    @property
    def running(self) -> bool:
        """Return whether it runs: a VM can say "paused" and have no process, so only the pid tells."""
        return self.pid is not None

    @property
    def paused(self) -> bool:
        """Return whether it runs and stands still."""
        return self.running and self.state == PAUSED


def parse_status(text: str) -> tuple[VmStatus, ...]:
    """Return the rows of `vmctl status`, read by the names in its header.

    Raises ValueError where the header lacks a column, or a row does not fit it.
    """
    lines = text.splitlines()
    if not lines:
        return ()
    header = lines[0].split()
    missing = {"ID", "PID", "MAXMEM", "OWNER", "STATE", "NAME"} - set(header)
    if missing:
        raise ValueError(f"vmctl status has no column {', '.join(sorted(missing))}")
    return tuple(_row(header, line) for line in lines[1:] if line.strip())


def _row(header: list[str], line: str) -> VmStatus:
    # The name is the last column; nothing before it can hold a blank.
    cells = line.split(maxsplit=len(header) - 1)
    if len(cells) != len(header):
        raise ValueError(f"a row of vmctl status does not fit its header: {line!r}")
    row = dict(zip(header, cells, strict=True))
    return VmStatus(
        id=int(row["ID"]),
        name=row["NAME"],
        state=row["STATE"],
        owner=row["OWNER"],
        pid=int(row["PID"]) if row["PID"].isdigit() else None,
        memory=_scaled(row["MAXMEM"]),
        tty="" if row.get("TTY", "-") == "-" else row["TTY"],
    )


def _scaled(text: str) -> int:
    """Return the bytes of fmt_scaled(3): "66.0M", "1.0G"."""
    match = re.fullmatch(r"(\d+)(?:\.(\d))?([BKMGT]?)", text)
    if match is None:
        return 0
    unit = parse_size(f"1{match[3]}") if match[3] not in ("", "B") else 1
    return int(match[1]) * unit + int(match[2] or 0) * unit // 10


def status_argv(name: str = "") -> Argv:
    """Return vmctl that prints the table."""
    return ("vmctl", "status", *((name,) if name else ()))


def start_argv(name: str) -> Argv:
    """Return vmctl that starts a VM of vm.conf; every flag but -b and -c would make another VM."""
    return ("vmctl", "start", name)


def stop_argv(name: str, *, force: bool, wait: bool = True) -> Argv:
    """Return vmctl that stops a VM: without a vmmci driver in the guest this is a power cut either way."""
    flags = ("f" if force else "") + ("w" if wait else "")
    return ("vmctl", "stop", *((f"-{flags}",) if flags else ()), name)


def pause_argv(name: str) -> Argv:
    """Return vmctl that has a VM stand still: its memory stays, and it takes no processor."""
    return ("vmctl", "pause", name)


def unpause_argv(name: str) -> Argv:
    """Return vmctl that has a VM go on; of one that does not run it fails, and takes a mark away that was left."""
    return ("vmctl", "unpause", name)


def convert_argv(source: str, target: str) -> Argv:
    """Return vmctl that makes the image ``target`` of ``source``; its format is that of the name's end (vmctl(8))."""
    return ("vmctl", "create", "-i", source, target)
