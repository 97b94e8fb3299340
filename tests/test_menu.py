"""Entries of the desktop's menus: what a guest says is parsed, what is written is ours, and the desktop's judge takes it."""

from __future__ import annotations

import json
import os
import shlex
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from okubsd import layout
from okubsd.display.icon import marked, render_rgba, window_icon
from okubsd.display.png import redraw_png, render_chunks
from okubsd.host import installing, menus, programs
from okubsd.host.session import Session
from okubsd.menu.entries import (
    OPENER,
    Entry,
    render_cwm,
    render_entry,
    render_exec,
    render_fvwm,
    render_list,
    render_opener,
    stem_of,
)
from okubsd.menu.foreign import CATEGORIES, find_foreign, in_language, parse_foreign, plain_words
from okubsd.model import Image, Kind, Part

FIREFOX = b"""[Desktop Entry]
Type=Application
Name=Firefox ESR
Name[pt]=Navegador Firefox
Comment=Browse the World Wide Web
Comment[ru]=\xd0\x91\xd1\x80\xd0\xb0\xd1\x83\xd0\xb7\xd0\xb5\xd1\x80
Exec=/usr/lib/firefox-esr/firefox-esr %u
Icon=firefox-esr
Categories=Network;WebBrowser;
[Desktop Action new]
Name=New
Exec=rm -rf /
"""


# --- what a guest says -----------------------------------------------------------------------------


def test_a_desktop_file_of_a_guest_is_read_to_values() -> None:
    found = parse_foreign(FIREFOX)
    assert found is not None
    assert (found.program, found.icon, found.categories) == ("firefox-esr", "firefox-esr", ("Network",))
    assert in_language(found.names, "pt_BR.UTF-8") == "Navegador Firefox"
    assert in_language(found.names, "de_DE.UTF-8") == in_language(found.names, "") == "Firefox ESR"
    assert in_language(found.comments, "ru") == "Браузер"
    assert find_foreign([found], ("firefox-esr", "--new")) == found and find_foreign([found], ("xterm",)) is None


@pytest.mark.parametrize(
    "line",
    ["NoDisplay=true", "Hidden=true", "Type=Link", "Type=Directory", "Exec=", 'Exec="', "Exec=A=1 B=2"],
)
def test_what_is_no_program_to_be_shown_is_none(line: str) -> None:
    key = line.partition("=")[0].encode()
    kept = b"\n".join(row for row in FIREFOX.splitlines() if not row.startswith(key + b"="))
    assert parse_foreign(kept.replace(b"[Desktop Entry]", b"[Desktop Entry]\n" + line.encode())) is None


@given(st.binary(max_size=400))
def test_any_bytes_are_a_program_or_none(data: bytes) -> None:
    found = parse_foreign(b"[Desktop Entry]\nType=Application\nExec=x\n" + data)
    if found is not None:
        assert set(found.categories) <= CATEGORIES and "/" not in found.icon
        assert all("\n" not in words and len(words) <= 80 for words in found.names.values())


@given(st.text())
def test_words_of_a_guest_are_one_line_without_escapes(text: str) -> None:
    words = plain_words(text)
    assert "\n" not in words and "\\" not in words and words.isprintable() and len(words) <= 80


# --- what is written -------------------------------------------------------------------------------


def unquoted(value: str) -> list[str]:
    """Return the words of an Exec key as a desktop reads it (Desktop Entry Specification 1.5)."""
    words, word, quoted, at = [], "", False, 0
    text = value.replace("\\\\", "\\")
    while at < len(text):
        letter = text[at]
        if quoted and letter == "\\":
            at += 1
            word += text[at]
        elif letter == '"':
            quoted = not quoted
        elif letter == " " and not quoted:
            words.append(word)
            word = ""
        else:
            word += letter
        at += 1
    return [one.replace("%%", "%") for one in [*words, word]]


WORDS = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1)


@given(st.lists(WORDS, min_size=1, max_size=5))
def test_a_command_is_read_as_it_was_written(words: list[str]) -> None:
    assert unquoted(render_exec(tuple(words))) == words


def entry(**more: object) -> Entry:
    given: dict[str, object] = {"vm": "work", "app": "term", "name": "XTerm", "comment": "x", "command": ("okubsd",)}
    return Entry(**{**given, **more})  # type: ignore[arg-type]


@pytest.mark.spawns
@pytest.mark.parametrize("name", ["XTerm", "What! 100%", 'a "b" $c `d`', "Ünïcödé", "x;y", "[z]"])
@pytest.mark.parametrize("command", [("okubsd",), ("/opt/my programs/o%k", "-f", "/home/ä/$x")])
def test_the_desktops_own_judge_takes_an_entry(name: str, command: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / entry().file
    path.write_text(render_entry(entry(name=name, command=command, icon=tmp_path / "a.png", categories=("Network",))))
    (tmp_path / OPENER).write_text(render_opener(command))
    opened = subprocess.run(
        ["desktop-file-validate", str(tmp_path / OPENER)], capture_output=True, text=True, check=False
    )
    assert (opened.returncode, opened.stdout) == (0, "")
    done = subprocess.run(["desktop-file-validate", str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_other_window_managers_get_the_same() -> None:
    entries = [entry(), entry(vm="vault", name='a"b&c')]
    assert render_cwm(entries) == 'command "XTerm (work)" "okubsd start work term"\n' + (
        'command "abc (vault)" "okubsd start vault term"\n'
    )
    assert '+ "XTerm (work)" Exec exec okubsd start work term\n' in render_fvwm(entries)
    assert render_list(entries) == "work term\nvault term\n"
    assert all(shlex.split(line) for line in render_list(entries).splitlines())


# --- pictures ----------------------------------------------------------------------------------------


def png(width: int, height: int, kind: int, rows: bytes, *more: tuple[bytes, bytes]) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    return render_chunks((b"IHDR", header), *more, (b"IDAT", zlib.compress(rows)), (b"IEND", b""))


def pixels(data: bytes) -> bytes:
    """Return the pixels of a picture that we drew: no filter, four bytes each."""
    width, height = struct.unpack(">II", data[16:24])
    at = data.index(b"IDAT")
    (size,) = struct.unpack(">I", data[at - 4 : at])
    raw, stride = zlib.decompress(data[at + 4 : at + 4 + size]), 1 + 4 * width
    return b"".join(raw[y * stride + 1 : (y + 1) * stride] for y in range(height))


RED, CLEAR = b"\xff\x00\x00\xff", b"\x00\x00\x00\x00"


@pytest.mark.parametrize(
    ("kind", "row", "more"),
    [
        (6, RED * 16, ()),
        (2, b"\xff\x00\x00" * 16, ()),
        (3, b"\x01" * 16, ((b"PLTE", b"\x00\x00\x00\xff\x00\x00"),)),
    ],
)
@pytest.mark.parametrize("filter_", range(5))
def test_a_picture_gets_the_color_of_its_vm(
    kind: int, row: bytes, more: tuple[tuple[bytes, bytes], ...], filter_: int
) -> None:
    step = len(row) // 16
    first = row if filter_ in (0, 2) else row[:step] + bytes(len(row) - step)
    if filter_ == 3:
        # The mean of what is before and above: half of it is to be added.
        first = bytearray(row)
        for at in range(len(row) - 1, step - 1, -1):
            first[at] = (row[at] - row[at - step] // 2) & 0xFF
    rest = bytes([0]) + row
    data = png(16, 16, kind, bytes([filter_]) + bytes(first) + rest * 15, *more)
    found = pixels(marked(data, 0x27AE60))
    assert found[: 4 * 16] == RED * 16
    assert found[-4 * 32 :] == b"\x27\xae\x60\xff" * 32 and found[-4 * 33 : -4 * 32] == RED


def test_a_picture_that_is_none_is_refused() -> None:
    for data in (
        b"",
        b"<svg onload='x'/>",
        png(4, 4, 6, b"\0" * 10),
        png(600, 1, 6, b"\0" * 2401),
        b"\x89PNG\r\n\x1a\n",
    ):
        with pytest.raises(ValueError, match="picture"):
            marked(data, 0)
    assert redraw_png(window_icon(0xFF0000)) and redraw_png(render_rgba(1, 1, CLEAR))


# --- on the disk -------------------------------------------------------------------------------------


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    text = "vms: {work: {image: term, color: green}, web: {image: firefox}, way: {image: vpn-gateway, tunnel: x}}"
    (tmp_path / "okubsd.yaml").write_text(text)
    monkeypatch.setattr(programs, "has_vmd", lambda: False)
    monkeypatch.setenv("OKUBSD_STATE", str(tmp_path / "state"))
    return Session(str(tmp_path / "okubsd.yaml"))


def laid(session: Session, name: str = "term", tree: Path | None = None, *, here: bool = False) -> None:
    """Have an image ``name`` of the files below ``tree``, or of none."""
    directory = session.places.images / name / "abc"
    directory.mkdir(parents=True)
    drive = directory / layout.SQUASHFS
    drive.touch()
    if tree is not None:
        subprocess.run(["mksquashfs", str(tree), str(drive), "-quiet", "-no-progress", "-noappend"], check=True)
    part = Part(name=layout.SQUASHFS, size=drive.stat().st_size, sha256="0" * 64)
    image = Image(name=name, kind=Kind.APP, build="abc", recipe="r", base="b", built=0, parts=(part,), built_here=here)
    (directory / layout.MANIFEST).write_bytes(msgspec.json.encode(image))
    (directory.parent / layout.CURRENT).symlink_to("abc")


def synced(session: Session, tmp_path: Path) -> menus.Places:
    """Have entries of a desktop below ``tmp_path``, and return their places."""
    there = menus.places_of({"XDG_DATA_HOME": str(tmp_path / "data")})
    menus.sync(session, there, "")
    return there


def test_entries_come_and_go_with_their_vms(session: Session, tmp_path: Path) -> None:
    there = menus.places_of({"XDG_DATA_HOME": str(tmp_path / "data")})
    # What is not built has no entry: a click on it would build for minutes.
    assert menus.sync(session, there, "") == menus.Synced(0, 0)
    for name in ("term", "firefox", "vpn-gateway"):
        laid(session, name)
    assert menus.sync(session, there, "") == menus.Synced(2, 0)
    assert menus.sync(session, there, "") == menus.Synced(0, 0)
    names = [path.name for path in menus.ours(there)]
    assert names == ["okubsd-open.desktop", "okubsd-web-firefox.desktop", "okubsd-work-term.desktop"]
    opener = (there.entries / names[0]).read_text()
    assert "Exec=" in opener and f"-f {tmp_path / 'okubsd.yaml'} open %u\n" in opener
    assert "x-scheme-handler/https;" in opener and "NoDisplay=true" in opener
    text = (there.entries / names[2]).read_text()
    assert f"-f {tmp_path / 'okubsd.yaml'} start work term" in text and "X-Okubsd-VM=work" in text
    assert (there.icons / "okubsd-work-term.png").read_bytes() == window_icon(0x27AE60)
    # What others made stays, whatever it is called.
    (there.entries / "okubsd-mine.desktop").write_text("[Desktop Entry]\nName=mine\n")
    (tmp_path / "okubsd.yaml").write_text("vms: {web: {image: firefox}}")
    assert menus.sync(Session(str(tmp_path / "okubsd.yaml")), there, "") == menus.Synced(0, 1)
    assert not (there.icons / "okubsd-work-term.png").exists()
    assert menus.remove(there) == 2 and [path.name for path in there.entries.iterdir()] == ["okubsd-mine.desktop"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    (top / "usr/share/applications").mkdir(parents=True)
    (top / "usr/share/pixmaps").mkdir(parents=True)
    text = "[Desktop Entry]\nType=Application\nName=Terminal\nExec=xterm\nIcon=term\nCategories=System;\n"
    (top / "usr/share/applications/xterm.desktop").write_text(text)
    (top / "usr/share/pixmaps/term.png").write_bytes(render_rgba(16, 16, RED * 256))
    return top


@pytest.mark.spawns
def test_what_was_built_here_says_what_it_is_called(session: Session, tree: Path, tmp_path: Path) -> None:
    laid(session, tree=tree, here=True)
    there = synced(session, tmp_path)
    assert "Name=Terminal (work)\n" in (there.entries / "okubsd-work-term.desktop").read_text()
    found = pixels((there.icons / "okubsd-work-term.png").read_bytes())
    assert found[:4] == RED and found[-4:] == b"\x27\xae\x60\xff"


@pytest.mark.spawns
def test_of_an_imported_image_nothing_is_read(session: Session, tree: Path, tmp_path: Path) -> None:
    laid(session, tree=tree, here=False)
    there = synced(session, tmp_path)
    assert "Name=Term (work)\n" in (there.entries / "okubsd-work-term.desktop").read_text()
    assert (there.icons / "okubsd-work-term.png").read_bytes() == window_icon(0x27AE60)


@pytest.mark.spawns
@pytest.mark.parametrize("what", ["file", "directory", "icon"])
def test_a_link_in_an_image_leads_nowhere(what: str, session: Session, tree: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    text = "[Desktop Entry]\nType=Application\nName=Secret\nExec=xterm\nIcon=term\n"
    (secret / "xterm.desktop").write_text(text)
    applications = tree / "usr/share/applications"
    (applications / "xterm.desktop").unlink()
    if what == "directory":
        applications.rmdir()
        applications.symlink_to(secret)
    elif what == "file":
        (applications / "xterm.desktop").symlink_to(secret / "xterm.desktop")
    else:
        (applications / "xterm.desktop").write_text(text.replace("Secret", "Term"))
        (tree / "usr/share/pixmaps/term.png").unlink()
        (tree / "usr/share/pixmaps/term.png").symlink_to("/etc/passwd")
    laid(session, tree=tree, here=True)
    there = synced(session, tmp_path)
    assert "Name=Term (work)\n" in (there.entries / "okubsd-work-term.desktop").read_text()
    assert (there.icons / "okubsd-work-term.png").read_bytes() == window_icon(0x27AE60)


@pytest.mark.spawns
def test_a_file_of_an_image_fills_no_disk(
    session: Session, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tree / "usr/share/applications/a.desktop").open("wb") as stream:
        stream.truncate(64 << 20)
    laid(session, tree=tree, here=True)
    seen: list[int] = []

    def listed(directory: Path, pattern: str) -> list[Path]:
        found = sorted(directory.glob(pattern))
        seen.extend(path.stat().st_size for path in found)
        return found

    monkeypatch.setattr(menus, "_listed", listed)
    assert menus.entries_of(session, menus.places_of({"XDG_DATA_HOME": str(tmp_path)}), "")
    assert max(seen) <= 1 << 20


def test_an_entry_of_the_users_is_not_written_over(session: Session, tmp_path: Path) -> None:
    there = menus.places_of({"XDG_DATA_HOME": str(tmp_path / "data")})
    there.entries.mkdir(parents=True)
    own = there.entries / "okubsd-work-term.desktop"
    own.write_text("[Desktop Entry]\nName=mine\n")
    laid(session)
    assert menus.sync(session, there, "") == menus.Synced(0, 0)
    assert menus.remove(there) == 1 and own.read_text() == "[Desktop Entry]\nName=mine\n"


def test_what_a_window_manager_cannot_quote_is_left_out() -> None:
    odd = entry(command=("/opt/R&D/okubsd",))
    assert render_cwm([odd, entry()]) == 'command "XTerm (work)" "okubsd start work term"\n'
    assert "$$HOME" in render_fvwm([entry(command=("$HOME/okubsd",))]) and "%" not in render_fvwm([entry(name="a%b")])


@pytest.mark.spawns
def test_a_large_file_hides_no_other(session: Session, tree: Path, tmp_path: Path) -> None:
    with (tree / "usr/share/applications/a.desktop").open("wb") as stream:
        stream.write(b"#" * (3 << 20))
    laid(session, tree=tree, here=True)
    there = synced(session, tmp_path)
    assert "Name=Terminal (work)\n" in (there.entries / "okubsd-work-term.desktop").read_text()


@pytest.mark.spawns
def test_a_directory_of_pictures_that_is_a_link_is_not_read(session: Session, tree: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "term.png").write_bytes(render_rgba(16, 16, RED * 256))
    (tree / "usr/share/pixmaps/term.png").unlink()
    (tree / "usr/share/pixmaps").rmdir()
    (tree / "usr/share/pixmaps").symlink_to(secret)
    laid(session, tree=tree, here=True)
    there = synced(session, tmp_path)
    assert (there.icons / "okubsd-work-term.png").read_bytes() == window_icon(0x27AE60)


@pytest.mark.spawns
def test_a_search_tells_what_recipes_are_for_and_packages_where_there_is_apt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "bin/apt-cache"
    fake.parent.mkdir()
    fake.write_text(
        "#!/bin/sh\nprintf 'libpdf - no\\nxpdf - reads PDF\\n-x - no\\ngood-doc - no\\nother - a PDF thing\\n'\n"
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    assert installing.find_packages("pdf") == [("xpdf", "reads PDF"), ("other", "a PDF thing")]
    assert installing.find_packages("-o=x") == installing.find_packages("a\nb") == []
    monkeypatch.setenv("OKUBSD_STATE", str(tmp_path / "state"))
    done = subprocess.run(
        [sys.executable, "-m", "okubsd", "search", "--json", "pdf"], capture_output=True, text=True, check=True
    )
    said = json.loads(done.stdout)
    assert "evince" in [row["name"] for row in said["recipes"]] and said["packages"][0]["name"] == "xpdf"


def test_no_two_entries_are_called_alike() -> None:
    names = {(vm, app): stem_of(vm, app) for vm in ("a", "a-b", "a-b-c") for app in ("c", "b-c", "d")}
    assert len({*names.values()}) == len(names) and names["a", "c"] == "okubsd-a-c"


def test_an_entry_names_what_the_user_had_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("vms: {work: {image: term}}\n")
    for name, value in (("OKUBSD_CONFIG", str(path)), ("OKUBSD_STATE", str(tmp_path / "s"))):
        monkeypatch.setenv(name, value)
    words = menus._command(Session())
    assert words[:2] == ("env", f"OKUBSD_STATE={tmp_path / 's'}") and words[-2:] == ("-f", str(path))
    monkeypatch.delenv("OKUBSD_CONFIG")
    monkeypatch.delenv("OKUBSD_STATE")
    assert menus._command(Session()) == programs.okubsd_argv()
