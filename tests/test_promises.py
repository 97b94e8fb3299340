"""What SECURITY.md names as a proof is there."""

from __future__ import annotations

import re

from tests.conftest import CHECKOUT


def test_every_proof_that_is_named_is_there() -> None:
    text = (CHECKOUT / "SECURITY.md").read_text()
    defined = {
        name for path in CHECKOUT.glob("tests/**/test_*.py") for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    named = re.findall(r"`(test_\w+)`", text)
    assert len(named) > 25 and not [name for name in named if name not in defined]
    for path in re.findall(r"`(tests/[a-z_/]+\.py)`", text):
        assert (CHECKOUT / path).is_file(), path


def test_every_row_says_who_holds_it() -> None:
    rows = [
        line
        for line in (CHECKOUT / "SECURITY.md").read_text().splitlines()
        if line.startswith("| ") and "| asset |" not in line
    ]
    assert len(rows) > 15
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert len(cells) == 4 and cells[0] and cells[1] and "`test" in cells[3], row
