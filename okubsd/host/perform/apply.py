"""The steps that change an OpenBSD host: each does one thing, and a journal leads back from all of them."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import time
from pathlib import Path

import msgspec

from okubsd import layout
from okubsd.errors import Problem
from okubsd.host import door
from okubsd.host.performance import Performance
from okubsd.host.system import HostRoot
from okubsd.plan import steps


def _system(performance: Performance) -> HostRoot:
    return HostRoot(performance.places.system)


def call(step: steps.Call, performance: Performance) -> None:
    """Run a program.  Raises Problem where it does not do what it is called for."""
    try:
        done = door.run(_system(performance).argv(step.argv), timeout=step.timeout)
    except subprocess.TimeoutExpired:
        raise Problem(f"{step.what}: {step.argv[0]} did not end within {step.timeout} seconds") from None
    if step.may_fail:
        return
    if done.code != 0:
        raise Problem(f"{step.what}: {door.reason(done)}")
    # vmd -n is content with a file that is not there; sysctl says no and exits with 0.
    if step.argv[0] in ("/usr/sbin/vmd", "sysctl") and re.search(rb"failed to open|not permitted", done.err):
        raise Problem(f"{step.what}: {door.reason(done)}")


def stage(step: steps.Stage, performance: Performance) -> None:
    """Write candidates below a directory of their own."""
    top = _system(performance).path(layout.STAGE)
    shutil.rmtree(top, ignore_errors=True)
    for name, text in step.files:
        path: Path = top / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o600)


def keep_journal(step: steps.Journal, performance: Performance) -> None:
    """Keep the old files, flushed, before the first of them changes."""
    door.write(_system(performance).path(layout.JOURNAL), msgspec.json.encode(dict(step.files)))


def replace(step: steps.Replace, performance: Performance) -> None:
    """Replace a file."""
    _system(performance).write(step.path, step.file)


def remove(step: steps.Remove, performance: Performance) -> None:
    """Remove a file."""
    _system(performance).remove(step.path)


def tidy(step: steps.Tidy, performance: Performance) -> None:
    """Remove directories that nothing is left in."""
    system = _system(performance)
    shutil.rmtree(system.path(step.transient), ignore_errors=True)
    for name in step.empty:
        # What is not empty holds something of the administrator's.
        with contextlib.suppress(OSError):
            system.path(name).rmdir()


def finish(step: steps.Finish, performance: Performance) -> None:
    """Drop the journal, and with it the way back."""
    system = _system(performance)
    system.path(layout.JOURNAL).unlink(missing_ok=True)
    shutil.rmtree(system.path(layout.STAGE), ignore_errors=True)


def put_rules(step: steps.PutRules, performance: Performance) -> None:
    """Compile the rules of one VM and put them in force."""
    from okubsd.host import apply
    from okubsd.host.tunnels import read_secrets
    from okubsd.plan.compile import compile_rules

    session = performance.session
    numbers = apply.kept_numbers(_system(performance))
    secrets = read_secrets(session.description)
    apply.apply_rules(session, step.name, compile_rules(session.description, step.name, numbers, secrets, time.time()))
