"""vmd(8) as a VM's host: what it says, and the steps that only it needs."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from okubsd.config.names import quoted
from okubsd.errors import Problem, TimedOut, Unreachable
from okubsd.guest.cpio import Entry
from okubsd.guest.identity import Lease, render_identity
from okubsd.host import door, keys, programs
from okubsd.host.places import Places
from okubsd.host.system import System
from okubsd.model import Argv, Vm
from okubsd.netif.ifconfig import Tap, parse_ifconfig
from okubsd.vmd.control import Outcome, VmStatus, parse_answer, parse_status, status_argv, stop_argv
from okubsd.vmd.helper import DRIVES, IMAGES, RECORDS, Record, Verb, helper_argv, parse_record
from okubsd.vmd.qcow2 import chain_mistakes

# vmctl waits for acknowledgements that can get lost; no call of it is waited for longer than this, in seconds.
_CALL = 30
_HELPER = 120

# The helper's exit code for a tap that is not where it has to be; vmd sets taps up while it answers.
_NOT_IN_PLACE = 3
_TAP_GRACE = 3.0

_CLOCK = "clock.json"

# How much of the end of vmd's log is looked through, in bytes.
_LOG_TAIL = 1 << 16


class Clock(msgspec.Struct, frozen=True):
    """One look at two clocks: the host's and the guest's, in seconds, and once compared how fast the guest's runs."""

    host: float
    guest: float
    speed: float | None = None


def has_vmd() -> bool:
    """Return whether this host has vmctl(8)."""
    return programs.find_program("vmctl") is not None


def read_record(places: Places, name: str) -> Record | None:
    """Return what root wrote down of the VM, or None."""
    stat = System(places.system).read(f"{RECORDS}/{name}")
    return parse_record(stat.text) if stat else None


def ask_status(name: str = "") -> tuple[VmStatus, ...]:
    """Return what vmd says of its VMs, or of the one called ``name``; () where it knows of none.

    Raises Problem where vmd does not answer or says what nobody understands.
    """
    try:
        done = door.run(status_argv(name), timeout=_CALL)
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


def usable_memory() -> int:
    """Return the bytes of memory that this OpenBSD has for programs, 0 where it cannot be told."""
    text = sysctl("hw.usermem")
    return int(text) if text.isdigit() else 0


def tsc_khz() -> int | None:
    """Return the rate of the host's time stamp counter in kHz, or None where it does not say."""
    text = sysctl("machdep.tscfreq")
    return int(text) // 1000 if text.isdigit() and int(text) >= 1000 else None


def sysctl(name: str) -> str:
    """Return the value of a sysctl(8), "" where there is none."""
    if programs.find_program("sysctl") is None:
        return ""
    done = door.run(("sysctl", "-n", name), timeout=10)
    return done.out.decode(errors="replace").strip() if done.code == 0 else ""


def call_helper(places: Places, argv: Argv, what: str, data: bytes = b"") -> door.Done:
    """Run the helper; return how it went.  Raises Problem where it does not end."""
    try:
        return door.run(System(places.system).argv(argv), timeout=_HELPER, data=data)
    except subprocess.TimeoutExpired:
        raise Problem(f"{what}: okubsd-helper did not end within {_HELPER} seconds") from None


def prepare(
    places: Places,
    vm: Vm,
    lease: Lease,
    directory: Path,
    run: Path,
    argv: Argv,
    images: Iterable[str],
    gateway: Iterable[Entry] = (),
) -> None:
    """Have the VM's drives made anew over ``images``, and its identity put on the last one.

    Raises Problem where that fails, or where vmd would not take what is there.
    """
    cookie = keys.make_cookie(run)
    identity = render_identity(vm, lease, keys.read_secrets(directory, cookie), off="poweroff", gateway=gateway)
    done = call_helper(places, argv, vm.name, identity)
    if done.code != 0:
        raise Problem(f"{vm.name}: its drives were not prepared: {door.reason(done)}", "doas okubsd apply")
    check_drives(places, vm.name, images)


def link(places: Places, name: str, argv: Argv) -> None:
    """Have the tap and the loopback of a VM of QEMU's set up.  Raises Problem where that fails."""
    done = call_helper(places, argv, name)
    if done.code != 0:
        raise Problem(f"{name}: its tap was not set up: {door.reason(done)}", "doas okubsd apply")


def check_drives(places: Places, name: str, images: Iterable[str]) -> None:
    """Look at what the VM's overlays lie over, and at the overlays: vmd says nothing but "started" of a bad one.

    The overlays are root's; an ordinary user does not get to see them, nor has he a way to change them.
    Raises Problem for the first that vmd does not take.
    """
    system = System(places.system)
    shared = [system.path(f"{IMAGES}/{image}/current/drive.qcow2") for image in images]
    overlays = [system.path(f"{DRIVES}/{name}/{drive}.qcow2") for drive in ("boot", "base", "app")]
    with contextlib.suppress(PermissionError):
        for path in (*shared, *overlays):
            mistakes = chain_mistakes(str(path), read_head)
            if mistakes:
                raise Problem(f"{name}: {mistakes[0]}", "doas okubsd image import FILE, then doas okubsd apply")


def read_head(path: str) -> bytes | None:
    """Return the first 64 KiB of a file, or None where there is none."""
    try:
        with Path(path).open("rb") as stream:
            return stream.read(1 << 16)
    except (FileNotFoundError, IsADirectoryError):
        return None


def log_says(places: Places, name: str) -> str:
    """Return "; its log says: ..." with the last line of vmd's about the VM, "" where there is none or we may not."""
    try:
        with System(places.system).path("var/log/daemon").open("rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - _LOG_TAIL))
            lines = stream.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    about = [line for line in lines if f"vm/{name}" in line or f'vm "{name}"' in line or f"start vm {name}" in line]
    return f"; its log says: {quoted(about[-1].strip(), 200)[1:-1]}" if about else ""


def start(places: Places, name: str, argv: Argv) -> None:
    """Have vmd start the VM.  Raises Problem in words of what vmctl's message means."""
    try:
        done = door.run(argv, timeout=_CALL)
    except subprocess.TimeoutExpired:
        raise Problem(f"{name}: vmctl start did not end within {_CALL} seconds", "doas rcctl check vmd") from None
    answer = parse_answer(done.code, done.err.decode(errors="replace"))
    if not answer.good:
        said = log_says(places, name)
        raise Problem(f"{name}: vmd did not start it: {answer.outcome}: {answer.words}{said}", answer.hint)


def open_network(places: Places, name: str, argv: Argv, stop: Argv) -> str:
    """Have the helper look at the tap and open the network; return the guest's address.

    Raises Problem where the tap is not where it has to be; the VM was stopped then.
    """
    end = time.monotonic() + _TAP_GRACE
    while True:
        done = call_helper(places, argv, name)
        if done.code == 0:
            return done.out.decode(errors="replace").strip()
        if done.code != _NOT_IN_PLACE or time.monotonic() > end:
            break
        time.sleep(0.2)
    if stop:
        _try(stop)
    said = log_says(places, name)
    raise Problem(f"{name}: it was stopped, for its network is not as it should be: {door.reason(done)}{said}")


def _try(argv: Argv) -> Outcome:
    """Run vmctl and return what came of it; a call that hangs is given up."""
    try:
        done = door.run(argv, timeout=_CALL)
    except subprocess.TimeoutExpired:
        return Outcome.OTHER
    return parse_answer(done.code, done.err.decode(errors="replace")).outcome


def wait_for_guest(places: Places, name: str, argv: Argv, run: Path, timeout: float) -> None:
    """Wait until ssh by ``argv`` reaches the guest, and keep in ``run`` what its clock says then.

    Raises Problem where the VM ends before, TimedOut where it does not answer within ``timeout`` seconds.
    """
    end = time.monotonic() + timeout
    while True:
        done = door.ask(argv, timeout=20)
        if done.code == 0:
            clock = _clock_of(done)
            if clock is not None:
                door.write(run / _CLOCK, msgspec.json.encode(clock))
            return
        if b"Host key verification failed" in done.err or b"Permission denied" in done.err:
            raise Unreachable(f"{name}: the guest cannot be reached by ssh: {door.reason(done)}")
        status = status_of(name)
        if status is None or not status.running:
            said = log_says(places, name)
            raise Problem(f"{name}: vmd said 'started', and the VM ended at once{said}", "see /var/log/daemon")
        if time.monotonic() > end:
            raise TimedOut(f"the guest did not answer within {timeout:.0f} seconds: {door.reason(done)}")
        time.sleep(0.1)


def look_at_tap(number: int) -> Tap | None:
    """Return the tap of the VM with ``number`` as ifconfig(8) shows it to anybody, or None where there is none."""
    return parse_ifconfig(door.run(("ifconfig", f"tap{number}"), timeout=10).out.decode(errors="replace"))


def end(name: str, patience: float) -> bool:
    """Stop the VM without its doing: asked, then forced.  Return whether it ended within ``patience`` seconds."""
    for force in (False, True):
        _try(stop_argv(name, force=force))
        if gone(name, patience):
            return True
    return False


def gone(name: str, patience: float) -> bool:
    """Return whether the VM ends within ``patience`` seconds."""
    limit = time.monotonic() + patience
    while True:
        status = status_of(name)
        if status is None or not status.running:
            return True
        if time.monotonic() > limit:
            return False
        time.sleep(0.2)


def close_network(places: Places, name: str, *, root: bool, report: Callable[[str], None]) -> None:
    """Have the helper shut the network of a VM that ended; what it says when it cannot is told."""
    done = call_helper(places, helper_argv(Verb.CLOSE, name, root=root), name)
    if done.code != 0:
        report(f"{name}: its network was not shut: {door.reason(done)}")


def _clock_of(done: door.Done) -> Clock | None:
    """Return both clocks at the end of the look ``done``, or None if it does not tell.

    Saying what time it is comes last; connecting, which takes its time, does not count.
    """
    match = re.match(rb"([0-9]{1,12}(?:\.[0-9]{1,6})?)\s", done.out)
    return Clock(time.monotonic(), float(match[1])) if match else None


def compare_clocks(argv: Argv, run: Path) -> None:
    """Keep in ``run`` how fast the guest's clock has run since it first answered, against the host's."""
    first = read_clock(run)
    if first is None:
        return
    # Over less than a second the comparison would be of two round trips.
    time.sleep(max(0.0, 1.0 - (time.monotonic() - first.host)))
    now = _clock_of(door.ask(argv, timeout=20))
    if now is not None:
        speed = (now.guest - first.guest) / (now.host - first.host)
        door.write(run / _CLOCK, msgspec.json.encode(Clock(now.host, now.guest, round(speed, 3))))


def read_clock(run: Path) -> Clock | None:
    """Return what was kept of the guest's clock since it was booted, or None."""
    try:
        return msgspec.json.decode((run / _CLOCK).read_bytes(), type=Clock)
    except (OSError, msgspec.DecodeError):
        return None
