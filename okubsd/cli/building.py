"""Images that commands need: built where they are missing, with what they stand on."""

from __future__ import annotations

import shlex

from okubsd.config.sizes import render_megabytes
from okubsd.errors import Problem
from okubsd.host import builder, store, versions
from okubsd.host.lifecycle import interruptible
from okubsd.host.places import Places
from okubsd.host.session import Session
from okubsd.host.workshop import HERE, Workshop
from okubsd.model import Image
from okubsd.plan.images import BOOT_IMAGE, stale_images


def bring_up_to_date(
    session: Session, wanted: tuple[str, ...], *, force: bool = False, dry: bool = False, workshop: Workshop = HERE
) -> None:
    """Build those of the images ``wanted`` that are missing or older than their recipe, with the bases they stand on.

    ``force`` builds them anew in any case, ``dry`` only prints what would be built.
    """
    # It says which languages its images have.
    _ = session.known_description
    needed = with_bases(session, wanted)
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
    if not dry:
        tell_misfits(session, session.places)


def tell_misfits(session: Session, places: Places) -> None:
    """Tell which app images do not run on the base that is current now, and what helps."""
    for app, why in versions.misfits(places):
        recipe = session.known_recipes.get(app.name)
        again = (
            "its next start builds it anew"
            if app.built_here and recipe
            else "no VM of it starts until a newer one comes"
        )
        session.report(f"{why}; {again}")


def with_bases(session: Session, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return ``names``, with the bases and the boot image that they need, each once."""
    needed = {BOOT_IMAGE: None} if any(session.recipes[name].base for name in names) else {}
    for name in names:
        base = session.recipes[name].base
        needed.update({base: None} if base else {}, **{name: None})
    return tuple(needed)


def chosen_images(session: Session, names: tuple[str, ...]) -> list[Image]:
    """Return the images ``names``, or all that are built.  Raises Unknown or Problem where there are none."""
    chosen = [store.need_image(session.places, name) for name in names] or list(store.all_images(session.places))
    if not chosen:
        raise Problem("no image is built", "okubsd image build term")
    return chosen
