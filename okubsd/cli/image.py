"""okubsd image: build, ls, rm, path."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

import click

from okubsd import layout
from okubsd.cli import versions
from okubsd.cli.session import Verbs, ago, as_json, dry_run, pass_session, print_json, print_table
from okubsd.config.names import did_you_mean, quoted
from okubsd.config.sizes import parse_size, render_megabytes
from okubsd.errors import Misuse, Problem, Unknown
from okubsd.host import builder, facts, programs, store
from okubsd.host.lifecycle import interruptible
from okubsd.host.locks import locked
from okubsd.host.session import Session
from okubsd.host.trust import is_root
from okubsd.host.workshop import HERE, Workshop
from okubsd.images.disk import FORMATS, files_of
from okubsd.model import Image
from okubsd.plan.images import BOOT_IMAGE, recipe_of, stale_images


@click.group(cls=Verbs)
def image() -> None:
    """Build, list and remove images."""


image.result_callback()(versions.forget_stale)
for _verb in (versions.history, versions.verify, versions.sign, versions.rollback, versions.prune, versions.try_out):
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


def bring_up_to_date(
    session: Session, wanted: tuple[str, ...], *, force: bool = False, dry: bool = False, workshop: Workshop = HERE
) -> None:
    """Build those of the images ``wanted`` that are missing or older than their recipe, with the bases they stand on.

    ``force`` builds them anew in any case, ``dry`` only prints what would be built.
    """
    # It says which languages its images have.
    _ = session.known_description
    needed = _with_bases(session, wanted)
    # Who names an image wants the one of its own recipe.
    built = {
        found.name: found
        for found in store.all_images(session.places)
        if found.name not in wanted or not (force or found.made_of)
    }
    for name in stale_images(needed, session.recipes, built):
        if dry:
            print(shlex.join(("okubsd", "image", "build", name)))
            continue
        with interruptible():
            made = builder.build(session.places, session.recipes[name], session.report, force=force, workshop=workshop)
        session.report(f"{name}: {made.build}, {render_megabytes(made.size)}")


def _with_bases(session: Session, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return ``names``, with the bases and the boot image that they need, each once."""
    needed = {BOOT_IMAGE: None} if any(session.recipes[name].base for name in names) else {}
    for name in names:
        base = session.recipes[name].base
        needed.update({base: None} if base else {}, **{name: None})
    return tuple(needed)


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


@image.command("export")
@click.argument("target", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("names", metavar="[NAME...]", nargs=-1)
@click.option("--alone", is_flag=True, help="Without the boot and base images that NAME needs.")
@click.option(
    "--format", "forms", metavar="|".join(FORMATS), help="As a disk of NAME that boots by itself; or several."
)
@click.option("--home", default="1G", show_default=True, help="How large the home of such a disk is.")
@click.option("--authorized-key", "login", type=click.Path(path_type=Path, exists=True), help="Who may come in by ssh.")
@click.option("--force", is_flag=True, help="Write over a FILE that is there.")
@pass_session
def export_to(
    session: Session, target: Path, names: tuple[str, ...], alone: bool, forms: str | None, home: str,
    login: Path | None, force: bool,
) -> None:  # fmt: skip
    """Write built images to FILE, a signed tar for 'okubsd image import' on another host.

    That is all that are built, or NAME with the images it needs to boot.
    """
    from okubsd.host import exchange

    if not target.absolute().parent.is_dir():
        raise Misuse(f"there is no directory {quoted(target.absolute().parent)}")
    targets = {"": target} if forms is None else files_of(target, forms)
    for made in targets.values():
        if made.exists() and not force:
            again = shlex.join((*(() if forms is None else ("--format", forms)), str(target), *names))
            raise Misuse(f"{made} is there already", f"okubsd image export --force {again}")
    if forms is not None:
        # The name of the image is that of the files, where no other is given.
        _export_disk(session, targets, names or (target.name,), home, login)
        return
    alone = alone or any(name not in session.recipes for name in names)
    chosen = _chosen(session, tuple(dict.fromkeys(names)) if alone else _with_bases(session, names))
    fingerprint = exchange.export_images(session.places, chosen, target)
    size = render_megabytes(target.stat().st_size)
    session.report(f"{', '.join(found.name for found in chosen)}: {size} in {target}, signed by {fingerprint}")


def _chosen(session: Session, names: tuple[str, ...]) -> list[Image]:
    """Return the images ``names``, or all that are built.  Raises Unknown or Problem where there are none."""
    chosen = [store.need_image(session.places, name) for name in names] or list(store.all_images(session.places))
    if not chosen:
        raise Problem("no image is built", "okubsd image build term")
    return chosen


def _export_disk(
    session: Session, targets: dict[str, Path], names: tuple[str, ...], home: str, login: Path | None
) -> None:
    """Write the app image that is named as one disk, in each of some formats."""
    from okubsd.host import disk

    if len(names) != 1 or names[0] not in session.recipes or not session.recipes[names[0]].base:
        raise Misuse("name one app image for a disk", "okubsd image export --format qcow2 term.qcow2 term")
    try:
        size = parse_size(home)
    except ValueError:
        size = 0
    if size < _LEAST_HOME:
        raise Misuse(f"--home {quoted(home)} is no size of 16M or more", "--home 1G")
    boot, base, app = (store.need_image(session.places, name) for name in _with_bases(session, names))
    line = login.read_text().splitlines()[0] if login is not None and login.stat().st_size else ""
    if login is not None and not line.startswith("ssh-"):
        raise Misuse(f"{login} is no public key of ssh", "--authorized-key ~/.ssh/id_ed25519.pub")
    with interruptible():
        disk.export_disk(session.places, (boot, base, app), targets, size, line, session.report)
    for target in targets.values():
        session.report(f"{app.name}: {render_megabytes(target.stat().st_blocks * 512)} in {target}")


_LEAST_HOME = 16 << 20


@image.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.argument("names", metavar="[NAME...]", nargs=-1)
@click.option("--days", type=click.IntRange(1, 3650), default=30, show_default=True, help="How long the index is good.")
@pass_session
def push(session: Session, directory: Path, names: tuple[str, ...], days: int) -> None:
    """Put built images into DIR, signed: any web server can give it to 'okubsd image pull'.

    That is all that are built, or NAME with the images it needs to boot.
    """
    from okubsd.host import mirror

    chosen = _chosen(session, _with_bases(session, names))
    fingerprint = mirror.push(session.places, chosen, directory, session.report, days=days)
    session.report(f"{', '.join(found.name for found in chosen)}: in {directory}, signed by {fingerprint}")


@image.command()
@click.argument("source", metavar="URL|DIR")
@click.argument("names", metavar="[NAME...]", nargs=-1)
@click.option("--mirror", "mirrors", multiple=True, help="Another place that has the same.")
@pass_session
def pull(session: Session, source: str, names: tuple[str, ...], mirrors: tuple[str, ...]) -> None:
    """Take images that were pushed to a directory or web server, and that a trusted key has signed (see 'okubsd key').

    As root on a host with vmd this is for all its users, and in the form that vmd opens.
    """
    from okubsd.host import mirror

    for_vmd = is_root() and programs.has_vmd()
    places = session.places.of_system if for_vmd else session.places
    for one in (source, *mirrors):
        mirror.is_url(one)
    with interruptible():
        taken = mirror.pull(places, (source, *mirrors), names, session.report, for_vmd=for_vmd, keys=session.places)
    if not taken:
        session.report("nothing there is newer than what is here")


@image.command("import")
@click.argument("source", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--older", is_flag=True, help="Take images that are older than those that are here.")
@click.option("--container", "name", metavar="NAME", help="Make an image NAME of the container that is in FILE.")
@pass_session
def import_from(session: Session, source: Path, older: bool, name: str | None) -> None:
    """Take the images of FILE, which a trusted key has signed (see 'okubsd key'), or a container.

    As root on a host with vmd this is for all its users, and in the form that vmd opens.
    """
    from okubsd.host import exchange, programs

    if name is not None:
        from okubsd.host.installing import add_container

        path = add_container(session, name, source)
        fresh = Session(session.given, session.report, quiet=session.quiet)
        bring_up_to_date(fresh, (name,))
        session.report(f"{name}: its recipe is {path}; describe a VM with 'image: {name}', and 'publish' its ports")
        return
    for_vmd = is_root() and programs.has_vmd()
    places = session.places.of_system if for_vmd else session.places
    exchange.import_images(places, source, session.report, for_vmd=for_vmd, keys=session.places, older=older)
