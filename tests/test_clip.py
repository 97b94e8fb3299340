"""What crosses from one clipboard to another, between real X servers, and with owners that answer as badly as they can."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from okubsd.config.description import parse_description
from okubsd.config.names import CONTROL
from okubsd.display.clip import LARGEST, PNG, TEXT, Clip, clip_of, describe, parse_clip, render_clip
from okubsd.display.png import redraw_png, render_png
from okubsd.errors import Problem, TimedOut
from okubsd.host import clip as clips
from okubsd.host.crossings import crossings
from okubsd.host.selection import Display, Offer, take
from okubsd.host.session import Session
from tests.conftest import CHECKOUT

DOT = render_png(2, 1, b"\x01\x02\x03\x00\x04\x05\x06\x00")


# --- what may cross, by value -------------------------------------------------------------------


def test_what_is_not_seen_is_taken_out_and_counted() -> None:
    clip = clip_of("web", TEXT, "rm \u202eexe\x1b[2J\r\nok\ttab\u200b".encode())
    assert clip.data.decode() == "rm exe[2J\nok\ttab" and clip.removed == 3
    assert describe(clip) == "16 letters from web, 3 unseen taken out (U+202E U+001B U+200B): rm exe[2J ok tab"
    assert clip_of("web", TEXT, b"a\x1bb", raw=True).data == b"a\x1bb"


@given(st.text(min_size=1))
def test_no_text_moves_a_cursor(text: str) -> None:
    try:
        clip = clip_of("a", TEXT, text.encode(errors="surrogatepass"))
    except ValueError:
        return
    assert not CONTROL.search(clip.data.decode())
    assert "\n" not in describe(clip) and parse_clip(render_clip(clip)) == clip


@pytest.mark.parametrize(
    ("kind", "data", "reason"),
    [
        (TEXT, b"\xff\xfe", "not UTF-8"),
        (TEXT, b"\x1b", "no text"),
        (TEXT, b"x" * (LARGEST + 1), "more than 4M"),
        (PNG, b"GIF89a", "no PNG"),
        (PNG, DOT[:-5], "damaged"),
        (PNG, DOT[:20] + b"\xff" + DOT[21:], "damaged"),
        (PNG, b"\x89PNG\r\n\x1a\n", "damaged"),
    ],
)
def test_what_may_not_cross_is_told(kind: str, data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        clip_of("a", kind, data)


def chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)


def test_a_picture_loses_what_is_no_picture() -> None:
    hidden = chunk(b"tEXt", b"Comment\0a secret")
    assert redraw_png(DOT[:33] + hidden + DOT[33:] + b"behind the end") == redraw_png(DOT)
    assert b"secret" not in redraw_png(DOT[:33] + hidden + DOT[33:])


def test_a_picture_that_unpacks_to_more_than_its_size_is_refused() -> None:
    bomb = DOT[:33] + chunk(b"IDAT", zlib.compress(bytes(50_000_000))) + chunk(b"IEND", b"")
    with pytest.raises(ValueError, match="damaged"):
        redraw_png(bomb)
    wide = chunk(b"IHDR", (1 << 20).to_bytes(4) + (1 << 20).to_bytes(4) + bytes([8, 2, 0, 0, 0]))
    with pytest.raises(ValueError, match="64 MB"):
        redraw_png(DOT[:8] + wide + DOT[33:])


def png(
    width: int, height: int, depth: int, colour: int, pixels: bytes, *more: tuple[bytes, bytes], lace: int = 0
) -> bytes:
    header = width.to_bytes(4) + height.to_bytes(4) + bytes([depth, colour, 0, 0, lace])
    chunks = ((b"IHDR", header), *more, (b"IDAT", zlib.compress(pixels)), (b"IEND", b""))
    return DOT[:8] + b"".join(chunk(kind, data) for kind, data in chunks)


GOOD_PICTURES = {
    "grey": png(3, 2, 1, 0, b"\0\xe0" * 2),
    "clear grey": png(1, 1, 8, 0, b"\0\x80", (b"tRNS", b"\0\x80")),
    "palette": png(2, 1, 1, 3, b"\0\x40", (b"PLTE", bytes(6)), (b"tRNS", b"\0")),
    "interlaced": png(3, 3, 8, 0, b"\0a\0a" + b"\0ab" + b"\0a\0a" + b"\0abc", lace=1),
    "16 bits": png(1, 2, 16, 6, b"\4" + bytes(8) + b"\0" + bytes(8)),
}
BAD_PICTURES = {
    "too few pixels": png(3, 2, 8, 0, b"\0ab" * 2),
    "too many": png(1, 1, 8, 0, b"\0a" + b"hidden"),
    "no such filter": png(1, 1, 8, 0, b"\5a"),
    "no palette": png(2, 1, 1, 3, b"\0\x40"),
    "a palette of too many": png(2, 1, 1, 3, b"\0\x40", (b"PLTE", bytes(9))),
    "two palettes": png(2, 1, 1, 3, b"\0\x40", (b"PLTE", bytes(6)), (b"PLTE", bytes(6))),
    "transparency twice": png(1, 1, 8, 6, b"\0abcd", (b"tRNS", b"\0\x80")),
    "hidden in an interlaced one": png(3, 3, 8, 0, b"\0a\0a" + b"\0ab" + b"\0a\0a" + b"\0abc" + b"more", lace=1),
}


@pytest.mark.parametrize("name", GOOD_PICTURES)
def test_a_picture_stays_what_it_is(name: str) -> None:
    drawn = redraw_png(GOOD_PICTURES[name])
    assert redraw_png(drawn) == drawn and drawn[:33] == GOOD_PICTURES[name][:33]


@pytest.mark.parametrize("name", BAD_PICTURES)
def test_a_picture_that_is_not_what_it_says_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="damaged"):
        redraw_png(BAD_PICTURES[name])


def test_unseen_letters_carry_nothing() -> None:
    smuggled = "".join(
        map(chr, (0xE0100, 0xE01EF, 0x34F, 0x115F, 0x1160, 0x3164, 0xFFA0, 0xFE00, 0x1D173, 0x1BCA0, 0x13430))
    )
    clip = clip_of("a", TEXT, f"a{smuggled}b\U0001f469\u200d\U0001f4bb\u2764\ufe0f".encode())
    assert clip.data.decode() == "ab\U0001f469\u200d\U0001f4bb\u2764\ufe0f" and clip.removed == 11


@given(st.binary(max_size=200), st.integers(0, len(DOT) - 1), st.integers(0, 255))
def test_any_bytes_are_a_picture_or_refused(data: bytes, place: int, byte: int) -> None:
    for broken in (data, DOT[:8] + data, DOT[:place] + bytes([byte]) + DOT[place + 1 :]):
        with contextlib.suppress(ValueError):
            redraw_png(broken)


def test_what_is_kept_is_read_back_or_none() -> None:
    clip = Clip(source="web", kind=PNG, data=DOT)
    assert parse_clip(render_clip(clip)) == clip
    assert parse_clip(b"something else") is None and parse_clip(b"") is None


# --- between real X servers ---------------------------------------------------------------------


@contextlib.contextmanager
def x_server(name: str) -> Iterator[Display]:
    read_end, write_end = os.pipe()
    argv = ["Xvfb", "-displayfd", str(write_end), "-nolisten", "tcp", "-noreset", "-screen", "0", "200x200x24"]
    server = subprocess.Popen(argv, pass_fds=(write_end,), stderr=subprocess.DEVNULL)
    os.close(write_end)
    try:
        yield Display(name, f":{os.read(read_end, 16).decode().strip()}", None)
    finally:
        os.close(read_end)
        # It takes its socket away itself.
        server.terminate()
        server.wait()


@pytest.fixture(scope="module")
def web() -> Iterator[Display]:
    with x_server("web") as display:
        yield display


@contextlib.contextmanager
def owner(display: Display, how: str) -> Iterator[None]:
    argv = [sys.executable, str(CHECKOUT / "tests/clip_owner.py"), display.name, how]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        yield
    finally:
        process.kill()
        process.wait()


@pytest.mark.spawns
@pytest.mark.parametrize("size", [1, 1000, 131_072, 131_073, 3_000_000])
def test_every_byte_arrives_once(web: Display, size: int) -> None:
    data = (b"0123456789" * (size // 10 + 1))[:size]
    offer = Offer(web, Clip(source="a", kind=TEXT, data=data), 20)
    assert take(web) == (TEXT, data)
    assert offer.wait() == "taken"
    with pytest.raises(Problem, match="its clipboard is empty"):
        take(web)


@pytest.mark.spawns
def test_a_picture_arrives(web: Display) -> None:
    offer = Offer(web, Clip(source="a", kind=PNG, data=DOT), 20)
    assert take(web) == (PNG, DOT) and offer.wait() == "taken"


@pytest.mark.spawns
def test_what_nobody_takes_is_over_and_a_newer_owner_stays(web: Display) -> None:
    assert Offer(web, Clip(source="a", kind=TEXT, data=b"x"), 0.1).wait() == "over"
    offer = Offer(web, Clip(source="a", kind=TEXT, data=b"x"), 20)
    with owner(web, "newer"):
        assert offer.wait() == "replaced"
        assert take(web) == (TEXT, b"newer")


BAD = {
    "mute": "nobody hands over",
    "five megabytes": "more than 4M",
    "endless": "more than 4M",
    "numbers": "its clipboard is empty",
    "holds the server": "nobody hands over",
}


@pytest.mark.spawns
@pytest.mark.parametrize("how", BAD)
def test_a_bad_owner_is_told_in_time(how: str) -> None:
    with x_server("web") as display, owner(display, how), pytest.raises((Problem, TimedOut), match=BAD[how]):
        take(display)


@pytest.mark.spawns
def test_a_list_without_end_is_looked_at_no_further(web: Display) -> None:
    with owner(web, "sixty thousand targets"):
        assert take(web) == (TEXT, b"sixty thousand targets")


TAKER = """
import sys, time
from okubsd.errors import Problem
from okubsd.host.selection import Display, take
while True:
    try:
        print(take(Display("mail", sys.argv[1], None))[1].decode())
        break
    except Problem:
        time.sleep(0.1)
"""


# --- the whole way ------------------------------------------------------------------------------


@pytest.mark.spawns
def test_a_crossing_is_written_down_and_what_crossed_is_forgotten(
    web: Display, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OKUBSD_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(clips, "display_of", lambda session, name: web)
    monkeypatch.setattr(clips, "judge_crossing", lambda *_: None)
    monkeypatch.setattr(clips, "need_somebody", lambda *_: None)
    session, shown = Session(), list[Clip]()
    with owner(web, "words of the web"):
        clip = clips.copy(session, "web")
    assert clip.data == b"words of the web" and clips.kept(session.places) == clip
    assert (session.places.state / "clip").stat().st_mode & 0o777 == 0o600
    with subprocess.Popen([sys.executable, "-c", TAKER, web.name], stdout=subprocess.PIPE, cwd=CHECKOUT) as taker:
        assert clips.paste(session, "mail", shown.append, seconds=60) == (clip, "taken")
        assert taker.communicate()[0] == b"words of the web\n"
    assert clips.kept(session.places) is None
    begun, entry = crossings(session.places, "mail")
    assert begun["outcome"] == "offered" and shown == [clip]
    assert entry["source"] == "web" and entry["bytes"] == 16 and entry["outcome"] == "taken"
    assert "words" not in json.dumps(entry) and crossings(session.places, "other") == []
    with pytest.raises(Problem, match="nothing was copied"):
        clips.paste(session, "mail", shown.append)


@pytest.mark.spawns
def test_the_desktop_takes_part_by_the_same_ritual(web: Display, tmp_path: Path) -> None:
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "DISPLAY": web.name, "PYTHONPATH": str(CHECKOUT)}

    def call(*args: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "okubsd", "clip", *args]
        return subprocess.run(argv, env=env, capture_output=True, text=True, check=False)

    assert call("show").stdout == "nothing was copied\n"
    assert "its clipboard is empty" in call("copy", "--host").stderr
    with owner(web, "words"):
        assert "copied 5 letters from host: words" in call("copy", "--host").stderr
    assert json.loads(call("show", "-j").stdout)["clip"] == {"source": "host", "kind": "text", "bytes": 5}
    late = call("paste", "--host", "-t", "1")
    assert late.returncode == 1 and "nobody took it in time; it is forgotten" in late.stderr
    assert call("clear").stderr == "okubsd: nothing was copied\n"
    del env["DISPLAY"]
    assert "DISPLAY is not set" in call("copy", "host").stderr


def test_one_clip_is_pasted_once_and_a_newer_one_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OKUBSD_STATE", str(tmp_path / "state"))
    session = Session()
    state = session.places.state
    state.mkdir(mode=0o700)
    older, newer = (Clip(source="web", kind=TEXT, data=data) for data in (b"older", b"newer"))
    (state / "clip").write_bytes(render_clip(older))

    def refuse(*_: object) -> None:
        with pytest.raises(Problem, match="nothing was copied"):
            clips.paste(session, "mail", lambda _: None)
        (state / "clip").write_bytes(render_clip(newer))
        raise Problem("no")

    monkeypatch.setattr(clips, "judge_crossing", refuse)
    with pytest.raises(Problem, match="no"):
        clips.paste(session, "mail", lambda _: None)
    assert clips.kept(session.places) == newer and len(list(state.glob(".clip*"))) == 0
    # What a killed one left goes, too.
    (state / ".clip.abc").write_bytes(b"x")
    assert clips.clear(session.places) and not list(state.glob("*clip*"))


def test_a_log_that_was_cut_short_loses_no_other_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OKUBSD_STATE", str(tmp_path / "state"))
    session = Session()
    session.places.state.mkdir(mode=0o700)
    monkeypatch.setattr(clips, "display_of", lambda *_: 1 / 0)
    (session.places.state / "crossings.log").write_text('12\n{"source": "a", "tar')
    clips._write_down(session.places, Clip(source="vault", kind=TEXT, data=b"x"), "bank", "taken")
    (entry,) = crossings(session.places, "bank")
    assert entry["source"] == "vault"
    (session.places.state / "crossings.log").unlink()
    os.mkfifo(session.places.state / "crossings.log")
    with pytest.raises(Problem, match="cannot be written"):
        clips._write_down(session.places, Clip(source="vault", kind=TEXT, data=b"x"), "bank", "taken")


def test_the_limit_is_the_users(tmp_path: Path) -> None:
    assert clip_of("web", TEXT, b"x" * 2000, limit=2000).data == b"x" * 2000
    with pytest.raises(ValueError, match="more than 1K"):
        clip_of("web", TEXT, b"x" * 2000, limit=1024)
    described = parse_description(Path("x"), "host: {clip_limit: 64K}\n", (), {})
    assert described.host.clip_limit == 64 << 10
