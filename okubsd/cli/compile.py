"""okubsd render, apply, unapply, why: the description as files of an OpenBSD host."""

from __future__ import annotations

import getpass
import os
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import msgspec

from okubsd.cli.session import Session, as_json, dry_run, pass_session, print_json
from okubsd.config.flow import is_name, parse_target, render_flow
from okubsd.config.names import USER_NAME, quoted
from okubsd.errors import BadDescription, Misuse, Problem
from okubsd.host import apply as applying
from okubsd.host import rules, running, vmd
from okubsd.host.system import System
from okubsd.host.tunnels import passed_over, read_secrets
from okubsd.model import TUNNELS, Vm
from okubsd.pf.render import anchor_path
from okubsd.plan.apply import ApplyPlan, plan_apply, plan_unapply
from okubsd.plan.changes import Change, Stat, wanted_files
from okubsd.plan.check import SOME_GUEST, compiled_mistakes, read_rules
from okubsd.plan.compile import ANCHORS, Compiled, CompiledVm, How, compile_host
from okubsd.plan.exits import number_all
from okubsd.plan.why import Decision, Passer, PfState, Why, decide, explain, guest_packet, passers_of

_DESTINATION = re.compile(
    r"(\d{1,3}(?:\.\d{1,3}){3}|[0-9a-f:]*:[0-9a-f:]+|\[[0-9a-f:]+\]|[a-z0-9.-]{4,253})(?::(\d{1,5}))?"
)


def owner_of_vms() -> str:
    """Return the user for whom the description is compiled: who called doas(1), or who we are; "" for root."""
    name = os.environ.get("DOAS_USER") or os.environ.get("SUDO_USER") or getpass.getuser()
    return name if USER_NAME.fullmatch(name) and name != "root" else ""


def compile_session(session: Session, system: System, default_owner: str = "") -> Compiled:
    """Return the compiled description.  Raises BadDescription where it cannot be.

    ``default_owner`` owns the VMs that name nobody, if the user is root and called by nobody.
    """
    user = owner_of_vms() or default_owner
    secrets = read_secrets(session.wish)
    for name, phrases in passed_over(secrets).items():
        session.report(f"{name}: of its file this means nothing here: {', '.join(phrases)}")
    numbers = applying.kept_numbers(system)
    return compile_host(session.wish, session.recipes, numbers, user, secrets, time.time())


def checked(compiled: Compiled, wanted: Mapping[str, Stat | None]) -> None:
    """Raise BadDescription with everything that OpenBSD would refuse of the ``wanted`` files."""
    mistakes = compiled_mistakes(compiled, wanted)
    if mistakes:
        raise BadDescription(mistakes)


@click.command()
@click.argument("target", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@pass_session
def render(session: Session, target: Path) -> None:
    """Write what apply would install into DIR, as it would lie on an OpenBSD host; DIR is new or empty."""
    if target.exists() and any(target.iterdir()):
        raise Misuse(f"{target} is not empty", "name a directory that does not exist yet")
    compiled = compile_session(session, System(target))
    wanted = wanted_files(compiled, {})
    checked(compiled, wanted)
    tree = System(target)
    for path, stat in wanted.items():
        if stat is not None:
            tree.write(path, stat, lasting=False)
    for file in compiled.files:
        if file.how is How.RCCTL:
            tree.write(file.path, Stat(file.text, file.mode), lasting=False)
    session.report(f"{len(compiled.files)} files for {len(compiled.vms)} VMs are in {target}")


@click.command()
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--recover", is_flag=True, help="Only go back from an apply that was cut short.")
@dry_run
@pass_session
def apply(session: Session, yes: bool, recover: bool, dry: bool) -> None:
    """Install the description on this OpenBSD host: show what changes, ask, and let vmd and pf read it."""
    applying.need_openbsd()
    system = System(session.places.system)
    with applying.applying(system, session.report):
        if applying.restore(system, session.report):
            session.report("an apply was cut short; the files of before are back")
        if recover:
            return
        compiled = compile_session(session, system)
        need_group(compiled.group)
        facts = applying.ask_apply(system, compiled)
        checked(compiled, wanted_files(compiled, facts.files))
        plan, changes = plan_apply(compiled, facts)
        late = [name for name in facts.running if any(change.path.endswith("vm.conf") for change in changes)]
        _carry_out(session, system, plan, changes, yes=yes, dry=dry)
    if late and plan and not dry:
        session.report(f"{', '.join(late)}: runs with what it was started with until it is stopped")


@click.command()
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@dry_run
@pass_session
def unapply(session: Session, yes: bool, dry: bool) -> None:
    """Take everything that apply installed from this OpenBSD host; images, homes and keys stay."""
    applying.need_openbsd()
    system = System(session.places.system)
    with applying.applying(system, session.report):
        applying.restore(system, session.report)
        nothing = Compiled(files=(), vms=(), group="")
        plan, changes = plan_unapply(applying.ask_apply(system, nothing))
        _carry_out(session, system, plan, changes, yes=yes, dry=dry)


def need_group(group: str) -> None:
    """Raise Problem where the group of okubsd's users does not exist."""
    import grp

    try:
        grp.getgrnam(group)
    except KeyError:
        raise Problem(f"there is no group '{group}'", f"groupadd {group} && usermod -G {group} YOU") from None


def _carry_out(
    session: Session, system: System, plan: ApplyPlan, changes: tuple[Change, ...], *, yes: bool, dry: bool
) -> None:
    if not plan:
        session.report("nothing to do")
        return
    sys.stdout.write("".join(change.diff() for change in changes))
    if dry:
        sys.stdout.write("".join(f"{step.show()}\n" for step in plan))
        return
    sys.stdout.flush()
    if not yes:
        _confirm(len(changes))
    applying.perform(system, plan, session.report)
    session.report(f"{len(changes)} files changed")


def _confirm(count: int) -> None:
    """Raise Problem unless the user says yes; a script has to say -y."""
    if not sys.stdin.isatty():
        raise Misuse("there is no terminal to ask on", "look at it with -n, then say -y")
    if not click.confirm(f"Change these {count} files?", err=True):
        raise Problem("nothing was changed")


@click.command()
@click.argument("name", metavar="VM")
@click.argument("destination", metavar="DEST[:PORT]")
@click.option("-p", "--protocol", type=click.Choice(["tcp", "udp", "icmp"]), default="tcp", show_default=True)
@as_json
@pass_session
def why(session: Session, name: str, destination: str, protocol: str, json: bool) -> None:
    """Say which rule decides whether VM reaches DEST, an address or a host name; exit with 1 where it does not."""
    target, port = parse_destination(destination)
    asked = session.vm(name)
    passers = passers_of(asked, session.wish, session.recipes)
    decision = decide(asked, target, protocol, port, time.time(), passers)
    if decision.flow is not None and is_name(decision.flow):
        decision = _as_names_are(session, asked, decision, target, protocol, port, passers)
    # What goes through a gateway meets its rules, and no pf(4) of the host's.
    if not is_address(target) or ":" in target or not decision.passes or passers or not has_pf():
        _print_decision(name, destination, protocol, decision, json=json)
        return
    system = System(session.places.system)
    if hidden := hidden_file(system, asked):
        session.report(f"what pf(4) does with it is not told: {hidden} can only be read by root; try: doas okubsd why")
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


def has_pf() -> bool:
    """Return whether the packets of VMs go through pf(4) here."""
    return vmd.has_vmd()


def _print_decision(name: str, destination: str, protocol: str, decision: Decision, *, json: bool) -> None:
    """Print what the description says, and exit with 1 where it says no."""
    if json:
        flow = decision.flow
        print_json(
            vm=name,
            destination=destination,
            protocol=protocol,
            leaves=decision.passes,
            sentence=decision.sentence,
            rule=render_flow(flow) if flow and flow.line else None,
            file=flow.file if flow and flow.line else None,
            line=flow.line if flow and flow.line else None,
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
    known = rules.names_state(session.places, session.site, vm)
    dead = next((line for line in known if line.startswith(f"{target}: ") and line.endswith(rules.NOTHING)), "")
    if not dead:
        return said
    others = tuple(flow for flow in vm.flows if flow.target != target)
    found = decide(msgspec.structs.replace(vm, flows=others), target, protocol, port, time.time(), passers)
    return msgspec.structs.replace(found, sentence=f"{found.sentence} ({dead})")


def hidden_file(system: System, vm: Vm) -> Path | None:
    """Return a file that tells what pf(4) does with packets of ``vm`` and that this user may not read, or None."""
    files = (system.path("etc/pf.conf"), *(Path(file) for file in (vm.network.file, vm.tunnel) if file))
    return next((file for file in files if not os.access(file, os.R_OK) and not _is_missing(file)), None)


def _is_missing(path: Path) -> bool:
    try:
        path.lstat()
    except OSError as error:
        return not isinstance(error, PermissionError)
    return False


def _compile_one(session: Session, system: System, vm: Vm) -> Compiled:
    """Return what the description becomes for ``vm`` alone: the keys of other networks need not be read."""
    numbers = number_all(session.wish, applying.kept_numbers(system)).given
    networks = tuple(network for network in session.wish.networks if network == vm.network)
    wish = msgspec.structs.replace(session.wish, vms=(vm,), networks=networks)
    # Who owns a VM is nothing to its packets.
    return compile_host(wish, session.recipes, numbers, owner_of_vms() or "root", read_secrets(wish), time.time())


def _pf_state(system: System, compiled: Compiled, vm: CompiledVm) -> PfState:
    """Return the rules that ``vm`` meets, as they will be after an apply; the guest's address is a stand-in."""
    files = wanted_files(compiled, {"etc/pf.conf": system.read("etc/pf.conf")})
    anchors = {anchor_path(vm.vm.name): read_rules(f"{ANCHORS}/{vm.vm.name}.conf", files, SOME_GUEST)}
    addresses = {f"tap{vm.number}": ("100.64.1.2/31",), "lo0": ("127.0.0.1/8",)}
    if vm.vm.network.way in TUNNELS:
        addresses[vm.exit.out] = ("100.127.255.253/32",)
    return PfState(main=read_rules("etc/pf.conf", files), anchors=anchors, addresses=addresses)


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
