"""okubsd cp: a file into a VM, or out of it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click

from okubsd.cli.enter import _reachable as reachable
from okubsd.cli.session import Session, pass_session
from okubsd.config.names import VM_NAME
from okubsd.errors import Misuse
from okubsd.host import transfer

_REMOTE = re.compile(rf"({VM_NAME.pattern}):(.*)", re.DOTALL)


def parse_side(text: str) -> tuple[str, str]:
    """Return (VM, path) of one side of a copy; the VM is "" for a file of the host.

    A path that begins with '.' or '/' is the host's, whatever colons it has.
    """
    match = _REMOTE.fullmatch(text)
    return (match[1], match[2]) if match else ("", text)


@click.command("cp")
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST")
@pass_session
def copy(session: Session, source: str, target: str) -> None:
    """Copy a file: one of SRC and DST is VM:PATH, relative to the home of the VM's user.

    A copy that was cut short goes on where it ended.
    """
    (source_vm, source_path), (target_vm, target_path) = parse_side(source), parse_side(target)
    if bool(source_vm) == bool(target_vm):
        raise Misuse("one of SRC and DST is a file of this host, the other is VM:PATH", "okubsd cp page.html browser:")
    vm = reachable(session, source_vm or target_vm)
    with transfer.sftp(session.places, vm) as client, progress(session, source) as step:
        if target_vm:
            transfer.send(client, Path(source_path), target_path, step)
        else:
            transfer.fetch(client, source_path, Path(target_path), step)


def progress(session: Session, what: str) -> transfer.Progress:
    """Return a bar on a terminal, and plain lines elsewhere."""
    if session.quiet:
        return transfer.Progress()
    return _Bar(what) if sys.stderr.isatty() else _Lines(session, what)


class _Bar(transfer.Progress):
    def __init__(self, what: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self._rich = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._rich.add_task(what, total=None)

    def __enter__(self) -> _Bar:
        self._rich.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._rich.stop()

    def __call__(self, done: int, total: int) -> None:
        self._rich.update(self._task, completed=done, total=total)


class _Lines(transfer.Progress):
    def __init__(self, session: Session, what: str) -> None:
        self._session = session
        self._what = what
        self._next = 0.0

    def __call__(self, done: int, total: int) -> None:
        import time

        now = time.monotonic()
        if self._next == 0.0:
            self._next = now + 1
        elif now >= self._next:
            self._next = now + 5
            self._session.report(f"{self._what}: {done * 100 // max(total, 1)} %")
