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
MOST_OF_A_GUEST = 1 << 20


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


# What a terminal may be called that a guest knows nothing of (terminfo(5)); this one is alike.
_KNOWN_TERMINALS = frozenset(
    ("ansi", "dumb", "linux", "rxvt", "screen", "screen-256color", "tmux", "tmux-256color", "vt100", "vt220", "xterm")
)
_ANY_TERMINAL = "xterm-256color"


def _for_guest() -> dict[str, str]:
    """Return what ssh(1) gets beside the environment: a shell for its proxy commands, and a terminal that is known."""
    known = os.environ.get("TERM", "dumb") in _KNOWN_TERMINALS
    return {"SHELL": "/bin/sh", **({} if known else {"TERM": _ANY_TERMINAL})}


def _refuse_guest(argv: Argv) -> None:
    """Refuse a call of ssh(1): ask(), stream(), joined() and call_interactive() are the ways into a guest."""
    if "ssh" in argv:
        raise AssertionError(f"a call into a guest without bounds: {argv}")


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
    _refuse_guest(argv)
    _show(argv)
    with tempfile.TemporaryFile() as source:
        if stdin is None:
            source.write(data)
            source.seek(0)
            stdin = source
        pipe = subprocess.PIPE
        # Of what is told line by line, only the errors are of interest; nobody would read the rest.
        out_to = pipe if on_line is None else subprocess.DEVNULL
        process = subprocess.Popen(
            _resolve(argv), stdin=stdin, stdout=out_to, stderr=pipe, env=_environment(env), start_new_session=apart
        )
        try:
            if on_line is not None:
                return _follow(process, on_line, timeout)
            out, err = process.communicate(timeout=timeout)
            return Done(process.returncode, out, err)
        except BaseException:
            _end(process)
            raise


def ask(argv: Argv, *, timeout: float, data: bytes = b"", largest: int = MOST_OF_A_GUEST) -> Done:
    """Run a call into a guest, which is trusted neither to end nor to stop talking, and return how it went.

    ``data`` is its input.  What is not over after ``timeout`` seconds, or says more than ``largest`` bytes, is ended,
    and told as exit code GAVE_UP.
    """
    _show(argv)
    with tempfile.TemporaryFile() as source:
        source.write(data)
        source.seek(0)
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            _resolve(argv), stdin=source, stdout=pipe, stderr=pipe, env=_environment(_for_guest())
        )
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


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let ``process`` clean up after SIGTERM, and kill it if it does not end."""
    if process.poll() is not None:
        return
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
    _refuse_guest(argv)
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


def spawn_measured(argv: Argv, log: Path) -> subprocess.Popen[bytes]:
    """Start a call of ssh(1) that is only made to be measured against; whoever measures ends it."""
    _show(argv)
    with log.open("wb") as stream:
        return subprocess.Popen(
            _resolve(argv), stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True
        )


def call_interactive(argv: Argv) -> int:
    """Run ``argv`` on the user's own terminal and return its exit code."""
    _show(argv)
    return subprocess.call(_resolve(argv), env=_environment(_for_guest()))


Clean = Callable[[bytes], bytes]

# The exit code of a program whose output nobody reads any more, as shells tell it.
NOBODY_READS = 128 + signal.SIGPIPE


def stream(argv: Argv, clean_out: Clean, clean_err: Clean) -> int:
    """Run a call into a guest with the user's input, its output and errors passing through the two; return its code.

    Both are called with b"" at the end.  When nobody reads the output any more, the call is ended and NOBODY_READS
    returned; it is also gone when this raises.
    """
    _show(argv)
    pipe = subprocess.PIPE
    process = subprocess.Popen(_resolve(argv), stdout=pipe, stderr=pipe, env=_environment(_for_guest()))
    try:
        _relay(process, clean_out, clean_err)
        return process.wait()
    except BrokenPipeError:
        return NOBODY_READS
    finally:
        _end(process)


# In seconds; what a call has printed is there when it has ended.
_AFTER_THE_END = 1.0


def _relay(process: subprocess.Popen[bytes], clean_out: Clean, clean_err: Clean) -> None:
    """Pass on what ``process`` prints until both of its streams end."""
    assert process.stdout is not None and process.stderr is not None
    with process.stdout, process.stderr, selectors.DefaultSelector() as waiting:
        waiting.register(process.stdout, selectors.EVENT_READ, (sys.stdout.buffer, clean_out))
        waiting.register(process.stderr, selectors.EVENT_READ, (sys.stderr.buffer, clean_err))
        while waiting.get_map():
            ready = waiting.select(_AFTER_THE_END)
            if not ready and process.poll() is not None:
                # The call has ended; who still holds its descriptors is the shared connection.
                return
            for key, _ in ready:
                chunk = os.read(key.fd, 65536)
                target, clean = key.data
                target.write(clean(chunk))
                target.flush()
                if not chunk:
                    waiting.unregister(key.fileobj)


@contextlib.contextmanager
def joined(argv: Argv, end: socket.socket) -> Iterator[None]:
    """Run ``argv`` with the socket ``end`` as its input and output; it is gone when the block ends."""
    _show(argv)
    fd = end.fileno()
    # ssh(1) hands its descriptors to the shared connection, where a guest can keep them open: never the caller's own.
    process = subprocess.Popen(
        _resolve(argv), stdin=fd, stdout=fd, stderr=subprocess.DEVNULL, env=_environment(_for_guest())
    )
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


class Child:
    """A function of ours in a process of its own, which looks at what may be hostile and can be killed at any time.

    It gets a socket to say what it sees, a line of bytes each, and to be told to go on.
    """

    def __init__(self, look: Callable[[socket.socket], None], *, memory: int) -> None:
        """Begin ``look``; ``memory`` bounds in bytes the data it may hold."""
        ours, theirs = socket.socketpair()
        self._pid = os.fork()
        if self._pid == 0:
            ours.close()
            _be_child(look, theirs, memory)
        theirs.close()
        self._end = ours
        self._buffer = b""

    def ask(self, timeout: float, largest: int = 1 << 16) -> bytes | None:
        """Return the next line that it says, without its newline; b"" if it ended, None after ``timeout`` seconds."""
        limit = time.monotonic() + timeout
        while b"\n" not in self._buffer:
            self._end.settimeout(max(0.001, limit - time.monotonic()))
            try:
                chunk = self._end.recv(65536)
            except TimeoutError:
                return None
            except ConnectionError:
                return b""
            if not chunk or len(self._buffer) > largest:
                return b""
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def read_rest(self, size: int, timeout: float) -> bytes | None:
        """Return ``size`` bytes that it sends; None where they do not come within ``timeout`` seconds."""
        limit, data = time.monotonic() + timeout, bytearray(self._buffer)
        while len(data) < size:
            self._end.settimeout(max(0.001, limit - time.monotonic()))
            try:
                chunk = self._end.recv(1 << 20)
            except (TimeoutError, ConnectionError):
                return None
            if not chunk:
                return None
            data += chunk
        return bytes(data[:size])

    def tell(self, word: bytes) -> None:
        """Say a line to it, if it is still there."""
        with contextlib.suppress(OSError):
            self._end.sendall(word + b"\n")

    def end(self) -> None:
        """Kill it, and wait until it is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)
        self._end.close()


_PR_SET_PDEATHSIG = 1  # prctl(2)
_LONGEST_LOOK = 3600  # seconds, where the system cannot tell that the parent is gone


def _end_with_parent() -> None:
    signal.alarm(_LONGEST_LOOK)
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))


def _be_child(look: Callable[[socket.socket], None], end: socket.socket, memory: int) -> None:
    """Do what a child does, and never return; whatever becomes of it, nothing of the parent's is cleaned up here."""
    try:
        # No lock of the parent's lives on in here, and we never outlive what we were begun for.
        keep = end.fileno()
        os.closerange(3, keep)
        os.closerange(keep + 1, max(keep + 2, 4096))
        _end_with_parent()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        if hasattr(resource, "RLIMIT_DATA"):
            resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
        look(end)
        end.close()
    except BaseException:  # it is told by the end of the socket
        os._exit(1)
    os._exit(0)
