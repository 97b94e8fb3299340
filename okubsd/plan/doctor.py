"""Judge an OpenBSD host: what okubsd needs of it, what is there, and the command that helps."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

import msgspec

from okubsd import layout
from okubsd.config.marked import BEGIN
from okubsd.config.parse_y import ConfError
from okubsd.config.sizes import render_size
from okubsd.pf.rules import Ruleset
from okubsd.pf.site import defeats

# rdomain(4) knows the tables 0 to 255; 0 is the host's own.
_RDOMAINS = range(1, 256)

_AS_ROOT = "doas okubsd doctor"
_APPLY = "doas okubsd apply"
_EDIT = "doas vi /etc/pf.conf"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at.

    ``state`` is "ok", "lacks", "weak", "low", "slow" or "unknown"; ``command`` is what helps, "" for
    nothing; ``vital`` says that no VM starts without it.
    """

    state: str
    what: str
    command: str = ""
    vital: bool = False


class OpenBsdFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One look at an OpenBSD host, texts as its programs say them.

    ``kernel`` is dmesg(8), ``firmware`` whether vmd's BIOS is there, ``services`` what starts at boot, ``limits`` the
    login class of vmd as getcap(1) prints it, ``largest`` the memory of the largest VM in bytes; ``groups`` are the
    ``user``'s, ``group_exists`` tells of okubsd's ``group``.  Of what only root may see, None says that it was not
    seen: ``doas`` is doas.conf(5) ("" for none), ``pf_info`` is `pfctl -s info`, ``pf_conf`` the site's rules as far as
    they are read, or why they are not.  ``rdomains`` tells by interface, ``own`` are okubsd's numbers and ``numbers``
    the first and the last that it may take.
    """

    user: str
    group: str
    group_exists: bool
    groups: frozenset[str]
    kernel: str
    firmware: bool
    services: frozenset[str]
    vmd_answers: bool
    limits: str
    largest: int
    doas: str | None
    pf_info: str | None
    pf_conf: Ruleset | ConfError | None
    egress: tuple[str, ...]
    rdomains: Mapping[str, int]
    own: frozenset[int]
    numbers: tuple[int, int]


def judge_openbsd(facts: OpenBsdFacts) -> tuple[Finding, ...]:
    """Return what there is to say of the host, in the order in which it is put right."""
    return tuple(finding for judge in _JUDGES for finding in judge(facts))


def _vmm(facts: OpenBsdFacts) -> Iterable[Finding]:
    """vmm(4) attaches where the CPU has nested paging: `vmm0 at mainbus0: VMX/EPT` or `SVM/RVI` (observed)."""
    found = re.findall(r"(?m)^vmm0 at \S+: (\S+)", facts.kernel)
    if not facts.kernel:
        yield Finding(state="unknown", what="vmm: dmesg shows nothing to you", command=_AS_ROOT)
    elif found:
        yield Finding(state="ok", what=f"vmm: {found[-1]}")
    else:
        sentence = "vmm: the kernel found no CPU that runs VMs; switch virtualisation on in the machine's firmware"
        yield Finding(state="lacks", what=sentence, command="dmesg | grep vmm", vital=True)


def _firmware(facts: OpenBsdFacts) -> Iterable[Finding]:
    if facts.firmware:
        yield Finding(state="ok", what=f"firmware: /{layout.FIRMWARE}")
    else:
        sentence = f"firmware: there is no /{layout.FIRMWARE}, which a VM boots by"
        yield Finding(state="lacks", what=sentence, command="doas fw_update vmm", vital=True)


def _vmd(facts: OpenBsdFacts) -> Iterable[Finding]:
    if "vmd" not in facts.services:
        yield Finding(state="lacks", what="vmd: it is not started at boot", command="doas rcctl enable vmd", vital=True)
    elif not facts.vmd_answers:
        sentence = "vmd: it is enabled, and does not answer you"
        yield Finding(state="lacks", what=sentence, command="doas rcctl start vmd", vital=True)
    else:
        yield Finding(state="ok", what="vmd: enabled, and it answers")


def _class(facts: OpenBsdFacts) -> Iterable[Finding]:
    """login.conf(5): rc.d(8) starts vmd in the class of its name, and its VMs inherit the limits."""
    size = datasize(facts.limits)
    if size is None:
        yield Finding(state="ok", what="login class vmd: no datasize of its own")
    elif size < facts.largest:
        sentence = (
            f"login class vmd: datasize is {render_size(size)}, and the largest VM has {render_size(facts.largest)}"
        )
        yield Finding(state="weak", what=sentence, command="doas vi /etc/login.conf")
    else:
        yield Finding(state="ok", what=f"login class vmd: datasize {render_size(size)}")


_UNITS = {"": 1, "b": 512, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def datasize(record: str) -> int | None:
    """Return the soft limit of data in bytes of a login.conf(5) record, None where there is none or it is infinite."""
    found = re.findall(r":datasize(?:-cur)?=([0-9]+)([bkmgtBKMGT]?):", record)
    return int(found[0][0]) * _UNITS[found[0][1].lower()] if found else None


def _group(facts: OpenBsdFacts) -> Iterable[Finding]:
    group, user = facts.group, facts.user
    if not facts.group_exists:
        command = f"doas groupadd {group}"
        yield Finding(state="lacks", what=f"group: there is no group '{group}'", command=command, vital=True)
    elif user != "root" and group not in facts.groups:
        command = f"doas usermod -G {group} {user}"
        sentence = f"group: {user} is not in '{group}'; it counts from the next login on"
        yield Finding(state="lacks", what=sentence, command=command, vital=True)
    else:
        yield Finding(state="ok", what=f"group: {group}")


def _doas(facts: OpenBsdFacts) -> Iterable[Finding]:
    """doas(1) does nothing at all without its file, so it comes first."""
    if facts.doas == "":
        command = "su root -c 'cp /etc/examples/doas.conf /etc/doas.conf'"
        yield Finding(state="lacks", what="doas.conf: there is none", command=command, vital=True)


def _helper(facts: OpenBsdFacts) -> Iterable[Finding]:
    if facts.doas is None:
        yield Finding(state="unknown", what="doas.conf: only root may read it", command=_AS_ROOT)
    elif BEGIN in facts.doas:
        yield Finding(state="ok", what=f"doas.conf: the helper is allowed to the group '{facts.group}'")
    else:
        sentence = "doas.conf: nobody may call the helper"
        yield Finding(state="lacks", what=sentence, command=_APPLY, vital=True)


def _pf(facts: OpenBsdFacts) -> Iterable[Finding]:
    if facts.pf_info is None:
        yield Finding(state="unknown", what="pf: only root may ask", command=_AS_ROOT)
    elif facts.pf_info.startswith("Status: Enabled"):
        yield Finding(state="ok", what="pf: enabled")
    else:
        command = "doas rcctl enable pf; doas pfctl -e -f /etc/pf.conf"
        yield Finding(state="lacks", what="pf: it is not enabled", command=command, vital=True)


def _rules(facts: OpenBsdFacts) -> Iterable[Finding]:
    """A site's rules: those before ours that decide at once, those after it, and what keeps pf from looking."""
    rules = facts.pf_conf
    if rules is None:
        yield Finding(state="unknown", what="pf.conf: only root may read it", command=_AS_ROOT)
        return
    if isinstance(rules, ConfError):
        yield Finding(state="weak", what=f"/etc/pf.conf:{rules}", command="doas pfctl -n -f /etc/pf.conf")
        return
    yield from (Finding(state="weak", what=f"pf.conf: {trap}", command=_EDIT) for trap in defeats(rules))
    ours = [index for index, rule in enumerate(rules.rules) if rule.file == f"/{layout.PF_CONF}"]
    if not ours:
        sentence = "pf.conf: okubsd's rules are not in it"
        yield Finding(state="lacks", what=sentence, command=_APPLY, vital=True)
        return
    for rule in rules.rules[: ours[0]]:
        if rule.quick:
            sentence = f"{rule.file}:{rule.line}: it decides before okubsd's rules: {rule.text}"
            yield Finding(state="weak", what=sentence, command=_EDIT)
    after = [rule for rule in rules.rules[ours[-1] + 1 :] if rule.action != "match"]
    first = f", the first {after[0].file}:{after[0].line}: {after[0].text}" if after else ""
    yield Finding(state="ok", what=f"pf.conf: {len(after)} rules of the site come after okubsd's{first}")


def _egress(facts: OpenBsdFacts) -> Iterable[Finding]:
    """The group egress holds the interfaces of default routes (ifconfig(8))."""
    if facts.egress:
        yield Finding(state="ok", what=f"egress: {', '.join(facts.egress)}")
    else:
        sentence = "egress: no interface has a default route, so nothing leaves by 'nat'"
        yield Finding(state="weak", what=sentence, command="route -n show -inet")


def _numbers(facts: OpenBsdFacts) -> Iterable[Finding]:
    first, last = facts.numbers
    foreign = {
        number: name
        for name, number in sorted(facts.rdomains.items())
        if number in _RDOMAINS and number not in facts.own
    }
    clashes = [f"{name} is in {number}" for number, name in sorted(foreign.items()) if first <= number <= last]
    free = len(set(range(first, last + 1)) - facts.own - foreign.keys())
    said = f"rdomains: {free} of {first} to {last} are free"
    if clashes:
        sentence = f"{said}; not okubsd's: {', '.join(clashes)}"
        yield Finding(state="weak", what=sentence, command="ifconfig | grep rdomain")
    else:
        yield Finding(state="ok" if free else "weak", what=said)


_JUDGES: tuple[Callable[[OpenBsdFacts], Iterable[Finding]], ...] = (
    _doas,
    _vmm,
    _firmware,
    _vmd,
    _class,
    _group,
    _pf,
    _egress,
    _numbers,
    _helper,
    _rules,
)
