"""Start and stop a VM as a whole: the lock, the plan, the performing, and the way back."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from okubsd.display.server import display_socket
from okubsd.errors import DisplayGone, HostLacks, Problem, TimedOut
from okubsd.guest.ssh import clock_command, disconnect_argv, power_off_argv, ssh_argv
from okubsd.host import door, facts, gateway, locks, programs, running, vmd
from okubsd.host.monitor import monitor
from okubsd.host.perform import Run, Timing, perform, stop_children, when_it_ends
from okubsd.host.places import Places
from okubsd.host.sockets import listener_pid
from okubsd.model import Backend, Recipe, Request, Vm, Wish
from okubsd.plan.backend import choose_backend, reach
from okubsd.plan.facts import HostFacts, VmFacts
from okubsd.plan.start import plan_start
from okubsd.plan.steps import Plan, Slot, StartDisplay

Report = Callable[[str], None]

# How long each way of stopping is given, in seconds.
_SSH_CALL, _POWER_OFF, _QUIT, _KILL = 10, 20, 5, 5

# How long a forced stop waits to clean up, in seconds; what runs was ended before.
_LOCK_SECONDS = 15.0

_KEPT_TIMINGS = 100

_GATEWAYS_LOCK = "gateways.lock"


class Site(msgspec.Struct, frozen=True):
    """What the user has written: the description, and the recipes by name."""

    wish: Wish
    recipes: dict[str, Recipe]


class Started(msgspec.Struct, frozen=True):
    """What came of a start: how long it took, and what was there already."""

    timing: Timing
    vm_was_running: bool
    app_was_running: bool


@contextlib.contextmanager
def holding(places: Places, name: str, report: Report, seconds: float | None = None) -> Iterator[None]:
    """Hold the lock of the VM ``name``, after making its directories.

    Raises TimedOut where somebody else holds it for more than ``seconds`` (None: as long as it takes).
    """
    places.check_sockets(name)
    for directory in (places.state, places.state / "vms", places.vm(name), places.run):
        door.make_private(directory)
    door.make_private(places.vm_run(name))
    waiting = f"{name}: waiting for another okubsd"
    try:
        with locks.locked(places.vm(name) / "lock", lambda: report(waiting), seconds=seconds):
            yield
    except locks.Busy:
        raise TimedOut(f"{name}: another okubsd is at work on it", "try again in a moment") from None


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end us the way Ctrl-C does: cleaning up."""
    signals = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, stop_children) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


def decide(
    places: Places, vm: Vm, site: Site, request: Request, *, stopped: bool = False, shown: bool = False
) -> tuple[Plan, HostFacts, VmFacts]:
    """Look at the host and return the plan of a start, with what it was decided from.

    ``stopped`` takes the VM for one that does not run; a plan that is only ``shown`` needs no display.
    """
    recipes = site.recipes
    state = facts.ask_vm(places, vm.name)
    if stopped:
        gone = {"qemu_pid": None, "display": None, "connected": False, "confined": False, "vmd": None, "stall": ""}
        state = msgspec.structs.replace(state, **gone)
    on_vmd = state.record is not None and vmd.has_vmd() and vm.backend is not Backend.QEMU
    host = facts.ask_host(places, booting=not state.running, on_vmd=on_vmd)
    links = gateway.ask_links(places, vm, site.wish, recipes)
    host = msgspec.structs.replace(host, okubsd=(*host.okubsd, "-f", str(site.wish.path)))
    if shown and not host.display:
        host = msgspec.structs.replace(host, display=":0")
    return plan_start(vm, recipes, host, state, request, links), host, state


def start(places: Places, vm: Vm, site: Site, request: Request, report: Report) -> Started:
    """Bring ``vm`` to what ``request`` asks for, its gateway first.

    Raises Problem where that fails; then nothing that this start began is left running.
    """
    through = gateway.find_gateway(vm, site.wish)
    if through is None:
        return _start_alone(places, vm, site, request, report)
    with _needing(places, through, site.wish):
        before = start(places, through, site, Request(windowless=True), report)
        if not before.vm_was_running:
            report(f"{vm.name}: its gateway {through.name} was started")
        return _start_alone(places, vm, site, request, report)


@contextlib.contextmanager
def _needing(places: Places, through: Vm, wish: Wish) -> Iterator[None]:
    """Have a gateway that okubsd makes by itself for the block; without a VM behind it, it ends with us.

    That holds however we end: a process waits for the end of a pipe that only we hold, and then looks.
    """
    if through not in gateway.known_gateways(wish):
        yield
        return
    for directory in (places.state, places.state / "vms", places.vm(through.name)):
        door.make_private(directory)
    with locks.locked(places.state / _GATEWAYS_LOCK, shared=True):
        read_end, write_end = os.pipe()
        argv = programs.okubsd_argv("-f", str(wish.path), "stop", "--unused", through.name)
        try:
            door.spawn(when_it_ends(argv), places.vm(through.name) / "watch.log", stdin=read_end)
        finally:
            os.close(read_end)
        try:
            yield
        finally:
            os.close(write_end)


def _start_alone(places: Places, vm: Vm, site: Site, request: Request, report: Report) -> Started:
    with holding(places, vm.name, report), interruptible():
        _end_half_started(places, vm)
        try:
            return _start(places, vm, site, request, report)
        except DisplayGone:
            # Whoever looked at the VM's display last was killed, and the display with him.
            if not facts.ask_vm(places, vm.name).running:
                raise
            return _start(places, vm, site, request, report)


def stop_unused(places: Places, through: Vm, wish: Wish, report: Report) -> bool:
    """Stop the gateway ``through`` if okubsd made it by itself and no VM behind it runs; return whether it did."""
    if through not in gateway.known_gateways(wish):
        return False
    # Nobody who starts a VM behind one has it taken away meanwhile.
    with locks.locked(places.state / _GATEWAYS_LOCK):
        if gateway.clients_that_run(places, through, wish):
            return False
        return stop(places, through, report)


def _start(places: Places, vm: Vm, site: Site, request: Request, report: Report) -> Started:
    """Decide and perform one start, or undo it."""
    plan, host, state = decide(places, vm, site, request)
    if any(isinstance(step, StartDisplay) and not step.headless for step in plan):
        check_desktop(host.display)
    if not state.running:
        _tell_backend(places, vm, host, state, report)
        if not vm.disposable and vm.home < state.home_size:
            report(f"{vm.name}: its home stays at {state.home_size >> 20}M: a home never shrinks")
    run = Run(places, site.recipes, report)
    if state.qemu_pid is not None:
        run.slots[Slot.QEMU_PID] = str(state.qemu_pid)
    if state.display is not None:
        run.slots[Slot.DISPLAY_SOCKET] = str(display_socket(state.display))
    try:
        timing = perform(run, plan)
    except BaseException:
        _undo(places, vm, run, state)
        raise
    _record(places, vm.name, timing)
    if run.app_was_running and not request.headless and (state.run / "headless").exists():
        sentence = f"{vm.name}: the app is shown already, on a display that nobody sees"
        raise Problem(sentence, f"okubsd restart {vm.name}  # shows it on this desktop")
    return Started(timing, state.running, run.app_was_running)


def check_desktop(display: str) -> None:
    """Raise HostLacks where the user's X ``display`` does not answer, before anything is built for it (X(7))."""
    match = re.fullmatch(r"(?:unix)?:([0-9]{1,5})(?:\.[0-9]+)?", display)
    if match is None:
        # A display of another host, or one that ssh forwards, is tried by the X server itself.
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(5)
        for path in (str(display_socket(int(match[1]))), f"\0{display_socket(int(match[1]))}"):
            with contextlib.suppress(OSError):
                connection.connect(path)
                return
    raise HostLacks(f"the X display {display} does not answer", "set DISPLAY to yours, or start it with --headless")


def _tell_backend(places: Places, vm: Vm, host: HostFacts, state: VmFacts, report: Report) -> None:
    """Say what runs the VM and why, and where its walls are weaker than they could be."""
    choice = choose_backend(vm, host, state)
    if choice.backend is Backend.VMD:
        report(f"{vm.name}: on vmd, since {choice.why}")
        return
    accelerator = f"; {host.accelerator.why}" if host.accelerator.name == "tcg" else ""
    _tell_once(places, f"on QEMU, since {choice.why}{accelerator}", report, vm.name)
    if host.weakness(vm.network):
        report(f"{vm.name}: a weaker wall around its network: {host.weakness(vm.network)}")


def _tell_once(places: Places, sentence: str, report: Report, name: str) -> None:
    """Tell what is the same at every start only when it is news; `status` and `doctor` always say it."""
    told = places.vm(name) / "told"
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if told.read_text() == sentence:
            return
    report(f"{name}: {sentence}")
    door.write(told, sentence.encode(), lasting=False)


def _end_half_started(places: Places, vm: Vm) -> None:
    """End a VM whose start was killed before its guest was ready: nobody can tell what it lacks."""
    run = places.vm_run(vm.name)
    if not (run / "ssh_config").exists() and facts.ask_vm(places, vm.name).running:
        end_hard(places, vm.name, None)


def _undo(places: Places, vm: Vm, run: Run, before: VmFacts) -> None:
    """End what a failed start began, and only that."""
    if not before.running:
        end_hard(places, vm.name, run.qemu)
    for process in (run.server, run.qemu if not before.running else None):
        if process is not None and process.poll() is None:
            process.kill()
            process.wait()


def _record(places: Places, name: str, timing: Timing) -> None:
    """Keep the phases of the last starts, a JSON object a line."""
    path = places.vm(name) / "starts.jsonl"
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    lines.append(msgspec.json.encode(timing) + b"\n")
    door.write(path, b"".join(lines[-_KEPT_TIMINGS:]))


def read_timings(places: Places, name: str) -> list[Timing]:
    """Return the recorded starts of the VM, oldest first."""
    try:
        text = (places.vm(name) / "starts.jsonl").read_bytes()
        return msgspec.json.Decoder(Timing).decode_lines(text)
    except (OSError, msgspec.DecodeError):
        return []


def stop(places: Places, vm: Vm, report: Report, *, force: bool = False, patience: int = _POWER_OFF) -> bool:
    """Stop ``vm``: by its own power-off, then by QEMU's monitor, then by SIGKILL.

    ``force`` leaves the first out, and waits for nobody; ``patience`` is how many seconds the guest gets.  Returns
    whether the VM ran.  Raises Problem where it stands still, TimedOut where even SIGKILL does not end it.
    """
    if force:
        return _stop_now(places, vm, report)
    with holding(places, vm.name, report):
        state = facts.ask_vm(places, vm.name)
        if not state.running:
            _clean_up(places, vm.name)
            return False
        if state.stall:
            raise Problem(f"{vm.name}: stands still: {state.stall}", f"okubsd stop -f {vm.name}  # a power cut")
        if not _power_off(vm, state, patience):
            report(f"{vm.name}: the guest does not power off by itself; its home is not unmounted cleanly")
        end_hard(places, vm.name, None, report)
        return True


def _stop_now(places: Places, vm: Vm, report: Report) -> bool:
    """End the VM before its lock is asked for: whoever holds that may wait for the guest, and a guest for ever."""
    ran = facts.ask_vm(places, vm.name).running
    if ran:
        end_hard(places, vm.name, None, report, clean=False)
    try:
        with holding(places, vm.name, report, seconds=_LOCK_SECONDS):
            end_hard(places, vm.name, None, report)
    except TimedOut:
        # It is being started just now, or its start cleans up; nothing of it runs.
        if not ran:
            raise
    return ran


def _power_off(vm: Vm, state: VmFacts, patience: int) -> bool:
    """Ask the guest to power off; return whether it did within ``patience`` seconds."""
    argv = reach(state, power_off_argv(vm, state.run), root=facts.is_root())
    if (state.run / "ssh_config").exists():
        door.ask(argv, timeout=min(_SSH_CALL, patience))
        return vmd.gone(vm.name, patience) if state.on_vmd else _gone(state.run / "qemu.life", patience)
    return False


def _gone(life: Path, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while locks.is_alive(life):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def _end_on_vmd(places: Places, name: str, report: Report, *, vmd_runs_it: bool) -> None:
    """End a VM of vmd's, and shut its network whatever became of it."""
    status = vmd.status_of(name) if vmd_runs_it else None
    if status is not None and status.running and not vmd.end(name, _KILL):
        raise TimedOut(f"{name}: vmd does not end it, not even by force", "doas rcctl check vmd")
    vmd.close_network(places, name, root=facts.is_root(), report=report)


def end_hard(
    places: Places,
    name: str,
    child: subprocess.Popen[bytes] | None,
    report: Report = lambda line: None,
    *,
    clean: bool = True,
) -> None:
    """End the VM without asking the guest, and everything that hangs on it.

    ``child`` is the QEMU if it is ours to reap, ``clean`` whether its run directory is emptied.  Raises TimedOut where
    it does not even end by force.
    """
    run = places.vm_run(name)
    record = vmd.read_record(places, name) if vmd.has_vmd() else None
    if record is not None:
        _end_on_vmd(places, name, report, vmd_runs_it=record.backend == "vmd")
    pid = running.live_qemu(run)
    if pid is not None:
        with contextlib.suppress(Problem), monitor(run / "qmp", timeout=2) as qemu:
            qemu.execute("quit")
        if not _ended(run / "qemu.life", child, _QUIT):
            door.kill(pid, signal.SIGKILL)
            if not _ended(run / "qemu.life", child, _KILL):
                raise TimedOut(f"{name}: QEMU (pid {pid}) does not end, not even by SIGKILL")
    if clean:
        _clean_up(places, name)


def _ended(life: Path, child: subprocess.Popen[bytes] | None, seconds: float) -> bool:
    if child is not None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout=seconds)
    return _gone(life, seconds)


def _clean_up(places: Places, name: str) -> None:
    """End the VM's ssh connections and X server, and empty its run directory."""
    run = places.vm_run(name)
    for who in ("user", "root"):
        # Whoever listens there may have forked since it began to, so it is asked rather than killed by its pid.
        if (run / f"ssh-{who}").exists() and listener_pid(run / f"ssh-{who}") is not None:
            door.ask(disconnect_argv(Vm(name=name, image=""), run, user=who), timeout=_SSH_CALL)
    pid = running.live_server(run)
    if pid is not None:
        door.kill(pid, signal.SIGTERM)
        if not _gone(run / "display.life", _KILL):
            door.kill(pid, signal.SIGKILL)
    for path in run.iterdir() if run.is_dir() else ():
        path.unlink(missing_ok=True)


def shared_ssh(places: Places, vm: Vm, *options: str, user: str = "user") -> tuple[str, ...]:
    """Return ssh to the running ``vm`` as far as the host name, entering its namespace if it has one.

    Raises Problem where the VM does not run.
    """
    state = facts.ask_vm(places, vm.name)
    if not state.running:
        raise Problem(f"VM '{vm.name}' is not running", f"okubsd start {vm.name}")
    if not (state.run / "ssh_config").exists():
        raise Problem(f"VM '{vm.name}' is still starting", "try again in a moment")
    if state.stall:
        raise Problem(f"VM '{vm.name}' stands still: {state.stall}", f"okubsd status {vm.name}")
    return reach(state, ssh_argv(vm, state.run, *options, user=user), root=facts.is_root())


def set_clock(places: Places, vm: Vm) -> None:
    """Set the guest's clock by the host's.  Raises Problem where the VM does not run or does not do it."""
    argv = (*shared_ssh(places, vm, "-T", user="root"), clock_command(f"{time.time():.0f}"))
    done = door.ask(argv, timeout=_SSH_CALL)
    if done.code == door.GAVE_UP:
        raise TimedOut(f"{vm.name}: the guest does not answer")
    if done.code != 0:
        raise Problem(f"{vm.name}: its clock was not set: {door.reason(done)}")
