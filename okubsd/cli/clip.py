"""okubsd clip: the clipboard of one VM for another, only ever because the user says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from okubsd.cli.session import Verbs, as_json, harmless, pass_session, print_json
from okubsd.errors import Misuse, Problem
from okubsd.host.session import Session

if TYPE_CHECKING:
    from okubsd.display.clip import Clip


class _Sides(Verbs):
    """The verbs of clip; two names that are no verb are what is carried from and to."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        sides = [word for word in args if not word.startswith("-")]
        if len(sides) >= 2 and sides[0] not in self.commands:
            args = ["give", *args]
        return super().parse_args(ctx, args)


def _side(session: Session, name: str, *, host: bool) -> str:
    """Return whose clipboard is meant: of the VM ``name``, or of the desktop."""
    from okubsd.display.clip import HOST

    if host == bool(name):
        raise Misuse("name a VM, or say --host for the desktop", "okubsd list")
    if host or name == HOST:
        return HOST
    return session.running_vm(name).name


@click.group(cls=_Sides)
def clip() -> None:
    """Carry what was copied: copy, paste, show, clear; or A B, from one VM to another."""


@clip.command("copy")
@click.argument("name", metavar="[VM]", default="")
@click.option("--host", is_flag=True, help="Of the desktop.")
@click.option("--raw", is_flag=True, help="Keep letters of a text that are not seen.")
@pass_session
def copy(session: Session, name: str, host: bool, raw: bool) -> None:
    """Take what the clipboard of the VM holds, text or a PNG, and keep it until it is pasted."""
    _copy(session, _side(session, name, host=host), raw=raw)


def _copy(session: Session, source: str, *, raw: bool) -> None:
    from okubsd.display.clip import describe
    from okubsd.host import clip as clips

    session.report(f"copied {describe(clips.copy(session, source, raw=raw))}")


@clip.command("paste")
@click.argument("name", metavar="[VM]", default="")
@click.option("--host", is_flag=True, help="To the desktop.")
@click.option(
    "-t", "--timeout", "seconds", type=click.IntRange(1, 600), default=10, help="For so long, in seconds (10)."
)
@pass_session
def paste(session: Session, name: str, host: bool, seconds: int) -> None:
    """Offer what was copied to the VM, once and for ten seconds, and forget it."""
    _paste(session, _side(session, name, host=host), seconds)


def _paste(session: Session, target: str, seconds: int) -> None:
    from okubsd.host import clip as clips

    clip, outcome = clips.paste(session, target, _teller(session, target, seconds), seconds=seconds)
    _tell(session, clip.source, target, outcome)


def _teller(session: Session, target: str, seconds: int) -> Callable[[Clip], None]:
    from okubsd.display.clip import describe

    return lambda clip: session.report(f"paste it in {target} within {seconds} s: {describe(clip)}")


_NOT_TAKEN = {
    "partly": "only a part of it was taken",
    "replaced": "something else was copied there",
    "over": "nobody took it in time",
}


def _tell(session: Session, source: str, target: str, outcome: str) -> None:
    """Tell what became of a clip.  Raises Problem where it was not taken."""
    if outcome != "taken":
        raise Problem(f"{target}: {_NOT_TAKEN[outcome]}; it is forgotten", f"okubsd clip copy {source}")
    session.report(f"{target} has it")


@clip.command("give", hidden=True)
@click.argument("source", metavar="A")
@click.argument("target", metavar="B")
@click.option("--raw", is_flag=True, help="Keep letters of a text that are not seen.")
@click.option(
    "-t", "--timeout", "seconds", type=click.IntRange(1, 600), default=10, help="For so long, in seconds (10)."
)
@pass_session
def give(session: Session, source: str, target: str, raw: bool, seconds: int) -> None:
    """Copy from A and paste to B, VMs or 'host'."""
    from okubsd.host import clip as clips

    given, taken = (_side(session, name, host=False) for name in (source, target))
    # A target that shows nothing is told before anything is taken.
    clips.display_of(session, taken)
    clip = clips.read(session, given, raw=raw)
    outcome = clips.give(session, clip, taken, _teller(session, taken, seconds), seconds=seconds)
    _tell(session, given, taken, outcome)


@clip.command("show")
@as_json
@pass_session
def show(session: Session, json: bool) -> None:
    """Say what was copied and is not pasted yet."""
    from okubsd.display.clip import describe
    from okubsd.host import clip as clips

    there = clips.kept(session.places)
    if json:
        held = {"source": there.source, "kind": there.kind, "bytes": len(there.data)} if there else None
        print_json(clip=held)
        return
    print(harmless(describe(there)) if there else "nothing was copied")


@clip.command("clear")
@pass_session
def clear(session: Session) -> None:
    """Forget what was copied."""
    from okubsd.host import clip as clips

    session.report("forgotten" if clips.clear(session.places) else "nothing was copied")
