"""What lies beyond the host: a far end whose uplink is listened on, and whose peer has pages and a resolver."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from pathlib import Path

from okubsd.bench.far_end import FAR, INSIDE, NEAR, OUTSIDE, PAGE, PORT, FarEnd, far_end, new_key

__all__ = [
    "INSIDE", "OTHER_PAGE", "OUTSIDE", "PAGE", "PEER_RECIPE", "RESOLVER", "Beyond", "far_end", "new_key",
]  # fmt: skip

RESOLVER, OTHER_PAGE = FAR, "203.0.113.81"

PEER_RECIPE = """
from: base
gateway: yes
packages: [iproute2, nftables, wireguard-tools, dnsmasq-base]
"""

# Answers with the address that it was asked from: what the world sees of a VM.
_PAGE = """#!/bin/busybox sh
printf 'Content-Type: text/plain\\r\\n\\r\\n'
echo "$REMOTE_ADDR"
"""

_DNSMASQ = (
    "dnsmasq --no-resolv --no-hosts --addn-hosts=/tmp/hosts --local-ttl=5 --user=root "
    f"--listen-address={RESOLVER} --bind-interfaces --log-queries --log-facility=/tmp/queries"
)

_MORE = f"""
mkdir -p /tmp/www/cgi-bin
cat >/tmp/www/cgi-bin/ip <<'END'
{_PAGE}END
chmod 755 /tmp/www/cgi-bin/ip
busybox httpd -p 80 -h /tmp/www
echo "{PAGE} page.example.org" >/tmp/hosts
{_DNSMASQ}
"""


class Beyond(FarEnd):
    """The far end, with a listener on the uplink."""

    def __init__(self, state: Path, tmp: Path) -> None:
        super().__init__(state / "images", tmp, image="peer", more=_MORE)
        self.addresses = (*self.addresses, f"{OTHER_PAGE}/32")
        self.seen: list[bytes] = []
        self._listening = threading.Event()

    def lay(self) -> None:
        super().lay()
        threading.Thread(target=self._listen, daemon=True).start()
        assert self._listening.wait(10)

    def remove(self) -> None:
        self._listening.clear()
        super().remove()

    def _listen(self) -> None:
        """Keep every frame that our end of the uplink sends; a thread can be in another namespace than its process."""
        with Path(f"/run/netns/{self.inside}").open() as namespace:
            libc_setns(namespace.fileno())
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as raw:
            raw.bind((self.ends[0], 0))
            raw.settimeout(0.5)
            self._listening.set()
            while self._listening.is_set():
                # The interface goes down when the test is over.
                with contextlib.suppress(OSError):
                    frame, address = raw.recvfrom(65535)
                    if address[2] == socket.PACKET_OUTGOING:
                        self.seen.append(frame)

    def clear_frames(self) -> list[str]:
        """Return what left outside the tunnel since the last call, told in words; ARP is the uplink's own."""
        time.sleep(0.3)
        frames, self.seen = self.seen, []
        return [told for frame in frames if (told := tell(frame))]

    def wg_file(self, path: Path, **changes: str) -> Path:
        """Write a wg-quick file that leads to the peer."""
        values = {
            "PrivateKey": self.own_key[0], "Address": f"{NEAR}/32, fd00::2/128", "DNS": RESOLVER,
            "PublicKey": self.peer_key[1], "AllowedIPs": "0.0.0.0/0, ::/0", "Endpoint": f"{OUTSIDE}:{PORT}",
            "PersistentKeepalive": "5",
        } | changes  # fmt: skip
        lines = [f"{key} = {values[key]}" for key in ("PrivateKey", "Address", "DNS")]
        lines = ["[Interface]", *lines, "[Peer]"]
        lines += [f"{key} = {values[key]}" for key in ("PublicKey", "AllowedIPs", "Endpoint", "PersistentKeepalive")]
        path.touch()
        path.chmod(0o600)
        path.write_text("\n".join(lines) + "\n")
        return path

    def mend_peer(self, page: str = PAGE) -> None:
        """Put the peer's key and resolver back to what they were; it tells ``page`` as the address of the page."""
        self.tell_peer(
            "wg syncconf wg0 /run/okubsd/gateway/tunnel; kill $(busybox pidof dnsmasq); sleep 1; "
            f"echo '{page} page.example.org' >/tmp/hosts; {_DNSMASQ}"
        )


def libc_setns(descriptor: int) -> None:
    """Move this thread into a network namespace; Python 3.11 has no os.setns()."""
    import ctypes

    if ctypes.CDLL(None, use_errno=True).setns(descriptor, 0x40000000) != 0:
        raise OSError(ctypes.get_errno(), "setns")


# The port of the peer whose tunnel is OpenVPN's.
OPENVPN = 1194


def tell(frame: bytes) -> str:
    """Return what a frame is, in words; "" for what is the uplink's own, and for the tunnel's.

    The uplink's own are ARP, and what an interface that comes up says by IPv6 of itself, from its link-local address.
    The tunnel's are UDP to the peer, and the host's word that nobody listens any more for a packet of the peer's.
    """
    kind = int.from_bytes(frame[12:14], "big")
    if kind == 0x0806:
        return ""
    if kind == 0x86DD and frame[22:24] in (b"\xfe\x80", b"\0\0") and frame[38:40] == b"\xff\x02":
        return ""
    if kind != 0x0800:
        return f"ethertype {kind:#06x}: {frame[14:54].hex()}"
    protocol, target = frame[23], socket.inet_ntoa(frame[30:34])
    head = 14 + (frame[14] & 15) * 4
    port = int.from_bytes(frame[head + 2 : head + 4], "big") if protocol in (6, 17) else 0
    if protocol == 17 and target == OUTSIDE and port == PORT:
        return ""
    if protocol == 1 and frame[head : head + 2] == b"\x03\x03":
        # RFC 792: port unreachable, and after eight bytes the packet that is meant.
        meant = frame[head + 8 :]
        source, came_from = socket.inet_ntoa(meant[12:16]), int.from_bytes(meant[20:22], "big")
        if meant[9] == 17 and source == OUTSIDE and came_from in (PORT, OPENVPN):
            return ""
    return f"protocol {protocol} to {target} port {port}"
