"""The release of the distribution that images are built of, and where its packages come from (sources.list(5))."""

from __future__ import annotations

import platform
import re
from pathlib import Path

from okubsd.errors import HostLacks
from okubsd.host import door, programs
from okubsd.host.reading import read_text
from okubsd.images.sources import (
    of_mirror,
    of_release,
    parse_deb822,
    parse_list,
    parse_proxies,
    render_apt_conf,
    render_sources,
)
from okubsd.recipe import Recipe


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


def write_proxies(path: Path) -> Path | None:
    """Write the proxies that the host's apt goes through to ``path``, and return it; None where there are none."""
    if programs.find_program("apt-config") is None:
        return None
    proxies = parse_proxies(door.run(("apt-config", "dump"), timeout=20).out.decode(errors="replace"))
    if not proxies:
        return None
    # A proxy may want a password, which is nobody else's to read.
    door.write(path, render_apt_conf(proxies).encode(), lasting=False)
    return path
