"""Build images: bootstrap a tree, pack it, and put it in place only when it is whole."""

from __future__ import annotations

import contextlib
import hashlib
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from okubsd.config.names import quoted
from okubsd.errors import HostLacks, Problem
from okubsd.host import bootdrive, door, locks, packer, programs, store
from okubsd.host.places import Places
from okubsd.host.reading import read_text, recipe_directories
from okubsd.host.trust import is_root
from okubsd.images import commands
from okubsd.images.sources import (
    of_mirror,
    of_release,
    parse_deb822,
    parse_list,
    parse_proxies,
    render_apt_conf,
    render_sources,
)
from okubsd.model import Argv, Image, Kind, Part, Recipe

Report = Callable[[str], None]

DRIVE = "drive.squashfs"
INDEX = "index.json"


def build(places: Places, recipe: Recipe, report: Report, *, force: bool = False) -> Image:
    """Build ``recipe`` unless its image is up to date (or by ``force``); return what is then the current one.

    ``report`` gets a line for each thing that is done.  Whatever stops this leaves the current image as it was.
    Raises HostLacks or Problem.
    """
    door.make_private(places.state)
    places.images.mkdir(exist_ok=True)
    with locks.locked(places.images / ".lock", lambda: report("waiting for another build to end")):
        ready = store.current_image(places, recipe.name)
        if ready is not None and ready.recipe == recipe.digest and not force:
            return ready
        with _workshop(places.images) as made:
            image = _build_in(made, places, recipe, report)
            for name in ("apt.sources", "apt.conf", "tree.tar", "drive.tar"):
                (made / name).unlink(missing_ok=True)
            store.publish(places, image, made)
    return image


@contextlib.contextmanager
def _workshop(images: Path) -> Iterator[Path]:
    """Yield an empty directory that is gone afterwards; also remove what a killed build left behind."""
    for left in [*images.glob(".making-*"), *images.glob("*/.gone-*")]:
        _remove_tree(left)
    made = Path(tempfile.mkdtemp(prefix=".making-", dir=images))
    try:
        yield made
    finally:
        if made.exists():
            _remove_tree(made)


@contextlib.contextmanager
def _scratch(images: Path, made: Path, base: Path | None) -> Iterator[tuple[Path, Path | None]]:
    """Yield a directory for mmdebstrap's tree, and where it finds ``base``.

    Without root the tree belongs to a subordinate user, who gets neither into our state nor into our home:
    the tree is then made below /tmp, beside a copy of the base.
    """
    if is_root():
        yield made, base
        return
    prefix = f"okubsd-build-{hashlib.sha256(bytes(images)).hexdigest()[:8]}-"
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        _remove_tree(left)
    scratch = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        scratch.chmod(0o755)
        yield scratch, base and Path(shutil.copy(base, scratch / "base.squashfs"))
    finally:
        _remove_tree(scratch)


def _remove_tree(path: Path) -> None:
    """Remove ``path``; files that a build's user namespace owns are removed from within such a one.

    Nothing that is mounted below it is entered.
    """
    if _has_mounts(path):
        door.run(("rm", "-rf", "--one-file-system", "--", str(path)), timeout=300)
        return
    shutil.rmtree(path, ignore_errors=True)
    if path.exists():
        door.run(("mmdebstrap", "--unshare-helper", "rm", "-rf", "--one-file-system", str(path)), timeout=60)
        shutil.rmtree(path, ignore_errors=True)


def _has_mounts(path: Path) -> bool:
    """Return whether something is mounted below ``path``, as a killed build of an older okubsd may have left it."""
    try:
        return f" {path}/" in Path("/proc/mounts").read_text()
    except OSError:
        return False


def _build_in(made: Path, places: Places, recipe: Recipe, report: Report) -> Image:
    directory = recipe_directories(places)[recipe.name]
    base = _own_base(places, recipe) if recipe.base else None
    report(f"{recipe.name}: fetching and unpacking {len(recipe.packages)} packages and what they need")
    tar = _bootstrap(made, places, recipe, base, report)
    report(f"{recipe.name}: packing")
    if recipe.kind is Kind.BOOT:
        packer.pack_boot(tar, recipe, directory, made)
        bootdrive.make_boot_drive(made)
        names: Argv = ("vmlinuz", "initrd", packer.NETWORK, bootdrive.DRIVE)
    else:
        index = packer.read_index(store.part_path(places, base, INDEX)) if base else {}
        whole = packer.pack_tree(tar, recipe, directory, index, made / "drive.tar")
        _pack(made / "drive.tar", made / DRIVE, recipe.kind)
        names = (DRIVE,)
        if recipe.kind is Kind.BASE:
            (made / INDEX).write_bytes(msgspec.json.encode(whole, order="sorted"))
            names = (DRIVE, INDEX)
    return _describe(made, recipe, base, names, packer.read_packages(tar, recipe.kind))


def _own_base(places: Places, recipe: Recipe) -> Image:
    """Return the base of ``recipe``, whose programs a build runs on this host: only one that was built here.

    Raises Problem for one that came from elsewhere.
    """
    base = store.need_image(places, recipe.base)
    if not base.built_here:
        sentence = f"image '{recipe.name}' is not built: its base '{base.name}' was imported, and a build would run"
        hint = f"okubsd image build --force {base.name} {recipe.name}"
        raise Problem(f"{sentence} programs of it on this host", hint)
    return base


def _bootstrap(made: Path, places: Places, recipe: Recipe, base: Image | None, report: Report) -> Path:
    suite, text = sources_of(recipe)
    sources, tar = made / "apt.sources", made / "tree.tar"
    sources.write_text(text)
    apt_conf = _write_proxies(made / "apt.conf")
    drive = store.part_path(places, base, DRIVE) if base else None
    with _scratch(places.images, made, drive) as (scratch, reachable):
        root = is_root()
        argv = commands.bootstrap_argv(recipe, suite, sources, reachable, tar, root=root, apt_conf=apt_conf)
        _mmdebstrap(argv, scratch, recipe, report)
    return tar


def _write_proxies(path: Path) -> Path | None:
    """Write the proxies that the host's apt goes through to ``path``, and return it; None where there are none."""
    if programs.find_program("apt-config") is None:
        return None
    proxies = parse_proxies(door.run(("apt-config", "dump"), timeout=20).out.decode(errors="replace"))
    if not proxies:
        return None
    # A proxy may want a password, which is nobody else's to read.
    door.write(path, render_apt_conf(proxies).encode(), lasting=False)
    return path


def _mmdebstrap(argv: Argv, scratch: Path, recipe: Recipe, report: Report) -> None:
    env = {**commands.ENVIRONMENT, "TMPDIR": str(scratch)}
    errors: list[str] = []

    def hear(line: str) -> None:
        if line.startswith(("E: ", "Err:", "W: Failed")) and len(errors) < _MOST_ERRORS:
            errors.append(line)
        _pass_on(recipe.name, line, report)

    done = door.run(_with_us(_mounting_apart(argv)), env=env, on_line=hear, apart=True)
    if done.code != 0:
        raise Problem(
            f"image '{recipe.name}' was not built: {first_reason(errors) or door.reason(done)}", _build_hint(done)
        )


_MOST_ERRORS = 50


def first_reason(errors: list[str]) -> str:
    """Return what went wrong first in a build, "" for nothing: what follows are its consequences."""
    own = [
        line
        for line in errors
        if not re.match(r"E: (mmdebstrap failed|run_chroot|setup failed|apt-get .* failed)", line)
    ]
    return quoted("; ".join(dict.fromkeys(own[:3])), 400)[1:-1] if own else ""


def _mounting_apart(argv: Argv) -> Argv:
    """Return ``argv`` with mounts of its own: what mmdebstrap mounts as root is gone with it, however it ends."""
    if not is_root():
        return argv
    # In a chroot the root directory is no mount, so its propagation cannot be set.
    private = door.run(("unshare", "--mount", "--", "true"), timeout=10).code == 0
    return ("unshare", "--mount", "--propagation", "private" if private else "unchanged", "--", *argv)


def _with_us(argv: Argv) -> Argv:
    """Return ``argv`` so that it ends when we are killed (setpriv(1))."""
    return ("setpriv", "--pdeathsig", "TERM", "--", *argv)


def _pass_on(name: str, line: str, report: Report) -> None:
    if door.Verbosity.show_argv:
        report(f"{name}: {line}")
    elif line.startswith("I: ") and "running" not in line:
        report(f"{name}: {line[3:]}")


def _build_hint(done: door.Done) -> str:
    text = done.err.decode(errors="replace")
    if "No space left on device" in text:
        return "make room on the disk of the images, then build again"
    if "newuidmap" in text or "unshare" in text or "subuid" in text:
        return "okubsd doctor  # what a user's builds need"
    if "Unable to locate package" in text:
        return "the recipe names a package that the APT sources do not have"
    return "see that the network and the APT sources work, then build again"


def sources_of(recipe: Recipe) -> tuple[str, str]:
    """Return the release and the sources.list for ``recipe``: its own mirror, or the host's sources."""
    suite = recipe.suite or _host_codename()
    if recipe.mirror:
        return suite, render_sources(of_mirror(recipe.mirror, suite))
    found = []
    for path in (Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*.list"))):
        if path.is_file():
            found += list(parse_list(read_text(path)))
    for path in sorted(Path("/etc/apt/sources.list.d").glob("*.sources")):
        found += list(parse_deb822(read_text(path)))
    chosen = of_release(found, suite)
    if not chosen:
        raise HostLacks(
            f"image '{recipe.name}': this host has no APT source for '{suite}'",
            "write 'suite' and 'mirror' into the recipe",
        )
    return suite, render_sources(chosen)


def _host_codename() -> str:
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    codename = release.get("DEBIAN_CODENAME") or release.get("VERSION_CODENAME", "")
    if not re.fullmatch(r"[a-z]+", codename):
        raise HostLacks("this host is no Debian, so images need a mirror", "write 'suite' and 'mirror' into the recipe")
    return codename


def _pack(tar: Path, drive: Path, kind: Kind) -> None:
    with tar.open("rb") as stream:
        door.must(_with_us(commands.pack_argv(drive, kind, tar.stat().st_size)), "packing the drive", stdin=stream)


def _describe(made: Path, recipe: Recipe, base: Image | None, names: Argv, packages: tuple[str, ...]) -> Image:
    parts = tuple(Part(name, store.hash_file(made / name), (made / name).stat().st_size) for name in names)
    for name in names:
        (made / name).chmod(0o444)
    build = hashlib.sha256("".join(f"{part.name} {part.sha256}\n" for part in parts).encode()).hexdigest()[:12]
    return Image(
        name=recipe.name,
        kind=recipe.kind,
        build=build,
        recipe=recipe.digest,
        base=base.build if base else "",
        built=int(time.time()),
        parts=parts,
        apps=tuple(recipe.apps),
        packages=packages,
        built_here=True,
    )
