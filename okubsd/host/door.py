"""The one door: every program is spawned here, and every lock taken; so are files written that must be whole."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import selectors
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

import msgspec

from okubsd.config.names import quoted
from okubsd.errors import HostLacks, Problem
from okubsd.host import programs
from okubsd.model import Argv
from okubsd.needs import package_hint

# How much of a failed program's stderr goes into the sentence.
_LAST_LINES = 3

# The exit code of timeout(1).
GAVE_UP = 124

# In bytes; what is asked of guests is a few lines.
_MOST_OF_A_GUEST = 1 << 20


class Done(msgspec.Struct, frozen=True):
    """A program that ended: its exit code and what it printed."""

    code: int
    out: bytes = b""
    err: bytes = b""


class Verbosity:
    """How much the door says of what it does; set once by the command line."""

    show_argv = False


def _environment(extra: Mapping[str, str] | None) -> dict[str, str]:
    # Messages that we match must not depend on the user's language.
    return {**os.environ, "PATH": programs.search_path(), "LC_ALL": "C.UTF-8", **(extra or {})}


def _show(argv: Sequence[str]) -> None:
    if Verbosity.show_argv:
        print("+ " + shlex.join(argv), file=sys.stderr, flush=True)


def _resolve(argv: Argv) -> list[str]:
    program = programs.find_program(argv[0])
    if program is None:
        raise HostLacks(f"the program '{argv[0]}' is not on this host", package_hint(argv[0], sys.platform))
    return [program, *argv[1:]]


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
    _show(argv)
    with tempfile.TemporaryFile() as source:
        if stdin is None:
            source.write(data)
            source.seek(0)
            stdin = source
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            _resolve(argv), stdin=stdin, stdout=pipe, stderr=pipe, env=_environment(env), start_new_session=apart
        )
        try:
            if on_line is not None:
                return _follow(process, on_line)
            out, err = process.communicate(timeout=timeout)
            return Done(process.returncode, out, err)
        except BaseException:
            _end(process)
            raise


def ask(argv: Argv, *, timeout: float, data: bytes = b"", largest: int = _MOST_OF_A_GUEST) -> Done:
    """Run a call into a guest, which is trusted neither to end nor to stop talking, and return how it went.

    ``data`` is its input.  What is not over after ``timeout`` seconds, or says more than ``largest`` bytes, is ended,
    and told as exit code GAVE_UP.
    """
    _show(argv)
    with tempfile.TemporaryFile() as source:
        source.write(data)
        source.seek(0)
        pipe = subprocess.PIPE
        process = subprocess.Popen(_resolve(argv), stdin=source, stdout=pipe, stderr=pipe, env=_environment(None))
        try:
            return _collect(process, time.monotonic() + timeout, largest)
        except (subprocess.TimeoutExpired, OverflowError) as error:
            _end(process)
            why = b"it says too much" if isinstance(error, OverflowError) else b"no answer"
            return Done(GAVE_UP, err=why)
        except BaseException:
            _end(process)
            raise


def _collect(process: subprocess.Popen[bytes], end: float, largest: int) -> Done:
    """Return what ``process`` prints until it ends.  Raises TimeoutExpired at ``end``, OverflowError for too much."""
    assert process.stdout is not None and process.stderr is not None
    out, err = bytearray(), bytearray()
    with process.stdout, process.stderr, selectors.DefaultSelector() as waiting:
        waiting.register(process.stdout, selectors.EVENT_READ, out)
        waiting.register(process.stderr, selectors.EVENT_READ, err)
        while waiting.get_map():
            ready = waiting.select(max(0.0, end - time.monotonic()))
            if not ready:
                raise subprocess.TimeoutExpired(process.args, 0)
            for key, _ in ready:
                chunk = os.read(key.fd, 65536)
                key.data.extend(chunk)
                if not chunk:
                    waiting.unregister(key.fileobj)
                if len(key.data) > largest:
                    raise OverflowError
    return Done(process.wait(max(0.0, end - time.monotonic())), bytes(out), bytes(err))


def _follow(process: subprocess.Popen[bytes], on_line: Callable[[str], None]) -> Done:
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        on_line(line.decode(errors="replace").rstrip())
    return Done(process.wait(), b"", b"".join(lines[-50:]))


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let ``process`` clean up after SIGTERM, and kill it if it does not end."""
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def must(argv: Argv, what: str, *, timeout: float | None = None, **options: object) -> Done:
    """Run ``argv`` and raise Problem("``what``: reason") unless it exits with 0."""
    try:
        done = run(argv, timeout=timeout, **options)  # type: ignore[arg-type]
    except subprocess.TimeoutExpired:
        raise Problem(f"{what}: {argv[0]} did not end within {timeout:.0f} seconds") from None
    if done.code != 0:
        raise Problem(f"{what}: {reason(done)}")
    return done


def reason(done: Done) -> str:
    """Return the last lines of a failed program's stderr as one printable sentence."""
    lines = [line.strip() for line in done.err.decode(errors="replace").splitlines() if line.strip()]
    text = "; ".join(lines[-_LAST_LINES:]) or f"it ended with exit code {done.code}"
    return quoted(text, 400)[1:-1]


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
    _show(argv)
    words = _resolve(argv)
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
            env=_environment(None),
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


def call_interactive(argv: Argv) -> int:
    """Run ``argv`` on the user's own terminal and return its exit code."""
    _show(argv)
    return subprocess.call(_resolve(argv), env=_environment(None))


def filter_through(argv: Argv, clean: Callable[[bytes], bytes], timeout: float | None = None) -> int:
    """Run ``argv`` with the user's stdin, its output passing through ``clean``; return its exit code."""
    _show(argv)
    with subprocess.Popen(_resolve(argv), stdout=subprocess.PIPE, env=_environment(None)) as process:
        assert process.stdout is not None
        while chunk := os.read(process.stdout.fileno(), 65536):
            sys.stdout.buffer.write(clean(chunk))
            sys.stdout.buffer.flush()
        return process.wait(timeout)


@contextlib.contextmanager
def joined(argv: Argv, end: socket.socket) -> Iterator[None]:
    """Run ``argv`` with the socket ``end`` as its input and output; it is gone when the block ends."""
    _show(argv)
    process = subprocess.Popen(_resolve(argv), stdin=end.fileno(), stdout=end.fileno(), env=_environment(None))
    try:
        yield
    finally:
        _end(process)


def make_private(path: Path) -> None:
    """Make the directory ``path`` if need be, for its owner alone.

    Raises Problem where it belongs to somebody else, or is no directory.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = path.lstat()
    if not path.is_dir() or path.is_symlink() or status.st_uid != os.geteuid():
        raise Problem(f"{path} is not a directory of yours", "remove it, or set OKUBSD_STATE to another place")
    if status.st_mode & 0o077:
        path.chmod(0o700)


def write(
    path: Path, data: bytes, mode: int = 0o600, *, owner: tuple[int, int] | None = None, lasting: bool = True
) -> None:
    """Write ``data`` to ``path`` whole or not at all: aside, fsync, rename.

    ``owner`` is a user and a group by number; None leaves the file to whoever writes it.  What is of no use after
    a power cut need not be ``lasting``: it is not waited for until the disk has it.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            if owner is not None:
                os.fchown(stream.fileno(), *owner)
            os.fchmod(stream.fileno(), mode)
            stream.write(data)
            stream.flush()
            if lasting:
                os.fsync(stream.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def point(link: Path, target: str) -> None:
    """Make the symbolic link ``link`` point to ``target``, atomically."""
    aside = link.with_name(f".{link.name}.{os.getpid()}")
    aside.unlink(missing_ok=True)
    aside.symlink_to(target)
    aside.replace(link)


def kill(pid: int, sign: signal.Signals) -> None:
    """Send ``sign`` to ``pid`` if it is still there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, sign)
