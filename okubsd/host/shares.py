"""Which directories of this host a running VM has: beginning to share one, and ending it."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from pathlib import Path

import msgspec

from okubsd import layout
from okubsd.config import sharing
from okubsd.config.names import quoted
from okubsd.decode import read_json
from okubsd.errors import Misuse, Problem
from okubsd.host import door, locks
from okubsd.host.guest import ROOT, Guest
from okubsd.host.performance import last_lines
from okubsd.host.waiting import wait_until
from okubsd.model import Share

# How long a guest may take to mount, and to let go, in seconds.
_MOUNT_SECONDS, _END_SECONDS = 60.0, 10.0


def place_in_guest(path: Path, at: str) -> str:
    """Return where a directory is to be in the guest: ``at``, below the home, or what it is called here."""
    try:
        return sharing.place_in_guest(path.name, at)
    except ValueError as error:
        raise Misuse(f"{quoted(path)} {error}", "okubsd share VM DIR --at src") from None


def need_shareable(path: Path) -> Path:
    """Return the directory ``path`` without links.  Raises Misuse for one that is not to be shared."""
    try:
        real, home = path.resolve(), Path.home().resolve()
        there = real.is_dir()
    except (OSError, RuntimeError) as error:
        # A name that is too long, a directory that is shut, a circle of links.
        raise Misuse(f"{quoted(path, 200)} cannot be looked at: {getattr(error, 'strerror', '') or error}") from None
    if not there:
        raise Misuse(f"{quoted(path)} is no directory")
    if real == home or real in home.parents:
        raise Misuse(f"{quoted(path)} is a home, or has one in it: keys and settings are there", f"ls {home}")
    below = real.relative_to(home).parts if real.is_relative_to(home) else real.parts
    hidden = next((part for part in below if part.startswith(".")), "")
    if hidden:
        raise Misuse(f"{quoted(path)} is below {quoted(hidden)}: what begins with a dot is no other program's")
    if real.stat().st_uid != os.getuid():
        raise Misuse(f"{quoted(path)} is not yours")
    return real


def _files(run: Path, at: str) -> tuple[Path, Path, Path]:
    """Return what says of a share what it is, the lock of its process, and its log."""
    stem = run / f"{layout.SHARE}{hashlib.sha256(at.encode()).hexdigest()[:12]}"
    return stem.with_suffix(".json"), stem.with_suffix(".life"), stem.with_suffix(".log")


def shares(run: Path) -> list[Share]:
    """Return what is shared with the VM that has the run directory ``run``."""
    found = []
    for life in sorted(run.glob(f"{layout.SHARE}*.life")) if run.is_dir() else ():
        if locks.is_alive(life):
            found.append(read_json(life.with_suffix(".json").read_bytes(), Share))
    return found


def wanted(share: Share) -> Share:
    """Return what a description wishes as it is to be had on this host.  Raises Misuse for what is not to be shared."""
    real = need_shareable(Path(share.path).expanduser())
    return Share(path=str(real), at=place_in_guest(Path(share.path), share.at), writable=share.writable)


def begin(guest: Guest, share: Share) -> None:
    """Share a directory with a guest; return when it is there.  Raises Problem where it is not to be had.

    ``share`` has its path without links, and its place in the guest in full.
    """
    name = guest.vm.name
    described, life, log = _files(guest.run, share.at)
    if locks.is_alive(life):
        raise Problem(f"{name}: {share.at} is shared already", f"okubsd unshare {name} {share.at}")
    if guest.ask(("sh", "-c", "command -v sshfs && [ -c /dev/fuse ]"), user=ROOT).code != 0:
        raise Problem(f"{name}: its guest has no sshfs", f"okubsd image build base boot; okubsd restart {name}")
    door.write(described, msgspec.json.encode(share), lasting=False)
    argv = (sys.executable, "-P", "-m", "okubsd.host.sharing", name, msgspec.json.encode(share).decode())
    process = door.spawn(argv, log, life=life)

    def is_there() -> bool:
        if process.poll() is not None:
            raise Problem(f"{name}: {share.path} is not shared{last_lines(log)}")
        return guest.ask(("grep", "-q", f" {share.at} fuse.sshfs ", "/proc/mounts"), user=ROOT).code == 0

    try:
        wait_until(is_there, _MOUNT_SECONDS, f"{name}: the guest does not mount {share.at}", pause=0.1)
    except BaseException:
        process.kill()
        process.wait()
        raise


def end(guest: Guest, at: str) -> bool:
    """Share a directory no more, whatever the guest does; return whether it was shared."""
    _, life, _ = _files(guest.run, at)
    pid = locks.living_pid(life)
    if pid is None:
        return False
    guest.ask(("busybox", "umount", "-l", at), user=ROOT, timeout=_END_SECONDS)
    if not wait_until(lambda: not locks.is_alive(life), _END_SECONDS / 5, pause=0.05):
        door.kill(pid, signal.SIGKILL)
        wait_until(lambda: not locks.is_alive(life), _END_SECONDS, pause=0.05)
    return True
