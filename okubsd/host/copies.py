"""Numbered copies of a VM, begun for one use: they have no home, and nothing of them is left when they end.

Whatever ends a copy's QEMU, a process that waited for that has okubsd forget it.  One that was kept from it, as by the
end of the host, is forgotten by the next call that makes a copy.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
from collections.abc import Iterator
from typing import IO

import msgspec

from okubsd import layout
from okubsd.config.names import VM_NAME
from okubsd.errors import HostLacks, Misuse
from okubsd.host import door, homes, lifecycle, locks, programs, running
from okubsd.host.places import Places
from okubsd.host.session import Session
from okubsd.model import Description, Vm

# How many copies of one VM there may be at once.
_MOST = 999


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
    if not VM_NAME.fullmatch(f"{vm.name}-{_MOST}"):
        raise Misuse(f"the name '{vm.name}' is too long for a copy, which has '-' and a number behind it")
    for directory in (places.state, places.state / layout.STATE_VMS):
        door.make_private(directory)
    forget_ended(session)
    name, lock = _take_one(places, description, vm.name)
    try:
        with lock:
            yield msgspec.structs.replace(
                vm, name=name, disposable=True, keep=False, autostart=False, copy_of=vm.name
            )  # fmt: skip
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
    if not mark.exists():
        # Somebody who cleans up was quicker than the lock.
        stream.close()
        return None
    return stream


def is_copy(places: Places, name: str) -> bool:
    """Return whether what is kept of a VM is that of a copy."""
    return VM_NAME.fullmatch(name) is not None and (places.vm(name) / layout.COPY_OF).is_file()


def forget(session: Session, name: str) -> bool:
    """Remove all that there is of a copy that neither runs nor is being started; return whether it is gone.

    One whose start was killed on its way is ended.
    """
    places = session.places
    if not is_copy(places, name):
        return False
    with contextlib.suppress(locks.Busy, FileNotFoundError):
        # Who is starting it holds the first, who starts or stops any VM the second.
        with (
            locks.locked(places.vm(name) / layout.COPY_OF, seconds=0),
            locks.locked(places.vm(name) / layout.VM_LOCK, seconds=0),
        ):
            lifecycle.end_half_started(session, name)
            if running.is_running(places, name):
                return False
            shutil.rmtree(places.vm_run(name), ignore_errors=True)
            homes.remove(places, name, keep_home=False)
        return True
    return False


def forget_ended(session: Session) -> None:
    """Forget the copies that ended while nobody waited for it."""
    directory = session.places.state / layout.STATE_VMS
    for path in sorted(directory.glob(f"*/{layout.COPY_OF}")):
        forget(session, path.parent.name)
