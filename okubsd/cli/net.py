"""okubsd net, graph, publish: what VMs reach, and how that is changed."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import Any

import click

from okubsd.cli.session import Verbs, as_json, harmless, pass_session, print_json, print_table
from okubsd.config.edit import render_element
from okubsd.config.fields import parse_moment
from okubsd.config.names import quoted
from okubsd.config.rule import parse_rule, render_rule
from okubsd.errors import Misuse, Problem
from okubsd.host.session import Session
from okubsd.model import NAT, NONE, Vm
from okubsd.rules import Rule, effective_rules

_AFTER = re.compile(r"\+(\d{1,5})([smhd])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@click.group(cls=Verbs)
def net() -> None:
    """What VMs reach: ls, show, allow, deny, rm."""


@net.command("ls")
@as_json
@pass_session
def list_networks(session: Session, json: bool) -> None:
    """List the networks, what they lead through, and the VMs on them."""
    networks = (NAT, NONE, *(network for network in session.description.networks if network not in (NAT, NONE)))
    rows = [
        {
            "name": network.name,
            "kind": str(network.kind),
            "through": network.gateway or network.address or Path(network.file).name,
            "vms": [vm.name for vm in session.description.vms if vm.network == network],
        }
        for network in networks
    ]
    if json:
        print_json(networks=rows)
        return
    table = [(str(r["name"]), str(r["kind"]), str(r["through"]) or "-", " ".join(r["vms"]) or "-") for r in rows]
    print_table(("NETWORK", "KIND", "THROUGH", "VMS"), table)


@net.command()
@click.argument("name", metavar="VM")
@as_json
@pass_session
def show(session: Session, name: str, json: bool) -> None:
    """Show the rules of VM in the order in which they decide, and the names in them."""
    vm = session.vm(name)
    now = time.time()
    from okubsd.host import rules as ruling

    names = ruling.names_state(session, vm)
    expired = [rule for rule in vm.rules if rule.until is not None and rule.until <= now]
    rows = [_row(rule, now) for rule in (*effective_rules(vm.rules, now), *expired)]
    if json:
        limits = {"down": vm.bandwidth.down, "up": vm.bandwidth.up}
        print_json(
            vm=vm.name, network=vm.network.name, kind=str(vm.network.kind), bandwidth=limits, rules=rows, names=names
        )
        return
    print(f"{vm.name} is on the network '{vm.network.name}' ({vm.network.kind})")
    if not vm.network.kind.leads_out:
        return
    print_table(
        ("RULE", "ENDS", "WRITTEN"),
        [(str(row["rule"]), str(row["ends"] or "-"), str(row["written"] or "(built in)")) for row in rows],
    )
    for line in names:
        print(f"name {harmless(line)}")


def _row(rule: Rule, now: float) -> dict[str, Any]:
    ends = None if rule.until is None else time.strftime("%Y-%m-%dT%H:%M", time.localtime(rule.until))
    if rule.until is not None and rule.until <= now:
        ends = f"{ends} (over)"
    comment = f" # {rule.comment}" if rule.comment else ""
    return {
        "rule": f"{'allow' if rule.allow else 'deny'} {render_rule(rule)}{comment}",
        "ends": ends,
        "written": f"{rule.file}:{rule.line}" if rule.line else None,
    }


_until = click.option("--until", default="", metavar="WHEN", help="A date, a date and time, or +30m, +2h, +1d.")
_comment = click.option("--comment", default="", metavar="TEXT", help="What it is for.")


def _adding(word: str, summary: str, *, allow: bool) -> None:
    """Make the command ``word``, which adds a rule."""

    @net.command(word, help=summary)
    @click.argument("name", metavar="VM")
    @click.argument("rule", metavar="RULE")
    @_until
    @_comment
    @pass_session
    def command(session: Session, name: str, rule: str, until: str, comment: str) -> None:
        _add(session, name, rule, until, comment, allow=allow)


_adding("allow", "Let VM reach what RULE says: [tcp|udp|icmp] NAME|ADDRESS|NETWORK|any[:PORTS].", allow=True)
_adding("deny", "Keep VM from what RULE says.", allow=False)


@net.command()
@click.argument("name", metavar="VM")
@click.argument("rule", metavar="[allow|deny] RULE")
@pass_session
def rm(session: Session, name: str, rule: str) -> None:
    """Take RULE out again; 'deny any' or 'allow any' says which of two is meant."""
    from okubsd.host import editing

    vm = session.vm(name)
    word, _, rest = rule.partition(" ")
    kinds = {"allow": (True,), "deny": (False,)}.get(word, (True, False))
    rules = [_parse(rest if word in ("allow", "deny") else rule, allow=kind) for kind in kinds]
    there = [rule for rule in rules if any(editing.same(rule, own) for own in vm.rules)]
    if len(there) > 1:
        raise Misuse(f"VM '{name}' both allows and denies {quoted(rule)}", f"okubsd net rm {name} 'deny {rule}'")
    _tell(editing.remove(session, vm, (there or rules)[0]), name)


@net.command("refuse-host", hidden=True)
@click.argument("name", metavar="VM")
@pass_session
def refuse_host(session: Session, name: str) -> None:
    """Refuse the addresses that this host has by now to a running VM; its keeper calls this when they change."""
    from okubsd.host import rules as ruling

    ruling.refuse_host(session, session.running_vm(name))


def _parse(text: str, *, allow: bool) -> Rule:
    try:
        return parse_rule(text, allow=allow)
    except ValueError as error:
        raise Misuse(f"the rule {quoted(text)} {error}", "okubsd net allow VM example.org:443") from None


def _add(session: Session, name: str, text: str, until: str, comment: str, *, allow: bool) -> None:
    from okubsd.host import editing

    vm = session.vm(name)
    rule = _parse(text, allow=allow)
    if not vm.network.kind.leads_out:
        sentence = f"VM '{name}' is on the network '{vm.network.name}', which nothing leaves, so a rule does nothing"
        raise Misuse(sentence, f"change its 'network' in {session.description.path}")
    if not comment.isprintable() or len(comment) > 200:
        raise Misuse("a comment is one line of at most 200 characters")
    if any(editing.same(rule, own) for own in vm.rules):
        raise Misuse(f"VM '{name}' has the rule '{render_rule(rule)}' already", f"okubsd net show {name}")
    element = render_element(render_rule(rule), _when(until), comment)
    _tell(editing.add(session, vm, "allow" if allow else "deny", element), name)


def _when(text: str) -> str:
    """Return when a rule ends, as it is written down; "" where it does not."""
    match = _AFTER.fullmatch(text)
    if match and int(match[1]):
        end = time.time() + int(match[1]) * _UNITS[match[2]]
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(end))
    moment = parse_moment(text) if text else None
    if text and moment is None:
        raise Misuse(f"{quoted(text)} is no time", "a time is such as 2027-01-31, 2027-01-31T18:00 or +2h")
    if moment is not None and moment <= time.time():
        raise Misuse(f"{quoted(text)} is over already, so the rule would never hold", "a time to come is such as +2h")
    return text


def _tell(session: Session, name: str) -> None:
    """Put the rules in force, and say where they are and whether that was possible."""
    from okubsd.host import editing
    from okubsd.host import rules as ruling

    vm = session.vm(name)
    path, _ = editing.file_of(session.description, vm)
    try:
        session.report(f"{name}: {path} was changed; {ruling.put_in_force(session, vm)}")
    except Problem as problem:
        raise Problem(f"{path} was changed, but not what is in force: {problem.sentence}", problem.hint) from None


@click.command()
@click.option(
    "--svg", "target", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False), help="Write it as SVG."
)
@as_json
@pass_session
def graph(session: Session, target: Path | None, json: bool) -> None:
    """Draw VMs, gateways and networks, and what may reach what: as text, or as SVG."""
    from okubsd.plan import graph as drawing

    drawn = drawing.draw(session.description)
    if json:
        import msgspec

        print_json(**msgspec.to_builtins(drawn))
    elif target is None:
        sys.stdout.write(drawing.render_text(session.description))
    if target is not None:
        from okubsd.host import door

        door.write(target, drawing.render_svg(drawn).encode(), 0o644)
        session.report(f"the picture is in {target}")


@click.command()
@click.argument("name", metavar="VM", default="")
@click.argument("port", metavar="[[HOSTPORT:]PORT]", default="")
@click.option("--stop", "stop", is_flag=True, help="Take a port back.")
@click.option("--hosts", "hosts", is_flag=True, help="Print lines for hosts(5), by which VMs have names here.")
@as_json
@pass_session
def publish(session: Session, name: str, port: str, stop: bool, hosts: bool, json: bool) -> None:
    """Give PORT of the running VM to this host's loopback, as HOSTPORT; without PORT, list what is published."""
    from okubsd.host import publish as publishing
    from okubsd.host.guest import Guest

    if hosts and not (name or stop):
        _print_hosts(session, json=json)
        return
    if not name or hosts:
        raise Misuse("say which VM, or --hosts alone", "okubsd publish --hosts")
    vm = session.running_vm(name)
    run = session.places.vm_run(vm.name)
    if not port:
        _list_published(vm, publishing.published(run), json=json)
        return
    host, guest_port = _ports(port)
    if stop:
        _unpublish(vm, run, host, guest_port)
        return
    publishing.publish(Guest.find(session.places, vm), guest_port, host)
    if json:
        print_json(vm=name, published=[{"host": f"127.0.0.1:{host}", "guest": guest_port}])
    else:
        print(f"127.0.0.1:{host}")


def _print_hosts(session: Session, *, json: bool) -> None:
    """Print by which names this host reaches what described VMs publish (hosts(5)); all of them are its loopback."""
    names = [f"{vm.name}.okubsd" for vm in session.description.vms if vm.publish]
    if json:
        print_json(hosts=[{"address": "127.0.0.1", "name": name} for name in names])
        return
    for name in names:
        print(f"127.0.0.1\t{name}")


def _list_published(vm: Vm, found: dict[int, int], *, json: bool) -> None:
    rows = [{"host": f"127.0.0.1:{host}", "guest": guest} for host, guest in found.items()]
    if json:
        print_json(vm=vm.name, published=rows)
    else:
        print_table(("HOST", "GUEST"), [(str(row["host"]), str(row["guest"])) for row in rows])


def _unpublish(vm: Vm, run: Path, host: int, guest: int) -> None:
    """Take back what was published as ``host``, or else every port that leads to ``guest``, when one is named."""
    from okubsd.host import publish as publishing

    found = publishing.published(run)
    ports = [host] if host in found else [one for one, other in found.items() if host == guest == other]
    if not ports:
        raise Problem(f"port {host} of VM '{vm.name}' is not published", f"okubsd publish {vm.name}")
    for one in ports:
        publishing.unpublish(vm, run, one)


def _ports(text: str) -> tuple[int, int]:
    """Return the host's port and the guest's, in the order of ssh -L and of every container tool."""
    match = re.fullmatch(r"(?:([0-9]{1,5}):)?([0-9]{1,5})", text)
    host, guest = (int(match[1] or match[2]), int(match[2])) if match else (0, 0)
    if not 0 < guest < 65536 or not 0 < host < 65536:
        raise Misuse(f"{quoted(text)} is no PORT or HOSTPORT:PORT", "okubsd publish browser 8080:8000")
    return host, guest
