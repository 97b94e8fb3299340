"""The rules of a VM that runs: put in force, and what is known of the names in them."""

from __future__ import annotations

import contextlib

from okubsd import layout
from okubsd.errors import HostLacks, Problem
from okubsd.host import door, facts, gateway, lifecycle, programs
from okubsd.host.guest import ROOT, Guest
from okubsd.host.perform import perform
from okubsd.host.performance import Performance
from okubsd.host.session import Session
from okubsd.model import NetworkKind, Vm
from okubsd.plan.seats.qemu import is_ruled
from okubsd.rules import is_name


def put_in_force(session: Session, vm: Vm) -> str:
    """Give the rules of ``vm`` to what holds them; return what came of it, as a sentence."""
    state = facts.ask_vm(session.places, vm.name)
    through = gateway.find_gateway(vm, session.description)
    if through is not None and (state.running or programs.has_vmd()):
        return _push_to_gateway(session, through)
    host = facts.ask_host(session.places, vm if state.running else None)
    try:
        seat = lifecycle.seat_of(session.places, vm, host, state)
    except HostLacks:
        # What cannot run here has nothing in force.
        return "it takes effect when the VM starts"
    except Problem:
        return "it takes effect with: doas okubsd apply"
    plan, sentence = seat.change_rules(vm, host, state)
    perform(plan, Performance(session))
    return sentence


def refuse_host(session: Session, vm: Vm) -> None:
    """Refuse the addresses that this host has now to a running ``vm``, as its start did with those of then."""
    from okubsd.plan.seats.namespace import Namespace

    state = facts.ask_vm(session.places, vm.name)
    if not isinstance(state.seat, Namespace) or vm.network.kind is not NetworkKind.NAT:
        return
    host = facts.ask_host(session.places, vm)
    argv, lines = state.seat.refuse_addresses(host)
    door.run(argv, data=lines.encode(), timeout=10)
    if is_ruled(vm):
        perform(state.seat.load_rules(vm, host, state), Performance(session))


def _push_to_gateway(session: Session, through: Vm) -> str:
    recipe = session.recipes[through.image]
    if gateway.push_rules(session.places, through, session.description, recipe):
        return f"it is in force in {through.name}"
    return f"its gateway {through.name} does not run; it takes effect when that starts"


def proxy_state(session: Session, vm: Vm) -> str | None:
    """Return the line that the proxy on the way of a running ``vm`` says of itself, None where there is no proxy.

    It is a guest's word, and may hold anything.
    """
    recipe = session.recipes.get(vm.image)
    asked = vm if recipe and recipe.gateway else gateway.find_gateway(vm, session.description)
    recipe = session.recipes.get(asked.image) if asked else None
    if asked is None or recipe is None or recipe.proxy is None:
        return None
    with contextlib.suppress(Problem):
        done = Guest.find(session.places, asked).ask(("head", "-c", "200", "/run/okubsd/proxy"), user=ROOT)
        return done.out.decode(errors="replace").partition("\n")[0] or None
    return None


def names_state(session: Session, vm: Vm) -> list[str]:
    """Return a sentence for each host name in the rules of a running ``vm``: its addresses, or why it has none."""
    if not any(is_name(rule) for rule in vm.rules):
        return []
    through = gateway.find_gateway(vm, session.description)
    if through is None:
        with contextlib.suppress(OSError):
            return parse_names((session.places.vm_run(vm.name) / layout.NAMES_STATE).read_text())
        return []
    with contextlib.suppress(Problem):
        words = ("cat", "/run/okubsd/gateway/names.state")
        done = Guest.find(session.places, through).ask(words, user=ROOT)
        wanted = {rule.target for rule in vm.rules}
        return [line for line in parse_names(done.out.decode(errors="replace")) if line.split(":")[0] in wanted]
    return []


# What is said of a name without an address.
NOTHING = ", so its rule does nothing"


def parse_names(text: str) -> list[str]:
    """Return the lines of a file that the program `names` wrote, as sentences."""
    found = []
    for line in text.splitlines()[:1000]:
        name, _, rest = line.partition(" ")
        _, _, known = rest.partition(" ")
        addresses = " ".join(word for word in known.split() if not word.strip("0123456789."))
        reason = known.removeprefix("- ") if known.startswith("- ") else "was not asked yet"
        found.append(f"{name}: {addresses}" if addresses else f"{name}: {reason}{NOTHING}")
    return found
