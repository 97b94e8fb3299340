"""What the files of all tunnels of a description say, keys included: never printed, written 0600 only."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from okubsd.vpn.openvpn import OpenVpnClient
from okubsd.vpn.wg_quick import Tunnel


class TunnelKeys(msgspec.Struct, frozen=True, kw_only=True):
    """What the files of tunnels say: WireGuard's by the names of networks and of gateway VMs, OpenVPN's by networks."""

    tunnels: Mapping[str, Tunnel] = {}
    clients: Mapping[str, OpenVpnClient] = {}
