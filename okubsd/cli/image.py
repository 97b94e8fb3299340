"""okubsd image: build, ls, rm, path."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import click

from okubsd.cli.session import Verbs, ago, as_json, dry_run, pass_session, print_json, print_table
from okubsd.config.names import did_you_mean, quoted
from okubsd.config.sizes import render_megabytes
from okubsd.errors import Misuse, Problem, Unknown
from okubsd.host import builder, facts, programs, store
from okubsd.host.lifecycle import interruptible
from okubsd.host.locks import locked
from okubsd.host.session import Session
from okubsd.host.trust import is_root
from okubsd.model import Image
from okubsd.plan.images import BOOT_IMAGE, stale_images


@click.group(cls=Verbs)
def image() -> None:
    """Build, list and remove images."""


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
@dry_run
@pass_session
def build(session: Session, names: tuple[str, ...], every: bool, force: bool, dry: bool) -> None:
    """Build what is missing or older than its recipe, with the base it stands on."""
    if every == bool(names):
        raise Misuse("name the images to build, or say --all", "okubsd image ls")
    wanted = tuple(vm.image for vm in session.description.vms) if every else _recipe_names(session, names)
    bring_up_to_date(session, wanted, force=force, dry=dry)
    if not dry:
        renew_menu(session)


def bring_up_to_date(session: Session, wanted: tuple[str, ...], *, force: bool = False, dry: bool = False) -> None:
    """Build those of the images ``wanted`` that are missing or older than their recipe, with the bases they stand on.

    ``force`` builds them anew in any case, ``dry`` only prints what would be built.
    """
    needed = _with_bases(session, wanted)
    built = {found.name: found for found in store.all_images(session.places)}
    if force:
        built = {name: found for name, found in built.items() if name not in wanted}
    for name in stale_images(needed, session.recipes, built):
        if dry:
            print(shlex.join(("okubsd", "image", "build", name)))
            continue
        with interruptible():
            made = builder.build(session.places, session.recipes[name], session.report, force=force)
        session.report(f"{name}: {made.build}, {render_megabytes(made.size)}")


def renew_menu(session: Session, *, begin: bool = False) -> None:
    """Have the entries of the desktop's menus follow, where the user has any of ours, or with these ``begin``."""
    from okubsd.cli.menu import language
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


def _with_bases(session: Session, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return ``names``, with the bases and the boot image that they need, each once."""
    needed = {BOOT_IMAGE: None} if any(session.recipes[name].base for name in names) else {}
    for name in names:
        base = session.recipes[name].base
        needed.update({base: None} if base else {}, **{name: None})
    return tuple(needed)


@image.command()
@as_json
@pass_session
def ls(session: Session, json: bool) -> None:
    """List the images: build, size, digest, what it was built from, and which VMs use it."""
    # Where vmd runs the VMs, root's images are what they are made of; a user's own are for QEMU beside it.
    places = (session.places, session.places.of_system) if programs.has_vmd() else (session.places,)
    built = {found.name: found for where in places for found in store.all_images(where)}
    rows = [_describe(session, name, built.get(name)) for name in sorted({*session.recipes, *built})]
    if json:
        print_json(images=rows)
        return
    header = ("NAME", "BUILD", "SIZE", "SHA256", "FROM", "BUILT", "STATE", "USED BY")
    print_table(header, [_row(row) for row in rows])


def _row(row: dict[str, object]) -> tuple[str, ...]:
    if not row["build"]:
        return (str(row["name"]), "-", "-", "-", "-", "-", "not built", " ".join(row["used_by"]) or "-")  # type: ignore[arg-type]
    return (
        str(row["name"]),
        str(row["build"]),
        render_megabytes(row["size_bytes"]),  # type: ignore[arg-type]
        str(row["sha256"])[:12],
        str(row["built_from"] or "-"),
        ago(row["built"]),  # type: ignore[arg-type]
        str(row["state"]),
        " ".join(row["used_by"]) or "-",  # type: ignore[arg-type]
    )


def _describe(session: Session, name: str, found: Image | None) -> dict[str, object]:
    recipe = session.recipes.get(name)
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
        "size_bytes": sum(part.size for part in found.parts if part.name != builder.INDEX) if found else 0,
        "sha256": found.parts[0].sha256 if found else "",
        "built_from": f"{recipe.base}-{found.base}" if found and recipe and recipe.base else "",
        "built": found.built if found else 0,
        "state": state if found else "not built",
        "used_by": users,
    }


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


@image.command("export")
@click.argument("target", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("names", metavar="[NAME...]", nargs=-1)
@click.option("--alone", is_flag=True, help="Without the boot and base images that NAME needs.")
@click.option("--force", is_flag=True, help="Write over a FILE that is there.")
@pass_session
def export_to(session: Session, target: Path, names: tuple[str, ...], alone: bool, force: bool) -> None:
    """Write built images to FILE, a signed tar for 'okubsd image import' on another host.

    That is all that are built, or NAME with the images it needs to boot.
    """
    from okubsd.host import exchange

    if not target.absolute().parent.is_dir():
        raise Misuse(f"there is no directory {quoted(target.absolute().parent)}")
    if target.exists() and not force:
        raise Misuse(f"{target} is there already", f"okubsd image export --force {shlex.join((str(target), *names))}")
    alone = alone or any(name not in session.recipes for name in names)
    wanted = tuple(dict.fromkeys(names)) if alone else _with_bases(session, names)
    chosen = [store.need_image(session.places, name) for name in wanted] or list(store.all_images(session.places))
    if not chosen:
        raise Problem("no image is built", "okubsd image build term")
    fingerprint = exchange.export_images(session.places, chosen, target)
    size = render_megabytes(target.stat().st_size)
    session.report(f"{', '.join(found.name for found in chosen)}: {size} in {target}, signed by {fingerprint}")


@image.command("import")
@click.argument("source", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--older", is_flag=True, help="Take images that are older than those that are here.")
@pass_session
def import_from(session: Session, source: Path, older: bool) -> None:
    """Take the images of FILE, which a trusted key has signed (see 'okubsd key').

    As root on a host with vmd this is for all its users, and in the form that vmd opens.
    """
    from okubsd.host import exchange, programs

    for_vmd = is_root() and programs.has_vmd()
    places = session.places.of_system if for_vmd else session.places
    exchange.import_images(places, source, session.report, for_vmd=for_vmd, keys=session.places, older=older)
