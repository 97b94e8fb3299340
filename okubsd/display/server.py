"""One X server per VM: Xephyr in a window of the user's display, or Xvfb where nobody looks.

Source: Xephyr(1), Xvfb(1), Xserver(1).
"""

from __future__ import annotations

import re
from pathlib import Path

from okubsd.model import Argv, Vm

# -terminate: the server ends with its last client, so it never outlives its VM.
_COMMON = ("-nolisten", "tcp", "-terminate", "-br", "-dpi", "96", "-maxclients", "128")

# What no guest needs of its display: a way to type and to record there, other ways to its pixels, shared memory across
# a machine boundary, OpenGL, video ports that Xephyr would hand to the host's.  Firefox and GTK work without.
_OFF = (*("MIT-SHM", "SECURITY", "GLX", "XVideo", "DOUBLE-BUFFER", "X-Resource", "MIT-SCREEN-SAVER", "DPMS"),)
# What the glass works by; a guest that uses them, too, reaches no more than its own display.  The server knows one
# switch for XTEST and RECORD (observed).
_OF_GLASS = ("XTEST", "RECORD", "Composite", "DAMAGE")
# A server's own programs and pictures beside those of its guest, in bytes; 512 MB were found to do for Firefox.
_OWN_MEMORY, _SCREENS = 384 << 20, 32
_NICER = 5


def display_memory(vm: Vm) -> int:
    """Return how many bytes of data the X server of ``vm`` may hold, for all that a guest stores there."""
    width, height = vm.display
    return vm.display_memory or _OWN_MEMORY + _SCREENS * width * height * 4


def server_argv(vm: Vm, cookies: Path, report_fd: str, *, nested: bool, screen: str = "") -> Argv:
    """Return the X server of ``vm``, its memory bounded (setrlimit(2), RLIMIT_DATA).

    ``cookies`` is its authority file, ``report_fd`` the descriptor it writes its display number to.  One that is
    ``nested`` has no connection to the user's display, and a ``screen`` of WIDTHxHEIGHT where that is not the VM's.
    """
    width, height = vm.display
    # A guest can keep it busy; what else the user does comes first (nice(1)).
    limited = f'ulimit -d "$1" && shift && exec nice -n {_NICER} "$@"'
    limit = ("sh", "-c", limited, "okubsd-display", str(display_memory(vm) >> 10))
    off = tuple(word for name in (*_OFF, *(() if nested else _OF_GLASS)) for word in ("-extension", name))
    common = ("-displayfd", report_fd, "-auth", str(cookies), *_COMMON, *off)
    if nested:
        return (*limit, "Xvfb", *common, "-screen", "0", f"{screen or f'{width}x{height}'}x24")
    # -sw-cursor: otherwise a guest's cursor is made on the host, as large as the guest likes.
    own = ("-resizeable", "-no-host-grab", "-sw-cursor", "-noxv", "-screen", f"{width}x{height}")
    return (*limit, "Xephyr", *common, *own, "-title", title(vm))


# Xephyr takes two levels of a key and no group of the host's keyboard by itself: no AltGr, so no @ in Germany.
_COPY_KEYBOARD = 'xkbcomp -w0 "$1" - | XAUTHORITY="$2" xkbcomp -w0 - "$3"'


def keyboard_argv(host_display: str, cookies: Path, display: str) -> Argv:
    """Return what gives a VM's ``display`` the whole keyboard map of ``host_display`` (xkbcomp(1)).

    ``cookies`` is the authority file of the VM's display.
    """
    return ("sh", "-c", _COPY_KEYBOARD, "okubsd-keyboard", host_display, str(cookies), display)


def title(vm: Vm) -> str:
    """Return the title of the VM's window."""
    return f"{vm.name} - okubsd"


def parse_display_number(text: str) -> int | None:
    """Return the number that -displayfd reported, or None while there is none."""
    match = re.fullmatch(r"(\d{1,5})\n", text)
    return int(match[1]) if match else None


def display_socket(number: int) -> Path:
    """Return the unix socket of local display ``number`` (X(7))."""
    return Path(f"/tmp/.X11-unix/X{number}")
