"""vmd(8) and vmctl(8): messages and exit codes as seen, configuration by our grammar."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from .host import GROUPS, ROOT, USER, USERS, fail, place, undocumented
from .state import SimVm, State, alive, running, state

if TYPE_CHECKING:
    import socket

    from okubsd.vmd.conf import Conf, ConfVm
    from okubsd.vmd.grammar import Host


HEADER = "   ID   PID VCPUS  MAXMEM  CURMEM     TTY        OWNER    STATE NAME"


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


def load_vms(s: State) -> bool:
    """Register the VMs of /etc/vm.conf; what does not run is forgotten first.  Return whether all was well."""
    kept = {name: vm for name, vm in s.vms.items() if name in running(s)}
    s.vms = kept
    from okubsd.config.parse_y import ConfError
    from okubsd.vmd.conf import Conf, load_errors

    if s.faults.get("reload"):
        return False
    try:
        conf = read_conf()
    except ConfError:
        return False
    missing = [switch.interface for switch in conf.switches if switch.interface not in s.interfaces]
    if missing:
        # vmd dies of it, at a reload too, although vmctl is content (observed).
        s.vmd = False
        return True
    s.socket_group = conf.socket_owner.partition(":")[2]
    for vm in conf.vms:
        if vm.name in kept or vm.name in s.vms:
            continue
        if load_errors(Conf(vms=(vm,))):
            return False
        s.ids.setdefault(vm.name, len(s.ids) + 1)
        s.vms[vm.name] = as_dict(vm, {switch.name: switch.interface for switch in conf.switches})
    for vm in conf.vms:
        if vm.enabled and vm.name not in running(s):
            undocumented(f"vm {vm.name} would be started by the reload")
    return True


def as_dict(vm: ConfVm, switches: dict[str, str]) -> SimVm:
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


def may(vm: SimVm) -> bool:
    user, _, group = vm["owner"].partition(":")
    return USER in ("root", user) or (bool(group) and USER in GROUPS.get(group, ()))


def need_socket(s: State) -> None:
    if s.vmd is None:
        fail("vmctl: connect: /var/run/vmd.sock: No such file or directory")
    if not s.vmd:
        fail("vmctl: connect: /var/run/vmd.sock: Connection refused")
    if USER != "root" and USER not in GROUPS.get(s.socket_group or "wheel", ()):
        fail("vmctl: connect: /var/run/vmd.sock: Permission denied")


def vmctl(args: list[str]) -> None:
    verbs = {"status": vm_status, "show": vm_status, "start": vm_start, "stop": vm_stop, "create": vm_create,
             "reload": vm_reload, "console": vm_console,
             "pause": vm_pause, "unpause": vm_unpause}  # fmt: skip
    if not args or args[0] not in verbs:
        undocumented(f"vmctl {args}")
    verbs[args[0]](args[1:])


def vm_status(args: list[str]) -> None:
    only_running, names = "-r" in args, [arg for arg in args if arg != "-r"]
    with state() as s:
        need_socket(s)
        live = running(s)
        rows = [*reversed(live), *(name for name in sorted(s.vms, key=lambda n: s.ids[n]) if name not in live)]
        rows = [name for name in rows if not only_running or name in live]
        print(HEADER)
        for name in rows:
            if not names or name in names:
                print(status_row(s, name))
    sys.exit(0 if rows else 1)


def status_row(s: State, name: str) -> str:
    live, vm = s.running.get(name), s.vms.get(name) or s.running[name]["vm"]
    megabytes = (vm["memory"] >> 20) + (2 if live else 0)
    size = f"{megabytes / 1024:.1f}G" if megabytes >= 1024 else f"{megabytes:.1f}M"
    pid, used, tty = (str(live["pid"]), "38.0M", f"ttyp{s.ids[name]}") if live else ("-", "-", "-")
    words = (s.ids[name], pid, 1, size, used, tty, vm["owner"][:15], state_word(s, name), name)
    return "{:>5} {:>5} {:>5} {:>7} {:>7} {:>7} {:>12} {:>8} {}".format(*words)


def state_word(s: State, name: str) -> str:
    """Return the state of a VM: one that was paused is called so until it is unpaused, also when it has stopped."""
    return "paused" if name in s.paused else "running" if name in s.running else "stopped"


def vm_pause(args: list[str]) -> None:
    pause(args, still=True)


def vm_unpause(args: list[str]) -> None:
    pause(args, still=False)


def pause(args: list[str], *, still: bool) -> None:
    verb = "pause" if still else "unpause"
    if len(args) != 1:
        undocumented(f"vmctl {verb} {args}")
    name = args[0]
    with state() as s:
        need_socket(s)
        if s.faults.get("pause") == "hangs":
            time.sleep(60)
        if name not in s.vms and name not in s.running:
            fail(f"vmctl: {verb} vm command failed: No such file or directory")
        if not may(s.vms.get(name) or s.running[name]["vm"]):
            fail(f"vmctl: {verb} vm command failed: Operation not permitted")
        if s.faults.get("pause") == "refused":
            fail(f"vmctl: {verb} vm command failed: Operation not permitted")
        s.paused = [other for other in s.paused if other != name] + ([name] if still else [])
        gone = name not in running(s)
        number = s.ids[name]
    if gone:
        # It fails, and the mark is there or gone all the same (observed).
        fail(f"vmctl: {verb} vm command failed: No such file or directory")
    tell_qemu(ROOT / f"sim/{name}.qmp", "stop" if still else "cont")
    print(f"vmctl: {verb}d vm {number} successfully", file=sys.stderr)


def tell_qemu(path: Path, command: str) -> None:
    """Have the QEMU of a VM stand still or go on, where it is a real one."""
    import json
    import socket

    if not path.exists():
        return
    with socket.socket(socket.AF_UNIX) as talk, talk.makefile("rwb") as stream:
        talk.connect(str(path))
        stream.readline()
        for word in ("qmp_capabilities", command):
            stream.write(json.dumps({"execute": word}).encode() + b"\n")
            stream.flush()
            while "return" not in json.loads(stream.readline()):
                pass


def vm_start(args: list[str]) -> None:
    if len(args) != 1 or args[0].startswith("-"):
        undocumented(f"vmctl start {args}")
    name = args[0]
    with state() as s:
        need_socket(s)
        for words, fault in START_FAULTS.items():
            if s.faults.get("start") == fault:
                fail(words)
        if name not in s.vms:
            fail("vmctl: could not open disk image(s)" if USER == "root" else DENIED)
        vm = s.vms[name]
        if not may(vm):
            fail(DENIED)
        if name in running(s):
            fail("vmctl: start vm command failed: Operation already in progress")
        refuse_start(s, vm)
        number, dies = s.ids[name], bool(bad_drives(vm)) or s.faults.get("start") == "dies"
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


def refuse_start(s: State, vm: SimVm) -> None:
    """End with vmctl's words where one of the drives, the firmware or the tap is not there."""
    locked = {path for other in s.running.values() for path, _ in other["vm"]["disks"]}
    for path, kind in vm["disks"]:
        if not place(path).is_file() or path in locked:
            fail("vmctl: could not open disk image(s)")
        if kind == "qcow2" and any("there is no such" in m or "not a qcow2" in m for m in bad_drives(vm)):
            fail("vmctl: start vm command failed: Unknown error: -1")
    if not place("/etc/firmware/vmm-bios").exists():
        fail("vmctl: vmm bios firmware file not found.")
    if vm["tap"] and not place(f"/dev/{vm['tap']}").exists():
        fail("vmctl: start vm command failed: No such file or directory")


def bad_drives(vm: SimVm) -> list[str]:
    from okubsd.vmd.qcow2 import chain_mistakes

    def head(path: str) -> bytes | None:
        return place(path).read_bytes()[: 1 << 16] if place(path).is_file() else None

    return [m for path, kind in vm["disks"] if kind == "qcow2" for m in chain_mistakes(path, head)]


def launch(name: str) -> None:
    """Start the VM's device process in a namespace of its own, and wait until its tap is set up."""
    import subprocess

    ready, report = os.pipe()
    here = Path(__file__).parents[1]
    env = {**os.environ, "SIM_USER": "root", "PYTHONPATH": f"{here}:{here.parents[1]}"}
    argv = ["unshare", "--net", "--", sys.executable, "-m", "sim", "__device", name, str(report)]
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
        ended = [(name, s.ids.get(name), stop_one(s, name)) for name in chosen]
    # vmd goes on while a client of it waits.
    for name, number, pid in ended:
        while "w" in flags and alive(pid):
            time.sleep(0.02)
        print(
            f"stopping vm {name}: {'terminated' if 'w' in flags else 'requested to shutdown'} vm {number}",
            file=sys.stderr,
        )


def stop_one(s: State, name: str) -> int:
    """Cut the power of one VM and return the pid that ends; its guest has no vmmci driver to be asked by."""
    say = f"stopping vm {name}: "
    if name not in s.vms and name not in s.running:
        fail(f"{say}vm not found")
    if not may(s.vms.get(name) or s.running[name]["vm"]):
        fail(f"{say}failed: Operation not permitted")
    if name not in running(s):
        fail(f"{say}failed: Invalid argument")
    if s.faults.get("stop") == "hangs":
        time.sleep(60)
    pid = int(s.running[name]["pid"])
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
    import subprocess

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
    import socket

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
