"""One number per VM, for its tap, its rdomain and its loopback; kept, so that a new VM moves no old one.

Source: rdomain(4): tables are numbered 0 to 255; the first hundred are left to the site.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

FIRST, LAST = 100, 249

# The interface of a network has a number too; its name is marked, so that no VM's is the same.
NETWORK_MARK = "@"

_LINE = re.compile(r"(@?[A-Za-z][A-Za-z0-9._-]{0,31}) (\d{1,3})")


def parse_numbers(text: str) -> dict[str, int]:
    """Return names to numbers of a file that render_numbers() wrote; lines of another shape are not taken."""
    return {match[1]: int(match[2]) for line in text.splitlines() if (match := _LINE.fullmatch(line))}


def render_numbers(numbers: Mapping[str, int]) -> str:
    """Return the file of ``numbers``, a VM a line."""
    top = "# Written by okubsd: the number of each VM's tap, rdomain and loopback.\n"
    return top + "".join(f"{name} {number}\n" for name, number in sorted(numbers.items(), key=lambda pair: pair[1]))


def give_numbers(
    names: Iterable[str], wished: Mapping[str, int], kept: Mapping[str, int], first: int = FIRST, last: int = LAST
) -> dict[str, int]:
    """Return a number for each of ``names``.

    A number that the description ``wished`` comes first, then the one that was ``kept`` from before, then the
    lowest free one from ``first`` to ``last``.  Raises ValueError, in words, where there are not enough.
    """
    names = list(names)
    given = {name: wished[name] for name in names if name in wished}
    taken = set(given.values())
    for name in names:
        number = kept.get(name)
        if name not in given and number is not None and first <= number <= last and number not in taken:
            given[name] = number
            taken.add(number)
    free = iter(number for number in range(first, last + 1) if number not in taken)
    for name in names:
        if name not in given:
            number = next(free, None)
            if number is None:
                raise ValueError(f"there are {len(names)} VMs for {last - first + 1} numbers ({first} to {last})")
            given[name] = number
    return {name: given[name] for name in names}
