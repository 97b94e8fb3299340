"""One marked block in a file of the administrator's: put in, renewed, and taken out again to the byte."""

from __future__ import annotations

import re

BEGIN, END = "# --- okubsd begin", "# --- okubsd end"

# What had to be done to the file so that the block could stand there; undone with it.
_CREATED, _JOINED = " (the file is okubsd's)", " (the line before had no end)"

_BLOCK = re.compile(
    rf"(?ms)^{re.escape(BEGIN)}(?P<how>{re.escape(_CREATED)}|{re.escape(_JOINED)}|)\n.*?^{re.escape(END)}\n"
)
_RULE = re.compile(r"(?:block|pass|match|anchor|antispoof|include|load)\b")


def without_block(text: str) -> str | None:
    """Return ``text`` as it was before the block was put in; None where there was no file."""
    match = _BLOCK.search(text)
    if match is None:
        return text
    before, after = text[: match.start()], text[match.end() :]
    if match["how"] == _CREATED and not before and not after:
        return None
    return before.removesuffix("\n") + after if match["how"] == _JOINED else before + after


def with_block(text: str | None, body: str, *, before_rules: bool = False) -> str:
    """Return ``text`` (None: no such file) with the block of ``body`` in it, once.

    It stands where it stood; a new one at the end, or, with ``before_rules``, before the first filter rule of a
    pf.conf(5), so that no quick rule of the site's comes first.
    """
    match = _BLOCK.search(text) if text is not None else None
    if text is not None and match is not None:
        return text[: match.start()] + _render(body, match["how"]) + text[match.end() :]
    if text is None:
        return _render(body, _CREATED)
    at = _first_rule(text) if before_rules else len(text)
    joined = at == len(text) and text != "" and not text.endswith("\n")
    return text[:at] + ("\n" if joined else "") + _render(body, _JOINED if joined else "") + text[at:]


def _render(body: str, how: str) -> str:
    return f"{BEGIN}{how}\n{body}{END}\n"


def _first_rule(text: str) -> int:
    """Return where the first line that begins a filter rule begins, or the end."""
    at, continued = 0, False
    for line in text.splitlines(keepends=True):
        if not continued and _RULE.match(line.lstrip()):
            return at
        continued = line.rstrip("\n").endswith("\\")
        at += len(line)
    return at
