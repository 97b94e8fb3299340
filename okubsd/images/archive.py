"""A tar of images, read strictly: regular members of known names in the plain format, nothing that grows by itself.

Source: POSIX.1-1988, ustar; what `okubsd image export` writes has no extended headers, links or sparse files.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from typing import IO

import msgspec

from okubsd.config.names import IMAGE_NAME, quoted
from okubsd.model import Kind

KEY, DIGESTS = "okubsd.pub", "SHA256.sig"
MANIFEST = "manifest.json"

_BLOCK = tarfile.BLOCKSIZE

# The parts of each kind of image, and how large one may be at most, in bytes.
_MIB = 1 << 20
PARTS: dict[Kind, dict[str, int]] = {
    Kind.BOOT: {
        "vmlinuz": 64 * _MIB,
        "initrd": 128 * _MIB,
        "network": 128 * _MIB,
        "boot.img": 128 * _MIB,
        "config": _MIB,
    },
    Kind.BASE: {
        "drive.squashfs": 8192 * _MIB,
        "index.json": 128 * _MIB,
        "tools.squashfs": 8192 * _MIB,
        "tools.json": 128 * _MIB,
    },
    Kind.APP: {"drive.squashfs": 8192 * _MIB, "index.json": 128 * _MIB},
}
LARGEST_MANIFEST = _MIB
LARGEST = {KEY: 4 << 10, DIGESTS: _MIB, MANIFEST: LARGEST_MANIFEST} | {
    name: size for parts in PARTS.values() for name, size in parts.items()
}

_MEMBER = re.compile(
    rf"({IMAGE_NAME.pattern})/({'|'.join(re.escape(name) for name in LARGEST if name not in (KEY, DIGESTS))})"
)


class Member(msgspec.Struct, frozen=True):
    """One member: its whole name, the image and the part that this means ("" for what is of the archive), its bytes."""

    name: str
    image: str
    part: str
    size: int


def read_members(stream: IO[bytes]) -> Iterator[Member]:
    """Yield the members of a tar; ``stream`` then stands at the content of each, which may be read or not.

    No more than a block of 512 bytes is ever held.  Raises ValueError, in words, for anything that no export writes.
    """
    at = stream.tell()
    while True:
        stream.seek(at)
        block = stream.read(_BLOCK)
        if block == bytes(_BLOCK):
            return
        member = _parse(block)
        at += _BLOCK + -(-member.size // _BLOCK) * _BLOCK
        yield member


def _parse(block: bytes) -> Member:
    try:
        header = tarfile.TarInfo.frombuf(block, "ascii", "strict")
    except (tarfile.HeaderError, UnicodeDecodeError):
        raise ValueError("is not a whole tar of images") from None
    match = _MEMBER.fullmatch(header.name)
    image, part = (match[1], match[2]) if match else ("", header.name)
    largest = LARGEST.get(part, -1) if match or part in (KEY, DIGESTS) else -1
    if block[156:157] not in (tarfile.REGTYPE, tarfile.AREGTYPE) or not 0 <= header.size <= largest:
        raise ValueError(f"has a member {quoted(header.name)} that no export writes")
    return Member(header.name, image, part, header.size)


def magic_mistake(part: str, head: bytes) -> str:
    """Return "" where ``head``, the first 512 bytes of ``part``, is what its name says, else what it should be.

    Programs of the host probe what they are given: a drive that is really an image with a backing file would have
    vmctl(8) or QEMU open any file of the host's.
    """
    if part.endswith(".squashfs") and head[:4] != b"hsqs":
        return "a squashfs"
    if part == "boot.img" and (head[510:512] != b"\x55\xaa" or head[:4] == b"QFI\xfb"):
        return "a drive with a partition table"
    if part == "vmlinuz" and head[510:512] != b"\x55\xaa":
        return "a Linux kernel"
    return ""
