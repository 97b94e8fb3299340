"""okubsd selftest: attack a VM from inside, and see which walls hold."""

from __future__ import annotations

import sys
from typing import Any

import click

from okubsd.cli.session import as_json, harmless, pass_session, print_json
from okubsd.host.session import Session


@click.command()
@click.argument("name", metavar="VM")
@as_json
@pass_session
def selftest(session: Session, name: str, json: bool) -> None:
    """Attack a running VM from inside, and say which walls held; exit with 1 where one did not, or none was tried.

    Windows of the test are seen for a moment.
    """
    import msgspec

    from okubsd.host.selftest.attacking import run_all
    from okubsd.host.selftest.lines import Line

    def tell(line: Line) -> None:
        if not json:
            print(f"{line.verdict:<10} {line.name:<16} {harmless(line.tried)}: {harmless(line.seen)}", flush=True)

    vm = session.running_vm(name)
    if not json and not session.quiet:
        session.report(f"{vm.name}: its walls are attacked; windows of the test are seen for a moment")
    report = run_all(session, vm, tell)
    if json:
        lines: list[dict[str, Any]] = [msgspec.structs.asdict(line) for line in report.lines]
        print_json(vm=vm.name, when=round(report.when), held=report.held, lines=lines)
    else:
        print(f"{vm.name}: {report.summary()}")
    if not report.held:
        sys.exit(1)
