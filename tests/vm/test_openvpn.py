"""A real OpenVPN tunnel that is set up as on OpenBSD: openvpn in one place, its tun in another that has no other way.

The file is one as a provider gives it, the daemon's call is that of hostname.tunN, and what it calls is okubsd-tun;
a network namespace stands for the rdomain, and two programs of a few lines for ifconfig(8) and route(8).
"""

from __future__ import annotations

import datetime
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from okubsd.vpn.openvpn import parse_openvpn, render_config, tun_file
from tests.conftest import CHECKOUT
from tests.vm.beyond import OUTSIDE, Beyond
from tests.vm.world import wait_until

NUMBER, SERVER, FAR_PAGE = 107, "10.8.0.1", "203.0.113.90"
RDOMAIN = f"okrd{os.getpid() % 10000}"
FRAMES = f"protocol 17 to {OUTSIDE} port 1194"

_SHIMS = {
    # ifconfig tunN inet LOCAL REMOTE netmask MASK mtu MTU up: the tun goes to its rdomain first.
    "ifconfig": """#!/bin/sh
set -e
ip link set "$1" netns {rdomain}
exec nsenter --net=/run/netns/{rdomain} -- sh -ec \
 'ip address add "$3" peer "$4" dev "$1"; ip link set "$1" mtu "$8" up' sh "$@"
""",
    # route -qn -T N add|delete -inet default REMOTE
    "route": """#!/bin/sh
exec nsenter --net=/run/netns/{rdomain} -- ip route "$4" default via "$7"
""",
}


_SIGNS = x509.KeyUsage(
    digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
    key_agreement=True, key_cert_sign=False, crl_sign=False, encipher_only=False, decipher_only=False,
)  # fmt: skip


def certificate(
    name: str, usage: x509.ObjectIdentifier | None, issuer: tuple[x509.Name, ec.EllipticCurvePrivateKey] | None
) -> tuple[x509.Name, ec.EllipticCurvePrivateKey, str, str]:
    """Return subject, key, and both as PEM; without an ``issuer`` it is an authority's."""
    key, subject = ec.generate_private_key(ec.SECP256R1()), x509.Name.from_rfc4514_string(f"CN={name}")
    by, signer = issuer or (subject, key)
    now = datetime.datetime.now(datetime.UTC)
    made = x509.CertificateBuilder(by, subject, key.public_key(), x509.random_serial_number(),
                                   now - datetime.timedelta(hours=1), now + datetime.timedelta(hours=1))  # fmt: skip
    made = made.add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    if usage:
        made = made.add_extension(x509.ExtendedKeyUsage([usage]), critical=False).add_extension(_SIGNS, critical=True)
    pem = serialization.Encoding.PEM
    return (
        subject, key, made.sign(signer, hashes.SHA256()).public_bytes(pem).decode(),
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode(),
    )  # fmt: skip


@pytest.fixture
def beyond(tmp_path: Path) -> Iterator[Beyond]:
    """Two namespaces and the uplink between them, listened on, and one that stands for the rdomain."""
    if os.geteuid() != 0:
        pytest.fail("this test makes network namespaces and so needs root")
    made = Beyond(tmp_path, tmp_path)
    try:
        made.lay()
        subprocess.run(["ip", "netns", "add", RDOMAIN], check=True)
        far = [*made.enter(made.outside), "ip", "address", "add", f"{FAR_PAGE}/32", "dev", "lo"]
        subprocess.run(far, check=True)
        yield made
    finally:
        subprocess.run(["ip", "netns", "delete", RDOMAIN], check=False)
        made.remove()


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def serve(beyond: Beyond, tmp: Path, topology: str) -> tuple[subprocess.Popen[bytes], str]:
    """Start a server at the far end; return it, and the file that it gives its client."""
    authority, signer, ca, _ = certificate("authority", None, None)
    _, _, cert, key = certificate("server", x509.ExtendedKeyUsageOID.SERVER_AUTH, (authority, signer))
    _, _, own_cert, own_key = certificate("client", x509.ExtendedKeyUsageOID.CLIENT_AUTH, (authority, signer))
    paths = [str(write(tmp / name, text)) for name, text in (("ca", ca), ("cert", cert), ("key", key))]
    argv = ["openvpn", "--dev", "tun", "--proto", "udp", "--local", OUTSIDE, "--port", "1194", "--dh", "none",
            "--server", "10.8.0.0", "255.255.255.0", "--topology", topology, "--ca", paths[0], "--cert", paths[1],
            "--key", paths[2], "--push", "redirect-gateway def1", "--push", "route 192.168.77.0 255.255.255.0",
            "--push", "dhcp-option DNS 10.8.0.1", "--keepalive", "1", "10", "--verb", "3"]  # fmt: skip
    log = (tmp / "server.log").open("wb")
    server = subprocess.Popen([*beyond.enter(beyond.outside), *argv], stdout=log, stderr=log)
    wait_until(lambda: b"Initialization Sequence Completed" in (tmp / "server.log").read_bytes())
    file = (
        f"client\ndev tun\nproto udp\nremote {OUTSIDE} 1194\nresolv-retry infinite\nnobind\npersist-key\npersist-tun\n"
    )
    file += "remote-cert-tls server\nverb 3\nredirect-gateway def1\nblock-outside-dns\n"
    return server, f"{file}<ca>\n{ca}</ca>\n<cert>\n{own_cert}</cert>\n<key>\n{own_key}</key>\n"


def connect(beyond: Beyond, tmp: Path, text: str) -> subprocess.Popen[bytes]:
    """Start openvpn as hostname.tunN does, with the programs of the simulated host."""
    config = write(tmp / "etc/okubsd/work.ovpn", render_config(parse_openvpn(tmp / "given.ovpn", text)))
    called = (CHECKOUT / "libexec/okubsd-tun").read_text().replace("#!/bin/ksh", "#!/usr/bin/env mksh", 1)
    called = called.replace("\nroot=\n", f"\nroot={tmp}\n").replace("\nPATH=", f"\nPATH={tmp}/bin:")
    up = write(tmp / "okubsd-tun", called, 0o755)
    for name, shim in _SHIMS.items():
        write(tmp / "bin" / name, shim.format(rdomain=RDOMAIN), 0o755)
    hostname = tun_file(NUMBER, "okubsd", "work", str(config), str(up))
    write(tmp / f"etc/hostname.tun{NUMBER}", hostname)
    found = re.search(r"\|\| /usr/local/sbin/(openvpn .*)", hostname)
    assert found is not None
    # It stays in sight instead of going away.
    argv = shlex.split(found[1].replace(" --daemon okubsd-work", ""))
    log = (tmp / "client.log").open("wb")
    return subprocess.Popen([*beyond.enter(beyond.inside), *argv], stdout=log, stderr=log)


@pytest.mark.parametrize("topology", ["subnet", "net30"])
def test_what_is_in_the_rdomain_leaves_by_the_tunnel_or_not_at_all(
    topology: str, beyond: Beyond, tmp_path: Path
) -> None:
    within = beyond.enter(RDOMAIN)

    def reaches(address: str) -> bool:
        argv = [*within, "busybox", "ping", "-c", "1", "-W", "1", address]
        return subprocess.run(argv, capture_output=True, check=False).returncode == 0

    server, text = serve(beyond, tmp_path, topology)
    assert not reaches(FAR_PAGE) and not reaches(SERVER)
    client = connect(beyond, tmp_path, text)
    try:
        wait_until(lambda: reaches(SERVER))
        assert reaches(FAR_PAGE)
        told = beyond.clear_frames()
        assert told and set(told) == {FRAMES}
        routes = subprocess.run([*within, "ip", "route"], capture_output=True, text=True, check=True).stdout
        assert "default via" in routes and "192.168.77" not in routes, "the server's routes are not taken"
        # The host's own way is what it was: the tunnel took nothing over.
        outside = [*beyond.enter(beyond.inside), "ip", "-o", "address"]
        assert "10.8.0." not in subprocess.run(outside, capture_output=True, text=True, check=True).stdout
        server.send_signal(signal.SIGSTOP)
        beyond.clear_frames()
        assert not reaches(FAR_PAGE) and not reaches(SERVER)
        assert set(beyond.clear_frames()) <= {FRAMES}
        server.send_signal(signal.SIGCONT)
        client.kill()
        client.wait()
        beyond.clear_frames()
        assert not reaches(FAR_PAGE) and not reaches(SERVER)
        assert beyond.clear_frames() == []
    finally:
        for process in (client, server):
            process.kill()
            process.wait()
