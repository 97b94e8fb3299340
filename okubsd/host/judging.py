"""Let the parsers of this OpenBSD host judge files that are not installed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from okubsd import layout
from okubsd.host import door, programs
from okubsd.host.system import HostRoot
from okubsd.host.trust import is_root
from okubsd.hostfile import FileState
from okubsd.model import Argv
from okubsd.plan.judge import VMD_JUDGE, judge_argv


def usable_memory() -> int:
    """Return the bytes of memory that this host has for programs, 0 where it is no OpenBSD or does not say."""
    if not programs.has_vmd():
        return 0
    from okubsd.host.records import usable_memory as ask

    return ask()


def ask_parsers(system: HostRoot, wanted: Mapping[str, FileState | None], mistakes: list[str]) -> list[str]:
    """Let OpenBSD's own parsers judge the ``wanted`` files, as an apply would; return who was asked.

    What they say is added to ``mistakes``.  Only root may ask all of them.
    """
    scratch = system.path("tmp")
    scratch.mkdir(exist_ok=True)
    top = Path(tempfile.mkdtemp(prefix="okubsd-check-", dir=scratch))
    try:
        for name, stat in wanted.items():
            if stat is not None:
                path = top / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(stat.text.replace(f'"/{layout.ETC}/', f'"{top}/{layout.ETC}/'))
        calls: list[Argv] = [(*VMD_JUDGE, str(top / layout.SITE_VM_CONF))]
        if is_root():
            paths = sorted(path for path, stat in wanted.items() if stat is not None)
            calls += [argv for path in paths if (argv := judge_argv(path, str(top / path)))]
        for argv in calls:
            done = door.run(system.argv(argv), timeout=60)
            # A drive that is not there yet is made by apply.
            if done.code != 0 and b"failed to parse disks" not in done.err:
                mistakes.append(f"{PurePosixPath(argv[0]).name} -n: {door.reason(done).replace(str(top), '')}")
        return list(dict.fromkeys(PurePosixPath(argv[0]).name for argv in calls))
    finally:
        shutil.rmtree(top)
