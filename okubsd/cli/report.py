"""okubsd report: everything that tells of a fault, in one file without keys and addresses."""

from __future__ import annotations

import getpass
import os
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click

from okubsd import __version__
from okubsd.cli.compile import compile_session
from okubsd.cli.details import details_of, in_words
from okubsd.cli.doctor import findings
from okubsd.cli.session import harmless, pass_session
from okubsd.errors import BadDescription, Misuse, Problem
from okubsd.host import door, programs, report, running
from okubsd.host.session import Session
from okubsd.host.system import HostRoot
from okubsd.host.trust import is_root
from okubsd.model import Description
from okubsd.plan.changes import changes_to, is_secret, wanted_files
from okubsd.plan.doctor import Finding
from okubsd.plan.report import Part, Scrubber, render_report


@click.command("report")
@click.option("-o", "--output", metavar="FILE", default="", help="Where to write it; - is the standard output.")
@pass_session
def report_fault(session: Session, output: str) -> None:
    """Write what tells of a fault into one file: versions, files, rules, states, logs.

    Keys, addresses, names of users and of hosts are taken out.
    """
    path = Path(output or time.strftime("okubsd-report-%Y%m%d-%H%M%S.txt"))
    if output != "-" and (path.exists() or path.is_symlink()):
        raise Misuse(f"{path} is there already, and a report overwrites nothing", "okubsd report --output -")
    description = _or_none(session)
    owners = {vm.owner for vm in description.vms} | {description.host.owner} if description else set()
    people = {getpass.getuser(), os.environ.get("DOAS_USER", ""), *owners} - {"root", "okubsd", ""}
    text = render_report(_parts(session), Scrubber(report.names_of_hosts(description), people))
    text = harmless(text)
    if output == "-":
        sys.stdout.write(text)
        return
    try:
        door.write(path.absolute(), text.encode(errors="replace"), 0o600)
    except OSError as error:
        raise Problem(f"{path}: {error.strerror}", "okubsd report --output -") from None
    session.report(f"{path} has the report; read it before you give it to anybody")
    if programs.has_vmd() and not is_root():
        session.report("only root sees the rules of pf: doas okubsd report")


def _or_none(session: Session) -> Description | None:
    try:
        return session.known_description
    except Problem:
        return None


def _parts(session: Session) -> Iterator[Part]:
    yield Part("okubsd", f"{__version__}, Python {platform.python_version()}, {sys.platform}")
    yield Part("okubsd doctor", "\n".join(map(_line, findings(session))))
    yield from report.host_parts(HostRoot(session.places.system))
    yield from _description(session)
    for name in running.known_vm_names(
        session.places, session.known_description.vms if session.known_description else ()
    ):
        yield Part(f"okubsd status {name}", _status(session, name))
        yield from report.log_parts(session.places, name)


def _line(finding: Finding) -> str:
    return f"{finding.state:<7} {finding.what}"


def _description(session: Session) -> Iterator[Part]:
    """Yield the description, and on OpenBSD what is made of it: the files as they lie there, and what would change."""
    from okubsd.host.reading import drop_ins_of, find_description

    try:
        path = find_description(session.places, session.given)
    except BadDescription as error:
        yield Part("the description", "\n".join(map(str, error.mistakes)))
        return
    for file in (path, *drop_ins_of(path)):
        yield from report.file_parts(HostRoot(Path("/")), [str(file.absolute())])
    if programs.has_vmd():
        yield from _compiled(session)


def _compiled(session: Session) -> Iterator[Part]:
    system = HostRoot(session.places.system)
    try:
        compiled = compile_session(session, system, default_owner="root")
    except BadDescription as error:
        yield Part("okubsd render", "\n".join(map(str, error.mistakes)))
        return
    paths = sorted(file.path for file in compiled.files)
    yield from report.file_parts(system, (path for path in paths if not is_secret(path)))
    try:
        files = system.read_all(path for path in paths if path != "etc/rc.conf.local")
    except Problem as problem:
        yield Part("okubsd apply --dry-run", problem.sentence)
        return
    changes = changes_to(wanted_files(compiled, files), files)
    yield Part("okubsd apply --dry-run", "".join(change.diff() for change in changes) or "nothing to do")


def _status(session: Session, name: str) -> str:
    """Return what `status` says of a VM; a report is wanted above all where it fails."""
    try:
        return "\n".join(f"{key:<16} {value}" for key, value in in_words(details_of(session, session.running_vm(name))))
    except Problem as problem:
        return problem.sentence
