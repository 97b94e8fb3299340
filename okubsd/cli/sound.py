"""okubsd volume, mic: how loud a VM is, and whether it hears."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import click
import msgspec

from okubsd import layout
from okubsd.cli.session import as_json, pass_session, print_json
from okubsd.config.names import quoted
from okubsd.display.clip import HOST
from okubsd.errors import Misuse, Problem
from okubsd.host import door, locks, microphone, policy, programs, running, speaking
from okubsd.host.performance import last_lines
from okubsd.host.session import Session
from okubsd.host.waiting import wait_until
from okubsd.model import Vm
from okubsd.sound import Sound

# How long the microphone may take to be there, or to be gone, in seconds.
_SECONDS = 20.0
# It is said to be on when it has lived for so long.
_LASTS_SECONDS = 1.0


@click.command()
@click.argument("name", metavar="VM")
@click.argument("level", metavar="[LEVEL|mute|unmute]", default="", required=False)
@as_json
@pass_session
def volume(session: Session, name: str, level: str, json: bool) -> None:
    """Say how loud a VM is, or have it be as loud as LEVEL of 100, or mute it; it is kept."""
    vm = session.running_vm(name)
    directory = session.places.vm(vm.name)
    sound = speaking.read_sound(directory)
    if level:
        sound = _changed(sound, level)
        for path in (session.places.state, directory.parent, directory):
            door.make_private(path)
        speaking.write_sound(directory, sound)
        pid = locks.living_pid(session.places.vm_run(vm.name) / layout.ATTENDED_LIFE)
        if pid is not None:
            door.kill(pid, signal.SIGHUP)
    if json:
        print_json(vm=vm.name, volume=sound.volume, muted=sound.muted)
    elif not level:
        click.echo(f"{sound.volume}{' muted' if sound.muted else ''}")


def _changed(sound: Sound, level: str) -> Sound:
    if level in ("mute", "unmute"):
        return msgspec.structs.replace(sound, muted=level == "mute")
    if re.fullmatch(r"[0-9]{1,3}", level) and int(level) <= 100:
        return Sound(volume=int(level))
    raise Misuse(f"{quoted(level)} is no volume from 0 to 100, mute or unmute", "okubsd volume VM 50")


@click.command()
@click.argument("what", metavar="on|off", type=click.Choice(("on", "off")))
@click.argument("name", metavar="VM")
@pass_session
def mic(session: Session, what: str, name: str) -> None:
    """Give a VM the microphone of this host, or take it away; its label says so, and it ends with the VM."""
    vm = session.running_vm(name)
    if not running.is_running(session.places, vm.name):
        raise Problem(f"VM '{vm.name}' is not running", f"okubsd start {vm.name}")
    life = session.places.vm_run(vm.name) / layout.MIC_LIFE
    if what == "off":
        _off(vm, life)
        return
    with locks.locked(life.with_name(layout.MIC_LOCK)):
        if locks.is_alive(life):
            return
        policy.need_leave(session, "mic", HOST, vm.copy_of or vm.name, "what the microphone hears")
        microphone.find_recorder()
        _on(session, vm)
    session.report(f"{vm.name}: it has the microphone until: okubsd mic off {vm.name}")


def _on(session: Session, vm: Vm) -> None:
    """Begin it, and see that it lasts.  Raises Problem with what it said where it does not."""
    log = session.places.vm(vm.name) / layout.MIC_LOG
    life = session.places.vm_run(vm.name) / layout.MIC_LIFE
    process = door.spawn(programs.microphone_argv(vm.name), log, life=life)
    if wait_until(lambda: process.poll() is not None, _LASTS_SECONDS, pause=0.05):
        said = last_lines(log, 1) or ": the guest has no sound: its recipe says sound: yes"
        raise Problem(f"{vm.name} does not get the microphone{said}", f"okubsd status {vm.name}")


def _off(vm: Vm, life: Path) -> None:
    pid = locks.living_pid(life)
    if pid is None:
        return
    door.kill(pid, signal.SIGTERM)
    if not wait_until(lambda: not locks.is_alive(life), _SECONDS, pause=0.05):
        door.kill(pid, signal.SIGKILL)
        wait_until(lambda: not locks.is_alive(life), _SECONDS, f"{vm.name}: the microphone does not end", pause=0.05)
