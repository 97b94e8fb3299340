"""The header of a qcow2 image, and whether vmd(8) takes it.

vmd says "started" and lets the VM die where a drive is not to its taste, so it is looked at before.
Source: docs/interop/qcow2.txt of QEMU; usr.sbin/vmd/vioqcow2.c and config.c of OpenBSD, observed on 7.6 to 7.7.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import msgspec

MAGIC = b"QFI\xfb"
HEADER_BYTES = 104
LONGEST_BACKING_PATH = 1023
MOST_FILES = 4  # VM_MAX_BASE_PER_DISK: the top image and three below it

# magic version backing_offset backing_size cluster_bits size crypt l1_size l1_offset
# refcount_offset refcount_clusters snapshots snapshots_offset | incompatible compatible autoclear order length
_V2 = struct.Struct(">4sIQIIQIIQQIIQ")
_V3 = struct.Struct(">QQQII")
_DIRTY_OR_CORRUPT = 3
_FEATURES = {2: "an external data file", 3: "another compression", 4: "extended L2 entries"}


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What matters of a qcow2 header: ``size`` is the virtual size in bytes, ``backing`` a path or ""."""

    version: int
    size: int
    cluster_bits: int
    refcount_order: int
    incompatible: int
    backing: str
    encrypted: bool
    snapshots: int


def parse_header(data: bytes) -> Header:
    """Return the header that ``data``, the first clusters of an image, begins with.

    Raises ValueError, in words, where it is no qcow2 header or not a whole one.
    """
    if data[:4] != MAGIC:
        raise ValueError("it is not a qcow2 image")
    if len(data) < _V2.size:
        raise ValueError("its header is cut short")
    (_, version, offset, length, bits, size, crypt, _, _, _, _, snapshots, _) = _V2.unpack_from(data)
    incompatible, order = 0, 4
    if version >= 3:
        if len(data) < HEADER_BYTES:
            raise ValueError("its header is cut short")
        incompatible, _, _, order, _ = _V3.unpack_from(data, _V2.size)
    if length > LONGEST_BACKING_PATH or offset + length > len(data):
        raise ValueError("the path of its base is cut short")
    backing = data[offset : offset + length].decode("utf-8", errors="surrogateescape") if length else ""
    return Header(
        version=version, size=size, cluster_bits=bits, refcount_order=order, incompatible=incompatible,
        backing=backing, encrypted=crypt != 0, snapshots=snapshots,
    )  # fmt: skip


def header_mistakes(header: Header) -> list[str]:
    """Return what vmd would not take of ``header``, in words."""
    found = []
    if header.version != 3:
        found.append(f"it is version {header.version}, vmd takes version 3 (compat=1.1)")
    if header.refcount_order != 4:
        found.append(f"its reference counts have {1 << header.refcount_order} bits, vmd takes 16")
    found += [
        f"it uses {_FEATURES.get(bit, f'the unknown feature {bit}')}"
        for bit in range(64)
        if header.incompatible >> bit & 1 and not _DIRTY_OR_CORRUPT >> bit & 1
    ]
    if header.encrypted:
        found.append("it is encrypted")
    if header.snapshots:
        found.append("it has internal snapshots")
    return found


def chain_mistakes(top: str, read: Callable[[str], bytes | None]) -> list[str]:
    """Return what is wrong with the image ``top`` and the ones below it, each sentence beginning with its path.

    ``read`` returns the first 64 KiB of a file, or None where there is no regular one.
    """
    found: list[str] = []
    path, bits, depth = top, 0, 0
    while path:
        depth += 1
        if depth > MOST_FILES:
            return [*found, f"{top}: more than {MOST_FILES} images lie one over the other"]
        data = read(path)
        if data is None:
            return [*found, f"{path}: there is no such image"]
        try:
            header = parse_header(data)
        except ValueError as error:
            return [*found, f"{path}: {error}"]
        found += [f"{path}: {mistake}" for mistake in header_mistakes(header)]
        if bits and header.cluster_bits != bits:
            found.append(f"{path}: its clusters are of another size than those of {top}")
        bits = bits or header.cluster_bits
        path = _below(path, header.backing)
    return found


def _below(path: str, backing: str) -> str:
    """Return the path of the next image; a relative one is taken from the directory of the image that names it."""
    if not backing or backing.startswith("/"):
        return backing
    return f"{path.rpartition('/')[0]}/{backing}"
