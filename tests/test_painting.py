"""When a window counts as painted: what it shows, for how long, and how busy its VM is meanwhile."""

from __future__ import annotations

import os

import pytest

from okubsd.host.painting import Sample, _shown, is_painted, spent_by, wanted_by

ONE, OTHER = 11, 22


def samples(*rows: tuple[float, int | None, float]) -> list[Sample]:
    return [Sample(*row) for row in rows]


@pytest.mark.parametrize(
    ("rows", "painted"),
    [
        (((0, ONE, 5), (0.2, ONE, 5), (0.4, ONE, 5), (0.6, ONE, 5.1)), True),
        # Not for long enough yet.
        (((0, ONE, 5), (0.2, ONE, 5), (0.4, ONE, 5)), False),
        (((0, ONE, 5), (5, ONE, 5)), True),
        # What it shows came only now.
        (((0, OTHER, 5), (0.2, ONE, 5), (0.6, ONE, 5)), False),
        # A caret blinks.
        (((0, ONE, 5), (0.5, OTHER, 5), (1.0, ONE, 5)), True),
        # A thread that ended took with it what it had used.
        (((0, ONE, 5), (0.6, ONE, 4)), False),
        # Nothing, or one color, is no picture.
        (((0, None, 5), (0.6, None, 5)), False),
        # The VM is at work: more will come.
        (((0, ONE, 5), (0.6, ONE, 5.4)), False),
        # It was at work before, and what was shown then is what is shown now.
        (((0, ONE, 5), (0.6, ONE, 5.6), (1.2, ONE, 5.6)), True),
        (((0, ONE, 5),), False),
    ],
)
def test_a_window_is_painted_when_it_stands_still_and_its_vm_rests(
    rows: tuple[tuple[float, int | None, float], ...], painted: bool
) -> None:
    assert is_painted(samples(*rows)) is painted


def test_one_color_is_nothing() -> None:
    assert _shown(b"") is None and _shown(b"abcd" * 9) is None
    assert _shown(b"abcd" * 9 + b"abce") is not None


def test_what_a_process_wants_is_at_least_what_it_has_used() -> None:
    assert wanted_by(os.getpid()) + 0.02 >= spent_by(os.getpid()) > 0
    assert wanted_by(None) == spent_by(None) == 0
