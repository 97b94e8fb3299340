"""The site's own pf.conf(5): what okubsd knows of it is read, what it does not know is for pfctl(8) to judge."""

from __future__ import annotations

from collections.abc import Mapping

from okubsd.config.marked import BEGIN, END
from okubsd.config.parse_y import ConfError
from okubsd.pf.grammar import parse_pf
from okubsd.pf.render import GROUP
from okubsd.pf.rule_ends import PfHost
from okubsd.pf.rules import Ruleset

# A site's file has a few dozen lines that we do not know, at most.
_MOST_UNREAD = 2000


def parse_site(
    text: str, file: str, host: PfHost | None = None, macros: Mapping[str, str] | None = None
) -> tuple[Ruleset, list[int]]:
    """Return the rules of a site's pf.conf ``text``, as far as we read it, and the lines that we do not.

    Our own block in it is ours: raises ConfError for a mistake there.
    """
    lines = text.split("\n")
    ours = _own_lines(lines)
    unread: list[int] = []
    while True:
        try:
            return parse_pf("\n".join(lines), file, host, macros), sorted(unread)
        except ConfError as error:
            left_out = _statement(lines, min(error.line, len(lines)), ours)
            if not left_out or len(unread) > _MOST_UNREAD:
                raise
            for number in left_out:
                lines[number - 1] = ""
            unread.append(left_out[0])


def _own_lines(lines: list[str]) -> range:
    """Return the numbers of the lines of our block."""
    begin = next((number for number, line in enumerate(lines, 1) if line.startswith(BEGIN)), 0)
    end = next((number for number, line in enumerate(lines, 1) if number > begin and line.startswith(END)), begin)
    return range(begin, end + 1) if begin else range(0)


def _statement(lines: list[str], line: int, ours: range) -> list[int]:
    """Return the lines of the statement at ``line``, or of the last one above it; [] where that is ours, or none."""
    while line >= 1 and not lines[line - 1].strip():
        line -= 1
    if line < 1 or line in ours:
        return []
    first = last = line
    while first > 1 and lines[first - 2].rstrip().endswith("\\"):
        first -= 1
    while last < len(lines) and lines[last - 1].rstrip().endswith("\\"):
        last += 1
    return [number for number in range(first, last + 1) if number not in ours]


def defeats(ruleset: Ruleset) -> list[str]:
    """Return what of a site's rules keeps pf(4) from looking at what VMs send, a sentence each."""
    return [
        f"'set skip on {name}' keeps pf from looking at what VMs send; take it out"
        for name in ruleset.skipped
        if name in (GROUP, "tap", "any", "all") or (name.startswith("tap") and name[3:].isdecimal())
    ]
