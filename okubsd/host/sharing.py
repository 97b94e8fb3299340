"""A directory of this host in a guest: this process speaks SFTP with a guest that may be hostile, and serves no other.

The guest's sshfs asks, over the shared ssh connection.  Every path is walked from the directory that was opened when
the share began, and no link is followed, so nothing that is put in its place, or made in it, leads out of it.
Source: draft-ietf-secsh-filexfer-02, which OpenSSH and sshfs speak; sshfs(1), passive.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
import stat
import struct
import sys
from collections.abc import Iterator
from typing import Any

import paramiko
from paramiko.sftp import SFTPError

from okubsd.decode import read_json
from okubsd.guest.ssh import remote_command
from okubsd.host import door
from okubsd.host.guest import ROOT, Guest
from okubsd.host.places import find_places
from okubsd.host.running import started_or_bare
from okubsd.model import Share

# What one message of a guest's may have, how many files it may have open, and how many names a directory is told by.
_LONGEST, _MOST_OPEN, _MOST_NAMES = 300 << 10, 128, 200_000
_MEMORY = 512 << 20
_NOT_FOLLOWED = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# What root of the guest runs: its user has the files, and no other does.
_OPTIONS = "passive,allow_other,default_permissions,uid=1000,gid=1000,auto_cache"
_MOUNT = f'mkdir -p "$1" && exec sshfs -f -o {_OPTIONS} :/ "$1"'


class Served(paramiko.SFTPServerInterface):  # type: ignore[misc]
    """One directory, and nothing beside it."""

    def __init__(self, _server: Any, top: int, *, writable: bool) -> None:
        self._top, self._writable = top, writable
        self._open = 0

    # --- the way to a file -----------------------------------------------------------------------

    @contextlib.contextmanager
    def _parent(self, path: str, *, writes: bool = False) -> Iterator[tuple[int, str]]:
        """Yield the open directory that ``path`` is in, and its name there.  Raises OSError for what is not to be."""
        if writes and not self._writable:
            raise OSError(errno.EROFS, "the share is not to be written to")
        names = [name for name in path.split("/") if name not in ("", ".")]
        if ".." in names or "\0" in path:
            raise OSError(errno.EACCES, "it leads out of the share")
        held = os.dup(self._top)
        try:
            for name in names[:-1]:
                deeper = os.open(name, os.O_RDONLY | os.O_DIRECTORY | _NOT_FOLLOWED, dir_fd=held)
                os.close(held)
                held = deeper
            yield held, names[-1] if names else "."
        finally:
            os.close(held)

    def _told(self, path: str) -> Any:
        with self._parent(path) as (parent, name):
            return attributes(os.stat(name, dir_fd=parent, follow_symlinks=False), name)

    # --- what is asked -----------------------------------------------------------------------------

    def stat(self, path: str) -> Any:
        return answered(lambda: self._told(path))

    def lstat(self, path: str) -> Any:
        return answered(lambda: self._told(path))

    def list_folder(self, path: str) -> Any:
        def listed() -> list[Any]:
            with self._parent(path) as (parent, name):
                held = os.open(name, os.O_RDONLY | os.O_DIRECTORY | _NOT_FOLLOWED, dir_fd=parent)
            try:
                found = []
                for entry in os.scandir(held):
                    with contextlib.suppress(FileNotFoundError):
                        found.append(attributes(entry.stat(follow_symlinks=False), entry.name))
                    if len(found) >= _MOST_NAMES:
                        break
                return found
            finally:
                os.close(held)

        return answered(listed)

    def open(self, path: str, flags: int, attr: Any) -> Any:
        def opened() -> Any:
            writes = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND))
            if self._open >= _MOST_OPEN:
                raise OSError(errno.EMFILE, "too many files are open")
            mode = (attr.st_mode or 0o644) & 0o777
            with self._parent(path, writes=writes) as (parent, name):
                held = os.open(name, (flags & ~os.O_APPEND) | _NOT_FOLLOWED, mode, dir_fd=parent)
            if not stat.S_ISREG(os.fstat(held).st_mode):
                os.close(held)
                raise OSError(errno.EACCES, "it is no regular file")
            self._open += 1
            return _File(self, held)

        return answered(opened)

    def closed(self) -> None:
        """Hear that a file was closed."""
        self._open -= 1

    def remove(self, path: str) -> Any:
        return self._changed(path, lambda parent, name: os.unlink(name, dir_fd=parent))

    def mkdir(self, path: str, attr: Any) -> Any:
        mode = (attr.st_mode or 0o755) & 0o777
        return self._changed(path, lambda parent, name: os.mkdir(name, mode, dir_fd=parent))

    def rmdir(self, path: str) -> Any:
        return self._changed(path, lambda parent, name: os.rmdir(name, dir_fd=parent))

    def _changed(self, path: str, change: Any) -> Any:
        def changed() -> int:
            with self._parent(path, writes=True) as (parent, name):
                change(parent, name)
            return int(paramiko.SFTP_OK)

        return answered(changed)

    def rename(self, oldpath: str, newpath: str) -> Any:
        def is_free(parent: int, name: str) -> None:
            with contextlib.suppress(FileNotFoundError):
                os.stat(name, dir_fd=parent, follow_symlinks=False)
                raise FileExistsError(errno.EEXIST, "there is one")

        return self._renamed(oldpath, newpath, is_free)

    def posix_rename(self, oldpath: str, newpath: str) -> Any:
        return self._renamed(oldpath, newpath, lambda parent, name: None)

    def _renamed(self, oldpath: str, newpath: str, first: Any) -> Any:
        def renamed() -> int:
            with (
                self._parent(oldpath, writes=True) as (old, old_name),
                self._parent(newpath, writes=True) as (new, new_name),
            ):
                first(new, new_name)
                os.rename(old_name, new_name, src_dir_fd=old, dst_dir_fd=new)
            return int(paramiko.SFTP_OK)

        return answered(renamed)

    def chattr(self, path: str, attr: Any) -> Any:
        def changed() -> int:
            with self._parent(path, writes=True) as (parent, name):
                # A directory cannot be opened for writing, and need not be.
                held = os.open(name, os.O_RDONLY | _NOT_FOLLOWED, dir_fd=parent)
                try:
                    if attr.st_size is not None:
                        with_size = os.open(name, os.O_WRONLY | _NOT_FOLLOWED, dir_fd=parent)
                        try:
                            os.ftruncate(with_size, attr.st_size)
                        finally:
                            os.close(with_size)
                    apply(held, attr)
                finally:
                    os.close(held)
            return int(paramiko.SFTP_OK)

        return answered(changed)

    def readlink(self, path: str) -> Any:
        def read() -> str:
            with self._parent(path) as (parent, name):
                return os.readlink(name, dir_fd=parent)

        return answered(read)

    def symlink(self, target_path: str, path: str) -> Any:
        """Make no link: a program of this host might follow it."""
        return int(paramiko.SFTP_PERMISSION_DENIED)

    def canonicalize(self, path: str) -> Any:
        return os.path.normpath(f"/{path}")  # nothing on a disk is asked


class _File(paramiko.SFTPHandle):  # type: ignore[misc]
    """A file that a guest has open."""

    def __init__(self, served: Served, held: int) -> None:
        super().__init__()
        self._served, self._held = served, held

    def read(self, offset: int, length: int) -> Any:
        return answered(lambda: os.pread(self._held, min(length, _LONGEST), offset))

    def write(self, offset: int, data: bytes) -> Any:
        def written() -> int:
            at = 0
            while at < len(data):
                at += os.pwrite(self._held, data[at:], offset + at)
            return int(paramiko.SFTP_OK)

        return answered(written)

    def stat(self) -> Any:
        return answered(lambda: attributes(os.fstat(self._held), ""))

    def chattr(self, attr: Any) -> Any:
        def changed() -> int:
            if attr.st_size is not None:
                os.ftruncate(self._held, attr.st_size)
            apply(self._held, attr)
            return int(paramiko.SFTP_OK)

        return answered(changed)

    def close(self) -> None:
        if self._held >= 0:
            os.close(self._held)
            self._held = -1
            self._served.closed()


def apply(held: int, attr: Any) -> None:
    """Give an open file a mode without privileges, and dates, as far as ``attr`` has them; never an owner."""
    if attr.st_mode is not None:
        os.fchmod(held, attr.st_mode & 0o777)
    if attr.st_mtime is not None:
        os.utime(held, (attr.st_atime or attr.st_mtime, attr.st_mtime))


def attributes(status: os.stat_result, name: str) -> Any:
    """Return what a guest is told of a file."""
    return paramiko.SFTPAttributes.from_stat(status, name)


def answered(what: Any) -> Any:
    """Return what ``what`` returns, or the number of the error that a guest is told."""
    try:
        return what()
    except OSError as error:
        return paramiko.SFTPServer.convert_errno(error.errno)
    except (ValueError, OverflowError):
        return int(paramiko.SFTP_BAD_MESSAGE)


class _Server(paramiko.SFTPServer):  # type: ignore[misc]
    """A server whose messages are bounded."""

    def _read_packet(self) -> tuple[int, bytes]:
        (size,) = struct.unpack(">I", self._read_all(4))
        if not 1 <= size <= _LONGEST:
            raise SFTPError("a message of the guest is too long")
        data = self._read_all(size)
        return data[0], data[1:]


class _Pipe:
    """A socket as paramiko wants its channels."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self.recv, self.send, self.close = end.recv, end.send, end.close

    def get_transport(self) -> _Pipe:
        return self

    def get_log_channel(self) -> str:
        return "okubsd"

    def get_hexdump(self) -> bool:
        return False

    def get_name(self) -> str:
        return "share"


def serve(end: socket.socket, top: int, *, writable: bool) -> None:
    """Serve the open directory ``top`` to who speaks SFTP at the other end of ``end``, until he goes."""
    pipe: Any = _Pipe(end)

    def interface(server: Any) -> Served:
        return Served(server, top, writable=writable)

    server = _Server(pipe, "sftp", None, interface)
    server.start_subsystem("sftp", pipe, pipe)


def main() -> int:
    """Share one directory with a VM that runs, until either ends."""
    name, described = sys.argv[1:]
    share = read_json(described.encode(), Share)
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
    top = os.open(share.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    places = find_places()
    guest = Guest.find(places, started_or_bare(places, name))
    ours, theirs = socket.socketpair()
    with door.joined((*guest.argv("-T", user=ROOT), remote_command(("sh", "-c", _MOUNT, "share", share.at))), theirs):
        theirs.close()
        serve(ours, top, writable=share.writable)
        ours.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
