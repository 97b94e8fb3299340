"""Where programs are found."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from okubsd.model import Argv

# Administrators' tools that a user's PATH may not reach: mke2fs(8), ip(8).
_EXTRA_PATH = ("/usr/local/sbin", "/usr/sbin", "/sbin")


def search_path() -> str:
    """Return the PATH that programs are looked up in."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), *_EXTRA_PATH])


def find_program(name: str) -> str | None:
    """Return the path of program ``name``, or None."""
    return shutil.which(name, path=search_path())


def okubsd_argv(*args: str) -> Argv:
    """Return okubsd as a user calls it: the installed command, or else the module without a checkout in the way."""
    script = Path(sys.executable).with_name("okubsd")
    return (str(script), *args) if script.is_file() else (sys.executable, "-P", "-m", "okubsd", *args)


def glass_argv() -> Argv:
    """Return the program that shows the windows of a VM; it gets one argument (display/orders.py)."""
    return (sys.executable, "-P", "-m", "okubsd.host.glass")


def attending_argv() -> Argv:
    """Return the program that hears a guest; it gets one argument (display/orders.py)."""
    return (sys.executable, "-P", "-m", "okubsd.host.attending")


def microphone_argv(vm: str) -> Argv:
    """Return the program that gives a VM a microphone."""
    return (sys.executable, "-P", "-m", "okubsd.host.microphone", vm)


def farewell_argv(orders: str) -> Argv:
    """Return the program that shows on the desktop why a start failed."""
    return (sys.executable, "-P", "-m", "okubsd.host.glass.splash", orders)


def ask_argv(asked: str) -> Argv:
    """Return the program that asks the user on the desktop, and ends with 0 for a yes only."""
    return (sys.executable, "-P", "-m", "okubsd.host.glass.ask", asked)


def has_vmd() -> bool:
    """Return whether this host has vmd(8), by the program that speaks to it."""
    return find_program("vmctl") is not None
