"""The steps from a guest that boots to a window: it is ready, its display is there, it is connected, the app shows."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from okubsd import layout
from okubsd.config.sizes import render_size
from okubsd.display.orders import parse_orders
from okubsd.display.server import display_socket
from okubsd.errors import BadClock, DisplayGone, HostLacks, Problem, TimedOut, Unreachable
from okubsd.host import door, keys, locks, programs, running, window, windows
from okubsd.host.performance import Performance, app_words, last_lines
from okubsd.host.sockets import end_listener, listener_pid
from okubsd.host.waiting import wait_until
from okubsd.model import Argv
from okubsd.plan import steps
from okubsd.plan.steps import Phase, Slot

# What a guest's console may say to be taken for ready (images/base/files/usr/lib/okubsd/init).
READY = b"okubsd: ready"

_APP_RUNS_ALREADY, _NO_SUCH_APP = 10, 11
# As shells tell SIGKILL.
_KILLED = 128 + 9

_DISPLAY_TRIES, _DISPLAY_SECONDS = 3, 15


def when_it_ends(argv: Argv) -> Argv:
    """Return ``argv`` run when whoever holds the other end of the pipe, that is to be its input, is gone."""
    return ("sh", "-c", 'cat >/dev/null; exec "$@"', "okubsd-watch", *argv)


def watch_client(step: steps.WatchClient, performance: Performance) -> None:
    """Have something run when the VM's QEMU is gone."""
    door.spawn(when_it_ends(step.argv), step.log, stdin=performance.exit_end)


def start_display(step: steps.StartDisplay, performance: Performance) -> None:
    """Start the VM's X server; what waits for it comes later."""
    (step.run / layout.NESTED).unlink(missing_ok=True)
    if step.nested:
        (step.run / layout.NESTED).touch(mode=0o600)
    if step.nested and step.desktop:
        width, height = window.size_of(step.desktop)
        performance.slots[Slot.SCREEN] = f"{width}x{height}"
    _start_server(step, performance)
    performance.display_step = step


def _start_server(step: steps.StartDisplay, performance: Performance) -> None:
    # The server writes its number to a file itself: whoever comes after us finds it, whatever becomes of us.
    report = os.open(step.run / layout.DISPLAY, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    performance.slots[Slot.REPORT_FD] = str(report)
    life = step.run / layout.DISPLAY_LIFE
    try:
        performance.server = door.spawn(performance.fill(step.argv), step.log, keep_fds=(report,), life=life)
    finally:
        os.close(report)


def start_glass(step: steps.StartGlass, performance: Performance) -> None:
    """Start what shows the windows; it waits for the display itself."""
    life = step.run / layout.GLASS_LIFE
    if performance.server is not None:
        # The display is new: who showed the one before is about to end.
        wait_until(lambda: not locks.is_alive(life) or windows.is_ready(step.run), _OLD_GLASS_SECONDS, pause=0.05)
    if locks.is_alive(life):
        return
    (step.run / layout.GLASS).unlink(missing_ok=True)
    performance.shown_at = step.run
    performance.glass = door.spawn(step.argv, step.log, life=step.run / layout.GLASS_LIFE)


def show_failure(step: steps.StartGlass, sentence: str, log: Path) -> None:
    """Show on the desktop why a start failed, by a window that outlives it: who clicked a menu sees no terminal."""
    *_, orders = step.argv
    words = msgspec.structs.replace(parse_orders(orders), words=sentence).render()
    door.spawn(programs.farewell_argv(words), log)


def wait_ready(step: steps.WaitReady, performance: Performance) -> None:
    """Wait until the guest says that it is ready.  Raises Problem where it ends before, TimedOut where it does not."""
    window.preload()
    log = step.console_log

    def is_ready() -> bool:
        ready = _says_ready(log)
        if not ready and performance.qemu is not None and performance.qemu.poll() is not None:
            said = last_lines(log) or last_lines(log.with_name(layout.QEMU_LOG))
            raise Problem(f"the VM ended before it was ready{said}")
        return ready

    if not wait_until(is_ready, step.timeout, pause=0.003):
        raise TimedOut(f"the guest was not ready within {step.timeout} seconds{last_lines(log)}")
    if performance.booted_at:
        check_clock(_uptime(log), time.monotonic() - performance.booted_at)


# On a host that is very busy Linux may take its processor for another one, and its clock runs many times too fast.
_FASTER, _MORE_SECONDS = 5.0, 20.0
_READY_AT = re.compile(READY + rb" ([0-9]{1,9})")


def check_clock(uptime: float, elapsed: float) -> None:
    """Raise BadClock where a guest says that it took ``uptime`` seconds for a boot of ``elapsed`` seconds."""
    if uptime > _FASTER * elapsed + _MORE_SECONDS:
        raise BadClock(f"the guest's clock ran {uptime / max(elapsed, 1):.0f} times too fast", "try again")


def _uptime(console_log: Path) -> float:
    with console_log.open("rb") as stream:
        found = _READY_AT.search(stream.read(1 << 20))
    return float(found[1]) if found else 0.0


def _says_ready(console_log: Path) -> bool:
    try:
        with console_log.open("rb") as stream:
            return READY in stream.read(1 << 20)
    except FileNotFoundError:
        return False


def wait_display(step: steps.WaitDisplay, performance: Performance) -> None:
    """Wait until the X server has told its number."""
    left = _DISPLAY_TRIES

    def has_number() -> bool:
        nonlocal left
        if running.display_number(step.run) is not None:
            return True
        ended = performance.server is not None and performance.server.poll() is not None
        if ended and performance.display_step is not None and left:
            # Two servers that begin at the same moment may take the same number, and one of them ends.
            left -= 1
            _start_server(performance.display_step, performance)
        performance.check_alive(step.log)
        return False

    late = f"the X server did not tell its display within {_DISPLAY_SECONDS} seconds"
    wait_until(has_number, _DISPLAY_SECONDS, late, pause=0.005)
    number = running.display_number(step.run)
    assert number is not None
    performance.slots[Slot.DISPLAY] = f":{number}"
    performance.slots[Slot.DISPLAY_SOCKET] = str(display_socket(number))


def disconnect(step: steps.Disconnect, performance: Performance) -> None:
    """End the shared connection, and wait until it is gone."""
    door.ask(step.argv, timeout=10)
    late = f"the ssh connection at {step.socket} does not end"
    wait_until(lambda: listener_pid(step.socket) is None, 5, late)


def connect(step: steps.Connect, performance: Performance) -> None:
    """Open the shared connection.  Raises Unreachable where the guest does not answer."""
    tried: list[door.Done] = []

    def is_settled() -> bool:
        tried.append(door.ask(performance.fill(step.argv), timeout=step.timeout))
        if _TAKEN not in tried[-1].err:
            return True
        end_listener(step.socket)
        return False

    # A start that was killed may have connected since this one looked; the guest gives up what that held soon after.
    wait_until(is_settled, _FREED_SECONDS, pause=0.1)
    done = tried[-1]
    if done.code == door.GAVE_UP:
        raise Unreachable(f"{step.what}: no answer within {step.timeout} seconds")
    if done.code != 0:
        hint = f"okubsd log {step.what.partition(':')[0]}  # the guest's console may say more"
        raise Unreachable(f"{step.what}: {door.reason(done)}", hint)


# What ssh(1) says where the guest does not give it the port of the display.
_TAKEN, _FREED_SECONDS = b"remote port forwarding failed", 5


# A window is painted soon after it is mapped, but for what never stands still; a start does not wait longer for it.
_PAINT_SECONDS = 45.0

# xkbcomp(1) reads one keyboard and writes another.
_KEYBOARD_SECONDS = 10.0


def show_app(step: steps.ShowApp, performance: Performance) -> None:
    """Start the app, and wait for its window to be there and painted."""
    try:
        _show_app(step, performance)
    except _Ended:
        if performance.booted_at:
            raise
        # What ended may be what a start that was killed had begun, for a display that is gone.
        _show_app(step, performance)


def _show_app(step: steps.ShowApp, performance: Performance) -> None:
    number, cookie = running.live_display(step.run), keys.read_cookie(step.run)
    if number is None or cookie is None:
        raise DisplayGone(f"{step.vm.name}: its display is gone")

    log = performance.places.vm(step.vm.name) / layout.CONSOLE_LOG
    before = log.stat().st_size if log.exists() else 0

    def still() -> None:
        _check_app(step, performance, log, before)

    if step.seamless:
        _wait_for_glass(step, performance, lambda step: windows.is_ready(step.run))
        # Also where it was there before: a window that nobody expects gets no keyboard.
        windows.say(step.run, step.progress())
    with window.watching(step.vm.name, number, cookie, running.live_qemu(step.run)) as watcher:
        # While somebody looks: the server ends with its last client, and this is one.
        _copy_keyboard(step, performance)
        if not _start_app(step, watcher):
            performance.app_was_running = True
            if performance.glass is not None:
                # It was shown to nobody until now.
                with performance.timed(Phase.PAINT):
                    _wait_for_glass(step, performance, _is_painted)
            _raise_shown(step)
            return
        with performance.timed(Phase.WINDOW):
            try:
                is_mapped = watcher.wait(b"mapped", step.pace, still)
            except _HandedOver:
                _raise_shown(step)
                return
            if not is_mapped:
                hint = f"okubsd run {step.vm.name} -- cat /run/okubsd/own/{step.app}.log"
                raise TimedOut(f"{step.vm.name}: no window of '{step.app}' within {step.pace} seconds", hint)
        with performance.timed(Phase.PAINT):
            watcher.wait(b"painted", _PAINT_SECONDS, still)
            if step.seamless:
                _wait_for_glass(step, performance, _is_painted)


# How long who showed a display that is gone may take to end.
_OLD_GLASS_SECONDS = 5.0
# The glass begins in a third of a second; a host that is busy takes its time.
_GLASS_SECONDS = 20.0


def _wait_for_glass(step: steps.ShowApp, performance: Performance, there: Callable[[steps.ShowApp], bool]) -> None:
    """Wait until something is ``there`` that the glass does.  Raises Problem where the glass ended, or TimedOut.

    It is there before an app is: the first client of a display is to find its window manager.
    """

    def is_there() -> bool:
        glass = performance.glass
        if glass is not None and glass.poll() is not None:
            log = performance.places.vm(step.vm.name) / layout.GLASS_LOG
            raise Problem(f"{step.vm.name}: its windows cannot be shown{last_lines(log, 1)}")
        return there(step)

    late = f"{step.vm.name}: its windows are not shown within {_GLASS_SECONDS:.0f} seconds"
    wait_until(is_there, _GLASS_SECONDS, late, pause=0.02)


def _is_painted(step: steps.ShowApp) -> bool:
    return any(row.painted for row in windows.windows_of(step.run))


def _raise_shown(step: steps.ShowApp) -> None:
    """Bring the window of an app up that is shown already."""
    row = windows.best_of(windows.windows_of(step.run), step.app) if step.seamless else None
    if row is not None:
        windows.do(step.run, "raise", row.window)


def _copy_keyboard(step: steps.ShowApp, performance: Performance) -> None:
    """Give the VM's display the keyboard of the host; where that fails, a line says so, and the app is shown."""
    if not step.keyboard:
        return
    try:
        done = door.run(performance.fill(step.keyboard), timeout=_KEYBOARD_SECONDS)
    except (HostLacks, subprocess.TimeoutExpired) as error:
        performance.report(f"{step.vm.name}: the keyboard of the desktop was not copied: {error}")
        return
    if done.code != 0:
        performance.report(f"{step.vm.name}: the keyboard of the desktop was not copied: {door.reason(done)}")


class _Ended(Problem):
    """The app ended before it showed a window."""


class _HandedOver(Exception):
    """Another start of an app ended well: the one that runs shows what it was to show."""


def _check_app(step: steps.ShowApp, performance: Performance, log: Path, before: int) -> None:
    """Raise Problem where the VM, its X server or the app ended before there was a window, with the app's own words.

    ``log`` is that of the console, which had ``before`` bytes when the app was started.  Raises _HandedOver where the
    app ended because another one shows what it was to show.
    """
    said, code = app_words(log, step.app, before)
    if said and step.another and code == 0:
        raise _HandedOver
    if said or (performance.qemu is not None and performance.qemu.poll() == 0):
        killed = f": it was killed, as by a guest without memory; it has {render_size(step.vm.memory)}"
        words = killed if code == _KILLED else said
        sentence = f"{step.vm.name}: '{step.app}' ended before it showed a window{words}"
        raise _Ended(sentence, f"okubsd log {step.vm.name}")
    performance.check_alive(log)


def _start_app(step: steps.ShowApp, watcher: window.Watcher) -> bool:
    """Start the app in the guest; return False where it runs already and has a window.

    An app that runs without a window is either about to show one, or about to end with a display
    that was closed: the guest is asked again until one of both is so.
    """
    name, app = step.vm.name, step.app
    codes: list[int] = []

    def is_decided() -> bool:
        done = door.ask(step.argv, timeout=30)
        codes.append(done.code)
        if done.code == _NO_SUCH_APP:
            raise Problem(f"{name}: the image has no app '{app}'", f"okubsd image build {step.vm.image}")
        if done.code not in (0, _APP_RUNS_ALREADY):
            raise Unreachable(f"{name}: app '{app}' was not started: {door.reason(done)}")
        return done.code == 0 or watcher.count() > 0

    if not wait_until(is_decided, step.pace, pause=0.2):
        raise TimedOut(f"{name}: '{app}' runs, but shows no window", f"okubsd restart {name}")
    return codes[-1] == 0
