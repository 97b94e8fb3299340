"""Lay a simulated OpenBSD host below a directory."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

from tests.openbsd.server import CLIENT

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


def client(name: str, root: Path) -> str:
    """Return the client of one program: it asks the server, and where there is none it runs the program by itself."""
    paths = f"{CHECKOUT}/tests/openbsd:{CHECKOUT}:{sysconfig.get_path('purelib')}"
    alone = ["env", f"PYTHONPATH={paths}", sys.executable, "-S", "-c", "import sim.__main__", name]
    server = "okubsd" if name == "__okubsd" else "simulator"
    text = CLIENT.replace("@NAME@", name).replace("@ROOT@", str(root)).replace("@SERVER@", server)
    return text.replace("@ELSE@", ", ".join(f"'{word}'" for word in alone))


def install(root: Path, shell: str = "/bin/ksh") -> None:
    """Lay an OpenBSD host below ``root``: its programs, its fresh files, and okubsd's helper under ``shell``."""
    for name in ("etc/firmware", "dev", "var/run", "sim", "bin", "usr/sbin", "usr/local/libexec"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in (*PROGRAMS, "__okubsd"):
        for path in (root / "bin" / name, *([root / "usr/sbin/vmd"] if name == "vmd" else [])):
            path.write_text(client(name, root))
            path.chmod(0o755)
    for program, script in (("netstart", "etc/netstart"), ("makedev", "dev/MAKEDEV")):
        # They are called by sh(1).
        (root / script).write_text(f'exec {root}/bin/{program} "$@"\n')
        (root / script).chmod(0o755)
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
