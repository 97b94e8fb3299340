"""okubsd check: the description, the recipes, and what OpenBSD would make of them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import click

from okubsd.cli.compile import compile_session
from okubsd.cli.session import Session, as_json, pass_session, print_json
from okubsd.errors import BadDescription, Problem
from okubsd.host import door, facts, vmd
from okubsd.host.system import System
from okubsd.model import Wish
from okubsd.plan.changes import Stat, wanted_files
from okubsd.plan.check import compiled_mistakes
from okubsd.plan.compile import How, memory_mistakes


@click.command()
@as_json
@pass_session
def check(session: Session, json: bool) -> None:
    """Check the description and the recipes; say every mistake at once.

    The files of an OpenBSD host are compiled from it and judged too: by okubsd itself everywhere, and by vmd and
    pfctl where there are any.
    """
    wish = session.wish
    judges = _check_openbsd(session, wish)
    if json:
        print_json(
            description=str(wish.path), vms=len(wish.vms), recipes=len(session.recipes), judges=judges, mistakes=[]
        )
    else:
        session.report(f"{wish.path}: {len(wish.vms)} VMs and {len(session.recipes)} recipes, no mistakes")


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
    mistakes = compiled_mistakes(compiled, wanted) + memory_mistakes(wish, vmd.usable_memory() if vmd.has_vmd() else 0)
    judges = ["okubsd"]
    if not mistakes and vmd.has_vmd():
        judges += _ask_parsers(system, wanted, mistakes)
    if mistakes:
        raise BadDescription(mistakes)
    return judges


def _ask_parsers(system: System, wanted: Mapping[str, Stat | None], mistakes: list[str]) -> list[str]:
    """Let `vmd -n` and `pfctl -n` judge the ``wanted`` files; return who was asked.

    What they say is added to ``mistakes``.
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
        asked = [("vmd", ("/usr/sbin/vmd", "-n", "-f", str(top / "etc/vm.conf")))]
        if facts.is_root():
            asked.append(("pfctl", ("pfctl", "-n", "-f", str(top / "etc/pf.conf"))))
        for name, argv in asked:
            done = door.run(system.argv(argv), timeout=60)
            # A drive that is not there yet is made by apply.
            if done.code != 0 and b"failed to parse disks" not in done.err:
                mistakes.append(f"{name} -n: {door.reason(done).replace(str(top), '')}")
        return [name for name, _ in asked]
    finally:
        shutil.rmtree(top)
