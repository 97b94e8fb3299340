"""What the total of the tests says, above all of one that was run once more."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import parts

REPORT = """<testsuites><testsuite>
<testcase classname="tests.vm.test_a" name="test_one"><failure>x</failure></testcase>
<testcase classname="tests.vm.test_a" name="test_one"><error>left</error></testcase>
<testcase classname="tests.vm.test_a" name="test_two[a.b-1]"><skipped/></testcase>
<testcase classname="tests.vm.test_b" name="test_three"/>
<testcase classname="tests.vm.test_b" name="test_three"><error>left</error></testcase>
<testcase classname="tests.vm.test_b" name="test_four"/>
</testsuite></testsuites>"""

CASES = {"a::one": "failure", "a::two": "", "a::three": "skipped"}


def row(part: str = "vm", code: int = 1, **more: str) -> parts.Row:
    return parts.Row(part, code, {**CASES, **{f"a::{name}": became for name, became in more.items()}}, 60.0)


def second(code: int = 0, **became: str) -> parts.Row:
    return parts.Row("vm", code, {f"a::{name}": each for name, each in became.items()}, 5.0)


def test_a_failure_with_an_error_at_its_end_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "r.xml").write_text(REPORT)
    assert parts.read(tmp_path / "r.xml") == {
        "tests/vm/test_a.py::test_one": "failure",
        "tests/vm/test_a.py::test_two[a.b-1]": "skipped",
        "tests/vm/test_b.py::test_three": "error",
        "tests/vm/test_b.py::test_four": "",
    }
    assert parts.read(tmp_path / "none.xml") == {}


def test_a_few_failures_of_a_whole_run_deserve_another() -> None:
    assert parts.deserves_another(row(), set(CASES))


@pytest.mark.parametrize(
    ("first", "tests"),
    [
        (row("unit"), set(CASES)),
        (row(code=2), set(CASES)),
        (row(one=""), set(CASES)),
        (row(), {*CASES, "a::never begun"}),
        (row(two="error"), set(CASES)),
        (parts.Row("vm", 1, {"/py::gw1": "failure"}, 1.0), set(CASES)),
        (parts.Row("vm", 1, {str(at): "failure" for at in range(4)}, 1.0), {*map(str, range(4))}),
    ],
    ids=["no guest in it", "ended", "nobody knows what", "not all of it", "after it", "a worker", "more than chance"],
)
def test_what_is_not_run_once_more(first: parts.Row, tests: set[str]) -> None:
    assert not parts.deserves_another(first, tests)


def test_the_total_tells_what_passed_only_the_second_time() -> None:
    table, passed = parts.total([row("unit", 0, one=""), row()], {"vm": second(one="")})
    assert passed and table.endswith("passed when run once more, alone: a::one")


@pytest.mark.parametrize(
    "again",
    [{}, {"vm": second(1, one="failure")}, {"vm": second(one="skipped")}, {"vm": second(two="")}, {"vm": second()}],
    ids=["not run", "failed again", "skipped", "another was run", "nothing was run"],
)
def test_what_fails_twice_has_failed(again: dict[str, parts.Row]) -> None:
    table, passed = parts.total([row("unit", 0, one=""), row()], again)
    assert not passed and table.endswith("not passed: vm")
