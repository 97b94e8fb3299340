"""Read a container image, an OCI layout in a tar or the output of `docker save`, and write its files as a drive's tar.

Nothing of it is written under a name that it chose, run, or followed; sizes are bounded before they are believed.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import posixpath
import re
import shutil
import stat
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import msgspec

from okubsd.decode import read_json
from okubsd.errors import HostLacks, Problem
from okubsd.host import door, programs
from okubsd.host.packer import member_of, open_tar
from okubsd.images import container, tree

# How large the files of a container may be altogether, in bytes, and how many; how large what describes it; and of how
# many directories a file may take the place.
_LARGEST, _MOST, _LARGEST_TEXT, _MOST_REPLACED = 8 << 30, 1_000_000, 8 << 20, 1000
_CHUNK = 1 << 20
# Where an OCI layout has its parts, each by its digest; how many links a path may have on its way.
_BLOBS, _SHA256, _MOST_LINKS = "blobs/sha256/", re.compile(r"[0-9a-f]{64}"), 40
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
# What zstd(1) may hold, which is the window of its strongest setting, and how long it may take to end, in seconds.
_ZSTD_MEMORY, _ZSTD_SECONDS = "128MB", 60
_HINT = "make it by: docker save IMAGE >FILE, or: skopeo copy docker://IMAGE oci-archive:FILE"


class Found(msgspec.Struct):
    """One file of the merged tree: what it is, and in which layer's archive its bytes are."""

    node: tree.Node
    archive: tarfile.TarFile | None = None
    member: tarfile.TarInfo | None = None


Files = dict[str, Found]

# Where the guest's own are laid over when it runs: directories, and files that a container may have otherwise.
_PLACES = {
    **dict.fromkeys(("dev", "proc", "sys", "etc"), Found(tree.Node(stat.S_IFDIR | 0o755, 0, 0))),
    "tmp": Found(tree.Node(stat.S_IFDIR | 0o1777, 0, 0)),
}
_EMPTY = Found(tree.Node(stat.S_IFREG | 0o644, 0, 0, hashlib.sha256().hexdigest()))
_OF_THE_GUEST = ("etc/resolv.conf", "etc/hosts")


def pack(source: Path, drive: Path, scratch: Path) -> tree.Index:
    """Write the tar ``drive`` of what the container in ``source`` is; return its index.

    Layers are unpacked below the directory ``scratch``.  Raises Problem where it is no container, or a hostile one.
    """
    try:
        with open_tar(source) as outer:
            config, layers = _described(outer)
            opened = [_unpack(outer, layer, scratch / f"layer-{at}") for at, layer in enumerate(layers)]
            files = _merge(opened)
            for place, found in _PLACES.items():
                if place not in files or stat.S_IFMT(files[place].node.mode) != stat.S_IFMT(found.node.mode):
                    _lay(files, place, found)
            files |= dict.fromkeys(_OF_THE_GUEST, _EMPTY)
            service = container.render_service(config.config, _user(config.config, files))
            return _write(files, service, drive)
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error, UnicodeDecodeError) as error:
        raise Problem(f"{source} is no whole container image: {error}", _HINT) from None


# --- what describes it ---------------------------------------------------------------------------


class _Layer(msgspec.Struct, frozen=True):
    """A layer: its name in the archive, the digest of that ("" where none is told), and of what it unpacks to."""

    name: str
    digest: str
    unpacked: str


def _described(outer: tarfile.TarFile) -> tuple[container.Config, list[_Layer]]:
    """Return the configuration of the container, and its layers."""
    names = {member.name.removeprefix("./") for member in outer.getmembers()[:_MOST]}
    if "manifest.json" in names:
        (first, *_) = _json(outer, "manifest.json", tuple[container.Saved, ...]) or (container.Saved(),)
        config, layers = first.config, [(name, _digest_in(name)) for name in first.layers or ()]
    elif "index.json" in names:
        config, layers = _oci(outer)
    else:
        raise Problem("it is no container image: it has neither index.json nor manifest.json", _HINT)
    found = _json(outer, config, container.Config)
    if found.architecture != "amd64":
        raise Problem(f"the container is for {found.architecture[:20]!r}, and guests are amd64")
    if not layers:
        raise Problem("the container has no layers", _HINT)
    unpacked = [_sha256_of(digest) for digest in found.rootfs.diff_ids]
    if len(unpacked) != len(layers):
        raise Problem("the container does not say what each of its layers is", _HINT)
    return found, [_Layer(*layer, digest) for layer, digest in zip(layers, unpacked, strict=True)]


def _oci(outer: tarfile.TarFile) -> tuple[str, list[tuple[str, str]]]:
    """Return the same of an OCI layout: index, perhaps another index by machine, manifest (image-spec, manifest.md)."""
    manifest = _json(outer, "index.json", container.Manifest)
    for _ in range(3):
        if manifest.layers is not None:
            break
        below = manifest.manifests or (container.Descriptor(),)
        ours = [one for one in below if one.platform is None or one.platform.architecture == "amd64"]
        manifest = _json(outer, _blob((ours or below)[0]), container.Manifest)
    layers = [(_blob(layer), _sha256_of(layer.digest)) for layer in manifest.layers or ()]
    return _blob(manifest.config or container.Descriptor()), layers


def _blob(descriptor: container.Descriptor) -> str:
    return f"{_BLOBS}{_sha256_of(descriptor.digest)}"


def _sha256_of(digest: str) -> str:
    kind, _, found = digest.partition(":")
    if kind != "sha256" or not _SHA256.fullmatch(found):
        raise Problem("the container names a part by no SHA-256", _HINT)
    return found


def _digest_in(name: str) -> str:
    """Return the digest that the name of a part is, or is of; "" where it tells none."""
    last = name.removeprefix(_BLOBS).removesuffix(".json")
    return last if _SHA256.fullmatch(last) else ""


def _json(outer: tarfile.TarFile, name: str, kind: Any) -> Any:
    with _member(outer, name) as stream:
        text = stream.read(_LARGEST_TEXT + 1)
    if _digest_in(name) not in ("", hashlib.sha256(text).hexdigest()):
        raise Problem(f"{name} of the container is damaged", _HINT)
    try:
        return read_json(text, kind)
    except ValueError:
        raise Problem(f"{name[:80]!r} of the container is not what it should be", _HINT) from None


def _member(outer: tarfile.TarFile, name: str) -> IO[bytes]:
    named = {one.name.removeprefix("./"): one for one in outer.getmembers()}
    member = named.get(name)
    if member is not None and member.issym():
        # A layer that is there twice is a link to the first, below another directory.
        member = named.get(posixpath.normpath(posixpath.join(posixpath.dirname(name), member.linkname)))
    if member is None or not member.isreg():
        raise Problem(f"the container lacks {name[:80]!r}", _HINT)
    stream = outer.extractfile(member)
    return stream if stream is not None else io.BytesIO()


# --- its layers ----------------------------------------------------------------------------------


def _unpack(outer: tarfile.TarFile, layer: _Layer, target: Path) -> tarfile.TarFile:
    """Write a layer to ``target``, compared with its digests, and open it."""
    with _member(outer, layer.name) as stream:
        if layer.digest and hashlib.file_digest(stream, "sha256").hexdigest() != layer.digest:  # type: ignore[arg-type]
            raise Problem(f"the layer {layer.name} of the container is damaged", _HINT)
        stream.seek(0)
        magic = stream.read(4)
        stream.seek(0)
        if magic == _ZSTD:
            _unpack_zstd(stream, target)
        else:
            inner = gzip.GzipFile(fileobj=stream) if magic[:2] == _GZIP else stream
            _write_bounded(inner, target)  # type: ignore[arg-type]
    with target.open("rb") as unpacked:
        if hashlib.file_digest(unpacked, "sha256").hexdigest() != layer.unpacked:
            raise Problem(f"the layer {layer.name} of the container is damaged: it is not what its image says", _HINT)
    return open_tar(target)


def _unpack_zstd(stream: IO[bytes], target: Path) -> None:
    """Write what zstd(1) unpacks to ``target``; it may not hold more memory than any layer needs."""
    if programs.find_program("zstd") is None:
        raise HostLacks("the container's layers are packed by zstd, which is not on this host", "okubsd doctor")
    packed = target.with_suffix(".zst")
    _write_bounded(stream, packed)
    process = door.begin(("zstd", "-dcq", f"--memory={_ZSTD_MEMORY}", str(packed)), errors=False)
    try:
        assert process.stdout is not None
        _write_bounded(process.stdout, target)
        if process.wait(timeout=_ZSTD_SECONDS) != 0:
            raise Problem("a layer of the container is damaged: zstd does not unpack it", _HINT)
    finally:
        door.end_process(process)
        packed.unlink()


def _write_bounded(source: IO[bytes], target: Path) -> None:
    left = min(_LARGEST, shutil.disk_usage(target.parent).free)
    with target.open("xb") as out:
        while chunk := source.read(_CHUNK):
            left -= len(chunk)
            if left < 0:
                raise Problem("the container is larger than 8 GB, or than the disk has room")
            out.write(chunk)


def _merge(layers: list[tarfile.TarFile]) -> Files:
    """Return the files of all layers, each laid over those before it (image-spec, layer.md)."""
    files: Files = {}
    size = replaced = 0
    for layer in layers:
        own: Files = {}
        hidden: set[tuple[str, bool]] = set()
        for member in layer:
            size += member.size
            if len(files) + len(own) + len(hidden) > _MOST or size > _LARGEST:
                raise Problem("the container has more than 8 GB, or a million files")
            path = _below_links(files, container.clean_path(member.name))
            hides = container.hidden_by(path)
            if hides is not None:
                hidden.add(hides)
            elif path not in ("", ".") and (found := _found(layer, member, own, files)) is not None:
                own[path] = found
        files = _without(files, hidden)
        for path, found in own.items():
            replaced += _lay(files, path, found)
            if replaced > _MOST_REPLACED:
                raise Problem("the container takes a thousand directories away by files in their places")
    return files


def _below_links(files: Files, path: str) -> str:
    """Return where ``path`` is once links to directories that lie on its way are followed, within the container."""
    done, left, hops = "", path.split("/"), 0
    while len(left) > 1:
        here = posixpath.join(done, left.pop(0))
        found = files.get(here)
        if found is None or not stat.S_ISLNK(found.node.mode):
            done = here
            continue
        hops += 1
        target = posixpath.normpath(f"/{posixpath.join(done, found.node.content)}").lstrip("/")
        leads = files.get(target) if hops <= _MOST_LINKS else None
        if leads is None or stat.S_ISREG(leads.node.mode):
            # It leads to no directory: one takes its place.
            done = here
        else:
            done, left = "", [*target.split("/"), *left]
    return posixpath.join(done, left[0])


def _without(files: Files, hidden: set[tuple[str, bool]]) -> Files:
    """Return ``files`` without what is hidden: paths with what is below them, or only what is below them."""
    if not hidden:
        return files

    def stays(path: str) -> bool:
        above = [path[:at] for at, letter in enumerate(path) if letter == "/"]
        return (path, False) not in hidden and not any((one, False) in hidden or (one, True) in hidden for one in above)

    return {path: found for path, found in files.items() if stays(path)}


def _lay(files: Files, path: str, found: Found) -> bool:
    """Put one file into the tree; what stands in its way goes.  Return whether that was a directory."""
    for above in (path[:at] for at, letter in enumerate(path) if letter == "/"):
        if above in files and not stat.S_ISDIR(files[above].node.mode):
            del files[above]
        files.setdefault(above, Found(tree.Node(stat.S_IFDIR | 0o755, 0, 0)))
    is_in_the_way = path in files and stat.S_ISDIR(files[path].node.mode) and not stat.S_ISDIR(found.node.mode)
    if is_in_the_way:
        for name in [name for name in files if name.startswith(f"{path}/")]:
            del files[name]
    files[path] = found
    return is_in_the_way


def _found(layer: tarfile.TarFile, member: tarfile.TarInfo, own: Files, files: Files) -> Found | None:
    """Return a member as a file of the tree, None for a device; a hard link is the file that it is of."""
    mode = stat.S_IMODE(member.mode) & ~(stat.S_ISUID | stat.S_ISGID)
    if member.islnk():
        target = _below_links(files, container.clean_path(member.linkname))
        found = own.get(target) or files.get(target)
        if found is None or not stat.S_ISREG(found.node.mode):
            raise Problem(f"the container has a link to {member.linkname[:60]!r}, which is not there")
        return found
    if member.isdir():
        return Found(tree.Node(stat.S_IFDIR | mode, member.uid, member.gid))
    if member.issym():
        return Found(tree.Node(stat.S_IFLNK | 0o777, member.uid, member.gid, member.linkname))
    if not member.isreg():
        return None
    digest = hashlib.sha256()
    for chunk in _chunks(layer, member):
        digest.update(chunk)
    return Found(tree.Node(stat.S_IFREG | mode, member.uid, member.gid, digest.hexdigest()), layer, member)


def _chunks(layer: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
    stream = layer.extractfile(member)
    while stream is not None and (chunk := stream.read(_CHUNK)):
        yield chunk


# --- what is made of it --------------------------------------------------------------------------


def _user(settings: container.Settings, files: Files) -> tuple[int, int]:
    def text(path: str) -> str:
        found = files.get(path)
        if found is None or found.archive is None or found.member is None:
            return ""
        stream = found.archive.extractfile(found.member)
        return stream.read(_LARGEST_TEXT).decode(errors="replace") if stream is not None else ""

    return container.user_of(settings.user, text("etc/passwd"), text("etc/group"))


def _write(files: Files, service: str, drive: Path) -> tree.Index:
    """Write the tar of the drive: the container below its root, and the service that runs it."""
    script = service.encode()
    index = {f"{container.ROOT}/{path}": found.node for path, found in files.items()}
    name = "etc/okubsd/services/00-container"
    above = [name[:at] for at, letter in enumerate(name) if letter == "/"]
    index |= dict.fromkeys((container.ROOT, *above), tree.Node(stat.S_IFDIR | 0o755, 0, 0))
    index[name] = tree.Node(stat.S_IFREG | 0o755, 0, 0, hashlib.sha256(script).hexdigest())
    with tarfile.open(drive, "w", format=tarfile.PAX_FORMAT) as target:
        for path in sorted(index):
            inside = path.removeprefix(f"{container.ROOT}/")
            found = files[inside] if inside != path else Found(index[path])
            _add(target, path, found, script if path == name else b"")
    return dict(sorted(index.items()))


def _add(target: tarfile.TarFile, path: str, found: Found, data: bytes) -> None:
    """Add one member to the drive: what its layer has, or else ``data``."""
    made = member_of(path, found.node)
    if made.isreg() and found.archive is not None and found.member is not None:
        made.size = found.member.size
        target.addfile(made, found.archive.extractfile(found.member))
        return
    made.size = len(data)
    target.addfile(made, io.BytesIO(data))
