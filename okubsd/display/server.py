"""One X server per VM: Xephyr in a window of the user's display, or Xvfb where nobody looks.

Source: Xephyr(1), Xvfb(1), Xserver(1).
"""

from __future__ import annotations

import re
from pathlib import Path

from okubsd.model import Argv, Vm

# -terminate: the server ends with its last client, so it never outlives its VM.
# MIT-SHM is of no use across a machine boundary, and no guest should try it.
_COMMON = ("-nolisten", "tcp", "-terminate", "-noreset", "-br", "-extension", "MIT-SHM", "-dpi", "96")
_XEPHYR = tuple(word for word in _COMMON if word != "-noreset")


def server_argv(vm: Vm, cookies: Path, report_fd: str, *, headless: bool) -> Argv:
    """Return the X server of ``vm``.

    ``cookies`` is its authority file, ``report_fd`` the descriptor it writes its display number to.
    """
    width, height = vm.display
    common = ("-displayfd", report_fd, "-auth", str(cookies), *_XEPHYR)
    if headless:
        return ("Xvfb", *common, "-screen", "0", f"{width}x{height}x24")
    return ("Xephyr", *common, "-resizeable", "-no-host-grab", "-screen", f"{width}x{height}", "-title", title(vm))


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
