"""Open an address or a file in a VM: what was edited in a copy comes back, if the user wants it.

Nothing of a file is looked at on this host but whether it has changed.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from okubsd import layout
from okubsd.config.names import quoted
from okubsd.config.opening import OpenRule, parse_rules
from okubsd.errors import Problem
from okubsd.host import copies, copying, door, lifecycle, programs, running, store
from okubsd.host.guest import Guest
from okubsd.host.perform.display import when_it_ends
from okubsd.host.places import xdg_directory
from okubsd.host.reading import read_trusted
from okubsd.host.session import Session
from okubsd.model import Request, Vm

# What comes back by itself, in bytes, or as many times as large as it went.
_LARGEST, _GROWN = 256 << 20, 4
# How often is looked whether an app has ended, and how long its guest may take to say so, in seconds.
_LOOK_SECONDS, _ANSWER_SECONDS = 1.0, 60.0
_INBOX = "inbox"


def rule_files() -> list[Path]:
    """Return the files of rules that there are: the host's before the user's."""
    places = (Path("/etc"), xdg_directory(os.environ, "XDG_CONFIG_HOME", ".config"))
    return [path for top in places if os.path.lexists(path := top / "okubsd/open.rules")]


def read_rules(session: Session) -> tuple[OpenRule, ...]:
    """Return all rules, the first that fits decides.  Raises BadDescription with all mistakes."""
    vms = {vm.name: apps_of(session, vm) for vm in session.description.vms}
    return parse_rules([(path, read_trusted(path)) for path in rule_files()], vms)


def apps_of(session: Session, vm: Vm) -> tuple[str, ...]:
    """Return the apps of a VM, the first first."""
    recipe = session.recipes.get(vm.image)
    return vm.apps or (tuple(recipe.apps) if recipe else ())


def open_there(session: Session, vm: Vm, app: str, argument: str) -> None:
    """Show ``argument`` with an app of ``vm``; one that runs already is told by its own second start."""
    lifecycle.start(session, vm, Request(app=app, arguments=(argument,), another=_shows(session, vm, app)))


def _shows(session: Session, vm: Vm, app: str) -> bool:
    if not running.is_running(session.places, vm.name):
        return False
    return (app or apps_of(session, vm)[0]) in _shown(Guest.find(session.places, vm))


def _shown(guest: Guest) -> set[str]:
    """Return the apps that a guest shows."""
    done = guest.ask(("ls", "/run/okubsd/apps"), timeout=_ANSWER_SECONDS)
    if done.code != 0:
        raise Problem(f"{guest.vm.name}: the guest does not say what it shows: {door.reason(done)}")
    return {line.partition(".")[0] for line in done.out.decode(errors="replace").split()}


def send_file(session: Session, vm: Vm, path: Path) -> str:
    """Put a file into a directory of its own in the inbox of a VM that runs; return its path there."""
    guest = Guest.find(session.places, vm)
    directory = f"{_INBOX}/{secrets.token_hex(4)}"
    done = guest.ask(("mkdir", "-p", directory), timeout=_ANSWER_SECONDS)
    if done.code != 0:
        raise Problem(f"{vm.name}: its guest has no room for the file: {door.reason(done)}")
    target = f"{directory}/{path.name}"
    with copying.files_of(guest) as files:
        copying.send(files, path, os.fsencode(target), copying.Progress())
    return f"/home/user/{target}"


class Returned(msgspec.Struct, frozen=True):
    """What came back of a file: where it lies until the user has decided, and the digest that it had when it went."""

    path: Path
    before: str


def open_in_copy(session: Session, vm: Vm, app: str, path: Path) -> Returned | None:
    """Show a file in a copy of ``vm`` until the app ends; return what became of it, None where it did not change.

    What came back lies on the disk before the copy ends.  Where it does not come back the copy is left running, and
    named.  Raises Problem then, and what a start raises.
    """
    before = store.hash_file(path)
    with lifecycle.interruptible(), copies.making(session, vm) as made:
        # It lives until the file is back.
        copy = msgspec.structs.replace(made, keep=True)
        with ending_with_us(session, copy) as spare:
            lifecycle.start(session, copy, Request(windowless=True))
            there = send_file(session, copy, path)
            try:
                lifecycle.start(session, copy, Request(app=app, arguments=(there,)))
                _wait_until_closed(session, copy)
            except BaseException:
                # As far as it was: nobody has to do it again.
                with contextlib.suppress(Problem, OSError):
                    kept = _fetch(session, copy, there, path)
                    session.report(f"what had become of it by then is in {kept}")
                raise
            try:
                returned = Returned(_fetch(session, copy, there, path), before)
            except (Problem, OSError) as error:
                # It is nowhere else.
                spare()
                sentence = f"{quoted(path, 200)} did not come back: {error}; it is still in {copy.name}, which runs on"
                raise Problem(sentence, f"okubsd cp {copy.name}:{there} .; okubsd stop {copy.name}") from None
    if store.hash_file(returned.path) != before:
        return returned
    forget(returned)
    return None


@contextlib.contextmanager
def ending_with_us(session: Session, copy: Vm) -> Iterator[Callable[[], None]]:
    """End the copy after the block, and also where we are killed in it: a process waits for that.

    What is yielded has it live on.
    """
    spared = threading.Event()
    read_end, write_end = os.pipe()
    argv = programs.okubsd_argv("-f", str(session.description.path), "stop", "--force", copy.name)
    try:
        watch = door.spawn(when_it_ends(argv), Path(os.devnull), stdin=read_end)
    finally:
        os.close(read_end)
    try:
        yield spared.set
    finally:
        try:
            if spared.is_set():
                watch.kill()
                watch.wait()
            else:
                with contextlib.suppress(Problem):
                    lifecycle.stop(session, copy, force=True)
        finally:
            os.close(write_end)


def _wait_until_closed(session: Session, copy: Vm) -> None:
    guest = Guest.find(session.places, copy)
    while _shown(guest):
        time.sleep(_LOOK_SECONDS)


def _fetch(session: Session, copy: Vm, there: str, path: Path) -> Path:
    """Have a file of the guest's on this host's disk, in a directory of its own, and return its path."""
    guest = Guest.find(session.places, copy)
    most = max(_LARGEST, _GROWN * path.stat().st_size if path.exists() else 0)
    told = guest.ask(("stat", "-c", "%s", there), timeout=_ANSWER_SECONDS)
    size = int(told.out) if told.code == 0 and told.out.strip().isdigit() else 0
    if size > most:
        raise Problem(f"{copy.name}: the file has become {size >> 20} MB, which is not taken back by itself")
    top = session.places.state / layout.OPENED
    for directory in (session.places.state, top):
        door.make_private(directory)
    for left in top.iterdir():
        # Of one that was killed before anything was there.
        with contextlib.suppress(OSError):
            left.rmdir()
    kept = Path(tempfile.mkdtemp(prefix="", dir=top)) / "file"
    with copying.files_of(guest) as files:
        copying.fetch(files, os.fsencode(there), kept, copying.Progress())
    return kept


def forget(returned: Returned) -> None:
    """Remove what came back, which is in its place now, or is what it was."""
    returned.path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        returned.path.parent.rmdir()


def put(returned: Returned, target: Path, mode: int) -> None:
    """Put what came back to ``target``, whole or not at all.  Raises Problem, and says where it is, where it cannot."""
    try:
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=".okubsd-")
        try:
            with os.fdopen(descriptor, "wb") as stream, returned.path.open("rb") as source:
                shutil.copyfileobj(source, stream)
                os.fchmod(stream.fileno(), mode)
                os.fsync(stream.fileno())
            Path(name).replace(target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        sentence = f"{quoted(target, 200)}: {error.strerror}; what came back is in {returned.path}"
        raise Problem(sentence, f"cp {returned.path} .") from None
    forget(returned)
