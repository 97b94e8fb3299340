"""A Tor network of one authority and five relays, in the namespace beyond the uplink, out of the gateway's own image."""

from __future__ import annotations

import contextlib
import http.server
import re
import select
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

from tests.vm.beyond import OUTSIDE, Beyond, libc_setns
from tests.vm.world import wait_until

# The exits' address, and a page that is reached from there; both are the namespace's own.
EXIT, FAR_PAGE, NAME = "198.51.100.66", "203.0.113.90", "far.example.org"

_COMMON = f"""
AssumeReachable 1
AddressDisableIPv6 1
Address {OUTSIDE}
OutboundBindAddressExit {EXIT}
SocksPort 0
ShutdownWaitLength 0
ServerDNSDetectHijacking 0
ServerDNSResolvConfFile /net/resolv.conf
ExitRelay 1
ExitPolicyRejectPrivate 0
ExitPolicy accept *:*
ContactInfo nobody@example.org
"""
_AUTHORITY = """
AuthoritativeDirectory 1
V3AuthoritativeDirectory 1
TestingV3AuthInitialVotingInterval 5
TestingV3AuthInitialVoteDelay 2
TestingV3AuthInitialDistDelay 2
V3AuthVotingInterval 20
V3AuthVoteDelay 2
V3AuthDistDelay 2
TestingDirAuthVoteExit *
TestingDirAuthVoteGuard *
TestingDirAuthVoteHSDir *
TestingMinExitFlagThreshold 0
"""
# An onion service takes that many: its circuits and its guest's avoid each other's relays.
_NAMES = ("a", "b", "c", "d", "e", "f")
RELAYS = {f"protocol 6 to {OUTSIDE} port {first + number}" for first in (5100, 7100) for number in range(len(_NAMES))}


class TorNetwork:
    """The relays; ``torrc`` is what a client of theirs needs, ``service`` an onion's name."""

    def __init__(self, beyond: Beyond, images: Path, root: Path) -> None:
        self.beyond, self.root = beyond, root
        self.torrc = self.service = ""
        self.relays: list[subprocess.Popen[bytes]] = []
        for image, paths in (
            ("base", ("lib", "lib64", "usr/lib64", "usr/lib/x86_64-linux-gnu", "etc/passwd", "etc/group")),
            ("tor-gateway", ("usr/bin/tor", "usr/bin/tor-gencert", "usr/lib/x86_64-linux-gnu")),
        ):
            drive = images / image / "current/drive.squashfs"
            subprocess.run(["unsquashfs", "-q", "-n", "-f", "-d", root, drive, *paths], check=True, capture_output=True)

    def tor(self, *words: str) -> list[str]:
        return [*self.beyond.enter(self.beyond.outside), "chroot", str(self.root), *words]

    def _write(self, number: int, common: str) -> None:
        name = _NAMES[number]
        (self.root / f"net/{name}/keys").mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.root / f"net/{name}").chmod(0o700)
        text = f"{common}Nickname {name}\nDataDirectory /net/{name}\nORPort {5100 + number} IPv4Only\n"
        text += f"DirPort {7100 + number} IPv4Only\nLog notice file /net/{name}/log\n"
        text += _AUTHORITY if number == 0 else ""
        text += f"HiddenServiceDir /net/b/onion\nHiddenServicePort 80 {FAR_PAGE}:80\n" if number == 1 else ""
        (self.root / f"net/{name}/torrc").write_text(text)

    def start(self) -> None:
        """Start all relays, and wait until the authority tells of every one."""
        keys = self.root / "net/a/keys"
        keys.mkdir(mode=0o700, parents=True)
        (self.root / "net/resolv.conf").write_text(f"nameserver {OUTSIDE}\n")
        paths = [f"/net/a/keys/authority_{kind}" for kind in ("identity_key", "signing_key", "certificate")]
        made = self.tor("tor-gencert", "--create-identity-key", "-m", "12", "-a", f"{OUTSIDE}:7100",
                        "-i", paths[0], "-s", paths[1], "-c", paths[2], "--passphrase-fd", "0")  # fmt: skip
        subprocess.run(made, input=b"test\n", check=True, capture_output=True)
        found = re.search(r"fingerprint (\w+)", (keys / "authority_certificate").read_text())
        assert found is not None
        line = f"DirAuthority a orport=5100 no-v2 v3ident={found[1]} {OUTSIDE}:7100 "
        # What the authority is called by is made by its first start, which wants a line of itself.
        self._write(0, f"{_COMMON}TestingTorNetwork 1\n{line}{'0' * 40}\n")
        subprocess.run(self.tor("tor", "--list-fingerprint", "-f", "/net/a/torrc"), check=True, capture_output=True)
        line += (self.root / "net/a/fingerprint").read_text().split()[1]
        self.torrc = f"TestingTorNetwork 1\nVanguardsLiteEnabled 0\n{line}\n"
        for number in range(len(_NAMES)):
            self._write(number, f"{_COMMON}{self.torrc}")
            argv = self.tor("tor", "-f", f"/net/{_NAMES[number]}/torrc")
            self.relays.append(subprocess.Popen(argv, stdout=subprocess.DEVNULL))
        wait_until(lambda: self._known() >= len(_NAMES), 120)
        self.service = (self.root / "net/b/onion/hostname").read_text().strip()

    def _known(self) -> int:
        with contextlib.suppress(FileNotFoundError):
            return len(re.findall(r"\ns .*Exit", (self.root / "net/a/cached-microdesc-consensus").read_text()))
        return 0

    def end(self) -> None:
        for relay in self.relays:
            relay.kill()
            relay.wait()


class _SeenFrom(http.server.BaseHTTPRequestHandler):
    """A page that says whom it is asked by."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.client_address[0].encode())

    def log_message(self, *_: object) -> None:
        pass


def answer_name(sock: socket.socket) -> None:
    """Answer a question with the address of the page (RFC 1035)."""
    query, sender = sock.recvfrom(512)
    question = query[12 : query.index(b"\0", 12) + 5]
    known = question[-4:] == b"\0\1\0\1"
    head = query[:2] + struct.pack(">HHHHH", 0x8180, 1, known, 0, 0)
    told = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, 4) + socket.inet_aton(FAR_PAGE)
    sock.sendto(head + question + (told if known else b""), sender)


def serve(beyond: Beyond, over: threading.Event, ready: threading.Event) -> None:
    """Be the page and the resolver of the exits; a thread can be in another namespace than its process."""
    with Path(f"/run/netns/{beyond.outside}").open() as namespace:
        libc_setns(namespace.fileno())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as names:
        names.bind((OUTSIDE, 53))
        with http.server.HTTPServer((FAR_PAGE, 80), _SeenFrom) as page:
            ready.set()
            while not over.is_set():
                for ready_one in select.select([names, page], [], [], 0.5)[0]:
                    if ready_one is names:
                        answer_name(names)
                    else:
                        page.handle_request()


@contextlib.contextmanager
def tor_network(beyond: Beyond, images: Path, root: Path) -> Iterator[TorNetwork]:
    """Have the network, a page and a resolver that its exits reach."""
    for address in (EXIT, FAR_PAGE):
        add = [*beyond.enter(beyond.outside), "ip", "address", "replace", f"{address}/32", "dev", "lo"]
        subprocess.run(add, check=True)
    over, ready = threading.Event(), threading.Event()
    threading.Thread(target=serve, args=(beyond, over, ready), daemon=True).start()
    assert ready.wait(10)
    made = TorNetwork(beyond, images, root)
    try:
        made.start()
        yield made
    finally:
        made.end()
        over.set()
