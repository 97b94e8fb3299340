"""Who listens on a unix socket: the one answer about a process that a stale file cannot fake."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import struct
import sys
from pathlib import Path

from okubsd.display.server import display_socket
from okubsd.errors import HostLacks


def listener_pid(path: Path, timeout: float = 2.0) -> int | None:
    """Return the pid of the process that listens on the unix socket ``path``, or None if nobody does.

    The kernel answers this, also for a process that hangs (unix(7), unix(4): SO_PEERCRED).
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        try:
            connection.connect(str(path))
            return _peer_pid(connection)
        except OSError:
            return None


def end_listener(path: Path) -> bool:
    """End the process that listens on the unix socket ``path``; return whether there was one."""
    pid = listener_pid(path)
    if pid is None:
        return False
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGTERM)
    return True


def _peer_pid(connection: socket.socket) -> int | None:
    if sys.platform.startswith("openbsd"):
        # struct sockpeercred { uid_t uid; gid_t gid; pid_t pid; }; SO_PEERCRED is 0x1022 there.
        _, _, pid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, 0x1022, 12))
    else:
        # struct ucred { pid_t pid; uid_t uid; gid_t gid; };
        pid, _, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(pid) or None


def check_desktop(display: str) -> None:
    """Raise HostLacks where the user's X ``display`` does not answer, before anything is built for it (X(7))."""
    match = re.fullmatch(r"(?:unix)?:([0-9]{1,5})(?:\.[0-9]+)?", display)
    if match is None:
        # A display of another host, or one that ssh forwards, is tried by the X server itself.
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(5)
        for path in (str(display_socket(int(match[1]))), f"\0{display_socket(int(match[1]))}"):
            with contextlib.suppress(OSError):
                connection.connect(path)
                return
    raise HostLacks(f"the X display {display} does not answer", "set DISPLAY to yours, or start it with --headless")
