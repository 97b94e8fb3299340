"""What a guest asks of its host: parsed to values, or nothing; and how often it may."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from okubsd.config.policy import PolicyLine
from okubsd.display.asks import NotifyAsked, OpenAsked, Paced, notify_argv, parse_ask
from okubsd.display.orders import Attending
from okubsd.errors import Problem
from okubsd.host import attending
from okubsd.host.waiting import wait_until
from okubsd.model import Vm
from tests.conftest import CHECKOUT


def test_an_address_is_written_anew() -> None:
    assert parse_ask(b"open\thttps://Example.org/a b\"'") == OpenAsked("https://example.org/a%20b%22'")


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"open",
        b"open\tfile:///etc/passwd",
        b"open\tjavascript:alert(1)",
        b"open\thttps://user:secret@example.org/",
        b"open\thttps://example.org/\t--in",
        b"open\t--from",
        b"exec\tid",
        b"notify\t\tnothing",
        b"notify",
        b"notify\ta\tb\tc",
    ],
)
def test_what_means_nothing_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"asks for|is no address|has a name"):
        parse_ask(line)


def test_a_notification_has_no_markup_and_says_whose_it_is() -> None:
    asked = parse_ask("notify\t<b>okubsd\u202e</b>\t-x <a href='x'>& more\x1b[31m".encode())
    assert isinstance(asked, NotifyAsked)
    *options, title, text = notify_argv("web", asked)
    assert options == ["notify-send", "--app-name=okubsd", "--"]
    assert title.startswith("[web] ") and "\u202e" not in title
    assert "<" not in text and "&amp; more" in text and "\x1b" not in text


def test_escapes_that_notify_send_would_undo_stay_what_they_are() -> None:
    asked = parse_ask(rb"notify	t	\074b\076 \n \x3c")
    assert isinstance(asked, NotifyAsked)
    assert notify_argv("web", asked)[-1] == asked.text.replace("\\", "\\\\")


@given(st.binary(max_size=5000))
def test_no_line_is_more_than_a_value_or_a_refusal(line: bytes) -> None:
    try:
        asked = parse_ask(line)
    except ValueError:
        return
    if isinstance(asked, OpenAsked):
        assert asked.address.startswith(("http://", "https://")) and asked.address.isprintable()
    else:
        assert len(asked.title) <= 80 and len(asked.text) <= 300 and asked.title.isprintable()


class _Guest:
    run = Path("/nonexistent")


def test_who_asks_for_what_nobody_wants_is_heard_less_and_less(monkeypatch: pytest.MonkeyPatch) -> None:
    made = attending.Attendant.__new__(attending.Attendant)
    made._guest, made._pending, made._opening = _Guest(), b"", None  # type: ignore[assignment]
    made._refused, made._open_from = 0, 0.0
    made._may_open, made._may_notify = Paced(2, 2.0), Paced(5, 3.0)
    opened: list[str] = []
    monkeypatch.setattr(made, "_open", lambda asked: opened.append(asked.address))
    now = [1000.0]
    monkeypatch.setattr(attending.time, "monotonic", lambda: now[0])

    def ends(code: int) -> None:
        read_end, write_end = os.pipe()
        os.close(write_end)
        made._opened(SimpleNamespace(stdout=os.fdopen(read_end, "rb"), wait=lambda: code))  # type: ignore[arg-type]

    def heard() -> int:
        before = len(opened)
        made._hear(b"open\thttp://a.invalid/\n" * 3, now[0])
        return len(opened) - before

    assert heard() == 2
    for quiet in (2.0, 10.0, 60.0, 300.0, 300.0):
        ends(1)
        now[0] += quiet - 0.5
        assert heard() == 0
        now[0] += 1.0
        assert heard() >= 1
    ends(0)
    now[0] += 3.0
    assert heard() >= 1


@pytest.mark.parametrize("copy_of", ["", "web"])
def test_what_a_policy_says_of_notifications_of_a_vm_holds_for_its_copies(
    copy_of: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "web-1" if copy_of else "web"
    made = attending.Attendant.__new__(attending.Attendant)
    made._guest = SimpleNamespace(run=Path("/nonexistent"), vm=Vm(name=name, image="x", copy_of=copy_of))  # type: ignore[assignment]
    made._orders, made._session = Attending(vm=name), SimpleNamespace(places=None)  # type: ignore[assignment]
    said: list[str] = []
    monkeypatch.setattr(attending, "write_down", lambda *words: said.append(words[-1]))
    shown: list[str] = []
    monkeypatch.setattr(attending.programs, "find_program", lambda name: None)
    monkeypatch.setattr(attending.windows, "whisper", lambda run, words: shown.append(words))
    for action in ("deny", "allow"):
        lines = (PolicyLine("notify", "web", "@host", action),)
        monkeypatch.setattr(attending.policy, "read_policy", lambda session, lines=lines: lines)
        made._notify(NotifyAsked("title", action))
    assert shown == ["title: allow"] and said == ["refused", "allowed"]

    def full(*_: object) -> None:
        raise Problem("there is no room for it")

    # What cannot be written down is not shown, and ends nobody.
    monkeypatch.setattr(attending, "write_down", full)
    made._notify(NotifyAsked("title", "lost"))
    assert shown == ["title: allow"]


def test_a_flood_is_let_through_a_little_at_a_time() -> None:
    paced = Paced(2, 5.0)
    assert [paced.may(now) for now in (100.0, 100.0, 100.0, 101.0)] == [True, True, False, False]
    assert [paced.may(now) for now in (105.0, 105.0, 200.0, 200.0, 200.0)] == [True, False, True, True, False]


@pytest.mark.spawns
def test_the_bus_of_a_guest_is_taken_by_its_daemon_and_lets_no_app_hear_the_others(tmp_path: Path) -> None:
    text, address = (CHECKOUT / "images/base/files/usr/lib/okubsd/bus.conf").read_text(), f"unix:path={tmp_path}/bus"
    assert "unix:path=/run/user/1000/bus" in text
    (tmp_path / "bus.conf").write_text(text.replace("unix:path=/run/user/1000/bus", address))
    env = {**os.environ, "DBUS_SESSION_BUS_ADDRESS": address}

    def call(member: str, *words: str) -> int:
        argv = ["dbus-send", "--session", "--print-reply", "--dest=org.freedesktop.DBus", "/org/freedesktop/DBus"]
        done = subprocess.run(
            [*argv, f"org.freedesktop.DBus.{member}", *words], env=env, capture_output=True, check=False
        )
        return done.returncode

    argv = ["dbus-daemon", f"--config-file={tmp_path}/bus.conf", "--nofork", "--nopidfile"]
    with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as daemon:
        try:
            assert wait_until(lambda: call("GetId") == 0 or daemon.poll() is not None, 20, pause=0.05)
            assert daemon.poll() is None
            assert call("RequestName", "string:org.mozilla.firefox", "uint32:0") == 0
            # Nobody hears what others say, or says what the service that takes notifications is started with.
            assert call("UpdateActivationEnvironment", "dict:string:string:LD_PRELOAD,/tmp/x.so") == 1
            assert call("Monitoring.BecomeMonitor", "array:string:", "uint32:0") == 1
        finally:
            daemon.kill()
