"""Who listens on a unix socket: the one answer about a process that a stale file cannot fake."""

from __future__ import annotations

import socket
import struct
import sys
from pathlib import Path


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


def _peer_pid(connection: socket.socket) -> int | None:
    if sys.platform.startswith("openbsd"):
        # struct sockpeercred { uid_t uid; gid_t gid; pid_t pid; }; SO_PEERCRED is 0x1022 there.
        _, _, pid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, 0x1022, 12))
    else:
        # struct ucred { pid_t pid; uid_t uid; gid_t gid; };
        pid, _, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(pid) or None
