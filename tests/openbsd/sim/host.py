"""Where the simulated host is, who calls, and how a program of it ends."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

ROOT = Path(os.environ["SIM_ROOT"])
USER = os.environ.get("SIM_USER", "root")
# Members of the control socket's group in every test; carol is in no group.
GROUPS = {"okubsd": ("alice", "bob"), "wheel": ("root",)}
USERS = ("root", "alice", "bob", "carol")


def place(path: str) -> Path:
    """Return where the file that the host calls ``path`` lies here."""
    return Path(path) if path.startswith(str(ROOT)) else ROOT / path.lstrip("/")


def undocumented(what: str) -> NoReturn:
    print(f"simulator: undocumented: {what}", file=sys.stderr)
    sys.exit(99)


def fail(sentence: str, code: int = 1) -> NoReturn:
    print(sentence, file=sys.stderr)
    sys.exit(code)
