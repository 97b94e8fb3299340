"""Each promise of the papers names the tests that hold it, and they are there."""

from __future__ import annotations

import re

import pytest

from tests.conftest import CHECKOUT

PAPERS = {"README.md": "README.md", "okubsd-network(7)": "man/okubsd-network.7"}


def defined() -> set[str]:
    return {
        name for path in CHECKOUT.glob("tests/**/test_*.py") for name in re.findall(r"def (test_\w+)", path.read_text())
    }


def words(text: str) -> str:
    """The text of markdown or mdoc(7) with one blank between words, without the marks that a quotation need not keep."""
    plain = re.sub(r"^\.(?:Cm|Ic|Nm|Xr|Ql|Pa) ?", "", text, flags=re.MULTILINE)
    return " ".join(re.sub(r"[`,;:.]", " ", plain).split())


def promises(heading: str) -> list[tuple[str, str]]:
    """The rows of tests/PROMISES.md below a heading: the promise, and the cell that names its tests."""
    section = (CHECKOUT / "tests/PROMISES.md").read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| ")]
    return [(row[0].strip(), row[1].strip()) for row in rows if row[0].strip() != "promise"]


def bullets(heading: str) -> list[str]:
    """What a paper promises point by point: the README's list, and the manual's below THE PROMISE."""
    text = (CHECKOUT / PAPERS[heading]).read_text()
    if heading == "README.md":
        return re.findall(r"^- (\*\*[^*]+\*\*)", text, flags=re.MULTILINE)
    section = text.split(".Sh THE PROMISE\n")[1].split(".El\n")[0]
    return section.split(".It\n")[1:]


@pytest.mark.parametrize("heading", PAPERS)
def test_every_promise_is_a_quotation_and_has_its_tests(heading: str) -> None:
    paper, known = words((CHECKOUT / PAPERS[heading]).read_text()), defined()
    for promise, cell in promises(heading):
        assert words(promise) in paper, promise
        named = re.findall(r"`(test_\w+)`", cell)
        assert named and set(named) <= known, (promise, set(named) - known)


@pytest.mark.parametrize("heading", PAPERS)
def test_every_point_of_a_paper_has_its_row(heading: str) -> None:
    points, quoted = bullets(heading), [words(promise) for promise, _ in promises(heading)]
    assert len(points) >= 5
    for point in points:
        assert any(words(point).startswith(promise) for promise in quoted), point


def test_every_proof_that_security_names_is_there() -> None:
    text = (CHECKOUT / "SECURITY.md").read_text()
    named = re.findall(r"`(test_\w+)`", text)
    assert len(named) > 25 and not set(named) - defined()
    for path in re.findall(r"`(tests/[a-z_/]+\.py)`", text):
        assert (CHECKOUT / path).is_file(), path


def test_every_row_of_security_says_who_holds_it() -> None:
    rows = [
        line
        for line in (CHECKOUT / "SECURITY.md").read_text().splitlines()
        if line.startswith("| ") and "| asset |" not in line
    ]
    assert len(rows) > 15
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert len(cells) == 4 and cells[0] and cells[1] and "`test" in cells[3], row
