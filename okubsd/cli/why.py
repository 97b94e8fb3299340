"""okubsd why: which rule decides what a VM reaches, as the description and as pf(4) have it."""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import click
import msgspec

from okubsd import layout
from okubsd.cli.compile import owner_of_vms
from okubsd.cli.policy import tell_crossing
from okubsd.cli.session import as_json, pass_session, print_json
from okubsd.config.names import quoted
from okubsd.config.policy import SERVICES
from okubsd.config.rule import parse_target, render_rule
from okubsd.errors import BadDescription, Misuse
from okubsd.host import apply as applying
from okubsd.host import programs, rules, running, walls
from okubsd.host.session import Session
from okubsd.host.system import HostRoot
from okubsd.host.tunnels import read_secrets
from okubsd.model import NetworkKind, Vm
from okubsd.pf.render import GROUP, anchor_path
from okubsd.plan.changes import wanted_files
from okubsd.plan.compile import Compiled, CompiledVm, compile_host
from okubsd.plan.exits import number_all
from okubsd.plan.judge import SOME_GUEST, read_rules
from okubsd.plan.why import Decision, Passer, PfState, Why, decide, explain, guest_packet, passers_of
from okubsd.rules import is_name

_DESTINATION = re.compile(
    r"(\d{1,3}(?:\.\d{1,3}){3}|[0-9a-f:]*:[0-9a-f:]+|\[[0-9a-f:]+\]|[a-z0-9.-]{4,253})(?::(\d{1,5}))?"
)


@click.command()
@click.argument("name", metavar="VM")
@click.argument("destination", metavar="DEST[:PORT]|VM")
@click.option("--service", type=click.Choice(SERVICES), help="Not a packet: whether this may cross to the VM, or host.")
@click.option("-p", "--protocol", type=click.Choice(["tcp", "udp", "icmp"]), default="tcp", show_default=True)
@as_json
@pass_session
def why(session: Session, name: str, destination: str, service: str, protocol: str, json: bool) -> None:
    """Say which rule decides whether VM reaches DEST, an address or a host name; exit with 1 where it does not."""
    if service:
        sys.exit(tell_crossing(session, service, name, destination, json=json))
    target, port = parse_destination(destination)
    asked = session.vm(name)
    passers = passers_of(asked, session.description, session.recipes)
    decision = decide(asked, target, protocol, port, time.time(), passers)
    if decision.rule is not None and is_name(decision.rule):
        decision = _as_names_are(session, asked, decision, target, protocol, port, passers)
    if _is_this_host(asked, target):
        sentence = f"{name}: does not reach it: no VM is let to this host, by none of its addresses"
        decision = Decision(passes=False, rule=None, sentence=sentence)
    if asked.tunnel:
        decision = _of_gateway(session, asked, decision, (target, port), protocol)
    # What goes through a gateway meets its rules, and no pf(4) of the host's.
    if not is_address(target) or ":" in target or not decision.passes or passers or not has_pf():
        _print_decision(name, destination, protocol, decision, json=json)
        return
    system = HostRoot(session.places.system)
    if hidden := hidden_file(system, asked):
        again = f"doas okubsd why {name} {destination}"
        session.report(f"what pf does with the packet is not shown: only root may read {hidden}; try: {again}")
        _print_decision(name, destination, protocol, decision, json=json)
        return
    compiled = _compile_one(session, system, asked)
    vm = compiled.vms[0]
    answer = explain(vm, _pf_state(system, compiled, vm), guest_packet(vm, SOME_GUEST, target, protocol, port))
    if json:
        print_json(vm=name, destination=destination, protocol=protocol, **_as_dict(answer))
    else:
        print(decision.sentence)
        sys.stdout.write(render_why(answer))
    if not answer.leaves:
        sys.exit(1)


def _is_this_host(vm: Vm, target: str) -> bool:
    """Return whether ``target`` is an address of this host's, which its VMs are refused by what holds them here."""
    if has_pf() or vm.network.kind is not NetworkKind.NAT or not is_address(target):
        return False
    # Without a namespace QEMU lets a guest to services of this host: then its rules are all that is said.
    return target in walls.ask_addresses() and not (walls.ask_wall() or walls.ask_uplink())


def has_pf() -> bool:
    """Return whether the packets of VMs go through pf(4) here."""
    return programs.has_vmd()


def _of_gateway(session: Session, vm: Vm, decision: Decision, target: tuple[str, int], protocol: str) -> Decision:
    """Return what a gateway reaches itself: the endpoints of its tunnel; the rest goes through that."""
    try:
        tunnel = read_secrets(session.description).tunnels.get(vm.name)
        ends = {peer.endpoint for peer in tunnel.peers} if tunnel else set()
    except BadDescription:
        ends = set()
    if protocol == "udp" and target in ends:
        return decision
    sentence = f"{vm.name}: does not reach it: a gateway reaches the endpoint of its tunnel, and nothing beside it"
    return Decision(passes=False, rule=None, sentence=sentence)


def _print_decision(name: str, destination: str, protocol: str, decision: Decision, *, json: bool) -> None:
    """Print what the description says, and exit with 1 where it says no."""
    if json:
        rule = decision.rule
        print_json(
            vm=name,
            destination=destination,
            protocol=protocol,
            leaves=decision.passes,
            sentence=decision.sentence,
            rule=render_rule(rule) if rule and rule.line else None,
            file=rule.file if rule and rule.line else None,
            line=rule.line if rule and rule.line else None,
            hops=[],
        )
    else:
        print(decision.sentence)
    if not decision.passes:
        sys.exit(1)


def is_address(text: str) -> bool:
    """Return whether ``text`` is an address, and no name."""
    import ipaddress

    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def parse_destination(text: str) -> tuple[str, int]:
    """Return the address or host name, and the port (443 if there is none), of ``text``.  Raises Misuse."""
    import ipaddress

    match = _DESTINATION.fullmatch(text.lower())
    try:
        if match is None:
            raise ValueError(text)
        target = match[1].strip("[]")
        if re.fullmatch(r"[0-9.]+", target) or ":" in target:
            target = str(ipaddress.ip_address(target))
        else:
            target = parse_target(target)
        port = int(match[2] or 443)
        if not 0 < port < 65536:
            raise ValueError(text)
    except ValueError:
        raise Misuse(
            f"{quoted(text)} is no ADDRESS[:PORT] or NAME[:PORT]", "okubsd why browser 192.0.2.1:443"
        ) from None
    return target, port


def _as_names_are(
    session: Session, vm: Vm, said: Decision, target: str, protocol: str, port: int, passers: tuple[Passer, ...]
) -> Decision:
    """Return what is decided while the VM runs: a name without an address opens and shuts nothing."""
    if not running.is_running(session.places, vm.name):
        return said
    known = rules.names_state(session, vm)
    dead = next((line for line in known if line.startswith(f"{target}: ") and line.endswith(rules.NOTHING)), "")
    if not dead:
        return said
    others = tuple(rule for rule in vm.rules if rule.target != target)
    found = decide(msgspec.structs.replace(vm, rules=others), target, protocol, port, time.time(), passers)
    return msgspec.structs.replace(found, sentence=f"{found.sentence} ({dead})")


def hidden_file(system: HostRoot, vm: Vm) -> Path | None:
    """Return a file that tells what pf(4) does with packets of ``vm`` and that this user may not read, or None."""
    files = (system.path(layout.SITE_PF_CONF), *(Path(file) for file in (vm.network.file, vm.tunnel) if file))
    return next((file for file in files if not os.access(file, os.R_OK) and not _is_missing(file)), None)


def _is_missing(path: Path) -> bool:
    try:
        path.lstat()
    except OSError as error:
        return not isinstance(error, PermissionError)
    return False


def _compile_one(session: Session, system: HostRoot, vm: Vm) -> Compiled:
    """Return what the description becomes for ``vm`` alone: the keys of other networks need not be read."""
    numbers = number_all(session.description, applying.kept_numbers(system)).given
    networks = tuple(network for network in session.description.networks if network == vm.network)
    description = msgspec.structs.replace(session.description, vms=(vm,), networks=networks)
    # Who owns a VM is nothing to its packets.
    return compile_host(
        description, session.recipes, numbers, owner_of_vms() or "root", read_secrets(description), time.time()
    )


def _pf_state(system: HostRoot, compiled: Compiled, vm: CompiledVm) -> PfState:
    """Return the rules that ``vm`` meets, as they will be after an apply; the guest's address is a stand-in."""
    files = wanted_files(compiled, {layout.SITE_PF_CONF: system.read(layout.SITE_PF_CONF)})
    anchors = {anchor_path(vm.vm.name): read_rules(f"{layout.ANCHORS}/{vm.vm.name}.conf", files, SOME_GUEST)}
    seen = {found.name: found for found in applying.ask_interfaces() if found.addresses}
    addresses = {name: found.addresses for name, found in seen.items()}
    addresses |= {f"tap{vm.number}": ("100.64.1.2/31",), "lo0": ("127.0.0.1/8",)}
    # What is in another rdomain, a tap, a tunnel or a loopback is no way of the host's own.
    beside = frozenset(
        name for name, found in seen.items() if not found.rdomain and not {"egress", "lo", GROUP} & {*found.groups}
    )
    if vm.vm.network.kind.is_tunnel:
        addresses[vm.egress.out] = ("100.127.255.253/32",)
    main = read_rules(layout.SITE_PF_CONF, files)
    return PfState(main=main, anchors=anchors, addresses=addresses, beside=beside)


def _as_dict(answer: Why) -> dict[str, Any]:
    hops = [
        {
            "where": hop.where,
            "passes": hop.verdict.passes,
            "file": hop.rule.file if hop.rule else None,
            "line": hop.rule.line if hop.rule else None,
            "rule": hop.rule.text if hop.rule else None,
        }
        for hop in answer.hops
    ]
    return {"leaves": answer.leaves, "sentence": answer.sentence, "hops": hops}


def render_why(answer: Why) -> str:
    """Return the answer in words, with the deciding rules."""
    lines = [answer.sentence]
    for hop in answer.hops:
        word = "passes" if hop.verdict.passes else "is blocked"
        if hop.rule is None:
            lines.append(f"{hop.where}: it {word}: no rule matches")
        else:
            lines.append(f"{hop.where}: it {word} by {hop.rule.file}:{hop.rule.line}")
            lines.append(f"    {hop.rule.text}")
    return "".join(f"{line}\n" for line in lines)
