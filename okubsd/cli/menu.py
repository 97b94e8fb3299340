"""okubsd menu: the programs of VMs in the menus of the desktop."""

from __future__ import annotations

import os
import subprocess

import click

from okubsd.cli.session import Verbs, as_json, pass_session, print_json, print_table
from okubsd.errors import Problem
from okubsd.host.session import Session


@click.group(cls=Verbs)
def menu() -> None:
    """The programs of VMs in the menus of the desktop: sync, ls, rm."""


def language() -> str:
    """Return the language of messages (locale(7))."""
    return os.environ.get("LC_ALL") or os.environ.get("LC_MESSAGES") or os.environ.get("LANG", "")


@menu.command("sync")
@pass_session
def menu_sync(session: Session) -> None:
    """Have an entry for each app of each described VM, and none of ours beside them."""
    from okubsd.host.menus import places_of, sync

    done = sync(session, places_of(os.environ), language())
    session.report(f"{done.written} entries written, {done.removed} removed")


@menu.command("ls")
@click.option("--format", "form", type=click.Choice(["cwm", "fvwm", "dmenu"]), help="As a window manager reads it.")
@as_json
@pass_session
def menu_ls(session: Session, form: str | None, json: bool) -> None:
    """List the apps of described VMs, or print them as a menu for a window manager."""
    from okubsd.host.menus import entries_of, ours, places_of
    from okubsd.menu.entries import render_cwm, render_fvwm, render_list

    there = places_of(os.environ)
    entries = list(entries_of(session, there, language()))
    if form:
        render = {"cwm": render_cwm, "fvwm": render_fvwm, "dmenu": render_list}[form]
        click.echo(render(entries), nl=False)
        return
    written = {path.name for path in ours(there)}
    if json:
        rows = [
            {"vm": entry.vm, "app": entry.app, "name": entry.name, "file": str(there.entries / entry.file),
             "there": entry.file in written}
            for entry in entries
        ]  # fmt: skip
        print_json(entries=rows)
        return
    cells = [(entry.vm, entry.app, entry.name, "yes" if entry.file in written else "no") for entry in entries]
    print_table(("VM", "APP", "NAME", "IN THE MENU"), cells)


@menu.command("rm")
@pass_session
def menu_rm(session: Session) -> None:
    """Take all entries that are ours away."""
    from okubsd.host.menus import places_of, remove

    session.report(f"{remove(places_of(os.environ))} entries removed")


def renew_menu(session: Session, *, begin: bool = False) -> None:
    """Have the entries of the desktop's menus follow, where the user has any of ours, or with these ``begin``."""
    from okubsd.host.menus import ours, places_of, sync

    if session.given:
        # The entries are those of the user's usual description.
        return
    try:
        there = places_of(os.environ)
        if begin or ours(there):
            sync(session, there, language())
    except (Problem, OSError, subprocess.TimeoutExpired) as error:
        session.report(f"the menus of the desktop are as they were: {error}; okubsd menu sync")
