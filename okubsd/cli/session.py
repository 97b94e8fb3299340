"""What every command shares: where things lie, the description, and how to speak."""

from __future__ import annotations

import functools
import re
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from okubsd.config.names import did_you_mean, quoted
from okubsd.errors import Unknown
from okubsd.model import Recipe, Vm, Wish

F = TypeVar("F", bound=Callable[..., Any])

as_json = click.option("-j", "--json", "json", is_flag=True, help="Print JSON.")
dry_run = click.option("-n", "--dry-run", "dry", is_flag=True, help="Print what would be run, and run nothing.")

# C0 but for tab and newline, DEL, and C1: what moves a cursor, sets a title or answers back.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


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


def print_json(**fields: object) -> None:
    """Print one JSON object with the version of its schema."""
    import msgspec

    data = msgspec.json.encode({"schema": 1, **fields})
    sys.stdout.write(msgspec.json.format(data, indent=2).decode() + "\n")


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
