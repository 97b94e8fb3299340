"""What the total of the tests says, above all of one that was run once more."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import parts

REPORT = """<testsuites><testsuite>
<testcase classname="tests.vm.test_a" name="test_one"><failure>x</failure></testcase>
<testcase classname="tests.vm.test_a" name="test_one"><error>left</error></testcase>
<testcase classname="tests.vm.test_a" name="test_two"><skipped/></testcase>
<testcase classname="tests.vm.test_b" name="test_three"/>
</testsuite></testsuites>"""


def row(part: str = "vm", code: int = 1, failed: tuple[str, ...] = ("a::one",), tests: int = 9) -> parts.Row:
    return parts.Row(part, code, tests, 0, frozenset(failed), 60.0)


def test_a_failure_with_an_error_at_its_end_is_one_test(tmp_path: Path) -> None:
    (tmp_path / "r.xml").write_text(REPORT)
    assert parts.read(tmp_path / "r.xml") == (3, 1, frozenset({"tests.vm.test_a::test_one"}))
    assert parts.read(tmp_path / "none.xml") == (0, 0, frozenset())


@pytest.mark.parametrize(
    "first",
    [row("unit"), row(code=0, failed=()), row(code=2), row(failed=()), row(failed=("a", "b", "c", "d"))],
    ids=["no guest in it", "nothing failed", "it was ended", "who knows what failed", "more than chance"],
)
def test_what_is_not_run_once_more(first: parts.Row, tmp_path: Path) -> None:
    assert parts.again(first, tmp_path / "r.xml") is None


def test_the_total_tells_what_passed_only_the_second_time() -> None:
    table, passed = parts.total([row("unit", 0, ()), row()], {"vm": row(code=0, failed=(), tests=1)})
    assert passed and table.endswith("passed when run once more, alone: a::one")


@pytest.mark.parametrize("second", [{}, {"vm": row(tests=1)}], ids=["not run", "failed again"])
def test_what_fails_twice_has_failed(second: dict[str, parts.Row]) -> None:
    table, passed = parts.total([row("unit", 0, ()), row()], second)
    assert not passed and table.endswith("not passed: vm")
