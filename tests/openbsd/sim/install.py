"""Lay a simulated OpenBSD host below a directory."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[3]

# The programs, and the module that each is in.
PROGRAMS = {
    **dict.fromkeys(("vmd", "vmctl"), "vmd"),
    "__device": "device",
    "pfctl": "pf",
    **dict.fromkeys(("ifconfig", "route", "netstart", "qemu-system-x86_64"), "interfaces"),
    **dict.fromkeys(("dhcpd", "at", "date", "drill", "chroot", "makedev", "sysctl", "rcctl", "doas"), "services"),
    **dict.fromkeys(("dmesg", "getcap"), "services"),
}


def install(root: Path, shell: str = "/bin/ksh") -> None:
    """Lay an OpenBSD host below ``root``: its programs, its fresh files, and okubsd's helper under ``shell``."""
    import shutil

    for name in ("etc/firmware", "dev", "var/run", "sim", "bin", "usr/sbin", "usr/local/libexec"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in PROGRAMS:
        # Under a name of its own, and without Python's site module: nothing that is not used is imported with each call.
        environment = f"SIM_ROOT={root} PYTHONPATH={CHECKOUT}/tests/openbsd:{CHECKOUT}:{sysconfig.get_path('purelib')}"
        script = f'#!/bin/sh\n{environment} exec {sys.executable} -S -c "import sim.__main__" {name} "$@"\n'
        for path in (root / "bin" / name, *([root / "usr/sbin/vmd"] if name == "vmd" else [])):
            path.write_text(script)
            path.chmod(0o755)
    shutil.copy(root / "bin/netstart", root / "etc/netstart")
    shutil.copy(root / "bin/makedev", root / "dev/MAKEDEV")
    (root / "etc/firmware/vmm-bios").write_bytes(b"SeaBIOS stands here\n")
    (root / "etc/pf.conf").write_text((CHECKOUT / "etc/openbsd/pf.conf").read_text())
    (root / "etc/pf.conf").chmod(0o600)
    helper = (CHECKOUT / "libexec/okubsd-helper").read_text()
    helper = helper.replace("#!/bin/ksh", f"#!{shell}", 1).replace("\nroot=\n", f"\nroot={root}\n", 1)
    helper = helper.replace("\nPATH=", f"\nPATH={root}/bin:", 1)
    path = root / "usr/local/libexec/okubsd-helper"
    path.write_text(helper)
    path.chmod(0o755)
    follower = root / "usr/local/share/okubsd/images/base/files/usr/lib/okubsd/names"
    follower.parent.mkdir(parents=True, exist_ok=True)
    text = (CHECKOUT / "images/base/files/usr/lib/okubsd/names").read_text()
    follower.write_text(text.replace("\nPATH=", f"\nPATH={root}/bin:", 1))
