"""An OpenVPN client configuration, as far as okubsd runs it: what runs commands, or is not known, is refused by name.

Source: openvpn(8) 2.6.  What sets up interfaces, routes and names is okubsd's to do, in an rdomain.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path

import msgspec

from okubsd.config.names import did_you_mean, quoted
from okubsd.errors import BadDescription

_LARGEST = 256 << 10


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_RUNS_COMMANDS = _words("""
up down route-up route-pre-down ipchange tls-verify client-connect client-disconnect learn-address auth-user-
pass-verify plugin script-security up-restart down-pre tls-crypt-v2-verify client-crresponse dns-updown
""")
_OURS = _words("""
dev dev-type dev-node daemon route route-gateway redirect-gateway redirect-private ifconfig ifconfig-noexec
route-noexec route-nopull user group chroot cd log log-append status writepid management management-query-
passwords config inetd setenv iproute management-hold
""")
_TAKEN = _words("""
client remote proto port rport lport nobind persist-key persist-tun remote-cert-tls verify-x509-name cipher
data-ciphers data-ciphers-fallback auth auth-nocache auth-user-pass auth-retry tls-client tls-version-min tls-
cipher tls-ciphersuites key-direction ca cert key pkcs12 tls-auth tls-crypt tls-crypt-v2 resolv-retry remote-
random ping ping-restart ping-exit keepalive reneg-sec mute mute-replay-warnings verb fast-io sndbuf rcvbuf tun-
mtu mssfix fragment comp-lzo compress allow-compression hand-window connect-retry connect-timeout server-poll-
timeout explicit-exit-notify float pull block-outside-dns ignore-unknown-option peer-fingerprint push-peer-info
ns-cert-type
""")
# They mean something on another system only.
_IGNORED = frozenset({"block-outside-dns", "ignore-unknown-option", "push-peer-info"})
_INLINE = _words("ca cert key pkcs12 tls-auth tls-crypt tls-crypt-v2 auth-user-pass peer-fingerprint")


class Client(msgspec.Struct, frozen=True):
    """A configuration as openvpn(8) gets it: only lines that were looked at."""

    text: str

    def __repr__(self) -> str:
        return "Client()"


def parse_openvpn(path: Path, text: str) -> Client:
    """Return the client configuration ``text`` that was read from ``path``.

    Raises BadDescription with every mistake; no key is told in it.
    """
    if len(text) > _LARGEST or "\0" in text:
        raise BadDescription([f"{path}: this is no OpenVPN configuration: it is larger than 256 KiB, or not text"])
    found: list[str] = []
    kept: list[str] = []
    block = ""
    names: set[str] = set()
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if block:
            kept.append(line)
            block = "" if line == f"</{block}>" else block
            continue
        opened = re.fullmatch(r"<([a-z0-9-]+)>", line)
        word = opened[1] if opened else (line.split() or [""])[0]
        if not line or line[0] in "#;":
            continue
        mistake = _mistake(word, line, inline=opened is not None)
        if mistake:
            found.append(f"{path}:{number}: {mistake}")
            continue
        names.add(word)
        block = word if opened else ""
        if word not in _IGNORED:
            kept.append(line)
    if block:
        found.append(f"{path}: <{block}> does not end")
    found += [f"{path}: '{name}' is missing" for name in ("client", "remote") if not found and name not in names]
    if found:
        raise BadDescription(found)
    return Client("".join(f"{line}\n" for line in kept))


def _mistake(word: str, line: str, *, inline: bool) -> str:
    """Return what is wrong with a line that begins with ``word``, "" for nothing."""
    if word in _RUNS_COMMANDS:
        return f"'{word}' runs a command, which okubsd never does for a tunnel; take the line out"
    if word in _OURS:
        # What a provider's file commonly says of the device is what okubsd does anyway.
        return "" if line in ("dev tun", "redirect-gateway def1") else f"'{word}' is for okubsd to say; take it out"
    if word not in _TAKEN:
        return f"the directive {quoted(word, 40)} is not known here{did_you_mean(word, _TAKEN)}"
    if inline and word not in _INLINE:
        return f"<{word}> is not known here"
    names_file = word in _INLINE and not inline and word != "peer-fingerprint" and len(line.split()) > 1
    if names_file and not line.split()[1].startswith("/"):
        return f"'{word}' names a file by a path that is not absolute"
    return _remote_mistake(line) if word == "remote" else ""


def _remote_mistake(line: str) -> str:
    host = [*line.split(), "", ""][1]
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return f"'remote' {quoted(host)} is a name, which would be looked up outside the tunnel; write its IPv4 address"
    return ""


def render_config(client: Client) -> str:
    """Return the file that openvpn(8) is given: what sets anything up is left to the caller's arguments."""
    lines = [line for line in client.text.splitlines() if line not in ("dev tun", "redirect-gateway def1")]
    return "".join(f"{line}\n" for line in lines)


def tun_file(number: int, group: str, name: str, config: str, up: str) -> str:
    """Return hostname.tunN of the network ``name`` in rdomain ``number``.

    openvpn(8) talks to its server in rdomain 0 and opens the interface, which is in another; the program ``up``
    gives that its address and the route.  ``config`` is the path of its configuration.
    """
    daemon = (
        f"/usr/local/sbin/openvpn --config {config} --daemon okubsd-{name} --dev tun{number} --dev-type tun "
        f"--ifconfig-noexec --route-noexec --script-security 2 --up {up} --persist-tun --persist-key"
    )
    # netstart(8) may run this again; the first one stays.
    again = f"/usr/bin/pgrep -qf 'openvpn .*--dev tun{number} '"
    return f"rdomain {number}\ngroup {group}\nup\n!{again} || {daemon}\n"
