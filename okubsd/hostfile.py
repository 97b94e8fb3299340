"""Files of an OpenBSD host as they are and as they are to be: frozen values.  Imports nothing of ours."""

from __future__ import annotations

import enum

import msgspec


class FileState(msgspec.Struct, frozen=True):
    """A file of the host's, as it is or is to be; owner and group by number."""

    text: str
    mode: int
    uid: int = 0
    gid: int = 0


class How(enum.StrEnum):
    """How a file of an OpenBSD host comes to hold what it should."""

    WHOLE = "whole"  # the file is ours
    BLOCK = "block"  # a marked block at its end
    BEFORE_RULES = "before rules"  # a marked block before the first filter rule
    RCCTL = "rcctl"  # lines that rcctl(8) keeps; it would not keep our marks


class HostFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file to be: its path without the leading slash, its text (of the block where it has one), its permissions."""

    path: str
    text: str
    how: How = How.WHOLE
    mode: int = 0o644
