"""okubsd windows, raise, close: what VMs show on the desktop; type, click: hands on a VM's own display."""

from __future__ import annotations

from pathlib import Path

import click

from okubsd.cli.session import as_json, harmless, pass_session, print_json, print_table
from okubsd.config.names import quoted
from okubsd.errors import Problem, Unknown
from okubsd.host.session import Session


@click.command()
@click.argument("name", metavar="[VM]", default="")
@as_json
@pass_session
def windows(session: Session, name: str, json: bool) -> None:
    """List the windows that VMs show on the desktop."""
    import msgspec

    from okubsd.host import running
    from okubsd.host.windows import windows_of

    names = [session.running_vm(name).name] if name else sorted(running.ask_running(session.places))
    rows = [(vm, row) for vm in names for row in windows_of(session.places.vm_run(vm))]
    if json:
        print_json(windows=[{"vm": vm, **msgspec.structs.asdict(row)} for vm, row in rows])
        return
    cells = [
        (vm, str(row.window), row.app, f"{row.width}x{row.height}+{row.x}+{row.y}", harmless(row.title))
        for vm, row in rows
    ]
    print_table(("VM", "WINDOW", "APP", "PLACE", "TITLE"), cells)


@click.command("raise")
@click.argument("name", metavar="VM")
@click.argument("window", metavar="[WINDOW]", default="")
@pass_session
def raise_window(session: Session, name: str, window: str) -> None:
    """Bring a window of the VM up, by its number or the name of its app; the latest if not told."""
    _do(session, name, "raise", window)


@click.command("close")
@click.argument("name", metavar="VM")
@click.argument("window", metavar="WINDOW")
@pass_session
def close_window(session: Session, name: str, window: str) -> None:
    """Ask the program of a window to close it, as the button of a frame does."""
    _do(session, name, "close", window)


def _do(session: Session, name: str, what: str, window: str) -> None:
    from okubsd.host.windows import best_of, do, windows_of

    vm = session.running_vm(name)
    run = session.places.vm_run(vm.name)
    rows = windows_of(run)
    if not rows:
        raise Problem(f"VM '{vm.name}' shows no window on the desktop", f"okubsd start {vm.name}")
    if window.isdigit():
        found = next((row for row in rows if str(row.window) == window), None)
    else:
        named = tuple(row for row in rows if not window or window.lower() == row.app.lower())
        found = best_of(named, window)
    if found is None:
        raise Unknown(f"VM '{vm.name}' has no window {quoted(window)}", f"okubsd windows {vm.name}")
    if not do(run, what, found.window):
        raise Problem(f"VM '{vm.name}': the window {found.window} is gone", f"okubsd windows {vm.name}")


def display_of(session: Session, name: str) -> tuple[str, int, bytes]:
    """Return name, display number and cookie of a VM that runs.  Raises Problem where it shows nothing."""
    from okubsd.host import keys, running

    vm = session.running_vm(name)
    run: Path = session.places.vm_run(vm.name)
    number, cookie = running.live_display(run), keys.read_cookie(run)
    if number is None or cookie is None:
        raise Problem(f"VM '{vm.name}' shows nothing", f"okubsd start {vm.name} --headless")
    return vm.name, number, cookie


@click.command("type")
@click.argument("name", metavar="VM")
@click.argument("text", metavar="TEXT")
@pass_session
def type_text(session: Session, name: str, text: str) -> None:
    """Type TEXT on the VM's own display, and on no other."""
    from okubsd.host.hands import type_on

    type_on(*display_of(session, name), text)


@click.command("click")
@click.argument("name", metavar="VM")
@click.argument("x", metavar="X", type=click.IntRange(0, 32767))
@click.argument("y", metavar="Y", type=click.IntRange(0, 32767))
@click.option("--button", type=click.IntRange(1, 9), default=1, help="Another than the first; 4 and 5 are the wheel.")
@pass_session
def click_at(session: Session, name: str, x: int, y: int, button: int) -> None:
    """Click at X, Y of the VM's own display, in the pixels of its screenshot."""
    from okubsd.host.hands import click_on

    click_on(*display_of(session, name), x, y, button)
