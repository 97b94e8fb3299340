"""okubsd install, uninstall, search: an app in a VM of its own, by one command."""

from __future__ import annotations

import contextlib
from typing import Any

import click

from okubsd.cli.building import bring_up_to_date
from okubsd.cli.menu import renew_menu
from okubsd.cli.names import remove_one
from okubsd.cli.session import as_json, pass_session, print_json, print_table
from okubsd.config.sizes import render_megabytes, render_size
from okubsd.errors import HostLacks, Misuse
from okubsd.host import installing, programs, store
from okubsd.host.locks import locked
from okubsd.host.session import Session


@click.command()
@click.argument("app", metavar="APP")
@click.option("--vm", "name", default="", help="The name of the VM; that of APP if not given.")
@click.option("--network", default="", help="The VM's network: none, nat, or one that is described.")
@click.option("--package", default="", help="The Debian package of an APP that has no recipe.")
@click.option("--command", default="", help="The program of that package, where it is called otherwise.")
@pass_session
def install(session: Session, app: str, name: str, network: str, package: str, command: str) -> None:
    """Have APP in a VM of its own: its image built, the VM described, and an entry in the menus of the desktop."""
    if command and not package:
        raise Misuse("--command is the program of a --package", f"okubsd install {app} --package {app}")
    if programs.has_vmd():
        sentence = "on this host root imports images and prepares VMs, so there is no install yet"
        raise HostLacks(sentence, "man 7 okubsd-openbsd")
    name = name or app
    described = session.description.find(name)
    if described is not None and (described.image != app or network not in ("", described.network.name)):
        raise Misuse(f"there is another VM '{name}'", f"okubsd install {app} --vm {app}-2")
    with contextlib.ExitStack() as undo:
        if package:
            installing.add_recipe(session, app, package, command)
            undo.callback(installing.forget_recipe, app)
            session = Session(session.given, session.report, quiet=session.quiet)
        installing.need_recipe(session, app)
        if described is None:
            session = installing.add_vm(session, name, app, network)
            undo.callback(installing.forget_vm, session, name)
        bring_up_to_date(session, (app,))
        # From here on it is there.
        undo.pop_all()
    renew_menu(session, begin=True)
    session.report(f"{name}: installed; start it with: okubsd start {name}")


@click.command()
@click.argument("name", metavar="VM")
@click.option("--keep-home", is_flag=True, help="Keep the drive of its home.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask for the name again.")
@pass_session
def uninstall(session: Session, name: str, keep_home: bool, yes: bool) -> None:
    """Remove a VM with its menu entry, and with its image where no other VM has it."""
    vm = session.vm(name)
    others = installing.users_of(session, vm.image, vm)
    remove_one(session, name, keep_home=keep_home, yes=yes)
    if not others:
        if store.current_image(session.places, vm.image) is not None:
            with locked(session.places.images / ".lock", lambda: session.report("waiting for a build to end")):
                store.remove(session.places, vm.image)
        installing.forget_recipe(vm.image)
    renew_menu(Session(session.given, session.report, quiet=session.quiet))


@click.command()
@click.argument("word", metavar="[WORD]", default="")
@as_json
@pass_session
def search(session: Session, word: str, json: bool) -> None:
    """List the recipes of apps that are about WORD, and packages of this host's distribution that are."""
    where = session.places.of_system if programs.has_vmd() else session.places
    rows: list[dict[str, object]] = []
    for name, recipe in sorted(session.recipes.items()):
        words = (name, recipe.about, *recipe.packages, *recipe.apps)
        if recipe.apps and any(word.lower() in text.lower() for text in words):
            image = store.current_image(where, name)
            size = None if image is None else image.size
            rows.append({"name": name, "about": recipe.about, "apps": tuple(recipe.apps),
                         "packages": recipe.packages, "memory_bytes": recipe.memory or None, "size_bytes": size,
                         "built": image is not None})  # fmt: skip
    packages = installing.find_packages(word) if word else []
    if json:
        print_json(recipes=rows, packages=[{"name": name, "about": about} for name, about in packages])
        return
    if rows or not packages:
        print_table(("RECIPE", "WHAT IT IS", "APPS", "MEMORY", "SIZE"), [_found(row) for row in rows])
    if packages:
        print_table(("PACKAGE", "WHAT IT IS"), packages)
        session.report("a package is had by: okubsd install NAME --package PACKAGE")
    if not rows:
        session.report(f"no recipe has '{word}'; any package will do: okubsd install {word} --package {word}")


def _found(row: dict[str, Any]) -> tuple[str, ...]:
    memory = render_size(row["memory_bytes"]) if row["memory_bytes"] else "-"
    size = render_megabytes(row["size_bytes"]) if row["built"] else "not built"
    return row["name"], row["about"] or "-", " ".join(row["apps"]), memory, size
