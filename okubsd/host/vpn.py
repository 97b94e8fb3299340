"""What can be seen of a tunnel, and the proof of it: tried from inside the VM."""

from __future__ import annotations

import re
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator

import msgspec

from okubsd.config.names import quoted
from okubsd.errors import Problem
from okubsd.host import door, gateway, programs
from okubsd.host.guest import ROOT, Guest
from okubsd.host.session import Session
from okubsd.host.trust import is_root
from okubsd.model import Argv, Network, NetworkKind, Vm
from okubsd.recipe import Proxy
from okubsd.vpn.status import WgState, parse_ifconfig_wg, parse_wg_show

_PATIENCE = 12
# The host's own way is only asked to have something to compare with.
_OWN_PATIENCE, _OWN_MEMORY = 4, 512 << 20

# bash(1) speaks TCP without any other program; every guest has it.
_FETCH = (
    'exec 3<>"/dev/tcp/$1/$2" || exit 1; '
    'printf "GET %s HTTP/1.0\\r\\nHost: %s\\r\\nConnection: close\\r\\n\\r\\n" "$3" "$1" >&3; head -c 4096 <&3'
)
# A datagram to an address where nobody answers DNS: a query for the name "." and the type NS (RFC 1035).
_ASK = (
    'exec 3<>"/dev/udp/$1/53" || exit 1; '
    "printf '\\251\\107\\001\\000\\000\\001\\000\\000\\000\\000\\000\\000\\000\\000\\002\\000\\001' >&3; "
    "timeout 5 head -c 2 <&3 | od -An -tx1"
)
# IPv6 by TCP; a guest of ours has none at all.
_SIX = 'exec 3<>"/dev/tcp/2001:db8::1/443"'

# An address for documentation (RFC 5737), where no resolver is.
_NOBODY = "192.0.2.53"


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was tried: whether it is as it should be (None: it could not be told), and the evidence."""

    name: str
    passed: bool | None
    evidence: str


class State(msgspec.Struct, frozen=True, kw_only=True):
    """One tunnel: its network, what holds it, whether that is there, and what is known of its peers."""

    network: str
    kind: NetworkKind
    holder: str
    up: bool
    peers: tuple[WgState, ...] = ()
    vms: tuple[str, ...] = ()


def ask_tunnels(session: Session, interfaces: Callable[[Network], str]) -> Iterator[State]:
    """Yield the state of every tunnel of the description; ``interfaces`` names that of a network on OpenBSD."""
    for network in session.description.networks:
        if not network.kind.is_tunnel:
            continue
        vms = tuple(vm.name for vm in session.description.vms if vm.network == network)
        if programs.has_vmd():
            yield _on_openbsd(network, interfaces(network), vms)
        else:
            yield _in_gateway(session, network, vms)


def _on_openbsd(network: Network, interface: str, vms: tuple[str, ...]) -> State:
    done = door.run(("ifconfig", interface), timeout=10)
    text = done.out.decode(errors="replace")
    up = done.code == 0 and "<UP" in text
    return State(
        network=network.name, kind=network.kind, holder=interface, up=up, peers=parse_ifconfig_wg(text), vms=vms
    )


def _in_gateway(session: Session, network: Network, vms: tuple[str, ...]) -> State:
    holder = next((vm for vm in gateway.known_gateways(session.description) if vm.tunnel == network.file), None)
    name = holder.name if holder else "nothing on this host"
    if holder is None or gateway.read_clients(session.places, holder, session.description) is None:
        return State(network=network.name, kind=network.kind, holder=name, up=False, vms=vms)
    out = as_root(Guest.find(session.places, holder), "wg show wg0 dump").out.decode(errors="replace")
    peers = parse_wg_show(out, time.time())
    return State(network=network.name, kind=network.kind, holder=name, up=bool(out.strip()), peers=peers, vms=vms)


def as_root(guest: Guest, command: str, *words: str) -> door.Done:
    """Run a command as root of a guest and return how it went; one that does not end is told as exit code 124."""
    return guest.ask(("sh", "-c", command, "sh", *words), user=ROOT, timeout=_PATIENCE + 10)


def as_user(guest: Guest, command: str, *words: str) -> door.Done:
    """Run a command of bash(1) as the user of a guest, and return how it went."""
    call = ("timeout", str(_PATIENCE), "bash", "-c", command, "bash", *words)
    return guest.ask(call, timeout=_PATIENCE + 10)


_URL = re.compile(r"http://([A-Za-z0-9.-]{1,253})(?::(\d{1,5}))?(/[!-~]*)?")
_ADDRESS = re.compile(rb"(?<![0-9.])(\d{1,3}(?:\.\d{1,3}){3})(?![0-9.])")


def fetch_address(guest: Guest, url: str) -> tuple[str, str]:
    """Return the address that the service at ``url`` sees a ``guest`` come from, or "" and why not."""
    match = _URL.fullmatch(url)
    if match is None:
        raise Problem(f"{quoted(url)} is no http:// URL", "okubsd vpn test VM --url http://icanhazip.com/")
    done = as_user(guest, _FETCH, match[1], match[2] or "80", match[3] or "/")
    _, _, body = done.out.partition(b"\r\n\r\n")
    found = _ADDRESS.search(body)
    return (found[1].decode(), "") if found else ("", door.reason(done) if done.code else "it told no address")


def own_address(url: str) -> str:
    """Return the address that the service at ``url`` sees this host come from, "" where it cannot be reached.

    A child asks, since a server may answer a byte at a time, or anything.
    """

    def look(end: socket.socket) -> None:
        with urllib.request.urlopen(url, timeout=_OWN_PATIENCE) as answer:
            end.sendall(answer.read(4096).replace(b"\n", b" ") + b"\n")

    child = door.Child(look, memory=_OWN_MEMORY)
    try:
        found = _ADDRESS.search(child.ask(_OWN_PATIENCE) or b"")
    finally:
        child.end()
    return found[1].decode() if found else ""


def checks(
    session: Session, vm: Vm, url: str, *, cut: bool, compare: bool = False, interface: str = ""
) -> Iterator[Check]:
    """Yield what was tried from inside a running ``vm``; ``cut`` takes its tunnel down for a moment.

    ``compare`` asks the service from this host too, which tells it both addresses; ``interface`` is that of the
    tunnel where this host has it itself.
    """
    guest = Guest.find(session.places, vm)
    ours = own_address(url) if compare else None
    theirs, why = fetch_address(guest, url)
    yield _exit_check(ours, theirs, why)
    yield _dns_check(session, guest)
    done = as_user(guest, _SIX)
    yield Check(
        name="IPv6",
        passed=done.code != 0,
        evidence=f"a connection by IPv6 fails: {door.reason(done)}" if done.code else "a connection by IPv6 succeeds",
    )
    through = gateway.find_gateway(vm, session.description)
    if cut and through:
        proxy = session.recipes[through.image].proxy
        yield _cut_check(guest, Guest.find(session.places, through), proxy, url)
    elif cut:
        yield _cut_here(guest, interface, url)


def _exit_check(ours: str | None, theirs: str, why: str) -> Check:
    if not theirs:
        return Check(name="exit address", passed=False, evidence=f"the service was not reached from the VM: {why}")
    if ours is None:
        evidence = f"the VM comes from {theirs}; --compare asks from this host too, and shows the service both"
        return Check(name="exit address", passed=True, evidence=evidence)
    if not ours:
        evidence = f"the VM comes from {theirs}; this host does not reach the service, so there is nothing to compare"
        return Check(name="exit address", passed=True, evidence=evidence)
    evidence = f"the VM comes from {theirs}, this host from {ours}"
    return Check(name="exit address", passed=theirs != ours, evidence=evidence)


def _dns_check(session: Session, guest: Guest) -> Check:
    """Ask an address where no resolver is: an answer comes from the one that all names are asked of."""
    through = gateway.find_gateway(guest.vm, session.description)
    before = _asked(session, through, guest.vm) if through else None
    done = as_user(guest, _ASK, _NOBODY)
    answered = b"a9 47" in done.out
    evidence = f"a query sent to {_NOBODY}, where no resolver is, {'was' if answered else 'was not'} answered"
    if through is None or before is None:
        return Check(name="DNS path", passed=answered, evidence=evidence)
    after = _asked(session, through, guest.vm) or 0
    evidence += f"; {through.name} diverted {after - before} packets to its own resolver"
    return Check(name="DNS path", passed=answered and after > before, evidence=evidence)


def _asked(session: Session, through: Vm, vm: Vm) -> int | None:
    """Return how many packets of ``vm`` to a resolver its gateway has diverted, or None where it does not say."""
    clients = gateway.read_clients(session.places, through, session.description)
    number = clients.number(vm.name) if clients else None
    done = as_root(Guest.find(session.places, through), f"nft list counter inet okubsd asked{number}")
    match = re.search(rb"packets (\d+)", done.out)
    return int(match[1]) if match else None


_DOWN = "tunnel down"


def _cut_here(guest: Guest, interface: str, url: str) -> Check:
    """Take an interface of OpenBSD's down for a moment; its route comes back with it (wg(4), observed)."""
    if not is_root():
        evidence = f"only root takes {interface} down; to see it: doas ifconfig {interface} down, and up afterwards"
        return Check(name=_DOWN, passed=None, evidence=evidence)
    done = door.run(("ifconfig", interface, "down"), timeout=10)
    if done.code != 0:
        return Check(name=_DOWN, passed=None, evidence=f"{interface} does not go down: {door.reason(done)}")
    try:
        theirs, why = fetch_address(guest, url)
    finally:
        door.run(("ifconfig", interface, "up"), timeout=10)
    return _judge_cut(guest, url, theirs, why)


def _judge_cut(guest: Guest, url: str, theirs: str, why: str) -> Check:
    """Judge what was reached while the tunnel was down, and whether it came back."""
    if theirs:
        return Check(name=_DOWN, passed=False, evidence=f"the VM still came from {theirs}")
    again, _ = fetch_address(guest, url)
    back = f"afterwards it came from {again}" if again else "afterwards it did not come back"
    return Check(name=_DOWN, passed=bool(again), evidence=f"nothing was reached without it ({why}); {back}")


# Has every process of a user stand still, or go on.
_SIGNAL = """for process in /proc/[0-9]*; do
	[ "$(stat -c %U "$process" 2>/dev/null)" != "$2" ] || kill "$1" "${process#/proc/}"
done"""


def _cut_check(guest: Guest, through: Guest, proxy: Proxy | None, url: str) -> Check:
    """Take away for a moment what the gateway ``through`` sends everything into: its tunnel, or its ``proxy``."""
    # The routes of an interface are gone with it; the service of the gateway knows them.
    down: Argv = (_SIGNAL, "-STOP", proxy.user) if proxy else ("ip link set wg0 down",)
    up: Argv = (_SIGNAL, "-CONT", proxy.user) if proxy else ("/usr/lib/okubsd/gateway routes",)
    done = as_root(through, *down)
    if done.code != 0:
        return Check(name=_DOWN, passed=None, evidence=f"{through.vm.name} does not take it down: {door.reason(done)}")
    try:
        theirs, why = fetch_address(guest, url)
    finally:
        as_root(through, *up)
    return _judge_cut(guest, url, theirs, why)
