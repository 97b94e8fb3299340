"""What every command shares: where things lie, the description, and how to speak."""

from __future__ import annotations

import codecs
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from okubsd.config.names import CONTROL
from okubsd.errors import Misuse
from okubsd.host.session import Report, Session

F = TypeVar("F", bound=Callable[..., Any])

as_json = click.option("-j", "--json", "json", is_flag=True, help="Print JSON.")
dry_run = click.option("-n", "--dry-run", "dry", is_flag=True, help="Print what would be run, and run nothing.")


class Verbs(click.Group):
    """A command with verbs of its own, which are told where none is given."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the command line; without a verb the help goes to stderr, as for any wrong call."""
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help(), err=True)
            ctx.exit(Misuse.code)
        return super().parse_args(ctx, args)


def reporter(*, quiet: bool) -> Report:
    """Return what tells the user of progress, on stderr."""

    def report(line: str) -> None:
        if not quiet:
            print(f"okubsd: {harmless(line)}", file=sys.stderr, flush=True)

    return report


pass_session = click.make_pass_decorator(Session)


def harmless(untrusted: str) -> str:
    """Return text of a guest without what a terminal would act on."""
    return CONTROL.sub("", untrusted)


def harmless_bytes(untrusted: bytes) -> bytes:
    """Return a guest's output for a terminal: text, tabs, newlines and carriage returns before newlines."""
    text = untrusted.decode("utf-8", errors="replace").replace("\r\n", "\n")
    return CONTROL.sub("", text).encode()


class Harmless:
    """A guest's output for a terminal, as it comes in pieces: letters are not cut where a piece ends."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""

    def __call__(self, untrusted: bytes) -> bytes:
        """Return what of the next piece can be shown; b"" is the end."""
        text = self._held + self._decoder.decode(untrusted, final=not untrusted)
        # A carriage return is one only before a newline, which may be in the next piece.
        self._held = "\r" if text.endswith("\r") and untrusted else ""
        return CONTROL.sub("", text.removesuffix(self._held).replace("\r\n", "\n")).encode()


def cleaners() -> tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]:
    """Return what a guest's output and errors pass through: escape codes reach no terminal, files get every byte."""
    return (
        Harmless() if sys.stdout.isatty() else bytes,
        Harmless() if sys.stderr.isatty() else bytes,
    )


def print_json(**fields: object) -> None:
    """Print one JSON object with the version of its schema, in ASCII: what a guest said moves no cursor."""
    import json

    import msgspec

    data = msgspec.to_builtins({"schema": 1, **fields})
    sys.stdout.write(json.dumps(data, indent=2) + "\n")


def print_table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Print columns as wide as they need to be, one header line, no frames; a guest may have said some of it."""
    rows = [tuple(map(harmless, row)) for row in rows]
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in [header, *rows])
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def ago(seconds_since_epoch: float) -> str:
    """Return how long ago that was: "3 min", "2 h", "5 d"."""
    passed = max(0.0, time.time() - seconds_since_epoch)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if passed >= length:
            return f"{int(passed / length)} {unit}"
    return f"{int(passed)} s"
