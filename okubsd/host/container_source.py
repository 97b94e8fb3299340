"""Where a container comes from: a tar, the directory of an OCI layout, or a registry that skopeo(1) asks.

Whatever it is, a tar is made of it, which is looked through before anything of it is kept (container.py).
Source of the layout: image-spec 1.1, image-layout.md; of the names: skopeo(1), containers-transports(5).
"""

from __future__ import annotations

import re
import shlex
import shutil
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

from okubsd.config.names import quoted
from okubsd.errors import HostLacks, Misuse, Problem
from okubsd.host import door, programs
from okubsd.host.reading import open_regular
from okubsd.host.session import Report

_REGISTRY = "docker://"
_NAME = re.compile(
    r"docker://[a-z0-9][A-Za-z0-9._-]*(:[0-9]{1,5})?(/[a-z0-9._-]+)*(:[A-Za-z0-9._-]+)?(@sha256:[0-9a-f]{64})?"
)
_BLOB = re.compile(r"[0-9a-f]{64}")
# How large a layout may be, in bytes, and how many parts it may have; how long a registry may take, in seconds.
_LARGEST, _MOST, _FETCH_SECONDS = 8 << 30, 10_000, 3600.0
# How much a registry leaves free of the disk, how much skopeo may say, and how much of that is told, in bytes.
_ROOM, _LARGEST_LOG, _LARGEST_LINE = 256 << 20, 1 << 20, 4096


def is_registry(source: str) -> bool:
    """Return whether ``source`` is the name of an image in a registry.  Raises Misuse where it is no good name."""
    if source.startswith(_REGISTRY) and not _NAME.fullmatch(source):
        raise Misuse(
            f"{quoted(source)} is no name of an image in a registry", "docker://docker.io/library/nginx:stable"
        )
    return source.startswith(_REGISTRY)


def as_tar(source: str, scratch: Path, report: Report) -> Path:
    """Return a tar of the container ``source``, below the directory ``scratch`` unless it is one already.

    Raises HostLacks without skopeo(1) for a registry, Problem where there is none.
    """
    if is_registry(source):
        return _fetched(source, scratch / "fetched.tar", report)
    if Path(source).is_dir():
        return _packed(Path(source), scratch / "layout.tar")
    return Path(source)


def _fetched(source: str, target: Path, report: Report) -> Path:
    if programs.find_program("skopeo") is None:
        hint = f"apt-get install skopeo  # or elsewhere: skopeo copy {source} oci-archive:FILE"
        raise HostLacks("there is no skopeo on this host, which asks registries", hint)
    report(f"asking for {source} by skopeo")
    machine = ("--override-os", "linux", "--override-arch", "amd64")
    argv = ("skopeo", *machine, "copy", "--quiet", source, f"oci-archive:{target}")
    log, end = target.with_suffix(".log"), time.monotonic() + _FETCH_SECONDS
    process = door.spawn(argv, log, largest_file=_LARGEST)
    try:
        while process.poll() is None:
            if time.monotonic() > end:
                raise Problem(f"{source} did not come within an hour", "try again, or take a mirror")
            if shutil.disk_usage(target.parent).free < _ROOM or log.stat().st_size > _LARGEST_LOG:
                raise Problem(f"{source} does not come to an end", f"df -h {shlex.quote(str(target.parent))}")
            time.sleep(0.2)
    finally:
        door.end_process(process)
    if process.returncode != 0 or not target.is_file() or target.is_symlink():
        said = door.reason(door.Done(process.returncode, b"", log.read_bytes()[-_LARGEST_LINE:]))
        raise Problem(f"{source} did not come: {said}", f"skopeo inspect {source}")
    return target


def _packed(layout: Path, target: Path) -> Path:
    """Write the tar ``target`` of what an OCI layout has: its index and its blobs, whatever else lies there."""
    left = min(_LARGEST, shutil.disk_usage(target.parent).free)
    with tarfile.open(target, "w") as packed:
        for name in _names(layout):
            try:
                with open_regular(layout / name) as stream:
                    member = tarfile.TarInfo(name)
                    member.size = stream.seek(0, 2)
                    left -= member.size
                    if left < 0:
                        raise Problem(f"{layout} is larger than 8 GB, or than the disk has room")
                    stream.seek(0)
                    packed.addfile(member, stream)
            except (OSError, ValueError) as error:
                raise Problem(f"{layout / name} of the container cannot be read: {error}") from None
    return target


def _names(layout: Path) -> Iterator[str]:
    if not (layout / "index.json").is_file():
        raise Problem(f"{layout} is no OCI layout: it has no index.json", "skopeo copy docker://IMAGE oci:DIR")
    yield "index.json"
    found = sorted(path.name for path in (layout / "blobs/sha256").glob("*") if _BLOB.fullmatch(path.name))
    if len(found) > _MOST:
        raise Problem(f"{layout} has more than {_MOST} parts")
    yield from (f"blobs/sha256/{name}" for name in found)
