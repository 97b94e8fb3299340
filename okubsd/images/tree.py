"""What of a bootstrapped tree goes into a drive, decided member by member.

A tree comes as the tar of mmdebstrap(1).  The drive of an app holds only what differs from its base;
no drive holds logs, caches, host keys, machine ids, device nodes or stray setuid bits.
"""

from __future__ import annotations

import posixpath
import re
import stat
from collections.abc import Callable, Iterable, Mapping

import msgspec

from okubsd.config.names import quoted
from okubsd.errors import Problem
from okubsd.guest import relay, reseed, sandbox
from okubsd.images.commands import DATES, DEBS
from okubsd.model import Argv, Kind
from okubsd.recipe import Recipe, Sandbox


class Node(msgspec.Struct, frozen=True):
    """One file of a tree: mode with type bits, owner, group, and SHA-256 of the content or the link's target."""

    mode: int
    uid: int
    gid: int
    content: str = ""


Index = Mapping[str, Node]

# Left out of every drive: what is of one machine, of one build, or of no use in a guest.
_DROPPED = re.compile(
    r"(dev|proc|sys|run|tmp|var/tmp|var/cache|var/log|var/lib/apt|boot|lost\+found)/.+"
    r"|etc/(machine-id|hostname|hosts|resolv\.conf|mtab|\.pwd\.lock|.+\.dpkg-(old|new|dist))"
    r"|etc/(passwd|group|shadow|gshadow|subuid|subgid)-"
    r"|etc/(dropbear/dropbear_|ssh/ssh_host_).*"
    r"|etc/(apt|cron\..*|init\.d|rc.\.d|systemd|logrotate\.d)/.*"
    r"|var/lib/(dbus/machine-id|systemd/.*|dpkg/.*-old|dpkg/lock.*|dpkg/triggers/Lock)"
    r"|usr/lib/systemd/.*|lib/systemd/.*"
    r"|usr/share/i18n/.*|etc/locale\.(gen|alias)"
    r"|.*/__pycache__(/.*)?"
    rf"|{DATES}|{DEBS}"
)
# What is known of packages, and the list of one's files (dpkg(1)); what serves their installing only, and no program.
PACKAGES = "var/lib/dpkg/"
LIST = re.compile(PACKAGES + r"info/([a-z0-9][a-z0-9+.-]*)(?::amd64)?\.list")
_INSTALLING = frozenset(
    {"adduser", "base-passwd", "debconf", "dpkg", "init-system-helpers", "libpam-runtime", "passwd", "usr-is-merged"}
)
# Directories under /dev, /var/cache and the like are made by init or by tmpfs; these must exist.
_KEPT = re.compile(r"var/cache/fontconfig(/.*)?")
# An app drive also leaves out the package database: it would hide the base's.
_DROPPED_FROM_APPS = re.compile(r"var/lib/(dpkg|apt|debconf|ucf)(/.*)?|var/cache/debconf(/.*)?|etc/ld\.so\.cache\.old")

_SET_ID = stat.S_ISUID | stat.S_ISGID


def is_kept(path: str, kind: Kind) -> bool:
    """Return whether ``path`` (without leading slash) belongs in a drive of ``kind``."""
    if kind is Kind.APP and _DROPPED_FROM_APPS.fullmatch(path):
        return False
    return _KEPT.fullmatch(path) is not None or _DROPPED.fullmatch(path) is None


# Where daemons expect their directories: these stay, empty.
_STATE = re.compile(r"var/(log|lib|spool)/[^/]+(/[^/]+)?")
_NOT_STATE = re.compile(r"var/lib/(apt|dpkg|systemd|dbus|ucf)(/|$)|var/log/apt")


def is_kept_directory(path: str) -> bool:
    """Return whether the directory ``path`` stays though nothing in it does."""
    return _STATE.fullmatch(path) is not None and _NOT_STATE.match(path) is None


def mode_in_drive(path: str, mode: int, allowed: Iterable[str]) -> int:
    """Return ``mode`` without setuid and setgid, unless ``path`` is among the ``allowed`` absolute ones.

    A directory's setgid bit gives nobody a privilege and stays.
    """
    if stat.S_ISDIR(mode) or f"/{path}" in set(allowed):
        return mode
    return mode & ~_SET_ID


def added_paths(tree: Index, base: Index) -> list[str]:
    """Return the paths of ``tree`` that ``base`` has not, or has otherwise, with the directories they
    stand in, sorted."""
    added = {path for path, node in tree.items() if base.get(path) != node and not stat.S_ISDIR(node.mode)}
    added |= {path for path, node in tree.items() if stat.S_ISDIR(node.mode) and path not in base}
    return with_parents(added, tree)


def with_parents(paths: Iterable[str], tree: Index) -> list[str]:
    """Return ``paths`` with the directories they stand in, sorted."""
    wanted = set(paths)
    parents = {"/".join(path.split("/")[:depth]) for path in wanted for depth in range(1, path.count("/") + 1)}
    return sorted(wanted | (parents & tree.keys()))


def needed_beside(status: str, known: set[str]) -> set[str]:
    """Return which of the packages ``known`` others need to run, by a dpkg database's ``status``.

    Those that only serve installing are needed by none.
    """
    found = set[str]()
    for stanza in status.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in stanza.splitlines() if ": " in line and line[0] != " ")
        if fields.get("Package", "") not in known:
            for line in (fields.get("Depends", ""), fields.get("Pre-Depends", "")):
                found |= {word.strip().split(" ")[0].split(":")[0] for word in re.split("[,|]", line)}
    return (found & known) - _INSTALLING


def is_directory(path: str, nodes: Index) -> bool:
    """Return whether ``path`` is a directory or a link to one, as /bin is: packages have it together."""
    node = nodes[path]
    target = posixpath.normpath(posixpath.join("/", posixpath.dirname(path), node.content)).lstrip("/")
    there = nodes.get(target) if stat.S_ISLNK(node.mode) else node
    return there is not None and stat.S_ISDIR(there.mode)


def follow_links(path: str, nodes: Index) -> str:
    """Return ``path`` with the symbolic links among its directories resolved within the tree.

    Debian's /bin and a few packages' directories are such links.  Raises Problem for a loop.
    """
    for _ in range(16):
        parts = path.split("/")
        heads = ["/".join(parts[:depth]) for depth in range(1, len(parts))]
        link = next((head for head in heads if head in nodes and stat.S_ISLNK(nodes[head].mode)), None)
        if link is None:
            return path
        target = posixpath.normpath(posixpath.join("/", posixpath.dirname(link), nodes[link].content))
        path = target.lstrip("/") + path[len(link) :]
    raise Problem(f"the path /{path} is a loop of symbolic links in the image")


def link_target(path: str, target: str) -> str:
    """Return the ``target`` of a symbolic link at ``path`` of a recipe's files.

    Raises Problem where it leads out of them, which in the guest would be somewhere, and on the host anywhere.
    """
    inside = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
    if not target.startswith("/") and inside.split("/")[0] == "..":
        raise Problem(f"the link /{path} of the recipe's files leads out of them, to {quoted(target)}")
    return target


# The shell that answers the host's calls (images/base/files).
LOGIN_SHELL = "/usr/lib/okubsd/sh"


def add_user(passwd: str, name: str = "user", uid: int = 1000) -> str:
    """Return passwd(5) with the unprivileged user at its end, once; the host comes in as it and as root."""
    kept = [line for line in passwd.splitlines() if not line.startswith(f"{name}:")]
    lines = [f"{line.rpartition(':')[0]}:{LOGIN_SHELL}" if line.startswith("root:") else line for line in kept]
    return "\n".join([*lines, f"{name}:x:{uid}:{uid}::/home/{name}:{LOGIN_SHELL}", ""])


def add_shell(shells: str) -> str:
    """Return shells(5) with LOGIN_SHELL at its end, once: a server of ssh lets in nobody whose shell is not there."""
    return "\n".join([*(line for line in shells.splitlines() if line != LOGIN_SHELL), LOGIN_SHELL, ""])


def add_group(group: str, name: str = "user", gid: int = 1000) -> str:
    """Return group(5) with the user's own group at its end, once."""
    kept = [line for line in group.splitlines() if not line.startswith(f"{name}:")]
    return "\n".join([*kept, f"{name}:x:{gid}:", ""])


def lock_passwords(shadow: str, name: str = "user") -> str:
    """Return shadow(5) in which nobody has a password and no date says when it was made."""
    names = [line.split(":")[0] for line in shadow.splitlines() if line and not line.startswith(f"{name}:")]
    return "".join(f"{user}:*:20000:0:99999:7:::\n" for user in [*names, name])


EDITS: dict[str, Callable[[str], str]] = {
    "etc/passwd": add_user,
    "etc/group": add_group,
    "etc/shadow": lock_passwords,
    "etc/shells": add_shell,
}


def render_app(command: Argv) -> str:
    """Return the script that starts one app, as it lies in /etc/okubsd/apps."""
    first, *others = ("'" + word.replace("'", "'\\''") + "'" for word in command)
    words = " ".join(('"$program"', *others, '"$@"'))
    return f"#!/bin/busybox sh\n. /usr/lib/okubsd/found\nfind_program {first}\nexec {words}\n"


def made_files(recipe: Recipe) -> dict[str, tuple[int, bytes]]:
    """Return the files a recipe's own keys make: path to (permissions, content)."""
    apps = {f"etc/okubsd/apps/{name}": (0o755, render_app(words).encode()) for name, words in recipe.apps.items()}
    services = {
        f"etc/okubsd/services/{i:02}-{words.split('/')[-1].split()[0]}": (0o755, f"#!/bin/sh\nexec {words}\n".encode())
        for i, words in enumerate(recipe.services)
    }
    bus = {"etc/okubsd/bus": (0o644, b"")} if recipe.notifications else {}
    return apps | services | bus | _wall_files(recipe)


# Programs of busybox that people look for in a shell, and that no other package of the base has (busybox(1)).
APPLETS = (
    "bc", "dc", "free", "ifconfig", "ip", "killall", "less", "nc", "netstat", "nslookup", "pidof", "ping", "ps",
    "route", "telnet", "top", "traceroute", "unzip", "uptime", "vi", "w", "watch", "wget", "xxd",
)  # fmt: skip


def _applets() -> dict[str, tuple[int, bytes]]:
    return {f"usr/bin/{name}": (0o755, f'#!/bin/busybox sh\nexec busybox {name} "$@"\n'.encode()) for name in APPLETS}


def _wall_files(recipe: Recipe) -> dict[str, tuple[int, bytes]]:
    """Return what the second wall reads: in the base its filter and its defaults, else what an image says otherwise."""
    if recipe.kind is Kind.BASE:
        return _applets() | {
            "usr/lib/okubsd/reseed": (0o755, reseed.render_program()),
            "usr/lib/okubsd/relay": (0o755, relay.render_program()),
            "usr/lib/okubsd/refused.bpf": (0o644, sandbox.seccomp_filter()),
            "usr/lib/okubsd/sandbox": (0o644, sandbox.render_args(Sandbox())),
        }
    if not recipe.sandbox.on:
        return {"etc/okubsd/no-sandbox": (0o644, b"")}
    if recipe.sandbox == Sandbox():
        return {}
    home = "".join(f"{path}\n" for path in recipe.sandbox.home)
    return {
        "etc/okubsd/sandbox": (0o644, sandbox.render_args(recipe.sandbox)),
        "etc/okubsd/sandbox.home": (0o644, home.encode()),
        **({} if recipe.sandbox.network else {"etc/okubsd/no-network": (0o644, b"")}),
    }
