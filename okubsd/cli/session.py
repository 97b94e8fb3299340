"""What every command shares: where things lie, the description, and how to speak."""

from __future__ import annotations

import codecs
import functools
import re
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from okubsd.config.names import did_you_mean, quoted
from okubsd.errors import Misuse, Unknown
from okubsd.model import Recipe, Vm, Wish

F = TypeVar("F", bound=Callable[..., Any])

as_json = click.option("-j", "--json", "json", is_flag=True, help="Print JSON.")
dry_run = click.option("-n", "--dry-run", "dry", is_flag=True, help="Print what would be run, and run nothing.")

# C0 but for tab and newline, DEL, and C1: what moves a cursor, sets a title or answers back.  And what is not seen
# and changes what is: directions, line separators, tags (Unicode, general categories Cf, Zl, Zp), half surrogates.  The
# joiners of scripts and emoji stay.
_CONTROL = re.compile(
    "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\xad\\u061c\\u180e\\u200b\\u200e\\u200f\\u2028-\\u202e\\u2060-\\u206f"
    "\\ud800-\\udfff\\ufeff\\ufff9-\\ufffb\\U000e0000-\\U000e007f]"
)


class Verbs(click.Group):
    """A command with verbs of its own, which are told where none is given."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the command line; without a verb the help goes to stderr, as for any wrong call."""
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help(), err=True)
            ctx.exit(Misuse.code)
        return super().parse_args(ctx, args)


class Session:
    """One call of okubsd."""

    def __init__(self, description: str, *, quiet: bool, verbose: bool) -> None:
        self.given = description
        self.quiet = quiet
        if verbose:
            from okubsd.host.door import Verbosity

            Verbosity.show_argv = True

    @functools.cached_property
    def places(self) -> Any:
        """Return the Places of this user."""
        from okubsd.host.places import find_places

        return find_places()

    @functools.cached_property
    def recipes(self) -> dict[str, Recipe]:
        """Return all recipes by name."""
        from okubsd.host.reading import read_recipes

        return read_recipes(self.places)

    @functools.cached_property
    def wish(self) -> Wish:
        """Return the description."""
        from okubsd.host.reading import read_wish

        return read_wish(self.places, self.given, self.recipes)

    @functools.cached_property
    def known_wish(self) -> Wish | None:
        """Return the description, or None where it has mistakes: one line says so, and what runs is known anyway."""
        from okubsd.errors import BadDescription
        from okubsd.host.reading import find_description

        # One that is not there at all is the caller's mistake.
        find_description(self.places, self.given)
        try:
            return self.wish
        except BadDescription as error:
            more = f" and {len(error.mistakes) - 1} more" if len(error.mistakes) > 1 else ""
            self.report(f"the description has mistakes, only what runs is known: {error.mistakes[0]}{more}")
            return None

    @functools.cached_property
    def known_recipes(self) -> dict[str, Recipe]:
        """Return all recipes by name, none where one has mistakes."""
        from okubsd.errors import BadDescription

        try:
            return self.recipes
        except BadDescription:
            return {}

    def running_vm(self, name: str) -> Vm:
        """Return the VM called ``name`` as it was started, if it runs, whatever the description says now.

        Otherwise as vm() does.
        """
        from okubsd.config.names import VM_NAME
        from okubsd.host import running

        if VM_NAME.fullmatch(name) and running.is_running(self.places, name):
            return running.started_or_bare(self.places, name)
        return self.vm(name)

    def vm(self, name: str) -> Vm:
        """Return the VM called ``name``.  Raises Unknown, with the nearest name."""
        vm = self.wish.find(name) or self._gateway(name)
        if vm is None:
            known = [known.name for known in self.wish.vms]
            sentence = f"there is no VM {quoted(name)} in {self.wish.path}{did_you_mean(name, known)}"
            raise Unknown(sentence, "okubsd list")
        return vm

    def _gateway(self, name: str) -> Vm | None:
        """Return the gateway called ``name`` that okubsd makes by itself, or None."""
        if not name.endswith(".gw"):
            return None
        from okubsd.host.gateway import known_gateways

        return next((vm for vm in known_gateways(self.wish) if vm.name == name), None)

    @property
    def site(self) -> Any:
        """Return the Site: what the user has written."""
        from okubsd.host.lifecycle import Site

        return Site(self.wish, self.recipes)

    def report(self, line: str) -> None:
        """Tell the user of progress, on stderr."""
        if not self.quiet:
            print(f"okubsd: {harmless(line)}", file=sys.stderr, flush=True)


pass_session = click.make_pass_decorator(Session)


def harmless(untrusted: str) -> str:
    """Return text of a guest without what a terminal would act on."""
    return _CONTROL.sub("", untrusted)


def harmless_bytes(untrusted: bytes) -> bytes:
    """Return a guest's output for a terminal: text, tabs, newlines and carriage returns before newlines."""
    text = untrusted.decode("utf-8", errors="replace").replace("\r\n", "\n")
    return _CONTROL.sub("", text).encode()


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
        return _CONTROL.sub("", text.removesuffix(self._held).replace("\r\n", "\n")).encode()


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
