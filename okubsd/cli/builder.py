"""okubsd builder: a VM that builds images, where the host cannot."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from urllib.parse import urlsplit

import click

from okubsd.cli.session import pass_session
from okubsd.config.edit import quote
from okubsd.config.names import VM_NAME, VM_NAME_RULE, quoted
from okubsd.errors import HostLacks, Misuse
from okubsd.host import lifecycle, release
from okubsd.host.guest import Guest
from okubsd.host.guest_workshop import InGuest, in_guest
from okubsd.host.session import Session
from okubsd.images.sources import parse_deb822
from okubsd.model import Request
from okubsd.recipe import Recipe

# What such a VM gets: room for a large app's tree, and memory for who packs it.
_MEMORY, _HOME = "1G", "8G"
_PORTS = {"http": 80, "https": 443}


@click.command()
@click.argument("name", metavar="[VM]", default="builder")
@pass_session
def builder(session: Session, name: str) -> None:
    """Print the description of a VM that builds images: it reaches the mirrors of packages, and nothing else.

    Write it to vm.d/builder.yaml beside okubsd.yaml; then `okubsd image build --in builder NAME...` builds there.
    """
    if not VM_NAME.fullmatch(name):
        raise Misuse(f"{quoted(name)} is no name for a VM: {VM_NAME_RULE}")
    image = next((recipe.name for recipe in session.recipes.values() if recipe.builder), "builder")
    rules = "".join(f"      - {quote(rule)}\n" for rule in _mirrors(session))
    click.echo(
        f"vms:\n  {name}:\n    image: {image}\n    memory: {_MEMORY}\n    cpus: 2\n    home: {_HOME}\n    keep: yes\n"
        f"    network: nat\n    deny: [any]\n    allow:\n{rules}",
        nl=False,
    )


def _mirrors(session: Session) -> list[str]:
    """Return rules that allow the hosts which packages of the recipes come from."""
    found: dict[str, None] = {}
    for recipe in session.recipes.values():
        for source in _sources(recipe):
            parts = urlsplit(source)
            if parts.hostname and parts.scheme in _PORTS:
                found[f"tcp {parts.hostname}:{parts.port or _PORTS[parts.scheme]}"] = None
    return list(found)


def _sources(recipe: Recipe) -> list[str]:
    return [source.uri for source in parse_deb822(release.sources_of(recipe)[1])]


@contextlib.contextmanager
def workshop_in(session: Session, name: str) -> Iterator[InGuest]:
    """Have the VM ``name`` as a workshop for the block, started if need be.  Raises HostLacks where it is none."""
    vm = session.vm(name)
    recipe = session.recipes.get(vm.image)
    if recipe is None or not recipe.builder:
        raise HostLacks(f"VM '{name}' builds no images: its image is '{vm.image}'", "okubsd builder  # describes one")
    lifecycle.start(session, vm, Request(windowless=True))
    with in_guest(Guest.find(session.places, vm)) as workshop:
        yield workshop
