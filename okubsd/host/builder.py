"""Build images: bootstrap a tree, pack it, and put it in place only when it is whole."""

from __future__ import annotations

import contextlib
import hashlib
import lzma
import re
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from okubsd import layout
from okubsd.config.names import quoted
from okubsd.errors import Problem
from okubsd.host import bootdrive, door, locks, packer, release, store
from okubsd.host.places import Places
from okubsd.host.reading import recipe_directories
from okubsd.host.staging import stage_debs, stage_kernel
from okubsd.host.workshop import HERE, Workshop
from okubsd.images import commands
from okubsd.images.fitting import needs_of, needs_of_recipe
from okubsd.images.tree import Index
from okubsd.model import Argv, Image, Kind, Part
from okubsd.plan.images import has_locales, stale_images
from okubsd.recipe import Recipe

Report = Callable[[str], None]

DRIVE, INDEX = layout.SQUASHFS, layout.INDEX


def build(places: Places, recipe: Recipe, report: Report, *, force: bool = False, workshop: Workshop = HERE) -> Image:
    """Build ``recipe`` unless its image is up to date (or by ``force``); return what is then the current one.

    ``report`` gets a line for each thing that is done, ``workshop`` is where programs run.  Whatever stops this leaves
    the current image as it was.
    Raises HostLacks or Problem.
    """
    door.make_private(places.state)
    places.images.mkdir(exist_ok=True)
    with locks.locked(places.images / ".lock", lambda: report("waiting for another build to end")):
        ready = store.current_image(places, recipe.makes)
        if ready is not None and ready.recipe == recipe.digest and has_locales(ready, recipe) and not force:
            return ready
        base = store.need_image(places, recipe.base) if recipe.base else None
        image = _build_and_keep(places, recipe, report, base, workshop)
        store.make_current(places, image)
    return image


def make_ready(places: Places, recipes: Mapping[str, Recipe], names: Iterable[str], report: Report) -> None:
    """Build those of the images ``names`` that are missing or older than their recipe, in this order."""
    built = {image.name: image for image in store.all_images(places)}
    stale = stale_images(tuple(names), recipes, built)
    for name in stale:
        build(places, recipes[name], report)


def build_beside(places: Places, recipe: Recipe, report: Report, base: Image | None) -> Image:
    """Build ``recipe`` on ``base`` (None: the current one) and keep it beside what is current.  Return it.

    Raises HostLacks or Problem.
    """
    with locks.locked(places.images / ".lock", lambda: report("waiting for another build to end")):
        if recipe.base and base is None:
            base = store.need_image(places, recipe.base)
        return _build_and_keep(places, recipe, report, base, HERE)


def _build_and_keep(places: Places, recipe: Recipe, report: Report, base: Image | None, workshop: Workshop) -> Image:
    ready = store.current_image(places, recipe.makes)
    if ready is not None and not recipe.container:
        # Whoever asked for another language, at another time, still has it.
        recipe = msgspec.structs.replace(recipe, locales=tuple(sorted({*recipe.locales, *ready.locales})))
    with _making(places.images) as made:
        image = _build_in(made, places, recipe, report, base, workshop)
        for left in made.iterdir():
            # What only the build needed: sources of packages, trees, its own mounts and files of the user's.
            if left.name not in {part.name for part in image.parts}:
                _remove_tree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
        store.keep(places, image, made)
    return image


@contextlib.contextmanager
def _making(images: Path) -> Iterator[Path]:
    """Yield an empty directory that is gone afterwards; also remove what a killed build left behind."""
    for left in [*images.glob(".making-*"), *images.glob(".gone-*"), *images.glob("*/.gone-*")]:
        _remove_tree(left)
    made = Path(tempfile.mkdtemp(prefix=".making-", dir=images))
    try:
        yield made
    finally:
        if made.exists():
            _remove_tree(made)


@contextlib.contextmanager
def _scratch(
    images: Path, made: Path, base: tuple[Path, ...], workshop: Workshop
) -> Iterator[tuple[Path, tuple[Path, ...]]]:
    """Yield a directory for mmdebstrap's tree, and where it finds the drives of its ``base``.

    Without root the tree belongs to a subordinate user, who gets neither into our state nor into our home:
    the tree is then made below /tmp, beside a copy of the base.
    """
    if workshop.root:
        yield made, base
        return
    prefix = f"okubsd-build-{hashlib.sha256(bytes(images)).hexdigest()[:8]}-"
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        _remove_tree(left)
    scratch = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        scratch.chmod(0o755)
        yield scratch, tuple(Path(shutil.copy(drive, scratch)) for drive in base)
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


def _build_in(
    made: Path, places: Places, recipe: Recipe, report: Report, base: Image | None, workshop: Workshop
) -> Image:
    directory = recipe_directories(places)[recipe.name]
    if recipe.container:
        return _build_container(made, directory / recipe.container, recipe, base, report, workshop)
    _refuse_foreign(recipe, base)
    report(f"{recipe.name}: fetching and unpacking {len(recipe.packages)} packages and what they need")
    tar = _bootstrap(made, places, recipe, base, report, workshop)
    report(f"{recipe.name}: packing")
    try:
        return _pack_tree(made, places, recipe, base, tar, workshop)
    except (tarfile.TarError, lzma.LZMAError, KeyError, UnicodeDecodeError, RecursionError) as error:
        sentence = f"image '{recipe.name}' was not built: what its programs made is no tree: {quoted(error, 100)}"
        raise Problem(sentence) from None


def _pack_tree(made: Path, places: Places, recipe: Recipe, base: Image | None, tar: Path, workshop: Workshop) -> Image:
    """Make the drives of an image of the tree in ``tar``."""
    directory = recipe_directories(places)[recipe.name]
    index: Index = {}
    whole: Index = {}
    if recipe.kind is Kind.BOOT:
        packer.pack_boot(tar, recipe, _init_of(places, recipe), made)
        bootdrive.make_boot_drive(made, workshop)
        names: Argv = ("vmlinuz", "initrd", packer.NETWORK, bootdrive.DRIVE)
        names += (layout.KERNEL_CONFIG,) if (made / layout.KERNEL_CONFIG).exists() else ()
    else:
        index = store.read_index(places, base) if base else {}
        tools = store.read_index(places, base, layout.TOOLS_INDEX) if base else {}
        packed = packer.pack_tree(tar, recipe, directory, index, made / "drive.tar", tools)
        whole, names = packed.whole, _pack_drives(made, recipe.kind, packed, workshop)
    image = _describe(made, recipe, base, names, packer.read_packages(tar, recipe.kind))
    needs = needs_of(whole, index) | needs_of_recipe(recipe) if base else {}
    return msgspec.structs.replace(image, needs=needs, archive=packer.read_date(tar))


def _pack_drives(made: Path, kind: Kind, packed: packer.Packed, workshop: Workshop) -> Argv:
    """Pack the drive of an image, and that of a base's tools; return the names of the parts."""
    _pack(made / "drive.tar", made / DRIVE, kind, workshop)
    (made / INDEX).write_bytes(msgspec.json.encode(packed.drive, order="sorted"))
    if not packed.tools:
        return (DRIVE, INDEX)
    _pack(made / "tools.tar", made / layout.TOOLS, kind, workshop)
    (made / layout.TOOLS_INDEX).write_bytes(msgspec.json.encode(packed.tools, order="sorted"))
    return (DRIVE, INDEX, layout.TOOLS, layout.TOOLS_INDEX)


def _init_of(places: Places, recipe: Recipe) -> Path:
    """Return the first program of guests: the boot recipe's own, or that of the one whose image it makes."""
    return recipe_directories(places)[recipe.makes] / "init"


def _build_container(
    made: Path, source: Path, recipe: Recipe, base: Image | None, report: Report, workshop: Workshop
) -> Image:
    """Make an image of a container: nothing of it, and nothing of the base, is run here."""
    from okubsd.host import container

    report(f"{recipe.name}: reading {source}")
    scratch = made / "layers"
    scratch.mkdir()
    index = container.pack(source, made / "drive.tar", scratch)
    shutil.rmtree(scratch)
    report(f"{recipe.name}: packing")
    _pack(made / "drive.tar", made / DRIVE, recipe.kind, workshop)
    (made / INDEX).write_bytes(msgspec.json.encode(index, order="sorted"))
    return _describe(made, recipe, base, (DRIVE, INDEX), ())


def _refuse_foreign(recipe: Recipe, base: Image | None) -> None:
    """Raise Problem for a ``base`` that came from elsewhere: a build runs programs of it on this host."""
    if base is not None and not base.built_here:
        sentence = f"image '{recipe.name}' is not built: its base '{base.name}' was imported, and a build would run"
        hint = f"okubsd image build --force {base.name} {recipe.name}"
        raise Problem(f"{sentence} programs of it on this host", hint)


def _bootstrap(
    made: Path, places: Places, recipe: Recipe, base: Image | None, report: Report, workshop: Workshop
) -> Path:
    suite, text = release.sources_of(recipe)
    sources, tar = made / "apt.sources", made / "tree.tar"
    sources.write_text(text)
    apt_conf = release.write_proxies(made / "apt.conf")
    parts = {part.name for part in base.parts} & {DRIVE, layout.TOOLS} if base else set()
    drives = tuple(store.part_path(places, base, name) for name in sorted(parts)) if base else ()
    with _scratch(places.images, made, drives, workshop) as (scratch, reachable):
        root, kernel, debs = workshop.root, stage_kernel(places, recipe, scratch), stage_debs(recipe, scratch)
        argv = commands.bootstrap_argv(
            recipe, suite, sources, reachable, tar, root=root, apt_conf=apt_conf, kernel=kernel, debs=debs
        )
        workshop.put(sources, *reachable, *(path for path in (apt_conf, kernel, debs) if path))
        _mmdebstrap(argv, scratch, recipe, report, workshop)
        workshop.get(tar)
    return tar


def _mmdebstrap(argv: Argv, scratch: Path, recipe: Recipe, report: Report, workshop: Workshop) -> None:
    env = {**commands.ENVIRONMENT, "TMPDIR": str(scratch)}
    errors: list[str] = []

    def hear(line: str) -> None:
        if line.startswith(("E: ", "Err:", "W: Failed")) and len(errors) < _MOST_ERRORS:
            errors.append(line)
        _pass_on(recipe.name, line, report)

    done = workshop.run(argv, env=env, on_line=hear, mounts=True)
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


def _pack(tar: Path, drive: Path, kind: Kind, workshop: Workshop) -> None:
    workshop.put(tar)
    done = workshop.run(commands.pack_argv(drive, kind, tar.stat().st_size), stdin=tar)
    if done.code != 0:
        raise Problem(f"packing the drive failed: {door.reason(done)}")
    workshop.get(drive)


def _describe(made: Path, recipe: Recipe, base: Image | None, names: Argv, packages: tuple[str, ...]) -> Image:
    parts = tuple(Part(name, store.hash_file(made / name), (made / name).stat().st_size) for name in names)
    for name in names:
        (made / name).chmod(0o444)
    build = hashlib.sha256("".join(f"{part.name} {part.sha256}\n" for part in parts).encode()).hexdigest()[:12]
    return Image(
        name=recipe.makes,
        made_of=recipe.name if recipe.image else "",
        kind=recipe.kind,
        build=build,
        recipe=recipe.digest,
        base=base.build if base else "",
        built=int(time.time()),
        parts=parts,
        apps=tuple(recipe.apps),
        packages=packages,
        built_here=True,
        locales=recipe.locales,
    )
