"""The steps by which a guest that runs is given something of this host, or is heard by it."""

from __future__ import annotations

import signal

import msgspec

from okubsd import layout
from okubsd.config.names import quoted
from okubsd.config.policy import ALLOW
from okubsd.display.clip import HOST
from okubsd.errors import BadDescription, Problem
from okubsd.host import door, locks, policy, shares, speaking
from okubsd.host.crossings import ALLOWED, REFUSED, write_down
from okubsd.host.guest import Guest
from okubsd.host.performance import Performance
from okubsd.host.publish import is_open, publish
from okubsd.host.waiting import wait_until
from okubsd.plan import steps

# How long a service of a guest may take to listen, in seconds, before that is told.
_LISTEN_SECONDS = 20.0
# How long who heard a guest before may take to end, in seconds.
_END_SECONDS = 5.0


def publish_port(step: steps.Publish, performance: Performance) -> None:
    """Give a port of the guest to this host's loopback, and wait a moment until somebody listens there."""
    guest = Guest.find(performance.places, step.vm)
    publish(guest, step.port, step.host_port)
    if not wait_until(lambda: is_open(guest, step.port), _LISTEN_SECONDS, pause=0.3):
        performance.report(f"{step.vm.name}: nobody listens on port {step.port} of the guest yet")


def begin_share(step: steps.BeginShare, performance: Performance) -> None:
    """Have a directory of this host in the guest; where that cannot be, a line says so, and the VM is there anyway."""
    vm = step.vm
    try:
        share = shares.wanted(step.share)
        policy.need_leave(performance.session, "files", HOST, vm.copy_of or vm.name, f"the directory {share.path}")
        shares.begin(Guest.find(performance.places, vm), share)
    except Problem as problem:
        performance.report(f"{vm.name}: {quoted(step.share.path, 200)} is not shared: {problem.sentence}")


def attend(step: steps.Attend, performance: Performance) -> None:
    """Start what hears the guest, without what it plays where the policy or this host does not have that heard."""
    life = step.run / layout.ATTENDED_LIFE
    before = locks.living_pid(life)
    if before is not None:
        # Of the boot before, which has not seen yet that it is over.
        door.kill(before, signal.SIGTERM)
        wait_until(lambda: not locks.is_alive(life), _END_SECONDS, pause=0.02)
    orders = step.orders
    if orders.heard and not _may_be_heard(step, performance):
        orders = msgspec.structs.replace(orders, heard=False)
    # It is told by this signal that it is to be louder, perhaps before it hears any.
    heard = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        door.spawn((*step.argv, orders.render()), step.log, life=life)
    finally:
        signal.signal(signal.SIGHUP, heard)


def _may_be_heard(step: steps.Attend, performance: Performance) -> bool:
    name = step.vm.copy_of or step.vm.name
    try:
        line = policy.decision(policy.read_policy(performance.session), "sound", name, HOST)
    except BadDescription as error:
        performance.report(f"{step.vm.name}: it is not heard, the policy has mistakes: {error.mistakes[0]}")
        return False
    try:
        write_down(performance.places, "sound", step.vm.name, HOST, ALLOWED if line.action == ALLOW else REFUSED)
    except Problem as problem:
        performance.report(f"{step.vm.name}: it is not heard: {problem.sentence}")
        return False
    if line.action != ALLOW:
        return False
    if not speaking.find_players():
        performance.report(f"{step.vm.name}: it is not heard: this host has neither aucat, pacat nor pw-cat")
        return False
    return True
