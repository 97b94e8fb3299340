"""Read the policies of the host and of the user, and ask them before anything crosses."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import termios
from collections.abc import Iterable
from pathlib import Path

from okubsd.config.policy import ALLOW, ASK, DENY, DESKTOP, PolicyLine, decide_crossing, parse_policy
from okubsd.display.clip import HOST
from okubsd.display.orders import Asked
from okubsd.errors import BadDescription, Problem
from okubsd.host import door, programs
from okubsd.host.crossings import ALLOWED, REFUSED, write_down
from okubsd.host.places import xdg_directory
from okubsd.host.reading import read_trusted
from okubsd.host.running import read_started
from okubsd.host.session import Session

_DIRECTORY = "okubsd/policy.d"

# Who does not answer for so long, in seconds, has said no.
_ANSWER_SECONDS = 30.0


def policy_files() -> list[Path]:
    """Return the policies in the order that they are asked: the host's before the user's, each by name.

    Raises BadDescription where a directory of policies cannot be read, or holds something else: nothing is let
    through because a rule was not seen.
    """
    places = (Path("/etc"), xdg_directory(os.environ, "XDG_CONFIG_HOME", ".config"))
    return [path for top in places for path in _policies_in(top / _DIRECTORY)]


def _policies_in(directory: Path) -> list[Path]:
    try:
        names = sorted(path.name for path in directory.iterdir())
    except FileNotFoundError:
        if directory.is_symlink():
            raise BadDescription([f"{directory}: it points to nothing"]) from None
        return []
    except OSError as error:
        raise BadDescription([f"{directory}: {error.strerror}"]) from None
    # What an editor leaves behind begins with a dot or ends with a tilde.
    found = [directory / name for name in names if not name.startswith(".") and not name.endswith("~")]
    wrong = [f"{path}: the name of a policy ends in '.policy'" for path in found if path.suffix != ".policy"]
    if wrong:
        raise BadDescription(wrong)
    return found


def read_policy(session: Session) -> tuple[PolicyLine, ...]:
    """Return all lines, the first that matches decides.  Raises BadDescription with all mistakes."""
    texts = [(path, read_trusted(path)) for path in policy_files()]
    return parse_policy(texts, {vm.name: vm.tags for vm in session.description.vms})


def decision(policy: Iterable[PolicyLine], service: str, source: str, target: str) -> PolicyLine:
    """Return the line of ``policy`` that decides whether ``service`` may cross, between names of VMs or "host"."""
    sides = (DESKTOP if name == HOST else name for name in (source, target))
    return decide_crossing(policy, service, *sides)


def known_as(session: Session, name: str) -> str:
    """Return the name that policies know a VM by: for a copy that of the VM it is one of."""
    if name == HOST or session.description.find(name) is not None:
        return name
    started = read_started(session.places, name)
    return started.copy_of if started is not None and started.copy_of else name


def need_leave(session: Session, service: str, source: str, target: str, what: str) -> None:
    """Have ``service`` cross, and write that down; raise Problem as judge_crossing()."""
    try:
        judge_crossing(session, service, source, target, what)
    except Problem:
        write_down(session.places, service, source, target, REFUSED)
        raise
    write_down(session.places, service, source, target, ALLOWED)


def judge_crossing(session: Session, service: str, source: str, target: str, what: str) -> None:
    """Raise Problem where the policy, or the user whom it asks about ``what``, does not let ``service`` cross."""
    for name in (source, target):
        if name != HOST and session.description.find(name) is None:
            raise Problem(f"'{name}' is not in the description, so no policy is about it", "okubsd list")
    line = decision(read_policy(session), service, source, target)
    if line.action == ALLOW:
        return
    question = f"{service} from {source} to {target}"
    if line.action != ASK:
        raise Problem(f"{question} is denied: {line.place}", f"okubsd policy test {service} {source} {target}")
    if not _says_yes(question, what, line):
        raise Problem(f"{question}: it did not cross")


def _says_yes(question: str, what: str, line: PolicyLine) -> bool:
    """Return whether the user says yes: in a window of the desktop, or where there is none on the terminal.

    Raises Problem where there is neither.
    """
    desktop = os.environ.get("DISPLAY", "")
    if not desktop and not sys.stdin.isatty():
        raise Problem(f"{question} has to be asked ({line.place}), and there is no display or terminal to ask on")
    if not desktop:
        return _says_yes_here(question, what)
    asked = Asked(desktop=desktop, question=question, what=what, place=line.place, seconds=_ANSWER_SECONDS)
    try:
        return door.run(programs.ask_argv(asked.render()), timeout=_ANSWER_SECONDS + 15).code == 0
    except subprocess.TimeoutExpired:
        return False


def _says_yes_here(question: str, what: str) -> bool:
    """Return whether the user says yes on the terminal, after the question: what was typed before is no answer."""
    print(f"okubsd: {question}: {what}", file=sys.stderr)
    print("okubsd: let it cross? Write yes: ", end="", file=sys.stderr, flush=True)
    termios.tcflush(sys.stdin, termios.TCIFLUSH)
    answered, _, _ = select.select([sys.stdin], [], [], _ANSWER_SECONDS)
    return bool(answered) and sys.stdin.readline().strip() == "yes"


def need_somebody(session: Session, service: str, source: str) -> None:
    """Raise Problem where the policy lets ``service`` of ``source`` cross to nobody at all."""
    targets = [HOST, *(vm.name for vm in session.description.vms)]
    policy = read_policy(session)
    lines = [decision(policy, service, source, target) for target in targets if target != source]
    if lines and all(line.action == DENY for line in lines):
        write_down(session.places, service, source, "*", REFUSED)
        raise Problem(f"{service} from {source} is denied to everybody: {lines[0].place}", "okubsd policy show")
