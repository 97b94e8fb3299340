"""Run a program of this host to its end, or start one that goes on; none of them is a call into a guest."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import resource
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

from okubsd.errors import Problem
from okubsd.host.door.common import Done, end_process, environment, reason, resolve, show
from okubsd.model import Argv


def refuse_guest(argv: Argv) -> None:
    """Refuse a call of ssh(1): ask(), stream(), joined() and call_interactive() are the ways into a guest."""
    # A VM may be called ssh, too; ours always has its configuration named next.
    if argv[:1] == ("ssh",) or ("ssh", "-F") in itertools.pairwise(argv):
        raise AssertionError(f"a call into a guest without bounds: {argv}")


def run(
    argv: Argv,
    *,
    timeout: float | None = None,
    data: bytes = b"",
    stdin: IO[bytes] | None = None,
    env: Mapping[str, str] | None = None,
    on_line: Callable[[str], None] | None = None,
    apart: bool = False,
) -> Done:
    """Run ``argv`` to its end and return how it went.

    ``data`` or the open file ``stdin`` is its input, ``on_line`` gets each line of its stderr as it
    comes; ``apart`` gives it a session of its own, for a program that signals its whole process group.
    Raises subprocess.TimeoutExpired after ``timeout`` seconds, HostLacks if there is no such program.
    The program is gone when this returns or raises.
    """
    refuse_guest(argv)
    show(argv)
    with tempfile.TemporaryFile() as source:
        if stdin is None:
            source.write(data)
            source.seek(0)
            stdin = source
        pipe = subprocess.PIPE
        # Of what is told line by line, only the errors are of interest; nobody would read the rest.
        out_to = pipe if on_line is None else subprocess.DEVNULL
        process = subprocess.Popen(
            resolve(argv), stdin=stdin, stdout=out_to, stderr=pipe, env=environment(env), start_new_session=apart
        )
        try:
            if on_line is not None:
                return _follow(process, on_line, timeout)
            out, err = process.communicate(timeout=timeout)
            return Done(process.returncode, out, err)
        except BaseException:
            end_process(process)
            raise


# Of the errors of a program that is followed, these many lines are kept, and of a line this much.
_KEPT_LINES, _LONGEST_LINE = 50, 64 << 10


def _follow(process: subprocess.Popen[bytes], on_line: Callable[[str], None], timeout: float | None) -> Done:
    """Pass on each line of the errors of ``process``.  Raises TimeoutExpired after ``timeout`` seconds."""
    assert process.stderr is not None
    end = None if timeout is None else time.monotonic() + timeout
    kept: list[bytes] = []
    pending = b""
    with process.stderr, selectors.DefaultSelector() as waiting:
        waiting.register(process.stderr, selectors.EVENT_READ)
        while True:
            left = None if end is None else max(0.0, end - time.monotonic())
            if not waiting.select(left):
                raise subprocess.TimeoutExpired(process.args, timeout or 0)
            chunk = os.read(process.stderr.fileno(), 65536)
            *lines, pending = (pending + chunk).split(b"\n")
            if not chunk or len(pending) > _LONGEST_LINE:
                lines, pending = [*lines, pending], b""
            for line in lines:
                kept = [*kept[1 - _KEPT_LINES :], line + b"\n"]
                on_line(line.decode(errors="replace").rstrip())
            if not chunk:
                break
    return Done(process.wait(None if end is None else max(0.0, end - time.monotonic())), b"", b"".join(kept))


def must(argv: Argv, what: str, *, timeout: float | None = None, **options: object) -> Done:
    """Run ``argv`` and raise Problem("``what``: reason") unless it exits with 0."""
    try:
        done = run(argv, timeout=timeout, **options)  # type: ignore[arg-type]
    except subprocess.TimeoutExpired:
        raise Problem(f"{what}: {argv[0]} did not end within {timeout:.0f} seconds") from None
    if done.code != 0:
        raise Problem(f"{what}: {reason(done)}")
    return done


def spawn(
    argv: Argv,
    log: Path,
    *,
    keep_fds: tuple[int, ...] = (),
    largest_file: int = 0,
    life: Path | None = None,
    stdin: int = subprocess.DEVNULL,
) -> subprocess.Popen[bytes]:
    """Start ``argv`` in a session of its own, its output going to ``log``, and return it.

    ``keep_fds`` stay open in it, ``stdin`` is the descriptor of its input;
    ``largest_file`` bounds in bytes what it can write to any one file;
    ``life`` is a lock file that the program then holds for as long as it lives, see is_alive().
    """
    refuse_guest(argv)
    show(argv)
    words = resolve(argv)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    held = -1
    try:
        if life is not None:
            held = os.open(life, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(held, fcntl.LOCK_EX)
            keep_fds = (*keep_fds, held)
        process = subprocess.Popen(
            words,
            stdin=stdin,
            stdout=descriptor,
            stderr=descriptor,
            start_new_session=True,
            pass_fds=keep_fds,
            env=environment(None),
            # SIGXFSZ stays ignored, as Python has it: past its bound a write fails, the program lives.
            restore_signals=False,
        )
    finally:
        os.close(descriptor)
        if held >= 0:
            os.close(held)
    if life is not None:
        # Only good while the lock is held, and then always good; see living_pid().
        life.write_text(f"{process.pid}\n")
    if largest_file and hasattr(resource, "prlimit"):
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (largest_file, largest_file))
    return process


def begin(argv: Argv, *, errors: bool = True) -> subprocess.Popen[bytes]:
    """Start ``argv`` in a session of its own and return it; all it says comes by its stdout, its ``errors`` too."""
    refuse_guest(argv)
    pipe = subprocess.PIPE
    return subprocess.Popen(
        resolve(argv),
        stdin=subprocess.DEVNULL,
        stdout=pipe,
        stderr=subprocess.STDOUT if errors else subprocess.DEVNULL,
        start_new_session=True,
    )


def begin_fed(argv: Argv) -> subprocess.Popen[bytes]:
    """Start ``argv`` in a session of its own, fed by its stdin, which never blocks who writes, and return it."""
    refuse_guest(argv)
    show(argv)
    nothing = subprocess.DEVNULL
    process = subprocess.Popen(
        resolve(argv), stdin=subprocess.PIPE, stdout=nothing, stderr=nothing, start_new_session=True
    )
    assert process.stdin is not None
    os.set_blocking(process.stdin.fileno(), False)
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        # What waits in it is late.
        fcntl.fcntl(process.stdin.fileno(), fcntl.F_SETPIPE_SZ, 4096)
    return process


def kill(pid: int, sign: signal.Signals) -> None:
    """Send ``sign`` to ``pid`` if it is still there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, sign)
