"""Sizes as vm.conf(5) and vmctl(8) write them: scan_scaled(3), 1024-based."""

from __future__ import annotations

import re

_SCALE = {"": 0, "B": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_PATTERN = re.compile(r"(\d{1,18})([BKMGT]?)", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Return the bytes of ``text`` such as "512M" or "2G".

    Raises ValueError where ``text`` is no such size.
    """
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise ValueError(text)
    return int(match[1]) << _SCALE[match[2].upper()]


def render_size(size: int) -> str:
    """Return ``size`` bytes in the largest unit that divides it, "1536M" rather than "1.5G"."""
    for unit in "TGMK":
        if size and size % (1 << _SCALE[unit]) == 0:
            return f"{size >> _SCALE[unit]}{unit}"
    return str(size)


def render_megabytes(size: int) -> str:
    """Return ``size`` bytes for a table: "41.3 MB", in units of a million."""
    return f"{size / 1e6:.1f} MB"
