"""okubsd bench: how long starts take, in phases; against a stock Debian VM, in the same rounds."""

from __future__ import annotations

import statistics
import sys

import click
import msgspec

from okubsd.cli.session import pass_session, print_json
from okubsd.errors import Misuse
from okubsd.host.session import Session


@click.command()
@click.argument("name", metavar="[VM | compile | net | display | share | audit]", default="term")
@click.option("--rounds", default=5, show_default=True, help="How often each is started.")
@click.option("--against", type=click.Choice(["stock"]), help="Measure a stock Debian VM in the same rounds.")
@click.option("--vms", default=500, show_default=True, help="With 'compile': of how many VMs.")
@click.option("-j", "--json", "json", is_flag=True, help="Print JSON.")
@pass_session
def bench(session: Session, name: str, rounds: int, against: str | None, vms: int, json: bool) -> None:
    """Start VM (term) again and again on a display nobody sees, and print medians and spreads.

    'bench compile' measures how long it takes to compile a description of many VMs instead, and 'bench net' what a
    gateway costs and what a rule does, 'bench display' what a window costs, 'bench share' what a shared directory does.
    'bench audit' looks at a stock Debian, for what `okubsd audit --stock` says of it.
    """
    if rounds < 1 or vms < 1:
        raise Misuse("--rounds and --vms take a whole number, at least 1")
    if name == "compile":
        from okubsd.bench import compiling

        _show(compiling.measure(vms, rounds), compiling.describe_host(), json=json, vms=vms, rounds=rounds)
    elif name == "audit":
        from okubsd.bench import stock

        directory = stock.build_stock(session.places, session.recipes["term"], session.report)
        sys.stdout.write(
            msgspec.json.format(msgspec.json.encode(stock.audit_stock(directory)), indent=1).decode() + "\n"
        )
    elif name == "net":
        from okubsd.bench import network

        _show(network.measure(session, rounds), network.describe_host(), json=json, rounds=rounds)
    else:
        _bench_guests(session, name, rounds, stock=against == "stock", json=json)


def _bench_guests(session: Session, name: str, rounds: int, *, stock: bool, json: bool) -> None:
    from okubsd.bench import starts

    more: dict[str, str] = {}
    if name == "display":
        from okubsd.bench import display

        rows = display.measure(session, session.vm("term"), rounds)
    elif name == "share":
        from okubsd.bench import share

        rows = share.measure(session, rounds)
    else:
        vm = session.vm(name)
        rows, more = starts.measure(session, vm, rounds, stock=stock), {"vm": vm.name}
    _show(rows, starts.describe_host(), json=json, **more, rounds=rounds)


def _show(rows: dict[str, list[float]], host: str, *, json: bool, **about: object) -> None:
    if json:
        print_json(**about, host=host, figures=rows)
        return
    print(host)
    sys.stdout.write(render_rows(rows))


def render_rows(rows: dict[str, list[float]]) -> str:
    """Return a line a figure: its median, its least and its most."""
    lines = [f"{'figure':<44} {'median':>9} {'min':>9} {'max':>9}\n"]
    for name, values in rows.items():
        if values:
            numbers = (statistics.median(values), min(values), max(values))
            lines.append(f"{name:<44} " + " ".join(f"{number:9.2f}" for number in numbers) + "\n")
    return "".join(lines)
