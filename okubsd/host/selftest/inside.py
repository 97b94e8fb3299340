"""The walls inside of a guest and on its way out: attacked by programs in it, as its user and as root."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from okubsd.config.names import quoted
from okubsd.guest.ssh import USER, X11_PORT
from okubsd.host import door
from okubsd.host.guest import ROOT, Guest
from okubsd.host.selftest.lines import Line, judge, no_answer, not_tried
from okubsd.model import Argv, NetworkKind
from okubsd.recipe import Recipe

_SECONDS, _MOST_ROUTES, _MOST_LINES = 30.0, 16, 20_000
SSH_PORT = 22
# The NIC that every guest has, as its kernel calls it.
_NIC = "eth0"
# What the ssh server of our base is called.
_SERVERS = {"dropbear"}


class Victim(msgspec.Struct, frozen=True):
    """Who is attacked from inside of the guest.

    ``others`` are addresses and ports of the ssh servers of other VMs that run, ``setuid`` the paths that its recipe
    lets keep that bit, ``host`` addresses of this host, ``published`` the guest's ports that are published.
    """

    guest: Guest
    others: tuple[tuple[str, int], ...]
    setuid: tuple[str, ...]
    host: tuple[str, ...]
    published: tuple[int, ...]


def _shell(victim: Victim, script: str, *words: str, user: str = USER) -> list[str] | None:
    """Return the lines that a script says in the guest; None where it does not end well, or in time."""
    argv: Argv = ("sh", "-c", script, "selftest", *words)
    done: door.Done = victim.guest.ask(argv, user=user, timeout=_SECONDS)
    return done.out.decode(errors="replace").splitlines() if done.code == 0 else None


_FIND = "find / -xdev -type f -perm /6000 2>/dev/null; find /tmp -xdev -type f -perm /6000 2>/dev/null; true"
_MAKE = "set -e; rm -f /tmp/okubsd-selftest; : >/tmp/okubsd-selftest; chmod 4755 /tmp/okubsd-selftest"


def become_root(victim: Victim) -> Line:
    """Look for programs that run as somebody else than who calls them."""
    tried = "look for programs with a setuid or setgid bit"
    found = _shell(victim, _FIND)
    _shell(victim, _MAKE, user=ROOT)
    planted = _shell(victim, _FIND) or []
    _shell(victim, "rm -f /tmp/okubsd-selftest", user=ROOT)
    more = sorted(set(found or []) - set(victim.setuid))
    control = found is not None and "/tmp/okubsd-selftest" in planted
    seen = f"there is {quoted(more[0], 200)}" if more else "there are none but the recipe's"
    return judge("setuid", tried, broke=bool(more), control=control, seen=seen)


# The first sector is written as it is: where that is let, nothing is another.  A line for each drive.
_OPEN = (
    "for drive in /dev/vd? /dev/sd?; do [ -b $drive ] || continue; "
    "dd if=$drive of=/run/okubsd-selftest bs=512 count=1 2>/dev/null && "
    "dd if=/run/okubsd-selftest of=$drive bs=512 count=1 conv=notrunc,fsync 2>/dev/null && "
    "echo open $drive || echo shut $drive; done; rm -f /run/okubsd-selftest; "
    'awk \'$2 == "/home" || $2 ~ "^/home/" { print "home", $1 }\' /proc/mounts; true'
)


# A VM without a home writes to a file in the same way.
_SCRATCH = "dd if=/dev/zero of=/run/okubsd-selftest bs=512 count=1 conv=notrunc,fsync && rm /run/okubsd-selftest"


def change_images(victim: Victim) -> Line:
    """Write to the drives of the images, as root."""
    tried = "write to the images' drives, as root"
    lines = _shell(victim, _OPEN, user=ROOT) or []
    said = [match.groups() for line in lines if (match := re.fullmatch(r"(home|open|shut) (/dev/[a-z0-9]+)", line))]
    homes = {drive for word, drive in said if word == "home"}
    opened = [drive for word, drive in said if word == "open"]
    more = [drive for drive in opened if drive not in homes]
    shut = [drive for word, drive in said if word == "shut"]
    control = bool(set(opened) & homes) or _shell(victim, _SCRATCH, user=ROOT) is not None
    seen = f"{more[0]} was written to" if more else f"{len(shut)} drives refuse it"
    return judge("images", tried, broke=bool(more), control=control and bool(shut or more), seen=seen)


def listening(lines: list[str]) -> dict[int, set[str]]:
    """Return the ports that a guest listens at with their sockets' numbers, of its /proc/net/tcp (proc(5))."""
    found: dict[int, set[str]] = {}
    pattern = r"\s*\d+: [0-9A-F]{8}:([0-9A-F]{4}) [0-9A-F]{8}:0000 0A(?: +\S+){5} +([0-9]+)"
    for line in lines[:_MOST_LINES]:
        if row := re.match(pattern, line):
            found.setdefault(int(row[1], 16), set()).add(row[2])
    return found


def holders(lines: list[str]) -> dict[str, set[str]]:
    """Return who holds each socket, by its number, of what ls(1) and grep(1) say of /proc/PID/fd and /proc/PID/comm."""
    names: dict[str, str] = {}
    held: dict[str, set[str]] = {}
    at = ""
    for line in lines[:_MOST_LINES]:
        if match := re.fullmatch(r"([0-9]+)/comm:(.{1,16})", line):
            names[match[1]] = match[2]
        elif match := re.fullmatch(r"([0-9]+)/fd:", line):
            at = match[1]
        elif match := re.search(r"-> socket:\[([0-9]+)\]$", line):
            held.setdefault(match[1], set()).add(at)
    return {socket: {names.get(pid, "") for pid in pids} for socket, pids in held.items()}


_SOCKETS = (
    "cat /proc/net/tcp; env | grep -c '^SSH_AUTH_SOCK=' ; cd /proc; grep . [0-9]*/comm /dev/null 2>/dev/null; "
    "ls -l [0-9]*/fd 2>/dev/null; true"
)


def use_channels(victim: Victim) -> Line:
    """Look for ways through the ssh connection that it does not need."""
    tried = "look for ports, agents and sockets that the ssh connection brought"
    lines = _shell(victim, _SOCKETS, user=ROOT) or []
    ports, sockets = listening(lines), holders(lines)
    who = {port: {name for socket in held for name in sockets.get(socket, ())} for port, held in ports.items()}
    agents = next((line for line in lines if line.strip().isdigit()), "0")
    known = {SSH_PORT, X11_PORT, *victim.published}
    effective = _effective(victim)
    open_ways = [f"{name} {value}" for name, value in effective.items() if name in _CLOSED and value != "no"]
    more = sorted(port for port in ports if port not in known)
    # A port that the guest's ssh server listens at is one that the host's ssh has asked for.
    brought = [port for port in more if _SERVERS & who[port]]
    seen = "windows only" if X11_PORT in ports else "none"
    if open_ways:
        seen = f"the host's ssh has {open_ways[0]}"
    elif brought:
        seen = f"port {brought[0]} leads through the connection"
    elif agents != "0":
        seen = "an agent is there"
    elif more:
        seen += f"; port {more[0]} is a program's of the guest"
    broke = bool(open_ways or brought) or agents != "0"
    control = bool(_SERVERS & who.get(SSH_PORT, set())) and bool(effective)
    return judge("ssh", tried, broke=broke, control=control, seen=seen)


# What of ssh_config(5) leads from a guest to the host.
_CLOSED = (
    *("forwardagent", "forwardx11", "permitlocalcommand", "tunnel", "gssapidelegatecredentials"),
    *("remoteforward", "dynamicforward", "localforward"),
)


def _effective(victim: Victim) -> dict[str, str]:
    """Return how the host's ssh(1) is set for this guest (ssh -G)."""
    words = victim.guest.argv()
    done = door.ask(("ssh", "-G", *words[words.index("ssh") + 1 :]), timeout=10)
    pairs = (line.split(" ", 1) for line in done.out.decode(errors="replace").splitlines() if " " in line)
    return {name: "no" if value == "false" else value for name, value in pairs}


@contextlib.contextmanager
def _listening(address: str) -> Iterator[socket.socket | None]:
    """Listen at a port of ``address`` for the block; None where this host has no such address."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        try:
            listener.bind((address, 0))
            listener.listen(4)
        except OSError:
            yield None
            return
        listener.settimeout(0.1)
        yield listener


_CONNECT = 'timeout 5 busybox nc -w 3 "$1" "$2" </dev/null >/dev/null 2>&1; true'


def _is_reached(victim: Victim, listener: socket.socket, address: str, user: str) -> bool:
    _shell(victim, _CONNECT, address, str(listener.getsockname()[1]), user=user)
    try:
        listener.accept()[0].close()
    except OSError:
        return False
    return True


def reach_host(victim: Victim) -> list[Line]:
    """Connect to this host by every address of it, as the guest's user and as root."""
    tried = "connect to this host"
    # The far side of the guest's own network stands for the host's loopback.
    targets = {address: address for address in victim.host}
    targets |= dict.fromkeys(_neighbors(victim), "127.0.0.1")
    control = _connects_to_itself(victim)
    lines = []
    with _way_out(victim):
        for address, here in targets.items():
            with _listening(here) as listener:
                if listener is None:
                    continue
                by = [user for user in (USER, ROOT) if _is_reached(victim, listener, address, user)]
            seen = f"it was reached by {by[0]}" if by else "it was not reached"
            lines.append(judge(f"host {address}", f"{tried} at {address}", broke=bool(by), control=control, seen=seen))
    return lines


_GREETING = 'timeout 5 busybox nc -w 3 "$1" "$2" </dev/null 2>/dev/null | head -c 4; echo; true'


def reach_others(victim: Victim) -> Line:
    """Connect to the ssh servers of other VMs, where they are and behind the guest's own network."""
    tried = "connect to other VMs"
    if not victim.others:
        return not_tried("other VMs", tried, "no other VM runs")
    places = [(address, port) for _, port in victim.others for address in _neighbors(victim)]
    places += [(address, port) for address, port in victim.others if not address.startswith("127.")]
    if not places:
        return no_answer("other VMs", tried, "the guest does not tell its network, so there is no place to try")
    with _way_out(victim):
        by = [(place, user) for place in places for user in (USER, ROOT) if _greets(victim, *place, user=user)]
    seen = f"the ssh server at {by[0][0][0]} port {by[0][0][1]} greeted {by[0][1]}" if by else "none was reached"
    return judge("other VMs", tried, broke=bool(by), control=_connects_to_itself(victim), seen=seen)


def _connects_to_itself(victim: Victim) -> bool:
    """Return whether the guest's way of connecting works at all: its own ssh server greets."""
    return _greets(victim, "127.0.0.1", SSH_PORT)


def _greets(victim: Victim, address: str, port: int, user: str = USER) -> bool:
    """Return whether an ssh server greets the guest there."""
    said = _shell(victim, _GREETING, address, str(port), user=user)
    return bool(said and said[0].startswith("SSH"))


class Routes(msgspec.Struct, frozen=True):
    """What a guest's table of routes says of its NIC: its ``routers``, and the ``networks`` that it lies in.

    A network is its address and its mask, as numbers.  What the guest has made for itself, as for containers, is none.
    """

    routers: tuple[str, ...]
    networks: tuple[tuple[int, int], ...]


def parse_routes(lines: list[str]) -> Routes:
    """Return the routes that ``lines`` of /proc/net/route (proc(5)) are; numbers there are in the host's order."""
    rows = [line.split() for line in lines[1 : 1 + _MOST_ROUTES]]
    numbers = [
        tuple(int.from_bytes(bytes.fromhex(row[at]), "little") for at in (1, 2, 7))
        for row in rows
        if len(row) > 7 and row[0] == _NIC and all(re.fullmatch(r"[0-9A-F]{8}", row[at]) for at in (1, 2, 7))
    ]
    routers = tuple(_dotted(router) for network, router, _ in numbers if network == 0 and router)
    return Routes(routers, tuple((network, mask) for network, router, mask in numbers if network and not router))


def _dotted(number: int) -> str:
    return ".".join(str(byte) for byte in number.to_bytes(4, "big"))


def _routes(victim: Victim) -> Routes:
    return parse_routes(_shell(victim, "cat /proc/net/route") or [])


def _neighbors(victim: Victim) -> list[str]:
    """Return who may lie at the far side of the guest's networks: routers, and the first addresses of each."""
    routes = _routes(victim)
    first = [_dotted(network + number) for network, mask in routes.networks for number in (1, 2, 3) if ~mask & 2]
    return list(dict.fromkeys((*routes.routers, *first)))


@contextlib.contextmanager
def _way_out(victim: Victim) -> Iterator[None]:
    """Have root send what goes elsewhere by the guest's network, where no route is, for the block."""
    routes = _routes(victim)
    made = None
    if not routes.routers and routes.networks:
        network, _ = routes.networks[0]
        # The far side of QEMU's network is the second address (qemu(1), -netdev user).
        made = _shell(victim, 'ip route add default via "$1"', _dotted(network + 2), user=ROOT)
    try:
        yield
    finally:
        if made is not None:
            _shell(victim, "ip route del default", user=ROOT)


def leave_unasked(victim: Victim) -> Line:
    """Leave by the network that the guest has none of, by a route that its root makes."""
    tried = "find a way out"
    if victim.guest.vm.network.kind is not NetworkKind.NONE:
        return not_tried("no network", tried, f"the VM has the network {victim.guest.vm.network.name}")
    routers = _routes(victim).routers
    control = _connects_to_itself(victim)
    with _way_out(victim):
        answers = [address for address in _neighbors(victim) if _answers(victim, address)]
    broke = bool(routers or answers)
    seen = "nobody answers, by whatever route"
    if broke:
        seen = f"there is a router, {routers[0]}" if routers else f"{answers[0]} answers"
    return judge("no network", tried, broke=broke, control=control, seen=seen)


_RESOLVE = 'timeout 5 busybox nslookup okubsd.invalid "$1" 2>&1 | grep -c "find\\|^Name:"; true'


def _answers(victim: Victim, address: str) -> bool:
    """Return whether somebody answers as a resolver of names there."""
    said = _shell(victim, _RESOLVE, address, user=ROOT)
    return bool(said and said[0].strip() not in ("", "0"))


def speak_ipv6(victim: Victim) -> Line:
    """Look whether the guest has IPv6, in which no rule of a VM is."""
    tried = "have an address of IPv6, as root"
    add = "ip -6 address add fd00::2/64 dev eth0 2>/dev/null; cat /proc/net/if_inet6 2>/dev/null; true"
    found = _shell(victim, add, user=ROOT)
    more = [line for line in found or [] if not line.startswith("0" * 31 + "1 ")]
    _shell(victim, "ip -6 address del fd00::2/64 dev eth0 2>/dev/null; true", user=ROOT)
    seen = "it has one" if more else "there is no IPv6"
    return judge("IPv6", tried, broke=bool(more), control=found is not None and _connects_to_itself(victim), seen=seen)


def attack_all(victim: Victim, tell: Callable[[Line], Any]) -> list[Line]:
    """Try every attack, and ``tell`` each line as it is known."""
    lines: list[Line] = []
    for found in (become_root, change_images, use_channels, leave_unasked, speak_ipv6, reach_others):
        lines.append(found(victim))
        tell(lines[-1])
    for line in reach_host(victim):
        lines.append(line)
        tell(line)
    return lines


def kept_setuid(recipes: tuple[Recipe, ...]) -> tuple[str, ...]:
    """Return the paths that the images' recipes let keep their bit."""
    return tuple(path for recipe in recipes for path in recipe.setuid)
