"""What lies beyond the host: its uplink with a listener on it, and a WireGuard peer in a VM of its own.

    okubsd's world (namespace "in") ── uplink, every packet counted ── namespace "out" ── peer VM ── a web page

The uplink is the only way out of the namespace that okubsd runs in: what is not on it did not leave.
"""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from okubsd.guest.cpio import directory, file
from okubsd.guest.identity import Lease, Secrets, render_identity
from okubsd.model import Vm
from okubsd.qemu.argv import Machine, render_argv

INSIDE, OUTSIDE = "198.51.100.1", "198.51.100.2"
PORT = 51820
# Addresses that only the peer has, behind the tunnel; one is of no range that rules refuse.
RESOLVER, PAGE, OTHER_PAGE = "10.66.0.1", "203.0.113.80", "203.0.113.81"

PEER_RECIPE = """
from: base
gateway: yes
packages: [iproute2, nftables, wireguard-tools, dnsmasq-base]
services: [sh /run/okubsd/gateway/start]
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

_START = f"""
ip link add wg0 type wireguard
wg setconf wg0 /run/okubsd/gateway/tunnel
for address in {RESOLVER}/24 {PAGE}/32 {OTHER_PAGE}/32; do ip address add $address dev wg0; done
ip link set wg0 up
mkdir -p /tmp/www/cgi-bin
cp /run/okubsd/gateway/page /tmp/www/cgi-bin/ip
chmod 755 /tmp/www/cgi-bin/ip
head -c 8388608 /dev/urandom >/tmp/www/large
busybox httpd -p 80 -h /tmp/www
echo "{PAGE} page.example.org" >/tmp/hosts
{_DNSMASQ}
echo "peer: up" >/dev/console
"""


def new_key() -> tuple[str, str]:
    """Return a private key and its public one, as WireGuard writes them."""
    key = X25519PrivateKey.generate()
    pair = key.private_bytes_raw(), key.public_key().public_bytes_raw()
    return base64.b64encode(pair[0]).decode(), base64.b64encode(pair[1]).decode()


class Beyond:
    """The uplink and the peer."""

    def __init__(self, state: Path, tmp: Path) -> None:
        self.state = state
        self.tmp = tmp
        mark = os.getpid() % 10000
        self.inside, self.outside = f"okin{mark}", f"okout{mark}"
        self.ends = (f"oka{mark}", f"okb{mark}")
        self.peer_key = new_key()
        self.own_key = new_key()
        self.peer: subprocess.Popen[bytes] | None = None
        self.seen: list[bytes] = []
        self._listening = threading.Event()

    def enter(self, name: str) -> list[str]:
        return ["nsenter", f"--net=/run/netns/{name}", "--"]

    def lay(self) -> None:
        """Make both namespaces and the uplink between them, and listen on it."""
        ours, theirs = self.ends
        lines = [
            f"netns add {self.inside}", f"netns add {self.outside}",
            f"link add {ours} netns {self.inside} type veth peer name {theirs} netns {self.outside}",
        ]  # fmt: skip
        for line in lines:
            subprocess.run(["ip", *line.split()], check=True)
        for name, line in (
            (self.inside, "link set lo up"), (self.outside, "link set lo up"),
            (self.inside, f"address add {INSIDE}/24 dev {ours}"), (self.inside, f"link set {ours} up"),
            (self.outside, f"address add {OUTSIDE}/24 dev {theirs}"), (self.outside, f"link set {theirs} up"),
            (self.inside, f"route add default via {OUTSIDE}"),
        ):  # fmt: skip
            subprocess.run(["ip", "-n", name, *line.split()], check=True)
        threading.Thread(target=self._listen, daemon=True).start()
        assert self._listening.wait(10)

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
            "PrivateKey": self.own_key[0], "Address": "10.66.0.2/32, fd00::2/128", "DNS": RESOLVER,
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

    def start_peer(self) -> None:
        """Boot the peer: a guest of ours by a QEMU of the test's, with its UDP port at the far end of the uplink."""
        vm = Vm(name="peer", image="peer", memory=128 << 20, disposable=True, keep=True)
        boot, base, app = (self.state / "images" / name / "current" for name in ("boot", "base", "peer"))
        tunnel = (
            f"[Interface]\nPrivateKey = {self.peer_key[0]}\nListenPort = {PORT}\n"
            f"[Peer]\nPublicKey = {self.own_key[1]}\nAllowedIPs = 10.66.0.2/32\n"
        )
        below = "run/okubsd/gateway"
        entries = (
            directory(below), file(f"{below}/tunnel", tunnel.encode()), file(f"{below}/start", _START.encode()),
            file(f"{below}/page", _PAGE.encode()),
        )  # fmt: skip
        secrets = Secrets(bytes(32), bytes(32), "ssh-ed25519 AAAA none", bytes(16))
        identity = render_identity(vm, Lease("10.0.2.15/24", "10.0.2.2"), secrets, gateway=entries)
        (self.tmp / "initrd").write_bytes(identity + (boot / "initrd").read_bytes() + (boot / "network").read_bytes())
        machine = Machine(
            kernel=boot / "vmlinuz", initrd=self.tmp / "initrd", base=base / "drive.squashfs",
            app=app / "drive.squashfs", home=None, run=self.tmp, console_log=self.tmp / "peer.log", accelerator="tcg",
            netdev=f"user,id=net0,ipv6=off,hostfwd=udp:{OUTSIDE}:{PORT}-:{PORT}",
        )  # fmt: skip
        self.peer = subprocess.Popen([*self.enter(self.outside), *render_argv(vm, machine)], stdin=subprocess.DEVNULL)
        end = time.monotonic() + 120
        while b"peer: up" not in self._log():
            assert time.monotonic() < end and self.peer.poll() is None, self._log().decode(errors="replace")
            time.sleep(0.1)

    def _log(self) -> bytes:
        with contextlib.suppress(FileNotFoundError):
            return (self.tmp / "peer.log").read_bytes()
        return b""

    def tell_peer(self, command: str, seconds: float = 30) -> str:
        """Run a command in the peer by its serial line, and return what it printed."""
        mark = f"done-{time.monotonic_ns()}"
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(str(self.tmp / "console"))
            line.settimeout(seconds)
            line.sendall(f"\n{command}; echo {mark[:4]}'{mark[4:]}'\n".encode())
            text = b""
            while mark.encode() not in text:
                text += line.recv(4096)
        return text.decode(errors="replace").replace("\r", "")

    def mend_peer(self, page: str = PAGE) -> None:
        """Put the peer's key and resolver back to what they were; it tells ``page`` as the address of the page."""
        self.tell_peer(
            "wg syncconf wg0 /run/okubsd/gateway/tunnel; kill $(busybox pidof dnsmasq); sleep 1; "
            f"echo '{page} page.example.org' >/tmp/hosts; {_DNSMASQ}"
        )

    def remove(self) -> None:
        self._listening.clear()
        if self.peer is not None:
            self.peer.kill()
            self.peer.wait()
        for name in (self.inside, self.outside):
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def libc_setns(descriptor: int) -> None:
    """Move this thread into a network namespace; Python 3.11 has no os.setns()."""
    import ctypes

    if ctypes.CDLL(None, use_errno=True).setns(descriptor, 0x40000000) != 0:
        raise OSError(ctypes.get_errno(), "setns")


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
        if meant[9] == 17 and (source, came_from) == (OUTSIDE, PORT):
            return ""
    return f"protocol {protocol} to {target} port {port}"


@contextlib.contextmanager
def beyond(made: Beyond) -> Iterator[Beyond]:
    """Have the uplink and the peer for the block."""
    try:
        made.lay()
        made.start_peer()
        yield made
    finally:
        made.remove()
