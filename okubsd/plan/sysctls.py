"""What of an OpenBSD kernel is set for the networks that are described, and set back afterwards (sysctl(2))."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from okubsd import layout
from okubsd.config.marked import without_block
from okubsd.hostfile import FileState
from okubsd.plan.compile import Compiled
from okubsd.plan.steps import Call, Step


def wanted_sysctls(compiled: Compiled) -> list[str]:
    """Return what has to be 1 for the networks that are described (sysctl(2))."""
    texts = (file.text for file in compiled.files if file.path == layout.SITE_SYSCTL_CONF)
    return [name for text in texts for name in _values(text)]


def _values(text: str) -> dict[str, str]:
    pairs = (line.partition("=") for line in text.splitlines())
    return {name: value for name, equals, value in pairs if equals}


def sysctls_before(
    names: Iterable[str], present: Mapping[str, str], files: Mapping[str, FileState | None]
) -> FileState:
    """Return the file that says what ``names`` were before okubsd: each written once, then kept.

    ``present`` are the values of today, ``files`` those of the host by path.
    """
    kept = files.get(layout.SYSCTL_BEFORE)
    before = _values(kept.text) if kept is not None else {}
    # What our block has without a line beside it was written when there was no such file yet.
    site = files.get(layout.SITE_SYSCTL_CONF)
    own = _values(site.text).keys() - _values(without_block(site.text) or "").keys() if site is not None else set()
    for name in names:
        before.setdefault(name, "0" if name in own else present.get(name, "0"))
    return FileState("".join(f"{name}={value}\n" for name, value in before.items()), 0o644)


def reset_sysctls(before: FileState | None) -> list[Step]:
    """Return what sets to what it was ``before`` okubsd what was another."""
    values = _values(before.text) if before is not None else {}
    return [
        Call(what=f"set {name} as it was", argv=("sysctl", f"{name}={value}"))
        for name, value in values.items()
        if value != "1"
    ]
