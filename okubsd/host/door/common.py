"""What every way through the door shares: how a program is found, shown and ended, and how it went."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence

import msgspec

from okubsd.config.names import quoted
from okubsd.errors import HostLacks
from okubsd.host import programs
from okubsd.model import Argv
from okubsd.needs import package_hint

# How much of a failed program's stderr goes into the sentence.
_LAST_LINES = 3


class Done(msgspec.Struct, frozen=True):
    """A program that ended: its exit code and what it printed."""

    code: int
    out: bytes = b""
    err: bytes = b""


class Verbosity:
    """How much the door says of what it does; set once by the command line."""

    show_argv = False


def environment(extra: Mapping[str, str] | None) -> dict[str, str]:
    # Messages that we match must not depend on the user's language.
    return {**os.environ, "PATH": programs.search_path(), "LC_ALL": "C.UTF-8", **(extra or {})}


def show(argv: Sequence[str]) -> None:
    if Verbosity.show_argv:
        print("+ " + shlex.join(argv), file=sys.stderr, flush=True)


def resolve(argv: Argv) -> list[str]:
    program = programs.find_program(argv[0])
    if program is None:
        raise HostLacks(f"the program '{argv[0]}' is not on this host", package_hint(argv[0], sys.platform))
    return [program, *argv[1:]]


def end_process(process: subprocess.Popen[bytes]) -> None:
    """Let ``process`` clean up after SIGTERM, and kill it if it does not end."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def reason(done: Done) -> str:
    """Return the last lines of a failed program's stderr as one printable sentence."""
    lines = [line.strip() for line in done.err.decode(errors="replace").splitlines() if line.strip()]
    text = "; ".join(lines[-_LAST_LINES:]) or f"it ended with exit code {done.code}"
    return quoted(text, 400)[1:-1]
