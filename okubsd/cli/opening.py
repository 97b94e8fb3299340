"""okubsd open: an address or a file, in the VM that is to open it."""

from __future__ import annotations

import difflib
import itertools
import os
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import click
import msgspec

from okubsd.cli.session import harmless, pass_session
from okubsd.config.names import quoted
from okubsd.config.opening import FILE, URL, OpenRule, choose, parse_address
from okubsd.display.clip import HOST
from okubsd.errors import Misuse, Problem
from okubsd.host import copies, lifecycle, opening, policy, store
from okubsd.host.session import Session
from okubsd.model import Request

# What of a change is shown, in lines; a larger file is told by its size.
_MOST_LINES, _LARGEST_TEXT = 200, 1 << 20
# How many copies of a VM may run where another VM asks for one.
_MOST_COPIES = 3


@click.command("open")
@click.argument("what", metavar="FILE|URL")
@click.option("--in", "name", metavar="VM", default="", help="In this VM, whatever the rules say.")
@click.option("--app", default="", help="With this app of the VM.")
@click.option("--disposable/--here", "--disp/", "disposable", default=None, help="In a copy, or in the VM itself.")
@click.option("-y", "--yes", is_flag=True, help="Take a changed file back without asking.")
@click.option("--from", "asker", metavar="VM", default="", help="This VM asks for it: the policy is asked about both.")
@click.option("-n", "--dry-run", "dry", is_flag=True, help="Say where it would be opened, and by which rule.")
@pass_session
def open_command(
    session: Session, what: str, name: str, app: str, disposable: bool | None, yes: bool, asker: str, dry: bool
) -> None:
    """Open an address or a file in the VM that open.rules names: a file in a copy of it, which is thrown away.

    A file that was changed there comes back, if you say yes to what has changed.
    """
    kind, argument, matched = _target(what)
    rule = _rule(session, kind, matched, name)
    vm = session.vm(rule.vm)
    app, once = app or rule.app, rule.disposable if disposable is None else disposable
    if not opening.apps_of(session, vm):
        raise Misuse(f"VM '{vm.name}' has no app to open it with", "okubsd list")
    if dry:
        click.echo(
            f"{vm.name} {app or opening.apps_of(session, vm)[0]} {'disposable' if once else 'here'}: {rule.place}"
        )
        return
    asks = session.running_vm(asker) if asker else None
    if asks is not None and kind == FILE:
        raise Misuse("a VM opens its own files itself", f"okubsd cp {asker}:FILE .")
    source = HOST if asks is None else asks.copy_of or asks.name
    # A copy of a VM is another: what it asks of the VM itself is asked, too.
    if asks is None or asks.name != vm.name:
        policy.need_leave(session, "open", source, vm.name, quoted(what, 200))
    if asks is not None and once and len(copies.copies_of(session, vm.name)) >= _MOST_COPIES:
        raise Problem(f"{asker} asks for one more copy of {vm.name}, of which {_MOST_COPIES} run", "okubsd list")
    if kind == URL and not once:
        opening.open_there(session, vm, app, argument)
    elif kind == URL:
        with copies.making(session, vm) as made:
            # A page that a VM asks for is loaded by the way that is its own.
            copy = made if asks is None else msgspec.structs.replace(made, network=asks.network, rules=asks.rules)
            lifecycle.start(session, copy, Request(app=app, arguments=(argument,)))
            session.report(f"{copy.name}: a copy of {vm.name}; nothing of it is left when it ends")
    elif once:
        returned = opening.open_in_copy(session, vm, app, Path(argument))
        if returned is not None:
            _back(session, Path(argument), returned, yes)
    else:
        lifecycle.start(session, vm, Request(windowless=True))
        opening.open_there(session, vm, app, opening.send_file(session, vm, Path(argument)))


def _target(what: str) -> tuple[str, str, str]:
    """Return the kind of what is to be opened, what a VM is given, and the name that rules are about."""
    if what.startswith("file:/"):
        # As desktops name a file (freedesktop.org, file URI specification).
        parts = urlsplit(what)
        if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
            raise Misuse(f"{quoted(what, 200)} is no file of this host")
        what = unquote(parts.path)
    elif "://" in what:
        try:
            address = parse_address(what)
        except ValueError as error:
            raise Misuse(f"{quoted(what, 200)} {error}") from None
        return URL, address.text, address.host
    try:
        # What a link leads to is what is opened, and what is written to.
        path = Path(what).resolve(strict=True)
        if not path.is_file():
            raise Misuse(f"{quoted(what, 200)} is no file")
    except (OSError, ValueError):
        raise Misuse(f"{quoted(what, 200)}: there is no such file, and it is no address") from None
    return FILE, str(path), path.name


def _rule(session: Session, kind: str, matched: str, name: str) -> OpenRule:
    """Return the rule that decides: the user's own word, or the first line that fits."""
    if name:
        return OpenRule(kind, "*", name, "", kind == FILE, "--in")
    rule = choose(opening.read_rules(session), kind, matched)
    if rule is None:
        example = f"echo '{kind} * VM' >> ~/.config/okubsd/open.rules"
        raise Misuse(f"no rule says which VM opens {quoted(matched)}", f"okubsd open --in VM ...  # or: {example}")
    return rule


def _back(session: Session, path: Path, returned: opening.Returned, yes: bool) -> None:
    """Take a changed file back, if the user says yes; else it lies beside the one that was."""
    for line in _changes(_read(path), _read(returned.path)):
        click.echo(harmless(line))
    if not yes and sys.stdin.isatty():
        click.echo(f"okubsd: {quoted(path)}: take it back as it is now? Write yes: ", nl=False, err=True)
        yes = sys.stdin.readline().strip() == "yes"
    there = path.is_file()
    if there and store.hash_file(path) != returned.before:
        session.report(f"{quoted(path)} was changed here meanwhile")
        yes = False
    mode = path.stat().st_mode & 0o777 if there else 0o600
    target = path if yes and there else _free(path)
    opening.put(returned, target, mode)
    session.report(f"{quoted(target)}: as it became")


def _free(path: Path) -> Path:
    """Return a name beside ``path`` that nothing has."""
    names = (f"{path.name}.okubsd-new{f'-{number}' if number > 1 else ''}" for number in itertools.count(1))
    return next(found for name in names if not os.path.lexists(found := path.with_name(name)))


def _read(path: Path) -> bytes | None:
    """Return a text, None where it is too large to be shown, or gone."""
    try:
        return path.read_bytes() if path.stat().st_size <= _LARGEST_TEXT else None
    except OSError:
        return None


def _changes(before: bytes | None, after: bytes | None) -> list[str]:
    if before is None or after is None:
        return ["it has changed, and is too large to be shown"]
    sizes = f"{len(before)} bytes became {len(after)}"
    try:
        old, new = (_lines(data.decode()) for data in (before, after))
    except UnicodeDecodeError:
        return [sizes]
    lines = list(difflib.unified_diff(old, new, "before", "after", lineterm=""))
    left_out = len(lines) - _MOST_LINES
    return [*lines[:_MOST_LINES], *([f"... and {left_out} lines more"] if left_out > 0 else []), sizes]


def _lines(text: str) -> list[str]:
    """Return the lines of a text; a letter that is not seen is written as its number, and so is a missing end."""
    lines = text.split("\n")
    ending = [] if lines[-1] == "" else ["\\ no newline at the end"]
    shown = lines[:-1] if lines[-1] == "" else lines
    return [
        "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line) for line in shown
    ] + ending
