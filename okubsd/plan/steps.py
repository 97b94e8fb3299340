"""The steps of a plan: values that say what is to be done, each shown as the command that would do it."""

from __future__ import annotations

import enum
import shlex
from pathlib import Path

import msgspec

from okubsd.guest.identity import Lease
from okubsd.model import Argv, Vm
from okubsd.plan.gateway import Passing


class Phase(enum.StrEnum):
    """The phases that a start is timed by, in their order."""

    IMAGES = "images"
    BOOT = "boot"
    DISPLAY = "display"
    SSH = "ssh"
    APP = "app"
    WINDOW = "window"
    PAINT = "paint"


class Slot(enum.StrEnum):
    """What is known only while a plan runs; an argv holds it as this word."""

    QEMU_PID = "<qemu-pid>"
    DISPLAY_SOCKET = "<display-socket>"
    REPORT_FD = "<report-fd>"
    EXIT_FD = "<exit-fd>"
    GUEST = "<guest-address>"


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step; ``phase`` is what its time counts for."""

    phase: Phase = Phase.BOOT

    def show(self) -> str:
        """Return the step as a line of shell, or as a comment where no command does it."""
        raise TypeError(f"{type(self).__name__} cannot be shown")


class BuildImages(Step, frozen=True, kw_only=True):
    """Build the images ``names``, which are missing or older than their recipes."""

    names: tuple[str, ...]

    def show(self) -> str:
        return shlex.join(("okubsd", "image", "build", *self.names))


class VerifyImages(Step, frozen=True, kw_only=True):
    """Check the digests of the images ``names``, the host's own or the user's."""

    names: tuple[str, ...]
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
    """Make the home drive ``path`` of ``size`` bytes."""

    path: Path
    size: int
    argv: Argv

    def show(self) -> str:
        return f"truncate -s {self.size} {shlex.quote(str(self.path))} && {shlex.join(self.argv)}"


class GrowHome(Step, frozen=True, kw_only=True):
    """Make the drive ``path`` of a home larger; the guest grows the file system on it, which nobody here reads."""

    path: Path
    size: int

    def show(self) -> str:
        return f"truncate -s {self.size} {shlex.quote(str(self.path))}  # its guest grows the file system"


class WriteInitrd(Step, frozen=True, kw_only=True):
    """Write the initramfs of one boot: the identity of ``vm``, then the archives of the boot image.

    A gateway's identity says what it is ``passing`` on.
    """

    vm: Vm
    lease: Lease
    keys: Path
    run: Path
    boot: tuple[Path, ...]
    passing: Passing | None = None

    def show(self) -> str:
        archives = " and ".join(map(str, self.boot))
        clients = f", gateway of {', '.join(self.passing.clients.names) or 'nobody'}" if self.passing else ""
        return f"# write {self.run / 'initrd'}: identity of {self.vm.name}{clients}, then {archives}"


class StartQemu(Step, frozen=True, kw_only=True):
    """Start QEMU; it holds the lock ``life``, and ``largest_file`` bounds in bytes what it writes to one file.

    ``on_address`` is called when an address of the host changes, () for nothing.
    """

    argv: Argv
    log: Path
    life: Path
    largest_file: int
    on_address: Argv = ()

    def progress(self) -> str:
        """Return what is told to a user who looks on."""
        return "booting"

    def show(self) -> str:
        return shlex.join(self.argv) + " &"


class StartUplink(Step, frozen=True, kw_only=True):
    """Join the VM's namespace to the host's network: the rules, the uplink, then ``batch`` for ip(8).

    ``plain_argv`` is the uplink where a system refuses the sandbox of ``argv``.
    ``rules`` are for nft(8) by ``rules_argv``, and ``names`` for the program that keeps their sets, which ends with
    the VM; "" where the VM has none.
    """

    batch_argv: Argv
    batch: str
    argv: Argv
    plain_argv: Argv
    log: Path
    rules_argv: Argv = ()
    rules: str = ""
    names_argv: Argv = ()
    names: str = ""
    names_file: Path | None = None

    def show(self) -> str:
        lines = self.batch.strip().replace("\n", "; ")
        rules = f"{shlex.join(self.rules_argv)}  # the rules of the VM\n" if self.rules else ""
        uplink = f"{shlex.join(self.argv)} &\n" if self.argv else ""
        names = f"\n{shlex.join(self.names_argv)} &" if self.names else ""
        return f"{rules}{uplink}{shlex.join(self.batch_argv)}  # {lines}{names}"


class WatchClient(Step, frozen=True, kw_only=True):
    """Have ``argv`` run when the VM ends: its gateway, which okubsd made, ends with the last VM behind it."""

    argv: Argv
    log: Path

    def show(self) -> str:
        return f"# when the VM ends: {shlex.join(self.argv)}"


class StartDisplay(Step, frozen=True, kw_only=True):
    """Start the VM's X server, whose number and lock go to the directory ``run``; nobody sees a ``headless`` one."""

    argv: Argv
    log: Path
    run: Path
    headless: bool = False

    def show(self) -> str:
        return shlex.join(self.argv) + " &"


class WaitReady(Step, frozen=True, kw_only=True):
    """Wait until the guest's console says that its ssh server listens."""

    console_log: Path
    timeout: int

    def progress(self) -> str:
        """Return what is told to a user who looks on."""
        return "waiting for the guest"

    def show(self) -> str:
        return f"# wait up to {self.timeout} s for 'okubsd: ready' in {self.console_log}"


class WriteSshConfig(Step, frozen=True, kw_only=True):
    """Write the VM's ssh_config: to the guest's own ``address``, or "" for the port that QEMU was given."""

    vm: Vm
    keys: Path
    run: Path
    address: str = ""

    def show(self) -> str:
        where = f"the address {self.address}" if self.address else "the port QEMU was given"
        return f"# write {self.run / 'ssh_config'} with {where}"


class Prepare(Step, frozen=True, kw_only=True):
    """Let the helper make fresh overlays over ``images`` and put the identity of ``vm`` on its last drive."""

    vm: Vm
    lease: Lease
    keys: Path
    run: Path
    argv: Argv
    images: tuple[str, ...]
    passing: Passing | None = None

    def show(self) -> str:
        return f"{shlex.join(self.argv)}  # its input: the identity of {self.vm.name}"


class Link(Step, frozen=True, kw_only=True):
    """Let the helper set up the tap and the loopback of a VM that QEMU runs beside vmd; nothing passes yet."""

    name: str
    argv: Argv

    def show(self) -> str:
        return shlex.join(self.argv)


class StartVmd(Step, frozen=True, kw_only=True):
    """Let vmd start the VM."""

    name: str
    argv: Argv

    def progress(self) -> str:
        """Return what is told to a user who looks on."""
        return f"{self.name}: booting"

    def show(self) -> str:
        return shlex.join(self.argv)


class OpenNetwork(Step, frozen=True, kw_only=True):
    """Let the helper see that the tap is where it has to be, and open the VM's network.

    Otherwise vmd is to ``stop`` the VM; () where ending the start does that.
    """

    name: str
    argv: Argv
    stop: Argv = ()

    def show(self) -> str:
        return shlex.join(self.argv) + (f" || {shlex.join(self.stop)}" if self.stop else "")


class WaitGuest(Step, frozen=True, kw_only=True):
    """Wait until the guest answers to ssh, one try after the other, as long as vmd says that it runs.

    What its clock said then is kept in ``run``.
    """

    name: str
    argv: Argv
    run: Path
    timeout: int

    def progress(self) -> str:
        """Return what is told to a user who looks on."""
        return f"{self.name}: waiting for the guest"

    def show(self) -> str:
        return f"{shlex.join(self.argv)}  # again and again, for up to {self.timeout} s"


class CompareClocks(Step, frozen=True, kw_only=True):
    """Compare how the guest's clock ran with the host's since WaitGuest, and keep that in ``run``."""

    argv: Argv
    run: Path

    def show(self) -> str:
        return f"{shlex.join(self.argv)}  # compare clocks"


class WaitDisplay(Step, frozen=True, kw_only=True):
    """Wait until the X server has told its number."""

    run: Path
    log: Path

    def show(self) -> str:
        return "# wait for the X server's display number"


class Disconnect(Step, frozen=True, kw_only=True):
    """End the VM's shared connection, and wait until nobody listens at ``socket``."""

    argv: Argv
    socket: Path

    def show(self) -> str:
        return shlex.join(self.argv)


class Connect(Step, frozen=True, kw_only=True):
    """Run ssh for the VM; ``what`` is the sentence if it fails."""

    argv: Argv
    what: str
    timeout: int = 30

    def show(self) -> str:
        return shlex.join(self.argv)


class ShowApp(Step, frozen=True, kw_only=True):
    """Start an app in the guest and wait for its window; ``pace`` is how many seconds that may take."""

    vm: Vm
    app: str
    argv: Argv
    run: Path
    pace: int

    def progress(self) -> str:
        """Return what is told to a user who looks on."""
        return f"{self.vm.name}: waiting for the window of {self.app}"

    def show(self) -> str:
        return f"{shlex.join(self.argv)}  # then wait up to {self.pace} s for its window"


Plan = tuple[Step, ...]


def render_plan(plan: Plan) -> str:
    """Return the plan as text, a step a line (or a few)."""
    return "".join(f"{step.show()}\n" for step in plan)
