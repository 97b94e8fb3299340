"""A tunnel as hostname.if(5) of a wg(4): clear packets in an rdomain of their own, encrypted ones in rdomain 0.

Source: wg(4), ifconfig(8), hostname.if(5); observed: an address comes after the rdomain, whose change takes it away,
a peer's options bind to the wgpeer before them, and what is sent to a peer before "up" is lost.
"""

from __future__ import annotations

import ipaddress
import re

from okubsd.vpn.wg_quick import Peer, Tunnel

_SECRETS = re.compile(r"\b(wgkey|wgpsk) \S+")


def wg_file(number: int, group: str, tunnel: Tunnel) -> str:
    """Return hostname.wgN of ``tunnel`` in rdomain ``number``; it holds keys, and is root's alone.

    Its default route is the only way out of the rdomain; the one behind it, of the loopback, refuses.
    """
    first, *others = (str(ipaddress.IPv4Interface(address).ip) for address in tunnel.addresses)
    lines = [f"rdomain {number}", f"group {group}", f"wgkey {tunnel.private_key}", "wgrtable 0"]
    if tunnel.port is not None:
        lines.append(f"wgport {tunnel.port}")
    lines += [f"inet {first}/32", *(f"inet alias {address}/32" for address in others)]
    lines += [f"mtu {tunnel.mtu}", "up"]
    # A peer that is kept alive is spoken to at once, and then after five seconds: by then the way has to be there.
    lines += [_peer(peer) for peer in tunnel.peers]
    lines.append(f"!/sbin/route -qn -T {number} add -inet default -iface {first}")
    return "".join(f"{line}\n" for line in lines)


def _peer(peer: Peer) -> str:
    words = [f"wgpeer {peer.public_key}"]
    words += [f"wgpsk {peer.preshared_key}"] if peer.preshared_key else []
    words += [f"wgendpoint {peer.endpoint[0]} {peer.endpoint[1]}"] if peer.endpoint else []
    words += [f"wgaip {network}" for network in peer.allowed]
    words += [f"wgpka {peer.keepalive}"] if peer.keepalive else []
    return " ".join(words)


def without_keys(text: str) -> str:
    """Return what can be shown of a hostname.if(5) file: its keys are left out."""
    return _SECRETS.sub(r"\1 (hidden)", text)
