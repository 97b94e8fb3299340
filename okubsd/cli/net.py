"""okubsd net, graph, publish: what VMs reach, and how that is changed."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import Any

import click

from okubsd.cli.session import Session, Verbs, as_json, harmless, pass_session, print_json, print_table
from okubsd.config.edit import render_rule
from okubsd.config.fields import parse_moment
from okubsd.config.flow import effective_flows, parse_flow, render_flow
from okubsd.config.names import quoted
from okubsd.errors import Misuse, Problem
from okubsd.model import NAT, NONE, Flow, Vm, Way

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
    networks = (NAT, NONE, *(network for network in session.wish.networks if network not in (NAT, NONE)))
    rows = [
        {
            "name": network.name,
            "way": str(network.way),
            "through": network.gateway or network.address or Path(network.file).name,
            "vms": [vm.name for vm in session.wish.vms if vm.network == network],
        }
        for network in networks
    ]
    if json:
        print_json(networks=rows)
        return
    table = [(str(r["name"]), str(r["way"]), str(r["through"]) or "-", " ".join(r["vms"]) or "-") for r in rows]
    print_table(("NETWORK", "WAY", "THROUGH", "VMS"), table)


@net.command()
@click.argument("name", metavar="VM")
@as_json
@pass_session
def show(session: Session, name: str, json: bool) -> None:
    """Show the rules of VM in the order in which they decide, and the names in them."""
    vm = session.vm(name)
    now = time.time()
    from okubsd.host import rules

    names = rules.names_state(session.places, session.site, vm)
    expired = [flow for flow in vm.flows if flow.until is not None and flow.until <= now]
    rows = [_row(flow, now) for flow in (*effective_flows(vm.flows, now), *expired)]
    if json:
        limits = {"down": vm.bandwidth.down, "up": vm.bandwidth.up}
        print_json(
            vm=vm.name, network=vm.network.name, way=str(vm.network.way), bandwidth=limits, rules=rows, names=names
        )
        return
    print(f"{vm.name} is on the network '{vm.network.name}' ({vm.network.way})")
    if vm.network.way in (Way.NONE, Way.SWITCH):
        return
    print_table(
        ("RULE", "ENDS", "WRITTEN"),
        [(str(row["rule"]), str(row["ends"] or "-"), str(row["written"] or "(built in)")) for row in rows],
    )
    for line in names:
        print(f"name {harmless(line)}")


def _row(flow: Flow, now: float) -> dict[str, Any]:
    ends = None if flow.until is None else time.strftime("%Y-%m-%dT%H:%M", time.localtime(flow.until))
    if flow.until is not None and flow.until <= now:
        ends = f"{ends} (over)"
    comment = f" # {flow.comment}" if flow.comment else ""
    return {
        "rule": f"{'allow' if flow.allow else 'deny'} {render_flow(flow)}{comment}",
        "ends": ends,
        "written": f"{flow.file}:{flow.line}" if flow.line else None,
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
    from okubsd.host import rules

    vm = session.vm(name)
    word, _, rest = rule.partition(" ")
    kinds = {"allow": (True,), "deny": (False,)}.get(word, (True, False))
    flows = [_parse(rest if word in ("allow", "deny") else rule, allow=kind) for kind in kinds]
    there = [flow for flow in flows if any(rules.same(flow, own) for own in vm.flows)]
    if len(there) > 1:
        raise Misuse(f"VM '{name}' both allows and denies {quoted(rule)}", f"okubsd net rm {name} 'deny {rule}'")
    site = rules.remove(session.places, session.site, vm, (there or flows)[0])
    _tell(session, site, name)


@net.command("refuse-host", hidden=True)
@click.argument("name", metavar="VM")
@pass_session
def refuse_host(session: Session, name: str) -> None:
    """Refuse the addresses that this host has by now to a running VM; its keeper calls this when they change."""
    from okubsd.host import rules

    rules.refuse_host(session.places, session.running_vm(name))


def _parse(text: str, *, allow: bool) -> Flow:
    try:
        return parse_flow(text, allow=allow)
    except ValueError as error:
        raise Misuse(f"the rule {quoted(text)} {error}", "okubsd net allow VM example.org:443") from None


def _add(session: Session, name: str, rule: str, until: str, comment: str, *, allow: bool) -> None:
    from okubsd.host import rules

    vm = session.vm(name)
    flow = _parse(rule, allow=allow)
    if vm.network.way in (Way.NONE, Way.SWITCH):
        sentence = f"VM '{name}' is on the network '{vm.network.name}', which nothing leaves, so a rule does nothing"
        raise Misuse(sentence, f"change its 'network' in {session.wish.path}")
    if not comment.isprintable() or len(comment) > 200:
        raise Misuse("a comment is one line of at most 200 characters")
    if any(rules.same(flow, own) for own in vm.flows):
        raise Misuse(f"VM '{name}' has the rule '{render_flow(flow)}' already", f"okubsd net show {name}")
    element = render_rule(render_flow(flow), _when(until), comment)
    site = rules.add(session.places, session.site, vm, "allow" if allow else "deny", element)
    _tell(session, site, name)


def _when(text: str) -> str:
    """Return when a rule ends, as it is written down; "" where it does not."""
    match = _AFTER.fullmatch(text)
    if match and int(match[1]):
        end = time.time() + int(match[1]) * _UNITS[match[2]]
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(end))
    moment = parse_moment(text) if text else None
    if text and moment is None:
        raise Misuse(f"{quoted(text)} is no time", "--until 2027-01-31, --until 2027-01-31T18:00 or --until +2h")
    if moment is not None and moment <= time.time():
        raise Misuse(f"{quoted(text)} is over already, so the rule would never hold", "--until +2h")
    return text


def _tell(session: Session, site: Any, name: str) -> None:
    """Put the rules in force, and say where they are and whether that was possible."""
    from okubsd.host import rules

    vm = site.wish.find(name)
    assert vm is not None
    path, _ = rules.file_of(site.wish, vm)
    try:
        session.report(f"{name}: {path} was changed; {rules.put_in_force(session.places, site, vm)}")
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

    drawn = drawing.draw(session.wish)
    if json:
        import msgspec

        print_json(**msgspec.to_builtins(drawn))
    elif target is None:
        sys.stdout.write(drawing.render_text(session.wish))
    if target is not None:
        from okubsd.host import door

        door.write(target, drawing.render_svg(drawn).encode(), 0o644)
        session.report(f"the picture is in {target}")


@click.command()
@click.argument("name", metavar="VM")
@click.argument("port", metavar="[[HOSTPORT:]PORT]", default="")
@click.option("--stop", "stop", is_flag=True, help="Take a port back.")
@as_json
@pass_session
def publish(session: Session, name: str, port: str, stop: bool, json: bool) -> None:
    """Give PORT of the running VM to this host's loopback, as HOSTPORT; without PORT, list what is published."""
    from okubsd.host import facts, lifecycle
    from okubsd.host import publish as publishing

    vm = session.running_vm(name)
    run = session.places.vm_run(vm.name)
    if not port:
        _list_published(vm, publishing.published(run), json=json)
        return
    host, guest = _ports(port)
    if stop:
        _unpublish(vm, run, host, guest)
        return
    if not facts.ask_vm(session.places, vm.name).connected:
        from okubsd.errors import Unreachable
        from okubsd.host import door

        # It goes through the shared connection, which a first call opens.
        done = door.ask((*lifecycle.shared_ssh(session.places, vm, "-T"), "true"), timeout=30)
        if done.code != 0:
            raise Unreachable(f"{name}: the guest cannot be reached by ssh: {door.reason(done)}")
    publishing.publish(vm, run, guest, host)
    if json:
        print_json(vm=name, published=[{"host": f"127.0.0.1:{host}", "guest": guest}])
    else:
        print(f"127.0.0.1:{host}")


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
