"""Decide how the interfaces of networks on an OpenBSD host are made anew, and no others."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable

from okubsd import layout
from okubsd.hostfile import FileState
from okubsd.model import NETWORK_DRIVERS, TUNNEL_DRIVERS
from okubsd.plan.changes import INTERFACE, Change
from okubsd.plan.steps import Call, Step
from okubsd.vmd.helper import parse_record


def interface_steps(changes: tuple[Change, ...]) -> list[Step]:
    """Return what makes the interfaces of networks anew whose files changed, and leaves all others as they are.

    Destroying one and making it again is what wg(4) takes without fail (observed); what goes through it has no way
    in the meantime.
    """
    down, up = _switches(changes)
    for change in changes:
        match = INTERFACE.fullmatch(change.path)
        if match is None or match[2] not in NETWORK_DRIVERS or _of_switch(change):
            continue
        name, number = match[1], match[1].removeprefix(match[2])
        if match[2] == "tun":
            argv = ("pkill", "-U", "root", "-f", f"openvpn .*--dev {name} ")
            down.append(Call(what=f"end the openvpn of {name}", argv=argv, may_fail=True))
        down.append(Call(what=f"take {name} down", argv=("ifconfig", name, "destroy"), may_fail=True))
        if change.new is not None:
            loopback = (f"lo{number}",) if match[2] in TUNNEL_DRIVERS else ()
            argv = ("sh", "/etc/netstart", *loopback, name)
            up.append(Call(what=f"bring {name} up", argv=argv))
    return [*down, *up]


def _switches(changes: tuple[Change, ...]) -> tuple[list[Step], list[Step]]:
    """Return what takes down, and what brings up, the switches of which a file changed.

    A switch and the host's port on it are one: it takes no port that is not there, and netstart(8) says nothing then
    (observed: destroying both, then one call for both, works).
    """
    changed = {match[1]: change.new for change in changes if (match := _of_switch(change))}
    down: list[Step] = []
    up: list[Step] = []
    for number in sorted({int(re.sub(r"\D", "", name)) for name in changed}):
        veb, port = f"veb{number}", f"vport{number}"
        down += [
            Call(what=f"take {name} down", argv=("ifconfig", name, "destroy"), may_fail=True) for name in (port, veb)
        ]
        new = changed.get(veb)
        if veb in changed and new is None:
            continue
        has_port = changed.get(port) is not None or (new is not None and f"add {port}\n" in new.text)
        names = (veb, port) if has_port else (veb,)
        up.append(Call(what=f"bring {' and '.join(names)} up", argv=("sh", "/etc/netstart", *names)))
    return down, up


def _of_switch(change: Change) -> re.Match[str] | None:
    match = INTERFACE.fullmatch(change.path)
    return match if match is not None and match[2] in ("veb", "vport") else None


def destroy_interfaces(changes: tuple[Change, ...], present: Container[str]) -> list[Step]:
    """Return what takes the taps and loopbacks down that are ``present`` and that no VM or network has any more.

    A tap that ifconfig(8) made stays when its VM ends, and a loopback while a tap is in its rdomain (observed).
    """
    taps, loopbacks = set[str](), set[str]()
    for change in changes:
        match = INTERFACE.fullmatch(change.path)
        if match is not None and change.new is None:
            (taps if match[2] == "tap" else loopbacks if match[2] == "lo" else set[str]()).add(match[1])
        elif change.path.startswith(f"{layout.RECORDS}/"):
            taps |= _taps_of(change.old) - _taps_of(change.new)
    return [
        Call(what=f"take {name} down", argv=("ifconfig", name, "destroy"), may_fail=True)
        for name in (*sorted(taps), *sorted(loopbacks))
        if name in present
    ]


def _taps_of(record: FileState | None) -> set[str]:
    """Return the names of the taps of a VM by its ``record``, none where there is none."""
    read = parse_record(record.text) if record else None
    return {f"tap{number}" for number in (read.number, *read.taps.split())} if read else set()


def port_of(record: FileState | None) -> str:
    """Return the switch of a VM and its port there, by its ``record``, "" where it has none."""
    read = parse_record(record.text) if record else None
    return read.protected or read.meets if read else ""


def remade_switches(paths: Iterable[str]) -> set[str]:
    """Return the vebs that are made anew with changed files: their own, or that of the host's port on one."""
    found = (INTERFACE.fullmatch(path) for path in paths)
    return {"veb" + re.sub(r"\D", "", match[1]) for match in found if match and match[2] in ("veb", "vport")}
