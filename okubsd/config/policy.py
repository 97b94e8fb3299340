"""policy.d/*.policy: which service may cross from which VM to which (okubsd-policy(5)).

A line is `service source target action`; the first that matches decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from okubsd.config.names import VM_NAME, did_you_mean, quoted
from okubsd.errors import BadDescription

# What was copied, files, files and addresses to open, notifications, sound, and a microphone.
SERVICES = ("clip", "files", "open", "notify", "sound", "mic")
ALLOW, ASK, DENY = "allow", "ask", "deny"
ACTIONS = (ALLOW, ASK, DENY)

# What stands for more than one name, and for the desktop.
ANYONE, ANY_VM, DESKTOP, TAG = "*", "@anyvm", "@host", "@tag:"

_WORDS = 4
_FORM = "a line is 'service source target action', such as: clip vault @anyvm deny"


class PolicyLine(msgspec.Struct, frozen=True):
    """One line of a policy: what it is about, what is to be done, and where it stands.

    ``sources`` and ``targets`` are the VMs that have the tag, where a side is one.
    """

    service: str
    source: str
    target: str
    action: str
    file: str = ""
    line: int = 0
    sources: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        """Return its file and line, or that it is what holds without any."""
        return f"{self.file}:{self.line}" if self.file else "okubsd's own last line"

    def matches(self, service: str, source: str, target: str) -> bool:
        """Return whether it is about ``service`` from ``source`` to ``target``, names of VMs or DESKTOP."""
        sides = _is(self.source, source, self.sources) and _is(self.target, target, self.targets)
        return sides and self.service in (service, ANYONE)


# What holds where nobody has written anything: what the user does by his own command, and what a desktop hears and
# shows of a VM; one that asks for an address to be opened elsewhere has the user asked.
LAST = (
    *(PolicyLine(service, ANYONE, ANYONE, ALLOW) for service in ("clip", "files")),
    *(PolicyLine(service, DESKTOP, ANYONE, ALLOW) for service in ("open", "mic")),
    *(PolicyLine(service, ANY_VM, DESKTOP, ALLOW) for service in ("sound", "notify")),
    PolicyLine("open", ANY_VM, ANY_VM, ASK),
)


def _is(side: str, name: str, tagged: tuple[str, ...]) -> bool:
    return side in (ANYONE, name) or (side == ANY_VM and name != DESKTOP) or name in tagged


def decide_crossing(policy: Iterable[PolicyLine], service: str, source: str, target: str) -> PolicyLine:
    """Return the first line of ``policy`` that matches, or the last of okubsd's own."""
    lines = (*policy, *LAST, PolicyLine(ANYONE, ANYONE, ANYONE, DENY))
    return next(line for line in lines if line.matches(service, source, target))


def parse_policy(files: Iterable[tuple[Path, str]], vms: Mapping[str, Iterable[str]]) -> tuple[PolicyLine, ...]:
    """Return the lines of ``files``, paths with their texts, in their order.

    ``vms`` are the names that there are, each with its tags.  Raises BadDescription with every mistake of every file.
    """
    tagged: dict[str, tuple[str, ...]] = {}
    for name, tags in vms.items():
        for tag in tags:
            tagged[TAG + tag] = (*tagged.get(TAG + tag, ()), name)
    known, lines, mistakes = (*vms, *tagged), [], list[str]()
    for path, text in files:
        for number, written in enumerate(text.split("\n"), 1):
            words = written.partition("#")[0].split()
            if not words:
                continue
            wrong = _mistake(words, known)
            if wrong:
                mistakes.append(f"{path}:{number}: {wrong}")
                continue
            service, source, target, action = words
            sides = tagged.get(source, ()), tagged.get(target, ())
            lines.append(PolicyLine(service, source, target, action, str(path), number, *sides))
    if mistakes:
        raise BadDescription(mistakes)
    return tuple(lines)


def _mistake(words: list[str], known: tuple[str, ...]) -> str:
    """Return what is wrong with the words of a line, "" for nothing."""
    if len(words) != _WORDS:
        return _FORM
    service, *sides, action = words
    if service not in (*SERVICES, ANYONE):
        return f"there is no service {quoted(service)}{did_you_mean(service, SERVICES)}"
    for side in sides:
        if side not in (ANYONE, ANY_VM, DESKTOP, *known):
            allowed = (*known, ANY_VM, DESKTOP) if VM_NAME.fullmatch(side) else (ANY_VM, DESKTOP, *known)
            if side.startswith(TAG):
                return f"no VM has the tag {quoted(side.removeprefix(TAG))}{did_you_mean(side, allowed)}"
            return f"there is no VM {quoted(side)}{did_you_mean(side, allowed)}"
    if action not in ACTIONS:
        return f"{quoted(action)} is none of {', '.join(ACTIONS)}{did_you_mean(action, ACTIONS)}"
    return ""
