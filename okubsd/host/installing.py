"""An app from nothing: a recipe if there is none, a VM in the description, its image, its entry in the menus.

A VM is described in a file of its own, vm.d/NAME.yaml: what the user wrote is not touched.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from okubsd import layout
from okubsd.config.names import IMAGE_NAME, IMAGE_NAME_RULE, PACKAGE_NAME, VM_NAME, VM_NAME_RULE, did_you_mean, quoted
from okubsd.config.sizes import render_size
from okubsd.errors import BadDescription, Misuse, Problem, Unknown
from okubsd.host import door, locks, programs
from okubsd.host.places import xdg_directory
from okubsd.host.session import Session
from okubsd.model import Vm

_PROGRAM = re.compile(r"[A-Za-z0-9/][A-Za-z0-9._/+-]*")
MADE = "# Made by `okubsd install`."
# What a VM gets that nobody described before: enough for a program with a window, and room for its files.
_MEMORY, _HOME = "1G", "4G"


def own_config(env: Mapping[str, str]) -> Path:
    """Return the directory of the user's own description and recipes."""
    return xdg_directory(env, "XDG_CONFIG_HOME", ".config") / "okubsd"


def add_recipe(session: Session, name: str, package: str, command: str) -> Path:
    """Write a recipe of the user's for an image ``name`` of one ``package``, whose program is ``command``.

    Raises Misuse for a name that is none, or that there is a recipe of already.
    """
    if not IMAGE_NAME.fullmatch(name):
        raise Misuse(f"{quoted(name)} is no name for an image: {IMAGE_NAME_RULE}")
    if not PACKAGE_NAME.fullmatch(package):
        raise Misuse(f"{quoted(package)} is no name of a package")
    if command and not _PROGRAM.fullmatch(command):
        raise Misuse(f"{quoted(command)} is no name of a program")
    if name in session.recipes:
        raise Misuse(f"there is a recipe '{name}' already", f"okubsd install {name}")
    path = own_config(os.environ) / "images" / name / "recipe.yaml"
    if os.path.lexists(path.parent):
        raise Misuse(f"{path.parent} is there already", "choose another name")
    path.parent.mkdir(mode=0o755, parents=True)
    door.write(path, _recipe(name, package, command or package).encode(), 0o644)
    return path


def add_container(session: Session, name: str, source: str) -> Path:
    """Write a recipe of the user's for an image ``name`` of the container in ``source``, which is copied beside it.

    ``source`` is a tar, the directory of an OCI layout, or docker:// and the name of an image in a registry.
    Raises Misuse for a name that is none or is taken, Problem where ``source`` is no container.
    """
    from okubsd.host import container, container_source

    path = own_config(os.environ) / "images" / name / "recipe.yaml"
    if not IMAGE_NAME.fullmatch(name):
        raise Misuse(f"{quoted(name)} is no name for an image: {IMAGE_NAME_RULE}")
    if name in session.recipes or os.path.lexists(path.parent):
        raise Misuse(f"there is a recipe '{name}' already", "choose another name, or remove it first")
    state = session.places.state
    door.make_private(state)
    with (
        locks.locked(state / layout.CONTAINER_LOCK, lambda: session.report("waiting for another container")),
        _scratch(state) as scratch,
    ):
        archive = container_source.as_tar(source, Path(scratch), session.report)
        # Whatever it is, it is looked through before anything of it is kept.
        container.pack(archive, Path(scratch) / "drive.tar", Path(scratch))
        path.parent.mkdir(mode=0o755, parents=True)
        try:
            shutil.copyfile(archive, path.with_name(_CONTAINER))
            path.with_name(_CONTAINER).chmod(0o644)
            door.write(path, f"{MADE}\nfrom: base\ncontainer: {_CONTAINER}\n".encode(), 0o644)
        except BaseException:
            shutil.rmtree(path.parent)
            raise
    return path


@contextlib.contextmanager
def _scratch(state: Path) -> Iterator[str]:
    """Yield an empty directory that is gone afterwards, and remove what was left by whoever was killed."""
    import tempfile

    for left in state.glob(".container-*"):
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=state, prefix=".container-") as made:
        yield made


_CONTAINER = "container.tar"


def _recipe(name: str, package: str, command: str) -> str:
    return f"{MADE}\nfrom: base\npackages: [{package}]\napps:\n  {name}: [{command}]\n"


def need_recipe(session: Session, name: str) -> None:
    """Raise Unknown where there is no recipe of an app image called ``name``."""
    recipe = session.recipes.get(name)
    if recipe is None or not recipe.apps:
        known = sorted(known for known, recipe in session.recipes.items() if recipe.apps)
        sentence = f"there is no recipe for {quoted(name)}{did_you_mean(name, known)}"
        raise Unknown(sentence, f"okubsd install {name if IMAGE_NAME.fullmatch(name) else 'NAME'} --package PACKAGE")


def add_vm(session: Session, name: str, image: str, network: str) -> Session:
    """Describe a VM ``name`` of the ``image``, and return the session that knows it.

    Raises Misuse where there is another VM of that name, and BadDescription where it would not be taken; then nothing
    is changed.
    """
    if not VM_NAME.fullmatch(name):
        raise Misuse(f"{quoted(name)} is no name for a VM: {VM_NAME_RULE}")
    known = [known.name for known in session.description.networks]
    if network and network not in known:
        raise Misuse(f"there is no network {quoted(network)}{did_you_mean(network, known)}", "okubsd net ls")
    main = _own_description(session)
    path = main.parent / "vm.d" / f"{name}.yaml"
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    if path.exists():
        raise Misuse(f"{path} is there already", "choose another name with --vm")
    door.write(path, _described(session, image, network).encode(), 0o644)
    try:
        found = Session(str(main) if session.given else "", session.report, quiet=session.quiet)
        found.vm(name)
    except (BadDescription, Problem):
        path.unlink()
        raise
    return found


def _own_description(session: Session) -> Path:
    """Return the user's own description; one who has only the sample gets a copy of it."""
    path = session.description.path
    if not path.is_relative_to(session.places.share):
        return path
    own = own_config(os.environ) / "okubsd.yaml"
    if os.path.lexists(own):
        raise Misuse(f"{path} is the sample, and you have {own}", f"okubsd -f {own} list")
    own.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    door.write(own, path.read_bytes(), 0o644)
    session.report(f"{own}: your description from now on, a copy of the sample")
    return own


def _described(session: Session, image: str, network: str) -> str:
    """Return the text of a VM: as large as the first that has the same image."""
    like = next((vm for vm in session.description.vms if vm.image == image), None)
    measured = session.recipes[image].memory
    usual = render_size(measured) if measured else _MEMORY
    memory, home = (render_size(like.memory), render_size(like.home)) if like else (usual, _HOME)
    lines = [MADE, f"image: {image}", f"memory: {memory}", f"home: {home}"]
    lines += [f"cpus: {like.cpus}"] if like and like.cpus > 1 else []
    lines += [f"network: {network}"] if network else []
    return "\n".join(lines) + "\n"


def forget_vm(session: Session, name: str) -> None:
    """Take a VM out of the description again that add_vm() described."""
    (session.description.path.parent / "vm.d" / f"{name}.yaml").unlink(missing_ok=True)


def forget_recipe(name: str) -> bool:
    """Remove a recipe that is as an install wrote it, and nothing beside it; return whether there was one."""
    path = own_config(os.environ) / "images" / name / "recipe.yaml"
    form = re.escape(_recipe(name, "PACKAGE", "COMMAND")).replace("PACKAGE", "[^\\n]+").replace("COMMAND", "[^\\n]+")
    if not IMAGE_NAME.fullmatch(name) or not path.is_file() or not re.fullmatch(form, path.read_text(errors="replace")):
        return False
    path.unlink()
    with contextlib.suppress(OSError):
        path.parent.rmdir()
    return True


def users_of(session: Session, image: str, but: Vm) -> list[str]:
    """Return the other VMs that have an image."""
    return [vm.name for vm in session.description.vms if vm.image == image and vm.name != but.name]


# How many packages of a distribution are told, how long its own search may take in seconds, and what a word may be.
_MOST_PACKAGES, _SEARCH_SECONDS = 20, 20.0
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9+. -]{1,60}")


def find_packages(word: str) -> list[tuple[str, str]]:
    """Return packages of this host's distribution that are about ``word``, each with what it is (apt-cache(8)).

    Those come first that are called so.  There are none where this host has no APT.
    """
    if not _WORD.fullmatch(word) or programs.find_program("apt-cache") is None:
        return []
    try:
        done = door.run(("apt-cache", "search", "--", re.escape(word)), timeout=_SEARCH_SECONDS)
    except subprocess.TimeoutExpired:
        return []
    found = [line.partition(" - ")[::2] for line in done.out.decode(errors="replace").splitlines()]
    good = [(name, about) for name, about in found if PACKAGE_NAME.fullmatch(name) and not _NO_APP.search(name)]
    return sorted(good, key=lambda row: word.lower() not in row[0])[:_MOST_PACKAGES]


# What no window comes of, as far as a name tells.
_NO_APP = re.compile(
    r"^(lib|fonts-|golang-|node-|python3?-|ruby-|r-|elpa-|texlive|gir1)|-(dev|doc(-.*)?|data|common|dbg|dbgsym|l10n.*)$"
)
