"""The QEMU command line of a VM: the smallest set of devices that shows a window."""

from __future__ import annotations

from pathlib import Path

import msgspec

from okubsd.model import Argv, Vm

QEMU = "qemu-system-x86_64"

# q35 brings a disk controller, SMBus, USB and a keyboard that no guest of ours has a use for.
# HPET stays: without it a slow host fails to calibrate the guest's clock.
_MACHINE = "q35,sata=off,smbus=off,vmport=off,usb=off,i8042=off,graphics=off"

# qboot does what a kernel that is loaded directly needs of a firmware, and nothing else.
_FIRMWARE = "qboot.rom"

# reboot=t: a triple fault is the one way to end that every hypervisor sees.
# panic=1: a guest that panics ends instead of hanging.
# lsm, audit: no guest has a policy for the other security modules, or a daemon to log to.
# ipv6: no network of ours carries it, so nothing waits for it, and nothing leaves by it.
# nr_uarts: there is one serial line, and looking for more takes time.
_KERNEL = (
    "console=ttyS0 quiet loglevel=3 reboot=t panic=1 tsc=reliable no_timer_check cryptomgr.notests "
    "lsm=lockdown,yama,landlock audit=0 ipv6.disable=1 8250.nr_uarts=1"
)


_SANDBOX = ("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")


class Wire(msgspec.Struct, frozen=True, kw_only=True):
    """One end of a private link between two QEMUs: datagrams between two unix sockets, without any host's network.

    ``here`` is bound by this QEMU and ``there`` by the other; neither has to be there first, and either may come
    back.  ``mac`` is the guest's address on it.
    """

    here: Path
    there: Path
    mac: str


# The size of the drive that says who a guest is that goes on from a saved state.
IDENTITY_BYTES = 1 << 20


class Saved(msgspec.Struct, frozen=True, kw_only=True):
    """A machine whose state is saved, or that goes on from it: its ``memory`` is a file, and the drive ``identity``
    tells the guest who it is.  What such a guest writes to its memory is its own, but for the ``template``.
    """

    memory: Path
    identity: Path
    template: bool = False


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """The files and choices that turn a Vm into a running QEMU.

    ``home`` is None for a disposable VM; ``run`` is the directory of its sockets; ``sandbox`` says whether QEMU can
    filter its own system calls here, which takes seccomp(2) of Linux.
    """

    kernel: Path
    initrd: Path
    base: Path
    app: Path
    home: Path | None
    run: Path
    console_log: Path
    accelerator: str
    netdev: str
    sandbox: bool = True
    wires: tuple[Wire, ...] = ()
    saved: Saved | None = None


def render_argv(vm: Vm, machine: Machine) -> Argv:
    """Return QEMU's argv for ``vm`` (qemu(1))."""
    return (
        QEMU,
        *("-name", f"guest={vm.name}"),
        *("-M", f"{_MACHINE},memory-backend=ram" if machine.saved else _MACHINE, "-bios", _FIRMWARE),
        *_accelerator(vm, machine.accelerator),
        *("-m", f"{vm.memory >> 20}M"),
        *("-smp", str(vm.cpus)),
        *("-nodefaults", "-no-user-config", "-display", "none", "-vga", "none", "-no-reboot"),
        *(_SANDBOX if machine.sandbox else ()),
        *(() if machine.saved and not machine.saved.template else _kernel(vm, machine)),
        *_drive("base", machine.base, read_only=True),
        *_drive("app", machine.app, read_only=True),
        *(_drive("home", machine.home, read_only=False) if machine.home else ()),
        *(_saved(vm, machine.saved) if machine.saved else ()),
        *("-netdev", machine.netdev),
        *("-device", "virtio-net-pci,netdev=net0,romfile="),
        *(word for number, wire in enumerate(machine.wires, 1) for word in _wire(wire, f"link{number}")),
        *("-device", "virtio-rng-pci"),
        *("-chardev", _console(machine)),
        *("-serial", "chardev:console"),
        *("-qmp", f"unix:{_comma(machine.run / 'qmp')},server=on,wait=off"),
        *("-qmp", f"unix:{_comma(machine.run / 'events')},server=on,wait=off"),
    )


def _kernel(vm: Vm, machine: Machine) -> Argv:
    """Return what a guest boots; one that goes on has it in its memory, and QEMU's copy would be its own."""
    words = ("-kernel", str(machine.kernel), "-initrd", str(machine.initrd))
    return (*words, "-append", _command_line(vm, machine))


def _saved(vm: Vm, saved: Saved) -> Argv:
    share = "on" if saved.template else "off"
    memory = f"memory-backend-file,id=ram,size={vm.memory >> 20}M,mem-path={_comma(saved.memory)},share={share}"
    incoming = () if saved.template else ("-incoming", "defer")
    return ("-object", memory, *_drive("identity", saved.identity, read_only=True), *incoming)


def _command_line(vm: Vm, machine: Machine) -> str:
    words = _plain_command_line(vm, machine.accelerator)
    # Behind base, app and, where there is one, home.
    return f"{words} drive_identity=/dev/vd{'d' if machine.home else 'c'}" if machine.saved else words


def _plain_command_line(vm: Vm, accelerator: str) -> str:
    # A software CPU takes a tenth of a second to measure its local timer; one CPU alone does with the HPET.  And
    # each place where a kernel for one CPU patches itself has to be translated anew: it is left as for many.
    return f"{_KERNEL} nolapic_timer noreplace-smp" if accelerator == "tcg" and vm.cpus == 1 else _KERNEL


def _accelerator(vm: Vm, accelerator: str) -> Argv:
    if accelerator == "tcg":
        # Five-level page tables (la57) only make every miss of the software TLB longer, and with erms the kernel
        # clears and copies memory by an instruction that a software CPU does byte by byte.
        # The translation cache, in MB, counts as QEMU's own memory as far as it is used.  A boot and the first app fill
        # 90 of them; one that is full is emptied, and what still runs is translated once more.
        cache = max(96, min(256, vm.memory >> 23))
        return ("-accel", f"tcg,tb-size={cache}", "-cpu", "max,la57=off,erms=off")
    return ("-accel", accelerator, "-cpu", "host")


def _drive(name: str, path: Path, *, read_only: bool) -> Argv:
    mode = "readonly=on" if read_only else "discard=unmap"
    drive = f"if=none,id={name},format=raw,{mode},file={_comma(path)}"
    return ("-drive", drive, "-device", f"virtio-blk-pci,drive={name}")


def _wire(wire: Wire, name: str) -> Argv:
    ends = f"local.type=unix,local.path={_comma(wire.here)},remote.type=unix,remote.path={_comma(wire.there)}"
    return ("-netdev", f"dgram,id={name},{ends}", "-device", f"virtio-net-pci,netdev={name},mac={wire.mac},romfile=")


def _console(machine: Machine) -> str:
    socket, log = _comma(machine.run / "console"), _comma(machine.console_log)
    return f"socket,id=console,path={socket},server=on,wait=off,logfile={log},logappend=on"


def _comma(path: Path) -> str:
    """Return ``path`` for a QEMU option list, where ',' is written twice (qemu(1))."""
    return str(path).replace(",", ",,")
