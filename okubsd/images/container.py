"""A container image as what it says: its layers, its program, its user (OCI image-spec, v1.1; `docker save`).

Its files become those below /oci of an app image, and its program a service that sees nothing else.
"""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Mapping

import msgspec

from okubsd.errors import Problem
from okubsd.model import Argv

ROOT = "oci"
# What the kernel lets a root do in there: what a daemon that begins as root needs to become somebody else.
_KEPT = ("chown", "dac_override", "fowner", "fsetid", "kill", "net_bind_service", "setgid", "setuid")
_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NAME = re.compile(r"[^\0\n]{0,4096}")


class Settings(msgspec.Struct, frozen=True):
    """How the program of a container begins (image-spec, config.md)."""

    entrypoint: tuple[str, ...] | None = msgspec.field(name="Entrypoint", default=None)
    cmd: tuple[str, ...] | None = msgspec.field(name="Cmd", default=None)
    env: tuple[str, ...] | None = msgspec.field(name="Env", default=None)
    directory: str = msgspec.field(name="WorkingDir", default="")
    user: str = msgspec.field(name="User", default="")


class RootFs(msgspec.Struct, frozen=True):
    """What the layers unpack to, each by its digest (image-spec, config.md)."""

    diff_ids: tuple[str, ...] = ()


class Config(msgspec.Struct, frozen=True):
    """The configuration of a container image, as far as it is taken."""

    config: Settings = Settings()
    architecture: str = "amd64"
    rootfs: RootFs = RootFs()


class Platform(msgspec.Struct, frozen=True):
    """The machine that a manifest is for."""

    architecture: str = "amd64"


class Descriptor(msgspec.Struct, frozen=True):
    """A part of an OCI layout (image-spec, descriptor.md)."""

    digest: str = ""
    platform: Platform | None = None


class Manifest(msgspec.Struct, frozen=True):
    """An index or a manifest of an OCI layout (image-spec, image-index.md, manifest.md)."""

    manifests: tuple[Descriptor, ...] | None = None
    layers: tuple[Descriptor, ...] | None = None
    config: Descriptor | None = None


class Saved(msgspec.Struct, frozen=True):
    """One image of what `docker save` writes."""

    config: str = msgspec.field(name="Config", default="")
    layers: tuple[str, ...] | None = msgspec.field(name="Layers", default=None)


def clean_path(name: str) -> str:
    """Return the path of a layer's member below the root.  Raises Problem where it leads out, or is none."""
    path = posixpath.normpath(f"/{name}").lstrip("/")
    if ".." in name.split("/") or "\0" in name or "\n" in name or len(name) > 4096:
        raise Problem(f"the container has a file {name[:60]!r}, which leads out of it or is no path")
    return path


def hidden_by(path: str) -> tuple[str, bool] | None:
    """Return what a whiteout hides: a path, and whether it is only what is in it; None for what is none."""
    above, name = posixpath.split(path)
    if name == _OPAQUE:
        return above, True
    return (posixpath.join(above, name[len(_WHITEOUT) :]), False) if name.startswith(_WHITEOUT) else None


def program_of(settings: Settings) -> Argv:
    """Return the command of a container.  Raises Problem where it has none, or one that is no words."""
    words = (*(settings.entrypoint or ()), *(settings.cmd or ()))
    every = (*words, *(settings.env or ()), settings.directory, settings.user)
    if not words or not words[0] or not all(_NAME.fullmatch(word) for word in every):
        raise Problem("the container does not say which program it runs, or not in words")
    return words


def user_of(user: str, passwd: str, group: str) -> tuple[int, int]:
    """Return the numbers of ``user``, "name", "number" or either with ":group", by the container's own files.

    Raises Problem where it is none of them.
    """
    name, _, group_name = user.partition(":")
    users = {row[0]: row[2:4] for row in _rows(passwd) if len(row) > 3}
    groups = {row[0]: row[2] for row in _rows(group) if len(row) > 2}
    uid, gid = users.get(name, (name or "0", "0"))
    if group_name:
        gid = groups.get(group_name, group_name)
    return _number(uid, user), _number(gid, user)


def _rows(text: str) -> list[list[str]]:
    return [line.split(":") for line in text.splitlines()]


def _number(text: str, user: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise Problem(f"the container's user {user[:60]!r} is not in it")
    return int(text)


def render_service(settings: Settings, ids: tuple[int, int]) -> str:
    """Return the script that runs the program of a container as the user ``ids``; it sees its own files only."""
    uid, gid = ids
    argv = [
        *("bwrap", "--bind", f"/{ROOT}", "/", "--dev", "/dev", "--proc", "/proc", "--ro-bind", "/sys", "/sys"),
        *("--ro-bind-try", "/etc/resolv.conf", "/etc/resolv.conf", "--ro-bind-try", "/etc/hosts", "/etc/hosts"),
        *("--unshare-pid", "--unshare-ipc", "--unshare-cgroup-try", "--die-with-parent", "--new-session"),
        *("--seccomp", "9", "--chdir", settings.directory or "/", "--clearenv"),
        *(word for name, value in environment(settings).items() for word in ("--setenv", name, value)),
    ]
    if uid == 0:
        argv += ["--cap-drop", "ALL", *(word for name in _KEPT for word in ("--cap-add", f"cap_{name}"))]
    else:
        argv = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--nnp", *argv]
    ports = "echo 0 >/proc/sys/net/ipv4/ip_unprivileged_port_start\n"
    return f"#!/bin/sh\n{ports}exec {shlex.join((*argv, '--', *program_of(settings)))} 9</usr/lib/okubsd/refused.bpf\n"


def environment(settings: Settings) -> Mapping[str, str]:
    """Return the environment that a container asks for, with the usual PATH."""
    path = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    pairs = (entry.partition("=") for entry in settings.env or ())
    return path | {
        name: value for name, equals, value in pairs if equals and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name)
    }
