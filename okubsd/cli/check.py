"""okubsd check: the description, the recipes, and what OpenBSD would make of them."""

from __future__ import annotations

import re

import click

from okubsd.cli.compile import compile_session
from okubsd.cli.session import as_json, pass_session, print_json
from okubsd.errors import BadDescription, Mistake, Problem
from okubsd.host import judging, programs
from okubsd.host.homes import home_sizes
from okubsd.host.places import description_candidates
from okubsd.host.reading import misnamed_files
from okubsd.host.session import Session
from okubsd.host.system import HostRoot
from okubsd.host.tunnels import passed_over, read_secrets
from okubsd.hostfile import How
from okubsd.plan.changes import wanted_files
from okubsd.plan.judge import compiled_mistakes, unread_lines
from okubsd.plan.limits import OPENBSD, QEMU, limits


@click.command()
@click.option("--for", "judged", type=click.Choice([OPENBSD, QEMU]), help="As on such a host, not on this one.")
@as_json
@pass_session
def check(session: Session, judged: str | None, json: bool) -> int:
    """Check the description and the recipes, for this host; say every mistake at once.

    For OpenBSD its files are compiled from it and judged too: by okubsd itself everywhere, by its own parsers where
    there are any.
    """
    judged = judged or (OPENBSD if programs.has_vmd() else QEMU)
    try:
        judges = _check(session, judged)
    except BadDescription as error:
        if not json:
            raise
        print_json(judged_for=judged, mistakes=[_as_dict(mistake) for mistake in error.mistakes])
        return error.code
    description = session.description
    for path in misnamed_files(description.path, description_candidates(session.given, session.places.share)):
        session.report(f"{path} is not read; call it {path.with_suffix('.yaml').name}")
    if json:
        counts = {"vms": len(description.vms), "recipes": len(session.recipes)}
        print_json(description=str(description.path), judged_for=judged, **counts, judges=judges, mistakes=[])
    else:
        counted = f"{len(description.vms)} VMs and {len(session.recipes)} recipes"
        session.report(f"{description.path}: {counted}, no mistakes for {_HOSTS[judged]}")
    return 0


_HOSTS = {"openbsd": "OpenBSD's vmd", "qemu": "QEMU"}

_PLACE = re.compile(r"(?P<file>.+?):(?:(?P<line>[0-9]+):)? (?:(?P<path>[A-Za-z0-9_.-]+): )?")


def _as_dict(mistake: str) -> dict[str, object]:
    """Return what a mistake is made of; of one that is only text, its place is read from it."""
    if isinstance(mistake, Mistake):
        parts = {"file": mistake.file, "line": mistake.line, "path": mistake.path}
        return {**parts, "found": mistake.found, "allowed": mistake.allowed, "sentence": str(mistake)}
    match = _PLACE.match(mistake)
    place = match.groupdict() if match else {"file": None, "line": None, "path": None}
    parts = {"file": place["file"] or "", "line": int(place["line"] or 0), "path": place["path"] or ""}
    return {**parts, "found": "", "allowed": "", "sentence": mistake}


def _check(session: Session, judged: str) -> list[str]:
    """Return who judged.  Raises BadDescription with every mistake that was found."""
    # The mistakes of recipes and of the description come together.
    mistakes: list[str] = []
    try:
        _ = session.recipes
    except BadDescription as error:
        mistakes += error.mistakes
    try:
        description = session.description
    except BadDescription as error:
        raise BadDescription([*mistakes, *(found for found in error.mistakes if found not in mistakes)]) from None
    sizes = home_sizes(session.places, [vm.name for vm in description.vms])
    usable = judging.usable_memory() if judged == OPENBSD else 0
    mistakes += limits(description, judged, sizes=sizes, usable=usable)
    try:
        told = passed_over(read_secrets(description))
    except BadDescription as error:
        raise BadDescription([*mistakes, *error.mistakes]) from None
    if mistakes:
        raise BadDescription(mistakes)
    if judged == OPENBSD:
        return _check_openbsd(session)
    for name, phrases in told.items():
        session.report(f"{name}: ignored in its file: {', '.join(phrases)}")
    return ["okubsd"]


def _check_openbsd(session: Session) -> list[str]:
    """Return who judged the compiled files.  Raises BadDescription with every mistake that was found."""
    system = HostRoot(session.places.system)
    compiled = compile_session(session, system, default_owner="root")
    try:
        files = system.read_all(sorted({file.path for file in compiled.files if file.how is not How.RCCTL}))
    except Problem:
        # Only root may read pf.conf and doas.conf; then ours are judged as on a fresh host.
        files = {}
    wanted = wanted_files(compiled, files)
    unread = unread_lines(wanted)
    if unread:
        lines = ", ".join(map(str, unread))
        session.report(f"/etc/pf.conf: lines {lines} have words that okubsd does not know; only pfctl can judge them")
    mistakes = compiled_mistakes(compiled, wanted)
    judges = ["okubsd"]
    if not mistakes and programs.has_vmd():
        judges += judging.ask_parsers(system, wanted, mistakes)
    if mistakes:
        raise BadDescription(mistakes)
    return judges
