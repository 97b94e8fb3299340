"""The ways into a guest, each bounded in seconds and bytes, or ended with the user."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from okubsd.host.door.common import Done, end_process, environment, resolve, show
from okubsd.model import Argv

# The exit code of timeout(1).
GAVE_UP = 124

# In bytes; what is asked of guests is a few lines.
MOST_OF_A_GUEST = 1 << 20


# What a terminal may be called that a guest knows nothing of (terminfo(5)); this one is alike.
_KNOWN_TERMINALS = frozenset(
    ("ansi", "dumb", "linux", "rxvt", "screen", "screen-256color", "tmux", "tmux-256color", "vt100", "vt220", "xterm")
)
_ANY_TERMINAL = "xterm-256color"


def _for_guest() -> dict[str, str]:
    """Return what ssh(1) gets beside the environment: a shell for its proxy commands, and a terminal that is known."""
    known = os.environ.get("TERM", "dumb") in _KNOWN_TERMINALS
    return {"SHELL": "/bin/sh", **({} if known else {"TERM": _ANY_TERMINAL})}


def ask(argv: Argv, *, timeout: float, data: bytes = b"", largest: int = MOST_OF_A_GUEST) -> Done:
    """Run a call into a guest, which is trusted neither to end nor to stop talking, and return how it went.

    ``data`` is its input.  What is not over after ``timeout`` seconds, or says more than ``largest`` bytes, is ended,
    and told as exit code GAVE_UP.
    """
    show(argv)
    with tempfile.TemporaryFile() as source:
        source.write(data)
        source.seek(0)
        pipe = subprocess.PIPE
        process = subprocess.Popen(resolve(argv), stdin=source, stdout=pipe, stderr=pipe, env=environment(_for_guest()))
        try:
            return _collect(process, time.monotonic() + timeout, largest)
        except (subprocess.TimeoutExpired, OverflowError) as error:
            end_process(process)
            why = b"it says too much" if isinstance(error, OverflowError) else b"no answer"
            return Done(GAVE_UP, err=why)
        except BaseException:
            end_process(process)
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


def listen(argv: Argv, source: IO[bytes] | int) -> subprocess.Popen[bytes]:
    """Start a call into a guest whose output comes by its stdout, as much at a time as its caller takes; return it.

    ``source`` is its input, or subprocess.PIPE; the call is to end with it, see end_listening().
    """
    show(argv)
    nothing = subprocess.DEVNULL
    return subprocess.Popen(
        resolve(argv), stdin=source, stdout=subprocess.PIPE, stderr=nothing, env=environment(_for_guest())
    )


def end_listening(process: subprocess.Popen[bytes]) -> None:
    """End what listen() began, by the end of its input.

    One that is killed leaves what it ran in the guest, and dropbear then refuses some of the next calls.
    """
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=2 * _AFTER_THE_END)
    end_process(process)


def spawn_measured(argv: Argv, log: Path) -> subprocess.Popen[bytes]:
    """Start a call of ssh(1) that is only made to be measured against; whoever measures ends it."""
    show(argv)
    with log.open("wb") as stream:
        return subprocess.Popen(
            resolve(argv), stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True
        )


def call_interactive(argv: Argv) -> int:
    """Run ``argv`` on the user's own terminal and return its exit code."""
    show(argv)
    return subprocess.call(resolve(argv), env=environment(_for_guest()))


Clean = Callable[[bytes], bytes]

# The exit code of a program whose output nobody reads any more, as shells tell it.
NOBODY_READS = 128 + signal.SIGPIPE


def stream(argv: Argv, clean_out: Clean, clean_err: Clean) -> int:
    """Run a call into a guest with the user's input, its output and errors passing through the two; return its code.

    Both are called with b"" at the end.  When nobody reads the output any more, the call is ended and NOBODY_READS
    returned; it is also gone when this raises.
    """
    show(argv)
    pipe = subprocess.PIPE
    process = subprocess.Popen(resolve(argv), stdout=pipe, stderr=pipe, env=environment(_for_guest()))
    try:
        _relay(process, clean_out, clean_err)
        return process.wait()
    except BrokenPipeError:
        return NOBODY_READS
    finally:
        end_process(process)


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
    """Run ``argv`` with the socket ``end`` as its input and output; it is gone when the block ends.

    The block closes the other end itself: ssh(1) then ends by itself, and the guest's server with it.  Dropbear closes
    a session that begins while another is torn down by a signal.
    """
    show(argv)
    fd = end.fileno()
    # ssh(1) hands its descriptors to the shared connection, where a guest can keep them open: never the caller's own.
    process = subprocess.Popen(
        resolve(argv), stdin=fd, stdout=fd, stderr=subprocess.DEVNULL, env=environment(_for_guest())
    )
    try:
        yield
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=_AFTER_THE_END)
        end_process(process)
