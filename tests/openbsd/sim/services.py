"""Small programs of base: dhcpd, at, date, drill, chroot, MAKEDEV, sysctl, rcctl, doas, dmesg, getcap."""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from .host import GROUPS, USER, fail, place, undocumented
from .state import state

if TYPE_CHECKING:
    pass


def dhcpd(args: list[str]) -> None:
    """Judge a configuration and end (dhcpd(8), -n)."""
    if args[:2] != ["-n", "-c"] or len(args) != 3:
        undocumented(f"dhcpd {args}")
    with state() as s:
        s.calls.append("dhcpd -n")
    sys.exit(0 if judge_dhcpd(place(args[2])) else 1)


def judge_dhcpd(path: Path) -> bool:
    """Say what dhcpd(8) says of a configuration that it does not take; netstart exits with 0 all the same."""
    words = r"[a-z][a-z0-9-]*"
    lines = rf"subnet [0-9.]+ netmask [0-9.]+ \{{|\thost {words} \{{ hardware ethernet [0-9a-f:]{{17}}; fixed-address [0-9.]+; \}}|\}}"
    taken = all(re.fullmatch(lines, line) for line in path.read_text().splitlines())
    if not taken:
        print("Configuration file errors encountered -- exiting", file=sys.stderr)
    return taken


def at(args: list[str]) -> None:
    """at(1) of OpenBSD: a time to the minute, and the job on standard input."""
    if args[:1] != ["-t"] or not re.fullmatch(r"\d{12}", args[1]):
        undocumented(f"at {args}")
    with state() as s:
        s.jobs.append([args[1], sys.stdin.read().strip()])


def date(args: list[str]) -> None:
    """date(1) of OpenBSD: -r takes seconds, where GNU's takes a file; the state may say how late it is by "ahead"."""
    if args == ["+%s"]:
        with state() as s:
            print(int(time.time()) + s.ahead)
        return
    if args[:1] == ["-r"]:
        args = ["-d", f"@{args[1]}", *args[2:]]
    os.execv("/bin/date", ["date", *args])


def drill(args: list[str]) -> None:
    """A resolver's answers, from the state."""
    with state() as s:
        name = args[-2]
        found = s.dns.get(name)
        s.calls.append(f"ask {' '.join(args)}")
    if found is None:
        fail("Error: error sending query")
    print(f";; ->>HEADER<<- opcode: QUERY, rcode: NOERROR, id: 1\n;; QUESTION SECTION:\n;; {name}.\tIN\tA\n")
    print(";; ANSWER SECTION:")
    for address in found:
        print(f"{name}.\t60\tIN\tA\t{address}")
    print("\n;; AUTHORITY SECTION:\n\n;; ADDITIONAL SECTION:\n\n;; Query time: 1 msec")


def chroot(args: list[str]) -> None:
    """Run a program as another user (chroot(8)): of the simulation there is one user only, so the call is told."""
    if USER != "root":
        fail("chroot: Operation not permitted")
    if args[:3] != ["-u", "nobody", "/"] or len(args) < 4:
        undocumented(f"chroot {args}")
    with state() as s:
        s.calls.append(f"as nobody {args[3]}")
    os.execvp(args[3], args[3:])


def makedev(args: list[str]) -> None:
    for name in args:
        if not re.fullmatch(r"tap\d+", name):
            undocumented(f"MAKEDEV {args}")
        (Path.cwd() / name).touch(0o600)


def sysctl(args: list[str]) -> None:
    values = {
        "machdep.tscfreq": os.environ.get("SIM_TSC", ""),
        "hw.usermem": str(16 << 30),
        "net.inet.ip.forwarding": "0",
        "kern.version": "OpenBSD 7.7 (GENERIC) #625",
    }
    with state() as s:
        values |= s.sysctl
        if args[:1] == ["-n"] and len(args) == 2 and args[1] in values:
            print(values[args[1]])
        elif len(args) == 1 and "=" in args[0]:
            name, value = args[0].split("=", 1)
            if USER != "root":
                fail(f"sysctl: {name}: Operation not permitted", 0)
            print(f"{name}: {values.get(name, '0')} -> {value}")
            s.sysctl[name] = value
        else:
            undocumented(f"sysctl {args}")


def rcctl(args: list[str]) -> None:
    with state() as s:
        match args:
            case ["get", name, "status"]:
                print(f"{name}_flags=" if name in s.rc else "off") if name in ("vmd", "okubsd") else None
                sys.exit(0 if name in s.rc else 1)
            case ["ls", "on"]:
                print("".join(f"{name}\n" for name in sorted(["cron", "pf", *s.rc])), end="")
            case ["enable", name]:
                s.rc = sorted({*s.rc, name})
            case ["disable", name]:
                s.rc = [other for other in s.rc if other != name]
            case ["start", "vmd"]:
                s.vmd = True
                from .vmd import load_vms

                if not load_vms(s):
                    fail("vmd(failed)")
                print("vmd(ok)")
            case ["check", "vmd"]:
                print("vmd(ok)" if s.vmd else "vmd(failed)")
                sys.exit(0 if s.vmd else 1)
            case _:
                undocumented(f"rcctl {args}")


_DOAS_LINE = re.compile(
    r"(permit|deny)(?: (?:nopass|persist|nolog|keepenv|setenv \{[^}]*\}))* (:?[a-z_][a-z0-9_-]*)(?: as ([a-z]+))?"
    r"(?: cmd (/\S+)(?: args(.*))?)?"
)


def doas(args: list[str]) -> None:
    if args[:1] == ["-C"]:
        text = place(args[1]).read_text()
        bad = [
            n
            for n, line in enumerate(text.splitlines(), 1)
            if line and line[0] != "#" and not _DOAS_LINE.fullmatch(line)
        ]
        if bad:
            fail(f"doas: syntax error at line {bad[0]}")
        return
    if args[:1] != ["-n"] or not args[1].startswith("/"):
        undocumented(f"doas {args}")
    if not doas_permits(args[1]):
        fail("doas: Operation not permitted")
    kept = {
        key: os.environ[key] for key in ("PATH", "TERM", "SIM_ROOT", "SIM_TSC", "DISPLAY", "HOME") if key in os.environ
    }
    os.execve(place(args[1]), [args[1], *args[2:]], {**kept, "SIM_USER": "root", "DOAS_USER": USER, "USER": "root"})


def doas_permits(command: str) -> bool:
    """Return whether the last line of doas.conf that matches lets USER run ``command`` without a password."""
    allowed = False
    path = place("/etc/doas.conf")
    for line in path.read_text().splitlines() if path.exists() else ():
        match = _DOAS_LINE.fullmatch(line)
        if match is None:
            continue
        who = match[2]
        mine = USER in GROUPS.get(who[1:], ()) if who.startswith(":") else who == USER
        if mine and match[4] in (None, command):
            allowed = match[1] == "permit" and " nopass" in line
    return allowed


def dmesg(args: list[str]) -> None:
    if args:
        undocumented(f"dmesg {args}")
    with state() as s:
        print("mainbus0 at root\ncpu0: cpuid 1" + ("" if s.faults.get("vmm") else "\nvmm0 at mainbus0: SVM/RVI"))


def getcap(args: list[str]) -> None:
    if args != ["-f", "/etc/login.conf.d/vmd:/etc/login.conf", "vmd"]:
        undocumented(f"getcap {args}")
    print("vmd:\t:datasize=16384M:\t:tc=daemon:")
