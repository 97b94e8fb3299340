"""ifconfig(8), route(8), netstart(8) and QEMU on a tap."""

from __future__ import annotations

import os
import re
import sys

from .host import ROOT, USER, fail, place, undocumented
from .services import judge_dhcpd
from .state import State, alive, running, state


def show_all() -> None:
    print("lo0: flags=8049<UP,LOOPBACK,RUNNING,MULTICAST> mtu 32768\n\tgroups: lo\n"
          "em0: flags=8843<UP,BROADCAST,RUNNING,SIMPLEX,MULTICAST> mtu 1500\n"
          "\tgroups: egress\n\tinet 192.0.2.10 netmask 0xffffff00 broadcast 192.0.2.255")  # fmt: skip
    with state() as s:
        for name, lines in s.interfaces.items():
            print(f"{name}: flags=8043<UP,BROADCAST,RUNNING,MULTICAST> {lines[0]} mtu 1500")


def destroy(s: State, name: str) -> None:
    for ports in s.protected.values():
        ports.pop(name, None)
    s.queues = [queue for queue in s.queues if f" on {name} " not in f"{queue} "]
    if s.interfaces.pop(name, None) is None:
        fail(f"ifconfig: {name}: SIOCIFDESTROY: Device not configured")


def create(s: State, name: str) -> None:
    if name in s.interfaces:
        fail(f"ifconfig: SIOCIFCREATE: File exists: {name}")
    s.interfaces[name] = ["rdomain 0", "created"]


def add(s: State, name: str, port: str) -> None:
    if name not in s.interfaces or port not in s.interfaces:
        fail(f"ifconfig: {port}: No such file or directory")


def protect(s: State, name: str, port: str, number: str) -> None:
    if name not in s.interfaces:
        fail(f"{name}: no such interface")
    held = [each["tap"] for vm in running(s).values() for each in vm["vm"]["ports"]]
    if port not in s.interfaces and port not in held:
        # A port that is not one (observed).
        fail(f"ifconfig: {name}: {number}: No such process")
    s.protected.setdefault(name, {})[port] = int(number)


def unprotect(s: State, name: str, port: str) -> None:
    if name not in s.interfaces:
        fail(f"{name}: no such interface")
    s.protected.get(name, {}).pop(port, None)


VERBS = {"destroy": destroy, "create": create, "add": add, "protected": protect, "-protected": unprotect}


def ifconfig(args: list[str]) -> None:
    if len(args) > 1:
        name, verb, *rest = args
        if verb not in VERBS:
            undocumented(f"ifconfig {args}")
        with state() as s:
            VERBS[verb](s, name, *rest)
            s.calls.append(" ".join((verb, name, *rest)))
        return
    if not args:
        show_all()
        return
    with state() as s:
        if re.match(r"(wg|tun|veb|vport)\d", args[0]) and args[0] in s.interfaces:
            rdomain = s.interfaces[args[0]][0].split()[1]
            print(f"{args[0]}: flags=80c3<UP,BROADCAST,RUNNING,NOARP,MULTICAST> rdomain {rdomain} mtu 1420\n"
                  "\tindex 9 priority 0 llprio 3\n\tgroups: wg okubsd")  # fmt: skip
            return
        vm = next((vm for vm in running(s).values() if vm["vm"]["tap"] == args[0]), None)
        if vm is None and "created" in s.interfaces.get(args[0], []):
            print(f"{args[0]}: flags=8802<BROADCAST,SIMPLEX,MULTICAST> mtu 1500\n\tgroups: tap\n\tstatus: no carrier")
            return
        if vm is None and args[0].startswith("tap") and args[0] in s.interfaces:
            show_prepared(args[0], s.interfaces[args[0]])
            return
        if vm is None or s.faults.get("tap") == "missing":
            fail(f"{args[0]}: no such interface")
        rdomain = f" rdomain {vm['rdomain']}" if vm["rdomain"] else ""
        number = s.ids[vm["vm"]["name"]]
        print(f"{args[0]}: flags=8843<UP,BROADCAST,RUNNING,SIMPLEX,MULTICAST>{rdomain} mtu 1500\n"
              f"\tlladdr fe:e1:ba:d0:55:56\n\tdescription: vm{number}-if0-{vm['vm']['name']}\n"
              f"\tindex 3 priority 0 llprio 3\n\tgroups: tap {vm['group']}\n\tstatus: active\n"
              f"\tinet {vm['host']} netmask 0xfffffffe")  # fmt: skip


def show_prepared(name: str, lines: list[str]) -> None:
    """Print a tap that hostname.if made, as it looks while somebody has opened it."""
    words = dict(line.split(" ", 1) for line in lines if " " in line and not line.startswith("!"))
    address, mask = words["inet"].split()
    print(f"{name}: flags=8843<UP,BROADCAST,RUNNING,SIMPLEX,MULTICAST> rdomain {words['rdomain']} mtu 1500\n"
          f"\tlladdr fe:e1:ba:d2:b7:82\n\tindex 8 priority 0 llprio 3\n\tgroups: tap {words['group']}\n"
          f"\tstatus: active\n\tinet {address} netmask {mask_word(mask)}")  # fmt: skip


def mask_word(mask: str) -> str:
    """Return a dotted netmask as ifconfig prints it."""
    import socket

    return "0x" + socket.inet_aton(mask).hex()


def route(args: list[str]) -> None:
    if len(args) < 4 or args[0] != "-T" or args[2] != "exec":
        undocumented(f"route {args}")
    if args[1] == "0":
        os.execvp(args[3], args[3:])
    with state() as s:
        holder = next((vm["pid"] for vm in running(s).values() if str(vm["rdomain"]) == args[1]), None)
        holder = holder or s.holders.get(f"tap{args[1]}")
        known = holder is not None or f"lo{args[1]}" in s.interfaces
    if not known:
        fail(f"route: routing table {args[1]}: No such file or directory")
    if holder is None:
        os.execvp("unshare", ["unshare", "--net", "--", *args[3:]])
    os.execvp("nsenter", ["nsenter", "--target", str(holder), "--net", "--", *args[3:]])


def netstart(args: list[str]) -> None:
    if USER != "root":
        fail("netstart: need root privileges")
    with state() as s:
        for name in args:
            path = place(f"/etc/hostname.{name}")
            if not path.is_file():
                print(f"netstart: /etc/hostname.{name}: No such file or directory.", file=sys.stderr)
                continue
            if path.stat().st_mode & 0o007:
                print(f"WARNING: /etc/hostname.{name} is insecure, fixing permissions.", file=sys.stderr)
                path.chmod(0o640)
            lines = path.read_text().splitlines()
            port = next((line.split()[1] for line in lines if line.startswith("add ")), "")
            if port and port not in s.interfaces and port not in args:
                print(f"ifconfig: {port}: Invalid argument", file=sys.stderr)
                lines = [line for line in lines if not line.startswith("add ")]
            if any("dhcpd -c" in line for line in lines):
                judge_dhcpd(place(next(re.search(r"dhcpd -c (\S+)", line)[1] for line in lines if "dhcpd -c" in line)))
            if not re.fullmatch(r"rdomain \d+", lines[0]):
                undocumented(f"{path}: the rdomain is not on the first line")
            s.interfaces[name] = lines
            s.calls.append(f"netstart {name}")
            if name.startswith("tap"):
                s.holders[name] = hold_tap(s, name, lines)


def hold_tap(s: State, name: str, lines: list[str]) -> int:
    """Make the tap of a hostname.if in a namespace of its own, which stands for its rdomain; return who holds it."""
    import subprocess

    holder = s.holders.get(name, 0)
    if holder and alive(holder):
        return int(holder)
    address = next(line.split()[1] for line in lines if line.startswith("inet "))
    script = (
        f"ip tuntap add {name} mode tap && ip addr add {address}/31 dev {name} && ip link set lo up && "
        f"ip link set {name} up && echo ready && exec sleep 3600"
    )
    argv = ["unshare", "--net", "--", "sh", "-c", script]
    # Whoever called us waits for the end of what it can hear.
    made = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
    assert made.stdout is not None
    if made.stdout.readline() != b"ready\n":
        undocumented(f"{name} could not be made")
    return made.pid


def qemu(args: list[str]) -> None:
    """Run the real QEMU; one that opens a tap does so where the tap is."""
    import shutil

    path = os.pathsep.join(part for part in os.environ["PATH"].split(os.pathsep) if not part.startswith(str(ROOT)))
    real = shutil.which("qemu-system-x86_64", path=path) or "/usr/bin/qemu-system-x86_64"
    match = re.search(r"ifname=(tap\d+)", " ".join(args))
    with state() as s:
        holder = s.holders.get(match[1]) if match else None
    if holder is None:
        # vmd's own guests begin where their tap is.
        os.execv(real, [real, *args])
    os.execvp("nsenter", ["nsenter", "--target", str(holder), "--net", "--", real, *args])
