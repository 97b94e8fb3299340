"""The nft(8) text of a VM's rules: in a gateway VM for each VM behind it, and in the namespace of a VM's own QEMU.

A packet of a VM meets its rules each time, not only when a connection begins: a rule that is taken away ends what
it let through.  Source: nft(8).
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from okubsd.recipe import Proxy
from okubsd.rules import Bandwidth, NamedSet, Rule, asks_names, effective_rules, is_name, named_sets

TABLE = "okubsd"

# How much of a second's worth may come at once.
_BURST_SHARE = 5


class Client(msgspec.Struct, frozen=True, kw_only=True):
    """A VM as its gateway sees it: the interface of their link, the VM's address on it, and its rules.

    ``dns`` is the port of the gateway's own resolver for it, whatever resolver it asks.
    """

    name: str
    interface: str
    address: str
    dns: int = 53
    rules: tuple[Rule, ...] = ()
    bandwidth: Bandwidth = Bandwidth()


def render_names(sets: Iterable[NamedSet]) -> str:
    """Return the file for the program `names`: a name and its set a line."""
    return "".join(f"{entry.host} {entry.set}\n" for entry in sets)


def render_gateway(
    clients: tuple[Client, ...],
    *,
    out: str,
    endpoints: Iterable[tuple[str, int]],
    now: float,
    resolvers: Iterable[str] = (),
    uplink: str = "eth0",
    proxy: Proxy | None = None,
) -> str:
    """Return the rules of a gateway VM.

    ``out`` is the interface that the packets of its ``clients`` leave by, ``endpoints`` what alone the gateway
    itself reaches by its ``uplink``, ``resolvers`` whom it asks for names by ``out``, ``proxy`` what takes the
    place of all that.
    """
    sets = named_sets(rule for client in clients for rule in client.rules)
    links = _set_of(client.interface for client in clients) if clients else '"none"'
    body = [*(f"set {entry.set} {{ type ipv4_addr; }}" for entry in sets)]
    for number in range(1, len(clients) + 1):
        body += [f"counter {kind}{number} {{ }}" for kind in ("passed", "refused", "asked")]
    divert = _divert(clients, proxy, now)
    body += _chain("divert", "type nat hook prerouting priority dstnat; policy accept;", divert)
    if proxy:
        # The gateway's own programs look names up where all others do.
        own = f'oifname "lo" meta l4proto {{ tcp, udp }} th dport 53 redirect to :{proxy.dns}'
        body += _chain("own", "type nat hook output priority -100; policy accept;", [own])
    body += _chain("hide", "type nat hook postrouting priority srcnat; policy accept;", [f'oifname "{out}" masquerade'])
    body += _chain("forward", "type filter hook forward priority filter; policy drop;", _forward(clients, out, proxy))
    inward = _input(clients, (uplink, out), proxy, now)
    body += _chain("input", "type filter hook input priority filter; policy drop;", inward)
    asked = [f'oifname "{out}" ip daddr {who} meta l4proto {{ tcp, udp }} th dport 53 accept' for who in resolvers]
    outward = _output(endpoints, links, uplink, proxy, asked)
    body += _chain("output", "type filter hook output priority filter; policy drop;", outward)
    for number, client in enumerate(clients, 1):
        body += _chain(f"client{number}", "", _client_rules(client, number, sets, now, proxied=proxy is not None))
    return _table(body)


def _set_of(words: Iterable[str]) -> str:
    return "{ " + ", ".join(f'"{word}"' for word in words) + " }"


def _chain(name: str, head: str, lines: Iterable[str]) -> list[str]:
    inner = [head] if head else []
    return [f"chain {name} {{", *(f"\t{line}" for line in (*inner, *lines)), "}"]


def _table(body: Iterable[str]) -> str:
    """Return a whole table in the place of the one before, in one transaction."""
    lines = [f"table inet {TABLE} {{ }}", f"delete table inet {TABLE}", f"table inet {TABLE} {{"]
    return "".join(f"{line}\n" for line in (*lines, *(f"\t{line}" for line in body), "}"))


def _from(client: Client) -> str:
    return f'iifname "{client.interface}" ip saddr {client.address}'


def _divert(clients: tuple[Client, ...], proxy: Proxy | None, now: float) -> list[str]:
    """Return where DNS goes whatever resolver it was sent to, and with a ``proxy`` also TCP."""
    lines = []
    for number, client in enumerate(clients, 1):
        who = _from(client)
        if asks_names(client.rules, now):
            port = proxy.dns if proxy else client.dns
            diverted = f"counter name asked{number} redirect to :{port}"
            lines.append(f"{who} meta l4proto {{ tcp, udp }} th dport 53 {diverted}")
        if proxy:
            lines.append(f"{who} meta l4proto tcp redirect to :{proxy.tcp}")
    return lines


def _forward(clients: tuple[Client, ...], out: str, proxy: Proxy | None) -> list[str]:
    if proxy:
        return [f"{_from(client)} reject with icmpx admin-prohibited" for client in clients]
    lines = ["meta nfproto != ipv4 drop"]
    for number, client in enumerate(clients, 1):
        down = _limit(client.bandwidth.down, f'oifname "{client.interface}"')
        lines += down
        lines.append(f'iifname "{out}" oifname "{client.interface}" ct state established,related accept')
        lines.append(f'{_from(client)} oifname "{out}" jump client{number}')
        # What has no way out, since there is no tunnel, is told so.
        lines.append(f"{_from(client)} reject with icmpx no-route")
    return lines


def _limit(rate: int, match: str) -> list[str]:
    """Return the rule that drops what is more than ``rate`` bits per second; pf's queues are kinder."""
    if not rate:
        return []
    kilobytes = max(1, rate // 8000)
    burst = max(16, kilobytes // _BURST_SHARE)
    return [f"{match} limit rate over {kilobytes} kbytes/second burst {burst} kbytes drop".strip()]


def _input(clients: tuple[Client, ...], ways: tuple[str, str], proxy: Proxy | None, now: float) -> list[str]:
    lines = ['iifname "lo" accept', 'iifname "eth0" ip protocol tcp tcp dport 22 accept']
    lines += [f'iifname "{kind}" ct state established,related accept' for kind in dict.fromkeys(ways)]
    for number, client in enumerate(clients, 1):
        if proxy:
            lines += _limit(client.bandwidth.up, _from(client))
            lines.append(f"{_from(client)} tcp dport {proxy.tcp} jump client{number}")
        if asks_names(client.rules, now):
            port = proxy.dns if proxy else client.dns
            lines.append(f"{_from(client)} meta l4proto {{ tcp, udp }} th dport {port} accept")
    return lines


def _output(
    endpoints: Iterable[tuple[str, int]], links: str, uplink: str, proxy: Proxy | None, asked: Iterable[str]
) -> list[str]:
    # What answers ssh, also over a connection that is older than these rules: it opens none.
    lines = ['oifname "lo" accept', 'oifname "eth0" tcp sport 22 tcp flags & (syn | ack) != syn accept']
    lines += [f'oifname "{uplink}" ip daddr {address} udp dport {port} accept' for address, port in endpoints]
    if proxy:
        lines.append(f'oifname "{uplink}" meta skuid "{proxy.user}" accept')
    else:
        lines += asked
    lines.append(f"oifname {links} ct state established accept")
    # What the kernel itself has to say of a packet that it refused.
    lines.append(f"oifname {links} ip protocol {{ icmp, tcp }} accept")
    return lines


def _client_rules(
    client: Client, number: int, sets: tuple[NamedSet, ...], now: float, *, proxied: bool
) -> Iterable[str]:
    if not proxied:
        yield "tcp flags syn tcp option maxseg size set rt mtu"
        yield from _limit(client.bandwidth.up, "")
    for rule in effective_rules(client.rules, now):
        verdict = f"counter name passed{number} accept" if rule.allow else _refusal(number)
        yield f"{_match(rule, sets, proxied=proxied)} {verdict}".strip()


def _refusal(number: int) -> str:
    return f"counter name refused{number} reject with icmpx admin-prohibited"


def _match(rule: Rule, sets: Iterable[NamedSet], *, proxied: bool) -> str:
    """Return what a packet of ``rule`` has; one that a proxy takes is known by where it was sent at first."""
    target, port = ("ct original ip daddr", "ct original proto-dst") if proxied else ("ip daddr", "th dport")
    # nft(8): a number is seconds since the epoch; so a rule ends by itself.
    words = [f"meta time < {rule.until}"] if rule.until is not None else []
    if is_name(rule):
        words.append(f"{target} @{next(entry.set for entry in sets if entry.host == rule.target)}")
    elif rule.target != "any":
        words.append(f"{target} {rule.target}")
    if rule.ports:
        words.append(f"meta l4proto {rule.protocol or '{ tcp, udp }'} {port} {_ports(rule)}")
    elif rule.protocol:
        words.append(f"meta l4proto {rule.protocol}")
    return " ".join(words)


def _ports(rule: Rule) -> str:
    words = [str(first) if first == last else f"{first}-{last}" for first, last in rule.ports]
    return words[0] if len(words) == 1 else "{ " + ", ".join(words) + " }"


def render_namespace(
    rules: tuple[Rule, ...], bandwidth: Bandwidth, *, host: Iterable[str], asked: str, resolver: str, now: float
) -> str:
    """Return the rules of a network namespace whose QEMU sends what its guest sends.

    ``host`` are the addresses of the host, which nobody is let to, ``asked`` the address that the guest asks for
    names ("" if there is none), ``resolver`` where that goes instead ("" leaves it).
    """
    sets = named_sets(rules)
    body = [*(f"set {entry.set} {{ type ipv4_addr; }}" for entry in sets)]
    body += [f"counter {kind}1 {{ }}" for kind in ("passed", "refused", "asked")]
    lines = ['oifname "lo" accept', "meta nfproto != ipv4 drop", *_limit(bandwidth.up, "")]
    if asked and asks_names(rules, now):
        lines.append(f"ip daddr {resolver or asked} meta l4proto {{ tcp, udp }} th dport 53 counter name asked1 accept")
    lines += [f"ip daddr {address} {_refusal(1)}" for address in host]
    for rule in effective_rules(rules, now):
        verdict = "counter name passed1 accept" if rule.allow else _refusal(1)
        lines.append(f"{_match(rule, sets, proxied=False)} {verdict}".strip())
    body += _chain("output", "type filter hook output priority filter; policy drop;", lines)
    body += _chain(
        "input",
        "type filter hook input priority filter; policy accept;",
        ['iifname "lo" accept', *_limit(bandwidth.down, "")],
    )
    if resolver and asked:
        divert = f"ip daddr != {resolver} meta l4proto {{ tcp, udp }} th dport 53 dnat ip to {resolver}"
        body += _chain("divert", "type nat hook output priority -100; policy accept;", [divert])
    return _table(body)
