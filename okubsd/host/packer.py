"""Carry the members of a bootstrapped tree, tar to tar, as images/tree.py decides."""

from __future__ import annotations

import hashlib
import io
import lzma
import stat
import tarfile
from pathlib import Path

import msgspec

from okubsd.errors import Problem
from okubsd.images import tree
from okubsd.images.commands import EPOCH
from okubsd.images.initrd import module_name, needed_modules, render_initrd, render_network, with_dependencies
from okubsd.model import Kind, Recipe

# The modules of a gateway, beside the initramfs of every guest.
NETWORK = "network"

_TYPES = {tarfile.DIRTYPE: stat.S_IFDIR, tarfile.SYMTYPE: stat.S_IFLNK}


class Tree:
    """The members of one tree by path, with what is laid over them."""

    def __init__(self, archive: tarfile.TarFile, recipe: Recipe) -> None:
        self.archive = archive
        self.nodes: dict[str, tree.Node] = {}
        self.members: dict[str, tarfile.TarInfo] = {}
        self.laid_over: dict[str, bytes] = {}
        for member in archive:
            path = member.name.removeprefix("./").rstrip("/")
            if path in ("", ".") or not tree.is_kept(path, recipe.kind) or member.ischr() or member.isblk():
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
        node = self.nodes[path]
        member = tarfile.TarInfo(path)
        member.mode, member.uid, member.gid = stat.S_IMODE(node.mode), node.uid, node.gid
        member.mtime = EPOCH
        if stat.S_ISDIR(node.mode):
            member.type = tarfile.DIRTYPE
            target.addfile(member)
        elif stat.S_ISLNK(node.mode):
            member.type, member.linkname = tarfile.SYMTYPE, node.content
            target.addfile(member)
        else:
            data = self.read(path)
            member.size = len(data)
            target.addfile(member, io.BytesIO(data))


def pack_tree(source: Path, recipe: Recipe, directory: Path, base: tree.Index, drive: Path) -> tree.Index:
    """Write the tar ``drive`` of what ``recipe``'s tree adds to ``base``; return the index of the whole tree.

    ``source`` is mmdebstrap's tar, ``directory`` that of the recipe.
    """
    with tarfile.open(source) as archive, tarfile.open(drive, "w", format=tarfile.PAX_FORMAT) as target:
        made = Tree(archive, recipe)
        if recipe.files:
            made.lay_files(directory / recipe.files)
        for path in tree.added_paths(made.nodes, base):
            made.write(path, target)
        return made.nodes


def pack_boot(source: Path, recipe: Recipe, directory: Path, made: Path) -> None:
    """Write ``vmlinuz``, ``initrd`` and ``network`` of a boot recipe into the directory ``made``."""
    with tarfile.open(source) as archive:
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
            _read_own(directory / "init"),
            read(busybox),
            {name: read(path) for name, path in needed},
            release,
            (name for name, _ in network),
        )
        (made / "vmlinuz").write_bytes(read(kernels[-1]))
        (made / "initrd").write_bytes(initrd)
        (made / NETWORK).write_bytes(render_network({name: read(path) for name, path in network}, release))


def _read_own(path: Path) -> bytes:
    """Return the contents of a recipe's own file.  Raises Problem where it is a link."""
    if path.is_symlink():
        raise Problem(f"{path} is a link, and a recipe's files are its own")
    return path.read_bytes()


def read_index(path: Path) -> tree.Index:
    """Return the index that was written beside a base image."""
    return msgspec.json.decode(path.read_bytes(), type=dict[str, tree.Node])


def read_packages(source: Path, kind: Kind) -> tuple[str, ...]:
    """Return "name version" of every package in mmdebstrap's tar, sorted; nothing for a boot image's."""
    if kind is Kind.BOOT:
        return ()
    with tarfile.open(source) as archive:
        stream = archive.extractfile("./var/lib/dpkg/status")
        text = stream.read().decode() if stream is not None else ""
    found = []
    for stanza in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in stanza.splitlines() if ": " in line and line[0] != " ")
        if "Package" in fields and "Version" in fields:
            found.append(f"{fields['Package']} {fields['Version']}")
    return tuple(sorted(found))
