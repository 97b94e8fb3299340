"""Ways to show a program of the same guest on the same desktop: okubsd's own, ssh -X, ssh -Y, and VNC."""

from __future__ import annotations

import contextlib
import re
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from okubsd import layout
from okubsd.bench.stock import stock_ssh
from okubsd.errors import HostLacks, Problem, TimedOut
from okubsd.guest.ssh import ssh_argv
from okubsd.host import door, facts, lifecycle, locks, programs, running
from okubsd.host.guest import ROOT, Guest
from okubsd.host.monitor import monitor
from okubsd.host.painting import spent_by
from okubsd.host.session import Session
from okubsd.host.sockets import listener_pid
from okubsd.model import Argv, Face, Request, Vm

OPENSSH_PORT = 2022
# The app is the same everywhere; its icon alone costs 200 round trips to the X server.
TERM = ("xterm", "-fa", "DejaVu Sans Mono", "-fs", "11", "-xrm", "*iconHint: none")
_VNC_DISPLAY, _VIEWER = 5, "xtigervncviewer"
_WAIT = 120.0


class Contestant:
    """One way to show programs of a VM that runs; ``name`` is what the figures are called by.

    ``maps`` says that a program's window is one of the desktop's.
    """

    maps = True

    def __init__(self, name: str, session: Session, vm: Vm) -> None:
        self.name, self.session, self.vm = name, session, vm

    @contextlib.contextmanager
    def ready(self) -> Iterator[None]:
        """Have the VM run, with all that a program needs before it is shown."""
        lifecycle.start(self.session, self.vm, Request(windowless=True))
        try:
            yield
        finally:
            lifecycle.stop(self.session, self.vm, force=True)

    def show(self, *arguments: str) -> None:
        """Have the terminal shown with some ``arguments``; return as soon as it is begun."""
        raise NotImplementedError

    def pids(self) -> list[int]:
        """Return the processes of this host that carry it and show it, but the desktop's own and QEMU."""
        raise NotImplementedError


class Ours(Contestant):
    """One of the faces of okubsd."""

    def __init__(self, face: Face, session: Session, vm: Vm) -> None:
        super().__init__(face.value, session, msgspec.structs.replace(vm, face=face))

    def show(self, *arguments: str) -> None:
        lifecycle.start(self.session, self.vm, Request(app="term", another=bool(arguments), arguments=arguments))

    def pids(self) -> list[int]:
        run = self.session.places.vm_run(self.vm.name)
        server, glass = running.live_server(run), locks.living_pid(run / layout.GLASS_LIFE)
        children = Path(f"/proc/{glass}/task/{glass}/children").read_text().split() if glass else []
        return [pid for pid in (server, glass, self._carrier(run), *map(int, children)) if pid]

    def _carrier(self, run: Path) -> int:
        """Return the pid of the ssh that carries X11, as it says itself: it has forked since it began to listen."""
        said = door.ask(ssh_argv(self.vm, run, "-O", "check"), timeout=10)
        found = re.search(rb"pid=([0-9]+)", said.out + said.err)
        return int(found[1]) if found else 0


class Forwarded(Contestant):
    """X11 by OpenSSH itself, through a connection that is open already."""

    def __init__(self, flag: str, session: Session, vm: Vm) -> None:
        super().__init__(f"ssh {flag}", session, vm)
        self._flag = flag
        self._children: list[subprocess.Popen[bytes]] = []

    @contextlib.contextmanager
    def ready(self) -> Iterator[None]:
        with super().ready():
            state = facts.ask_vm(self.session.places, self.vm.name)
            port = start_openssh(self.session, self.vm)
            socket = state.run / "bench"
            ssh = (*stock_ssh(state.directory, port), "-S", str(socket))
            self._argv = (*ssh, self._flag, "user@127.0.0.1")
            reach = state.seat.reach if state.seat is not None else lambda argv: argv
            self._begin(reach((*ssh, "-M", "-N", self._flag, "user@127.0.0.1")))
            _wait_for(socket)
            try:
                yield
            finally:
                for child in self._children:
                    child.kill()
                    child.wait()
                self._children.clear()

    def _begin(self, argv: Argv) -> None:
        log = self.session.places.vm(self.vm.name) / "bench.log"
        self._children.append(door.spawn_measured(argv, log))

    def show(self, *arguments: str) -> None:
        self._begin((*self._argv, shlex.join((*TERM, *arguments))))

    def pids(self) -> list[int]:
        return [child.pid for child in self._children if child.poll() is None]


class Vnc(Forwarded):
    """TigerVNC's server in the guest, and its viewer here."""

    maps = False

    def __init__(self, session: Session, vm: Vm) -> None:
        super().__init__("-x", session, vm)
        self.name = "VNC"

    @contextlib.contextmanager
    def ready(self) -> Iterator[None]:
        if programs.find_program(_VIEWER) is None:
            raise HostLacks(f"{_VIEWER} is not on this host", "sudo apt-get install tigervnc-viewer")
        with super().ready():
            server = f"setsid Xtigervnc :{_VNC_DISPLAY} -SecurityTypes None -localhost -geometry 1280x800 "
            guest = Guest.find(self.session.places, self.vm)
            guest.ask(("sh", "-c", f"{server} >/dev/null 2>&1 </dev/null &"), timeout=60)
            socket = self.session.places.vm_run(self.vm.name) / "bench-vnc"
            way = ("-O", "forward", "-L", f"{socket}:127.0.0.1:{5900 + _VNC_DISPLAY}")
            if door.ask((*self._argv[:-1], *way, self._argv[-1]), timeout=60).code != 0:
                raise Problem("there is no way to the guest's VNC server")
            time.sleep(3)
            self._begin((_VIEWER, "-SecurityTypes", "None", str(socket)))
            time.sleep(3)
            yield

    def show(self, *arguments: str) -> None:
        words = ("env", f"DISPLAY=:{_VNC_DISPLAY}", *TERM, *arguments)
        self._begin((*self._argv, shlex.join(words)))


def start_openssh(session: Session, vm: Vm) -> int:
    """Start OpenSSH's server in the guest, and return the port of the guest's network that leads to it."""
    script = (
        "mkdir -p /run/sshd; cp /run/okubsd/ssh/authorized_keys /run/keys; chmod 644 /run/keys; "
        "ssh-keygen -q -t ed25519 -N '' -f /run/sshd-key; "
        f"/usr/sbin/sshd -p {OPENSSH_PORT} -h /run/sshd-key -o X11Forwarding=yes -o StrictModes=no "
        "-o AuthorizedKeysFile=/run/keys -o UsePAM=no >&2; cat /run/sshd-key.pub"
    )
    done = Guest.find(session.places, vm).ask(("sh", "-c", script), user=ROOT, timeout=120)
    if done.code != 0:
        raise Problem(f"starting OpenSSH in the guest: {door.reason(done)}")
    door.write(session.places.vm(vm.name) / "stock_hosts", b"stock " + done.out)
    with monitor(session.places.vm_run(vm.name) / layout.QMP) as qemu:
        qemu.human(f"hostfwd_add net0 tcp:127.0.0.1:0-:{OPENSSH_PORT}")
        ports = re.findall(rf"127\.0\.0\.1\s+(\d+)\s+\S+\s+{OPENSSH_PORT}\s", qemu.human("info usernet"))
    return int(ports[0])


def _wait_for(socket: Path) -> None:
    end = time.monotonic() + _WAIT
    while listener_pid(socket) is None:
        if time.monotonic() > end:
            raise TimedOut("ssh did not connect to OpenSSH in the guest")
        time.sleep(0.05)


def spent(pids: list[int]) -> float:
    """Return the seconds of processor that processes took so far."""
    return sum(spent_by(pid) for pid in pids)


def proportional(pid: int) -> float:
    """Return the bytes of process ``pid``, shared ones in part (proc(5), smaps_rollup); 0 if it ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next(float(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def all_of(session: Session, vm: Vm) -> list[Contestant]:
    """Return every way that this host has."""
    found: list[Contestant] = [Ours(face, session, vm) for face in Face]
    found += [Forwarded("-X", session, vm), Forwarded("-Y", session, vm)]
    return [*found, Vnc(session, vm)] if programs.find_program(_VIEWER) else found
