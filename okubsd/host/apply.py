"""Carry out an apply: look at the host once, perform the steps, and go back where one fails."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from okubsd import layout
from okubsd.decode import read_json
from okubsd.errors import HostLacks, Problem
from okubsd.host import door, locks, perform, programs, records
from okubsd.host.performance import Performance
from okubsd.host.session import Session
from okubsd.host.system import HostRoot
from okubsd.host.trust import is_root
from okubsd.hostfile import FileState, HostFile
from okubsd.model import DRIVERS
from okubsd.netif.ifconfig import Tap, parse_all
from okubsd.netif.numbers import parse_numbers
from okubsd.plan.apply import ApplyFacts, plan_restore, plan_rules
from okubsd.plan.compile import Compiled
from okubsd.plan.steps import Plan
from okubsd.plan.sysctls import wanted_sysctls

_FILES_OF_NETWORKS = (f"{layout.DHCPD}/*.conf", f"{layout.OPENVPN}/*.conf", f"{layout.QUEUES}/*")

# Files of the administrator's that can hold a block of ours.
_EDITED = (layout.SITE_VM_CONF, layout.SITE_PF_CONF, layout.SITE_DOAS_CONF, layout.SITE_SYSCTL_CONF)


def kept_numbers(system: HostRoot) -> dict[str, int]:
    """Return the numbers that the VMs of this host have."""
    stat = system.read(layout.NUMBERS)
    return parse_numbers(stat.text) if stat else {}


def ask_apply(system: HostRoot, compiled: Compiled) -> ApplyFacts:
    """Look at the host: every file that okubsd has or is to have, what runs, what is there."""
    wanted = {file.path for file in compiled.files if file.path != layout.SITE_RC_CONF}
    interfaces = {layout.hostname_if(f"{kind}{vm.number}") for vm in compiled.vms for kind in ("lo", "tap")}
    interfaces |= {name for name in wanted if name.startswith(layout.hostname_if(""))}
    # A hostname.if that is the administrator's is only looked at: it is refused to be replaced.
    names = {*_EDITED, *_our_files(system), *wanted}
    foreign = {name for name in interfaces - names if system.path(name).exists()}
    numbers = kept_numbers(system)
    return ApplyFacts(
        files=system.read_all(sorted(names | foreign)),
        running=_running(numbers),
        drives=frozenset(path.parent.name for path in system.path(layout.DRIVES).glob(f"*/{layout.HOME}")),
        taps=frozenset(_numbers_of(system.path("dev").glob("tap*"))),
        services=frozenset(name for name in ("vmd", "okubsd") if _starts_at_boot(name)),
        sysctls={name: records.sysctl(name) for name in wanted_sysctls(compiled)},
        numbers=frozenset(numbers.values()),
        interfaces=frozenset(interface.name for interface in ask_interfaces()),
        vmd_runs=vmd_runs(),
        pf_enabled=_pf_enabled(),
        images=frozenset(
            path.parts[-3] for path in system.path(layout.SYSTEM_IMAGES).glob(f"*/{layout.CURRENT}/{layout.QCOW2}")
        ),
    )


def apply_rules(session: Session, name: str, files: Iterable[HostFile]) -> int:
    """Put the rules of one VM in force; return how many files changed.  Raises Problem, and then all is as before."""
    system = HostRoot(session.places.system)
    paths = (f"{layout.ANCHORS}/{name}.conf", f"{layout.NAMES_OF_RULES}/{name}")
    with applying(session):
        restore(session)
        runs = name in _running(kept_numbers(system))
        plan, changes = plan_rules(name, files, system.read_all(paths), runs=runs)
        perform_or_go_back(session, plan)
    return len(changes)


def _our_files(system: HostRoot) -> Iterator[str]:
    # The administrator's own files are there too: the description, recipes, tunnels.
    yield from (
        name
        for name in (layout.VM_CONF, layout.PF_CONF, layout.NUMBERS, layout.AUTOSTART, layout.SYSCTL_BEFORE)
        if system.path(name).is_file()
    )
    directories = (
        f"{layout.ANCHORS}/*.conf",
        f"{layout.RECORDS}/*",
        f"{layout.NAMES_OF_RULES}/*",
        *_FILES_OF_NETWORKS,
    )
    for path in (path for pattern in directories for path in system.root.glob(pattern)):
        if path.is_file() and not path.name.startswith("."):
            yield str(path.relative_to(system.root))
    for number in kept_numbers(system).values():
        yield from (layout.hostname_if(f"{kind}{number}") for kind in DRIVERS)


def _numbers_of(devices: Iterable[Path]) -> Iterator[int]:
    """Yield the numbers that the names of ``devices`` end with."""
    yield from (int(match[1]) for path in devices if (match := re.fullmatch(r"[a-z]+(\d{1,5})", path.name)))


def _pf_enabled() -> bool:
    done = door.run(("pfctl", "-s", "info"), timeout=20)
    return done.out.startswith(b"Status: Enabled")


def vmd_runs() -> bool:
    """Return whether vmd answers."""
    try:
        records.ask_status()
    except Problem:
        return False
    return True


def _running(numbers: Mapping[str, int]) -> dict[str, int]:
    with contextlib.suppress(Problem):
        return {row.name: numbers[row.name] for row in records.ask_status() if row.running and row.name in numbers}
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
def applying(session: Session) -> Iterator[None]:
    """Hold the lock of apply.  Raises Problem where we are not root."""
    if not is_root():
        raise Problem("apply changes files of root's", "doas okubsd apply")
    lock = HostRoot(session.places.system).path(layout.APPLY_LOCK)
    lock.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locks.locked(lock, lambda: session.report("waiting for another okubsd apply")):
        yield


def perform_or_go_back(session: Session, plan: Plan) -> None:
    """Perform ``plan``; where a step fails, go back to the files of before and raise its Problem.

    Once the files of before are kept, every way out leads either through the last step or back to them.
    """
    try:
        perform.perform(plan, Performance(session))
    except BaseException:
        if HostRoot(session.places.system).path(layout.JOURNAL).exists():
            session.report("going back to the files of before")
            restore(session)
        raise


def restore(session: Session) -> bool:
    """Go back to the files that an unfinished apply kept; return whether there were any."""
    system = HostRoot(session.places.system)
    journal = read_journal(system)
    if journal is None:
        return False
    running = _running(kept_numbers(system))
    failed = []
    performance = Performance(session)
    before = system.read(layout.SYSCTL_BEFORE)
    for step in plan_restore(journal, running, vmd_runs=vmd_runs(), sysctl_before=before):
        # Going back goes on: what cannot be undone now must not keep the rest from being undone.
        try:
            perform.perform_step(step, performance)
        except Problem as problem:
            failed.append(problem.sentence)
    for sentence in failed:
        session.report(f"going back: {sentence}")
    return True


def read_journal(system: HostRoot) -> dict[str, FileState | None] | None:
    """Return the kept files, or None where no apply was cut short."""
    try:
        return read_json(system.path(layout.JOURNAL).read_bytes(), dict[str, FileState | None])
    except FileNotFoundError:
        return None
    except ValueError:
        raise Problem(f"{system.path(layout.JOURNAL)} is damaged", "remove it, then: doas okubsd apply") from None


def ask_interfaces() -> tuple[Tap, ...]:
    """Return the interfaces of this host, none where ifconfig(8) does not tell."""
    done = door.run(("ifconfig",), timeout=10)
    return parse_all(done.out.decode(errors="replace")) if done.code == 0 else ()
