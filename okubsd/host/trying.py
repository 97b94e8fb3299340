"""Try images in a VM of their own, apart from all that the user has: what ends us ends that, too."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from okubsd import layout
from okubsd.errors import Problem
from okubsd.host import door, keys, lifecycle, locks, opening, programs, running, store, window
from okubsd.host.guest import Guest
from okubsd.host.perform.display import when_it_ends
from okubsd.host.places import Places
from okubsd.host.reading import recipe_directories
from okubsd.host.session import Session, silent
from okubsd.host.waiting import wait_until
from okubsd.model import NONE, Description, Image, Request, Vm
from okubsd.plan.images import images_of
from okubsd.recipe import Recipe

# What an image of no VM is tried with.
_MEMORY = 1 << 30
# How long one may take to show its window, on a CPU of software, in seconds.
_START_SECONDS = 600
# How long an app may take to show a file that it was given, in seconds; its window is there already.
_FILE_SECONDS = 120.0


def as_built(recipes: Mapping[str, Recipe], images: Iterable[Image]) -> dict[str, Recipe]:
    """Return ``recipes`` as ``images`` were made of them: a start builds nothing then, whatever was changed since."""
    made = {
        image.name: msgspec.structs.replace(recipes[image.name], digest=image.recipe, locales=image.locales)
        for image in images
    }
    return {**recipes, **made}


def trial_vm(session: Session, app: str) -> Vm:
    """Return the VM that an image is tried in: as large as the largest of those that use it, without a network."""
    memory = max((vm.memory for vm in session.description.vms if vm.image == app), default=_MEMORY)
    return Vm(name="trial", image=app, memory=memory, disposable=True, network=NONE)


@contextlib.contextmanager
def trial(session: Session, images: list[Image]) -> Iterator[Places]:
    """Have places of their own in which ``images`` are the current ones; whatever ends us, what runs there ends too."""
    places = session.places
    tried = msgspec.structs.replace(places, state=places.state / layout.TRIAL)
    _clear(tried)
    door.make_private(tried.state)
    for name in (layout.STATE_KEY, layout.STATE_TRUSTED):
        (tried.state / name).symlink_to(places.state / name)
    for image in images:
        (tried.images / image.name).mkdir(parents=True)
        (tried.images / image.name / image.build).symlink_to(places.images / image.name / image.build)
        (tried.images / image.name / layout.CURRENT).symlink_to(image.build)
    read_end, write_end = os.pipe()
    argv = ("env", f"OKUBSD_STATE={tried.state}", *programs.okubsd_argv("stop", "--all", "--force"))
    try:
        door.spawn(when_it_ends(argv), tried.state / layout.WATCH_LOG, stdin=read_end)
    finally:
        os.close(read_end)
    try:
        yield tried
    finally:
        os.close(write_end)
        _clear(tried)


def _clear(tried: Places) -> None:
    """Remove what a trial has left; a directory of images there holds links only."""
    if tried.state.is_dir():
        shutil.rmtree(tried.state)


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one app: what it was given to open, how long it took, what its guest held then, and what failed.

    ``seconds`` are from the start of the app until it was painted, ``memory_bytes`` and ``size_bytes`` those in use in
    the guest and of the image.
    """

    image: str
    app: str
    file: str = ""
    seconds: float = 0.0
    memory_bytes: int = 0
    size_bytes: int = 0
    fault: str = ""


def try_apps(session: Session, name: str) -> Iterator[Tried]:
    """Start each app of the image ``name`` in a trial, with the file that its recipe has it open; tell how it went."""
    recipe = session.recipes[name]
    vm = msgspec.structs.replace(trial_vm(session, name), memory=recipe.memory or _MEMORY, boot_timeout=_START_SECONDS)
    chosen = [store.need_image(session.places, one) for one in images_of(vm, session.recipes)]
    lock = session.places.state / layout.TRIAL_LOCK
    with (
        locks.locked(lock, lambda: session.report("waiting for another trial")),
        trial(session, chosen) as places,
    ):
        alone = Session.of(places, Description(Path("trial"), (vm,)), as_built(session.recipes, chosen), silent)
        for app in recipe.apps:
            session.report(f"{name}: trying {app}")
            row = Tried(image=name, app=app, file=Path(recipe.opens.get(app, "")).name, size_bytes=chosen[-1].size)
            try:
                yield _tried(alone, vm, row, recipe_directories(session.places)[name] / recipe.opens.get(app, ""))
            except Problem as problem:
                yield msgspec.structs.replace(row, fault=problem.sentence)
            finally:
                lifecycle.stop(alone, vm, force=True)


def _tried(session: Session, vm: Vm, row: Tried, file: Path) -> Tried:
    if row.file and (file.resolve() != file.absolute() or not file.is_file()):
        raise Problem(f"{row.file} of the recipe is a link, or not there: only what lies beside it is opened")
    lifecycle.start(session, vm, Request(windowless=True))
    arguments = (opening.send_file(session, vm, file),) if row.file else ()
    began = time.monotonic()
    lifecycle.start(session, vm, Request(app=row.app, arguments=arguments, headless=True))
    seconds = time.monotonic() - began
    fault = _not_shown(session, vm, row.file) if row.file else ""
    held = _memory_in_use(Guest.find(session.places, vm))
    return msgspec.structs.replace(row, seconds=round(seconds, 1), memory_bytes=held, fault=fault)


def _not_shown(session: Session, vm: Vm, name: str) -> str:
    """Return "" once a window has the ``name`` of a file in its title, or else what the windows are called."""
    run, titles = session.places.vm_run(vm.name), [""]
    number, cookie = running.live_display(run), keys.read_cookie(run)
    if number is None or cookie is None:
        return "its display is gone"

    def is_shown() -> bool:
        titles[:] = window.titles(vm.name, number, cookie)
        return any(Path(name).stem in title for title in titles)

    if wait_until(is_shown, _FILE_SECONDS, pause=1.0):
        return ""
    return f"no window is called by {name}, but: {', '.join(titles) or 'nothing'}"


def _memory_in_use(guest: Guest) -> int:
    """Return how many bytes of a guest's memory are in use (proc(5), meminfo)."""
    done = guest.ask(("cat", "/proc/meminfo"))
    found = dict(line.split(":", 1) for line in done.out.decode(errors="replace").splitlines() if ":" in line)
    total, free = (found.get(key, "0").split()[0] for key in ("MemTotal", "MemAvailable"))
    return (int(total) - int(free)) << 10 if total.isdigit() and free.isdigit() else 0
