"""What a process gives up for good: opening, connecting, starting and signalling (seccomp(2), pledge(2)).

The reader of the glass keeps what it holds, one socket to the nested display and one to the painter, and no more.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import resource
import struct
import sys
from pathlib import Path

from okubsd.errors import Problem

# prctl(2) and seccomp(2), by their headers; the filter language is that of bpf, linux/filter.h.
_NO_NEW_PRIVS, _SET_SECCOMP, _MODE_FILTER = 38, 22, 2
_LOAD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _KILL, _REFUSE = 0x7FFF0000, 0x80000000, 0x00050000 | 1  # EPERM
_NUMBER_AT, _MACHINE_AT = 0, 4

# Numbers of system calls by machine: asm/unistd_64.h, asm-generic/unistd.h.  What Python, its memory and two sockets
# that are open take; clone, execve, open, socket, connect, kill and ptrace are not among them.
_CALLS = {
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "fstat": (5, 80), "poll": (7, None), "lseek": (8, 62),
    "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215), "brk": (12, 214), "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "readv": (19, 65), "writev": (20, 66),
    "select": (23, None), "sched_yield": (24, 124), "mremap": (25, 216), "madvise": (28, 233), "nanosleep": (35, 101),
    "getpid": (39, 172), "sendto": (44, 206), "recvfrom": (45, 207), "sendmsg": (46, 211), "recvmsg": (47, 212),
    "exit": (60, 93), "futex": (202, 98), "epoll_wait": (232, None), "clock_gettime": (228, 113),
    "clock_nanosleep": (230, 115), "exit_group": (231, 94), "pselect6": (270, 72), "ppoll": (271, 73),
    "epoll_pwait": (281, 22), "getrandom": (318, 278), "gettid": (186, 178), "restart_syscall": (219, 128),
    "getrusage": (98, 165), "sigaltstack": (131, 132),
}  # fmt: skip
_LONGEST_LOG = 1 << 20
# The machine's word for itself (linux/audit.h), and its column above.
_MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}


def enter(memory: int) -> None:
    """Give up what is not needed, and hold at most ``memory`` bytes of data.  Raises Problem where that fails."""
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # What it may write is its log.
    resource.setrlimit(resource.RLIMIT_FSIZE, (_LONGEST_LOG, _LONGEST_LOG))
    _bound_addresses(memory)
    os.environ.clear()
    if sys.platform.startswith("openbsd"):
        _pledge()
    elif sys.platform == "linux":
        _seccomp()


def _bound_addresses(memory: int) -> None:
    """Bound what is mapped beside what there is now: memory that is shared is no data of a process (getrlimit(2))."""
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * os.sysconf("SC_PAGE_SIZE") + memory
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _pledge() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.pledge(b"stdio", None) != 0:
        raise Problem(f"pledge: {os.strerror(ctypes.get_errno())}")


def _seccomp() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    program = seccomp_filter(platform.machine())
    count = len(program) // 8
    held = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog { unsigned short len; struct sock_filter *filter; };
    head = struct.pack("HxxxxxxP", count, ctypes.addressof(held))
    zero = ctypes.c_ulong(0)
    if libc.prctl(_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero) != 0 or (
        libc.prctl(_SET_SECCOMP, ctypes.c_ulong(_MODE_FILTER), ctypes.create_string_buffer(head), zero, zero) != 0
    ):
        raise Problem(f"seccomp: {os.strerror(ctypes.get_errno())}")


def seccomp_filter(machine: str) -> bytes:
    """Return the program of a filter that refuses all calls but those a reader makes.

    Raises Problem for a ``machine`` whose numbers are not known.
    """
    if machine not in _MACHINES:
        raise Problem(f"there is no system call filter for a host of {machine}", "okubsd doctor")
    word, column = _MACHINES[machine]
    numbers = [row[column] for row in _CALLS.values() if row[column] is not None]
    steps = [
        (_LOAD, 0, 0, _MACHINE_AT),
        (_JUMP_EQUAL, 1, 0, word),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER_AT),
        *((_JUMP_EQUAL, len(numbers) - index, 0, number) for index, number in enumerate(numbers)),
        (_RETURN, 0, 0, _REFUSE),
        (_RETURN, 0, 0, _ALLOW),
    ]
    # struct sock_filter { u16 code; u8 jt; u8 jf; u32 k; };
    return b"".join(struct.pack("HBBI", *step) for step in steps)
