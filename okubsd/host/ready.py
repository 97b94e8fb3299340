"""Copies that wait: each has booted, shows its app on a display that nobody sees, and stands still until it is taken.

A start of a disposable copy takes one, which then goes on; what waits uses no processor, and the memory that it has.
vmd runs no copies: there the VM itself is booted beforehand, and waits until it is started.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator

import msgspec

from okubsd import layout
from okubsd.decode import read_json
from okubsd.errors import Problem
from okubsd.host import copies, door, facts, lifecycle, locks, running, store, waking
from okubsd.host.engine import engine
from okubsd.host.places import Places
from okubsd.host.session import Session
from okubsd.model import Backend, Request, Vm
from okubsd.plan.images import images_of
from okubsd.plan.seats import engine_for


class Waiting(msgspec.Struct, frozen=True):
    """A copy that waits: of which VM, with what app, since when, and what it was made of ("": it still starts)."""

    name: str
    origin: str
    app: str
    made: int
    key: str


def prepare(session: Session, vm: Vm, app: str = "") -> Waiting:
    """Start a copy of ``vm`` with an app, and have it wait; of vmd's VMs it is the VM itself.

    Raises what a start raises.
    """
    app = _app(session, vm, app)
    if engine_for(vm, facts.backends()) == Backend.VMD:
        return _prepare_itself(session, vm, app)
    with copies.making(session, vm) as copy:
        mark = session.places.vm(copy.name) / layout.WAITING
        # Whoever kills us: what is there is known, and that nobody makes it any more.
        door.write(mark, msgspec.json.encode(Waiting(copy.name, vm.name, app, round(time.time()), "")))
        lifecycle.start(session, copy, Request(app=app, headless=True))
        engine(Backend.QEMU).pause(copy.name, session.places.vm_run(copy.name))
        # Now: a start may have built images.
        waiting = Waiting(copy.name, vm.name, app, round(time.time()), _key(session, vm))
        door.write(mark, msgspec.json.encode(waiting))
        return waiting


def _prepare_itself(session: Session, vm: Vm, app: str) -> Waiting:
    """Start ``vm``, and have it wait: root has prepared it, and no copy.  Whoever starts it later has it go on."""
    places, mark = session.places, session.places.vm(vm.name) / layout.WAITING
    state = facts.ask_vm(places, vm.name)
    if state.running:
        waits = waking.waits(places, vm.name)
        raise Problem(
            f"VM '{vm.name}' {'waits already' if waits else 'is running'}",
            f"okubsd {'start' if waits else 'stop'} {vm.name}",
        )
    found = []

    def stand_still() -> None:
        found.append(Waiting(vm.name, vm.name, app, round(time.time()), _key(session, vm)))
        # First what says so: of one that stands still without a mark nobody knows why.
        door.write(mark, msgspec.json.encode(found[0]))
        try:
            engine(Backend.VMD).pause(vm.name, places.vm_run(vm.name))
        except BaseException:
            mark.unlink()
            raise

    request = Request(app=app, headless=bool(app), windowless=not app, waits=True)
    # Nobody else gets at it between its start and that.
    lifecycle.start(session, vm, request, stand_still)
    return found[0]


def _app(session: Session, vm: Vm, app: str) -> str:
    recipe = session.recipes.get(vm.image)
    return app or next(iter(vm.apps or (tuple(recipe.apps) if recipe else ())), "")


def _key(session: Session, vm: Vm) -> str:
    """Return what stands for the description of a VM and the builds of today."""
    places = session.places.of_system if engine_for(vm, facts.backends()) == Backend.VMD else session.places
    builds = store.current_builds(places, images_of(vm, session.recipes))
    return hashlib.sha256(msgspec.json.encode((vm, sorted(builds.items())))).hexdigest()


def waiting_copies(places: Places) -> list[Waiting]:
    """Return the copies that wait, the oldest first, and those whose maker or taker was killed."""
    found = []
    for path in (places.state / layout.STATE_VMS).glob(f"*/{layout.WAITING}"):
        with contextlib.suppress(OSError, ValueError):
            waiting = read_json(path.read_bytes(), Waiting)
            itself = waiting.name == waiting.origin
            there = waking.waits if itself else running.is_running
            if waiting.name == path.parent.name and there(places, waiting.name):
                found.append(waiting)
    return sorted(found, key=lambda waiting: waiting.made)


def is_good(session: Session, waiting: Waiting) -> bool:
    """Return whether a copy is what a start would make today."""
    vm = session.description.find(waiting.origin)
    return vm is not None and waiting.key == _key(session, vm)


@contextlib.contextmanager
def taking(session: Session, vm: Vm, app: str) -> Iterator[Vm | None]:
    """Have a copy of ``vm`` that waits with that app go on for the block that shows it; None where there is none.

    One that is not shown, however the block ends, is ended.
    """
    places, app = session.places, _app(session, vm, app)
    with contextlib.ExitStack() as held:
        waiting = next((one for one in waiting_copies(places) if _is_meant(session, one, vm, app, held)), None)
        if waiting is None:
            yield None
            return
        copy = copies.copy_of(vm, waiting.name)
        try:
            engine(Backend.QEMU).unpause(copy.name, places.vm_run(copy.name))
            yield copy
            waking.set_clock(places, copy)
        except BaseException:
            with contextlib.suppress(Problem):
                lifecycle.stop(session, copy, force=True)
            raise
        (places.vm(waiting.name) / layout.WAITING).unlink(missing_ok=True)


def _is_meant(session: Session, waiting: Waiting, vm: Vm, app: str, held: contextlib.ExitStack) -> bool:
    """Return whether a copy is to be taken: it is what is asked for, and nobody else takes or makes it."""
    places = session.places
    if waiting.name == vm.name or (waiting.origin, waiting.app) != (vm.name, app) or not is_good(session, waiting):
        return False
    try:
        held.enter_context(locks.locked(places.vm(waiting.name) / layout.COPY_OF, seconds=0))
    except (locks.Busy, FileNotFoundError):
        return False
    # Whoever had it until now has taken it.
    return (places.vm(waiting.name) / layout.WAITING).exists()


def end(session: Session, origins: frozenset[str] | None = None, *, stale: bool = False) -> list[str]:
    """End the copies that wait, of the VMs ``origins`` or of all, or only those ``stale``; return their names."""
    ended, places = [], session.places
    for waiting in waiting_copies(places):
        meant = origins is None or waiting.origin in origins
        if not meant or (stale and is_good(session, waiting)):
            continue
        if waiting.name == waiting.origin:
            # It has a home, and is ended as it would be at any time.
            lifecycle.stop(session, running.started_or_bare(places, waiting.name))
            ended.append(waiting.name)
            continue
        with (
            contextlib.suppress(locks.Busy, FileNotFoundError),
            # Who makes or takes one holds this.
            locks.locked(places.vm(waiting.name) / layout.COPY_OF, seconds=0),
        ):
            copy = Vm(name=waiting.name, image="", disposable=True, copy_of=waiting.origin)
            lifecycle.stop(session, copy, force=True)
            ended.append(waiting.name)
    return ended
