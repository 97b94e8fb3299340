"""Judge a place before anything in it is believed: could others than root and its user decide what lies there?"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from okubsd.config.names import quoted

_MOST_LINKS = 40

_GROUP_WRITES, _OTHERS_WRITE = stat.S_IWGRP, stat.S_IWOTH


def place_mistake(path: Path, uid: int | None = None) -> str:
    """Return why others could decide what lies at ``path``, "" where only root and the user ``uid`` (we) can.

    Every directory on the way is looked at, and so is whatever a link on it leads to: its owner, whether others may
    write to it, and that no link lies in a directory that they can write.  What is not there yet is no mistake.
    """
    owners = trusted_owners(os.geteuid() if uid is None else uid)
    here, pending, links = Path("/"), list(path.absolute().parts[1:]), 0
    mistake = _mistake(here, here.lstat(), owners)
    while pending and not mistake:
        part = pending.pop(0)
        there = here.parent if part == ".." else here / part
        try:
            status = there.lstat()
        except FileNotFoundError:
            return ""
        except OSError as error:
            return f"{quoted(there, 200)} cannot be looked at: {error.strerror}"
        if stat.S_ISLNK(status.st_mode):
            links += 1
            mistake = _link_mistake(there, status, here.lstat(), owners, links)
            target = there.readlink()
            pending = [*target.parts[target.is_absolute() :], *pending]
            here = Path("/") if target.is_absolute() else here
        else:
            here, mistake = there, _mistake(there, status, owners)
    return mistake


def trusted_owners(uid: int) -> frozenset[int]:
    """Return whose files the user ``uid`` believes: root's and his own.

    In a user namespace that does not map the host's root, root is whoever the kernel shows there (user_namespaces(7)).
    """
    try:
        whole = Path("/proc/self/uid_map").read_text().split()[-1:] == ["4294967295"]
        overflow = () if whole else (int(Path("/proc/sys/kernel/overflowuid").read_text()),)
    except (OSError, ValueError):
        overflow = ()
    return frozenset((0, uid, *overflow))


def _mistake(path: Path, status: os.stat_result, owners: frozenset[int]) -> str:
    if status.st_uid not in owners:
        return f"{quoted(path, 200)} belongs to {user_name(status.st_uid)}"
    if stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX:
        # Others may add to it, and neither remove nor rename what is there.
        return ""
    return f"{quoted(path, 200)} can be written by others" if others_write(status) else ""


def _link_mistake(
    path: Path, status: os.stat_result, parent: os.stat_result, owners: frozenset[int], links: int
) -> str:
    if links > _MOST_LINKS:
        return f"{quoted(path, 200)} is one of too many links"
    if others_write(parent):
        return f"{quoted(path, 200)} is a link in a directory that others can write"
    return "" if status.st_uid in owners else f"{quoted(path, 200)} belongs to {user_name(status.st_uid)}"


def others_write(status: os.stat_result) -> bool:
    """Return whether somebody else than its owner can write what has this ``status``."""
    if status.st_mode & _OTHERS_WRITE:
        return True
    return bool(status.st_mode & _GROUP_WRITES) and not _is_own_group(status.st_gid, status.st_uid)


def _is_own_group(gid: int, uid: int) -> bool:
    """Return whether the group is one of that user alone, as useradd(8) makes them."""
    import grp
    import pwd

    try:
        user, group = pwd.getpwuid(uid), grp.getgrgid(gid)
    except KeyError:
        return False
    return user.pw_gid == gid and group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}


def user_name(uid: int) -> str:
    """Return the name of the user ``uid``, or his number."""
    import pwd

    try:
        return quoted(pwd.getpwuid(uid).pw_name)[1:-1]
    except KeyError:
        return f"user {uid}"
