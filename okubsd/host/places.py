"""Where things lie on this host: description, recipes, images, VMs, sockets."""

from __future__ import annotations

import os
import shlex
import stat
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from okubsd import layout
from okubsd.config.names import quoted
from okubsd.errors import Problem
from okubsd.host.trust import place_mistake

# struct sockaddr_un: 108 bytes on Linux, 104 on the BSDs, the last of them 0.
LONGEST_SOCKET = 107 if sys.platform == "linux" else 103


class Places(msgspec.Struct, frozen=True):
    """The directories of one user: ``state`` is what okubsd keeps, ``share`` was installed.

    ``system`` stands for the root directory where the host's own files are read and written.
    """

    state: Path
    share: Path
    system: Path = Path("/")

    @property
    def images(self) -> Path:
        """Return the directory of the built images."""
        return self.state / layout.STATE_IMAGES

    @property
    def run(self) -> Path:
        """Return the directory of what says that VMs live: it lies where no logout and no cleaner of /tmp comes by."""
        return self.state / layout.STATE_RUN

    @property
    def pool(self) -> Path:
        """Return the directory of the saved states."""
        return self.state / layout.POOL

    @property
    def of_system(self) -> Places:
        """Return the places of what vmd runs: its images belong to root and are the same for all users."""
        return msgspec.structs.replace(self, state=self.system / "var/okubsd")

    def vm(self, name: str) -> Path:
        """Return the directory of a VM's home, keys and logs."""
        return self.state / layout.STATE_VMS / name

    def vm_run(self, name: str) -> Path:
        """Return the directory of a running VM's sockets."""
        return self.run / name

    def check_sockets(self, name: str) -> None:
        """Raise Problem where the sockets of the VM ``name`` would have longer names than a system takes (unix(4))."""
        # ssh(1) binds its control socket under a name of 17 letters more, and then renames it.
        longest = len(bytes(self.vm_run(name) / "ssh-user")) + 17
        if longest > LONGEST_SOCKET:
            sentence = f"{name}: the paths of its sockets would be {longest} bytes long, and {LONGEST_SOCKET} are taken"
            raise Problem(sentence, "set OKUBSD_STATE to a directory with a shorter path")


def find_places(env: Mapping[str, str] = os.environ) -> Places:
    """Return the places of this user, after the XDG Base Directory Specification.

    Raises Problem where the installed data cannot be found, or where others could decide what lies in ``state``.
    """
    state = _find_state(env)
    if '"' in str(state) or "${" in str(state):
        # ssh_config(5) reads both inside quotes.
        raise Problem(f"{quoted(state, 200)} has a quote or a '${{' in it", "set OKUBSD_STATE to another directory")
    mistake = place_mistake(state)
    if mistake:
        raise Problem(f"okubsd keeps its VMs in {quoted(state, 200)}, and {mistake}", _STATE_HINT)
    _refuse_strange_directory(state)
    root = Path(env.get("OKUBSD_ROOT") or "/").absolute()
    mistake = place_mistake(root)
    if mistake:
        raise Problem(f"OKUBSD_ROOT is {quoted(root, 200)}, and {mistake}", "name a directory that is yours alone")
    return Places(state, find_share(), root)


def _refuse_strange_directory(state: Path) -> None:
    """Raise Problem for a state directory that others use and that holds something else: it would be shut to them."""
    try:
        status = state.lstat()
        foreign = {path.name for path in state.iterdir()} - layout.IN_STATE if status.st_mode & 0o077 else set()
    except OSError:
        return
    if status.st_mode & stat.S_ISVTX or (foreign and not (state / layout.STATE_VMS).is_dir()):
        sentence = f"{quoted(state, 200)} is a directory for others too, and okubsd's own is shut to them"
        raise Problem(sentence, "set OKUBSD_STATE to an empty directory, or to one that is not there yet")


_STATE_HINT = "have HOME name your own home, as sudo -H and su - do, or OKUBSD_STATE a directory that is yours alone"


def _find_state(env: Mapping[str, str]) -> Path:
    named = env.get("OKUBSD_STATE")
    if named:
        path = Path(named).expanduser()
        if not path.is_absolute():
            sentence = f"OKUBSD_STATE is {quoted(named)}, which is no absolute path"
            raise Problem(sentence, f"export OKUBSD_STATE={shlex.quote(str(path.absolute()))}")
        return path
    return xdg_directory(env, "XDG_STATE_HOME", ".local/state") / "okubsd"


def xdg_directory(env: Mapping[str, str], variable: str, default: str) -> Path:
    """Return a base directory of this user; one that is not absolute is passed over, as the specification has it."""
    named = Path(env.get(variable) or "")
    return named if named.is_absolute() else Path(env.get("HOME") or Path.home()) / default


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
    home = xdg_directory(env, "XDG_CONFIG_HOME", ".config")
    return (home / "okubsd/okubsd.yaml", Path("/etc/okubsd/okubsd.yaml"), share / "etc/okubsd.yaml")
