"""okubsd doctor: what this host lacks, and the command that installs it."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import click

from okubsd.cli.session import as_json, harmless, pass_session, print_json
from okubsd.errors import HostLacks, Problem
from okubsd.host import programs, walls
from okubsd.host.session import Session
from okubsd.host.system import HostRoot
from okubsd.host.trust import is_root, user_name
from okubsd.needs import Need, install_command, needs_of, package_of
from okubsd.plan.doctor import Finding

_GIB = 1 << 30


@click.command()
@as_json
@pass_session
def doctor(session: Session, json: bool) -> None:
    """Say what this host has and lacks, and the command that helps."""
    lacking = _lacking()
    # What a VM needs comes first; the rest is only named where nothing of that lacks.
    wanted = [need for need in lacking if need.vital] or lacking
    packages = [package for need in wanted if (package := package_of(need, sys.platform))]
    install = install_command(packages, sys.platform) if packages else ""
    found = findings(session)
    if json:
        missing = [{"program": need.program, "purpose": need.purpose, "vital": need.vital} for need in lacking]
        print_json(lacking=missing, install=install, findings=found)
    else:
        for finding in found:
            remedy = f"; try: {finding.command}" if finding.command and finding.command != install else ""
            print(f"{finding.state:<7} {harmless(finding.what)}{remedy}")
        if install:
            print(f"try: {install}")
    bad = [finding for finding in found if finding.vital and finding.state == "lacks"]
    if bad:
        said = "; ".join(finding.what for finding in bad)
        raise HostLacks(f"no VM starts here: {said}", bad[0].command or install)


def findings(session: Session) -> tuple[Finding, ...]:
    """Return all that there is to say of this host."""
    of_host = _of_openbsd(session) if programs.has_vmd() else _of_linux(session)
    return (*_programs(_lacking()), *of_host, _space(session))


def _lacking() -> list[Need]:
    """Return the programs that are not here."""
    lacking = [need for need in needs_of(sys.platform) if programs.find_program(need.program) is None]
    if not is_root() and sys.platform == "linux" and programs.find_program("newuidmap") is None:
        lacking.append(Need("newuidmap", "builds images without root", "uidmap", ""))
    return lacking


def _programs(lacking: list[Need]) -> Iterable[Finding]:
    """Yield a finding for every program; what installs all of them is one command, told at the end."""
    for need in dict.fromkeys((*needs_of(sys.platform), *lacking)):
        here = need not in lacking
        what = f"{need.program}: {need.purpose}"
        yield Finding(state="ok" if here else "lacks", what=what, vital=need.vital and not here)


def _of_linux(session: Session) -> Iterable[Finding]:
    """Yield what there is to say of a host where QEMU runs the VMs."""
    if programs.find_program("qemu-system-x86_64"):
        accelerator = walls.ask_accelerator(session.places, anew=True)
        yield Finding(state="slow" if accelerator.name == "tcg" else "ok", what=accelerator.why)
    wall = walls.ask_wall() or walls.ask_uplink()
    yield Finding(state="weak" if wall else "ok", what=f"network namespaces{': ' + wall if wall else ''}")
    for obstacle in build_obstacles():
        sentence, _, command = obstacle.partition("; ")
        yield Finding(state="weak", what=f"building images: {sentence}", command=command)


def _of_openbsd(session: Session) -> Iterable[Finding]:
    """Yield what there is to say of a host where vmd(8) runs the VMs."""
    from okubsd.host.doctor import ask_openbsd
    from okubsd.plan.doctor import judge_openbsd

    try:
        description = session.known_description
    except Problem:
        # Without a description there is still a host.
        description = None
    return judge_openbsd(ask_openbsd(HostRoot(session.places.system), description))


def _space(session: Session) -> Finding:
    free = shutil.disk_usage(_existing(session)).free
    return Finding(state="ok" if free > 4 * _GIB else "low", what=f"{free / _GIB:.1f} GiB free for images and homes")


def build_obstacles() -> list[str]:
    """Return what keeps this user from building images, a sentence each with the command that helps."""
    found = []
    scratch = tempfile.gettempdir()
    flags = os.statvfs(scratch).f_flag
    for flag, word in ((getattr(os, "ST_NOEXEC", 0), "noexec"), (getattr(os, "ST_NODEV", 0), "nodev")):
        # In a user's build the tree is made there, and its programs run.
        if flag and flags & flag and not is_root():
            found.append(f"{scratch} is mounted {word}; TMPDIR=/var/tmp okubsd image build ...")
    user = user_name(os.geteuid())
    if sys.platform == "linux" and not is_root() and not _has_subordinates(user):
        found.append(f"no subordinate ids; sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}")
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
