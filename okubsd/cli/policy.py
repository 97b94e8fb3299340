"""okubsd policy: what may cross from one VM to another."""

from __future__ import annotations

import click

from okubsd.cli.session import Verbs, as_json, pass_session, print_json, print_table
from okubsd.config.policy import DENY, LAST, SERVICES
from okubsd.display.clip import HOST
from okubsd.errors import Unknown
from okubsd.host.policy import decision, policy_files, read_policy
from okubsd.host.session import Session


@click.group(cls=Verbs)
def policy() -> None:
    """What may cross between VMs: check, show, test."""


@policy.command("check")
@pass_session
def check(session: Session) -> None:
    """Check all policies, and say all their mistakes at once."""
    read_policy(session)
    session.report(f"{len(policy_files())} files are in order")


@policy.command("show")
@as_json
@pass_session
def show(session: Session, json: bool) -> None:
    """List all lines in the order that they are asked."""
    lines = (*read_policy(session), *LAST)
    if json:
        print_json(policy=[{name: getattr(line, name) for name in line.__struct_fields__} for line in lines])
        return
    rows = [(line.service, line.source, line.target, line.action, line.place) for line in lines]
    print_table(("SERVICE", "SOURCE", "TARGET", "ACTION", "WHERE"), rows)


@policy.command("test")
@click.argument("service", type=click.Choice(SERVICES))
@click.argument("source", metavar="A")
@click.argument("target", metavar="B")
@as_json
@pass_session
def test(session: Session, service: str, source: str, target: str, json: bool) -> int:
    """Say whether SERVICE may cross from A to B, VMs or 'host', and which line decides; exit with 1 where not."""
    return tell_crossing(session, service, source, target, json=json)


def tell_crossing(session: Session, service: str, source: str, target: str, *, json: bool) -> int:
    """Print what the policy decides, and return the exit code."""
    for name in (source, target):
        if name != HOST and session.description.find(name) is None:
            raise Unknown(f"there is no VM '{name}'", "okubsd list")
    line = decision(read_policy(session), service, source, target)
    if json:
        print_json(action=line.action, file=line.file, line=line.line)
    else:
        print(f"{service} from {source} to {target}: {line.action}, by {line.place}")
    return 1 if line.action == DENY else 0
