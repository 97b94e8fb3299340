"""okubsd bench: how long starts take, in phases; against a stock Debian VM, in the same rounds."""

from __future__ import annotations

import statistics
import sys

import click

from okubsd.cli.session import pass_session, print_json
from okubsd.errors import Misuse
from okubsd.host.session import Session


@click.command()
@click.argument("name", metavar="[VM | compile | net | display]", default="term")
@click.option("--rounds", default=5, show_default=True, help="How often each is started.")
@click.option("--against", type=click.Choice(["stock"]), help="Measure a stock Debian VM in the same rounds.")
@click.option("--vms", default=500, show_default=True, help="With 'compile': of how many VMs.")
@click.option("-j", "--json", "json", is_flag=True, help="Print JSON.")
@pass_session
def bench(session: Session, name: str, rounds: int, against: str | None, vms: int, json: bool) -> None:
    """Start VM (term) again and again on a display nobody sees, and print medians and spreads.

    'bench compile' measures how long it takes to compile a description of many VMs instead, and 'bench net' what a
    gateway costs and what a rule does, 'bench display' what a window costs.
    """
    if rounds < 1 or vms < 1:
        raise Misuse("--rounds and --vms take a whole number, at least 1")
    if name == "compile":
        _bench_compile(vms, rounds, json=json)
        return
    if name == "net":
        _bench_net(session, rounds, json=json)
        return
    if name == "display":
        _bench_display(session, rounds, json=json)
        return
    from okubsd.bench import starts

    vm = session.vm(name)
    rows = starts.measure(session, vm, rounds, stock=against == "stock")
    if json:
        print_json(vm=vm.name, rounds=rounds, host=starts.describe_host(), figures=rows)
        return
    print(starts.describe_host())
    sys.stdout.write(render_rows(rows))


def _bench_compile(vms: int, rounds: int, *, json: bool) -> None:
    from okubsd.bench import compiling

    rows = compiling.measure(vms, rounds)
    if json:
        print_json(vms=vms, rounds=rounds, host=compiling.describe_host(), figures=rows)
        return
    print(compiling.describe_host())
    sys.stdout.write(render_rows(rows))


def _bench_net(session: Session, rounds: int, *, json: bool) -> None:
    from okubsd.bench import network

    rows = network.measure(session, rounds)
    if json:
        print_json(rounds=rounds, host=network.describe_host(), figures=rows)
        return
    print(network.describe_host())
    sys.stdout.write(render_rows(rows))


def _bench_display(session: Session, rounds: int, *, json: bool) -> None:
    from okubsd.bench import display, starts

    rows = display.measure(session, session.vm("term"), rounds)
    if json:
        print_json(rounds=rounds, host=starts.describe_host(), figures=rows)
        return
    print(starts.describe_host())
    sys.stdout.write(render_rows(rows))


def render_rows(rows: dict[str, list[float]]) -> str:
    """Return a line a figure: its median, its least and its most."""
    lines = [f"{'figure':<44} {'median':>9} {'min':>9} {'max':>9}\n"]
    for name, values in rows.items():
        if values:
            numbers = (statistics.median(values), min(values), max(values))
            lines.append(f"{name:<44} " + " ".join(f"{number:9.2f}" for number in numbers) + "\n")
    return "".join(lines)
