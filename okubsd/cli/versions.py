"""okubsd image history, verify, sign, rollback, prune, try: the builds of an image that are kept."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from okubsd.cli.session import ago, as_json, dry_run, pass_session, print_json, print_table
from okubsd.config.sizes import render_megabytes
from okubsd.errors import Problem
from okubsd.host import store, versions
from okubsd.host.session import Session
from okubsd.plan.images import recipe_of

if TYPE_CHECKING:
    from okubsd.host import trying

_names = click.argument("names", metavar="[NAME...]", nargs=-1)


def _meant(session: Session, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the images ``names``, or all that are built.  Raises Unknown for one that is not."""
    if not names:
        return tuple(image.name for image in store.all_images(session.places))
    return tuple(store.need_image(session.places, name).name for name in names)


@click.command()
@click.argument("name", metavar="NAME")
@as_json
@pass_session
def history(session: Session, name: str, json: bool) -> None:
    """List the builds of an image that are kept, the newest first."""
    found = versions.versions(session.places, name)
    if json:
        print_json(name=name, builds=[_as_object(version) for version in found])
        return
    print_table(("BUILD", "BUILT", "PACKAGES OF", "SIZE", "STATE", "USED BY"), [_row(version) for version in found])


def _as_object(version: versions.Version) -> dict[str, object]:
    image = version.image
    return {
        "build": image.build,
        "current": version.current,
        "built": image.built,
        "archive": image.archive,
        "base": image.base,
        "recipe": image.recipe,
        "size_bytes": image.size,
        "signer": image.signer,
        "built_here": image.built_here,
        "packages": image.packages,
        "used_by": version.used_by,
    }


def _row(version: versions.Version) -> tuple[str, ...]:
    image = version.image
    state = "current" if version.current else "kept"
    used = " ".join(version.used_by) or "-"
    return image.build, f"{ago(image.built)} ago", dated(image.archive), render_megabytes(image.size), state, used


def dated(archive: int) -> str:
    """Return the day of an archive, "-" where it is not known."""
    return time.strftime("%Y-%m-%d", time.gmtime(archive)) if archive else "-"


# The commands after which other builds may be current.
_CHANGING = ("build", "rm", "rollback", "prune", "pull", "import")


@pass_session
def forget_stale(session: Session, result: Any) -> Any:
    """Drop the saved states of guests whose images are not current any more, where a command may have changed that."""
    from okubsd.host import saved

    if click.get_current_context().invoked_subcommand in _CHANGING:
        saved.discard_stale(session.places)
    return result


@click.command()
@_names
@as_json
@pass_session
def verify(session: Session, names: tuple[str, ...], json: bool) -> None:
    """Read images whole and compare them with what was signed: every build of NAME, or of all images."""
    rows: list[dict[str, object]] = []
    known = versions.names_here(session.places)
    for name in names or known:
        if name not in known:
            store.need_image(session.places, name)
        session.report(f"reading every build of '{name}'")
        damaged = versions.damaged(session.places, name)
        whole = [image.build for image in versions.builds(session.places, name)]
        for build in dict.fromkeys((*whole, *damaged)):
            rows.append({"name": name, "build": build, "good": build not in damaged, "why": damaged.get(build, "")})
    if json:
        print_json(builds=rows)
    else:
        table = [(str(row["name"]), str(row["build"]), "good" if row["good"] else str(row["why"])) for row in rows]
        print_table(("NAME", "BUILD", "STATE"), table)
    bad = [row for row in rows if not row["good"]]
    if bad:
        number = f"{len(bad)} of {len(rows)} builds"
        raise Problem(f"{number} are not what was signed", f"okubsd image history {bad[0]['name']}")


@click.command()
@_names
@pass_session
def sign(session: Session, names: tuple[str, ...]) -> None:
    """Sign current builds with your own key: those that were built by an okubsd of before, or are known to be good."""
    for name in _meant(session, names):
        image = store.need_image(session.places, name)
        store.verify_parts(session.places, image)
        store.sign(session.places, image, session.places.images / name / image.build)
        session.report(f"{name}: {image.build} is signed")


@click.command()
@click.argument("name", metavar="NAME")
@click.argument("build", metavar="[BUILD]", default="")
@pass_session
def rollback(session: Session, name: str, build: str) -> None:
    """Have VMs start with the build of before again, or with BUILD; those that run keep what they have."""
    image = versions.rollback(session.places, name, build, session.report)
    session.report(f"{name}: {image.build}, built {ago(image.built)} ago, is current")
    recipe = recipe_of(name, image, session.recipes)
    if recipe is not None and recipe.digest != image.recipe and not image.made_of:
        session.report(f"{name}: its recipe is another today, so the next start builds it anew")


@click.command()
@_names
@click.option("--keep", type=click.IntRange(1, 1000), default=versions.KEPT, show_default=True, help="How many stay.")
@dry_run
@pass_session
def prune(session: Session, names: tuple[str, ...], keep: int, dry: bool) -> None:
    """Remove old builds of NAME, or of all images; what is current or in use stays."""
    gone = versions.prune(session.places, _meant(session, names), keep, session.report, dry=dry)
    for image in gone:
        print(f"{image.name} {image.build} {render_megabytes(image.size)}")
    freed = render_megabytes(sum(image.size for image in gone))
    session.report(f"{len(gone)} builds {'would be' if dry else 'were'} removed, {freed}")


@click.command("try")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@as_json
@pass_session
def try_out(session: Session, names: tuple[str, ...], json: bool) -> None:
    """Start each app of an image in a VM of its own, without a network, and see that it shows what it is to open."""
    from okubsd.host import trying

    rows = []
    for name in dict.fromkeys(_with_apps(session, names)):
        for tried in trying.try_apps(session, name):
            rows.append(tried)
            session.report(f"{name}: {tried.app}: {tried.fault or 'good'}")
    if json:
        print_json(tried=rows)
    else:
        header = ("IMAGE", "APP", "SIZE", "MEMORY IN USE", "SECONDS", "OPENED", "STATE")
        print_table(header, [_tried_row(tried) for tried in rows])
    failed = [tried for tried in rows if tried.fault]
    if failed:
        raise Problem(f"{len(failed)} of {len(rows)} apps did not show what they were to", "okubsd image build NAME")


def _with_apps(session: Session, names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        store.need_image(session.places, name)
        if name not in session.recipes or not session.recipes[name].apps:
            raise Problem(f"image '{name}' has no apps to try", "okubsd image ls")
    return names


def _tried_row(tried: trying.Tried) -> tuple[str, ...]:
    size, memory = render_megabytes(tried.size_bytes), render_megabytes(tried.memory_bytes)
    state = tried.fault or "good"
    return tried.image, tried.app, size, memory, str(tried.seconds), tried.file or "-", state
