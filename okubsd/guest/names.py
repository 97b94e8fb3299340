"""What the program `names` in a guest, or beside it, knows of addresses: rendered from the one list of them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from itertools import groupby

from okubsd.rules import SPECIAL

# Between these lines the script has what render_special() returns.
BEGIN, END = "\t# --- special ranges: begin", "\t# --- special ranges: end"


def render_special() -> str:
    """Return the patterns of sh(1) for addresses that a name may open none of, a range and its source a line."""
    lines = [f"\t{' | '.join(globs(special.network))}) return 1 ;; # {special.source}" for special in SPECIAL]
    return "".join(f"{line}\n" for line in (BEGIN, *lines, END))


def globs(network: str) -> tuple[str, ...]:
    """Return the patterns that match the addresses of an IPv4 ``network``, and no other address."""
    parsed = ipaddress.IPv4Network(network)
    whole, rest = divmod(parsed.prefixlen, 8)
    octets = str(parsed.network_address).split(".")
    head = "".join(f"{octet}." for octet in octets[:whole])
    if not rest:
        return (f"{head}*",) if whole < 4 else (head.rstrip("."),)
    first = int(octets[whole])
    tail = ".*" if whole < 3 else ""
    return tuple(f"{head}{number}{tail}" for number in _ranges(first, first + (1 << (8 - rest)) - 1))


def _ranges(first: int, last: int) -> Iterator[str]:
    """Yield patterns for the numbers from ``first`` to ``last``: one for all that differ in their last digit only."""
    for tens, numbers in groupby(range(first, last + 1), lambda number: str(number)[:-1]):
        digits = [str(number)[-1] for number in numbers]
        yield f"{tens}{digits[0]}" if len(digits) == 1 else f"{tens}[{digits[0]}-{digits[-1]}]"
