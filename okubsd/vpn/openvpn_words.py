"""The words of openvpn(8) 2.6: which a client's file may say and with what, which mean nothing here, which are refused.

Every option that `openvpn --help` lists is in one of the tables; a test holds them to the installed openvpn.
"""

from __future__ import annotations

import enum
import functools


class Kind(enum.StrEnum):
    """What an argument, or the label of a PEM object in a block, has to match as a whole (re)."""

    NUMBER = r"[0-9]{1,9}"
    PORT = r"[0-9]{1,5}"
    ADDRESS = r"[0-9.]{7,15}"
    NAME = r"[A-Za-z0-9._-]{1,64}"
    LIST = r"[A-Za-z0-9.:+!@?_=-]{1,200}"
    HEX = r"[0-9A-Fa-f:]{1,200}"
    # A certificate's subject; quotes and backslashes never are in it.
    SUBJECT = r"[A-Za-z0-9 .,:=@*/_()+-]{1,200}"
    TEXT = r"[A-Za-z0-9 .:/_-]{1,120}"
    PROTOCOL = r"udp|tcp|tcp-client|udp4|tcp4|tcp4-client"
    VERSION = r"1\.[0-3]"
    RELEASE = r"[0-9]\.[0-9]{1,2}(?:\.[0-9]{1,2})?"
    OR_HIGHEST = r"or-highest"
    DIRECTION = r"[01]|normal|inverse|bidirectional"
    SIDE = r"server|client"
    HOW = r"subject|name|name-prefix"
    INFINITE = r"infinite|[0-9]{1,9}"
    UNLIMITED = r"unlimited|[0-9]{1,9}"
    COMPRESSION = r"lzo|lz4|lz4-v2|stub|stub-v2|migrate|yes|no|adaptive|asym"
    DISCOVERY = r"no|maybe|yes"
    MTU_KIND = r"mtu|fixed"
    FILTER = r"accept|ignore|reject"
    UNASKED = r"none|nointeract"
    PROFILE = r"legacy|preferred|suiteb|insecure"

    # Blocks.
    CERTIFICATES = r"CERTIFICATE|TRUSTED CERTIFICATE|X509 CERTIFICATE"
    PRIVATE_KEY = r"(?:RSA |EC )?PRIVATE KEY"
    REVOKED = r"X509 CRL"
    STATIC_KEY = r"OpenVPN Static key V1"
    CLIENT_KEY = r"OpenVPN tls-crypt-v2 client key"
    BASE64 = r"base64"
    LOGIN = r"login"
    FINGERPRINTS = r"fingerprints"


_NUMBER, _NAME = Kind.NUMBER, Kind.NAME


def _alike(words: str, *kinds: Kind) -> dict[str, tuple[tuple[Kind, ...], int]]:
    """Return ``words`` with the same arguments, all of which there must be."""
    return dict.fromkeys(words.split(), (kinds, len(kinds)))


# Each with the kinds of its arguments, and how many of them there must be.
TAKEN: dict[str, tuple[tuple[Kind, ...], int]] = {
    **_alike(
        "client pull tls-client float persist-key persist-tun persist-local-ip persist-remote-ip "
        "remote-random auth-nocache fast-io mute-replay-warnings ping-timer-rem tls-exit passtos comp-noadapt "
        "suppress-timestamps disable-occ allow-recursive-routing mtu-test single-session"
    ),
    **_alike(
        "ping ping-restart ping-exit session-timeout reneg-bytes reneg-pkts hand-window tran-window tls-timeout mute "
        "verb sndbuf rcvbuf tun-mtu tun-mtu-extra tun-mtu-max link-mtu "
        "connect-timeout server-poll-timeout shaper txqueuelen",
        Kind.NUMBER,
    ),
    **_alike("rport", Kind.PORT),
    **_alike("data-ciphers ncp-ciphers tls-cipher tls-ciphersuites tls-groups", Kind.LIST),
    **_alike("cipher data-ciphers-fallback auth x509-username-field", Kind.NAME),
    "remote": ((Kind.ADDRESS, Kind.PORT, Kind.PROTOCOL), 1),
    "proto": ((Kind.PROTOCOL,), 1),
    "http-proxy": ((Kind.ADDRESS, Kind.PORT), 2),
    "socks-proxy": ((Kind.ADDRESS, Kind.PORT), 1),
    "keepalive": ((_NUMBER, _NUMBER), 2),
    "inactive": ((_NUMBER, _NUMBER), 1),
    "reneg-sec": ((_NUMBER, _NUMBER), 1),
    "replay-window": ((_NUMBER, _NUMBER), 1),
    "connect-retry": ((_NUMBER, _NUMBER), 1),
    "connect-retry-max": ((Kind.UNLIMITED,), 1),
    "resolv-retry": ((Kind.INFINITE,), 1),
    "explicit-exit-notify": ((_NUMBER,), 0),
    "mssfix": ((_NUMBER, Kind.MTU_KIND), 0),
    "fragment": ((_NUMBER, Kind.MTU_KIND), 1),
    "mtu-disc": ((Kind.DISCOVERY,), 1),
    "comp-lzo": ((Kind.COMPRESSION,), 0),
    "compress": ((Kind.COMPRESSION,), 0),
    "allow-compression": ((Kind.COMPRESSION,), 1),
    "auth-retry": ((Kind.UNASKED,), 1),
    "key-direction": ((Kind.DIRECTION,), 1),
    "tls-version-min": ((Kind.VERSION, Kind.OR_HIGHEST), 1),
    "tls-version-max": ((Kind.VERSION,), 1),
    "compat-mode": ((Kind.RELEASE,), 1),
    "tls-cert-profile": ((Kind.PROFILE,), 1),
    "remote-cert-tls": ((Kind.SIDE,), 1),
    "ns-cert-type": ((Kind.SIDE,), 1),
    "remote-cert-ku": ((Kind.HEX,) * 8, 0),
    "remote-cert-eku": ((Kind.SUBJECT,), 1),
    "verify-x509-name": ((Kind.SUBJECT, Kind.HOW), 1),
    "verify-hash": ((Kind.HEX, _NAME), 1),
    "pull-filter": ((Kind.FILTER, Kind.TEXT), 2),
}

# What names a file, or is one inline: only ever inline in what openvpn gets.
BLOCKS: dict[str, Kind] = {
    "ca": Kind.CERTIFICATES,
    "cert": Kind.CERTIFICATES,
    "extra-certs": Kind.CERTIFICATES,
    "key": Kind.PRIVATE_KEY,
    "crl-verify": Kind.REVOKED,
    "pkcs12": Kind.BASE64,
    "tls-auth": Kind.STATIC_KEY,
    "tls-crypt": Kind.STATIC_KEY,
    "tls-crypt-v2": Kind.CLIENT_KEY,
    "auth-user-pass": Kind.LOGIN,
    "peer-fingerprint": Kind.FINGERPRINTS,
}

# openvpn(8), CONNECTION PROFILES.
IN_CONNECTION = frozenset(
    _alike(
        "bind connect-retry connect-retry-max connect-timeout explicit-exit-notify float fragment http-proxy link-mtu "
        "lport mssfix mtu-disc nobind port proto remote rport socks-proxy tun-mtu tun-mtu-extra tun-mtu-max"
    )
)

_RUNS = "runs a command, which okubsd never does for a tunnel"
_LOADS = "loads a library, which okubsd never does for a tunnel"
_WRITES = "has openvpn read or write a file of the host"
_MANAGES = "opens openvpn to other programs"
_SERVER = "is for a server, and this is a client"
_ASKS = "has openvpn ask somebody, and there is nobody"
_OURS = "is for okubsd to say"
_NAMES = "has names looked up outside the tunnel"


def _all(words: str, why: str) -> dict[str, str]:
    return dict.fromkeys(words.split(), why)


REFUSED: dict[str, str] = {
    **_all(
        "up down up-restart down-pre route-up route-pre-down ipchange tls-verify client-connect client-disconnect "
        "client-crresponse learn-address auth-user-pass-verify tls-crypt-v2-verify script-security dns-updown iproute",
        _RUNS,
    ),
    **_all("plugin pkcs11-providers engine providers", _LOADS),
    **_all(
        "log log-append status status-version writepid memstats replay-persist ifconfig-pool-persist tmp-dir capath "
        "dh config cd chroot genkey secret askpass client-config-dir http-proxy-user-pass auth-gen-token-secret "
        "tls-export-cert",
        _WRITES,
    ),
    **_all(
        "management management-client management-query-passwords management-query-proxy management-query-remote "
        "management-hold management-signal management-forget-disconnect management-up-down management-log-cache "
        "management-client-user management-client-group management-client-auth management-client-pf "
        "management-external-key management-external-cert port-share",
        _MANAGES,
    ),
    **_all(
        "mode server server-ipv6 server-bridge push push-reset push-remove ifconfig-pool ifconfig-ipv6-pool "
        "ifconfig-push ifconfig-ipv6-push iroute iroute-ipv6 disable verify-client-cert username-as-common-name "
        "auth-gen-token opt-verify auth-user-pass-optional client-to-client duplicate-cn ccd-exclusive hash-size "
        "bcast-buffers tcp-queue-limit connect-freq connect-freq-initial max-clients max-routes-per-client "
        "stale-routes-check tls-server vlan-tagging vlan-accept vlan-pvid no-name-remapping multihome",
        _SERVER,
    ),
    **_all(
        "static-challenge pkcs11-id pkcs11-id-management pkcs11-protected-authentication pkcs11-private-mode "
        "pkcs11-cert-private pkcs11-pin-cache",
        _ASKS,
    ),
    **_all(
        "dev-node lladdr local bind-dev mark daemon syslog nice mlock inetd ifconfig ifconfig-ipv6 "
        "ifconfig-noexec ifconfig-nowarn route-noexec client-nat remap-usr1 gremlin mktun rmtun test-crypto "
        "show-ciphers show-digests show-engines show-tls show-pkcs11-ids show-gateway show-groups show-curves help "
        "version proto-force no-replay x509-track keying-material-exporter setcon allow-pull-fqdn",
        _OURS,
    ),
    **_all("remote-random-hostname socks-proxy-retry http-proxy-option", _NAMES),
}

_ROUTES = "everything of these VMs goes through the tunnel, and nothing else does"
_WINDOWS = "means something on Windows only"
_SCRIPTS = "is for scripts, of which there are none"
_RESOLVER = "write 'resolver' to the network instead"

PASSED_OVER: dict[str, str] = {
    **_all(
        "route route-ipv6 route-gateway route-ipv6-gateway route-metric route-delay route-nopull redirect-gateway "
        "redirect-private block-ipv6 topology tun-ipv6",
        _ROUTES,
    ),
    **_all("dhcp-option dns", _RESOLVER),
    **_all(
        "block-outside-dns register-dns route-method ip-win32 win-sys service windows-driver dhcp-renew dhcp-release "
        "tap-sleep show-net-up pause-exit show-adapters allow-nonadmin cryptoapicert",
        _WINDOWS,
    ),
    **_all("setenv setenv-safe echo parameter up-delay", _SCRIPTS),
    **_all("ignore-unknown-option", "it was followed"),
    **_all("push-peer-info", "a server learns nothing of this host"),
    **_all("nobind bind lport", "the client's own port is of nobody's choosing"),
    **_all("user group", "openvpn stays who it is, to bring the tunnel back"),
    **_all("max-routes http-proxy-retry auth-token", "it changes nothing here"),
    **_all("disable-dco tcp-nodelay machine-readable-output", "it changes nothing here"),
    **_all("ncp-disable keysize no-iv tls-remote", "openvpn knows it no longer"),
}


# Read by name: which device, and the port, which here is the server's only.
OWN = ("dev", "dev-type", "port")


@functools.cache
def known_words() -> frozenset[str]:
    """Return every word that is in one of the tables."""
    return frozenset((*TAKEN, *BLOCKS, *REFUSED, *PASSED_OVER, *OWN))
