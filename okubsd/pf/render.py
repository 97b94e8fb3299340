"""The pf.conf(5) text of okubsd: three lines that shut every VM in, and one anchor per VM that opens a path.

The rules are fail-closed: the anchors come first, the blocks of the group `okubsd` after them, so that a VM
without an anchor has no network.  The shape of the anchors, nested on the tap and then on the rdomain, keeps a
tap shut that lost its rdomain; `block on ! rdomain N` would parse and never match (pf(4), observed).
"""

from __future__ import annotations

from okubsd.model import Network, Way

GROUP = "okubsd"
ANCHOR = "okubsd"

# Loopback, private, shared, link-local, "this network", multicast and reserved ranges (RFC 6890, 5771, 1112).
REFUSED = (
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
    *("192.168.0.0/16", "224.0.0.0/4", "240.0.0.0/4"),
)


def render_main() -> str:
    """Return okubsd's part of the main rules; it is included before the site's own rules."""
    return (
        "# okubsd: every VM's tap is in the group okubsd; what no anchor lets out does not leave.\n"
        f'anchor "{ANCHOR}/*"\n'
        f"block drop quick on {GROUP}\n"
        f"block drop out quick on egress received-on {GROUP}\n"
    )


def render_anchor(name: str, number: int, network: Network, resolver: str) -> str:
    """Return the anchor of the VM ``name`` whose tap, rdomain and loopback have ``number``.

    $G, the guest's address, is defined when it is loaded (pfctl -D G=ADDRESS); ``resolver`` is where its DNS goes.
    """
    inner = _nat_rules(name, resolver) if network.way is Way.NAT else ()
    ssh = f'pass out quick inet proto tcp from (tap{number}) to $G port 22 label "{ANCHOR}:{name}:ssh"'
    lines = [
        f'# okubsd: the network "{network}" of the VM "{name}"; okubsd-helper defines G, the guest\'s address.',
        f"anchor on tap{number} {{",
        f"\tanchor on rdomain {number} {{",
        *(f"\t\t{line}" for line in (*inner, ssh)),
        "\t}",
        "\tblock drop quick",
        "}",
    ]
    if network.way is Way.NAT:
        out = f"pass out quick on egress inet from $G received-on tap{number} nat-to (egress)"
        lines.append(f'{out} label "{ANCHOR}:{name}:out"')
    return "".join(f"{line}\n" for line in lines)


def _nat_rules(name: str, resolver: str) -> tuple[str, ...]:
    label = f"{ANCHOR}:{name}"
    refused = " ".join(("(self)", *REFUSED))
    return (
        "block drop in quick inet6",
        "block drop in quick inet from ! $G",
        f'pass in quick inet proto {{ tcp udp }} from $G to any port 53 rdr-to {resolver} rtable 0 label "{label}:dns"',
        f'block return in quick inet from $G to {{ {refused} }} label "{label}:host"',
        f'pass in quick inet from $G rtable 0 label "{label}:in"',
    )
