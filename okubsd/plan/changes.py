"""Compare the files of an OpenBSD host with what they are to be, and show the difference without keys."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping

import msgspec

from okubsd import layout
from okubsd.config.marked import with_block, without_block
from okubsd.hostfile import FileState, HostFile, How
from okubsd.model import DRIVERS
from okubsd.plan.compile import Compiled
from okubsd.vpn.wg import without_keys

# The interfaces of VMs and of networks, by the paths of their files.
INTERFACE = re.compile(rf"etc/hostname\.(({'|'.join(DRIVERS)})\d{{1,3}})")


class Change(msgspec.Struct, frozen=True):
    """One file that changes: what it is and what it is to be (None: not there)."""

    path: str
    old: FileState | None
    new: FileState | None

    def diff(self) -> str:
        """Return a unified diff without keys."""
        secret = is_secret(self.path)
        texts = [_shown(stat, secret=secret).splitlines(keepends=True) for stat in (self.old, self.new)]
        before, after = (f"/{self.path}" if stat else "/dev/null" for stat in (self.old, self.new))
        told = "".join(_with_ends(difflib.unified_diff(texts[0], texts[1], before, after)))
        if told or not secret:
            return told or f"--- {before}\n+++ {after}\n"
        return f"/{self.path}: what changes is not shown, for it holds keys\n"


def _shown(stat: FileState | None, *, secret: bool) -> str:
    text = stat.text if stat else ""
    return without_keys(text) if secret else text


def is_secret(path: str) -> bool:
    """Return whether the file at ``path`` holds the keys of a tunnel."""
    return path.startswith((layout.hostname_if("wg"), f"{layout.OPENVPN}/"))


def _with_ends(lines: Iterable[str]) -> Iterable[str]:
    return (line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def wanted_files(compiled: Compiled, files: Mapping[str, FileState | None]) -> dict[str, FileState | None]:
    """Return every file as it is to be; a file of okubsd's that is described no more is None."""
    wanted: dict[str, FileState | None] = {}
    for file in compiled.files:
        if file.how is not How.RCCTL:
            wanted[file.path] = _wanted(file, files.get(file.path))
    for path, stat in files.items():
        if path not in wanted and stat is not None:
            wanted[path] = None if is_ours(path) else _unmarked(stat)
    return wanted


def is_ours(path: str) -> bool:
    """Return whether okubsd alone writes the file at ``path``."""
    return path.startswith(f"{layout.ETC}/") or INTERFACE.fullmatch(path) is not None


def _wanted(file: HostFile, now: FileState | None) -> FileState:
    if file.how is How.WHOLE:
        return FileState(file.text, file.mode)
    text = with_block(now.text if now else None, file.text, before_rules=file.how is How.BEFORE_RULES)
    return FileState(text, now.mode, now.uid, now.gid) if now else FileState(text, file.mode)


def _unmarked(stat: FileState) -> FileState | None:
    text = without_block(stat.text)
    return None if text is None else FileState(text, stat.mode, stat.uid, stat.gid)


def changes_to(wanted: Mapping[str, FileState | None], files: Mapping[str, FileState | None]) -> tuple[Change, ...]:
    """Return the files that differ, by path."""
    pairs = ((path, files.get(path), wanted[path]) for path in sorted(wanted))
    return tuple(Change(path, old, new) for path, old, new in pairs if old != new)
