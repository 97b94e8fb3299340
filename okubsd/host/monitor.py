"""Talk to a running QEMU over its QMP socket."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from okubsd.errors import Problem
from okubsd.qemu.qmp import LARGEST_LINE, parse_answer, parse_usernet, render_command


class Monitor:
    """One QMP session; commands are answered in order, events are passed over."""

    def __init__(self, connection: socket.socket, stream: BinaryIO) -> None:
        self._connection, self._stream = connection, stream
        self._read()
        self.execute("qmp_capabilities")

    def _read(self) -> Any:
        line = self._stream.readline(LARGEST_LINE)
        if not line:
            raise Problem("QEMU closed its monitor")
        try:
            return parse_answer(line)
        except ValueError:
            raise Problem("QEMU's monitor said something that is not QMP") from None

    def execute(self, name: str, **arguments: object) -> Any:
        """Execute ``name`` and return its result.  Raises Problem with QEMU's own words where it fails."""
        self._connection.sendall(render_command(name, **arguments))
        return self._answer(name)

    def _answer(self, name: str) -> Any:
        while not (answer := self._read()).is_reply:
            pass
        if answer.error is not None:
            raise Problem(f"QEMU refused '{name}': {answer.error.get('desc', 'no reason given')}")
        return answer.result

    def pass_file(self, name: str, descriptor: int) -> None:
        """Give QEMU an open file, which it calls ``name`` from then on."""
        command = render_command("getfd", fdname=name)
        socket.send_fds(self._connection, [command], [descriptor])
        self._answer("getfd")

    def human(self, line: str) -> str:
        """Return what the human monitor answers to ``line``: for what QMP has no command for."""
        return str(self.execute("human-monitor-command", **{"command-line": line}))

    def ssh_port(self) -> int:
        """Return the loopback port that leads to the guest's ssh.  Raises Problem where there is none."""
        port = parse_usernet(self.human("info usernet"))
        if port is None:
            raise Problem("QEMU forwards no port to the guest's ssh")
        return port


def _connect(connection: socket.socket, path: Path, timeout: float, begins: Callable[[], None] | None) -> None:
    """Connect, again and again while QEMU's queue of one is full (connect(2), EAGAIN), or while it still begins."""
    end = time.monotonic() + timeout
    while True:
        try:
            return connection.connect(str(path))
        except (BlockingIOError, ConnectionRefusedError, FileNotFoundError) as error:
            if time.monotonic() > end or (begins is None and not isinstance(error, BlockingIOError)):
                raise
            if begins is not None:
                begins()
            time.sleep(0.003)


@contextlib.contextmanager
def monitor(path: Path, timeout: float = 10.0, begins: Callable[[], None] | None = None) -> Iterator[Monitor]:
    """Open the QMP socket at ``path``.  Raises Problem where nothing answers within ``timeout`` seconds.

    A QEMU that ``begins`` has no socket yet; that is called between tries, and may raise.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        try:
            _connect(connection, path, timeout, begins)
            # QEMU answers one at a time: what reads must be closed too, or the connection is not.
            with connection.makefile("rb") as stream:
                yield Monitor(connection, stream)
        except (TimeoutError, ConnectionError, FileNotFoundError, BlockingIOError) as error:
            raise Problem(f"QEMU's monitor does not answer: {error}") from None
