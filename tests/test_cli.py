"""The command line: every wrong call is one sentence and its exit code, and changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from okubsd.cli import completion
from okubsd.cli.copy import parse_side
from okubsd.cli.main import call
from okubsd.cli.session import harmless, harmless_bytes
from okubsd.cli.table import ROWS
from tests.conftest import CHECKOUT

WRONG = {
    "no command": ([], 2, "Usage"),
    "unknown command": (["strat"], 2, "did you mean 'start'"),
    "command with escapes": (["\x1b[31mx"], 2, "no command"),
    "unknown option": (["--frobnicate"], 2, "No such option"),
    "unknown option of start": (["start", "--frob", "term"], 2, "No such option"),
    "start nothing": (["start"], 2, "--autostart"),
    "start all and one": (["start", "--autostart", "term"], 2, "--autostart"),
    "start unknown": (["start", "brwser"], 4, "did you mean 'browser'"),
    "start empty": (["start", ""], 2, "name the VM"),
    "start with slash": (["start", "../x"], 4, "there is no VM"),
    "start unknown app": (["start", "-n", "--headless", "term", "xtrm"], 4, "has no app"),
    "publish of no VM": (["publish"], 2, "say which VM"),
    "publish of a VM and names": (["publish", "--hosts", "term"], 2, "say which VM"),
    "publish to no port": (["publish", "term", "8000:"], 2, "HOSTPORT:PORT"),
    "rm unknown": (["rm", "nosuch"], 4, "there is no VM"),
    "rm without asking": (["rm", "term"], 2, "there is no terminal to ask on"),
    "rename unknown": (["rename", "nosuch", "new"], 4, "there is no VM"),
    "rename to a hostile name": (["rename", "term", "a/b"], 2, "is no name for a VM"),
    "rename to one that is there": (["rename", "term", "browser"], 2, "there is a VM 'browser' already"),
    "log of what is over and goes on": (["log", "-f", "-p", "term"], 2, "there is nothing to follow"),
    "a rule that is over": (["net", "allow", "--until", "2020-01-01", "term", "any:25"], 2, "is over already"),
    "a rule where nothing leaves": (["net", "allow", "vault", "any:25"], 2, "which nothing leaves"),
    "start windowless app": (["start", "--no-app", "term", "term"], 2, "--no-app"),
    "start windowless new": (["start", "--no-app", "--new", "term"], 2, "--no-app"),
    "clip of nothing": (["clip", "copy"], 2, "name a VM, or say --host"),
    "clip of two": (["clip", "copy", "--host", "term"], 2, "name a VM, or say --host"),
    "clip from one to no VM": (["clip", "-t", "5", "term", "nosuch"], 4, "there is no VM 'nosuch'"),
    "clip to nobody": (["clip", "paste", "term"], 1, "nothing was copied"),
    "clip of what does not run": (["clip", "copy", "term"], 1, "it has no clipboard"),
    "a log of nothing": (["log"], 2, "name a VM"),
    "why nothing": (["why", "term"], 2, "Missing argument"),
    "why unknown": (["why", "brwser", "192.0.2.1"], 4, "did you mean 'browser'"),
    "why no address": (["why", "term", "1.2.3"], 2, "is no ADDRESS"),
    "why half a name": (["why", "term", "example"], 2, "is no ADDRESS"),
    "why a bad port": (["why", "term", "192.0.2.1:99999"], 2, "is no ADDRESS"),
    "why with escapes": (["why", "term", "\x1b[31m"], 2, "is no ADDRESS"),
    "why a bad protocol": (["why", "-p", "sctp", "term", "192.0.2.1"], 2, "is not one of"),
    "render nowhere": (["render"], 2, "Missing argument"),
    "render onto something": (["render", str(CHECKOUT)], 2, "is not empty"),
    "apply without openbsd": (["apply", "-y"], 7, "this host has no vmd"),
    "unapply without openbsd": (["unapply"], 7, "this host has no vmd"),
    "clock nothing": (["clock"], 2, "--all"),
    "clock of what does not run": (["clock", "term"], 1, "is not running"),
    "export nothing": (["image", "export", "/tmp/x.tar"], 1, "no image is built"),
    "export nowhere": (["image", "export", "/nonexistent/x.tar"], 2, "there is no directory"),
    "export unknown": (["image", "export", "/tmp/x.tar", "nosuch"], 4, "is not built"),
    "import nothing": (["image", "import", "/nonexistent"], 2, "does not exist"),
    "bench of no VMs": (["bench", "compile", "--vms", "0"], 2, "at least 1"),
    "run with an option too late": (["run", "term", "--root", "--", "id"], 2, "stands before the VM"),
    "stop nothing": (["stop"], 2, "--all"),
    "stop all and one": (["stop", "--all", "term"], 2, "--all"),
    "stop unknown": (["stop", "nosuch"], 4, "there is no VM"),
    "stop timeout word": (["stop", "-t", "soon", "term"], 2, "not a valid integer"),
    "stop timeout zero": (["stop", "-t", "0", "term"], 2, "at least 1"),
    "restart unknown": (["restart", "nosuch"], 4, "there is no VM"),
    "status unknown": (["status", "nosuch"], 4, "there is no VM"),
    "list too much": (["list", "x"], 2, "unexpected extra argument"),
    "run nothing": (["run", "term"], 2, "say what to run"),
    "run nothing after dashes": (["run", "term", "--"], 2, "say what to run"),
    "run unknown": (["run", "nosuch", "--", "ls"], 4, "there is no VM"),
    "shell unknown": (["shell", "nosuch"], 4, "there is no VM"),
    "console stopped": (["console", "term"], 1, "not running"),
    "log of no boot": (["log", "term"], 1, "no log of a boot"),
    "log of no earlier boot": (["log", "-p", "term"], 1, "no log of an earlier boot"),
    "screenshot of nothing": (["screenshot", "term", "x.png"], 1, "shows nothing"),
    "cp two host files": (["cp", "a", "b"], 2, "VM:PATH"),
    "cp one file": (["cp", "a"], 2, "where to"),
    "cp several to a file": (["cp", "a", "b", "term:c"], 2, "its name ends in '/'"),
    "cp several to a host file": (["cp", "term:a", "term:b", "c"], 2, "is none"),
    "cp unknown vm": (["cp", "a", "nosuch:b"], 4, "there is no VM"),
    "image nothing": (["image"], 2, "Usage"),
    "image unknown verb": (["image", "bild"], 2, "No such command"),
    "image build nothing": (["image", "build"], 2, "--all"),
    "image build unknown": (["image", "build", "frefox"], 4, "did you mean 'firefox'"),
    "image rm unbuilt": (["image", "rm", "term"], 4, "not built"),
    "image path unbuilt": (["image", "path", "term"], 4, "not built"),
    "completion nothing": (["completion"], 2, "Missing argument"),
    "completion unknown": (["completion", "tcsh"], 2, "'tcsh'"),
    "description missing": (["-f", "/nonexistent/x.yaml", "list"], 8, "no such file"),
    "bench rounds zero": (["bench", "--rounds", "0"], 2, "--rounds"),
    "bench against whom": (["bench", "--against", "windows"], 2, "'windows'"),
}


def files_below(top: Path) -> list[str]:
    return sorted(str(path) for path in top.rglob("*")) if top.exists() else []


@pytest.mark.parametrize(("args", "code", "said"), WRONG.values(), ids=WRONG.keys())
@pytest.mark.spawns
def test_a_wrong_call_is_one_sentence_and_changes_nothing(
    args: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert call(args) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err, captured.err
    assert "Traceback" not in captured.err and "\x1b" not in captured.err
    left = [path for path in files_below(tmp_path) if not path.endswith(("/state", "/host.json"))]
    assert left == []


def test_a_broken_description_exits_with_8_and_all_its_mistakes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "okubsd.yaml"
    path.write_text("vms:\n  a: {image: nosuch}\n  b: {imag: term}\n")
    assert call(["-f", str(path), "check"]) == 8
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all(line.startswith(f"okubsd: {path}:") for line in lines)


def test_checking_the_sample_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["check"]) == 0
    assert "8 VMs" in capsys.readouterr().err
    assert call(["-q", "check"]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.spawns
@pytest.mark.parametrize(
    "args",
    [["list"], ["ls"], ["status"], ["status", "term"], ["image", "ls"], ["check"], ["version"]],
    ids=" ".join,
)
def test_reading_commands_speak_json(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert call([*args, "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["schema"] == 1


def test_list_has_one_header_line_and_a_line_a_vm(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["NAME", "STATE", "IMAGE", "MEMORY", "NETWORK", "APPS"] and len(lines) == 9
    assert call(["list", "--names"]) == 0
    assert capsys.readouterr().out.split() == [line.split()[0] for line in lines[1:]]


@pytest.mark.spawns
def test_a_dry_start_prints_a_plan_and_does_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert call(["start", "-n", "--headless", "term"]) == 0
    assert "qemu-system-x86_64" in capsys.readouterr().out
    assert not (tmp_path / "state/vms").exists() and not (tmp_path / "run").exists()


def test_stopping_a_stopped_vm_is_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["stop", "term"]) == 0
    assert "term is not running" in capsys.readouterr().err
    assert call(["stop", "--all"]) == 0


@pytest.mark.parametrize("verb", [row.name for row in ROWS])
def test_every_command_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call([verb, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"Usage: okubsd {verb}")


@pytest.mark.parametrize(
    ("text", "vm", "path"),
    [
        ("term:x", "term", "x"),
        ("term:", "term", ""),
        ("term:/etc/x:y", "term", "/etc/x:y"),
        ("./a:b", "", "./a:b"),
        ("/a:b", "", "/a:b"),
        ("1:x", "", "1:x"),
    ],
)
def test_a_side_of_a_copy_is_a_vm_or_the_host(text: str, vm: str, path: str) -> None:
    assert parse_side(text) == (vm, path)


@given(st.binary(max_size=200))
def test_a_guests_output_cannot_move_the_cursor(output: bytes) -> None:
    text = harmless_bytes(output).decode()
    assert all(letter in "\t\n" or ord(letter) >= 32 for letter in text)
    assert not any(0x7F <= ord(letter) <= 0x9F for letter in text)


def test_an_escape_code_loses_its_teeth() -> None:
    assert harmless("\x1b]0;owned\x07\x9b31m") == "]0;owned31m"


SYNTAX = {"bash": ["bash", "-n"], "zsh": ["zsh", "-n"], "fish": ["fish", "-n"], "ksh": ["mksh", "-n"]}


@pytest.mark.spawns
@pytest.mark.parametrize("shell", SYNTAX)
def test_completions_are_read_by_their_shells(shell: str, tmp_path: Path) -> None:
    script = tmp_path / "completion"
    script.write_text(completion.RENDERERS[shell]())
    assert shutil.which(SYNTAX[shell][0]), f"{SYNTAX[shell][0]} is missing; 'make test' installs it"
    done = subprocess.run([*SYNTAX[shell], str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.spawns
def test_bash_completes_verbs_and_vms(tmp_path: Path) -> None:
    fake = tmp_path / "okubsd"
    fake.write_text(f'#!/bin/sh\nPYTHONPATH={CHECKOUT} exec {sys.executable} -m okubsd "$@"\n')
    fake.chmod(0o755)
    script = completion.render_bash() + (
        "COMP_WORDS=(okubsd sta); COMP_CWORD=1; _okubsd; echo ${COMPREPLY[@]}\n"
        "COMP_WORDS=(okubsd start b); COMP_CWORD=2; _okubsd; echo ${COMPREPLY[@]}\n"
        "COMP_WORDS=(okubsd start term ''); COMP_CWORD=3; _okubsd; echo ${COMPREPLY[@]}\n"
        "COMP_WORDS=(okubsd start --he); COMP_CWORD=2; _okubsd; echo ${COMPREPLY[@]}\n"
        "COMP_WORDS=(okubsd cp va); COMP_CWORD=2; _okubsd; echo ${COMPREPLY[@]}\n"
        "COMP_WORDS=(okubsd image build fire); COMP_CWORD=3; _okubsd; echo ${COMPREPLY[@]}\n"
        "COMP_WORDS=(okubsd net sh); COMP_CWORD=2; _okubsd; echo ${COMPREPLY[@]}\n"
    )
    done = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PATH": f"{tmp_path}:/usr/bin:/bin"},
    )
    assert done.stdout == "start status\nbrowser\nterm\n--headless\nvault:\nfirefox\nshow\n"


@pytest.mark.spawns
def test_ksh_gets_its_arrays(tmp_path: Path) -> None:
    script = completion.render_ksh() + 'echo "${complete_okubsd_1[0]} ${complete_okubsd_1[1]}"\n'
    for shell in ("mksh", "ksh93"):
        done = subprocess.run([shell, "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.stdout == "start stop\n", (shell, done)


@pytest.mark.spawns
def test_the_command_of_an_installed_package_starts() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "okubsd", "--version"], capture_output=True, text=True, cwd=CHECKOUT, check=False
    )
    assert done.stdout.startswith("okubsd 0."), done.stderr


@pytest.mark.spawns
def test_help_imports_nothing_heavy() -> None:
    code = "import sys; from okubsd.cli.main import call; call(['--help']); print(sorted(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=CHECKOUT, check=True)
    for heavy in ("paramiko", "cryptography", "rich", "Xlib", "pexpect", "yaml"):
        assert f"'{heavy}'" not in done.stderr, heavy


@pytest.mark.spawns
def test_a_reader_that_goes_away_is_no_traceback() -> None:
    # More than a pipe holds, so that somebody writes after the reader went.
    line = f"{sys.executable} -m okubsd completion bash; {sys.executable} -m okubsd --help"
    script = f"({line}; {line}) | head -c 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=CHECKOUT, check=False)
    assert done.stderr == "" and done.stdout[1:] in ("0\n", "1\n", "141\n"), done


@pytest.mark.spawns
def test_a_letter_that_a_terminal_has_none_for_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "okubsd.yaml").write_text("vms: {a: {image: term, color: 'блюe'}}")
    env = {**os.environ, "OKUBSD_STATE": str(tmp_path), "PYTHONIOENCODING": "latin-1", "PYTHONPATH": str(CHECKOUT)}
    argv = [sys.executable, "-m", "okubsd", "-f", str(tmp_path / "okubsd.yaml"), "check"]
    done = subprocess.run(argv, env=env, capture_output=True, check=False)
    assert done.returncode == 8 and b"color" in done.stderr and b"Traceback" not in done.stderr


def test_what_is_protected_is_not_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "okubsd.yaml"
    path.write_text("vms: {a: {image: term, protect: yes}}")
    monkeypatch.setenv("OKUBSD_STATE", str(tmp_path / "state"))
    before = path.read_bytes()
    for verb in ("rm", "uninstall"):
        assert call(["-f", str(path), verb, "-y", "a"]) == 1
        assert "'a' is protected" in capsys.readouterr().err
    assert path.read_bytes() == before


def test_what_is_sent_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["send", "browser"]) == 2
    assert call(["send", "/nosuch/file", "browser"]) == 2
    assert "there is no such file" in capsys.readouterr().err
