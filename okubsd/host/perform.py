"""Perform the steps of a start; whatever stops it halfway is cleaned up again."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from okubsd.config.names import quoted
from okubsd.display.server import display_socket
from okubsd.errors import DisplayGone, Problem, TimedOut, Unreachable
from okubsd.guest.cpio import Entry
from okubsd.guest.identity import render_identity
from okubsd.guest.ssh import render_ssh_config
from okubsd.host import builder, door, facts, keeper, keys, running, store, tunnels, vmd, window
from okubsd.host.monitor import monitor
from okubsd.host.places import Places
from okubsd.host.sockets import listener_pid
from okubsd.model import Argv, Recipe, Vm
from okubsd.plan import steps
from okubsd.plan.gateway import CLIENTS, Passing, gateway_entries
from okubsd.plan.steps import Phase, Plan, Slot, Step

# What a guest's console may say to be taken for ready (images/base/files/usr/lib/okubsd/init).
READY = b"okubsd: ready"

_ADDRESS = re.compile(r"\d{1,3}(\.\d{1,3}){3}")

_APP_RUNS_ALREADY, _NO_SUCH_APP = 10, 11

_DISPLAY_TRIES = 3


class Timing(msgspec.Struct, frozen=True):
    """How long one start took: seconds by phase, and when it began (seconds since the epoch)."""

    began: float
    phases: dict[str, float]

    @property
    def total(self) -> float:
        """Return the seconds of all phases."""
        return sum(self.phases.values())


class Run:
    """A plan being performed: its slots, its children, its clock."""

    def __init__(self, places: Places, recipes: dict[str, Recipe], report: Callable[[str], None]) -> None:
        self.places = places
        self.recipes = recipes
        self.report = report
        self.slots: dict[Slot, str] = {}
        self.qemu: subprocess.Popen[bytes] | None = None
        self.server: subprocess.Popen[bytes] | None = None
        self.display_step: steps.StartDisplay | None = None
        self.exit_end = -1
        self.phases: dict[str, float] = {}
        self.inner = 0.0
        self.app_was_running = False

    def tell(self, step: Step) -> None:
        """Tell what is waited for next."""
        if isinstance(step, steps.StartQemu | steps.StartVmd | steps.WaitReady | steps.WaitGuest | steps.ShowApp):
            self.report(step.progress())

    def fill(self, argv: Argv) -> Argv:
        """Return ``argv`` with every slot replaced by what is known now."""
        filled = argv
        for slot, value in self.slots.items():
            filled = tuple(word.replace(slot, value) for word in filled)
        return filled

    def close(self) -> None:
        """Close the descriptors that only the performing needed."""
        if self.exit_end >= 0:
            os.close(self.exit_end)
        self.exit_end = -1

    def check_alive(self, log: Path | None = None) -> None:
        """Raise Problem if the QEMU or the X server that this run started has ended."""
        for process, what, name in ((self.qemu, "QEMU", "qemu.log"), (self.server, "the X server", "display.log")):
            if process is not None and process.poll() is not None:
                said = last_lines(log.with_name(name)) if log else ""
                raise Problem(f"{what} ended with code {process.returncode}{said}")


def last_lines(log: Path, count: int = 3) -> str:
    """Return ": " and the last lines of a log, printable, or ""."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - 4096))
            lines = [line for line in stream.read().decode(errors="replace").splitlines() if line.strip()]
    except OSError:
        return ""
    return ": " + quoted("; ".join(lines[-count:]), 400)[1:-1] if lines else ""


def perform(run: Run, plan: Plan) -> Timing:
    """Perform ``plan`` and return how long its phases took.  Raises Problem where a step fails."""
    began = time.time()
    try:
        for step in plan:
            run.tell(step)
            with _timed(run, step.phase):
                perform_step(step, run)
    finally:
        run.close()
    return Timing(began, run.phases)


@contextlib.contextmanager
def _timed(run: Run, phase: Phase) -> Iterator[None]:
    """Count the time of the block for ``phase``, and for no phase around it."""
    start, inner = time.monotonic(), run.inner
    run.inner = 0.0
    try:
        yield
    finally:
        spent = time.monotonic() - start
        run.phases[phase] = run.phases.get(phase, 0.0) + spent - run.inner
        run.inner = inner + spent


@functools.singledispatch
def perform_step(step: Step, run: Run) -> None:
    """Perform one step."""
    raise TypeError(f"no way to perform {type(step).__name__}")


@perform_step.register
def _(step: steps.BuildImages, run: Run) -> None:
    for name in step.names:
        builder.build(run.places, run.recipes[name], run.report)


@perform_step.register
def _(step: steps.VerifyImages, run: Run) -> None:
    places = run.places.of_system if step.of_system else run.places
    store.verify(places, [store.need_image(places, name) for name in step.names], run.places.state)


@perform_step.register
def _(step: steps.MakeKeys, run: Run) -> None:
    keys.make_keys(step.directory, step.alias)


@perform_step.register
def _(step: steps.MakeHome, run: Run) -> None:
    made = step.path.with_name("home.new")
    try:
        with made.open("wb") as stream:
            os.fchmod(stream.fileno(), 0o600)
            stream.truncate(step.size)
        door.must(step.argv, f"making the home drive {step.path}", timeout=120)
        made.rename(step.path)
    finally:
        made.unlink(missing_ok=True)


@perform_step.register
def _(step: steps.GrowHome, run: Run) -> None:
    with step.path.open("r+b") as stream:
        stream.truncate(step.size)
        os.fsync(stream.fileno())


@perform_step.register
def _(step: steps.WriteInitrd, run: Run) -> None:
    _leave_nothing(step.run)
    running.write_started(step.run, step.vm)
    cookie = keys.make_cookie(step.run)
    secrets = keys.read_secrets(step.keys, cookie)
    identity = render_identity(step.vm, step.lease, secrets, gateway=_passing_entries(step.vm, step.passing))
    archives = b"".join(path.read_bytes() for path in step.boot)
    door.write(step.run / "initrd", identity + archives, lasting=False)
    if step.passing is not None:
        door.write(step.run / CLIENTS, msgspec.json.encode(step.passing.clients), lasting=False)


def _passing_entries(vm: Vm, passing: Passing | None) -> tuple[Entry, ...]:
    """Return what a gateway is told of the VMs behind it; its tunnel's keys go from the file to the guest only."""
    if passing is None:
        return ()
    tunnel = tunnels.read_tunnel(Path(vm.tunnel)) if vm.tunnel else None
    return gateway_entries(passing, tunnel, time.time())


def _leave_nothing(run: Path) -> None:
    """Remove what an earlier boot left in the run directory; a display that lives keeps its cookie."""
    kept = (
        {"display", "display.life", "headless", "Xauthority", keys.COOKIE}
        if running.live_display(run) is not None
        else set()
    )
    for path in run.iterdir():
        if path.name not in kept:
            path.unlink()


@perform_step.register
def _(step: steps.StartQemu, run: Run) -> None:
    console = step.log.with_name("console.log")
    with contextlib.suppress(FileNotFoundError):
        console.replace(console.with_name("console.log.1"))
    # QEMU holds the write end for as long as it lives; the uplink ends when it is closed.
    read_end, write_end = os.pipe()
    run.exit_end = read_end
    try:
        run.qemu = door.spawn(
            step.argv, step.log, keep_fds=(write_end,), largest_file=step.largest_file, life=step.life
        )
    finally:
        os.close(write_end)
    run.slots[Slot.QEMU_PID] = str(run.qemu.pid)
    run.slots[Slot.EXIT_FD] = str(read_end)
    keep = (sys.executable, "-I", "-S", keeper.__file__, str(step.life.parent), str(step.log.parent))
    door.spawn((*keep, *step.on_address), step.log.with_name("keeper.log"))


@perform_step.register
def _(step: steps.StartUplink, run: Run) -> None:
    # The namespace is there once unshare(1) has become QEMU; one of a user's has its root only after that.
    end = time.monotonic() + 10
    while not facts.is_confined(int(run.slots[Slot.QEMU_PID]), "qemu"):
        run.check_alive(step.log)
        if time.monotonic() > end:
            raise TimedOut("QEMU got no network namespace within 10 seconds")
        time.sleep(0.002)
    if step.rules:
        # Before there is a way out.
        done = door.run(run.fill(step.rules_argv), data=step.rules.encode(), timeout=10)
        if done.code != 0:
            raise Problem(f"the rules of the VM's network were not taken: {door.reason(done)}")
    if step.argv:
        _start_uplink(step, run)
    done = door.run(run.fill(step.batch_argv), data=step.batch.encode(), timeout=10)
    if done.code != 0:
        raise Problem(f"the VM's network namespace cannot be set up: {door.reason(done)}")
    if step.names and step.names_file is not None:
        door.write(step.names_file, step.names.encode(), lasting=False)
        life = step.names_file.with_name("names.life")
        door.spawn(run.fill(step.names_argv), step.log.with_name("names.log"), life=life)


def when_it_ends(argv: Argv) -> Argv:
    """Return ``argv`` run when whoever holds the other end of the pipe, that is to be its input, is gone."""
    return ("sh", "-c", 'cat >/dev/null; exec "$@"', "okubsd-watch", *argv)


@perform_step.register
def _(step: steps.WatchClient, run: Run) -> None:
    door.spawn(when_it_ends(step.argv), step.log, stdin=run.exit_end)


def _start_uplink(step: steps.StartUplink, run: Run) -> None:
    """Start the uplink in its sandbox; where a system refuses that, as a chroot does, without, and say so."""
    argv = run.fill(step.argv)
    process = door.spawn(argv, step.log, keep_fds=(run.exit_end,))
    try:
        _wait_for_uplink(step, run, process)
    except UplinkEnded:
        said = last_lines(step.log)
        process = door.spawn(run.fill(step.plain_argv), step.log, keep_fds=(run.exit_end,))
        try:
            _wait_for_uplink(step, run, process)
        except UplinkEnded:
            raise Problem(f"the network uplink ended{last_lines(step.log)}") from None
        run.report(f"a weaker wall around the network uplink: it has no sandbox here{said}")


class UplinkEnded(Exception):
    """The uplink ended before it was set up."""


def _wait_for_uplink(step: steps.StartUplink, run: Run, process: subprocess.Popen[bytes]) -> None:
    """Wait until the uplink is set up whole; its way out comes last.

    Before that its device has for a moment the whole of 10.0.0.0/8, which is then refused to be refused.
    """
    probe = (*step.batch_argv[: step.batch_argv.index("--") + 1], "ip", "-4", "route", "show", "default")
    end = time.monotonic() + 10
    while b"tap0" not in door.run(run.fill(probe), timeout=5).out:
        run.check_alive(step.log)
        if process.poll() is not None:
            raise UplinkEnded
        if time.monotonic() > end:
            raise TimedOut(f"the network uplink did not come up{last_lines(step.log)}")
        time.sleep(0.01)


@perform_step.register
def _(step: steps.StartDisplay, run: Run) -> None:
    (step.run / "headless").unlink(missing_ok=True)
    if step.headless:
        (step.run / "headless").touch(mode=0o600)
    _start_display(step, run)
    run.display_step = step


def _start_display(step: steps.StartDisplay, run: Run) -> None:
    # The server writes its number to a file itself: whoever comes after us finds it, whatever becomes of us.
    report = os.open(step.run / "display", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    run.slots[Slot.REPORT_FD] = str(report)
    try:
        run.server = door.spawn(run.fill(step.argv), step.log, keep_fds=(report,), life=step.run / "display.life")
    finally:
        os.close(report)


@perform_step.register
def _(step: steps.WaitReady, run: Run) -> None:
    window.preload()
    end = time.monotonic() + step.timeout
    while not _says_ready(step.console_log):
        if run.qemu is not None and run.qemu.poll() is not None:
            said = last_lines(step.console_log) or last_lines(step.console_log.with_name("qemu.log"))
            raise Problem(f"the VM ended before it was ready{said}")
        if time.monotonic() > end:
            said = last_lines(step.console_log)
            raise TimedOut(f"the guest was not ready within {step.timeout} seconds{said}")
        time.sleep(0.003)


def _says_ready(console_log: Path) -> bool:
    try:
        with console_log.open("rb") as stream:
            return READY in stream.read(1 << 20)
    except FileNotFoundError:
        return False


@perform_step.register
def _(step: steps.WriteSshConfig, run: Run) -> None:
    address, port = run.fill((step.address,))[0], 22
    if not address:
        address = "127.0.0.1"
        with monitor(step.run / "qmp") as qemu:
            port = qemu.ssh_port()
    keys.check_keys(step.keys)
    # QEMU has read it, and it holds the guest's host key.
    (step.run / "initrd").unlink(missing_ok=True)
    config = render_ssh_config(step.vm, address, port, step.keys, step.run)
    door.write(step.run / "ssh_config", config.encode(), lasting=False)


@perform_step.register
def _(step: steps.Prepare, run: Run) -> None:
    _leave_nothing(step.run)
    running.write_started(step.run, step.vm)
    entries = _passing_entries(step.vm, step.passing)
    vmd.prepare(run.places, step.vm, step.lease, step.keys, step.run, step.argv, step.images, entries)


@perform_step.register
def _(step: steps.Link, run: Run) -> None:
    vmd.link(run.places, step.name, step.argv)


@perform_step.register
def _(step: steps.StartVmd, run: Run) -> None:
    vmd.start(run.places, step.name, step.argv)


@perform_step.register
def _(step: steps.OpenNetwork, run: Run) -> None:
    address = vmd.open_network(run.places, step.name, step.argv, step.stop)
    if not _ADDRESS.fullmatch(address):
        raise Problem(f"{step.name}: the helper said {quoted(address)} instead of an address")
    run.slots[Slot.GUEST] = address


@perform_step.register
def _(step: steps.WaitGuest, run: Run) -> None:
    window.preload()
    vmd.wait_for_guest(run.places, step.name, step.argv, step.run, step.timeout)


@perform_step.register
def _(step: steps.CompareClocks, run: Run) -> None:
    vmd.compare_clocks(step.argv, step.run)


@perform_step.register
def _(step: steps.WaitDisplay, run: Run) -> None:
    end, tries = time.monotonic() + 15, _DISPLAY_TRIES
    while (number := running.display_number(step.run)) is None:
        if run.server is not None and run.server.poll() is not None and run.display_step is not None and tries:
            # Two servers that begin at the same moment may take the same number, and one of them ends.
            tries -= 1
            _start_display(run.display_step, run)
        run.check_alive(step.log)
        if time.monotonic() > end:
            raise TimedOut("the X server did not tell its display within 15 seconds")
        time.sleep(0.005)
    run.slots[Slot.DISPLAY_SOCKET] = str(display_socket(number))


@perform_step.register
def _(step: steps.Disconnect, run: Run) -> None:
    door.ask(step.argv, timeout=10)
    end = time.monotonic() + 5
    while listener_pid(step.socket) is not None:
        if time.monotonic() > end:
            raise TimedOut(f"the ssh connection at {step.socket} does not end")
        time.sleep(0.01)


@perform_step.register
def _(step: steps.Connect, run: Run) -> None:
    done = door.ask(run.fill(step.argv), timeout=step.timeout)
    if done.code == door.GAVE_UP:
        raise Unreachable(f"{step.what}: no answer within {step.timeout} seconds")
    if done.code != 0:
        raise Unreachable(f"{step.what}: {door.reason(done)}", "the guest's console may say more: okubsd log")


# A window is painted soon after it is mapped, but for what never stands still; a start does not wait longer for it.
_PAINT_SECONDS = 45.0


@perform_step.register
def _(step: steps.ShowApp, run: Run) -> None:
    number, cookie = running.live_display(step.run), keys.read_cookie(step.run)
    if number is None or cookie is None:
        raise DisplayGone(f"{step.vm.name}: its display is gone")

    log = run.places.vm(step.vm.name) / "console.log"
    before = log.stat().st_size if log.exists() else 0

    def still() -> None:
        _check_app(step, run, log, before)

    with window.watching(step.vm.name, number, cookie, running.live_qemu(step.run)) as watcher:
        if not _start_app(step, watcher):
            run.app_was_running = True
            return
        with _timed(run, Phase.WINDOW):
            if not watcher.wait(b"mapped", step.pace, still):
                hint = f"okubsd run {step.vm.name} -- cat /run/user/1000/{step.app}.log"
                raise TimedOut(f"{step.vm.name}: no window of '{step.app}' within {step.pace} seconds", hint)
        with _timed(run, Phase.PAINT):
            watcher.wait(b"painted", _PAINT_SECONDS, still)


def _check_app(step: steps.ShowApp, run: Run, log: Path, before: int) -> None:
    """Raise Problem where the VM, its X server or the app ended before there was a window, with the app's own words.

    ``log`` is that of the console, which had ``before`` bytes when the app was started.
    """
    said = app_words(log, step.app, before)
    if said or (run.qemu is not None and run.qemu.poll() == 0):
        raise Problem(
            f"{step.vm.name}: '{step.app}' ended before it showed a window{said}", f"okubsd log {step.vm.name}"
        )
    run.check_alive(log)


_SAID = re.compile(rb"(?m)^okubsd: ([a-z0-9-]+) ended with [0-9]+: ?(.*)$")


def app_words(console_log: Path, app: str, after: int) -> str:
    """Return ": " and what ``app`` said before it ended, as its guest told it on the console; "" while it runs.

    Only what stands behind the first ``after`` bytes of the log counts.
    """
    try:
        with console_log.open("rb") as stream:
            stream.seek(max(after, console_log.stat().st_size - 65536))
            found = [words for name, words in _SAID.findall(stream.read(65536)) if name == app.encode()]
    except OSError:
        return ""
    return ": " + quoted(found[-1].decode(errors="replace").strip() or "it said nothing", 400)[1:-1] if found else ""


def _start_app(step: steps.ShowApp, watcher: window.Watcher) -> bool:
    """Start the app in the guest; return False where it runs already and has a window.

    An app that runs without a window is either about to show one, or about to end with a display
    that was closed: the guest is asked again until one of both is so.
    """
    end = time.monotonic() + step.pace
    while True:
        done = door.ask(step.argv, timeout=30)
        if done.code == 0:
            return True
        if done.code == _NO_SUCH_APP:
            raise Problem(f"{step.vm.name}: the image has no app '{step.app}'", f"okubsd image build {step.vm.image}")
        if done.code != _APP_RUNS_ALREADY:
            raise Unreachable(f"{step.vm.name}: app '{step.app}' was not started: {door.reason(done)}")
        if watcher.count():
            return False
        if time.monotonic() > end:
            raise TimedOut(f"{step.vm.name}: '{step.app}' runs, but shows no window", f"okubsd restart {step.vm.name}")
        time.sleep(0.2)


def stop_children(signum: int, _frame: object) -> None:
    """Turn a signal that ends us into an exception, so that what was started is cleaned up."""
    raise KeyboardInterrupt(signal.Signals(signum).name)
