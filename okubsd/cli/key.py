"""okubsd key: keys that are pressed on a VM's display, and keys that images are signed with."""

from __future__ import annotations

from pathlib import Path

import click

from okubsd.cli.session import Verbs, as_json, pass_session, print_json, print_table
from okubsd.config.names import IMAGE_NAME, quoted
from okubsd.errors import Misuse, Problem
from okubsd.host import signing
from okubsd.host.reading import open_regular
from okubsd.host.session import Session
from okubsd.images.signify import LARGEST_KEY, PublicKey, parse_public_key


class _Keys(Verbs):
    """The verbs of keys that sign; a VM and keys of a keyboard are no verb."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        words = [word for word in args if not word.startswith("-")]
        if len(words) >= 2 and words[0] not in self.commands:
            args = ["press", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Keys)
def key() -> None:
    """Keys: VM KEY... presses them on the VM's own display; ls, trust, rm are of those that sign images."""


@key.command("press", hidden=True)
@click.argument("name", metavar="VM")
@click.argument("chords", metavar="KEY...", nargs=-1, required=True)
@pass_session
def press(session: Session, name: str, chords: tuple[str, ...]) -> None:
    """Press keys on the VM's own display: Return, F5, Ctrl+L, Alt+Left, one after the other."""
    from okubsd.cli.desktop import display_of
    from okubsd.config.chords import parse_chord
    from okubsd.host.hands import press_on

    try:
        parsed = tuple(parse_chord(chord) for chord in chords)
    except ValueError as error:
        raise Misuse(str(error), f"okubsd key {name} Ctrl+L") from None
    press_on(*display_of(session, name), parsed)


@key.command("ls")
@as_json
@pass_session
def list_keys(session: Session, json: bool) -> None:
    """List your own key, which signs what you export, and the keys whose images you take."""
    known = list(signing.known_keys(session.places))
    if json:
        rows = [
            {"name": one.name, "fingerprint": one.key.fingerprint, "own": one.own, "file": str(one.path)}
            for one in known
        ]
        print_json(keys=rows)
        return
    rows_ = [(one.name, "own" if one.own else "trusted", one.key.fingerprint, str(one.path)) for one in known]
    print_table(("NAME", "KEY", "FINGERPRINT", "FILE"), rows_)


@key.command()
@click.argument("source", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.argument("fingerprint", default="")
@click.option("--name", default="", help="What the key is called here.")
@pass_session
def trust(session: Session, source: Path, fingerprint: str, name: str) -> None:
    """Take images that the key in FILE has signed.

    FILE is a public key of signify(1), or a signed archive; of an archive the FINGERPRINT has to be said, as whoever
    exported it told it to you.
    """
    from okubsd.host.exchange import offered_key

    in_archive = not _begins_as_key(source)
    found = offered_key(source) if in_archive else _read_key(source)
    if in_archive and not fingerprint:
        raise Misuse(
            f"{source} brings its own key, and anybody could have made both",
            "ask whoever exported it for the fingerprint that 'okubsd key ls' shows there, and give it behind FILE",
        )
    if fingerprint and fingerprint != found.fingerprint:
        raise Problem(f"the key in {source} is {found.fingerprint}, and not {quoted(fingerprint)}")
    path = signing.trust(session.places, found, name or _name_for(source, found, in_archive=in_archive))
    session.report(f"{found.fingerprint} is trusted now, in {path}")


def _begins_as_key(source: Path) -> bool:
    with open_regular(source) as stream:
        return stream.read(64).startswith(b"untrusted comment: ")


def _read_key(source: Path) -> PublicKey:
    with open_regular(source) as stream:
        data = stream.read(LARGEST_KEY + 1)
    try:
        return parse_public_key(data)
    except ValueError as error:
        raise Problem(f"{source} {error}", "name a .pub file, or an archive of 'okubsd image export'") from None


def _name_for(source: Path, found: PublicKey, *, in_archive: bool) -> str:
    """Return what a key is called: as its file, or by its number where that is no name."""
    stem = source.stem.lower()
    taken = in_archive or not IMAGE_NAME.fullmatch(stem) or stem == signing.OWN
    return f"key-{found.number.hex()}" if taken else stem


@key.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@pass_session
def rm(session: Session, names: tuple[str, ...]) -> None:
    """Take the trust in keys back; images that were taken stay."""
    for name in names:
        signing.distrust(session.places, name)
