"""okubsd render, apply, unapply, why: the description as files of an OpenBSD host."""

from __future__ import annotations

import getpass
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import click

from okubsd.cli.session import dry_run, pass_session
from okubsd.config.names import USER_NAME
from okubsd.errors import BadDescription, Misuse, Problem
from okubsd.host import apply as applying
from okubsd.host.session import Session
from okubsd.host.system import HostRoot
from okubsd.host.tunnels import passed_over, read_secrets
from okubsd.hostfile import FileState, How
from okubsd.plan.apply import plan_apply, plan_unapply
from okubsd.plan.changes import Change, wanted_files
from okubsd.plan.compile import Compiled, compile_host
from okubsd.plan.judge import compiled_mistakes
from okubsd.plan.steps import Plan


def owner_of_vms() -> str:
    """Return the user for whom the description is compiled: who called doas(1), or who we are; "" for root."""
    name = os.environ.get("DOAS_USER") or os.environ.get("SUDO_USER") or getpass.getuser()
    return name if USER_NAME.fullmatch(name) and name != "root" else ""


def compile_session(session: Session, system: HostRoot, default_owner: str = "") -> Compiled:
    """Return the compiled description.  Raises BadDescription where it cannot be.

    ``default_owner`` owns the VMs that name nobody, if the user is root and called by nobody.
    """
    user = owner_of_vms() or default_owner
    secrets = read_secrets(session.description)
    for name, phrases in passed_over(secrets).items():
        session.report(f"{name}: of its file this means nothing here: {', '.join(phrases)}")
    numbers = applying.kept_numbers(system)
    return compile_host(session.description, session.recipes, numbers, user, secrets, time.time())


def checked(compiled: Compiled, wanted: Mapping[str, FileState | None]) -> None:
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
    compiled = compile_session(session, HostRoot(target))
    wanted = wanted_files(compiled, {})
    checked(compiled, wanted)
    tree = HostRoot(target)
    for path, stat in wanted.items():
        if stat is not None:
            tree.write(path, stat, lasting=False)
    for file in compiled.files:
        if file.how is How.RCCTL:
            tree.write(file.path, FileState(file.text, file.mode), lasting=False)
    session.report(f"{len(compiled.files)} files for {len(compiled.vms)} VMs are in {target}")


@click.command()
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--recover", is_flag=True, help="Only go back from an apply that was cut short.")
@dry_run
@pass_session
def apply(session: Session, yes: bool, recover: bool, dry: bool) -> None:
    """Install the description on this OpenBSD host: show what changes, ask, and let vmd and pf read it."""
    applying.need_openbsd()
    system = HostRoot(session.places.system)
    with applying.applying(session):
        if applying.restore(session):
            session.report("an apply was cut short; the files of before are back")
        if recover:
            return
        compiled = compile_session(session, system)
        need_group(compiled.group)
        facts = applying.ask_apply(system, compiled)
        checked(compiled, wanted_files(compiled, facts.files))
        plan, changes = plan_apply(compiled, facts)
        late = [name for name in facts.running if any(change.path.endswith("vm.conf") for change in changes)]
        _carry_out(session, plan, changes, yes=yes, dry=dry)
    if late and plan and not dry:
        session.report(f"{', '.join(late)}: runs with what it was started with until it is stopped")


@click.command()
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@dry_run
@pass_session
def unapply(session: Session, yes: bool, dry: bool) -> None:
    """Take everything that apply installed from this OpenBSD host; images, homes and keys stay."""
    applying.need_openbsd()
    system = HostRoot(session.places.system)
    with applying.applying(session):
        applying.restore(session)
        nothing = Compiled(files=(), vms=(), group="")
        plan, changes = plan_unapply(applying.ask_apply(system, nothing))
        _carry_out(session, plan, changes, yes=yes, dry=dry)


def need_group(group: str) -> None:
    """Raise Problem where the group of okubsd's users does not exist."""
    import grp

    try:
        grp.getgrnam(group)
    except KeyError:
        raise Problem(
            f"there is no group '{group}'", f"doas groupadd {group} && doas usermod -G {group} ${{DOAS_USER:-$USER}}"
        ) from None


def _carry_out(session: Session, plan: Plan, changes: tuple[Change, ...], *, yes: bool, dry: bool) -> None:
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
    applying.perform_or_go_back(session, plan)
    session.report(f"{len(changes)} files changed")


def _confirm(count: int) -> None:
    """Raise Problem unless the user says yes; a script has to say -y."""
    if not sys.stdin.isatty():
        raise Misuse("there is no terminal to ask on", "doas okubsd apply -n  # shows what would change; -y does it")
    if not click.confirm(f"Change these {count} files?", err=True):
        raise Problem("nothing was changed")
