"""Where the programs of a build run: on this host, or in a VM that has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from okubsd.host import door
from okubsd.host.trust import is_root
from okubsd.model import Argv


class Workshop(Protocol):
    """What a build asks of the place where its programs run; files are called as they are on this host."""

    @property
    def root(self) -> bool:
        """Return whether its programs are root's."""

    def put(self, *paths: Path) -> None:
        """Have files or directories of this host there."""

    def get(self, *paths: Path) -> None:
        """Have files that were made there here."""

    def run(
        self,
        argv: Argv,
        *,
        env: Mapping[str, str] | None = None,
        stdin: Path | None = None,
        data: bytes = b"",
        on_line: Callable[[str], None] | None = None,
        mounts: bool = False,
    ) -> door.Done:
        """Run a program to its end, with the file ``stdin`` or ``data`` as its input; ``on_line`` gets its errors.

        ``mounts`` says that it mounts what nobody else is to see.
        """


class Here:
    """This host: everything is there already."""

    @property
    def root(self) -> bool:
        return is_root()

    def put(self, *paths: Path) -> None:
        """Do nothing."""

    def get(self, *paths: Path) -> None:
        """Do nothing."""

    def run(
        self,
        argv: Argv,
        *,
        env: Mapping[str, str] | None = None,
        stdin: Path | None = None,
        data: bytes = b"",
        on_line: Callable[[str], None] | None = None,
        mounts: bool = False,
    ) -> door.Done:
        words = _mounting_apart(argv) if mounts else argv
        # It ends when we are killed (setpriv(1)).
        words = ("setpriv", "--pdeathsig", "TERM", "--", *words)
        if stdin is None:
            return door.run(words, env=env, data=data, on_line=on_line, apart=mounts)
        with stdin.open("rb") as stream:
            return door.run(words, env=env, stdin=stream, on_line=on_line, apart=mounts)


def _mounting_apart(argv: Argv) -> Argv:
    """Return ``argv`` with mounts of its own: what mmdebstrap mounts as root is gone with it, however it ends."""
    if not is_root():
        return argv
    # In a chroot the root directory is no mount, so its propagation cannot be set.
    private = door.run(("unshare", "--mount", "--", "true"), timeout=10).code == 0
    return ("unshare", "--mount", "--propagation", "private" if private else "unchanged", "--", *argv)


HERE: Workshop = Here()
