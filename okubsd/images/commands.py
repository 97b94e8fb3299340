"""The commands that build an image: mmdebstrap(1) makes a tree, mksquashfs(1) packs it."""

from __future__ import annotations

import shlex
from pathlib import Path

from okubsd.config import locales
from okubsd.model import Argv, Kind
from okubsd.recipe import Recipe

# The date of every file in every image: the same inputs give the same bytes (SOURCE_DATE_EPOCH).
EPOCH = 1767225600  # 2026-01-01T00:00:00Z

# Nobody reads manuals inside a guest, and a guest speaks C.UTF-8.
_LEFT_OUT = ("doc", "man", "info", "locale", "lintian", "linda", "bug", "gtk-doc", "help")

# What a build's programs find in their environment, and nothing else.
ENVIRONMENT = {"SOURCE_DATE_EPOCH": str(EPOCH), "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8", "TZ": "UTC"}

# Without its cache fontconfig reads every font at every start of every app.
_FONT_CACHE = '[ ! -x "$1/usr/bin/fc-cache" ] || chroot "$1" fc-cache --system-only'

# Scripts of packages make links to manuals, and fail where their directory is not there (update-alternatives(1)).
_MANUALS = 'mkdir -p "$1/usr/share/man/man1"'

# What a hook leaves in the tree: the dates of the archives that packages are of, and the packages that were fetched.
DATES, DEBS = "okubsd-dates", "okubsd-debs"
_NOTES = (
    f'sed -n "s/^Date: //p" "$1"/var/lib/apt/lists/*Release >"$1/{DATES}"; ls "$1/var/cache/apt/archives" >"$1/{DEBS}"'
)

_VARIANT = {Kind.BOOT: "extract", Kind.BASE: "essential", Kind.APP: "custom"}

_MERGED = "/usr/share/mmdebstrap/hooks/merged-usr"

# Where packages of the user's own are while they are unpacked.
_DEBS = "okubsd-own-debs"

# What a recipe with a kernel has compiled, in the tree that its packages make, and by what.
COMPILE = "compile"


def bootstrap_argv(
    recipe: Recipe,
    suite: str,
    sources: Path,
    base: tuple[Path, ...],
    tar: Path,
    *,
    root: bool,
    apt_conf: Path | None = None,
    kernel: Path | None = None,
    debs: Path | None = None,
) -> Argv:
    """Return mmdebstrap(1) for ``recipe``.

    ``suite`` is the release, ``sources`` a sources.list, ``base`` the squashfs that an app image
    starts from, ``tar`` the file that is written, ``apt_conf`` a file with the host's proxies, ``kernel`` a directory
    with what a kernel is compiled by, ``debs`` one with packages of the user's own.  Without ``root`` it uses a user
    namespace.
    """
    hooks = tuple(f"--setup-hook={unpack_hook(drive)}" for drive in base)
    return (
        "mmdebstrap",
        f"--mode={'root' if root else 'unshare'}",
        f"--variant={_VARIANT[recipe.kind] if kernel is None else _VARIANT[Kind.BASE]}",
        "--format=tar",
        "--architectures=amd64",
        *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _LEFT_OUT),
        # Who may do what with a program is said beside it.
        "--dpkgopt=path-include=/usr/share/doc/*/copyright",
        "--aptopt=APT::Install-Recommends false",
        "--aptopt=Acquire::Languages none",
        *(() if apt_conf is None else (f"--aptopt={apt_conf}",)),
        "--dpkgopt=force-unsafe-io",
        *(f"--include={package}" for package in (*recipe.packages, *_packages_of(recipe))),
        # Its /bin is /usr/bin from the beginning, so nothing is there only to make it that.
        *((f"--hook-dir={_MERGED}",) if recipe.kind is Kind.BASE or kernel else ()),
        *hooks,
        *((f"--setup-hook={_MANUALS}",) if recipe.kind is Kind.APP else ()),
        *((f"--setup-hook={words_hook(_words_of(recipe))}",) if recipe.locales else ()),
        *(f"--setup-hook={without_hook(package)}" for package in _without(recipe)),
        f"--extract-hook={_NOTES}",
        *(() if debs is None else (f"--customize-hook={debs_hook(debs)}",)),
        *(() if recipe.kind is Kind.BOOT else (f"--customize-hook={_FONT_CACHE}",)),
        *(f"--customize-hook={locale_hook(locale)}" for locale in recipe.locales),
        *(() if kernel is None else (f"--customize-hook={compile_hook(kernel)}",)),
        suite,
        str(tar),
        str(sources),
    )


def _words_of(recipe: Recipe) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for locale in recipe.locales for name in locales.directories_of(locale)))


def _packages_of(recipe: Recipe) -> tuple[str, ...]:
    """Return what a recipe's locales are made of, and what has its apps' words in them."""
    return ("locales", *locales.packages_of(recipe.translations, recipe.locales)) if recipe.locales else ()


def locale_hook(locale: str) -> str:
    """Return the hook that makes one locale in the tree (localedef(1)), without an archive of all of them."""
    name = shlex.quote(locale)
    made = f'chroot "$1" localedef --no-archive -c -i {name} -f UTF-8 /usr/lib/locale/{name}.utf8 || [ $? = 1 ]'
    # One that there is not has no words either, and its programs speak English.
    return f'if [ -e "$1/usr/share/i18n/locales/"{name} ]; then {made}; fi'


# What a sound server asks for and does not need where its apps speak its own protocol: it brings 60 MB of codecs.
_WITHOUT_IN_SOUND = ("libasound2-plugins",)
# A guest brings the bus itself, which systemd would otherwise be there for, and its own xdg-open.
_WITHOUT_IN_NOTIFICATIONS = ("default-dbus-session-bus", "xdg-utils")


def _without(recipe: Recipe) -> tuple[str, ...]:
    """Return what dpkg is to take for installed: nobody needs it, and it asks for much."""
    return (
        *(_WITHOUT_IN_SOUND if recipe.sound else ()),
        *(_WITHOUT_IN_NOTIFICATIONS if recipe.notifications else ()),
    )


def words_hook(names: tuple[str, ...]) -> str:
    """Return the setup hook that has dpkg unpack what is below /usr/share/locale by ``names`` (dpkg.cfg(5)).

    The tree of the base has brought its own options by then, in the place of those that mmdebstrap wrote.
    """
    lines = " ".join(shlex.quote(f"path-include=/usr/share/locale/{name}/*") for name in names)
    return f'printf "%s\\n" {lines} >>"$1/etc/dpkg/dpkg.cfg.d/99mmdebstrap"'


def without_hook(package: str) -> str:
    """Return the setup hook that has dpkg take ``package`` for installed, so that it is not (dpkg(1), status)."""
    fields = (
        "Status: install ok installed",
        "Architecture: amd64",
        "Version: 0",
        "Maintainer: none",
        "Description: -",
    )
    lines = " ".join(shlex.quote(line) for line in (f"Package: {package}", *fields, ""))
    return f'mkdir -p "$1/var/lib/dpkg" && printf "%s\\n" {lines} >>"$1/var/lib/dpkg/status"'


def unpack_hook(base: Path) -> str:
    """Return the setup hook that puts the tree of ``base`` in place before packages are added.

    mmdebstrap hands hooks to sh with the root directory as $1: the one place where a shell reads our words.
    """
    return f'unsquashfs -no-progress -quiet -force -dest "$1" {shlex.quote(str(base))} >/dev/null'


def debs_hook(debs: Path) -> str:
    """Return the hook that unpacks the packages in the directory ``debs``, in the tree; none of their scripts runs."""
    unpack = (
        f'for deb in "$1/{_DEBS}"/*.deb; do chroot "$1" dpkg-deb -x "/{_DEBS}/$(basename "$deb")" / || exit 1; done'
    )
    return f'cp -r {shlex.quote(str(debs))} "$1/{_DEBS}" && {unpack}; rm -r "$1/{_DEBS}"'


def compile_hook(kernel: Path) -> str:
    """Return the hook that compiles a kernel in the tree, by what lies in the directory ``kernel``."""
    return f'cp -r {shlex.quote(str(kernel))} "$1/kernel" && chroot "$1" sh /kernel/{COMPILE}'


# lz4 unpacks quickest, which a small app's start feels; all else gets much smaller by zstd.
_QUICK, _SMALL, _SMALLEST = ("lz4", "-Xhc"), *(("zstd", "-Xcompression-level", level) for level in ("5", "15"))
LARGE_APP = 32 << 20


def pack_argv(image: Path, kind: Kind, size: int) -> Argv:
    """Return mksquashfs(1) that packs the tar on its standard input as ``image``.

    It is the drive of a ``kind``, and the tar has ``size`` bytes.
    """
    return (
        *("mksquashfs", "-", str(image), "-tar"),
        *("-comp", *_compressor(kind, size), "-b", "128K"),
        *("-mkfs-time", str(EPOCH), "-all-time", str(EPOCH)),
        *("-no-xattrs", "-quiet", "-no-progress", "-noappend"),
    )


def _compressor(kind: Kind, size: int) -> Argv:
    if kind is Kind.BASE:
        return _SMALLEST
    return _SMALL if size > LARGE_APP else _QUICK


def make_home_argv(image: Path, label: str = "home") -> Argv:
    """Return mke2fs(8) for the sparse file ``image``; one inode in 16 KiB, 1 % kept for root."""
    options = ("-q", "-F", "-t", "ext4", "-L", label, "-m", "1", "-E", "lazy_itable_init=1,lazy_journal_init=1")
    return ("mke2fs", *options, str(image))
