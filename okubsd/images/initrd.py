"""The boot drive's initramfs: busybox, our init, and the modules that the kernel has not built in."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePosixPath

from okubsd.errors import Problem
from okubsd.guest.cpio import Entry, directory, file, render_cpio

# The .modinfo section of a module is a row of strings (kernel, include/linux/module.h).
_DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")

_DIRECTORIES = ("app", "base", "bin", "dev", "lib", "lib/modules", "over", "proc", "root", "sys")


def module_name(path: str) -> str:
    """Return the name of the module in file ``path``; the kernel takes '-' and '_' for the same."""
    return PurePosixPath(path).name.split(".")[0].replace("-", "_")


def needed_modules(wanted: Iterable[str], files: Iterable[str], builtin: str) -> list[tuple[str, str]]:
    """Return (name, file) of the ``wanted`` modules in their order, less those that are built in.

    ``files`` are the module files of the kernel, ``builtin`` the text of its modules.builtin.
    Raises Problem for a module that is neither.
    """
    by_name = {module_name(path): path for path in files}
    built_in = {module_name(line) for line in builtin.splitlines() if line}
    found = []
    for name in (word.replace("-", "_") for word in wanted):
        if name in built_in:
            continue
        if name not in by_name:
            raise Problem(f"the kernel has no module '{name}'", "correct 'modules' in the boot recipe")
        found.append((name, by_name[name]))
    return found


def with_dependencies(wanted: Iterable[str], read: Callable[[str], bytes]) -> list[str]:
    """Return the ``wanted`` modules and what they depend on, each after all that it needs.

    ``read`` returns the file of a module by its name, b"" for one that is built in.
    """
    ordered: list[str] = []

    def add(name: str) -> None:
        if name in ordered:
            return
        match = _DEPENDS.search(b"\0" + read(name))
        for other in match[1].decode().split(",") if match and match[1] else ():
            add(other.replace("-", "_"))
        ordered.append(name)

    for name in wanted:
        add(name.replace("-", "_"))
    return ordered


def render_network(modules: Mapping[str, bytes], release: str) -> bytes:
    """Return the second initramfs, of the ``modules`` that only a gateway loads, in their order."""
    below = f"lib/modules/{release}"
    entries = [directory("lib"), directory("lib/modules"), directory(below)]
    entries.append(file("modules.network", (" ".join(modules) + "\n").encode()))
    entries += [file(f"{below}/{name}.ko", data) for name, data in modules.items()]
    return render_cpio(entries)


def render_initrd(
    init: bytes, busybox: bytes, modules: Mapping[str, bytes], release: str, others: Iterable[str] = ()
) -> bytes:
    """Return the initramfs of the kernel ``release``.

    ``modules`` maps names to contents in the order they are to be loaded; modules.dep(5) says that none needs
    another, since that order is all there is to know.  ``others`` are those of render_network().
    """
    below = f"lib/modules/{release}"
    entries: list[Entry] = [directory(name) for name in _DIRECTORIES]
    entries.append(file("init", init, 0o755))
    entries.append(file("bin/busybox", busybox, 0o755))
    entries.append(file("modules", (" ".join(modules) + "\n").encode()))
    entries.append(directory(below))
    entries.append(file(f"{below}/modules.dep", "".join(f"{name}.ko:\n" for name in (*modules, *others)).encode()))
    entries += [file(f"{below}/{name}", b"") for name in ("modules.alias", "modules.symbols")]
    entries += [file(f"{below}/{name}.ko", data) for name, data in modules.items()]
    return render_cpio(entries)
