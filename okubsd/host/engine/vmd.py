"""vmd(8) as a VM's engine: what it says, and what root's helper does for it."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from okubsd import layout
from okubsd.config.names import quoted
from okubsd.errors import Problem, TimedOut, Unreachable
from okubsd.guest.identity import render_identity
from okubsd.host import door, keys, store
from okubsd.host.engine.clocks import clock, clock_of
from okubsd.host.gateway_files import entries_of
from okubsd.host.performance import Performance
from okubsd.host.places import Places
from okubsd.host.records import CALL_SECONDS, read_head, read_record, status_of, usable_memory
from okubsd.host.running import ask_rows, start_anew, write_builds
from okubsd.host.session import Session
from okubsd.host.system import HostRoot
from okubsd.host.trust import is_root
from okubsd.host.waiting import wait_until
from okubsd.host.zone import zone_of
from okubsd.model import Argv, Backend, Vm
from okubsd.netif.ifconfig import Tap, parse_ifconfig, tap_mistakes
from okubsd.pf.render import GROUP
from okubsd.plan.facts import HostFacts, VmFacts
from okubsd.plan.seats import seat_of_record
from okubsd.plan.steps import (
    CloseNetwork,
    EndVmd,
    LinkTap,
    OpenNetwork,
    Prepare,
    Slot,
    StartVmd,
    WaitGuest,
)
from okubsd.vmd.control import PAUSED, Outcome, VmctlAnswer, parse_answer, pause_argv, unpause_argv
from okubsd.vmd.helper import DRIVES, IMAGES
from okubsd.vmd.qcow2 import chain_mistakes

_HELPER = 120
_KILL = 5

# The helper's exit code for a tap that is not where it has to be; vmd sets taps up while it answers.
_NOT_IN_PLACE = 3
_TAP_GRACE = 3.0

# How much of the end of vmd's log is looked through, in bytes.
_LOG_TAIL = 1 << 16

_ADDRESS = re.compile(r"\d{1,3}(\.\d{1,3}){3}")


def state(places: Places, name: str) -> Mapping[str, Any]:
    """Return where vmd runs the VM called ``name``, its pid, whether it stands still; nothing where it does not run."""
    record = read_record(places, name)
    if record is None or record.backend != Backend.VMD:
        return {}
    status = status_of(name)
    if status is None or not status.running:
        return {}
    seat = seat_of_record(record, engine=Backend.VMD, root=is_root())
    return {"seat": seat, "pid": status.pid, "stall": PAUSED if status.paused else ""}


def host_facts(places: Places) -> Mapping[str, Any]:
    """Return what a boot by vmd has to know of the host."""
    rows = ask_rows(places)
    taken = sum(row.memory for row in rows if row.running)
    return {"usable_memory": usable_memory(), "taken_memory": taken}


# --- the steps of a boot -----------------------------------------------------------------------


def prepare(step: Prepare, performance: Performance) -> None:
    """Have the VM's drives made anew, and its identity put on the last one.

    Raises Problem where that fails, or where vmd would not take what is there.
    """
    places, name = performance.places, step.vm.name
    start_anew(step.run, step.vm)
    write_builds(step.run, store.current_builds(places.of_system, step.images))
    cookie = keys.make_cookie(step.run)
    secrets = keys.read_secrets(step.keys, cookie)
    conf = entries_of(step.vm, step.conf)
    identity = render_identity(step.vm, step.lease, secrets, "poweroff", conf, zone_of(step.vm))
    done = _call_helper(places, step.argv, name, identity)
    if done.code != 0:
        raise Problem(f"{name}: its drives were not prepared: {door.reason(done)}", "doas okubsd apply")
    _check_drives(places, name, step.images)


def link_tap(step: LinkTap, performance: Performance) -> None:
    """Have the tap and the loopback of a VM of QEMU's set up.  Raises Problem where that fails."""
    done = _call_helper(performance.places, step.argv, step.name)
    if done.code != 0:
        raise Problem(f"{step.name}: its tap was not set up: {door.reason(done)}", "doas okubsd apply")


def run(step: StartVmd, performance: Performance) -> None:
    """Have vmd start the VM.  Raises Problem in words of what vmctl's message means."""
    _forget_pause(step.name)
    try:
        done = door.run(step.argv, timeout=CALL_SECONDS)
    except subprocess.TimeoutExpired:
        sentence = f"{step.name}: vmctl start did not end within {CALL_SECONDS} seconds"
        raise Problem(sentence, "doas rcctl check vmd") from None
    performance.booted_at = time.monotonic()
    answer = parse_answer(done.code, done.err.decode(errors="replace"))
    if not answer.good:
        said = _log_says(performance.places, step.name)
        raise Problem(f"{step.name}: vmd did not start it: {answer.outcome}: {answer.words}{said}", answer.hint)


def _forget_pause(name: str) -> None:
    """Have a VM that stands still go on: one that is stopped so is called paused even when it runs again."""
    status = status_of(name)
    if status is not None and status.state == PAUSED:
        _try(unpause_argv(name))


def open_network(step: OpenNetwork, performance: Performance) -> None:
    """Have the helper look at the tap and open the network; what it tells is the guest's address.

    Raises Problem where the tap is not where it has to be; the VM was stopped then.
    """
    places, name = performance.places, step.name
    tries: list[door.Done] = []

    def is_open() -> bool:
        tries.append(_call_helper(places, step.argv, name))
        return tries[-1].code != _NOT_IN_PLACE

    wait_until(is_open, _TAP_GRACE, pause=0.2)
    done = tries[-1]
    if done.code != 0:
        if step.stop:
            _try(step.stop)
        said = _log_says(places, name)
        raise Problem(f"{name}: it was stopped, for its network is not as it should be: {door.reason(done)}{said}")
    address = done.out.decode(errors="replace").strip()
    if not _ADDRESS.fullmatch(address):
        raise Problem(f"{name}: the helper said {quoted(address)} instead of an address")
    performance.slots[Slot.GUEST] = address


def wait_for_guest(step: WaitGuest, performance: Performance) -> None:
    """Wait until ssh reaches the guest, and keep what its clock says then.

    Raises Problem where the VM ends before, TimedOut where it does not answer in time.
    """
    argv, tries = performance.fill(step.argv), []

    def answers() -> bool:
        done = door.ask(argv, timeout=20)
        tries.append(done)
        if done.code != 0:
            _check_boot(step.name, performance.places, done)
        return done.code == 0

    if not wait_until(answers, step.timeout, pause=0.1):
        why = door.reason(tries[-1])
        raise TimedOut(f"the guest did not answer within {step.timeout:.0f} seconds: {why}")
    clock_now = clock_of(tries[-1])
    if clock_now is not None:
        door.write(step.run / layout.CLOCK, msgspec.json.encode(clock_now))


def _check_boot(name: str, places: Places, done: door.Done) -> None:
    """Raise Problem where a guest that does not answer never will.

    ssh(1) ends a refused key with the ways that were tried, in brackets; without them connect(2) was refused, which
    passes (observed while a guest boots).
    """
    if b"Host key verification failed" in done.err or b"Permission denied (" in done.err:
        raise Unreachable(f"{name}: the guest cannot be reached by ssh: {door.reason(done)}")
    status = status_of(name)
    if status is None or not status.running:
        said = _log_says(places, name)
        raise Problem(f"{name}: vmd said 'started', and the VM ended at once{said}", "tail /var/log/daemon")


# --- the steps of a stop -----------------------------------------------------------------------


def gone(name: str, run: Path, patience: float) -> bool:
    """Return whether the VM ends within ``patience`` seconds."""

    def ended() -> bool:
        status = status_of(name)
        return status is None or not status.running

    return wait_until(ended, patience, pause=0.2)


def end(step: EndVmd, performance: Performance) -> None:
    """Stop the VM without its doing: asked, then forced.  Raises TimedOut where vmd does not do it."""
    if gone(step.name, Path(), 0):
        return
    _forget_pause(step.name)
    for argv in (step.argv, step.force):
        _try(argv)
        if gone(step.name, Path(), _KILL):
            return
    raise TimedOut(f"{step.name}: vmd does not end it, not even by force", "doas rcctl check vmd")


def close_network(step: CloseNetwork, performance: Performance) -> None:
    """Have the helper shut the network of a VM that ended; what it says when it cannot is told."""
    done = _call_helper(performance.places, step.argv, step.name)
    if done.code != 0:
        performance.report(f"{step.name}: its network was not shut: {door.reason(done)}")


# --- what can be seen ---------------------------------------------------------------------------


def pause(name: str, run: Path) -> None:
    """Have the guest stand still; its memory stays.  Raises Problem where vmd does not do it in time."""
    _must(pause_argv(name), f"{name}: vmd does not have it wait")


def unpause(name: str, run: Path) -> None:
    """Have a guest that stands still go on.  Raises Problem where vmd does not do it in time."""
    _must(unpause_argv(name), f"{name}: vmd does not have it go on")


def console(name: str, run: Path) -> None:
    """Join the terminal with the guest's serial line until the user leaves."""
    door.call_interactive(("vmctl", "console", name))


def look_at_tap(number: int) -> Tap | None:
    """Return the tap of the VM with ``number`` as ifconfig(8) shows it to anybody, or None where there is none."""
    return parse_ifconfig(door.run(("ifconfig", f"tap{number}"), timeout=10).out.decode(errors="replace"))


def describe(session: Session, vm: Vm, host: HostFacts, state: VmFacts) -> Mapping[str, Any]:
    """Return what `status` says of a VM that vmd runs."""
    image = store.current_image(session.places.of_system, vm.image)
    record = read_record(session.places, vm.name)
    status = status_of(vm.name)
    tap = look_at_tap(record.number) if record and state.running else None
    seen: dict[str, Any] = {
        "pid": status.pid if status else None,
        "vmd_state": status.state if status else "not known to vmd",
        "owner": record.owner if record else None,
        "build": image.build if image else "not here",
        "interface": f"tap{record.number} in rdomain {record.table}" if record else None,
        "address": tap.guest if tap else None,
        "clock": clock(state.run) if state.running else None,
    }
    if record and state.running:
        seen["weaker_walls"] = tap_mistakes(tap, record.number, record.table, GROUP)
    return seen


# --- asking --------------------------------------------------------------------------------------


def _call_helper(places: Places, argv: Argv, what: str, data: bytes = b"") -> door.Done:
    """Run the helper; return how it went.  Raises Problem where it does not end."""
    try:
        return door.run(HostRoot(places.system).argv(argv), timeout=_HELPER, data=data)
    except subprocess.TimeoutExpired:
        raise Problem(f"{what}: okubsd-helper did not end within {_HELPER} seconds") from None


def _try(argv: Argv) -> VmctlAnswer:
    """Run vmctl and return what came of it; a call that hangs is given up."""
    try:
        done = door.run(argv, timeout=CALL_SECONDS)
    except subprocess.TimeoutExpired:
        return VmctlAnswer(Outcome.OTHER)
    return parse_answer(done.code, done.err.decode(errors="replace"))


def _must(argv: Argv, sentence: str) -> None:
    """Run vmctl.  Raises Problem with ``sentence`` where what is asked for is not so then."""
    answer = _try(argv)
    if not answer.good:
        raise Problem(f"{sentence}: {answer.outcome}: {answer.words}", answer.hint)


def _log_says(places: Places, name: str) -> str:
    """Return "; its log says: ..." with the last line of vmd's about the VM, "" where there is none or we may not."""
    try:
        with HostRoot(places.system).path(layout.DAEMON_LOG).open("rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - _LOG_TAIL))
            lines = stream.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    about = [line for line in lines if f"vm/{name}" in line or f'vm "{name}"' in line or f"start vm {name}" in line]
    return f"; its log says: {quoted(about[-1].strip(), 200)[1:-1]}" if about else ""


def _check_drives(places: Places, name: str, images: Iterable[str]) -> None:
    """Look at what the VM's overlays lie over, and at the overlays: vmd says nothing but "started" of a bad one.

    The overlays are root's; an ordinary user does not get to see them, nor has he a way to change them.
    Raises Problem for the first that vmd does not take.
    """
    system = HostRoot(places.system)
    shared = [system.path(f"{IMAGES}/{image}/{layout.CURRENT}/{layout.QCOW2}") for image in images]
    overlays = [system.path(f"{DRIVES}/{name}/{drive}.qcow2") for drive in ("boot", "base", "app")]
    with contextlib.suppress(PermissionError):
        for path in (*shared, *overlays):
            mistakes = chain_mistakes(str(path), read_head)
            if mistakes:
                raise Problem(f"{name}: {mistakes[0]}", "import the image anew: man 8 okubsd, EXAMPLES")
