"""The process of a running VM: QEMU cut down to vmd's machine, its tap, and DHCP."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from .host import ROOT, place
from .state import SimVm, State, alive, state

if TYPE_CHECKING:
    pass


VIRTIO = {
    "legacy": "disable-modern=on,disable-legacy=off,vectors=0",
    "modern": "disable-legacy=on,disable-modern=off,modern-pio-notify=on,vectors=0",
}
_OFFLOADS = """
csum guest_csum gso guest_tso4 guest_tso6 host_tso4 host_tso6 mrg_rxbuf ctrl_vq ctrl_rx ctrl_vlan ctrl_rx_extra
ctrl_mac_addr ctrl_guest_offloads guest_announce mq host_ecn guest_ecn host_ufo guest_ufo event_idx indirect_desc
"""
NO_OFFLOAD = ",".join(f"{name}=off" for name in _OFFLOADS.split())


def device(args: list[str]) -> None:
    name, report = args[0], int(args[1])
    with state() as s:
        vm, number = s.vms[name], s.ids[name]
        faults, kind = dict(s.faults), s.virtio
    host, guest = f"100.64.{number}.2", f"100.64.{number}.3"
    for line in (f"tuntap add {vm['tap']} mode tap", f"addr add {host}/31 dev {vm['tap']}", "link set lo up",
                 f"link set {vm['tap']} up"):  # fmt: skip
        subprocess.run(["ip", *line.split()], check=True)
    for port in vm["ports"]:
        (ROOT / f"sim/{port['tap']}").unlink(missing_ok=True)
    qemu = subprocess.Popen(machine(name, vm, kind))
    signal.signal(signal.SIGTERM, lambda *_: qemu.kill())
    with state() as s:
        rdomain = int(faults.get("tap_rdomain", vm["rdomain"]))
        s.running[name] = {"pid": os.getpid(), "vm": vm, "host": host, "rdomain": rdomain,
                              "group": faults.get("tap_group", vm["group"])}  # fmt: skip
        for port in vm["ports"]:
            carry(port)
    os.write(report, b"ready\n")
    os.close(report)
    serve(qemu, name, vm["tap"], host, guest)
    with state() as s:
        s.running.pop(name, None)
        forget_taps(s, vm)


def forget_taps(s: State, vm: SimVm) -> None:
    """Let go of the VM's taps, at its end or its reset: one that vmd made is gone, and with it that it was protected.

    One that ifconfig(8) made stays as it is (tun(4), observed).
    """
    for port in vm["ports"]:
        if port["tap"] not in s.interfaces:
            s.protected.get(port["interface"], {}).pop(port["tap"], None)


def machine(name: str, vm: SimVm, kind: str) -> list[str]:
    """Return QEMU's argv of a machine as vmd has it."""
    options = VIRTIO[kind]
    argv = ["qemu-system-x86_64", "-M", "pc,acpi=off,hpet=off,usb=off,smm=off,vmport=off,i8042=off,graphics=off",
            "-accel", "tcg,tb-size=96", "-cpu", "qemu64,-apic,+rdrand", "-smp", "1", "-m", f"{vm['memory'] >> 20}M",
            "-nodefaults", "-no-user-config", "-display", "none", "-vga", "none", "-boot", "c",
            "-device", f"virtio-rng-pci,addr=3,{options}",
            "-netdev", f"tap,id=n0,ifname={vm['tap']},script=no,downscript=no",
            "-device", f"virtio-net-pci,netdev=n0,addr=4,romfile=,mac={vm['lladdr']},{options},{NO_OFFLOAD}",
            "-chardev", f"socket,id=c0,path={ROOT}/sim/{name}.console,server=on,wait=off,"
            f"logfile={ROOT}/sim/{name}.serial",
            "-serial", "chardev:c0", "-qmp", f"unix:{ROOT}/sim/{name}.qmp,server=on,wait=off"]  # fmt: skip
    for index, port in enumerate(vm["ports"]):
        argv += [*port_of(port, f"n{index + 1}"), "-device",
                 f"virtio-net-pci,netdev=n{index + 1},addr={9 + index},romfile=,mac={port['lladdr']},{options},"
                 f"{NO_OFFLOAD}"]  # fmt: skip
    for index, (path, form) in enumerate(vm["disks"]):
        drive = f"if=none,id=d{index},format={form},file={place(path)},discard=ignore,detect-zeroes=off"
        argv += ["-drive", drive, "-device",
                 f"virtio-blk-pci,drive=d{index},addr={5 + index},{options},serial=,discard=off,write-zeroes=off,"
                 "config-wce=off"]  # fmt: skip
    return argv


def port_of(port: dict[str, str], name: str) -> list[str]:
    """Return the QEMU network of a port on a switch; one on no switch leads nowhere."""
    if not port["interface"]:
        return ["-netdev", f"user,id={name},restrict=on"]
    local, remote = (ROOT / f"sim/{end}" for end in (port["tap"], f"{port['interface']}.sock"))
    return ["-netdev", f"dgram,id={name},local.type=unix,local.path={local},remote.type=unix,remote.path={remote}"]


def carry(port: dict[str, str]) -> None:
    """Have a process that is the switch of ``port``, unless there is one."""
    running = place(f"/sim/{port['interface']}.pid")
    if not port["interface"] or (running.exists() and alive(int(running.read_text()))):
        return
    log = place(f"/sim/{port['interface']}.log").open("w")
    argv = [
        "unshare",
        "--net",
        "--",
        sys.executable,
        str(Path(__file__).parents[1] / "veb.py"),
        str(ROOT),
        port["interface"],
    ]
    switch = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    running.write_text(str(switch.pid))


def serve(qemu: subprocess.Popen[bytes], name: str, tap: str, host: str, guest: str) -> None:
    """Answer DHCP while QEMU lives; end it when its one CPU halts with interrupts off, as vmd does."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for option, value in ((socket.SO_REUSEADDR, 1), (socket.SO_BROADCAST, 1)):
        sock.setsockopt(socket.SOL_SOCKET, option, value)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, tap.encode())
    sock.bind(("0.0.0.0", 67))
    sock.settimeout(0.2)
    looked = time.monotonic()
    while qemu.poll() is None:
        with contextlib.suppress(TimeoutError):
            request = sock.recv(2048)
            reply = dhcp_reply(request, host, guest)
            if reply:
                sock.sendto(reply, ("255.255.255.255", 68))
        if time.monotonic() - looked > 0.3:
            looked = time.monotonic()
            if is_halted(ROOT / f"sim/{name}.qmp"):
                qemu.kill()
    qemu.wait()


def dhcp_reply(request: bytes, host: str, guest: str) -> bytes:
    """Return vmd's answer: the /31, the host's side as router and resolver, a lease without end; nothing else."""
    if len(request) < 241 or request[0] != 1 or request[12:16] != bytes(4):
        return b""
    kind = re.search(rb"\x35\x01(.)", request[240:], re.DOTALL)
    answer = {1: 2, 3: 5}.get(kind[1][0] if kind else 0)
    if answer is None:
        return b""
    mine, yours = socket.inet_aton(host), socket.inet_aton(guest)
    fixed = struct.pack("!4B4s2H", 2, 1, 6, 0, request[4:8], 0, 0) + bytes(4) + yours + mine + bytes(4)
    options = b"\x63\x82\x53\x63\x35\x01" + bytes([answer]) + b"\x36\x04" + mine + b"\x33\x04\xff\xff\xff\xff"
    options += b"\x01\x04\xff\xff\xff\xfe\x03\x04" + mine + b"\x06\x04" + mine + b"\xff"
    return (fixed + request[28:44] + bytes(192) + options).ljust(300, b"\0")


def is_halted(path: Path) -> bool:
    """Return whether the guest's CPU is in HLT with interrupts off."""
    try:
        with socket.socket(socket.AF_UNIX) as talk:
            talk.settimeout(2)
            talk.connect(str(path))
            stream = talk.makefile("rwb")
            stream.readline()
            text = ""
            for command in ({"execute": "qmp_capabilities"},
                            {"execute": "human-monitor-command", "arguments": {"command-line": "info registers"}}):  # fmt: skip
                stream.write(json.dumps(command).encode() + b"\n")
                stream.flush()
                while "return" not in (answer := json.loads(stream.readline())):
                    pass
                text = str(answer["return"])
    except (OSError, ValueError):
        return False
    flags = re.search(r"(?:RFL|EFL)=([0-9a-f]+)", text)
    return "HLT=1" in text and flags is not None and not int(flags[1], 16) & 0x200
