"""The files of the host's administrator, below the directory that stands for / (OKUBSD_ROOT)."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from pathlib import Path

import msgspec

from okubsd.errors import Problem
from okubsd.host import door
from okubsd.host.trust import is_root
from okubsd.hostfile import FileState
from okubsd.model import Argv

# Nothing that okubsd edits is larger; what is, is not what its name says.
_LARGEST = 4 << 20


class HostRoot(msgspec.Struct, frozen=True):
    """The tree below ``root``; paths within it are written without their leading slash."""

    root: Path

    def path(self, name: str) -> Path:
        """Return the path of ``name`` ("etc/pf.conf" or "/etc/pf.conf") on this machine."""
        return self.root / name.lstrip("/")

    def argv(self, argv: Argv) -> Argv:
        """Return ``argv`` with a program, or a script of sh(1), by its whole path looked up below the root."""
        if argv[0] == "sh" and len(argv) > 1 and argv[1].startswith("/"):
            return ("sh", str(self.path(argv[1])), *argv[2:])
        return (str(self.path(argv[0])), *argv[1:]) if argv[0].startswith("/") else argv

    def read(self, name: str) -> FileState | None:
        """Return the file ``name``, or None where there is none.

        Raises Problem where it is a link, no regular file, or no text.
        """
        path = self.path(name)
        try:
            status = path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST:
            raise Problem(f"{path} is not a file that okubsd could edit", "see what it is, and put it right by hand")
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise Problem(f"{path} is not UTF-8 text", "put it right by hand") from None
        except PermissionError:
            raise Problem(f"{path} can only be read by root; call okubsd by doas") from None
        return FileState(text, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)

    def read_all(self, names: Iterable[str]) -> dict[str, FileState | None]:
        """Return the files ``names``."""
        return {name: self.read(name) for name in names}

    def write(self, name: str, wanted: FileState, *, lasting: bool = True) -> None:
        """Write the file ``name`` whole or not at all, with its owner and permissions (door.write)."""
        path = self.path(name)
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        owner = (wanted.uid, wanted.gid) if is_root() else None
        door.write(path, wanted.text.encode(), wanted.mode, owner=owner, lasting=lasting)

    def remove(self, name: str) -> None:
        """Remove the file ``name`` if it is there."""
        self.path(name).unlink(missing_ok=True)
