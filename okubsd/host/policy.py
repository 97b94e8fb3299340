"""Read the policies of the host and of the user, and ask them before anything crosses."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from okubsd.config.policy import ALLOW, ASK, PolicyLine, decide_crossing, parse_policy
from okubsd.display.clip import HOST
from okubsd.errors import Problem
from okubsd.host.places import xdg_directory
from okubsd.host.reading import read_trusted
from okubsd.host.session import Session

_DIRECTORY = "okubsd/policy.d"


def policy_files() -> list[Path]:
    """Return the policies in the order that they are asked: the host's before the user's, each by name."""
    places = (Path("/etc"), xdg_directory(os.environ, "XDG_CONFIG_HOME", ".config"))
    return [path for top in places for path in sorted((top / _DIRECTORY).glob("[!.]*.policy"))]


def read_policy(session: Session) -> tuple[PolicyLine, ...]:
    """Return all lines, the first that matches decides.  Raises BadDescription with all mistakes."""
    texts = [(path, read_trusted(path)) for path in policy_files()]
    return parse_policy(texts, (vm.name for vm in session.description.vms))


def decision(session: Session, service: str, source: str, target: str) -> PolicyLine:
    """Return the line that decides whether ``service`` may cross, between names of VMs or "host"."""
    sides = ("@host" if name == HOST else name for name in (source, target))
    return decide_crossing(read_policy(session), service, *sides)


def need_leave(session: Session, service: str, source: str, target: str, what: str) -> None:
    """Raise Problem where the policy, or the user whom it asks about ``what``, does not let ``service`` cross."""
    line = decision(session, service, source, target)
    if line.action == ALLOW:
        return
    question = f"{service} from {source} to {target}"
    if line.action != ASK:
        raise Problem(f"{question} is denied: {line.place}", f"okubsd policy test {service} {source} {target}")
    if not sys.stdin.isatty():
        raise Problem(f"{question} has to be asked ({line.place}), and there is no terminal to ask on")
    print(f"okubsd: {question}: {what}", file=sys.stderr)
    if input("okubsd: let it cross? Write yes: ") != "yes":
        raise Problem(f"{question}: it did not cross")
