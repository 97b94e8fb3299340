"""The steps of a start: images, keys and drives, a guest that boots and answers, its display and its window."""

from __future__ import annotations

import shlex
from pathlib import Path

import msgspec

from okubsd.guest.identity import Lease
from okubsd.model import Argv, Vm
from okubsd.plan.gateway import GatewayConf
from okubsd.plan.steps.base import Step

# --- what is there before a VM starts ------------------------------------------------------------------------------


class BuildImages(Step, frozen=True, kw_only=True):
    """Build the images ``names``, which are missing or older than their recipes.

    The image ``app`` is built too, where it does not fit a base that was made then.
    """

    names: tuple[str, ...]
    app: str = ""

    def show(self) -> str:
        return shlex.join(("okubsd", "image", "build", *self.names))


class VerifyImages(Step, frozen=True, kw_only=True):
    """Check the digests of the images ``names``, the host's own or the user's: of these ``builds``, or the current."""

    names: tuple[str, ...]
    builds: dict[str, str] = msgspec.field(default_factory=dict)
    of_system: bool = False

    def show(self) -> str:
        return f"# verify the digests of {', '.join(self.names)}"


class MakeKeys(Step, frozen=True, kw_only=True):
    """Make the VM's keys in ``directory``."""

    directory: Path
    alias: str

    def show(self) -> str:
        return f"# make the keys of {self.alias} in {self.directory}"


class MakeHome(Step, frozen=True, kw_only=True):
    """Make the home drive ``path`` of ``size`` bytes by ``argv``."""

    path: Path
    size: int

    def show(self) -> str:
        return f"truncate -s {self.size} {shlex.quote(str(self.path))} && {shlex.join(self.argv)}"


class GrowHome(Step, frozen=True, kw_only=True):
    """Make the drive ``path`` of a home larger; the guest grows the file system on it, which nobody here reads."""

    path: Path
    size: int

    def show(self) -> str:
        return f"truncate -s {self.size} {shlex.quote(str(self.path))}  # its guest grows the file system"


# --- booting -------------------------------------------------------------------------------------------------------


class WriteInitrd(Step, frozen=True, kw_only=True):
    """Write the initramfs of one boot: the identity of ``vm``, then the archives of the boot image.

    A gateway's identity has its ``conf``; where a ``saved`` state goes on, it is a drive of its own.
    """

    vm: Vm
    lease: Lease
    keys: Path
    path: Path
    boot: tuple[Path, ...]
    conf: GatewayConf | None = None
    builds: dict[str, str] = msgspec.field(default_factory=dict)
    saved: bool = False

    def show(self) -> str:
        if self.saved:
            return f"# write {self.path}: identity of {self.vm.name}, entropy and the time"
        archives = " and ".join(map(str, self.boot))
        clients = f", gateway of {', '.join(self.conf.clients.names) or 'nobody'}" if self.conf else ""
        return f"# write {self.path}: identity of {self.vm.name}{clients}, then {archives}"


class StartQemu(Step, frozen=True, kw_only=True):
    """Start QEMU; it holds the lock ``life``, and ``largest_file`` bounds in bytes what it writes to one file.

    ``on_address`` is called when an address of the host changes, () for nothing.
    """

    log: Path
    life: Path
    largest_file: int
    on_address: Argv = ()

    def progress(self) -> str:
        return "booting"

    def show(self) -> str:
        return shlex.join(self.argv) + " &"


class Resume(Step, frozen=True, kw_only=True):
    """Have a QEMU, whose run directory is ``run``, go on from the saved state in ``directory``."""

    run: Path
    directory: Path
    log: Path

    def show(self) -> str:
        return f"# go on from {self.directory}"


class StartUplink(Step, frozen=True, kw_only=True):
    """Join the VM's namespace to the host's network: the ``rules``, the uplink, then ``batch`` for ip(8).

    ``argv`` is the uplink, () for none, and ``plain_argv`` the same where a system refuses its sandbox.
    """

    batch_argv: Argv
    batch: str
    plain_argv: Argv
    log: Path
    rules: LoadRules | None = None

    def show(self) -> str:
        lines = self.batch.strip().replace("\n", "; ")
        rules = f"{shlex.join(self.rules.argv)}  # the rules of the VM\n" if self.rules else ""
        uplink = f"{shlex.join(self.argv)} &\n" if self.argv else ""
        names = f"\n{shlex.join(self.rules.names_argv)} &" if self.rules and self.rules.names else ""
        return f"{rules}{uplink}{shlex.join(self.batch_argv)}  # {lines}{names}"


class LoadRules(Step, frozen=True, kw_only=True):
    """Give ``rules`` to nft(8) by ``argv``; ``names`` are looked up by ``names_argv`` for as long as the VM lives.

    ``known_argv`` says what is known of them already, and ``batch`` is for ip(8) by ``batch_argv``, afterwards; all
    of it is for a VM that runs.
    """

    rules: str
    names: str
    names_argv: Argv
    run: Path
    log: Path
    known_argv: Argv = ()
    batch_argv: Argv = ()
    batch: str = ""


class WatchClient(Step, frozen=True, kw_only=True):
    """Have ``argv`` run when the VM ends: its gateway, which okubsd made, ends with the last VM behind it."""

    log: Path

    def show(self) -> str:
        return f"# when the VM ends: {shlex.join(self.argv)}"


class Prepare(Step, frozen=True, kw_only=True):
    """Let the helper make fresh overlays over ``images`` and put the identity of ``vm`` on its last drive."""

    vm: Vm
    lease: Lease
    keys: Path
    run: Path
    images: tuple[str, ...]
    conf: GatewayConf | None = None

    def show(self) -> str:
        return f"{shlex.join(self.argv)}  # its input: the identity of {self.vm.name}"


class LinkTap(Step, frozen=True, kw_only=True):
    """Let the helper set up the tap and the loopback of a VM that QEMU runs beside vmd; nothing passes yet."""

    name: str


class StartVmd(Step, frozen=True, kw_only=True):
    """Let vmd start the VM."""

    name: str

    def progress(self) -> str:
        return f"{self.name}: booting"


class OpenNetwork(Step, frozen=True, kw_only=True):
    """Let the helper see that the tap is where it has to be, and open the VM's network.

    Otherwise vmd is to ``stop`` the VM; () where ending the start does that.
    """

    name: str
    stop: Argv = ()

    def show(self) -> str:
        return shlex.join(self.argv) + (f" || {shlex.join(self.stop)}" if self.stop else "")


# --- a guest that answers, and its window --------------------------------------------------------------------------


class WaitReady(Step, frozen=True, kw_only=True):
    """Wait until the guest's console says that its ssh server listens."""

    console_log: Path
    timeout: int

    def progress(self) -> str:
        return "waiting for the guest"

    def show(self) -> str:
        return f"# wait up to {self.timeout} s for 'okubsd: ready' in {self.console_log}"


class WaitGuest(Step, frozen=True, kw_only=True):
    """Wait until the guest answers to ssh, one try after the other, as long as vmd says that it runs.

    What its clock said then is kept in ``run``.
    """

    name: str
    run: Path
    timeout: int

    def progress(self) -> str:
        return f"{self.name}: waiting for the guest"

    def show(self) -> str:
        return f"{shlex.join(self.argv)}  # again and again, for up to {self.timeout} s"


class WriteSshConfig(Step, frozen=True, kw_only=True):
    """Write the VM's ssh_config: to the guest's own ``address``, or "" for the port that QEMU was given.

    A ``patient`` connection is to a guest that will stand still for as long as nobody wants it.
    """

    vm: Vm
    keys: Path
    run: Path
    path: Path
    address: str = ""
    patient: bool = False

    def show(self) -> str:
        where = f"the address {self.address}" if self.address else "the port QEMU was given"
        return f"# write {self.path} with {where}"


class CompareClocks(Step, frozen=True, kw_only=True):
    """Compare how the guest's clock ran with the host's since WaitGuest, and keep that in ``run``."""

    run: Path

    def show(self) -> str:
        return f"{shlex.join(self.argv)}  # compare clocks"


class StartDisplay(Step, frozen=True, kw_only=True):
    """Start the VM's X server, whose number and lock go to the directory ``run``.

    ``desktop`` is the user's display that it is, or will be, seen on, "" for none; one that is ``nested`` has no
    connection to that.
    """

    log: Path
    run: Path
    nested: bool = False
    desktop: str = ""

    def show(self) -> str:
        return shlex.join(self.argv) + " &"


class StartGlass(Step, frozen=True, kw_only=True):
    """Start what shows the windows of a nested display on the desktop."""

    log: Path
    run: Path

    def show(self) -> str:
        return shlex.join(self.argv) + " &"


class WaitDisplay(Step, frozen=True, kw_only=True):
    """Wait until the X server has told its number."""

    run: Path
    log: Path
    what: str = "wait for the X server's display number"


class Disconnect(Step, frozen=True, kw_only=True):
    """End the VM's shared connection, and wait until nobody listens at ``socket``."""

    socket: Path


class Connect(Step, frozen=True, kw_only=True):
    """Open the VM's shared connection at ``socket``; ``what`` is the sentence if it fails."""

    socket: Path
    timeout: int = 30


class ShowApp(Step, frozen=True, kw_only=True):
    """Start an app in the guest and wait for its window; ``pace`` is how many seconds that may take.

    ``keyboard`` gives a new display the host's keyboard before, () where nobody types; ``seamless`` says that the
    glass shows it, ``another`` that one may run, which may then be told what to show.
    """

    vm: Vm
    app: str
    run: Path
    pace: int
    keyboard: Argv = ()
    seamless: bool = False
    another: bool = False

    def progress(self) -> str:
        return f"{self.vm.name}: waiting for the window of {self.app}"

    def show(self) -> str:
        keyboard = f"{shlex.join(self.keyboard)}\n" if self.keyboard else ""
        return f"{keyboard}{shlex.join(self.argv)}  # then wait up to {self.pace} s for its window"
