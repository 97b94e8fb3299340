"""okubsd check: the description, the recipes, and what OpenBSD would make of them."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import click

from okubsd.cli.compile import compile_session
from okubsd.cli.session import Session, as_json, pass_session, print_json
from okubsd.errors import BadDescription, Mistake, Problem
from okubsd.host import door, facts, vmd
from okubsd.host.homes import store_sizes
from okubsd.host.places import description_candidates
from okubsd.host.reading import misnamed_files
from okubsd.host.system import System
from okubsd.host.tunnels import passed_over, read_secrets
from okubsd.model import Argv, Wish
from okubsd.plan.apply import judge_argv
from okubsd.plan.changes import Stat, wanted_files
from okubsd.plan.check import compiled_mistakes, unread_lines
from okubsd.plan.compile import How, memory_mistakes
from okubsd.plan.limits import home_limits, qemu_limits


@click.command()
@click.option("--for", "judged", type=click.Choice(["openbsd", "qemu"]), help="As on such a host, not on this one.")
@as_json
@pass_session
def check(session: Session, judged: str | None, json: bool) -> int:
    """Check the description and the recipes, for this host; say every mistake at once.

    For OpenBSD its files are compiled from it and judged too: by okubsd itself everywhere, by its own parsers where
    there are any.
    """
    judged = judged or ("openbsd" if vmd.has_vmd() else "qemu")
    try:
        judges = _check(session, judged)
    except BadDescription as error:
        if not json:
            raise
        print_json(judged_for=judged, mistakes=[_as_dict(mistake) for mistake in error.mistakes])
        return error.code
    wish = session.wish
    for path in misnamed_files(wish.path, description_candidates(session.given, session.places.share)):
        session.report(f"{path} is not read; call it {path.with_suffix('.yaml').name}")
    if json:
        counts = {"vms": len(wish.vms), "recipes": len(session.recipes)}
        print_json(description=str(wish.path), judged_for=judged, **counts, judges=judges, mistakes=[])
    else:
        counted = f"{len(wish.vms)} VMs and {len(session.recipes)} recipes"
        session.report(f"{wish.path}: {counted}, no mistakes for {_HOSTS[judged]}")
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
        wish = session.wish
    except BadDescription as error:
        raise BadDescription([*mistakes, *(found for found in error.mistakes if found not in mistakes)]) from None
    sizes = store_sizes(session.places, [vm.name for vm in wish.vms])
    mistakes += home_limits(wish, sizes)
    if judged == "openbsd":
        if mistakes:
            raise BadDescription(mistakes)
        return _check_openbsd(session, wish)
    mistakes += qemu_limits(wish)
    try:
        told = passed_over(read_secrets(wish))
    except BadDescription as error:
        raise BadDescription([*mistakes, *error.mistakes]) from None
    if mistakes:
        raise BadDescription(mistakes)
    for name, phrases in told.items():
        session.report(f"{name}: of its file this means nothing here: {', '.join(phrases)}")
    return ["okubsd"]


def _check_openbsd(session: Session, wish: Wish) -> list[str]:
    """Return who judged the compiled files.  Raises BadDescription with every mistake that was found."""
    system = System(session.places.system)
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
        session.report(f"/etc/pf.conf: lines {lines} say what okubsd does not know; pfctl judges them")
    mistakes = compiled_mistakes(compiled, wanted) + memory_mistakes(wish, vmd.usable_memory() if vmd.has_vmd() else 0)
    judges = ["okubsd"]
    if not mistakes and vmd.has_vmd():
        judges += _ask_parsers(system, wanted, mistakes)
    if mistakes:
        raise BadDescription(mistakes)
    return judges


def _ask_parsers(system: System, wanted: Mapping[str, Stat | None], mistakes: list[str]) -> list[str]:
    """Let OpenBSD's own parsers judge the ``wanted`` files, as an apply would; return who was asked.

    What they say is added to ``mistakes``.  Only root may ask all of them.
    """
    scratch = system.path("tmp")
    scratch.mkdir(exist_ok=True)
    top = Path(tempfile.mkdtemp(prefix="okubsd-check-", dir=scratch))
    try:
        for name, stat in wanted.items():
            if stat is not None:
                path = top / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(stat.text.replace('"/etc/okubsd/', f'"{top}/etc/okubsd/'))
        calls: list[Argv] = [("/usr/sbin/vmd", "-n", "-f", str(top / "etc/vm.conf"))]
        if facts.is_root():
            paths = sorted(path for path, stat in wanted.items() if stat is not None)
            calls += [argv for path in paths if (argv := judge_argv(path, str(top / path)))]
        for argv in calls:
            done = door.run(system.argv(argv), timeout=60)
            # A drive that is not there yet is made by apply.
            if done.code != 0 and b"failed to parse disks" not in done.err:
                mistakes.append(f"{PurePosixPath(argv[0]).name} -n: {door.reason(done).replace(str(top), '')}")
        return list(dict.fromkeys(PurePosixPath(argv[0]).name for argv in calls))
    finally:
        shutil.rmtree(top)
