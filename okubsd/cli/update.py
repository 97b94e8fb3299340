"""okubsd update: say what is newer, build it, try it, and switch to it."""

from __future__ import annotations

import click

from okubsd.cli.session import ago, as_json, pass_session, print_json, print_table
from okubsd.config.names import did_you_mean, quoted
from okubsd.config.sizes import render_megabytes
from okubsd.errors import Misuse, Unknown
from okubsd.host import saved, store, updating, versions
from okubsd.host.lifecycle import interruptible
from okubsd.host.session import Session
from okubsd.model import Kind
from okubsd.plan.images import BOOT_IMAGE

# How many newer packages a line of the table names.
_NAMED = 3


@click.command()
@click.argument("names", metavar="[IMAGE|VM...]", nargs=-1)
@click.option("-a", "--all", "every", is_flag=True, help="All images that are built.")
@click.option("--check", is_flag=True, help="Only tell what is newer.")
@click.option("--force", is_flag=True, help="Build anew also where nothing is newer.")
@as_json
@pass_session
def update(session: Session, names: tuple[str, ...], every: bool, check: bool, force: bool, json: bool) -> None:
    """Build images with newer packages beside the old ones, boot each once, and only then switch to them.

    With names of images or VMs it is these and what they stand on.  VMs that run keep what they have.
    """
    if every and names:
        raise Misuse("name images, or say --all", "okubsd update --all")
    if not every and not names and not check:
        raise Misuse("name the images or VMs to update, or say --all", "okubsd update --check")
    news = updating.news_of(session, _meant(session, names))
    wanted = tuple(one.image for one in news if one.wanted or force)
    if json:
        print_json(images=[_as_object(one) for one in news])
    elif check:
        print_table(("IMAGE", "BUILD", "BUILT", "NEWER", "SECURITY", "WHAT"), [_row(one) for one in news])
    if check:
        return
    if not wanted:
        session.report("nothing is newer than what is built")
        return
    with interruptible():
        made = updating.update(session, wanted)
    for image in made:
        session.report(f"{image.name}: {image.build}, {render_megabytes(image.size)}")
    saved.discard_stale(session.places)
    _tell_stale(session)
    from okubsd.cli.menu import renew_menu

    renew_menu(session)


def _meant(session: Session, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the images that ``names`` of images and VMs mean, or all that are built, with their bases before them."""
    images = [_image(session, name) for name in names] or [image.name for image in store.all_images(session.places)]
    known = [name for name in images if name in session.recipes]
    bases = [session.recipes[name].base for name in known if session.recipes[name].base]
    boot = [BOOT_IMAGE] if bases or BOOT_IMAGE in known else []
    order = (Kind.BOOT, Kind.BASE, Kind.APP)
    return tuple(
        sorted(dict.fromkeys([*boot, *bases, *known]), key=lambda name: order.index(session.recipes[name].kind))
    )


def _image(session: Session, name: str) -> str:
    """Return the image that is called ``name``, or that of the VM.  Raises Unknown for neither."""
    vm = session.description.find(name)
    if name in session.recipes:
        return name
    if vm is None:
        known = [*session.recipes, *(vm.name for vm in session.description.vms)]
        raise Unknown(f"there is no image and no VM {quoted(name)}{did_you_mean(name, known)}", "okubsd image ls")
    return vm.image


def _as_object(news: updating.News) -> dict[str, object]:
    return {
        "image": news.image,
        "build": news.build,
        "built": news.built,
        "recipe_changed": news.recipe_changed,
        "packages_known": news.known,
        "upgrades": news.upgrades,
    }


def _row(news: updating.News) -> tuple[str, ...]:
    security = sum(upgrade.security for upgrade in news.upgrades)
    shown = [f"{upgrade.package} {upgrade.new}" for upgrade in news.upgrades[:_NAMED]]
    more = [f"and {len(news.upgrades) - _NAMED} more"] if len(news.upgrades) > _NAMED else []
    recipe = ["its recipe"] if news.recipe_changed else []
    unknown = [] if news.known else ["its packages are not written down"]
    what = ", ".join([*recipe, *unknown, *shown, *more]) or ("-" if news.build else "is not built")
    built = f"{ago(news.built)} ago" if news.build else "-"
    return news.image, news.build or "-", built, str(len(news.upgrades)), str(security), what


def _tell_stale(session: Session) -> None:
    """Tell which VMs run with what was current before."""
    from okubsd.host import running

    for name in sorted(running.ask_running(session.places)):
        stale = versions.stale_builds(session.places, name)
        if stale:
            session.report(f"{name}: runs with an older {', '.join(sorted(stale))}; okubsd restart {name}")
