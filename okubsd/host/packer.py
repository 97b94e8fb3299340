"""Carry the members of a bootstrapped tree, tar to tar, as images/tree.py decides."""

from __future__ import annotations

import email.utils
import hashlib
import io
import lzma
import stat
import tarfile
from collections.abc import Iterable
from pathlib import Path

import msgspec

from okubsd.config.names import quoted
from okubsd.errors import Problem
from okubsd.images import tree
from okubsd.images.apt import parse_debs
from okubsd.images.commands import DATES, DEBS, EPOCH
from okubsd.images.initrd import module_name, needed_modules, render_initrd, render_network, with_dependencies
from okubsd.layout import KERNEL_CONFIG
from okubsd.model import Kind
from okubsd.recipe import Recipe

# The modules of a gateway, beside the initramfs of every guest.
NETWORK = "network"

# In bytes; no file of a package is larger, and no image that is of use.
_LARGEST_FILE, _LARGEST_TREE = 2 << 30, 24 << 30
_TYPES = {tarfile.DIRTYPE: stat.S_IFDIR, tarfile.SYMTYPE: stat.S_IFLNK}


# Longer than any path, and what else is written of a member, in bytes.
_LONGEST_HEADER = 1 << 20
_LONG_NAMES = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_HEADERS = (*_LONG_NAMES, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)


class _Bounded(tarfile.TarInfo):
    """A member whose long name and other words are not read where they have no end."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _HEADERS and self.size > _LONGEST_HEADER:
            raise tarfile.ReadError("a member has a name or words without an end")
        found: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]
        return found


def open_tar(source: Path) -> tarfile.TarFile:
    """Open a tar that somebody else has made; what describes a member takes no more memory than it may."""
    return tarfile.open(source, "r:", tarinfo=_Bounded)


class Tree:
    """The members of one tree by path, with what is laid over them."""

    def __init__(self, archive: tarfile.TarFile, recipe: Recipe) -> None:
        self.archive = archive
        self.nodes: dict[str, tree.Node] = {}
        self.members: dict[str, tarfile.TarInfo] = {}
        self.laid_over: dict[str, bytes] = {}
        size = 0
        for member in archive:
            # The tree may come from a guest: what it says of sizes is bounded before any of it is read.
            size += member.size
            if member.issparse() or member.size > _LARGEST_FILE or size > _LARGEST_TREE:
                raise Problem(f"{quoted(member.name, 200)} of the tree is too large, or has holes")
            path = member.name.removeprefix("./").rstrip("/")
            kept = tree.is_kept(path, recipe.kind) or (member.isdir() and tree.is_kept_directory(path))
            if path in ("", ".") or not kept or member.ischr() or member.isblk():
                continue
            self.members[path] = member
            self.nodes[path] = self._node(path, member, recipe)
        self._edit(recipe)

    def _node(self, path: str, member: tarfile.TarInfo, recipe: Recipe) -> tree.Node:
        kind = _TYPES.get(member.type, stat.S_IFREG)
        mode = tree.mode_in_drive(path, kind | stat.S_IMODE(member.mode), recipe.setuid)
        content = member.linkname if member.issym() else ""
        if stat.S_ISREG(mode):
            content = hashlib.sha256(self.read(path)).hexdigest()
        return tree.Node(mode, member.uid, member.gid, content)

    def read(self, path: str) -> bytes:
        """Return the content of a regular file; hard links are followed within the archive."""
        if path in self.laid_over:
            return self.laid_over[path]
        stream = self.archive.extractfile(self.members[path])
        return stream.read() if stream is not None else b""

    def lay(self, path: str, permissions: int, data: bytes) -> None:
        """Put a file of root's over the tree, with the directories it stands in."""
        path = tree.follow_links(path, self.nodes)
        parts = path.split("/")
        for depth in range(1, len(parts)):
            self.nodes.setdefault("/".join(parts[:depth]), tree.Node(stat.S_IFDIR | 0o755, 0, 0))
        self.laid_over[path] = data
        self.nodes[path] = tree.Node(stat.S_IFREG | permissions, 0, 0, hashlib.sha256(data).hexdigest())

    def _edit(self, recipe: Recipe) -> None:
        for path, edit in tree.EDITS.items():
            if path in self.nodes:
                permissions = 0o640 if path.endswith("shadow") else 0o644
                self.lay(path, permissions, edit(self.read(path).decode()).encode())
        for path, (permissions, data) in tree.made_files(recipe).items():
            self.lay(path, permissions, data)

    def lay_files(self, directory: Path) -> None:
        """Lay the files below ``directory`` over the tree; a link is laid as it is, and never followed on the host.

        Raises Problem for a link that leads out of the directory, and for what is neither file nor directory.
        """
        if directory.is_symlink():
            raise Problem(f"{directory} is a link, and a recipe's files lie beside it")
        for path in sorted(directory.rglob("*")):
            name, mode = str(path.relative_to(directory)), path.lstat().st_mode
            if stat.S_ISLNK(mode):
                self.lay_link(name, tree.link_target(name, str(path.readlink())))
            elif stat.S_ISREG(mode):
                self.lay(name, 0o755 if mode & 0o100 else 0o644, path.read_bytes())
            elif not stat.S_ISDIR(mode):
                raise Problem(f"{path} is neither a file, nor a directory, nor a link")

    def lay_link(self, path: str, target: str) -> None:
        """Put a symbolic link of root's over the tree."""
        path = tree.follow_links(path, self.nodes)
        self.laid_over.pop(path, None)
        self.nodes[path] = tree.Node(stat.S_IFLNK | 0o777, 0, 0, target)

    def write(self, path: str, target: tarfile.TarFile) -> None:
        """Add one member to ``target``: dated, owned by number, free of anything that varies."""
        member = member_of(path, self.nodes[path])
        data = self.read(path) if member.isreg() else b""
        member.size = len(data)
        target.addfile(member, io.BytesIO(data))


def member_of(path: str, node: tree.Node) -> tarfile.TarInfo:
    """Return what a drive's tar says of ``node``, but for the size of a file: its kind, mode and owner, and no date."""
    member = tarfile.TarInfo(path)
    member.mode, member.uid, member.gid, member.mtime = stat.S_IMODE(node.mode), node.uid, node.gid, EPOCH
    if stat.S_ISDIR(node.mode):
        member.type = tarfile.DIRTYPE
    elif stat.S_ISLNK(node.mode):
        member.type, member.linkname = tarfile.SYMTYPE, node.content
    return member


class Packed(msgspec.Struct, frozen=True):
    """What a tree has: all of it, what is on the drive, and what on the drive of tools."""

    whole: tree.Index
    drive: tree.Index
    tools: tree.Index


def pack_tree(
    source: Path, recipe: Recipe, directory: Path, base: tree.Index, drive: Path, tools: tree.Index | None = None
) -> Packed:
    """Write the tar ``drive`` of what ``recipe``'s tree adds to ``base``, and return what is in it.

    ``source`` is mmdebstrap's tar, ``directory`` that of the recipe.  ``tools`` is what the base has besides for
    builds: of it goes into the drive what a package of the app needs.  The tools of a base are written beside it, to
    tools.tar.
    """
    with open_tar(source) as archive:
        made = Tree(archive, recipe)
        if recipe.files:
            made.lay_files(directory / recipe.files)
        apart = _paths_of(made, recipe.tools) if recipe.tools and recipe.kind is Kind.BASE else set()
        known = dict(base) | _without(tools or {}, _needed_tools(made, recipe, tools or {}))
        added = tree.added_paths(made.nodes, known)
        here = [path for path in added if path not in apart]
        there = tree.with_parents([path for path in added if path in apart], made.nodes)
        _write_tar(made, here, drive)
        if there:
            _write_tar(made, there, drive.with_name("tools.tar"))
        return Packed(made.nodes, {path: made.nodes[path] for path in here}, {path: made.nodes[path] for path in there})


def _write_tar(made: Tree, paths: list[str], drive: Path) -> None:
    with tarfile.open(drive, "w", format=tarfile.PAX_FORMAT) as target:
        for path in paths:
            made.write(path, target)


def _without(index: tree.Index, paths: set[str]) -> dict[str, tree.Node]:
    return {path: node for path, node in index.items() if path not in paths}


def _paths_of(made: Tree, packages: Iterable[str]) -> set[str]:
    """Return the files that ``packages`` have in a tree, and what is known of packages."""
    found = {path for path in made.nodes if path.startswith(tree.PACKAGES)}
    found |= {path for package in packages for path in _files_of(made, package)}
    return {path for path in found if path in made.nodes and not tree.is_directory(path, made.nodes)}


def _files_of(made: Tree, package: str) -> set[str]:
    """Return the paths of one package, as they are in the tree (dpkg-query(1), -L)."""
    lines = [
        line
        for name in (package, f"{package}:amd64")
        for line in read_member(made.archive, f"{tree.PACKAGES}info/{name}.list").splitlines()
    ]
    return {tree.follow_links(line.lstrip("/"), made.nodes) for line in lines if line.strip("/.")}


def _needed_tools(made: Tree, recipe: Recipe, tools: tree.Index) -> set[str]:
    """Return the paths among ``tools`` of packages that those of the app need when they run, or its recipe names."""
    known = {match[1] for path in tools if (match := tree.LIST.fullmatch(path))}
    needed = tree.needed_beside(read_member(made.archive, f"{tree.PACKAGES}status"), known) if known else set()
    return {path for package in {*needed, *recipe.tools} for path in _files_of(made, package)} & tools.keys()


def read_member(archive: tarfile.TarFile, path: str) -> str:
    """Return the text of a file in mmdebstrap's tar, "" where it has none."""
    try:
        stream = archive.extractfile(f"./{path}")
    except KeyError:
        return ""
    return stream.read().decode() if stream is not None else ""


def pack_boot(source: Path, recipe: Recipe, init: Path, made: Path) -> None:
    """Write ``vmlinuz``, ``initrd`` and ``network`` of a boot recipe into the directory ``made``.

    ``init`` is the first program of its guests.
    """
    with open_tar(source) as archive:
        members = {member.name.removeprefix("./"): member for member in archive}

        def read(path: str) -> bytes:
            stream = archive.extractfile(members[path])
            data = stream.read() if stream is not None else b""
            return lzma.decompress(data) if path.endswith(".xz") else data

        kernels = sorted(path for path in members if path.startswith("boot/vmlinuz-"))
        busybox = next((path for path in ("bin/busybox", "usr/bin/busybox") if path in members), None)
        if not kernels or busybox is None:
            raise Problem("the boot recipe has no kernel or no busybox", "name both in its 'packages'")
        release = kernels[-1].removeprefix("boot/vmlinuz-")
        below = [path for path in members if f"/modules/{release}/" in path]
        builtin = next((path for path in below if path.endswith("/modules.builtin")), None)
        files = [path for path in below if module_name(path) and ".ko" in path]
        built_in = read(builtin).decode() if builtin else ""
        needed = needed_modules(recipe.modules, files, built_in)
        by_name = {module_name(path): path for path in files}
        names = with_dependencies(recipe.network_modules, lambda name: read(by_name[name]) if name in by_name else b"")
        here = {name for name, _ in needed}
        network = [pair for pair in needed_modules(names, files, built_in) if pair[0] not in here]
        initrd = render_initrd(
            read_own(init),
            read(busybox),
            {name: read(path) for name, path in needed},
            release,
            (name for name, _ in network),
        )
        (made / "vmlinuz").write_bytes(read(kernels[-1]))
        if f"boot/config-{release}" in members:
            (made / KERNEL_CONFIG).write_bytes(read(f"boot/config-{release}"))
        (made / "initrd").write_bytes(initrd)
        (made / NETWORK).write_bytes(render_network({name: read(path) for name, path in network}, release))


def read_own(path: Path) -> bytes:
    """Return the contents of a recipe's own file.  Raises Problem where it is a link."""
    if path.is_symlink():
        raise Problem(f"{path} is a link, and a recipe's files are its own")
    return path.read_bytes()


def read_packages(source: Path, kind: Kind) -> tuple[str, ...]:
    """Return "name version" of every package in mmdebstrap's tar, sorted.

    Those of a boot image are not installed; a hook of its build has told which were fetched.
    """
    with open_tar(source) as archive:
        text = read_member(archive, f"{tree.PACKAGES}status")
        if kind is Kind.BOOT and not text:
            return parse_debs(_read_note(archive, DEBS).split("\n"))
    found = []
    for stanza in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in stanza.splitlines() if ": " in line and line[0] != " ")
        if "Package" in fields and "Version" in fields:
            found.append(f"{fields['Package']} {fields['Version']}")
    return tuple(sorted(found))


def read_date(source: Path) -> int:
    """Return the date of the newest archive that a build took packages of, as its hook left it in mmdebstrap's tar."""
    with open_tar(source) as archive:
        text = _read_note(archive, DATES)
    dates = [parsed for line in text.splitlines() if (parsed := email.utils.parsedate_tz(line)) is not None]
    return max((int(email.utils.mktime_tz(date)) for date in dates), default=0)


def _read_note(archive: tarfile.TarFile, name: str) -> str:
    """Return what a hook of the build has left in the tree, "" for nothing."""
    try:
        stream = archive.extractfile(f"./{name}")
    except KeyError:
        return ""
    return stream.read(1 << 20).decode(errors="replace") if stream is not None else ""
