"""okubsd doctor: what this host lacks, and the command that installs it."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import click

from okubsd.cli.session import Session, as_json, pass_session, print_json
from okubsd.errors import HostLacks
from okubsd.host import facts, programs
from okubsd.host.trust import user_name
from okubsd.needs import NEEDS, Need, install_command

_GIB = 1 << 30


@click.command()
@as_json
@pass_session
def doctor(session: Session, json: bool) -> None:
    """Say what this host has and lacks, and the command that installs it."""
    lacking = [need for need in NEEDS if programs.find_program(need.program) is None]
    if not facts.is_root() and sys.platform == "linux" and programs.find_program("newuidmap") is None:
        lacking.append(Need("newuidmap", "builds images without root", "uidmap", ""))
    names = [need.openbsd if sys.platform.startswith("openbsd") else need.debian for need in lacking]
    command = install_command([name for name in names if name], sys.platform) if any(names) else ""
    accelerator = (
        facts.ask_accelerator(session.places, anew=True) if programs.find_program("qemu-system-x86_64") else None
    )
    wall = facts.ask_wall() or facts.ask_uplink()
    free = shutil.disk_usage(_existing(session)).free
    for_builds = build_obstacles()
    if json:
        print_json(
            lacking=[{"program": need.program, "purpose": need.purpose, "vital": need.vital} for need in lacking],
            install=command,
            accelerator=accelerator,
            namespaces=wall or "yes",
            building=for_builds,
            free_bytes=free,
        )
    else:
        for need in NEEDS:
            print(f"{'lacks' if need in lacking else 'ok':<6} {need.program}: {need.purpose}")
        if accelerator:
            print(f"{'ok' if accelerator.name != 'tcg' else 'slow':<6} {accelerator.why}")
        print(f"{'ok' if not wall else 'weak':<6} network namespaces{': ' + wall if wall else ''}")
        for obstacle in for_builds:
            print(f"weak   building images: {obstacle}")
        print(f"{'ok' if free > 4 * _GIB else 'low':<6} {free / _GIB:.1f} GiB free for images and homes")
    if any(need.vital for need in lacking):
        missing = ", ".join(need.program for need in lacking if need.vital)
        raise HostLacks(f"this host lacks {missing}", command)
    if command and not json:
        print(f"try: {command}")


def build_obstacles() -> list[str]:
    """Return what keeps this user from building images, a sentence each with the command that helps."""
    found = []
    scratch = tempfile.gettempdir()
    flags = os.statvfs(scratch).f_flag
    for flag, word in ((getattr(os, "ST_NOEXEC", 0), "noexec"), (getattr(os, "ST_NODEV", 0), "nodev")):
        # In a user's build the tree is made there, and its programs run.
        if flag and flags & flag and not facts.is_root():
            found.append(f"{scratch} is mounted {word}; TMPDIR=/var/tmp okubsd image build ...")
    user = user_name(os.geteuid())
    if sys.platform == "linux" and not facts.is_root() and not _has_subordinates(user):
        found.append(f"no subordinate ids: sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}")
    return found


def _has_subordinates(user: str) -> bool:
    """Return whether the user may have other ids in a user namespace (subuid(5), subgid(5))."""
    names = (f"{user}:", f"{os.geteuid()}:")
    try:
        texts = [Path(path).read_text() for path in ("/etc/subuid", "/etc/subgid")]
    except OSError:
        return False
    return all(any(line.startswith(names) for line in text.splitlines()) for text in texts)


def _existing(session: Session) -> str:
    path = session.places.state
    while not path.exists():
        path = path.parent
    return str(path)
