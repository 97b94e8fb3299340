"""What may cross from one VM to another: the words of a policy, and that it is asked."""

from __future__ import annotations

import os
import pty
import termios
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from okubsd.cli.main import call
from okubsd.config.policy import SERVICES, PolicyLine, decide_crossing, parse_policy
from okubsd.display.clip import Clip, render_clip
from okubsd.errors import BadDescription, Problem
from okubsd.host import clip as clips
from okubsd.host import policy as policies
from okubsd.host.crossings import crossings
from okubsd.host.running import write_started
from okubsd.host.session import Session
from okubsd.model import Vm

VMS = {"vault": ("secret",), "bank": ("secret", "money"), "web": ()}
TEXT = """
# What is in the vault stays there.
clip vault * deny
clip @host bank allow   # passwords
clip @anyvm bank ask
"""


def parse(text: str) -> tuple[PolicyLine, ...]:
    return parse_policy([(Path("/p/a.policy"), text)], VMS)


@pytest.mark.parametrize(
    ("source", "target", "action", "line"),
    [
        ("vault", "bank", "deny", 3),
        ("vault", "@host", "deny", 3),
        ("@host", "bank", "allow", 4),
        ("web", "bank", "ask", 5),
        ("web", "vault", "allow", 0),
    ],
)
def test_the_first_line_that_matches_decides(source: str, target: str, action: str, line: int) -> None:
    found = decide_crossing(parse(TEXT), "clip", source, target)
    assert (found.action, found.line) == (action, line)
    assert found.place == (f"/p/a.policy:{line}" if line else "okubsd's own last line")


def test_what_holds_without_a_line_is_what_a_desktop_does_by_itself() -> None:
    def action(service: str, source: str, target: str) -> str:
        return decide_crossing((), service, source, target).action

    assert (
        action("sound", "web", "@host") == action("notify", "web", "@host") == action("mic", "@host", "web") == "allow"
    )
    assert action("open", "mail", "web") == "ask" and action("open", "@host", "web") == "allow"
    # A VM is no microphone, and hears no other.
    assert action("mic", "web", "@host") == action("sound", "web", "mail") == action("notify", "web", "mail") == "deny"
    assert action("open", "web", "@host") == "deny"


def test_a_tag_stands_for_the_vms_that_have_it() -> None:
    lines = parse("clip @tag:secret @tag:money allow\nclip @tag:secret * deny\n")
    assert decide_crossing(lines, "clip", "vault", "bank").line == 1
    assert decide_crossing(lines, "clip", "vault", "web").action == "deny"
    assert decide_crossing(lines, "clip", "web", "vault").place == "okubsd's own last line"
    assert decide_crossing(lines, "clip", "@host", "bank").action == "allow"
    with pytest.raises(BadDescription, match="no VM has the tag 'sceret'; did you mean '@tag:secret'"):
        parse("clip @tag:sceret * deny\n")


def test_the_desktop_is_no_vm() -> None:
    lines = parse("clip @anyvm @anyvm deny\n")
    assert decide_crossing(lines, "clip", "@host", "web").action == "allow"
    assert decide_crossing(lines, "clip", "web", "vault").action == "deny"


def test_all_mistakes_are_told_at_once() -> None:
    text = "clip vualt web deny\nclp web bank deny\nclip web bank dney\nclip web deny\nclip @hots web ask\n"
    with pytest.raises(BadDescription) as caught:
        parse(text)
    said = caught.value.mistakes
    assert [mistake.split(": ")[0] for mistake in said] == [f"/p/a.policy:{number}" for number in range(1, 6)]
    assert "did you mean 'vault'" in said[0] and "did you mean 'clip'" in said[1] and "'deny'" in said[2]
    assert "such as: clip vault @anyvm deny" in said[3] and "did you mean '@host'" in said[4]


@given(st.text(alphabet="clip vault*@anyvm#\n denyask\x1b\u202e", max_size=80))
def test_any_text_is_a_policy_or_refused(text: str) -> None:
    try:
        lines = parse(text)
    except BadDescription as error:
        assert all("\x1b" not in mistake and "\u202e" not in mistake for mistake in error.mistakes)
        return
    assert all(line.service in (*SERVICES, "*") and line.action in ("allow", "ask", "deny") for line in lines)


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    (tmp_path / "okubsd/policy.d").mkdir(parents=True)
    (tmp_path / "okubsd/policy.d/10-own.policy").write_text("clip vault * deny\nclip * bank ask\n")
    (tmp_path / "okubsd/okubsd.yaml").write_text("vms: {vault: {image: term}, bank: {image: term}, web: {image: term}}")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("OKUBSD_STATE", str(tmp_path / "state"))
    return Session()


def test_it_is_asked_before_anything_crosses(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    (session.places.state).mkdir(mode=0o700)
    kept = session.places.state / "clip"
    kept.write_bytes(render_clip(Clip(source="vault", kind="text", data=b"x")))
    with pytest.raises(Problem, match=r"clip from vault to web is denied: .*10-own.policy:1"):
        clips.paste(session, "web", lambda _: None)
    # What was refused is not lost, and it is written down.
    assert kept.exists() and not list(session.places.state.glob(".clip*"))
    assert crossings(session.places)[-1]["outcome"] == "refused"
    with pytest.raises(Problem, match="no display or terminal to ask on"):
        policies.need_leave(session, "clip", "web", "bank", "5 letters")
    policies.need_leave(session, "clip", "bank", "web", "5 letters")
    with pytest.raises(Problem, match="'old' is not in the description"):
        policies.need_leave(session, "clip", "old", "web", "5 letters")
    with pytest.raises(Problem, match="clip from vault is denied to everybody"):
        clips.copy(session, "vault")
    # Each of them is written down, whoever was asked.
    said = [
        (entry["service"], entry["source"], entry["target"], entry["outcome"]) for entry in crossings(session.places)
    ]
    assert said == [
        ("clip", "vault", "web", "refused"),
        ("clip", "web", "bank", "refused"),
        ("clip", "bank", "web", "allowed"),
        ("clip", "old", "web", "refused"),
        ("clip", "vault", "*", "refused"),
    ]
    assert call(["policy", "test", "clip", "vault", "host"]) == 1
    assert call(["policy", "test", "clip", "web", "bank"]) == 0
    assert "ask, by " in capsys.readouterr().out


def test_what_is_said_of_a_vm_holds_for_the_clipboard_of_its_copies(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, origin in (("vault-1", "vault"), ("web-1", "web"), ("lost-1", "lost")):
        run = session.places.vm_run(name)
        run.mkdir(parents=True)
        write_started(run, Vm(name=name, image="term", copy_of=origin))
    with pytest.raises(Problem, match="clip from vault is denied to everybody"):
        clips.copy(session, "vault-1")
    monkeypatch.setattr(clips, "display_of", lambda *_: None)
    monkeypatch.setattr(clips, "take", lambda *_: ("text", b"words"))
    clip = clips.copy(session, "web-1")
    assert clip.source == "web-1" and clips.kept(session.places) == clip
    # Its copy may be gone when it is pasted.
    (session.places.vm_run("web-1") / "started.json").unlink(missing_ok=True)
    with pytest.raises(Problem, match="clip from web to bank has to be asked"):
        clips.paste(session, "bank", lambda _: None)
    with pytest.raises(Problem, match="'lost' is not in the description"):
        clips.paste(session, "lost-1", lambda _: None)


def test_a_clip_that_nobody_pastes_is_forgotten(session: Session) -> None:
    session.places.state.mkdir(mode=0o700)
    kept = session.places.state / "clip"
    kept.write_bytes(render_clip(Clip(source="web", kind="text", data=b"x")))
    assert clips.kept(session.places) is not None
    os.utime(kept, (0, time.time() - clips.KEPT - 1))
    with pytest.raises(Problem, match="nothing was copied"):
        clips.paste(session, "web", lambda _: None)
    assert not kept.exists() and not list(session.places.state.glob(".clip*"))


def test_a_policy_with_a_mistake_lets_nothing_cross(session: Session, tmp_path: Path) -> None:
    (tmp_path / "okubsd/policy.d/20.policy").write_text("clip vualt * deny\n")
    with pytest.raises(BadDescription, match="there is no VM 'vualt'"):
        policies.need_leave(session, "clip", "bank", "web", "5 letters")
    assert call(["policy", "check"]) == 8


def test_a_policy_that_others_can_write_is_not_read(session: Session, tmp_path: Path) -> None:
    (tmp_path / "okubsd/policy.d/10-own.policy").chmod(0o666)
    assert call(["policy", "show"]) == 8


@pytest.mark.parametrize("how", ["another name", "a link to nothing", "a file", "closed"])
def test_a_policy_that_is_not_seen_lets_nothing_cross(how: str, session: Session, tmp_path: Path) -> None:
    directory = tmp_path / "okubsd/policy.d"
    if how == "another name":
        (directory / "30.Policy").write_text("clip bank * deny\n")
    else:
        directory.rename(tmp_path / "kept")
    if how == "a link to nothing":
        directory.symlink_to(tmp_path / "nowhere")
    if how == "a file":
        directory.write_text("")
    if how == "closed":
        directory.symlink_to(directory)
    with pytest.raises(BadDescription):
        policies.need_leave(session, "clip", "bank", "web", "5 letters")


def test_a_comment_ends_with_its_line_and_at_nothing_else() -> None:
    assert parse("# a\u2028clip * * allow\nclip * * deny\n")[0].action == "deny"
    assert parse("clip * * deny\r\n")[0].line == 1


@pytest.mark.parametrize(
    ("before", "typed", "crosses"),
    [("", "yes\n", True), ("y\n", "yes\n", True), ("", "y\n", False), ("", "", False), ("yes\n", "", False)],
)
def test_a_question_is_answered_by_yes_and_by_nothing_else(
    before: str, typed: str, crosses: bool, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = pty.openpty()
    monkeypatch.setattr(policies, "_ANSWER_SECONDS", 0.5 if not crosses else 30.0)
    flush = termios.tcflush

    def asked(*words: Any) -> None:
        flush(*words)
        # What is typed once the question is there.
        os.write(ours, typed.encode())

    monkeypatch.setattr(policies.termios, "tcflush", asked)
    with os.fdopen(theirs) as terminal:
        monkeypatch.setattr("sys.stdin", terminal)
        os.write(ours, before.encode())
        if crosses:
            policies.need_leave(session, "clip", "web", "bank", "5 letters")
        else:
            with pytest.raises(Problem, match="it did not cross"):
                policies.need_leave(session, "clip", "web", "bank", "5 letters")
    os.close(ours)
