"""okubsd image export, import, push, pull: images on their way to other hosts, and from them."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from okubsd.cli.building import bring_up_to_date, chosen_images, tell_misfits, with_bases
from okubsd.cli.session import pass_session
from okubsd.config.names import quoted
from okubsd.config.sizes import parse_size, render_megabytes
from okubsd.errors import Misuse
from okubsd.host import programs, store
from okubsd.host.lifecycle import interruptible
from okubsd.host.session import Session
from okubsd.host.trust import is_root
from okubsd.images.disk import FORMATS, files_of


@click.command("export")
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
    chosen = chosen_images(session, tuple(dict.fromkeys(names)) if alone else with_bases(session, names))
    fingerprint = exchange.export_images(session.places, chosen, target)
    size = render_megabytes(target.stat().st_size)
    session.report(f"{', '.join(found.name for found in chosen)}: {size} in {target}, signed by {fingerprint}")


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
    boot, base, app = (store.need_image(session.places, name) for name in with_bases(session, names))
    line = login.read_text().splitlines()[0] if login is not None and login.stat().st_size else ""
    if login is not None and not line.startswith("ssh-"):
        raise Misuse(f"{login} is no public key of ssh", "--authorized-key ~/.ssh/id_ed25519.pub")
    with interruptible():
        disk.export_disk(session.places, (boot, base, app), targets, size, line, session.report)
    for target in targets.values():
        session.report(f"{app.name}: {render_megabytes(target.stat().st_blocks * 512)} in {target}")


_LEAST_HOME = 16 << 20


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.argument("names", metavar="[NAME...]", nargs=-1)
@click.option("--days", type=click.IntRange(1, 3650), default=30, show_default=True, help="How long the index is good.")
@pass_session
def push(session: Session, directory: Path, names: tuple[str, ...], days: int) -> None:
    """Put built images into DIR, signed: any web server can give it to 'okubsd image pull'.

    That is all that are built, or NAME with the images it needs to boot.
    """
    from okubsd.host import mirror

    chosen = chosen_images(session, with_bases(session, names))
    fingerprint = mirror.push(session.places, chosen, directory, session.report, days=days)
    session.report(f"{', '.join(found.name for found in chosen)}: in {directory}, signed by {fingerprint}")


@click.command()
@click.argument("source", metavar="URL|DIR")
@click.argument("names", metavar="[NAME...]", nargs=-1)
@click.option("--mirror", "mirrors", multiple=True, help="Another place that has the same.")
@pass_session
def pull(session: Session, source: str, names: tuple[str, ...], mirrors: tuple[str, ...]) -> None:
    """Take images that were pushed to a directory or web server, and that a trusted key has signed (see 'okubsd key').

    As root on a host with vmd this is for all its users, and in the form that vmd opens.
    """
    from okubsd.host import fetching, mirror

    for_vmd = is_root() and programs.has_vmd()
    places = session.places.of_system if for_vmd else session.places
    for one in (source, *mirrors):
        fetching.is_url(one)
    with interruptible():
        taken = mirror.pull(places, (source, *mirrors), names, session.report, for_vmd=for_vmd, keys=session.places)
    if not taken:
        session.report("nothing there is newer than what is here")
    tell_misfits(session, places)


@click.command("import")
@click.argument("source", metavar="FILE")
@click.option("--older", is_flag=True, help="Take images that are older than those that are here.")
@click.option("--container", "name", metavar="NAME", help="Make an image NAME of the container that FILE is.")
@pass_session
def import_from(session: Session, source: str, older: bool, name: str | None) -> None:
    """Take the images of FILE, which a trusted key has signed (see 'okubsd key'), or a container.

    A container is a tar, the directory of an OCI layout, or docker://NAME, which skopeo(1) is asked for.
    As root on a host with vmd this is for all its users, and in the form that vmd opens.
    """
    from okubsd.host import container_source, exchange

    is_file = name is None or not (container_source.is_registry(source) or Path(source).is_dir())
    if is_file and not Path(source).is_file():
        raise Misuse(f"{quoted(source, 200)} does not exist, or is no file", "okubsd image import --help")
    if name is not None:
        from okubsd.host.installing import add_container

        with interruptible():
            path = add_container(session, name, source)
        fresh = Session(session.given, session.report, quiet=session.quiet)
        bring_up_to_date(fresh, (name,))
        session.report(f"{name}: its recipe is {path}; describe a VM with 'image: {name}', and 'publish' its ports")
        return
    for_vmd = is_root() and programs.has_vmd()
    places = session.places.of_system if for_vmd else session.places
    exchange.import_images(places, Path(source), session.report, for_vmd=for_vmd, keys=session.places, older=older)
    tell_misfits(session, places)
