"""The stock Debian VM that starts are measured against: systemd, the default initrd, OpenSSH, the same app."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from okubsd.display.server import parse_display_number
from okubsd.errors import HostLacks, Problem, TimedOut
from okubsd.guest.audit import audit, gather_command, kernel_checks
from okubsd.guest.identity import render_xauthority
from okubsd.host import door, keys, release, window
from okubsd.host.auditing import StockAudit
from okubsd.host.engine.qemu import memory_of
from okubsd.host.places import Places
from okubsd.images import commands
from okubsd.model import Argv
from okubsd.qemu.argv import QEMU
from okubsd.recipe import Recipe

_PACKAGES = (
    *("systemd-sysv", "udev", "dbus", "linux-image-cloud-amd64", "initramfs-tools", "openssh-server", "xauth"),
    *("fontconfig", "fonts-dejavu-core", "matchbox-window-manager", "iproute2", "kmod", "login", "passwd"),
)
_MEMORY = "512M"
_NETWORK = "[Match]\nName=e*\n[Network]\nDHCP=yes\n"
_READY = b"ssh.service"
# How long it may take to answer, in seconds, and how much that may be, in bytes.
_ASK_SECONDS, _LARGEST_ANSWER = 120.0, 1 << 20


def build_stock(places: Places, app: Recipe, report: Callable[[str], None]) -> Path:
    """Return the directory of the stock VM's disk, kernel and initrd with the packages of ``app``; built once.

    Raises HostLacks where we are not root: a file system with owners is made from a tree on this host.
    """
    target = places.state / "stock" / app.digest[:12]
    if (target / "disk.img").exists():
        return target
    if not os.geteuid() == 0:
        raise HostLacks("the stock VM can only be built by root", "sudo okubsd bench --against stock")
    target.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=".making-", dir=target.parent))
    try:
        report("stock: building a Debian with systemd (once)")
        _bootstrap(made, app)
        made.rename(target)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return target


def _bootstrap(made: Path, app: Recipe) -> None:
    keys.make_keys(made, "stock")
    suite, text = release.sources_of(app)
    (made / "apt.sources").write_text(text)
    tree = made / "tree"
    network = made / "20-wired.network"
    network.write_text(_NETWORK)
    packages = (f"--include={package}" for package in (*_PACKAGES, *app.packages))
    hooks = (
        'chroot "$1" useradd -m -s /bin/bash user',
        'mkdir -p "$1/home/user/.ssh"',
        f'cp {made}/id_ed25519.pub "$1/home/user/.ssh/authorized_keys"',
        'chroot "$1" chown -R user:user /home/user/.ssh',
        f'cp {network} "$1/etc/systemd/network/"',
        'chroot "$1" systemctl enable systemd-networkd',
        'echo "127.0.0.1 localhost" >"$1/etc/hosts"',
    )
    argv = ("mmdebstrap", "--variant=minbase", "--format=directory", *packages)
    argv += tuple(f"--customize-hook={hook}" for hook in hooks)
    done = door.run((*argv, suite, str(tree), str(made / "apt.sources")), env=commands.ENVIRONMENT)
    if done.code != 0:
        raise Problem(f"the stock VM was not built: {door.reason(done)}")
    (made / "stock_hosts").write_text("stock " + (tree / "etc/ssh/ssh_host_ed25519_key.pub").read_text())
    for name in ("vmlinuz", "initrd.img"):
        shutil.copy(next((tree / "boot").glob(f"{name}-*")), made / name)
    with (made / "disk.img").open("wb") as stream:
        stream.truncate(2 << 30)
    door.must(("mke2fs", "-q", "-F", "-t", "ext4", "-d", str(tree), str(made / "disk.img")), "making the stock disk")
    shutil.rmtree(tree)


def stock_argv(directory: Path, run: Path) -> Argv:
    """Return the QEMU of the stock VM: the same program and accelerator, its defaults otherwise."""
    return (
        *(QEMU, "-M", "pc", "-accel", "tcg", "-cpu", "max", "-m", _MEMORY, "-nodefaults", "-display", "none"),
        *("-kernel", str(directory / "vmlinuz"), "-initrd", str(directory / "initrd.img")),
        *("-append", "root=/dev/vda rw console=ttyS0"),
        *("-drive", f"if=virtio,format=raw,snapshot=on,file={directory / 'disk.img'}"),
        *("-netdev", "user,id=net0,hostfwd=tcp:127.0.0.1:0-:22", "-device", "virtio-net-pci,netdev=net0"),
        *("-serial", f"file:{run / 'console.log'}", "-qmp", f"unix:{run / 'qmp'},server=on,wait=off"),
    )


@contextlib.contextmanager
def virtual_display(run: Path) -> Iterator[tuple[int, bytes]]:
    """Run an Xvfb of our own, with all that a desktop's server has; yield its number and cookie."""
    cookie = os.urandom(16)
    door.write(run / "Xauthority", render_xauthority(cookie))
    read_end, write_end = os.pipe()
    own = ("-nolisten", "tcp", "-noreset", "-br", "-dpi", "96", "-screen", "0", "1280x800x24")
    argv = ("Xvfb", "-displayfd", str(write_end), "-auth", str(run / "Xauthority"), *own)
    server = door.spawn(argv, run / "display.log", keep_fds=(write_end,))
    os.close(write_end)
    try:
        with os.fdopen(read_end) as stream:
            number = parse_display_number(stream.readline())
        if number is None:
            raise Problem("Xvfb did not start")
        yield number, cookie
    finally:
        server.terminate()
        server.wait()


class Stock(msgspec.Struct, frozen=True):
    """A stock VM that runs: the seconds to its mapped window, QEMU's resident bytes, and the port of its ssh."""

    seconds: float
    resident: int
    port: int


def audit_stock(directory: Path) -> StockAudit:
    """Run the stock VM, and look at it as `okubsd audit` does at a VM; by its user, since nobody logs in as root."""
    with stock_vm(directory) as vm:

        def asked(*words: str) -> str:
            argv = (*stock_ssh(directory, vm.port), "user@127.0.0.1", shlex.join(words))
            return door.ask(argv, timeout=_ASK_SECONDS, largest=_LARGEST_ANSWER).out.decode(errors="replace")

        kernel = asked("uname", "-r").strip()
        checks = [*kernel_checks(asked("cat", f"/boot/config-{kernel}")), *audit(asked(*gather_command()), 0, 0)]
        return StockAudit(f"Debian {asked('cat', '/etc/debian_version').strip()}", kernel, time.strftime("%F"), checks)


@contextlib.contextmanager
def stock_vm(directory: Path) -> Iterator[Stock]:
    """Run the stock VM with its app shown; yield what is known of it then."""
    from okubsd.host.monitor import monitor

    with tempfile.TemporaryDirectory(prefix="okubsd-stock-") as name:
        run = Path(name)
        start = time.monotonic()
        qemu = door.spawn(stock_argv(directory, run), run / "qemu.log")
        try:
            with virtual_display(run) as (number, cookie), window.watching("stock", number, cookie) as seen:
                wait_for_text(run / "console.log", _READY, 300)
                with monitor(run / "qmp") as talk:
                    port = talk.ssh_port()
                env = {"DISPLAY": f":{number}", "XAUTHORITY": str(run / "Xauthority")}
                argv = (*stock_ssh(directory, port), "-Y", "user@127.0.0.1", *SHOWN)
                shown = door.spawn_measured(
                    ("env", *(f"{key}={value}" for key, value in env.items()), *argv), run / "ssh.log"
                )
                if not seen.wait(b"mapped", 300, lambda: None):
                    raise TimedOut("the stock VM showed no window within 300 seconds")
                yield Stock(time.monotonic() - start, memory_of(qemu.pid), port)
                shown.kill()
                shown.wait()
        finally:
            qemu.kill()
            qemu.wait()


SHOWN = ("xterm", "-fa", "DejaVuSansMono", "-fs", "11", "-xrm", "*iconHint:none")


def stock_ssh(directory: Path, port: int) -> Argv:
    """Return ssh as one would type it, with the key and the known_hosts (for "stock") of ``directory``."""
    options = {
        "UserKnownHostsFile": str(directory / "stock_hosts"),
        "HostKeyAlias": "stock",
        "StrictHostKeyChecking": "yes",
        "LogLevel": "ERROR",
    }
    words = tuple(word for key, value in options.items() for word in ("-o", f"{key}={value}"))
    return ("ssh", "-F", "none", "-i", str(directory / "id_ed25519"), *words, "-p", str(port))


def wait_for_text(log: Path, text: bytes, seconds: float) -> None:
    """Wait until ``log`` holds ``text``.  Raises TimedOut after ``seconds``."""
    end = time.monotonic() + seconds
    while not (log.exists() and text in log.read_bytes()):
        if time.monotonic() > end:
            raise TimedOut(f"{log} does not say {text.decode()!r} within {seconds:.0f} seconds")
        time.sleep(0.02)
