"""The whole self-test of a VM: who plays, by which way, and what is kept of it."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from okubsd import layout
from okubsd.display.frame import COLORS
from okubsd.errors import HostLacks, Problem
from okubsd.guest.ssh import forward_display_argv
from okubsd.host import door, facts, keys, running
from okubsd.host.guest import Guest
from okubsd.host.publish import published
from okubsd.host.selftest import inside, screen
from okubsd.host.selftest.actor import Actor, on_desktop, through
from okubsd.host.selftest.lines import Line, Report
from okubsd.host.selftest.stage import Stage
from okubsd.host.session import Session
from okubsd.host.window import preload
from okubsd.model import Vm

_CALL_SECONDS = 20.0


def run_all(session: Session, vm: Vm, tell: Callable[[Line], Any]) -> Report:
    """Try every wall of a running VM, ``tell`` each line as it is known, and keep the report.

    Raises Problem where the VM does not run, or its guest cannot be reached.
    """
    guest = Guest.find(session.places, vm)
    if guest.ask(("true",), timeout=_CALL_SECONDS).code != 0:
        raise Problem(f"{vm.name}: the guest cannot be reached by ssh", f"okubsd log {vm.name}")
    lines = inside.attack_all(_victim(session, guest), tell)
    lines += _on_screen(session, guest, tell)
    report = Report(time.time(), tuple(lines))
    door.write(session.places.vm(vm.name) / layout.SELFTEST, msgspec.json.encode(report), 0o600)
    return report


def _victim(session: Session, guest: Guest) -> inside.Victim:
    vm, host = guest.vm, facts.ask_host(session.places, guest.vm)
    recipe = session.recipes.get(vm.image)
    recipes = tuple(r for r in (recipe, session.recipes.get(recipe.base)) if r) if recipe else ()
    addresses = tuple(address for address in host.addresses if ":" not in address)
    ports = tuple(published(guest.run).values())
    return inside.Victim(guest, _others(session, vm.name), inside.kept_setuid(recipes), addresses, ports)


def _others(session: Session, name: str) -> tuple[tuple[str, int], ...]:
    """Return where the ssh servers of the other VMs are that run, as our own ssh(1) is told."""
    found = []
    for other in running.ask_running(session.places) - {name}:
        with contextlib.suppress(OSError):
            words = (session.places.vm_run(other) / layout.SSH_CONFIG).read_text().split()
            at = dict(itertools.pairwise(words))
            if at.get("Port", "").isdigit():
                found.append((at.get("HostName", ""), int(at["Port"])))
    return tuple(sorted(found))


def _on_screen(session: Session, guest: Guest, tell: Callable[[Line], Any]) -> list[Line]:
    """Try the walls between the VM's display and the desktop, where both are there."""
    state, cookie = facts.ask_vm(session.places, guest.vm.name), keys.read_cookie(guest.run)
    desktop = facts.ask_host(session.places, guest.vm).display
    if state.display is None or cookie is None or not desktop:
        why = "the VM shows nothing" if state.display is None else "there is no desktop"
        return _told(screen.unseen(why), tell)
    if state.nested and not state.glass:
        return _told(screen.unseen("nobody shows its windows on the desktop"), tell)
    preload()
    try:
        with _way(guest) as path, _players(path, cookie, desktop, guest) as stage:
            return screen.attack_all(stage, tell)
    except (ConnectionError, HostLacks) as error:
        return _told(screen.unanswered(f"a display does not answer: {type(error).__name__}"), tell)


def _told(lines: list[Line], tell: Callable[[Line], Any]) -> list[Line]:
    for line in lines:
        tell(line)
    return lines


@contextlib.contextmanager
def _way(guest: Guest) -> Iterator[Path]:
    """Lead a socket of ours through the guest to its display, for the block: what comes by it is the guest's."""
    path = guest.run / layout.SELFTEST_SOCKET

    def call(*, end: bool) -> door.Done:
        return door.ask(forward_display_argv(guest.vm, guest.run, path, end=end), timeout=_CALL_SECONDS)

    # One that was killed may have left its own.
    call(end=True)
    path.unlink(missing_ok=True)
    done = call(end=False)
    if done.code != 0:
        raise Problem(f"{guest.vm.name}: there is no way through the guest: {door.reason(done)}")
    try:
        yield path
    finally:
        call(end=True)
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _players(path: Path, cookie: bytes, desktop: str, guest: Guest) -> Iterator[Stage]:
    with contextlib.ExitStack() as stack:

        def enter(opens: Callable[[], Any]) -> Actor:
            actor = Actor(opens)
            stack.callback(actor.leave)
            return actor

        attacker, witness = enter(through(path, cookie)), enter(on_desktop(desktop))
        yield Stage(
            attacker, witness, lambda: Actor(through(path, cookie)), lambda: Actor(on_desktop(desktop)), guest.run,
            COLORS[guest.vm.color][0],
        )  # fmt: skip
