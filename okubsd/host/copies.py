"""Numbered copies of a VM, begun for one use: they have no home, and nothing of them is left when they end.

Whatever ends a copy's QEMU, a process that waited for that has okubsd forget it.  One that was kept from it, as by the
end of the host, is forgotten by the next call that makes a copy.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import msgspec

from okubsd import layout
from okubsd.config.names import VM_NAME
from okubsd.errors import HostLacks, Misuse, Problem
from okubsd.host import door, lifecycle, locks, programs, running
from okubsd.host.places import Places
from okubsd.host.session import Session
from okubsd.model import Description, NetworkKind, Vm

# How many copies of one VM there may be at once.
_MOST = 999
# What the directory of one is called while it is removed.
_GONE = ".gone-"


@contextlib.contextmanager
def making(session: Session, vm: Vm) -> Iterator[Vm]:
    """Have a copy of ``vm`` for the block that starts it, with a name that no VM has; forget it where it did not start.

    Raises HostLacks where copies cannot run, and Misuse where the name is too long, or there are too many.
    """
    places, description = session.places, session.description
    if programs.has_vmd():
        raise HostLacks(
            f"{vm.name}: a copy runs on QEMU only; on vmd each VM is prepared by root",
            f"doas vi {description.path}  # describe one more VM, with 'disposable: yes'",
        )
    if not can_copy(vm):
        raise HostLacks(
            f"{vm.name}: a copy would have no way through the network '{vm.network.name}', which its gateway makes for "
            "described VMs only",
            f"vi {description.path}  # describe one more VM, with 'disposable: yes'",
        )
    if not VM_NAME.fullmatch(f"{vm.name}-{_MOST}"):
        raise Misuse(f"the name '{vm.name}' is too long for a copy, which has '-' and a number behind it")
    for directory in (places.state, places.state / layout.STATE_VMS):
        door.make_private(directory)
    forget_ended(session)
    name, lock = _take_one(places, description, vm.name)
    try:
        with lock:
            yield copy_of(vm, name)
    finally:
        forget(session, name)


def _take_one(places: Places, description: Description, origin: str) -> tuple[str, IO[str]]:
    """Return the first name that is free, and what holds it."""
    for number in range(1, _MOST + 1):
        name = f"{origin}-{number}"
        lock = _take(places, name, origin) if description.find(name) is None else None
        if lock is not None:
            return name, lock
    raise Misuse(f"there are {_MOST} copies of '{origin}' already", "okubsd stop --all")


def _take(places: Places, name: str, origin: str) -> IO[str] | None:
    """Make the directory of a copy, if nobody has; return the file that says whose it is, locked for its start."""
    mark = places.vm(name) / layout.COPY_OF
    try:
        places.vm(name).mkdir(mode=0o700)
        stream = mark.open("x")
    except (FileExistsError, FileNotFoundError):
        return None
    fcntl.flock(stream, fcntl.LOCK_EX)
    stream.write(f"{origin}\n")
    stream.flush()
    try:
        there = os.path.samestat(mark.stat(), os.fstat(stream.fileno()))
    except FileNotFoundError:
        there = False
    if not there:
        # Somebody who cleans up was quicker than the lock.
        stream.close()
        return None
    return stream


def copies_of(session: Session, origin: str) -> list[str]:
    """Return the copies of the VM ``origin`` that run or are being started."""
    marks = (session.places.state / layout.STATE_VMS).glob(f"{origin}-*/{layout.COPY_OF}")
    found = []
    for mark in marks:
        # One may end while we look.
        with contextlib.suppress(FileNotFoundError):
            if mark.read_text().strip() == origin:
                found.append(mark.parent.name)
    return found


def can_copy(vm: Vm) -> bool:
    """Return whether copies of a VM can run: the links to a gateway are those of the VMs that are described."""
    return not programs.has_vmd() and vm.network.kind in (NetworkKind.NAT, NetworkKind.NONE)


def copy_of(vm: Vm, name: str) -> Vm:
    """Return a copy of ``vm`` that is called ``name``."""
    return msgspec.structs.replace(
        vm, name=name, disposable=True, keep=False, autostart=False, publish=(), share=(), copy_of=vm.name
    )


def is_copy(places: Places, name: str) -> bool:
    """Return whether what is kept of a VM is that of a copy; one that has a home is none, whatever it has besides."""
    here = places.vm(name)
    return (
        VM_NAME.fullmatch(name) is not None and (here / layout.COPY_OF).is_file() and not (here / layout.HOME).exists()
    )


def forget(session: Session, name: str) -> bool:
    """Remove all that there is of a copy that neither runs nor is being started; return whether it is gone.

    One whose start was killed on its way is ended.
    """
    places = session.places
    described = session.known_description
    if not is_copy(places, name) or described is None or described.find(name) is not None:
        if re.search(r"-[0-9]+$", name):
            with contextlib.suppress(OSError):
                _drop_lock(session, places.vm(name))
                places.vm(name).rmdir()
        return False
    with contextlib.suppress(locks.Busy, FileNotFoundError):
        # Who is starting it holds the first, who starts or stops any VM the second.
        with (
            locks.locked(places.vm(name) / layout.COPY_OF, seconds=0),
            locks.locked(places.vm(name) / layout.VM_LOCK, seconds=0),
        ):
            lifecycle.end_half_started(session, name)
            if running.is_running(places, name) or not is_copy(places, name):
                return False
            if places.vm_run(name).exists():
                shutil.rmtree(places.vm_run(name))
            # Out of the way at once: whatever ends us now, the next call removes the rest.
            gone = places.vm(name).with_name(f"{_GONE}{secrets.token_hex(8)}")
            places.vm(name).rename(gone)
        shutil.rmtree(gone)
        return True
    return False


def forget_ended(session: Session) -> None:
    """Forget the copies that ended while nobody waited for it, and what a call that was killed left of others."""
    directory = session.places.state / layout.STATE_VMS
    for gone in directory.glob(f"{_GONE}*"):
        shutil.rmtree(gone, ignore_errors=True)
    for path in sorted(directory.glob(f"*/{layout.COPY_OF}")):
        # One that cannot be forgotten keeps nobody from another.
        with contextlib.suppress(Problem, OSError):
            forget(session, path.parent.name)
    for path in directory.glob("*-[0-9]*"):
        # A name that was taken and not yet marked: whoever takes it just now takes the next.
        with contextlib.suppress(OSError):
            _drop_lock(session, path)
            path.rmdir()


def _drop_lock(session: Session, path: Path) -> None:
    """Remove the lock of a copy of which nothing else is left: who ended one that was forgotten meanwhile leaves it."""
    described = session.known_description
    if described is None or described.find(path.name) is not None:
        return
    if [entry.name for entry in path.iterdir()] == [layout.VM_LOCK]:
        with contextlib.suppress(locks.Busy), locks.locked(path / layout.VM_LOCK, seconds=0):
            (path / layout.VM_LOCK).unlink()
