"""The other end of a tunnel, for measurements and tests: an uplink that leads nowhere else, and a WireGuard peer.

    namespace "in" ── uplink ── namespace "out" ── QEMU ── peer VM: a web server, behind the tunnel and beside it

okubsd is run in the namespace "in"; whatever it sends has no other way.  This takes root, and Linux.
"""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from okubsd.errors import Problem, TimedOut
from okubsd.guest.cpio import directory, file
from okubsd.guest.identity import Lease, Secrets, render_identity
from okubsd.host import door
from okubsd.host.perform.display import READY
from okubsd.model import Argv, Vm
from okubsd.qemu.argv import Machine, render_argv
from okubsd.vpn.wg_quick import Peer, Tunnel, render_setconf

# Documentation addresses (RFC 5737), which rules do not refuse.
INSIDE, OUTSIDE = "198.51.100.1", "198.51.100.2"
PORT, WEB_PORT = 51820, 8080

# Behind the tunnel: the peer and its resolver, this end, and a page that only the peer has.
FAR, NEAR, PAGE = "10.66.0.1", "10.66.0.2", "203.0.113.80"

_BOOT_SECONDS = 120

_START = """
ip link add wg0 type wireguard
wg setconf wg0 /run/okubsd/gateway/tunnel
for address in {addresses}; do ip address add $address dev wg0; done
ip link set wg0 up
{more}
"""


def new_key() -> tuple[str, str]:
    """Return a private key and its public one, as WireGuard writes them."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    made = X25519PrivateKey.generate()
    pair = made.private_bytes_raw(), made.public_key().public_bytes_raw()
    return base64.b64encode(pair[0]).decode(), base64.b64encode(pair[1]).decode()


class FarEnd:
    """Both namespaces, the uplink between them, and the peer.

    ``images`` is the directory of built images, ``scratch`` one of our own, ``image`` the app image of the peer,
    ``more`` what the peer's shell is to start besides.
    """

    def __init__(self, images: Path, scratch: Path, image: str = "vpn-gateway", more: str = "") -> None:
        self.images, self.scratch, self.image, self.more = images, scratch, image, more
        mark = os.getpid() % 10000
        self.inside, self.outside = f"okin{mark}", f"okout{mark}"
        self.ends = (f"oka{mark}", f"okb{mark}")
        self.peer_key, self.own_key = new_key(), new_key()
        self.addresses = (f"{FAR}/24", f"{PAGE}/32")
        self.peer: subprocess.Popen[bytes] | None = None

    def enter(self, name: str) -> Argv:
        """Return the beginning of an argv that runs in the namespace ``name``."""
        return ("nsenter", f"--net=/run/netns/{name}", "--")

    def lay(self) -> None:
        """Make both namespaces, and the uplink between them."""
        ours, theirs = self.ends
        # ip(8) itself enters a namespace only where it can mount, which it cannot in a chroot.
        inside, outside = self.enter(self.inside), self.enter(self.outside)
        here: Argv = ()
        for where, words in (
            (here, f"netns add {self.inside}"),
            (here, f"netns add {self.outside}"),
            (here, f"link add {ours} netns {self.inside} type veth peer name {theirs} netns {self.outside}"),
            (inside, "link set lo up"),
            (outside, "link set lo up"),
            (inside, f"address add {INSIDE}/24 dev {ours}"),
            (inside, f"link set {ours} up"),
            (outside, f"address add {OUTSIDE}/24 dev {theirs}"),
            (outside, f"link set {theirs} up"),
            (inside, f"route add default via {OUTSIDE}"),
        ):
            door.must((*where, "ip", *words.split()), "making the uplink", timeout=10)

    def tunnel(self) -> Tunnel:
        """Return this end of the tunnel."""
        peer = Peer(public_key=self.peer_key[1], allowed=("0.0.0.0/0",), endpoint=(OUTSIDE, PORT), keepalive=5)
        return Tunnel(private_key=self.own_key[0], addresses=(f"{NEAR}/32",), resolvers=(FAR,), peers=(peer,))

    def start_peer(self) -> None:
        """Boot the peer, with its UDP port and its web server at the far end of the uplink.

        Raises Problem where it ends, TimedOut where it is not up in time.
        """
        machine = Machine(
            kernel=self._part("boot", "vmlinuz"),
            initrd=self._initrd(),
            base=self._part("base", "drive.squashfs"),
            app=self._part(self.image, "drive.squashfs"),
            home=None,
            run=self.scratch,
            console_log=self.scratch / "peer.log",
            accelerator="tcg",
            netdev=f"user,id=net0,ipv6=off,hostfwd=udp:{OUTSIDE}:{PORT}-:{PORT},hostfwd=tcp:{OUTSIDE}:{WEB_PORT}-:80",
        )
        argv = (*self.enter(self.outside), *render_argv(self._vm(), machine))
        self.peer = door.spawn(argv, self.scratch / "peer.qemu")
        end = time.monotonic() + _BOOT_SECONDS
        while READY not in self._log():
            if self.peer.poll() is not None:
                raise Problem(f"the peer ended: {self._log()[-400:].decode(errors='replace')!r}")
            if time.monotonic() > end:
                raise TimedOut(f"the peer was not up within {_BOOT_SECONDS} seconds")
            time.sleep(0.1)
        self.tell_peer("sh /run/okubsd/gateway/start")

    def _vm(self) -> Vm:
        return Vm(name="peer", image=self.image, memory=128 << 20, disposable=True, keep=True)

    def _part(self, image: str, name: str) -> Path:
        return self.images / image / "current" / name

    def _initrd(self) -> Path:
        theirs = Peer(public_key=self.own_key[1], allowed=(f"{NEAR}/32",))
        tunnel = Tunnel(private_key=self.peer_key[0], addresses=self.addresses, port=PORT, peers=(theirs,))
        start = _START.format(addresses=" ".join(self.addresses), more=self.more)
        below = "run/okubsd/gateway"
        entries = (
            directory(below),
            file(f"{below}/tunnel", render_setconf(tunnel).encode()),
            file(f"{below}/start", start.encode()),
        )
        nobody = Secrets(bytes(32), bytes(32), "ssh-ed25519 AAAA none", bytes(16))
        # Its serial line starts it; what a gateway's own service would do is left out with its settings.
        identity = render_identity(self._vm(), Lease("10.0.2.15/24", "10.0.2.2"), nobody, gateway=entries)
        path = self.scratch / "initrd"
        archives = (self._part("boot", "initrd"), self._part("boot", "network"))
        path.write_bytes(identity + b"".join(archive.read_bytes() for archive in archives))
        return path

    def _log(self) -> bytes:
        with contextlib.suppress(FileNotFoundError):
            return (self.scratch / "peer.log").read_bytes()
        return b""

    def tell_peer(self, command: str, seconds: float = 30) -> str:
        """Run a command in the peer by its serial line, a root shell, and return what it printed."""
        mark = f"done-{time.monotonic_ns()}"
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(str(self.scratch / "console"))
            line.settimeout(seconds)
            line.sendall(f"\n{command}; echo {mark[:4]}'{mark[4:]}'\n".encode())
            text = b""
            while mark.encode() not in text:
                text += line.recv(4096)
        return text.decode(errors="replace").replace("\r", "")

    def remove(self) -> None:
        """End the peer, and take the namespaces away."""
        if self.peer is not None:
            self.peer.kill()
            self.peer.wait()
        for name in (self.inside, self.outside):
            door.run(("ip", "netns", "delete", name), timeout=10)


@contextlib.contextmanager
def far_end(made: FarEnd) -> Iterator[FarEnd]:
    """Have the uplink and the peer for the block."""
    try:
        made.lay()
        made.start_peer()
        yield made
    finally:
        made.remove()
