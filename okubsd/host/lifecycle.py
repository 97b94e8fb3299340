"""Start and stop a VM as a whole: the lock, the plan, the performing, and the way back."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator

import msgspec

from okubsd import layout
from okubsd.display.server import display_socket
from okubsd.errors import BadClock, BadDescription, BadState, DisplayGone, Problem, TimedOut
from okubsd.host import door, facts, gateway, locks, programs, sockets
from okubsd.host.perform import perform
from okubsd.host.perform.display import show_failure, when_it_ends
from okubsd.host.performance import Performance, Timing, record_timing
from okubsd.host.places import Places
from okubsd.host.session import Report, Session
from okubsd.model import Backend, Request, Vm
from okubsd.plan.facts import HostFacts, VmFacts
from okubsd.plan.limits import OPENBSD, QEMU, limits
from okubsd.plan.seats import choose_seat
from okubsd.plan.seats.base import Boot, Seat
from okubsd.plan.start import plan_start
from okubsd.plan.steps import CleanUp, Plan, Slot, StartDisplay, StartGlass
from okubsd.plan.stop import PATIENCE, plan_stop

# How long a forced stop waits to clean up, in seconds; what runs was ended before.
_LOCK_SECONDS = 15.0


class Started(msgspec.Struct, frozen=True):
    """What came of a start: how long it took, and what was there already."""

    timing: Timing
    vm_was_running: bool
    app_was_running: bool


class Decided(msgspec.Struct, frozen=True):
    """A plan, and what it was decided from."""

    plan: Plan
    boot: Boot
    seat: Seat


@contextlib.contextmanager
def holding(places: Places, name: str, report: Report, seconds: float | None = None) -> Iterator[None]:
    """Hold the lock of the VM ``name``, after making its directories.

    Raises TimedOut where somebody else holds it for more than ``seconds`` (None: as long as it takes).
    """
    places.check_sockets(name)
    for directory in (places.state, places.state / layout.STATE_VMS, places.vm(name), places.run):
        door.make_private(directory)
    door.make_private(places.vm_run(name))
    waiting = f"{name}: waiting for another okubsd"
    try:
        with locks.locked(places.vm(name) / layout.VM_LOCK, lambda: report(waiting), seconds=seconds):
            yield
    except locks.Busy:
        raise TimedOut(f"{name}: another okubsd is at work on it", "try again in a moment") from None


def _interrupt(signum: int, _frame: object) -> None:
    raise KeyboardInterrupt(signal.Signals(signum).name)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end us the way Ctrl-C does: cleaning up."""
    signals = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, _interrupt) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


# --- starting -----------------------------------------------------------------------------------


def seat_of(places: Places, vm: Vm, host: HostFacts, state: VmFacts) -> Seat:
    """Return where ``vm`` runs, or is to run.  Raises HostLacks or Problem where it cannot be here."""
    return state.seat or chosen_seat(places, vm, host)


def chosen_seat(places: Places, vm: Vm, host: HostFacts) -> Seat:
    """Return where ``vm`` is to run.  Raises HostLacks or Problem where it cannot be here."""
    record = None
    if programs.has_vmd():
        from okubsd.host.records import read_record

        record = read_record(places, vm.name)
    return choose_seat(vm, host, record)


def decide_start(session: Session, vm: Vm, request: Request, *, stopped: bool = False, shown: bool = False) -> Decided:
    """Look at the host and decide a start.

    ``stopped`` takes the VM for one that does not run; a plan that is only ``shown`` needs no display.
    """
    state = facts.ask_vm(session.places, vm.name)
    if stopped:
        state = msgspec.structs.replace(state, seat=None, pid=None, display=None, connected=False, stall="")
    if not state.running:
        _check_limits(session, vm)
    host = facts.ask_host(session.places, None if state.running else vm)
    described = str(session.description.path)
    host = msgspec.structs.replace(host, okubsd=(*host.okubsd, "-f", described), description=described)
    if shown and not host.display:
        host = msgspec.structs.replace(host, display=":0")
    seat = seat_of(session.places, vm, host, state)
    links = gateway.ask_links(session.places, vm, session.description, session.recipes)
    boot = Boot(vm=vm, recipes=session.recipes, host=host, state=state, links=links, waits=request.waits)
    return Decided(plan_start(boot, seat, request), boot, seat)


def _check_limits(session: Session, vm: Vm) -> None:
    """Raise BadDescription with what this host cannot do for ``vm``."""
    mistakes = limits(session.description, OPENBSD if programs.has_vmd() else QEMU, of=vm)
    if mistakes:
        raise BadDescription(mistakes)


def start(session: Session, vm: Vm, request: Request, then: Callable[[], None] = lambda: None) -> Started:
    """Bring ``vm`` to what ``request`` asks for, its gateway first, and do ``then`` before anybody else gets at it.

    Raises Problem where that fails; then nothing that this start began is left running.
    """
    through = gateway.find_gateway(vm, session.description)
    if through is None:
        return _start_alone(session, vm, request, then)
    with _needing(session, through):
        before = start(session, through, Request(windowless=True))
        if not before.vm_was_running:
            session.report(f"{vm.name}: its gateway {through.name} was started")
        return _start_alone(session, vm, request, then)


@contextlib.contextmanager
def _needing(session: Session, through: Vm) -> Iterator[None]:
    """Have a gateway that okubsd makes by itself for the block; without a VM behind it, it ends with us.

    That holds however we end: a process waits for the end of a pipe that only we hold, and then looks.
    """
    places = session.places
    if through not in gateway.known_gateways(session.description):
        yield
        return
    for directory in (places.state, places.state / layout.STATE_VMS, places.vm(through.name)):
        door.make_private(directory)
    with locks.locked(places.state / layout.GATEWAYS_LOCK, shared=True):
        read_end, write_end = os.pipe()
        argv = programs.okubsd_argv("-f", str(session.description.path), "stop", "--unused", through.name)
        try:
            door.spawn(when_it_ends(argv), places.vm(through.name) / layout.WATCH_LOG, stdin=read_end)
        finally:
            os.close(read_end)
        try:
            yield
        finally:
            os.close(write_end)


def _start_alone(session: Session, vm: Vm, request: Request, then: Callable[[], None]) -> Started:
    from okubsd.host.waking import awake

    with holding(session.places, vm.name, session.report), interruptible():
        end_half_started(session, vm.name)
        with awake(session.places, vm):
            started = _start_or_again(session, vm, request)
        then()
        return started


def _start_or_again(session: Session, vm: Vm, request: Request) -> Started:
    """Start a VM; what it would have gone on from, if that is bad, or its display, if it is gone, is made anew."""
    try:
        return _start(session, vm, request)
    except BadState as problem:
        from okubsd.host import saved

        session.report(f"{vm.name}: {problem.sentence}; it is removed, and the VM boots")
        saved.discard(session.places, problem.name)
        return _start(session, vm, request)
    except BadClock as problem:
        session.report(f"{vm.name}: {problem.sentence}; it boots anew")
        return _start(session, vm, request)
    except DisplayGone:
        # Whoever looked at the VM's display last was killed, and the display with him.
        if not facts.ask_vm(session.places, vm.name).running:
            raise
        return _start(session, vm, request)


def _start(session: Session, vm: Vm, request: Request) -> Started:
    """Decide and perform one start, or undo it."""
    decided = decide_start(session, vm, request)
    state = decided.boot.state
    if state.stall and decided.seat.engine == Backend.VMD:
        raise Problem(f"VM '{vm.name}' stands still: {state.stall}", f"vmctl unpause {vm.name}")
    if any((isinstance(step, StartDisplay) and step.desktop) or isinstance(step, StartGlass) for step in decided.plan):
        sockets.check_desktop(decided.boot.host.display)
    if not state.running:
        if not vm.copy_of:
            # What a copy of that name left is a described VM's from now on, and stays.
            (session.places.vm(vm.name) / layout.COPY_OF).unlink(missing_ok=True)
        _tell_seat(session, decided)
    performance = _begin(session, state)
    try:
        timing = perform(decided.plan, performance)
        # Whoever interrupts this still has nothing left of the start; a disk without room keeps nobody from one.
        with contextlib.suppress(OSError, Problem):
            record_timing(session.places, vm.name, timing)
    except BaseException as error:
        _undo(decided, performance)
        if isinstance(error, Problem) and performance.shown_at is not None:
            _show_failure(session, decided, error)
        raise
    return Started(timing, state.running, performance.app_was_running)


def _show_failure(session: Session, decided: Decided, problem: Problem) -> None:
    """Say on the desktop why a start failed whose first window was there already."""
    for step in decided.plan:
        if isinstance(step, StartGlass):
            show_failure(step, problem.sentence, session.places.vm(decided.boot.vm.name) / layout.FAREWELL_LOG)


def _begin(session: Session, state: VmFacts) -> Performance:
    """Return a performance that knows what of the VM is there already."""
    performance = Performance(session)
    if state.pid is not None:
        performance.slots[Slot.QEMU_PID] = str(state.pid)
    if state.display is not None:
        performance.slots[Slot.DISPLAY_SOCKET] = str(display_socket(state.display))
    return performance


def _tell_seat(session: Session, decided: Decided) -> None:
    """Say what runs the VM and why, and where its walls are weaker than they could be."""
    vm, host, seat = decided.boot.vm, decided.boot.host, decided.seat
    sentence = f"on {seat.title}, since {seat.why}"
    if host.accelerator.name == "tcg":
        sentence += f"; {host.accelerator.why}"
    _tell_once(session, sentence, vm.name)
    for line in seat.told(host, vm):
        session.report(f"{vm.name}: {line}")
    if not vm.disposable and vm.home < decided.boot.state.home_size:
        kept = decided.boot.state.home_size >> 20
        session.report(f"{vm.name}: its home stays at {kept}M: a home never shrinks")


def _tell_once(session: Session, sentence: str, name: str) -> None:
    """Tell what is the same at every start only when it is news; `status` and `doctor` always say it."""
    told = session.places.vm(name) / layout.TOLD
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if told.read_text() == sentence:
            return
    session.report(f"{name}: {sentence}")
    door.write(told, sentence.encode(), lasting=False)


def end_half_started(session: Session, name: str) -> None:
    """End a VM whose start was killed before its guest was ready: nobody can tell what it lacks."""
    run = session.places.vm_run(name)
    if not (run / layout.SSH_CONFIG).exists():
        state = facts.ask_vm(session.places, name)
        if state.seat is not None:
            perform(state.seat.end(name, run, state.pid), Performance(session))


def _undo(decided: Decided, performance: Performance) -> None:
    """End what a failed start began, and only that."""
    before = decided.boot.state
    if not before.running:
        performance.close()
        perform(decided.seat.end(before.name, before.run, before.pid), performance)
    if performance.glass is not None and performance.glass.poll() is None:
        # It ends its halves with itself.
        performance.glass.terminate()
        performance.glass.wait()
    for process in (performance.server, performance.qemu if not before.running else None):
        if process is not None and process.poll() is None:
            process.kill()
            process.wait()


# --- stopping -----------------------------------------------------------------------------------


def stop_unused(session: Session, through: Vm) -> bool:
    """Stop the gateway ``through`` if okubsd made it by itself and no VM behind it runs; return whether it did."""
    description = session.description
    if through not in gateway.known_gateways(description):
        return False
    # Nobody who starts a VM behind one has it taken away meanwhile.
    with locks.locked(session.places.state / layout.GATEWAYS_LOCK):
        if gateway.clients_that_run(session.places, through, description):
            return False
        return stop(session, through)


def stop(session: Session, vm: Vm, *, force: bool = False, patience: int = PATIENCE) -> bool:
    """Stop ``vm``: by its own power-off, then by what runs it, then by force.

    ``force`` leaves the first out, and waits for nobody; ``patience`` is how many seconds the guest gets.  Returns
    whether the VM ran.  Raises Problem where it stands still, TimedOut where even force does not end it.
    """
    from okubsd.host.waking import is_copy_that_waits, wake

    if force or is_copy_that_waits(session.places, vm.name):
        # One that waits to be taken holds nothing of anybody's.
        return _stop_now(session, vm)
    with holding(session.places, vm.name, session.report):
        wake(session.places, vm.name)
        state = facts.ask_vm(session.places, vm.name)
        if state.stall:
            raise Problem(f"{vm.name}: stands still: {state.stall}", f"okubsd stop -f {vm.name}  # a power cut")
        plan = plan_stop(vm, state, patience=patience)
        perform(plan or (CleanUp(name=vm.name),), Performance(session))
        return state.running


def _stop_now(session: Session, vm: Vm) -> bool:
    """End the VM before its lock is asked for: whoever holds that may wait for the guest, and a guest for ever."""
    state = facts.ask_vm(session.places, vm.name)
    plan = plan_stop(vm, state, force=True)
    perform(tuple(step for step in plan if not isinstance(step, CleanUp)), Performance(session))
    try:
        with holding(session.places, vm.name, session.report, seconds=_LOCK_SECONDS):
            again = plan_stop(vm, facts.ask_vm(session.places, vm.name), force=True)
            perform(again or (CleanUp(name=vm.name),), Performance(session))
    except TimedOut:
        # It is being started just now, or its start cleans up; nothing of it runs.
        if not state.running:
            raise
    return state.running
