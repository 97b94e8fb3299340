"""okubsd image: build, ls, rm, path."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping

import click

from okubsd import layout
from okubsd.cli import exchange, versions
from okubsd.cli.building import bring_up_to_date
from okubsd.cli.session import Verbs, ago, as_json, dry_run, pass_session, print_json, print_table
from okubsd.config.names import did_you_mean, quoted
from okubsd.config.sizes import render_megabytes
from okubsd.errors import Misuse, Problem, Unknown
from okubsd.host import facts, programs, store
from okubsd.host.locks import locked
from okubsd.host.session import Session
from okubsd.host.workshop import HERE
from okubsd.model import Image
from okubsd.plan.images import BOOT_IMAGE, recipe_of


@click.group(cls=Verbs)
def image() -> None:
    """Build, list and remove images."""


image.result_callback()(versions.forget_stale)
for _verb in (
    *(versions.history, versions.verify, versions.sign, versions.rollback, versions.prune, versions.try_out),
    *(exchange.export_to, exchange.push, exchange.pull, exchange.import_from),
):
    image.add_command(_verb)


def _recipe_names(session: Session, names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if name not in session.recipes:
            hint = did_you_mean(name, session.recipes)
            raise Unknown(f"there is no recipe for an image {quoted(name)}{hint}", "okubsd image ls")
    return names


@image.command()
@click.argument("names", metavar="NAME...", nargs=-1)
@click.option("-a", "--all", "every", is_flag=True, help="All images that VMs of the description use.")
@click.option("--force", is_flag=True, help="Build anew what is up to date, with the packages of today.")
@click.option("--in", "inside", metavar="VM", default="", help="Build in this VM, which `okubsd builder` describes.")
@dry_run
@pass_session
def build(session: Session, names: tuple[str, ...], every: bool, force: bool, inside: str, dry: bool) -> None:
    """Build what is missing or older than its recipe, with the base it stands on."""
    if every == bool(names):
        raise Misuse("name the images to build, or say --all", "okubsd image ls")
    wanted = tuple(vm.image for vm in session.description.vms) if every else _recipe_names(session, names)
    with contextlib.ExitStack() as open_until_built:
        workshop = HERE
        if inside and not dry:
            from okubsd.cli.builder import workshop_in

            workshop = open_until_built.enter_context(workshop_in(session, inside))
        bring_up_to_date(session, wanted, force=force, dry=dry, workshop=workshop)
    if not dry:
        from okubsd.cli.menu import renew_menu

        renew_menu(session)


# What builds and trials read of an image, and no VM.
_NOT_OF_VMS = frozenset({layout.INDEX, layout.TOOLS, layout.TOOLS_INDEX})


@image.command()
@as_json
@pass_session
def ls(session: Session, json: bool) -> None:
    """List the images: build, size, digest, what it was built from, and which VMs use it."""
    # Where vmd runs the VMs, root's images are what they are made of; a user's own are for QEMU beside it.
    places = (session.places, session.places.of_system) if programs.has_vmd() else (session.places,)
    built = {found.name: found for where in places for found in store.all_images(where)}
    rows = [_describe(session, name, _built_of(session, name, built)) for name in sorted({*session.recipes, *built})]
    if json:
        print_json(images=rows)
        return
    header = ("NAME", "BUILD", "SIZE", "SHA256", "FROM", "BUILT", "PACKAGES OF", "STATE", "USED BY")
    print_table(header, [_row(row) for row in rows])


def _row(row: dict[str, object]) -> tuple[str, ...]:
    if not row["build"]:
        return (str(row["name"]), "-", "-", "-", "-", "-", "-", "not built", " ".join(row["used_by"]) or "-")  # type: ignore[arg-type]
    return (
        str(row["name"]),
        str(row["build"]),
        render_megabytes(row["size_bytes"]),  # type: ignore[arg-type]
        str(row["sha256"])[:12],
        f"{row['built_from'] or '-'}{' (gone)' if row['base_gone'] else ''}",
        f"{ago(row['built'])} ago",  # type: ignore[arg-type]
        versions.dated(row["archive"]),  # type: ignore[arg-type]
        str(row["state"]),
        " ".join(row["used_by"]) or "-",  # type: ignore[arg-type]
    )


def _built_of(session: Session, name: str, built: Mapping[str, Image]) -> Image | None:
    """Return the current image ``name``, or the one that the recipe ``name`` made in the place of another."""
    recipe = session.recipes.get(name)
    found = built.get(recipe.makes if recipe else name)
    return found if found is None or name in (found.name, found.made_of) else None


def _describe(session: Session, name: str, found: Image | None) -> dict[str, object]:
    recipe = recipe_of(name, found, session.recipes)
    users = [
        vm.name
        for vm in session.description.vms
        if name in (vm.image, BOOT_IMAGE) or _base_of(session, vm.image) == name
    ]
    users = [vm.name for vm in session.description.vms] if name == BOOT_IMAGE else users
    state = "no recipe" if recipe is None else "current"
    if found is not None and recipe is not None and found.recipe != recipe.digest:
        state = "older than its recipe"
    return {
        "name": name,
        "build": found.build if found else "",
        "size_bytes": sum(part.size for part in found.parts if part.name not in _NOT_OF_VMS) if found else 0,
        "sha256": found.parts[0].sha256 if found else "",
        "built_from": f"{recipe.base}-{found.base}" if found and recipe and recipe.base else "",
        "base_gone": bool(found and found.base and recipe and not _is_here(session, recipe.base, found.base)),
        "built": found.built if found else 0,
        "archive": found.archive if found else 0,
        "state": state if found else "not built",
        "used_by": users,
    }


def _is_here(session: Session, base: str, build: str) -> bool:
    """Return whether the build of ``base`` that an app was made on is kept."""
    return store.read_image(session.places.images / base / build) is not None


def _base_of(session: Session, image: str) -> str:
    return session.recipes[image].base if image in session.recipes else ""


@image.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@pass_session
def rm(session: Session, names: tuple[str, ...]) -> None:
    """Remove built images; the recipes stay, and homes are never touched."""
    for name in names:
        store.need_image(session.places, name)
    for name in names:
        users = [
            vm.name for vm in session.description.vms if name in (BOOT_IMAGE, vm.image, _base_of(session, vm.image))
        ]
        running = [user for user in users if facts.ask_vm(session.places, user).running]
        if running:
            raise Problem(f"image '{name}' is in use by {', '.join(running)}", f"okubsd stop {' '.join(running)}")
        with locked(session.places.images / ".lock", lambda: session.report("waiting for a build to end")):
            store.remove(session.places, name)


@image.command()
@click.argument("name", metavar="NAME")
@pass_session
def path(session: Session, name: str) -> None:
    """Print the directory of an image's current build."""
    found = store.need_image(session.places, name)
    sys.stdout.write(f"{session.places.images / found.name / found.build}\n")
