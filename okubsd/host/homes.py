"""The homes of VMs on disk: what they take, and what becomes of them when a VM gets another name or goes."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from okubsd import layout
from okubsd.errors import Problem
from okubsd.guest.identity import host_key_line
from okubsd.host import door, keys
from okubsd.host.places import Places


def home_of(places: Places, name: str) -> Path:
    """Return the drive of a VM's home."""
    return places.vm(name) / "home.img"


def home_sizes(places: Places, names: Iterable[str]) -> dict[str, int]:
    """Return the sizes in bytes of the homes that there are, by the names of their VMs."""
    paths = {name: home_of(places, name) for name in names}
    return {name: path.stat().st_size for name, path in paths.items() if path.is_file()}


def rename(places: Places, old: str, new: str) -> None:
    """Give what is kept of the VM ``old`` to ``new``: home, keys, logs.  Raises Problem where ``new`` has some."""
    there, here = places.vm(old), places.vm(new)
    if not there.is_dir():
        return
    check_free(places, new)
    shutil.rmtree(here, ignore_errors=True)
    if (there / keys.HOST_SEED).is_file():
        # The pinned host key is told by its name; written before the directory moves, it holds for both.
        public = (there / keys.HOST_SEED).read_bytes()[32:]
        door.write(
            there / layout.KNOWN_HOSTS, (host_key_line(old, public) + host_key_line(new, public)).encode(), 0o644
        )
    there.rename(here)


def check_free(places: Places, name: str) -> None:
    """Raise Problem where something is kept of a VM called ``name``, as of one that was removed but for its home."""
    here = places.vm(name)
    kept = [path.name for path in here.iterdir() if path.name != layout.VM_LOCK] if here.is_dir() else []
    if kept:
        raise Problem(f"{here} has something of an earlier VM '{name}'; choose another name", f"ls {here}")


def remove(places: Places, name: str, *, keep_home: bool) -> list[str]:
    """Remove what is kept of the VM ``name``, but its home if that is to be kept; return what was removed."""
    directory = places.vm(name)
    removed = []
    for path in sorted(directory.iterdir()) if directory.is_dir() else []:
        if keep_home and path == home_of(places, name):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
        removed.append(path.name)
    if directory.is_dir() and not any(directory.iterdir()):
        directory.rmdir()
    return removed
