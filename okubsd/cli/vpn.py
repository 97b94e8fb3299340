"""okubsd vpn: the tunnels, and the proof that a VM's packets go through its own."""

from __future__ import annotations

import sys

import click
import msgspec

from okubsd.cli.session import Verbs, as_json, harmless, pass_session, print_json, print_table
from okubsd.errors import Misuse, Problem
from okubsd.host.session import Session
from okubsd.model import Network, NetworkKind

# Tells who asks; vpn test --url names another.
_SERVICE = "http://icanhazip.com/"


@click.group(cls=Verbs)
def vpn() -> None:
    """Tunnels: ls, test."""


@vpn.command("ls")
@as_json
@pass_session
def list_tunnels(session: Session, json: bool) -> None:
    """List the tunnels, whether they are there, and whether their other end answers."""
    from okubsd.host.vpn import ask_tunnels

    states = list(ask_tunnels(session, lambda network: interface_of(session, network)))
    if json:
        print_json(tunnels=[msgspec.to_builtins(state) for state in states])
        return
    rows = [
        (
            state.network,
            str(state.kind),
            state.holder,
            "up" if state.up else "down",
            "; ".join(f"{peer.endpoint} {peer.in_words()}" for peer in state.peers) or "-",
            " ".join(state.vms) or "-",
        )
        for state in states
    ]
    print_table(("NETWORK", "KIND", "HELD BY", "STATE", "PEERS", "VMS"), rows)


def interface_of(session: Session, network: Network) -> str:
    """Return the interface of a tunnel on OpenBSD, by the number that it has there."""
    from okubsd.host import apply as applying
    from okubsd.host.system import HostRoot
    from okubsd.netif.numbers import NETWORK_MARK

    number = applying.kept_numbers(HostRoot(session.places.system)).get(f"{NETWORK_MARK}{network.name}")
    if number is None:
        raise Problem(f"the network '{network.name}' was not installed on this host yet", "doas okubsd apply")
    return f"{network.kind.interface}{number}"


@vpn.command()
@click.argument("name", metavar="VM")
@click.option("--url", default=_SERVICE, show_default=True, help="An http:// page that tells the address of who asks.")
@click.option("--cut/--no-cut", default=None, help="Take the tunnel down for a moment; not if others use it.")
@click.option("--compare", is_flag=True, help="Ask the page from this host too; it then knows both addresses.")
@as_json
@pass_session
def test(session: Session, name: str, url: str, cut: bool | None, compare: bool, json: bool) -> None:
    """Try from inside VM: its exit address, DNS, IPv6, and what is reached while the tunnel is down.

    VM is booted if need be.  Exit with 1 if something is not as it should be.
    """
    from okubsd.host import lifecycle, running
    from okubsd.host import vpn as testing
    from okubsd.host.gateway import clients_that_run, find_gateway
    from okubsd.model import Request

    vm = session.vm(name)
    if not (vm.network.kind.is_tunnel or vm.network.kind is NetworkKind.GATEWAY):
        sentence = f"VM '{name}' goes through no tunnel: its network '{vm.network.name}' is {vm.network.kind}"
        raise Misuse(sentence, "okubsd net ls")
    if not running.is_running(session.places, vm.name):
        lifecycle.start(session, vm, Request(windowless=True))
    through = find_gateway(vm, session.description)
    others = [n for n in clients_that_run(session.places, through, session.description) if n != name] if through else []
    if cut is None:
        cut = not others
        if others:
            session.report(f"{name}: {', '.join(others)} use this tunnel too, so it is not taken down; --cut does it")
    found = []
    here = interface_of(session, vm.network) if through is None else ""
    for check in testing.checks(session, vm, url, cut=cut, compare=compare, interface=here):
        found.append(check)
        if not json:
            word = {True: "pass", False: "FAIL", None: "-"}[check.passed]
            print(f"{word:<5} {check.name:<13} {harmless(check.evidence)}", flush=True)
    failed = [check for check in found if check.passed is False]
    if json:
        print_json(vm=name, passed=not failed, checks=[msgspec.to_builtins(check) for check in found])
    if failed:
        sys.exit(1)
