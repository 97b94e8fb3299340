"""The commands that build an image: mmdebstrap(1) makes a tree, mksquashfs(1) packs it."""

from __future__ import annotations

import shlex
from pathlib import Path

from okubsd.model import Argv, Kind, Recipe

# The date of every file in every image: the same inputs give the same bytes (SOURCE_DATE_EPOCH).
EPOCH = 1767225600  # 2026-01-01T00:00:00Z

# Nobody reads manuals inside a guest, and a guest speaks C.UTF-8.
_LEFT_OUT = ("doc", "man", "info", "locale", "lintian", "linda", "bug", "gtk-doc", "help")

# What a build's programs find in their environment, and nothing else.
ENVIRONMENT = {"SOURCE_DATE_EPOCH": str(EPOCH), "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8", "TZ": "UTC"}

# Without its cache fontconfig reads every font at every start of every app.
_FONT_CACHE = '[ ! -x "$1/usr/bin/fc-cache" ] || chroot "$1" fc-cache --system-only'

_VARIANT = {Kind.BOOT: "extract", Kind.BASE: "essential", Kind.APP: "custom"}


def bootstrap_argv(
    recipe: Recipe, suite: str, sources: Path, base: Path | None, tar: Path, *, root: bool, apt_conf: Path | None = None
) -> Argv:
    """Return mmdebstrap(1) for ``recipe``.

    ``suite`` is the release, ``sources`` a sources.list, ``base`` the squashfs an app image starts
    from, ``tar`` the file that is written, ``apt_conf`` a file with the host's proxies.  Without ``root`` it uses a
    user namespace.
    """
    hooks = () if base is None else ("--setup-hook=" + unpack_hook(base),)
    return (
        "mmdebstrap",
        f"--mode={'root' if root else 'unshare'}",
        f"--variant={_VARIANT[recipe.kind]}",
        "--format=tar",
        "--architectures=amd64",
        *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _LEFT_OUT),
        "--aptopt=APT::Install-Recommends false",
        "--aptopt=Acquire::Languages none",
        *(() if apt_conf is None else (f"--aptopt={apt_conf}",)),
        "--dpkgopt=force-unsafe-io",
        *(f"--include={package}" for package in recipe.packages),
        *hooks,
        *(() if recipe.kind is Kind.BOOT else (f"--customize-hook={_FONT_CACHE}",)),
        suite,
        str(tar),
        str(sources),
    )


def unpack_hook(base: Path) -> str:
    """Return the setup hook that puts the tree of ``base`` in place before packages are added.

    mmdebstrap hands hooks to sh with the root directory as $1: the one place where a shell reads our words.
    """
    return f'unsquashfs -no-progress -quiet -force -dest "$1" {shlex.quote(str(base))} >/dev/null'


# Every start reads the base and whatever is small, and lz4 unpacks quickest; a large app gets much smaller by zstd.
_QUICK, _SMALL = ("lz4", "-Xhc"), ("zstd", "-Xcompression-level", "5")
LARGE_APP = 32 << 20


def pack_argv(image: Path, kind: Kind, size: int) -> Argv:
    """Return mksquashfs(1) that packs the tar on its standard input as ``image``.

    It is the drive of a ``kind``, and the tar has ``size`` bytes.
    """
    return (
        *("mksquashfs", "-", str(image), "-tar"),
        *("-comp", *(_SMALL if kind is Kind.APP and size > LARGE_APP else _QUICK), "-b", "128K"),
        *("-mkfs-time", str(EPOCH), "-all-time", str(EPOCH)),
        *("-no-xattrs", "-quiet", "-no-progress", "-noappend"),
    )


def make_home_argv(image: Path, label: str = "home") -> Argv:
    """Return mke2fs(8) for the sparse file ``image``; one inode in 16 KiB, 1 % kept for root."""
    options = ("-q", "-F", "-t", "ext4", "-L", label, "-m", "1", "-E", "lazy_itable_init=1,lazy_journal_init=1")
    return ("mke2fs", *options, str(image))
