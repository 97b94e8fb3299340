"""Read the configurations of tunnels: wg-quick(8), openvpn(8)."""
