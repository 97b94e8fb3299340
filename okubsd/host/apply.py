"""Carry out an apply: look at the host once, perform the steps, and go back where one fails."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from okubsd.errors import HostLacks, Problem
from okubsd.host import door, locks, programs, vmd
from okubsd.host.system import System
from okubsd.netif.numbers import parse_numbers
from okubsd.plan import apply as steps
from okubsd.plan.apply import JOURNAL, STAGE, ApplyFacts, ApplyPlan, ApplyStep
from okubsd.plan.changes import Stat
from okubsd.plan.compile import (
    ANCHORS,
    AUTOSTART,
    CONF_DIRECTORY,
    NAMES,
    NUMBERS,
    PF_CONF,
    QUEUES,
    VM_CONF,
    Compiled,
    HostFile,
)
from okubsd.vmd.helper import DRIVES, IMAGES, RECORDS

Report = Callable[[str], None]

_LOCK = "var/okubsd/apply/lock"

_OF_NETWORKS = (f"{CONF_DIRECTORY}/dhcpd/*.conf", f"{CONF_DIRECTORY}/openvpn/*.conf", f"{QUEUES}/*")

# Files of the administrator's that can hold a block of ours.
_EDITED = ("etc/vm.conf", "etc/pf.conf", "etc/doas.conf", "etc/sysctl.conf")


def kept_numbers(system: System) -> dict[str, int]:
    """Return the numbers that the VMs of this host have."""
    stat = system.read(NUMBERS)
    return parse_numbers(stat.text) if stat else {}


def ask_apply(system: System, compiled: Compiled) -> ApplyFacts:
    """Look at the host: every file that okubsd has or is to have, what runs, what is there."""
    wanted = {file.path for file in compiled.files if file.path != "etc/rc.conf.local"}
    interfaces = {f"etc/hostname.{kind}{vm.number}" for vm in compiled.vms for kind in ("lo", "tap")}
    interfaces |= {name for name in wanted if name.startswith("etc/hostname.")}
    # A hostname.if that is the administrator's is only looked at: it is refused to be replaced.
    names = {*_EDITED, *_our_files(system), *wanted}
    foreign = {name for name in interfaces - names if system.path(name).exists()}
    numbers = kept_numbers(system)
    return ApplyFacts(
        files=system.read_all(sorted(names | foreign)),
        running=_running(numbers),
        drives=frozenset(path.parent.name for path in system.path(DRIVES).glob("*/home.img")),
        taps=frozenset(_numbers_of(system.path("dev").glob("tap*"))),
        services=frozenset(name for name in ("vmd", "okubsd") if _starts_at_boot(name)),
        forwarding=vmd.sysctl("net.inet.ip.forwarding") == "1",
        numbers=frozenset(numbers.values()),
        vmd_runs=vmd_runs(),
        pf_enabled=_pf_enabled(),
        images=frozenset(path.parts[-3] for path in system.path(IMAGES).glob("*/current/drive.qcow2")),
    )


def apply_rules(system: System, name: str, files: Iterable[HostFile], report: Report) -> int:
    """Put the rules of one VM in force; return how many files changed.  Raises Problem, and then all is as before."""
    paths = (f"{ANCHORS}/{name}.conf", f"{NAMES}/{name}")
    with applying(system, report):
        restore(system, report)
        runs = name in _running(kept_numbers(system))
        plan, changes = steps.plan_rules(name, files, system.read_all(paths), runs=runs)
        perform(system, plan, report)
    return len(changes)


def _our_files(system: System) -> Iterator[str]:
    # The administrator's own files are there too: the description, recipes, tunnels.
    yield from (name for name in (VM_CONF, PF_CONF, NUMBERS, AUTOSTART) if system.path(name).is_file())
    directories = (f"{ANCHORS}/*.conf", f"{RECORDS[1:]}/*", f"{NAMES}/*", *_OF_NETWORKS)
    for path in (path for pattern in directories for path in system.root.glob(pattern)):
        if path.is_file() and not path.name.startswith("."):
            yield str(path.relative_to(system.root))
    for number in kept_numbers(system).values():
        yield from (f"etc/hostname.{kind}{number}" for kind in ("lo", "tap", "wg", "tun", "veb", "vport"))


def _numbers_of(devices: Iterable[Path]) -> Iterator[int]:
    """Yield the numbers that the names of ``devices`` end with."""
    yield from (int(match[1]) for path in devices if (match := re.fullmatch(r"[a-z]+(\d{1,5})", path.name)))


def _pf_enabled() -> bool:
    done = door.run(("pfctl", "-s", "info"), timeout=20)
    return done.out.startswith(b"Status: Enabled")


def vmd_runs() -> bool:
    """Return whether vmd answers."""
    try:
        vmd.ask_status()
    except Problem:
        return False
    return True


def _running(numbers: Mapping[str, int]) -> dict[str, int]:
    with contextlib.suppress(Problem):
        return {row.name: numbers[row.name] for row in vmd.ask_status() if row.running and row.name in numbers}
    return {}


def _starts_at_boot(service: str) -> bool:
    done = door.run(("rcctl", "get", service, "status"), timeout=20)
    return done.code == 0 and b"off" not in done.out


def need_openbsd() -> None:
    """Raise HostLacks where the programs of an OpenBSD host are not there."""
    missing = [name for name in ("vmd", "vmctl", "pfctl", "rcctl") if programs.find_program(name) is None]
    if missing:
        raise HostLacks(f"this host has no {', '.join(missing)}", "okubsd render DIR  # writes the files on any host")


@contextlib.contextmanager
def applying(system: System, report: Report) -> Iterator[None]:
    """Hold the lock of apply.  Raises Problem where we are not root."""
    if os.geteuid() != 0:
        raise Problem("apply changes files of root's", "doas okubsd apply")
    lock = system.path(_LOCK)
    lock.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locks.locked(lock, lambda: report("waiting for another okubsd apply")):
        yield


def perform(system: System, plan: ApplyPlan, report: Report) -> None:
    """Perform ``plan``; where a step fails, go back to the files of before and raise its Problem.

    Once the files of before are kept, every way out leads either through the last step or back to them.
    """
    try:
        for step in plan:
            perform_step(system, step)
    except BaseException:
        if system.path(JOURNAL).exists():
            report("going back to the files of before")
            restore(system, report)
        raise


def restore(system: System, report: Report) -> bool:
    """Go back to the files that an unfinished apply kept; return whether there were any."""
    journal = read_journal(system)
    if journal is None:
        return False
    running = _running(kept_numbers(system))
    failed = []
    for step in steps.plan_restore(journal, running, vmd_runs=vmd_runs()):
        # Going back goes on: what cannot be undone now must not keep the rest from being undone.
        try:
            perform_step(system, step)
        except Problem as problem:
            failed.append(problem.sentence)
    for sentence in failed:
        report(f"going back: {sentence}")
    return True


def read_journal(system: System) -> dict[str, Stat | None] | None:
    """Return the kept files, or None where no apply was cut short."""
    try:
        return msgspec.json.decode(system.path(JOURNAL).read_bytes(), type=dict[str, Stat | None])
    except FileNotFoundError:
        return None
    except msgspec.DecodeError:
        raise Problem(f"{system.path(JOURNAL)} is damaged", "remove it, then: doas okubsd apply") from None


def perform_step(system: System, step: ApplyStep) -> None:
    """Perform one step.  Raises Problem, naming the step, where it fails."""
    match step:
        case steps.Call():
            _call(system, step)
        case steps.Stage():
            _stage(system, step.files)
        case steps.Journal():
            door.write(system.path(JOURNAL), msgspec.json.encode(dict(step.files)))
        case steps.Replace():
            system.write(step.path, step.stat)
        case steps.Remove():
            system.remove(step.path)
        case steps.Finish():
            system.path(JOURNAL).unlink(missing_ok=True)
            shutil.rmtree(system.path(STAGE), ignore_errors=True)
        case _:
            raise TypeError(f"no way to perform {type(step).__name__}")


def _call(system: System, step: steps.Call) -> None:
    try:
        done = door.run(system.argv(step.argv), timeout=step.timeout)
    except subprocess.TimeoutExpired:
        raise Problem(f"{step.what}: {step.argv[0]} did not end within {step.timeout} seconds") from None
    if step.may_fail:
        return
    if done.code != 0:
        raise Problem(f"{step.what}: {door.reason(done)}")
    # vmd -n is content with a file that is not there; sysctl says no and exits with 0.
    if step.argv[0] in ("/usr/sbin/vmd", "sysctl") and re.search(rb"failed to open|not permitted", done.err):
        raise Problem(f"{step.what}: {door.reason(done)}")


def _stage(system: System, files: Iterable[tuple[str, str]]) -> None:
    top = system.path(STAGE)
    shutil.rmtree(top, ignore_errors=True)
    for name, text in files:
        path: Path = top / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o600)
