"""Where things lie on this host: description, recipes, images, VMs, sockets."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from okubsd.errors import Problem


class Places(msgspec.Struct, frozen=True):
    """The directories of one user: ``state`` keeps, ``run`` is gone after a reboot, ``share`` was installed.

    ``system`` stands for the root directory where the host's own files are read and written.
    """

    state: Path
    run: Path
    share: Path
    system: Path = Path("/")

    @property
    def images(self) -> Path:
        """Return the directory of the built images."""
        return self.state / "images"

    @property
    def of_system(self) -> Places:
        """Return the places of what vmd runs: its images belong to root and are the same for all users."""
        return msgspec.structs.replace(self, state=self.system / "var/okubsd")

    def vm(self, name: str) -> Path:
        """Return the directory of a VM's home, keys and logs."""
        return self.state / "vms" / name

    def vm_run(self, name: str) -> Path:
        """Return the directory of a running VM's sockets."""
        return self.run / name


def find_places(env: Mapping[str, str] = os.environ) -> Places:
    """Return the places of this user, after the XDG Base Directory Specification.

    Raises Problem where the installed data cannot be found.
    """
    home = Path(env.get("HOME") or Path.home())
    state = Path(env.get("OKUBSD_STATE") or Path(env.get("XDG_STATE_HOME") or home / ".local/state") / "okubsd")
    state = state.expanduser().absolute()
    # OpenBSD's sessions have one or have none; a VM that was started at boot is to be found from all of them.
    runtime = None if sys.platform.startswith("openbsd") else env.get("XDG_RUNTIME_DIR")
    base = Path(runtime) / "okubsd" if runtime else Path(f"/tmp/okubsd-{os.geteuid()}")
    system = Path(env.get("OKUBSD_ROOT") or "/").absolute()
    # Unix sockets have short names (104 bytes on BSD), and each state directory has VMs of its own.
    return Places(state, base / hashlib.sha256(bytes(state)).hexdigest()[:8], find_share(), system)


def find_share() -> Path:
    """Return the directory that holds ``images`` and ``etc``: the checkout, or share/okubsd of the prefix."""
    checkout = Path(__file__).parents[2]
    prefixes = (sys.prefix, sys.base_prefix, "/usr/local", "/usr", Path.home() / ".local")
    for path in (checkout, *(Path(prefix) / "share/okubsd" for prefix in prefixes)):
        if (path / "images/base/recipe.yaml").is_file():
            return path
    raise Problem("the recipes of okubsd are not installed", "install okubsd again: pip install .")


def description_candidates(given: str, share: Path, env: Mapping[str, str] = os.environ) -> tuple[Path, ...]:
    """Return where okubsd.yaml is looked for, in order; what the user named is the only candidate."""
    named = given or env.get("OKUBSD_CONFIG")
    if named:
        return (Path(named),)
    home = Path(env.get("XDG_CONFIG_HOME") or Path(env.get("HOME") or Path.home()) / ".config")
    return (home / "okubsd/okubsd.yaml", Path("/etc/okubsd/okubsd.yaml"), share / "etc/okubsd.yaml")
