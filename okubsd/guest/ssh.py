"""How the host's ssh(1) reaches a guest: one ssh_config(5) per VM, one connection for everything."""

from __future__ import annotations

import shlex
from pathlib import Path

from okubsd import layout
from okubsd.model import Argv, Vm

# X11 inside the guest: display 10 is TCP port 6010 of the guest's loopback (X(7), DISPLAY NAMES).
X11_PORT = 6010

USER = "user"
# What a call from the host runs behind: it gains no privilege, and has fewer system calls (okubsd-image(5), SANDBOX).
WALL: Argv = ("/usr/lib/okubsd/wall", "-c")


def render_ssh_config(vm: Vm, address: str, port: int, keys: Path, run: Path, *, patient: bool = False) -> str:
    """Return the ssh_config(5) of ``vm``.

    ``address`` and ``port`` lead to the guest, ``keys`` is the directory of its key and
    known_hosts, ``run`` its run directory, where the shared connection's socket lies.  A ``patient`` connection says
    nothing by itself: TCP would end it, where the guest stands still.
    """
    options = {
        "HostName": address,
        "Port": str(port),
        "HostKeyAlias": vm.name,
        "User": USER,
        "IdentityFile": _quote(keys / "id_ed25519"),
        "IdentitiesOnly": "yes",
        "UserKnownHostsFile": _quote(keys / layout.KNOWN_HOSTS),
        "GlobalKnownHostsFile": "none",
        "StrictHostKeyChecking": "yes",
        "HostKeyAlgorithms": "ssh-ed25519",
        "PreferredAuthentications": "publickey",
        "BatchMode": "yes",
        "UpdateHostKeys": "no",
        "ForwardAgent": "no",
        "ForwardX11": "no",
        "PermitLocalCommand": "no",
        "ControlMaster": "auto",
        "ControlPath": _quote(run / "ssh-%r"),
        "ControlPersist": "yes",
        "ConnectTimeout": "10",
        # The windows hang on this connection: it outlives a guest or a network that stands still.  When QEMU ends,
        # its kernel says so; a VM of vmd's that ended is noticed after an hour.
        "TCPKeepAlive": "no",
        "ServerAliveInterval": "0" if address == "127.0.0.1" or patient else "60",
        "ServerAliveCountMax": "60",
        "LogLevel": "ERROR",
    }
    # The second is for who includes this file from his own: ssh(1) then goes by the connection that is there.
    return f"Host {vm.name} {vm.name}.okubsd\n" + "".join(f"\t{key} {value}\n" for key, value in options.items())


def _quote(path: Path) -> str:
    """Return ``path`` quoted for ssh_config(5); '%' would start a token there."""
    return '"' + str(path).replace("%r", "\0").replace("%", "%%").replace("\0", "%r") + '"'


def ssh_argv(vm: Vm, run: Path, *options: str, user: str = USER) -> Argv:
    """Return ssh to ``vm`` with ``options``, as far as the host name."""
    login = () if user == USER else ("-l", user)
    return ("ssh", "-F", str(run / "ssh_config"), *login, *options, vm.name)


def remote_command(words: Argv) -> str:
    """Return ``words`` as the one string that ssh hands to the guest's shell (images/base/files/usr/lib/okubsd/sh)."""
    return shlex.join(("run", *words))


def call_command(words: Argv, mark: str) -> str:
    """Return ``words`` as a command whose processes can be found again by their ``mark``, see end_call_command()."""
    return shlex.join(("call", mark, *words))


def end_call_command(mark: str) -> str:
    """Return the command that ends what call_command() began with the same ``mark``, and all that came of it."""
    script = (
        'for process in /proc/[0-9]*; do grep -qzx "OKUBSD_CALL=$1" "$process/environ" 2>/dev/null && '
        'kill -TERM "${process#/proc/}"; done; true'
    )
    return remote_command(("sh", "-c", script, "sh", mark))


def show_app_argv(vm: Vm, run: Path, app: str, arguments: Argv, *, another: bool) -> Argv:
    """Return ssh that starts ``app`` in the guest and returns once it is started."""
    flags = ("-n",) if another else ()
    words = ("/usr/lib/okubsd/app", *flags, app, *arguments)
    return (*ssh_argv(vm, run), remote_command(words))


def connect_argv(vm: Vm, run: Path, socket: Path) -> Argv:
    """Return ssh that opens the shared connection and forwards the guest's display 10 to ``socket``.

    ExitOnForwardFailure: a guest that already listens there does not get our windows.
    """
    forward = f"127.0.0.1:{X11_PORT}:{socket}"
    return ssh_argv(vm, run, "-o", "ExitOnForwardFailure=yes", "-f", "-N", "-M", "-R", forward)


# How many seconds of its own clock the guest has been up (proc(5)).
_UPTIME = "cat /proc/uptime"


def probe_argv(vm: Vm, run: Path) -> Argv:
    """Return ssh that sees whether the guest answers, by a connection of its own, and what its clock says."""
    options = ("-o", "ControlMaster=no", "-o", "ControlPath=none", "-o", "ConnectTimeout=3")
    return (*ssh_argv(vm, run, *options), _UPTIME)


def uptime_argv(vm: Vm, run: Path) -> Argv:
    """Return ssh that prints what the guest's clock says."""
    return (*ssh_argv(vm, run), _UPTIME)


def disconnect_argv(vm: Vm, run: Path, user: str = USER) -> Argv:
    """Return ssh that ends the shared connection of ``user``, and with it what it forwards."""
    return ssh_argv(vm, run, "-O", "exit", user=user)


def power_off_argv(vm: Vm, run: Path) -> Argv:
    """Return ssh that tells PID 1 of the guest to power off."""
    return (*ssh_argv(vm, run, user="root"), remote_command(("/usr/lib/okubsd/poweroff",)))


def publish_argv(vm: Vm, run: Path, socket: Path, port: int, host_port: int) -> Argv:
    """Return ssh that gives ``port`` of the guest's loopback to ``host_port`` of ours, and goes into the background.

    It talks to the guest's own ssh server through the VM's shared connection (-W), from where we are: a connection
    that enters the VM's network namespace or rdomain would listen there.  ``socket`` is its own control socket.
    """
    # What it has to say would otherwise keep our caller's standard error open for as long as it lives.
    inner = shlex.join(ssh_argv(vm, run, "-W", "127.0.0.1:22")).replace("%", "%%") + " 2>/dev/null"
    options = ("-o", f"ProxyCommand={inner}", "-o", f"ControlPath={_quote(socket)}", "-o", "ControlPersist=no")
    forward = ("-o", "ExitOnForwardFailure=yes", "-f", "-N", "-M", "-L", f"127.0.0.1:{host_port}:127.0.0.1:{port}")
    return ssh_argv(vm, run, *options, *forward)


def forward_display_argv(vm: Vm, run: Path, socket: Path, *, end: bool = False) -> Argv:
    """Return ssh that has the shared connection lead ``socket`` to the guest's own way to its display, or end that."""
    way = f"{socket}:127.0.0.1:{X11_PORT}"
    return ssh_argv(vm, run, "-O", "cancel" if end else "forward", "-L", way)


def unpublish_argv(vm: Vm, run: Path, socket: Path) -> Argv:
    """Return ssh that ends what publish_argv() began with the same control ``socket``."""
    return ssh_argv(vm, run, "-o", f"ControlPath={_quote(socket)}", "-O", "exit")
