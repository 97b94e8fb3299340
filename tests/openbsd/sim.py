#!/usr/bin/env python3
"""A simulator of the programs of an OpenBSD host, for tests: one file under many names, over one state directory.

It speaks the messages and exit codes that were observed (tests/openbsd/corpus), is as strict in grammar as
OpenBSD's own parsers, and ends with 99 for anything that is not documented there.  `vmctl start` really boots a
QEMU cut down to vmd's machine; its rdomain is a network namespace, in which the tap is and DHCP is answered.

SIM_ROOT stands for /; SIM_USER is who calls.  Tests put faults into the state, by name.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from okubsd.pf.rule_ends import PfHost
    from okubsd.vmd.conf import Conf, ConfVm
    from okubsd.vmd.grammar import Host

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[2]))

ROOT = Path(os.environ["SIM_ROOT"])
USER = os.environ.get("SIM_USER", "root")
STATE = ROOT / "sim/state.json"
# Members of the control socket's group in every test; carol is in no group.
GROUPS = {"okubsd": ("alice", "bob"), "wheel": ("root",)}
USERS = ("root", "alice", "bob", "carol")
HEADER = "   ID   PID VCPUS  MAXMEM  CURMEM     TTY        OWNER    STATE NAME"


def place(path: str) -> Path:
    """Return where the file that the host calls ``path`` lies here."""
    return Path(path) if path.startswith(str(ROOT)) else ROOT / path.lstrip("/")


def undocumented(what: str) -> NoReturn:
    print(f"simulator: undocumented: {what}", file=sys.stderr)
    sys.exit(99)


def fail(sentence: str, code: int = 1) -> NoReturn:
    print(sentence, file=sys.stderr)
    sys.exit(code)


@contextlib.contextmanager
def state() -> Iterator[dict[str, Any]]:
    """Hold the state, and keep what was changed in it."""
    STATE.parent.mkdir(parents=True, exist_ok=True)
    with (STATE.parent / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = json.loads(STATE.read_text()) if STATE.exists() else {}
        for key, empty in (("vms", {}), ("ids", {}), ("running", {}), ("anchors", {}), ("sysctl", {}), ("rc", []),
                           ("faults", {}), ("interfaces", {}), ("calls", [])):  # fmt: skip
            found.setdefault(key, empty)
        before = json.dumps(found)
        yield found
        if json.dumps(found) != before:
            made = STATE.with_name(f"state.{os.getpid()}")
            made.write_text(json.dumps(found, indent=1))
            made.replace(STATE)


def alive(pid: int) -> bool:
    """Return whether ``pid`` is a process that has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def running(s: dict[str, Any]) -> dict[str, Any]:
    """Return the VMs that run, after forgetting those that ended."""
    s["running"] = {name: vm for name, vm in s["running"].items() if alive(vm["pid"])}
    return s["running"]


# --- vmd and vmctl ------------------------------------------------------------------


def conf_host() -> Host:
    from okubsd.vmd.grammar import Host

    return Host(
        has_user=lambda name: name in USERS,
        has_group=lambda name: name in GROUPS,
        has_file=lambda path: place(path).exists(),
        read=lambda path: place(path).read_text() if place(path).is_file() else None,
    )


def vmd(args: list[str]) -> None:
    if args[:2] != ["-n", "-f"] or len(args) != 3:
        undocumented(f"vmd {args}")
    from okubsd.config.parse_y import ConfError
    from okubsd.vmd.grammar import parse_conf

    path = place(args[2])
    if not path.exists():
        fail(f"vmd: failed to open {args[2]}: No such file or directory\nconfiguration OK", 0)
    try:
        parse_conf(path.read_text(), conf_host())
    except ConfError as error:
        fail(f"vmd: {args[2]}:{error}")
    fail("configuration OK", 0)


def read_conf() -> Conf:
    from okubsd.vmd.conf import Conf
    from okubsd.vmd.grammar import parse_conf

    path = place("/etc/vm.conf")
    return parse_conf(path.read_text(), conf_host()) if path.exists() else Conf()


def load_vms(s: dict[str, Any]) -> bool:
    """Register the VMs of /etc/vm.conf; what does not run is forgotten first.  Return whether all was well."""
    kept = {name: vm for name, vm in s["vms"].items() if name in running(s)}
    s["vms"] = kept
    from okubsd.config.parse_y import ConfError
    from okubsd.vmd.conf import Conf, load_errors

    if s["faults"].get("reload"):
        return False
    try:
        conf = read_conf()
    except ConfError:
        return False
    missing = [switch.interface for switch in conf.switches if switch.interface not in s["interfaces"]]
    if missing:
        # vmd dies of it, at a reload too, although vmctl is content (observed).
        s["vmd"] = False
        return True
    s["socket_group"] = conf.socket_owner.partition(":")[2]
    for vm in conf.vms:
        if vm.name in kept or vm.name in s["vms"]:
            continue
        if load_errors(Conf(vms=(vm,))):
            return False
        s["ids"].setdefault(vm.name, len(s["ids"]) + 1)
        s["vms"][vm.name] = as_dict(vm, {switch.name: switch.interface for switch in conf.switches})
    for vm in conf.vms:
        if vm.enabled and vm.name not in running(s):
            undocumented(f"vm {vm.name} would be started by the reload")
    return True


def as_dict(vm: ConfVm, switches: dict[str, str]) -> dict[str, Any]:
    nic = vm.interfaces[0] if vm.interfaces else None
    return {
        "name": vm.name,
        "memory": vm.memory or 512 << 20,
        "disks": [(disk.path, disk.format) for disk in vm.disks],
        "owner": vm.owner or "root",
        "tap": nic.name if nic else "",
        "rdomain": (nic.rdomain or 0) if nic else 0,
        "group": nic.group if nic else "",
        "lladdr": nic.lladdr if nic else "",
        "local": bool(nic and nic.local),
        "ports": [
            {"tap": other.name, "interface": switches.get(other.switch, ""), "lladdr": other.lladdr}
            for other in vm.interfaces[1:]
        ],
    }


def may(vm: dict[str, Any]) -> bool:
    user, _, group = vm["owner"].partition(":")
    return USER in ("root", user) or (bool(group) and USER in GROUPS.get(group, ()))


def need_socket(s: dict[str, Any]) -> None:
    if "vmd" not in s:
        fail("vmctl: connect: /var/run/vmd.sock: No such file or directory")
    if not s["vmd"]:
        fail("vmctl: connect: /var/run/vmd.sock: Connection refused")
    if USER != "root" and USER not in GROUPS.get(s.get("socket_group") or "wheel", ()):
        fail("vmctl: connect: /var/run/vmd.sock: Permission denied")


def vmctl(args: list[str]) -> None:
    verbs = {"status": vm_status, "show": vm_status, "start": vm_start, "stop": vm_stop, "create": vm_create,
             "reload": vm_reload, "console": vm_console}  # fmt: skip
    if not args or args[0] not in verbs:
        undocumented(f"vmctl {args}")
    verbs[args[0]](args[1:])


def vm_status(args: list[str]) -> None:
    only_running, names = "-r" in args, [arg for arg in args if arg != "-r"]
    with state() as s:
        need_socket(s)
        live = running(s)
        rows = [*reversed(live), *(name for name in sorted(s["vms"], key=lambda n: s["ids"][n]) if name not in live)]
        rows = [name for name in rows if not only_running or name in live]
        print(HEADER)
        for name in rows:
            if not names or name in names:
                print(status_row(s, name))
    sys.exit(0 if rows else 1)


def status_row(s: dict[str, Any], name: str) -> str:
    live, vm = s["running"].get(name), s["vms"].get(name) or s["running"][name]["vm"]
    megabytes = (vm["memory"] >> 20) + (2 if live else 0)
    size = f"{megabytes / 1024:.1f}G" if megabytes >= 1024 else f"{megabytes:.1f}M"
    pid, used, tty = (str(live["pid"]), "38.0M", f"ttyp{s['ids'][name]}") if live else ("-", "-", "-")
    words = (s["ids"][name], pid, 1, size, used, tty, vm["owner"][:15], "running" if live else "stopped", name)
    return "{:>5} {:>5} {:>5} {:>7} {:>7} {:>7} {:>12} {:>8} {}".format(*words)


def vm_start(args: list[str]) -> None:
    if len(args) != 1 or args[0].startswith("-"):
        undocumented(f"vmctl start {args}")
    name = args[0]
    with state() as s:
        need_socket(s)
        for words, fault in START_FAULTS.items():
            if s["faults"].get("start") == fault:
                fail(words)
        if name not in s["vms"]:
            fail("vmctl: could not open disk image(s)" if USER == "root" else DENIED)
        vm = s["vms"][name]
        if not may(vm):
            fail(DENIED)
        if name in running(s):
            fail("vmctl: start vm command failed: Operation already in progress")
        refuse_start(s, vm)
        number, dies = s["ids"][name], bool(bad_drives(vm)) or s["faults"].get("start") == "dies"
    if not dies:
        launch(name)
    print(f"vmctl: started vm {number} successfully, tty /dev/ttyp{number}", file=sys.stderr)


DENIED = "vmctl: start vm command failed: Operation not permitted"
START_FAULTS = {
    "vmctl: start vm command failed: Operation already in progress": "already",
    DENIED: "denied",
    "vmctl: could not open disk image(s)": "disk",
    "vmctl: vmm bios firmware file not found.": "firmware",
    "vmctl: start vm command failed: Unknown error: -1": "chain",
    "vmctl: start vm command failed: No such file or directory": "tap",
    "vmctl: start vm command failed: Cannot allocate memory": "memory",
    "vmctl: pipe closed": "pipe",
    "vmctl: start vm command failed: Device busy": "unheard-of",
}


def refuse_start(s: dict[str, Any], vm: dict[str, Any]) -> None:
    """End with vmctl's words where one of the drives, the firmware or the tap is not there."""
    locked = {path for other in s["running"].values() for path, _ in other["vm"]["disks"]}
    for path, kind in vm["disks"]:
        if not place(path).is_file() or path in locked:
            fail("vmctl: could not open disk image(s)")
        if kind == "qcow2" and any("there is no such" in m or "not a qcow2" in m for m in bad_drives(vm)):
            fail("vmctl: start vm command failed: Unknown error: -1")
    if not place("/etc/firmware/vmm-bios").exists():
        fail("vmctl: vmm bios firmware file not found.")
    if vm["tap"] and not place(f"/dev/{vm['tap']}").exists():
        fail("vmctl: start vm command failed: No such file or directory")


def bad_drives(vm: dict[str, Any]) -> list[str]:
    from okubsd.vmd.qcow2 import chain_mistakes

    def head(path: str) -> bytes | None:
        return place(path).read_bytes()[: 1 << 16] if place(path).is_file() else None

    return [m for path, kind in vm["disks"] if kind == "qcow2" for m in chain_mistakes(path, head)]


def launch(name: str) -> None:
    """Start the VM's device process in a namespace of its own, and wait until its tap is set up."""
    ready, report = os.pipe()
    env = {**os.environ, "SIM_USER": "root"}
    argv = ["unshare", "--net", "--", sys.executable, str(HERE), "__device", name, str(report)]
    log = (ROOT / f"sim/{name}.log").open("w")
    subprocess.Popen(argv, pass_fds=(report,), env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                     start_new_session=True)  # fmt: skip
    os.close(report)
    with os.fdopen(ready) as stream:
        if not stream.readline():
            fail("vmctl: start vm command failed: Device busy")


def vm_stop(args: list[str]) -> None:
    flags = "".join(arg[1:] for arg in args if arg.startswith("-"))
    names = [arg for arg in args if not arg.startswith("-")]
    if set(flags) - set("fwa") or bool(names) == ("a" in flags) or len(names) > 1:
        undocumented(f"vmctl stop {args}")
    with state() as s:
        need_socket(s)
        chosen = names or list(running(s))
        ended = [(name, s["ids"].get(name), stop_one(s, name)) for name in chosen]
    # vmd goes on while a client of it waits.
    for name, number, pid in ended:
        while "w" in flags and alive(pid):
            time.sleep(0.02)
        print(
            f"stopping vm {name}: {'terminated' if 'w' in flags else 'requested to shutdown'} vm {number}",
            file=sys.stderr,
        )


def stop_one(s: dict[str, Any], name: str) -> int:
    """Cut the power of one VM and return the pid that ends; its guest has no vmmci driver to be asked by."""
    say = f"stopping vm {name}: "
    if name not in s["vms"] and name not in s["running"]:
        fail(f"{say}vm not found")
    if not may(s["vms"].get(name) or s["running"][name]["vm"]):
        fail(f"{say}failed: Operation not permitted")
    if name not in running(s):
        fail(f"{say}failed: Invalid argument")
    if s["faults"].get("stop") == "hangs":
        time.sleep(60)
    pid = int(s["running"][name]["pid"])
    os.kill(pid, signal.SIGTERM)
    return pid


def vm_create(args: list[str]) -> None:
    option, value, target = args if len(args) == 3 else ("", "", "")
    path = place(target)
    if option not in ("-b", "-i", "-s") or not target.startswith("/"):
        undocumented(f"vmctl create {args}")
    if path.exists():
        fail("vmctl: create imagefile operation failed: File exists")
    qcow2 = target.endswith(".qcow2")
    if option == "-b":
        create_overlay(value, target, path, qcow2=qcow2)
    elif option == "-i":
        kind = "qcow2" if place(value).read_bytes()[:4] == b"QFI\xfb" else "raw"
        qemu_img("convert", "-f", kind, "-O", "qcow2" if qcow2 else "raw", str(place(value)), str(path))
    elif not qcow2:
        with path.open("wb") as stream:
            stream.truncate(int(value.removesuffix("M")) << 20)
    else:
        qemu_img("create", "-q", "-f", "qcow2", str(path), value)
    path.chmod(0o600)
    print(f"vmctl: {'qcow2' if qcow2 else 'raw'} imagefile created", file=sys.stderr)


def create_overlay(base: str, target: str, path: Path, *, qcow2: bool) -> None:
    if not qcow2:
        fail("vmctl: base images require qcow2 disk format")
    if not place(base).is_file():
        fail("vmctl: failure to read base image header")
    from okubsd.vmd.qcow2 import parse_header

    try:
        parse_header(place(base).read_bytes()[: 1 << 16])
    except ValueError:
        fail("vmctl: base image is not a qcow2 file")
    qemu_img("create", "-q", "-f", "qcow2", "-b", str(place(base)), "-F", "qcow2", str(path))


def qemu_img(*args: str) -> None:
    subprocess.run(["qemu-img", *args], check=True)


def vm_reload(args: list[str]) -> None:
    with state() as s:
        need_socket(s)
        if USER != "root":
            fail("vmctl: command failed: Operation not permitted")
        if not load_vms(s):
            fail_later = True
        else:
            fail_later = False
    if fail_later:
        fail("vmctl: command failed")


def vm_console(args: list[str]) -> None:
    with state() as s:
        need_socket(s)
        if not args or args[0] not in running(s):
            fail("vmctl: console not found")
    talk = socket.socket(socket.AF_UNIX)
    talk.connect(str(ROOT / f"sim/{args[0]}.console"))
    attach(talk)


def attach(talk: socket.socket) -> None:
    """Join the serial line with our own input and output until `~.`, as cu(1) does."""
    import select

    print("Connected to the line (speed 115200)", flush=True)
    while True:
        for ready in select.select([talk, 0], [], [])[0]:
            data = talk.recv(4096) if ready is talk else os.read(0, 4096)
            if not data or (ready == 0 and b"~." in data):
                return
            os.write(1, data) if ready is talk else talk.sendall(data)


# --- the device process: QEMU as vmd's machine, its tap, its DHCP -----------------------

# vmd of 7.6 has legacy virtio, that of 7.8 virtio 1.x; neither has MSI-X, ACPI or an APIC.
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
        vm, number = s["vms"][name], s["ids"][name]
        faults, kind = dict(s["faults"]), s.get("virtio", "modern")
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
        s["running"][name] = {"pid": os.getpid(), "vm": vm, "host": host, "rdomain": rdomain,
                              "group": faults.get("tap_group", vm["group"])}  # fmt: skip
        for port in vm["ports"]:
            carry(port)
    os.write(report, b"ready\n")
    os.close(report)
    serve(qemu, name, vm["tap"], host, guest)
    with state() as s:
        s["running"].pop(name, None)
        # A port that leaves its switch is protected from nobody when it comes back.
        for port in vm["ports"]:
            s.get("protected", {}).get(port["interface"], {}).pop(port["tap"], None)


def machine(name: str, vm: dict[str, Any], kind: str) -> list[str]:
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
    argv = ["unshare", "--net", "--", sys.executable, str(HERE.with_name("veb.py")), str(ROOT), port["interface"]]
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


# --- pf --------------------------------------------------------------------------------


def pfctl(args: list[str]) -> None:
    if USER != "root":
        fail("pfctl: /dev/pf: Permission denied")
    rest: list[str] = []
    if "-T" in args:
        rest = args[args.index("-T") + 2 :]
        args = args[: args.index("-T") + 2]
    if any(part.startswith("_") for word in args if word.startswith("okubsd/") for part in word.split("/")):
        fail("pfctl: anchor names beginning with '_' cannot be modified from the command line")
    options = parse_options(args, "aDfFkstTV", "nqve")
    with state() as s:
        if "T" in options:
            change_table(s, options, rest)
        if "f" in options:
            load_rules(s, options)
        if "k" in options:
            s["calls"].append(" ".join(["kill", *options.get("V", []), *options["k"]]))
        if "k" in options and "q" not in options:
            print("killed 0 states from 1 sources and 0 destinations", file=sys.stderr)
        if "F" in options:
            flush(s, options)
        if "s" in options:
            show(s, options)


def change_table(s: dict[str, Any], options: dict[str, list[str]], rest: list[str]) -> None:
    anchor, table = options["a"][0], options["t"][0]
    # A rule finds it in its own anchor or at the root, and nowhere else; replacing makes one that is not there.
    if not any(f"<{table}>" in rule for rule in s["anchors"].get(anchor, {}).get("rules", ())):
        undocumented(f"a table that no rule of {anchor} names: {table}")
    if options["T"] == ["show"]:
        print("".join(f"   {address}\n" for address in s.get("tables", {}).get(f"{anchor}:{table}", [])), end="")
    elif options["T"] == ["replace"]:
        s.setdefault("tables", {})[f"{anchor}:{table}"] = rest
    else:
        undocumented(f"pfctl -T {options['T']}")


def parse_options(args: list[str], valued: str, plain: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    words = iter(args)
    for word in words:
        if not word.startswith("-"):
            undocumented(f"pfctl {args}")
        for at, letter in enumerate(word[1:], 1):
            if letter in plain:
                found.setdefault(letter, [])
            elif letter in valued:
                found.setdefault(letter, []).append(word[at + 1 :] or next(words))
                break
            else:
                undocumented(f"pfctl -{letter}")
    return found


def load_rules(s: dict[str, Any], options: dict[str, list[str]]) -> None:
    from okubsd.config.parse_y import ConfError
    from okubsd.pf.grammar import parse_pf

    file, anchor = options["f"][0], options.get("a", [""])[0]
    if file == "-":
        text = sys.stdin.read()
    elif not place(file).is_file():
        fail(f"pfctl: pushfile: {file}: No such file or directory\n"
             "pfctl: cannot open the main config file!: No such file or directory")  # fmt: skip
    else:
        text = place(file).read_text()
    macros = dict(word.split("=", 1) for word in options.get("D", []))
    try:
        ruleset = parse_pf(text, file, pf_host(s), macros)
        if anchor and ruleset.queues:
            raise ConfError(1, "cannot add queue")
    except ConfError as error:
        more = "" if "n" in options else "\npfctl: Syntax error in config file: pf rules not loaded"
        fail(f"{file}:{error}{more}")
    if "n" in options:
        return
    if s["faults"].get("pf") == (anchor or "main"):
        fail("pfctl: DIOCADDRULE: Device busy")
    for name in [name for name in s["anchors"] if anchor and name.startswith(f"{anchor}/")]:
        del s["anchors"][name]
    s["anchors"][anchor] = {"text": text, "macros": macros, "tables": list(ruleset.tables)}
    if anchor:
        register(s, anchor, ruleset.rules, 0)
    else:
        s["queues"] = list(ruleset.queues)
        s["queue_lines"] = re.findall(r"(?m)^queue .*", text)


def register(s: dict[str, Any], path: str, rules: Any, count: int) -> None:
    """Give every inline anchor its path: one without a name is called _1, _2 and so on."""
    s["anchors"][path]["rules"] = [rule.text for rule in rules if rule.action != "anchor"]
    for rule in rules:
        if rule.action != "anchor" or rule.anchor is not None:
            continue
        count += not rule.named
        below = f"{path}/{rule.named or f'_{count}'}"
        s["anchors"][below] = {"text": "", "macros": {}, "tables": list(rule.tables)}
        register(s, below, rule.children, 0)


def pf_host(s: dict[str, Any]) -> PfHost:
    from okubsd.pf.rule_ends import PfHost

    tables = {0, *(int(name[2:]) for name in s["interfaces"] if name.startswith("lo"))}
    return PfHost(
        interfaces={"lo0": ("127.0.0.1/8",), "em0": ("192.0.2.10/24",), "egress": ("192.0.2.10/24",)},
        present=frozenset({"lo0", "em0", *s["interfaces"], *(vm["vm"]["tap"] for vm in running(s).values())}),
        rtables=frozenset(tables | {vm["rdomain"] for vm in running(s).values()}),
        read=lambda path: place(path).read_text() if place(path).is_file() else None,
    )


def flush(s: dict[str, Any], options: dict[str, list[str]]) -> None:
    anchor = options.get("a", [""])[0]
    if options["F"] != ["rules"] or anchor in ("", "*"):
        undocumented(f"pfctl {options}")
    top = anchor.removesuffix("/*")
    if anchor.endswith("/*") and top not in s["anchors"]:
        fail("pfctl: Anchor does not exist.")
    if not anchor.endswith("/*"):
        # The rules go, the anchor and what is in it stay.
        if top in s["anchors"]:
            s["anchors"][top]["rules"] = []
        return
    for name in [name for name in s["anchors"] if name == top or name.startswith(f"{top}/")]:
        del s["anchors"][name]
    if "q" not in options:
        print("rules cleared", file=sys.stderr)


def show(s: dict[str, Any], options: dict[str, list[str]]) -> None:
    if options["s"][0] == "info":
        enabled = "Disabled" if s["faults"].get("pf") == "off" else "Enabled"
        print(f"Status: {enabled} for 0 days 00:00:39              Debug: err")
        return
    anchor = options.get("a", [""])[0]
    if options["s"][0] == "Anchors":
        below = [name for name in s["anchors"] if name.startswith(f"{anchor}/") and "/" not in name[len(anchor) + 1 :]]
        print("".join(f"  {name}\n" for name in sorted(below)), end="")
        return
    if options["s"][0] == "queue":
        # A queue dies with the interface that it is on.
        there = pf_host(s).present or frozenset()
        for line in s.get("queue_lines", []):
            on = re.search(r" on (\S+)", line)
            if on is None or on[1] in there:
                print(line)
        return
    if options["s"][0] != "rules":
        undocumented(f"pfctl -s {options['s']}")
    if anchor == "*":
        # The rules of all anchors, each below its name.
        for name, found in sorted(s["anchors"].items()):
            print(f'anchor "{name}" all {{' if name else "", *found.get("rules", []), "}" if name else "", sep="\n")
        return
    if anchor not in s["anchors"]:
        fail("pfctl: Anchor does not exist", 0)
    print("".join(f"{rule}\n" for rule in s["anchors"][anchor].get("rules", [])), end="")


# --- interfaces, routes, services ----------------------------------------------------------


def show_all() -> None:
    print("lo0: flags=8049<UP,LOOPBACK,RUNNING,MULTICAST> mtu 32768\n\tgroups: lo\n"
          "em0: flags=8843<UP,BROADCAST,RUNNING,SIMPLEX,MULTICAST> mtu 1500\n"
          "\tgroups: egress\n\tinet 192.0.2.10 netmask 0xffffff00 broadcast 192.0.2.255")  # fmt: skip
    with state() as s:
        for name, lines in s["interfaces"].items():
            print(f"{name}: flags=8043<UP,BROADCAST,RUNNING,MULTICAST> {lines[0]} mtu 1500")


def ifconfig(args: list[str]) -> None:
    match args:
        case [name, "destroy"]:
            with state() as s:
                if s["interfaces"].pop(name, None) is None:
                    fail(f"ifconfig: {name}: SIOCIFDESTROY: Device not configured")
                s["calls"].append(f"destroy {name}")
            return
        case [name, "protected", port, number]:
            with state() as s:
                if name not in s["interfaces"]:
                    fail(f"{name}: no such interface")
                s["calls"].append(f"protected {name} {port} {number}")
                s.setdefault("protected", {}).setdefault(name, {})[port] = int(number)
            return
        case [name, "-protected", port]:
            with state() as s:
                if name not in s["interfaces"]:
                    fail(f"{name}: no such interface")
                s["calls"].append(f"-protected {name} {port}")
                s.get("protected", {}).get(name, {}).pop(port, None)
            return
        case []:
            return show_all()
        case [_]:
            pass
        case _:
            undocumented(f"ifconfig {args}")
    with state() as s:
        if re.match(r"(wg|tun|veb|vport)\d", args[0]) and args[0] in s["interfaces"]:
            rdomain = s["interfaces"][args[0]][0].split()[1]
            print(f"{args[0]}: flags=80c3<UP,BROADCAST,RUNNING,NOARP,MULTICAST> rdomain {rdomain} mtu 1420\n"
                  "\tindex 9 priority 0 llprio 3\n\tgroups: wg okubsd")  # fmt: skip
            return
        vm = next((vm for vm in running(s).values() if vm["vm"]["tap"] == args[0]), None)
        if vm is None and args[0].startswith("tap") and args[0] in s["interfaces"]:
            show_prepared(args[0], s["interfaces"][args[0]])
            return
        if vm is None or s["faults"].get("tap") == "missing":
            fail(f"{args[0]}: no such interface")
        rdomain = f" rdomain {vm['rdomain']}" if vm["rdomain"] else ""
        number = s["ids"][vm["vm"]["name"]]
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
    return "0x" + socket.inet_aton(mask).hex()


def route(args: list[str]) -> None:
    if len(args) < 4 or args[0] != "-T" or args[2] != "exec":
        undocumented(f"route {args}")
    if args[1] == "0":
        os.execvp(args[3], args[3:])
    with state() as s:
        holder = next((vm["pid"] for vm in running(s).values() if str(vm["rdomain"]) == args[1]), None)
        holder = holder or s.get("holders", {}).get(f"tap{args[1]}")
        known = holder is not None or f"lo{args[1]}" in s["interfaces"]
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
            if port and port not in s["interfaces"] and port not in args:
                print(f"ifconfig: {port}: Invalid argument", file=sys.stderr)
                lines = [line for line in lines if not line.startswith("add ")]
            if any("dhcpd -c" in line for line in lines):
                judge_dhcpd(place(next(re.search(r"dhcpd -c (\S+)", line)[1] for line in lines if "dhcpd -c" in line)))
            if not re.fullmatch(r"rdomain \d+", lines[0]):
                undocumented(f"{path}: the rdomain is not on the first line")
            s["interfaces"][name] = lines
            s["calls"].append(f"netstart {name}")
            if name.startswith("tap"):
                s.setdefault("holders", {})[name] = hold_tap(s, name, lines)


def dhcpd(args: list[str]) -> None:
    """Judge a configuration and end (dhcpd(8), -n)."""
    if args[:2] != ["-n", "-c"] or len(args) != 3:
        undocumented(f"dhcpd {args}")
    with state() as s:
        s["calls"].append("dhcpd -n")
    sys.exit(0 if judge_dhcpd(place(args[2])) else 1)


def judge_dhcpd(path: Path) -> bool:
    """Say what dhcpd(8) says of a configuration that it does not take; netstart exits with 0 all the same."""
    words = r"[a-z][a-z0-9-]*"
    lines = rf"subnet [0-9.]+ netmask [0-9.]+ \{{|\thost {words} \{{ hardware ethernet [0-9a-f:]{{17}}; fixed-address [0-9.]+; \}}|\}}"
    taken = all(re.fullmatch(lines, line) for line in path.read_text().splitlines())
    if not taken:
        print("Configuration file errors encountered -- exiting", file=sys.stderr)
    return taken


def hold_tap(s: dict[str, Any], name: str, lines: list[str]) -> int:
    """Make the tap of a hostname.if in a namespace of its own, which stands for its rdomain; return who holds it."""
    holder = s.get("holders", {}).get(name, 0)
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
    path = os.pathsep.join(part for part in os.environ["PATH"].split(os.pathsep) if not part.startswith(str(ROOT)))
    real = shutil.which("qemu-system-x86_64", path=path) or "/usr/bin/qemu-system-x86_64"
    match = re.search(r"ifname=(tap\d+)", " ".join(args))
    with state() as s:
        holder = s.get("holders", {}).get(match[1]) if match else None
    if holder is None:
        # vmd's own guests begin where their tap is.
        os.execv(real, [real, *args])
    os.execvp("nsenter", ["nsenter", "--target", str(holder), "--net", "--", real, *args])


def at(args: list[str]) -> None:
    """at(1) of OpenBSD: a time to the minute, and the job on standard input."""
    if args[:1] != ["-t"] or not re.fullmatch(r"\d{12}", args[1]):
        undocumented(f"at {args}")
    with state() as s:
        s.setdefault("jobs", []).append([args[1], sys.stdin.read().strip()])


def date(args: list[str]) -> None:
    """date(1) of OpenBSD: -r takes seconds, where GNU's takes a file; the state may say how late it is by "ahead"."""
    if args == ["+%s"]:
        with state() as s:
            print(int(time.time()) + s.get("ahead", 0))
        return
    if args[:1] == ["-r"]:
        args = ["-d", f"@{args[1]}", *args[2:]]
    os.execv("/bin/date", ["date", *args])


def drill(args: list[str]) -> None:
    """A resolver's answers, from the state."""
    with state() as s:
        name = args[-2]
        found = s.get("dns", {}).get(name)
        s["calls"].append(f"ask {' '.join(args)}")
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
        s["calls"].append(f"as nobody {args[3]}")
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
        values |= s["sysctl"]
        if args[:1] == ["-n"] and len(args) == 2 and args[1] in values:
            print(values[args[1]])
        elif len(args) == 1 and "=" in args[0]:
            name, value = args[0].split("=", 1)
            if USER != "root":
                fail(f"sysctl: {name}: Operation not permitted", 0)
            print(f"{name}: {values.get(name, '0')} -> {value}")
            s["sysctl"][name] = value
        else:
            undocumented(f"sysctl {args}")


def rcctl(args: list[str]) -> None:
    with state() as s:
        match args:
            case ["get", name, "status"]:
                print(f"{name}_flags=" if name in s["rc"] else "off") if name in ("vmd", "okubsd") else None
                sys.exit(0 if name in s["rc"] else 1)
            case ["ls", "on"]:
                print("".join(f"{name}\n" for name in sorted(["cron", "pf", *s["rc"]])), end="")
            case ["enable", name]:
                s["rc"] = sorted({*s["rc"], name})
            case ["disable", name]:
                s["rc"] = [other for other in s["rc"] if other != name]
            case ["start", "vmd"]:
                s["vmd"] = True
                if not load_vms(s):
                    fail("vmd(failed)")
                print("vmd(ok)")
            case ["check", "vmd"]:
                print("vmd(ok)" if s.get("vmd") else "vmd(failed)")
                sys.exit(0 if s.get("vmd") else 1)
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
        print("mainbus0 at root\ncpu0: cpuid 1" + ("" if s["faults"].get("vmm") else "\nvmm0 at mainbus0: SVM/RVI"))


def getcap(args: list[str]) -> None:
    if args != ["-f", "/etc/login.conf.d/vmd:/etc/login.conf", "vmd"]:
        undocumented(f"getcap {args}")
    print("vmd:\t:datasize=16384M:\t:tc=daemon:")


PROGRAMS = {
    "vmd": vmd, "vmctl": vmctl, "pfctl": pfctl, "ifconfig": ifconfig, "route": route, "sysctl": sysctl, "rcctl": rcctl,
    "doas": doas, "netstart": netstart, "makedev": makedev, "__device": device, "qemu-system-x86_64": qemu,
    "at": at, "date": date, "drill": drill, "chroot": chroot, "dhcpd": dhcpd, "dmesg": dmesg,
    "getcap": getcap,
}  # fmt: skip


def install(root: Path, shell: str = "/bin/ksh") -> None:
    """Lay an OpenBSD host below ``root``: its programs, its fresh files, and okubsd's helper under ``shell``."""
    for name in ("etc/firmware", "dev", "var/run", "sim", "bin", "usr/sbin", "usr/local/libexec"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in PROGRAMS:
        script = f'#!/bin/sh\nSIM_ROOT={root} exec {sys.executable} {HERE} {name} "$@"\n'
        for path in (root / "bin" / name, *([root / "usr/sbin/vmd"] if name == "vmd" else [])):
            path.write_text(script)
            path.chmod(0o755)
    shutil.copy(root / "bin/netstart", root / "etc/netstart")
    shutil.copy(root / "bin/makedev", root / "dev/MAKEDEV")
    (root / "etc/firmware/vmm-bios").write_bytes(b"SeaBIOS stands here\n")
    (root / "etc/pf.conf").write_text((HERE.parents[2] / "etc/openbsd/pf.conf").read_text())
    (root / "etc/pf.conf").chmod(0o600)
    helper = (HERE.parents[2] / "libexec/okubsd-helper").read_text()
    helper = helper.replace("#!/bin/ksh", f"#!{shell}", 1).replace("\nroot=\n", f"\nroot={root}\n", 1)
    helper = helper.replace("\nPATH=", f"\nPATH={root}/bin:", 1)
    path = root / "usr/local/libexec/okubsd-helper"
    path.write_text(helper)
    path.chmod(0o755)
    follower = root / "usr/local/share/okubsd/images/base/files/usr/lib/okubsd/names"
    follower.parent.mkdir(parents=True, exist_ok=True)
    text = (HERE.parents[2] / "images/base/files/usr/lib/okubsd/names").read_text()
    follower.write_text(text.replace("\nPATH=", f"\nPATH={root}/bin:", 1))


if __name__ == "__main__":
    PROGRAMS[sys.argv[1]](sys.argv[2:])
