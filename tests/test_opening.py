"""Which VM opens what: rules, addresses that are written anew, and a changed file that comes back or not."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from okubsd.cli.opening import _back, _changes, _target
from okubsd.config.opening import FILE, URL, choose, parse_address, parse_rules
from okubsd.errors import BadDescription, Misuse, Problem
from okubsd.host.opening import Returned, put
from okubsd.host.store import hash_file

VMS = {"browser": ("firefox",), "bank": ("firefox", "term"), "office": ("writer",)}
RULES = """
# the first that fits decides
url *.bank.example bank
url bank.example bank term here
url * browser disposable
file *.pdf office
file *.TXT office writer here
"""


def test_the_first_rule_that_fits_decides() -> None:
    rules = parse_rules([(Path("/r"), RULES)], VMS)
    told = [
        (rule.vm, rule.app, rule.disposable)
        for kind, name in (
            (URL, "www.bank.example"), (URL, "bank.example"), (URL, "notbank.example"), (FILE, "A.PDF"), (FILE, "a.txt"),
        )
        if (rule := choose(rules, kind, name))
    ]  # fmt: skip
    assert told == [
        ("bank", "", False), ("bank", "term", False), ("browser", "", True), ("office", "", True),
        ("office", "writer", False),
    ]  # fmt: skip
    assert choose(rules, FILE, "a.png") is None


BROKEN = {
    "too short": ("url *", "a line is"),
    "too long": ("url * browser firefox now", "a line is"),
    "kind": ("urls * browser", "did you mean 'url'"),
    "vm": ("url * browse", "did you mean 'browser'"),
    "app": ("url * browser firefx", "did you mean 'firefox'"),
    "pattern": ("url a/b browser", "no pattern"),
}


def test_every_mistake_of_rules_is_told_at_once() -> None:
    text = "\n".join(line for line, _ in BROKEN.values())
    with pytest.raises(BadDescription) as caught:
        parse_rules([(Path("/r"), text)], VMS)
    assert len(caught.value.mistakes) == len(BROKEN)
    for mistake, (number, (_, said)) in zip(caught.value.mistakes, enumerate(BROKEN.values(), 1), strict=True):
        assert mistake.startswith(f"/r:{number}: ") and said in mistake


@pytest.mark.parametrize(
    ("text", "anew"),
    [
        ("https://example.org", "https://example.org/"),
        ('HTTP://Example.ORG:8080/a b?q="x"#\'y', "http://example.org:8080/a%20b?q=%22x%22#'y"),
        ("https://bücher.example/ü%20", "https://xn--bcher-kva.example/%C3%BC%20"),
        ("https://[2001:db8::1]/", "https://[2001:db8::1]/"),
        ("https://bank.example./", "https://bank.example/"),
        ("https://example.org/$(reboot);`id`|x", "https://example.org/$(reboot);%60id%60%7Cx"),
    ],
)
def test_an_address_is_written_anew(text: str, anew: str) -> None:
    assert parse_address(text).text == anew
    assert parse_address(anew).text == anew


@pytest.mark.parametrize(
    "text",
    ["file:///etc/passwd", "javascript://x/%0aalert(1)", "https://", "https://u:p@example.org/", "https://a\nb/", "https://x/" + "a" * 5000]
    + ["https://example.org:99999/", "https://exa mple.org/", "https://\u202eexample.org/", "chrome://settings", "data://x"]
    + ["http://fa\u00df.de/", "http://0x7f.1/", "http://127.1/", "http://2130706433/", "http://[v1.x]/"],
)  # fmt: skip
def test_what_is_no_address_of_a_page_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(is no|has)"):
        parse_address(text)


@given(st.text(max_size=60))
def test_no_address_has_what_a_shell_or_a_terminal_takes_for_more(rest: str) -> None:
    try:
        text = parse_address(f"https://example.org/{rest}").text
    except ValueError:
        return
    assert text.isascii() and text.isprintable() and not set(text) & set(" \"'<>\\^`{|}") - set("'")
    assert text.startswith("https://example.org/")


class Told:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def report(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture
def returned(tmp_path: Path) -> Returned:
    """A file a.txt that went as one and came back as two."""
    path = tmp_path / "a.txt"
    path.write_text("one\n")
    path.chmod(0o640)
    kept = tmp_path / "kept/file"
    kept.parent.mkdir()
    kept.write_text("two\n")
    return Returned(kept, hash_file(path))


@pytest.mark.parametrize("yes", [True, False])
def test_a_changed_file_comes_back_by_a_yes_and_else_lies_beside(yes: bool, returned: Returned, tmp_path: Path) -> None:
    path, told = tmp_path / "a.txt", Told()
    (tmp_path / "a.txt.okubsd-new").write_text("of before")
    _back(told, path, returned, yes)  # type: ignore[arg-type]
    target = path if yes else tmp_path / "a.txt.okubsd-new-2"
    assert target.read_text() == "two\n" and target.stat().st_mode & 0o777 == 0o640
    assert path.read_text() == ("two\n" if yes else "one\n") and f"{target}" in told.lines[-1]
    assert not returned.path.exists() and (tmp_path / "a.txt.okubsd-new").read_text() == "of before"


def test_a_file_that_was_changed_here_too_is_not_written_over(
    returned: Returned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, told = tmp_path / "a.txt", Told()

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

        def readline(self, size: int = -1) -> str:  # type: ignore[override]
            # While the question is there.
            path.write_text("mine\n")
            return "yes\n"

    monkeypatch.setattr("sys.stdin", Terminal())
    _back(told, path, returned, False)  # type: ignore[arg-type]
    assert path.read_text() == "mine\n" and (tmp_path / "a.txt.okubsd-new").read_text() == "two\n"


def test_nothing_that_came_back_is_lost_where_it_has_no_place(returned: Returned, tmp_path: Path) -> None:
    with pytest.raises(Problem, match="what came back is in"):
        put(returned, tmp_path / "gone/a.txt", 0o600)
    assert returned.path.read_text() == "two\n"
    (tmp_path / "a.txt").unlink()
    _back(Told(), tmp_path / "a.txt", returned, True)  # type: ignore[arg-type]
    assert (tmp_path / "a.txt.okubsd-new").read_text() == "two\n"


def test_what_a_link_leads_to_is_what_is_opened(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("x")
    (tmp_path / "link").symlink_to("real")
    assert _target(str(tmp_path / "link"))[1] == str(tmp_path / "real")
    assert _target(f"file://localhost{tmp_path}/real")[1] == str(tmp_path / "real")
    for bad in (str(tmp_path), f"file://{tmp_path}/real?x", f"file://elsewhere{tmp_path}/real", "n" * 5000, "a\0b"):
        with pytest.raises(Misuse):
            _target(bad)


def test_a_change_is_told_in_lines_or_in_bytes() -> None:
    size = "2 bytes became 2"
    assert _changes(b"a\n", b"b\n") == ["--- before", "+++ after", "@@ -1 +1 @@", "-a", "+b", size]
    assert _changes(b"\xff", b"\xff\xfe") == ["1 bytes became 2"]
    assert len(_changes(b"a\n" * 1000, b"b\n" * 1000)) == 202
    assert _changes(None, b"") == ["it has changed, and is too large to be shown"]


@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [("#a\nrm x\n", "#a\x0crm x\n", "\\x0c"), ("a\nb\n", "a\u2028b\n", "\\u2028"), ("a\nb\n", "a\rb\n", "\\r")]
    + [("a\n", "a", "no newline"), ("ab\n", "a\u200bb\n", "\\u200b")],
)
def test_no_change_is_hidden(before: str, after: str, shown: str) -> None:
    assert any(shown in line for line in _changes(before.encode(), after.encode()))
