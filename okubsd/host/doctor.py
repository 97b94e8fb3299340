"""One look at an OpenBSD host for `doctor`: what its programs and files say, nothing decided."""

from __future__ import annotations

import grp
import os

from okubsd import layout
from okubsd.config.parse_y import ConfError
from okubsd.errors import Problem
from okubsd.host import apply, door, programs
from okubsd.host.system import HostRoot
from okubsd.host.trust import is_root, user_name
from okubsd.model import Description
from okubsd.netif.ifconfig import parse_all
from okubsd.netif.numbers import FIRST, LAST
from okubsd.pf.rule_ends import PfHost
from okubsd.pf.rules import Ruleset
from okubsd.pf.site import parse_site
from okubsd.plan.doctor import OpenBsdFacts

_GROUP = "okubsd"
_PF_CONF = "etc/pf.conf"


def ask_openbsd(system: HostRoot, description: Description | None) -> OpenBsdFacts:
    """Return what is to be seen of the host; ``description`` is the description, None where it has mistakes."""
    interfaces = parse_all(_said("ifconfig"))
    group = description.host.group if description else _GROUP
    # Under doas(1), id(1) without a name tells of root.
    user = os.environ.get("DOAS_USER") or user_name(os.geteuid())
    return OpenBsdFacts(
        user=user,
        group=group,
        group_exists=_gid(group) is not None,
        groups=frozenset(_said("id", "-Gn", user).split()),
        kernel=_said("dmesg"),
        firmware=system.path(layout.FIRMWARE).is_file(),
        services=frozenset(_said("rcctl", "ls", "on").split()),
        vmd_answers=apply.vmd_runs(),
        limits=_said("getcap", "-f", "/etc/login.conf.d/vmd:/etc/login.conf", "vmd"),
        largest=max((vm.memory for vm in description.vms), default=0) if description else 0,
        doas=_read(system, "etc/doas.conf"),
        pf_info=_said("pfctl", "-s", "info") if is_root() else None,
        pf_conf=_rules(system),
        egress=tuple(tap.name for tap in interfaces if "egress" in tap.groups),
        rdomains={tap.name: tap.rdomain for tap in interfaces if tap.rdomain},
        own=frozenset(apply.kept_numbers(system).values()),
        numbers=description.host.numbers if description else (FIRST, LAST),
    )


def _said(*argv: str) -> str:
    """Return what a program of base says, "" where it is not there or fails."""
    if programs.find_program(argv[0]) is None:
        return ""
    done = door.run(argv, timeout=20)
    return done.out.decode(errors="replace") if done.code == 0 else ""


def _gid(group: str) -> int | None:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        return None


def _read(system: HostRoot, name: str) -> str | None:
    """Return the text of a file, "" where there is none, None where it may not be read."""
    try:
        stat = system.read(name)
    except Problem:
        return None
    return stat.text if stat else ""


def _rules(system: HostRoot) -> Ruleset | ConfError | None:
    """Return the rules of pf.conf(5) with what they include, what is wrong with them, or None where they are hidden."""
    text = _read(system, _PF_CONF)
    if text is None:
        return None
    try:
        return parse_site(text, f"/{_PF_CONF}", PfHost(read=lambda path: _read(system, path)))[0]
    except ConfError as error:
        return error
