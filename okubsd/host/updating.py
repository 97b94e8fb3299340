"""Update images: what is newer, builds beside the old ones, a trial of each, and the switch to all of them at once."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from okubsd import layout
from okubsd.errors import HostLacks, Problem
from okubsd.host import auditing, builder, door, lifecycle, locks, programs, release, store, trying
from okubsd.host.places import Places
from okubsd.host.session import Session, silent
from okubsd.images.apt import Offer, Upgrade, apt_argv, own_packages, parse_offers, upgrades
from okubsd.images.fitting import versions
from okubsd.model import Description, Image, Kind, Request
from okubsd.plan.images import BOOT_IMAGE, images_of, recipe_of
from okubsd.recipe import Recipe

# How long APT may take to fetch its lists, and to judge them, in seconds.
_FETCH, _JUDGE = 600, 120


class News(msgspec.Struct, frozen=True):
    """What is newer for one image than its current build ("" for none): packages, or its recipe.

    ``known`` says that the build has its packages written down.
    """

    image: str
    build: str
    built: int
    upgrades: tuple[Upgrade, ...]
    recipe_changed: bool
    known: bool = True

    @property
    def wanted(self) -> bool:
        """Return whether a build would be another one."""
        return bool(self.upgrades) or self.recipe_changed or not self.build or not self.known


def news_of(session: Session, names: tuple[str, ...]) -> list[News]:
    """Return what is newer for each of the images ``names``, which have their bases before them.

    Raises HostLacks without APT, Problem where a mirror does not answer well.
    """
    if programs.find_program("apt-get") is None:
        raise HostLacks(
            "there is no apt-get on this host, which says what is newer",
            "update the images on a Debian host, export them there and import them here: man okubsd",
        )
    packages = {name: _packages_of(session, name) for name in names}
    offered: dict[str, dict[str, Offer]] = {}
    for text in {_sources(session, name) for name in names}:
        asked = {package for name in names if _sources(session, name) == text for package in packages[name]}
        offered[text] = _offers(session, text, asked)
    return [_news_of(session, name, packages[name], offered[_sources(session, name)]) for name in names]


def _recipe(session: Session, name: str) -> Recipe:
    """Return the recipe that the image ``name`` is made of, which has one."""
    return recipe_of(name, store.current_image(session.places, name), session.recipes) or session.recipes[name]


def _sources(session: Session, name: str) -> str:
    return release.sources_of(_recipe(session, name))[1]


def _packages_of(session: Session, name: str) -> dict[str, str]:
    """Return the packages of the current image ``name`` that are its own, name to version; {} where it is not built."""
    places, recipe = session.places, session.recipes[name]
    image = store.current_image(places, name)
    packages = versions(image.packages) if image is not None else {}
    if image is None or not recipe.base:
        return packages
    built_on = store.read_image(places.images / recipe.base / image.base) if image.base else None
    base = built_on or store.current_image(places, recipe.base)
    return own_packages(packages, versions(base.packages if base else ()))


def _news_of(session: Session, name: str, packages: dict[str, str], offers: dict[str, Offer]) -> News:
    image = store.current_image(session.places, name)
    if image is None:
        return News(name, "", 0, (), recipe_changed=False)
    changed = image.recipe != _recipe(session, name).digest
    # A container is as old as its archive; nobody here knows what is newer.
    known = bool(image.packages) or bool(session.recipes[name].container)
    newer = upgrades(packages, offers)
    return News(name, image.build, image.built, newer, recipe_changed=changed, known=known)


def _offers(session: Session, text: str, packages: set[str]) -> dict[str, Offer]:
    """Return what the archives of the sources ``text`` have of ``packages``, by name."""
    places = session.places
    directory = places.state / layout.APT / hashlib.sha256(text.encode()).hexdigest()[:12]
    for made in (places.state, places.state / layout.APT, directory, directory / "sources", directory / "state"):
        door.make_private(made)
    with locks.locked(directory / "lock", lambda: session.report("waiting for another okubsd that asks APT")):
        _fetch(directory, text, session)
        argv = apt_argv("apt-cache", directory, "madison", *sorted(packages))
        done = door.run(argv, timeout=_JUDGE, env=_environment(directory))
    if done.code != 0 and packages:
        raise Problem(f"APT does not say what is newer: {door.reason(done)}")
    return parse_offers(done.out.decode(errors="replace"))


def _environment(directory: Path) -> dict[str, str]:
    """Return the environment of a call of APT: it reads the host's proxies, and no other file of its configuration."""
    return {"LC_ALL": "C.UTF-8", "APT_CONFIG": str(directory / "apt.conf")}


def _fetch(directory: Path, text: str, session: Session) -> None:
    """Fetch the lists of the archives."""
    (directory / "apt.conf").unlink(missing_ok=True)
    if release.write_proxies(directory / "apt.conf") is None:
        door.write(directory / "apt.conf", b"", lasting=False)
    door.write(directory / "sources/okubsd.sources", text.encode(), lasting=False)
    door.write(directory / "status", b"", lasting=False)
    session.report("asking the archives for newer packages")
    done = door.run(apt_argv("apt-get", directory, "update"), timeout=_FETCH, env=_environment(directory))
    if done.code != 0:
        raise Problem(
            f"the archives do not say what is newer: {_first_error(done)}",
            "see that the network and the APT sources work, then try again",
        )


def _first_error(done: door.Done) -> str:
    lines = (done.err + b"\n" + done.out).decode(errors="replace").splitlines()
    errors = [line for line in lines if line.startswith(("E: ", "Err:", "W: "))]
    return builder.first_reason(errors) or door.reason(done)


# --- building, trying, switching -----------------------------------------------------------------


def update(session: Session, names: tuple[str, ...]) -> list[Image]:
    """Build the images ``names`` anew, bases first; try all that VMs would start with; switch to them.  Return them.

    Whatever stops this leaves what is current as it was.  Raises Problem where a build or a trial fails.
    """
    places, made = session.places, dict[str, Image]()
    door.make_private(places.state)
    with locks.locked(places.state / layout.TRIAL_LOCK, lambda: session.report("waiting for another update")):
        _discard_untried(places)
        try:
            for name in names:
                recipe = _recipe(session, name)
                base = made.get(recipe.base)
                made[name] = builder.build_beside(places, recipe, session.report, base)
            changed = {name: image for name, image in made.items() if not _is_current(places, image)}
            for app in _to_try(session, changed):
                _try(session, app, changed)
            with locks.locked(places.images / ".lock"):
                store.switch(places, made.values())
        finally:
            _discard_untried(places)
    return list(made.values())


def _discard_untried(places: Places) -> None:
    """Remove what an update has left, while nobody else puts a build in its place."""
    places.images.mkdir(exist_ok=True)
    with locks.locked(places.images / ".lock"):
        store.discard_untried(places)


def _is_current(places: Places, image: Image) -> bool:
    current = store.current_image(places, image.name)
    return current is not None and current.build == image.build


def _to_try(session: Session, made: dict[str, Image]) -> list[str]:
    """Return the apps that would start with something new: those that were made, and those on a base that was."""
    built = {image.name for image in store.all_images(session.places)} | made.keys()
    apps = [name for name in sorted(built) if name in session.recipes and session.recipes[name].kind is Kind.APP]
    changed = {BOOT_IMAGE, *(session.recipes[name].base for name in apps)} & made.keys()
    touched = [name for name in apps if name in made or BOOT_IMAGE in changed or session.recipes[name].base in changed]
    for name in touched:
        if session.recipes[name].gateway:
            session.report(f"{name}: is taken untried, since a gateway does not run alone")
    return [name for name in touched if not session.recipes[name].gateway]


def _try(session: Session, app: str, made: dict[str, Image]) -> None:
    """Boot a VM of its own with what is new: each app has to paint a window.  Raises Problem where one does not."""
    places = session.places
    vm = trying.trial_vm(session, app)
    chosen = [made.get(name) or store.need_image(places, name) for name in images_of(vm, session.recipes)]
    store.check_fit(places, chosen)
    new = ", ".join(f"{image.name} {image.build}" for image in chosen if image in made.values())
    session.report(f"{app}: trying {new}")
    with trying.trial(session, chosen) as trial:
        recipes = trying.as_built(session.recipes, chosen)
        alone = Session.of(trial, Description(Path("trial"), (vm,)), recipes, silent)
        try:
            for shown in session.recipes[app].apps or ("",):
                lifecycle.start(alone, vm, Request(headless=True, windowless=not shown, app=shown))
            auditing.refuse_weaker(alone, vm)
        except Problem as problem:
            sentence = f"image '{app}' stays as it was, since a VM of the new one is not well: {problem.sentence}"
            raise Problem(sentence, "okubsd update --check  # tells when there are other packages") from None
        finally:
            lifecycle.stop(alone, vm, force=True)
