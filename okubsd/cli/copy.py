"""okubsd cp: a file into a VM, or out of it."""

from __future__ import annotations

import os
import re
import shlex
import sys
import time
from pathlib import Path

import click

from okubsd.cli.enter import reachable
from okubsd.cli.session import pass_session
from okubsd.config.names import VM_NAME, quoted
from okubsd.display.clip import HOST
from okubsd.errors import Misuse, Problem, Unreachable
from okubsd.host import copying, policy
from okubsd.host.guest import Guest
from okubsd.host.session import Session

# How many files of one name an inbox has, and how long a guest may take to say what is there, in seconds.
_MOST_NAMES, _INBOX_SECONDS = 100, 60.0
_REMOTE = re.compile(rf"({VM_NAME.pattern}):(.*)", re.DOTALL)


def parse_side(text: str) -> tuple[str, str]:
    """Return (VM, path) of one side of a copy; the VM is "" for a file of the host.

    A path that begins with '.' or '/' is the host's, whatever colons it has.
    """
    match = _REMOTE.fullmatch(text)
    return (match[1], match[2]) if match else ("", text)


def path_in_guest(text: str) -> bytes:
    """Return a path as the guest has it: "~/x" is in its user's home, where any path begins that is not absolute."""
    path = os.fsencode(text)
    return path[2:].lstrip(b"/") if path.startswith(b"~/") else b"" if path == b"~" else path


@click.command("cp")
@click.argument("paths", metavar="SRC... DST", nargs=-1, required=True)
@click.option("-r", "--recursive", is_flag=True, help="Copy directories with all below them.")
@pass_session
def copy(session: Session, paths: tuple[str, ...], recursive: bool) -> None:
    """Copy files: SRC and DST are files of this host, or VM:PATH, relative to the home of the VM's user.

    A copy is whole or not at all; one that was cut short goes on where it ended.  Mode and date are kept.
    """
    if len(paths) < 2:
        raise Misuse("say what to copy, and where to", "okubsd cp page.html browser:")
    *sources, target = (parse_side(path) for path in paths)
    _check_sides(sources, target, paths)
    for source in sources:
        _need_leave(session, source, target)
    for vm, path in sources:
        if vm and target[0]:
            _between_guests(session, (vm, path), target, recursive=recursive)
        else:
            _copy_one(session, (vm, path), target, recursive=recursive)


_Side = tuple[str, str]


def _check_sides(sources: list[_Side], target: _Side, paths: tuple[str, ...]) -> None:
    """Raise Misuse for sides that do not go together, before anything is begun."""
    if not target[0] and not all(vm for vm, _ in sources):
        raise Misuse("one of SRC and DST is a file of this host, the other is VM:PATH", "okubsd cp page.html browser:")
    if len(sources) > 1 and not target[0] and not Path(target[1]).is_dir():
        raise Misuse(f"several files are copied to a directory, and {quoted(target[1])} is none")
    if len(sources) > 1 and target[0] and target[1] and not target[1].endswith("/"):
        words = shlex.join(paths)
        raise Misuse("several files are copied to a directory: its name ends in '/'", f"okubsd cp {words}/")


@click.command("send")
@click.argument("files", metavar="FILE... VM", nargs=-1, required=True)
@pass_session
def send_files(session: Session, files: tuple[str, ...]) -> None:
    """Put files and directories of this host, or VM:PATH, into the inbox of a VM, ~/inbox; nothing is written over."""
    *paths, name = files
    if not paths:
        raise Misuse("say what to send, and to which VM", "okubsd send report.pdf browser")
    sources = [parse_side(path) for path in paths]
    for vm, path in sources:
        if not vm and not Path(path).exists():
            raise Misuse(f"{quoted(path)}: there is no such file")
        if _name_of(vm, path) in ("", ".", ".."):
            raise Misuse(f"{quoted(path)} has no name that it could have in an inbox", f"okubsd send {vm}:FILE {name}")
    for source in sources:
        _need_leave(session, source, (name, ""))
    guest = reachable(session, name)
    if guest.ask(("mkdir", "-p", "inbox"), timeout=30).code != 0:
        raise Problem(f"{name}: its guest has no inbox, and makes none", f"okubsd run {name} -- ls -ld inbox")
    for written, (vm, path) in zip(paths, sources, strict=True):
        target = _free_name(guest, _name_of(vm, path))
        if vm:
            _between_guests(session, (vm, path), (name, f"inbox/{target}"), recursive=True)
        else:
            _copy_one(session, ("", path), (name, f"inbox/{target}"), recursive=True)
        session.report(f"{quoted(written)} is {quoted(f'~/inbox/{target}')} in {name}")


def _name_of(vm: str, path: str) -> str:
    """Return what a file is called, here or in a guest."""
    return path.rstrip("/").rpartition("/")[2] if vm else Path(path).resolve().name


def _free_name(guest: Guest, name: str) -> str:
    """Return ``name``, or with a number before its ending where the inbox has one of that name."""
    stem, suffix = Path(name).stem, Path(name).suffix
    end = time.monotonic() + _INBOX_SECONDS
    for number in range(1, _MOST_NAMES):
        tried = name if number == 1 else f"{stem}-{number}{suffix}"
        code = guest.ask(("test", "-e", f"inbox/{tried}"), timeout=30).code
        if code == 1:
            return tried
        if code != 0 or time.monotonic() > end:
            raise Unreachable(f"{guest.vm.name}: its guest does not say what is in its inbox")
    raise Problem(f"the inbox has {_MOST_NAMES} files called {quoted(name)}")


def _need_leave(session: Session, source: _Side, target: _Side) -> None:
    """Raise Problem where a policy, or the user whom it asks, does not let a file cross."""
    if not policy.policy_files():
        return
    sides = (HOST if not name else session.running_vm(name) for name, _ in (source, target))
    there, here = (side if isinstance(side, str) else side.copy_of or side.name for side in sides)
    policy.need_leave(session, "files", there, here, quoted(source[1], 200))


def _copy_one(session: Session, source: _Side, target: _Side, *, recursive: bool) -> None:
    there = reachable(session, source[0] or target[0])
    with copying.files_of(there) as guest, progress(session, source[1]) as step:
        left_out = 0
        if target[0]:
            here = Path(source[1])
            if recursive and here.is_dir():
                left_out = copying.send_tree(guest, here, path_in_guest(target[1]), step)
            else:
                copying.send(guest, here, path_in_guest(target[1]), step)
        elif recursive:
            left_out = copying.fetch_tree(guest, path_in_guest(source[1]), _host_path(target[1]), step)
        else:
            copying.fetch(guest, path_in_guest(source[1]), _host_path(target[1]), step)
    if left_out:
        session.report(f"{quoted(source[1])}: {left_out} links and other things that are no files were left out")


def _host_path(text: str) -> Path:
    """Return a target on the host; a name that ends in '/' has to be a directory."""
    if text.endswith("/") and not Path(text).is_dir():
        raise Misuse(f"there is no directory {quoted(text)}", f"mkdir {shlex.quote(text)}")
    return Path(text)


def _between_guests(session: Session, source: _Side, target: _Side, *, recursive: bool) -> None:
    """Copy from one guest to another: they do not meet, so the host has it in between."""
    import tempfile

    from okubsd.host import door

    door.make_private(session.places.state)
    name = path_in_guest(source[1]).rstrip(b"/").rpartition(b"/")[2]
    name = b"" if name in (b".", b"..") else name
    with tempfile.TemporaryDirectory(prefix=".copy-", dir=session.places.state) as directory:
        between = Path(directory) / "copy"
        _copy_one(session, source, ("", str(between)), recursive=recursive)
        with copying.files_of(reachable(session, target[0])) as guest, progress(session, source[1]) as step:
            there, origin = path_in_guest(target[1]), os.fsencode(f"{source[0]}:{source[1]}")
            if between.is_dir():
                # A whole home has no name of its own: what is in it goes to the target.
                copying.send_tree(guest, between, there or (b"" if name else b"."), step, name or b".", origin=origin)
            else:
                copying.send(guest, between, there, step, name, origin=origin)


def progress(session: Session, what: str) -> copying.Progress:
    """Return a bar on a terminal, and plain lines elsewhere."""
    if session.quiet:
        return copying.Progress()
    return _Bar(what) if sys.stderr.isatty() else _Lines(session, what)


class _Bar(copying.Progress):
    def __init__(self, what: str) -> None:
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self._rich = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._rich.add_task(escape(quoted(what)), total=None)

    def __enter__(self) -> _Bar:
        self._rich.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._rich.stop()

    def __call__(self, done: int, total: int) -> None:
        self._rich.update(self._task, completed=done, total=total)


class _Lines(copying.Progress):
    def __init__(self, session: Session, what: str) -> None:
        self._session = session
        self._what = what
        self._next = 0.0

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self._next == 0.0:
            self._next = now + 1
        elif now >= self._next:
            self._next = now + 5
            self._session.report(f"{self._what}: {done * 100 // max(total, 1)} %")
