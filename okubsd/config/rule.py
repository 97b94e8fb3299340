"""How rules are written in okubsd.yaml(5) and on the command line, and the presets."""

from __future__ import annotations

import re

import msgspec

from okubsd.rules import Rule

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


def _everywhere(protocol: str, *ports: tuple[int, int]) -> Rule:
    return Rule(allow=True, target="any", protocol=protocol, ports=ports)


def _only(*rules: Rule) -> tuple[Rule, ...]:
    return (*rules, Rule(allow=False, target="any"))


_MAIL_PORTS = tuple((port, port) for port in (110, 143, 443, 465, 587, 993, 995))

# What a VM of one purpose needs; all else is denied.
PRESETS: dict[str, tuple[Rule, ...]] = {
    "offline": _only(),
    "web": _only(_everywhere("tcp", (80, 80), (443, 443)), _everywhere("udp", (443, 443))),
    "mail": _only(_everywhere("tcp", *_MAIL_PORTS)),
    "p2p": _only(_everywhere("tcp", (80, 80), (443, 443), (1024, 65535)), _everywhere("udp", (1024, 65535))),
}


def parse_rule(text: str, *, allow: bool) -> Rule:
    """Return the rule that ``text`` is, in the form of FORM.  Raises ValueError, in words, where it is none."""
    match = _RULE.fullmatch(text.strip().lower())
    if match is None:
        raise ValueError("is not of this form")
    ports = _parse_ports(match["ports"] or "")
    protocol = match["protocol"] or ""
    if ports and protocol == "icmp":
        raise ValueError("has ports, and icmp has none")
    return Rule(allow=allow, target=parse_target(match["target"]), ports=ports, protocol=protocol)


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


def render_rule(rule: Rule) -> str:
    """Return the rule as it is written."""
    target = rule.target.removesuffix("/32")
    return f"{rule.protocol} {target}{_ports(rule)}".strip()


def _ports(rule: Rule) -> str:
    words = (str(first) if first == last else f"{first}-{last}" for first, last in rule.ports)
    return ":" + ",".join(words) if rule.ports else ""


def preset(name: str, file: str, line: int) -> tuple[Rule, ...]:
    """Return the rules of the preset ``name``, as written on ``line`` of ``file``."""
    return tuple(msgspec.structs.replace(rule, file=file, line=line) for rule in PRESETS[name])
