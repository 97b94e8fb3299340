"""The rules of a VM: how they are written, which decides, and what holds where none is written.

The narrowest rule decides: one for an address before one for its network, one with ports before one without, and
of two alike the one that denies.  So the order in which they are written means nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from okubsd.model import Flow

# Loopback, private, shared, link-local, "this network", multicast and reserved ranges (RFC 6890, 5771, 1112).
REFUSED = (
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
    *("192.168.0.0/16", "224.0.0.0/4", "240.0.0.0/4"),
)

PROTOCOLS = ("tcp", "udp", "icmp")

FORM = (
    "[tcp|udp|icmp] TARGET[:PORTS], where TARGET is a host name, an address, a network or 'any', such as 'example.org'"
    ", '192.168.1.5:631' or 'tcp any:80,443'"
)

# RFC 1123, section 2.1; a name has a dot, so that no word of ours or of a resolver's search list is one.
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOST = re.compile(rf"(?=.{{4,253}}$)(?:{_LABEL}\.)+(?=[a-z0-9-]*[a-z]){_LABEL}")
_RULE = re.compile(r"(?:(?P<protocol>tcp|udp|icmp)\s+)?(?P<target>[^\s:]+)(?::(?P<ports>[0-9,-]+))?")
_PORTS = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")
_MOST_PORTS = 15


def _everywhere(protocol: str, *ports: tuple[int, int]) -> Flow:
    return Flow(allow=True, target="any", protocol=protocol, ports=ports)


def _only(*flows: Flow) -> tuple[Flow, ...]:
    return (*flows, Flow(allow=False, target="any"))


_MAIL_PORTS = tuple((port, port) for port in (110, 143, 443, 465, 587, 993, 995))

# What a VM of one purpose needs; all else is denied.
PRESETS: dict[str, tuple[Flow, ...]] = {
    "offline": _only(),
    "web": _only(_everywhere("tcp", (80, 80), (443, 443)), _everywhere("udp", (443, 443))),
    "mail": _only(_everywhere("tcp", *_MAIL_PORTS)),
    "p2p": _only(_everywhere("tcp", (80, 80), (443, 443), (1024, 65535)), _everywhere("udp", (1024, 65535))),
}


def parse_flow(text: str, *, allow: bool) -> Flow:
    """Return the rule that ``text`` is, in the form of FORM.  Raises ValueError, in words, where it is none."""
    match = _RULE.fullmatch(text.strip().lower())
    if match is None:
        raise ValueError("is not of this form")
    ports = _parse_ports(match["ports"] or "")
    protocol = match["protocol"] or ""
    if ports and protocol == "icmp":
        raise ValueError("has ports, and icmp has none")
    return Flow(allow=allow, target=parse_target(match["target"]), ports=ports, protocol=protocol)


def parse_target(text: str) -> str:
    """Return "any", an IPv4 network in CIDR notation, or a host name in small letters.  Raises ValueError."""
    import ipaddress

    if text == "any" or _HOST.fullmatch(text):
        return text
    try:
        network = ipaddress.IPv4Network(text)
    except ipaddress.NetmaskValueError:
        raise ValueError("has a prefix that is not from 0 to 32") from None
    except ipaddress.AddressValueError:
        raise ValueError("names neither a host, nor an IPv4 address or network, nor 'any'") from None
    except ValueError:
        network = ipaddress.IPv4Network(text, strict=False)
        raise ValueError(f"has host bits set; the network is {network}") from None
    return str(network)


def _parse_ports(text: str) -> tuple[tuple[int, int], ...]:
    if not text:
        return ()
    matches = [_PORTS.fullmatch(part) for part in text.split(",")]
    found = [(int(match[1]), int(match[2] or match[1])) for match in matches if match is not None]
    if len(found) < len(matches) or any(not 0 < first <= last < 65536 for first, last in found):
        raise ValueError("has ports that are not from 1 to 65535, such as 80,443 or 6881-6889")
    if len(found) > _MOST_PORTS:
        raise ValueError(f"has more than {_MOST_PORTS} ranges of ports")
    return tuple(found)


def render_flow(flow: Flow) -> str:
    """Return the rule as it is written."""
    target = flow.target.removesuffix("/32")
    return f"{flow.protocol} {target}{_ports(flow)}".strip()


def _ports(flow: Flow) -> str:
    words = (str(first) if first == last else f"{first}-{last}" for first, last in flow.ports)
    return ":" + ",".join(words) if flow.ports else ""


def is_name(flow: Flow) -> bool:
    """Return whether the rule's target is a host name, which has to be looked up."""
    return flow.target != "any" and "/" not in flow.target


def narrowness(flow: Flow) -> tuple[int, bool, bool, bool]:
    """Return what rules are sorted by: the narrowest first."""
    prefix = 0 if flow.target == "any" else int(flow.target.partition("/")[2] or 32)
    return (-prefix, not flow.ports, not flow.protocol, flow.allow)


BUILT_IN = (*(Flow(allow=False, target=network) for network in REFUSED), Flow(allow=True, target="any"))


def effective_flows(flows: Iterable[Flow], now: float) -> tuple[Flow, ...]:
    """Return what decides, the first that matches: ``flows`` that did not end before ``now``, and what holds anyway."""
    live = (flow for flow in flows if flow.until is None or flow.until > now)
    # A rule of the user's comes before one of ours that is as narrow.
    return tuple(sorted((*live, *BUILT_IN), key=lambda flow: (*narrowness(flow)[:1], not flow.line, *narrowness(flow))))


def asks_names(flows: Iterable[Flow], now: float) -> bool:
    """Return whether a VM with these rules may ask for names: not one that may reach nothing at all."""
    effective = effective_flows(flows, now)
    first = next(flow for flow in effective if flow.target == "any" and not flow.ports and not flow.protocol)
    return first.allow or any(flow.allow for flow in effective if flow.line)


def preset(name: str, file: str, line: int) -> tuple[Flow, ...]:
    """Return the rules of the preset ``name``, as written on ``line`` of ``file``."""
    return tuple(msgspec.structs.replace(flow, file=file, line=line) for flow in PRESETS[name])
