"""The newc cpio archive that the Linux kernel unpacks as an initramfs.

Source: Documentation/driver-api/early-userspace/buffer-format.rst of the Linux kernel.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable

import msgspec


class Entry(msgspec.Struct, frozen=True):
    """One member: path without leading slash, mode with type bits as in stat(2), its bytes, and whose it is."""

    path: str
    mode: int
    data: bytes = b""
    owner: int = 0


def file(path: str, data: bytes, mode: int = 0o600, owner: int = 0) -> Entry:
    """Return the Entry of a regular file; ``owner`` is both its user and its group, by number."""
    return Entry(path, stat.S_IFREG | mode, data, owner)


def directory(path: str, mode: int = 0o755, owner: int = 0) -> Entry:
    """Return the Entry of a directory."""
    return Entry(path, stat.S_IFDIR | mode, b"", owner)


def fifo(path: str, mode: int, owner: int = 0) -> Entry:
    """Return the Entry of a named pipe."""
    return Entry(path, stat.S_IFIFO | mode, b"", owner)


def render_cpio(entries: Iterable[Entry]) -> bytes:
    """Return the archive of ``entries``: dated 0, padded to 512 bytes.

    The same entries give the same bytes.
    """
    parts = [_member(number, entry) for number, entry in enumerate(entries, 1)]
    parts.append(_member(0, Entry("TRAILER!!!", 0)))
    archive = b"".join(parts)
    return archive + bytes(-len(archive) % 512)


def _member(inode: int, entry: Entry) -> bytes:
    name = entry.path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    # ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
    numbers = (inode, entry.mode, entry.owner, entry.owner, links, 0, len(entry.data), 0, 0, 0, 0, len(name), 0)
    header = b"070701" + b"".join(b"%08X" % number for number in numbers) + name
    return header + bytes(-len(header) % 4) + entry.data + bytes(-len(entry.data) % 4)
