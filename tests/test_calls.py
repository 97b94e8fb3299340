"""The login shell of guests, which the host's calls come to: what it takes for a program, and what that gets."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from okubsd.guest.ssh import call_command, remote_command
from okubsd.images.tree import LOGIN_SHELL, add_shell, add_user
from tests.conftest import CHECKOUT

SCRIPTS = CHECKOUT / "images/base/files/usr/lib/okubsd"


@pytest.fixture
def called(tmp_path: Path) -> Callable[[str], tuple[int, str]]:
    """Call the shell with a command, as ssh does; a program of the guest's is named as an applet of busybox."""
    for name in ("sh", "found"):
        text = (SCRIPTS / name).read_text()
        (tmp_path / name).write_text(text.replace("/usr/lib/okubsd", str(tmp_path)))
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("ls", "show"):
        (programs / name).write_text('#!/bin/sh\nprintf "%s|" "${0##*/}" "$@" "$OKUBSD_CALL" "$SHELL"\n')
        (programs / name).chmod(0o755)
    (programs / "plain").write_text("no program")
    (tmp_path / "other/ls").mkdir(parents=True)

    def call(command: str) -> tuple[int, str]:
        argv = (shutil.which("busybox") or "busybox", "sh", str(tmp_path / "sh"), "-c", command)
        env = {"PATH": f"{tmp_path}/other:{programs}:/usr/bin:/bin"}
        done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stdout

    return call


@pytest.mark.spawns
def test_what_a_call_names_is_the_guests_program(called: Callable[[str], tuple[int, str]]) -> None:
    assert called(remote_command(("ls", "a b", "$(reboot)", "'"))) == (0, "ls|a b|$(reboot)|'||/bin/bash|")
    assert called(remote_command(("sh", "-c", "exit 7")))[0] == 7
    assert called(remote_command(("/bin/echo", "-n", "x"))) == (0, "x")
    assert called(remote_command(("nosuch",)))[0] == 127
    assert called(remote_command(("plain",)))[0] == 127
    # What is no call of ours is a command for a shell, as people write it.
    assert called("show 'a b'; exit 4") == (4, "show|a b||/bin/bash|")


@pytest.mark.spawns
def test_a_call_with_a_mark_has_it_in_its_environment(called: Callable[[str], tuple[int, str]]) -> None:
    assert called(call_command(("show", "x"), "a1b2")) == (0, "show|x|a1b2|/bin/bash|")
    assert called(call_command(("sh", "-c", "exit 3"), "a1b2"))[0] == 3


def test_root_and_the_user_have_that_shell_and_a_server_lets_them_in() -> None:
    text = add_user("root:x:0:0:root:/root:/bin/bash\nwww:x:33:33::/:/usr/sbin/nologin\n")
    shells = {line.split(":")[0]: line.split(":")[6] for line in text.splitlines()}
    assert shells == {"root": LOGIN_SHELL, "www": "/usr/sbin/nologin", "user": LOGIN_SHELL}
    assert add_user(text) == text
    assert add_shell("/bin/sh\n") == f"/bin/sh\n{LOGIN_SHELL}\n" == add_shell(add_shell("/bin/sh\n"))
