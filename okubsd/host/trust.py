"""Judge a place before anything in it is believed: could others than root and its user decide what lies there?"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from okubsd.config.names import quoted

_MOST_LINKS = 40


def is_root() -> bool:
    """Return whether we are root."""
    return os.geteuid() == 0


def place_mistake(path: Path, uid: int | None = None, *, there: bool = False) -> str:
    """Return why others could decide what lies at ``path``, "" where only root and the user ``uid`` (we) can.

    Every directory on the way is looked at, and so is whatever a link on it leads to: its owner, whether others may
    write to it, and that no link lies in a directory that they can write.  What is not there yet is no mistake, unless
    it has to be ``there``.
    """
    owners = trusted_owners(os.geteuid() if uid is None else uid)
    unmapped = _unmapped_owner()
    here, pending, links = Path("/"), list(path.absolute().parts[1:]), 0
    mistake = _mistake(here, here.lstat(), owners | unmapped)
    while pending and not mistake:
        part = pending.pop(0)
        next_one = here.parent if part == ".." else here / part
        try:
            status = next_one.lstat()
        except FileNotFoundError:
            return f"{quoted(next_one, 200)} was there a moment ago" if there else ""
        except OSError as error:
            return f"{quoted(next_one, 200)} cannot be looked at: {error.strerror}"
        if stat.S_ISLNK(status.st_mode):
            links += 1
            mistake = _link_mistake(next_one, status, here.lstat(), owners, links)
            target = next_one.readlink()
            pending = [*target.parts[target.is_absolute() :], *pending]
            here = Path("/") if target.is_absolute() else here
            continue
        if not pending or status.st_mode & stat.S_ISVTX or status.st_uid not in unmapped:
            # Only the way to a place may belong to those that a user namespace does not show.
            unmapped = frozenset()
        here, mistake = next_one, _mistake(next_one, status, owners | unmapped)
    return mistake


def entry_mistake(path: Path) -> str:
    """Return why others could have written the very thing at ``path``, links not followed; "" where they could not."""
    try:
        status = path.lstat()
    except OSError as error:
        return f"{quoted(path, 200)} cannot be looked at: {error.strerror}"
    if stat.S_ISLNK(status.st_mode):
        status = os.stat_result((0o120700, *status[1:10]))
    return _mistake(path, status, trusted_owners(os.geteuid()))


def opened_mistake(descriptor: int) -> str:
    """Return why others could have written what is open as ``descriptor``, "" where they could not."""
    status = os.fstat(descriptor)
    if status.st_uid not in trusted_owners(os.geteuid()):
        return f"it belongs to {user_name(status.st_uid)}"
    return "it can be written by others" if others_write(status, descriptor) else ""


def trusted_owners(uid: int) -> frozenset[int]:
    """Return whose files the user ``uid`` believes: root's and his own."""
    return frozenset((0, uid))


def _unmapped_owner() -> frozenset[int]:
    """Return who owns what no user of this namespace does, as the kernel shows it (user_namespaces(7)); () outside."""
    try:
        whole = Path("/proc/self/uid_map").read_text().split()[-1:] == ["4294967295"]
        return frozenset() if whole else frozenset((int(Path("/proc/sys/kernel/overflowuid").read_text()),))
    except (OSError, ValueError):
        return frozenset()


def _mistake(path: Path, status: os.stat_result, owners: frozenset[int]) -> str:
    if status.st_uid not in owners:
        return f"{quoted(path, 200)} belongs to {user_name(status.st_uid)}"
    if stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX:
        # Others may add to it, and neither remove nor rename what is there.
        return ""
    return f"{quoted(path, 200)} can be written by others" if others_write(status, path) else ""


def _link_mistake(
    path: Path, status: os.stat_result, parent: os.stat_result, owners: frozenset[int], links: int
) -> str:
    if links > _MOST_LINKS:
        return f"{quoted(path, 200)} is one of too many links"
    if others_write(parent, path.parent):
        return f"{quoted(path, 200)} is a link in a directory that others can write"
    return "" if status.st_uid in owners else f"{quoted(path, 200)} belongs to {user_name(status.st_uid)}"


def others_write(status: os.stat_result, where: Path | int) -> bool:
    """Return whether somebody else than its owner can write what has this ``status`` and is at ``where``."""
    if status.st_mode & stat.S_IWOTH:
        return True
    if not status.st_mode & stat.S_IWGRP:
        return False
    return _has_acl(where) or not _is_own_group(status.st_gid, status.st_uid)


def _has_acl(where: Path | int) -> bool:
    """Return whether a list names more users or groups (acl(5)); the bits of the group are its mask then."""
    if not hasattr(os, "getxattr"):
        return False
    try:
        return bool(os.getxattr(where, "system.posix_acl_access"))
    except OSError:
        return False


def _is_own_group(gid: int, uid: int) -> bool:
    """Return whether the group is one of that user alone, as useradd(8) makes them."""
    import grp
    import pwd

    try:
        user, group = pwd.getpwuid(uid), grp.getgrgid(gid)
    except KeyError:
        return False
    if user.pw_gid != gid or group.gr_name != user.pw_name or not set(group.gr_mem) <= {user.pw_name}:
        return False
    return not any(other.pw_gid == gid and other.pw_uid != uid for other in pwd.getpwall())


def user_name(uid: int) -> str:
    """Return the name of the user ``uid``, or his number."""
    import pwd

    try:
        return quoted(pwd.getpwuid(uid).pw_name)[1:-1]
    except KeyError:
        return f"user {uid}"
