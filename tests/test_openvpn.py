"""OpenVPN files of strangers: what openvpn(8) is given is made anew, and openvpn itself is the judge."""

from __future__ import annotations

import base64
import gzip
import os
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from okubsd.errors import BadDescription
from okubsd.host.tunnels import reader_beside
from okubsd.vpn.openvpn import OpenVpnClient, parse_openvpn, render_config, tokens
from okubsd.vpn.openvpn_words import BLOCKS, IN_CONNECTION, OWN, PASSED_OVER, REFUSED, TAKEN, known_words

PATH = Path("given.ovpn")
CERTIFICATE = "-----BEGIN CERTIFICATE-----\nMIIBAAAA\n-----END CERTIFICATE-----\n"
KEY = "-----BEGIN PRIVATE KEY-----\nMIIBAAAA\n-----END PRIVATE KEY-----\n"
STATIC = (
    "-----BEGIN OpenVPN Static key V1-----\n"
    + "0123456789abcdef0123456789ABCDEF\n" * 16
    + "-----END OpenVPN Static key V1-----\n"
)
BASE = "client\ndev tun\nremote 198.51.100.9 1194\n"
CA = f"<ca>\n{CERTIFICATE}</ca>\n"
PRINT = ":".join(["AB"] * 32)

# Shapes that providers, routers and servers hand out; each is taken by openvpn, and by us.
HONEST = {
    "the least": BASE + CA,
    "a byte order mark": "\ufeff" + BASE + CA,
    "windows line ends": (BASE + CA).replace("\n", "\r\n"),
    "a tab and a comment": BASE.replace("dev tun", "dev\ttun # the tunnel") + CA,
    "a comment with a semicolon": "; of a provider\n" + BASE + CA,
    "udp": BASE + "proto udp\n" + CA,
    "tcp-client": BASE + "proto tcp-client\n" + CA,
    "many remotes": BASE + "remote 198.51.100.2 5060 udp\nremote 198.51.100.3 443 tcp\nremote-random\n" + CA,
    "waiting for a server": BASE + "server-poll-timeout 20\nresolv-retry infinite\nconnect-retry 2 30\nconnect-retry-max 5\n" + CA,
    "sizes": BASE + "tun-mtu 1500\nmssfix 1450\nfragment 1300\nsndbuf 393216\nrcvbuf 393216\n" + CA,
    "persistence": BASE + "nobind\npersist-key\npersist-tun\nfloat\n" + CA,
    "times": BASE + "keepalive 10 60\nreneg-sec 0\nhand-window 60\nsession-timeout 3600\ninactive 3600 100\n" + CA,
    "ciphers": BASE + "cipher AES-256-GCM\ndata-ciphers AES-256-GCM:AES-128-GCM:CHACHA20-POLY1305\ndata-ciphers-fallback AES-256-CBC\nauth SHA512\n" + CA,
    "tls ciphers": BASE + "tls-cipher TLS-ECDHE-RSA-WITH-AES-256-GCM-SHA384:TLS-DHE-RSA-WITH-AES-256-GCM-SHA384\ntls-ciphersuites TLS_AES_256_GCM_SHA384\ntls-version-min 1.2 or-highest\ntls-cert-profile preferred\n" + CA,
    "names of the server": BASE + "remote-cert-tls server\nverify-x509-name server_abc name\n" + CA,
    "a subject in quotes": BASE + 'verify-x509-name "C=CH, O=Example, CN=vpn.example.org" subject\n' + CA,
    "a subject in single quotes": BASE + "verify-x509-name 'vpn example' name-prefix\n" + CA,
    "key usage": BASE + "remote-cert-ku a0 88\nremote-cert-eku 1.3.6.1.5.5.7.3.1\n" + CA,
    "certificates": BASE + CA + f"<cert>\n{CERTIFICATE}</cert>\n<key>\n{KEY}</key>\n",
    "a chain with text around": BASE + f"<ca>\nCertificate:\n    Data:\n{CERTIFICATE}subject=CN = x\n{CERTIFICATE}</ca>\n",
    "tls-auth": BASE + "key-direction 1\n" + CA + f"<tls-auth>\n#\n# 2048 bit OpenVPN static key\n#\n{STATIC}</tls-auth>\n",
    "tls-crypt": BASE + CA + f"<tls-crypt>\n{STATIC}</tls-crypt>\n",
    "a login": BASE + CA + "<auth-user-pass>\nalice\nsecret # word\n</auth-user-pass>\nauth-nocache\nauth-retry nointeract\n",
    "a fingerprint": BASE + f"<peer-fingerprint>\n{PRINT}\n</peer-fingerprint>\n",
    "connections": "client\ndev tun\n<connection>\nremote 198.51.100.1 1194 udp\nexplicit-exit-notify 2\n</connection>\n<connection>\nremote 198.51.100.1 443 tcp\nconnect-timeout 5\n</connection>\n" + CA,
    "tls-client and pull": "tls-client\npull\ndev tun\nremote 198.51.100.9 1194\n" + CA,
    "what the file itself may miss": BASE + "ignore-unknown-option block-outside-dns foo-bar\nfoo-bar 1\nblock-outside-dns\n" + CA,
    "setenv": BASE + "setenv CLIENT_CERT 0\nsetenv FORWARD_COMPATIBLE 1\nsetenv opt block-outside-dns\nsetenv opt nonsense 3\n" + CA,
    "routes": BASE + "redirect-gateway def1\nroute-nopull\nroute 10.0.0.0 255.0.0.0 vpn_gateway\ndhcp-option DNS 9.9.9.9\n" + CA,
    "filters": BASE + 'pull-filter ignore "dhcp-option DNS"\npull-filter ignore redirect-gateway\n' + CA,
    "compression": BASE + "comp-lzo no\nallow-compression no\n" + CA,
    "what it says": BASE + "verb 3\nmute 20\nmute-replay-warnings\nfast-io\npush-peer-info\n" + CA,
    "a login that is said twice": BASE + CA + "auth-user-pass\n<auth-user-pass>\nalice\nsecret\n</auth-user-pass>\n",
    "inline, as it is said": BASE + "ca [inline]\n" + CA,
    "an optional cipher": BASE + "data-ciphers AES-256-GCM:?CHACHA20-POLY1305\ncompat-mode 2.4.0\ntun-mtu-max 1600\n" + CA,
    "a user": BASE + "user nobody\ngroup nogroup\n" + CA,
    "a port": BASE.replace(" 1194", "") + "port 1195\n" + CA,
    "a proxy": BASE.replace("remote", "proto tcp\nremote") + "http-proxy 198.51.100.77 3128\n" + CA,
    "words with dashes": BASE + "--nobind\n--verb 3\n" + CA,
    "a list of revoked": BASE + CA + "<crl-verify>\n-----BEGIN X509 CRL-----\nMIIBAAAA\n-----END X509 CRL-----\n</crl-verify>\n",
    "pkcs12": BASE + f"<pkcs12>\n{base64.b64encode(b'x' * 90).decode()}\n</pkcs12>\n",
}  # fmt: skip

MARKER = "/tmp/okubsd-marker"
LONG = "a" * 250
# Each tries to run a program, to read or write a file, or to be reached; none may get a word of it to openvpn.
HOSTILE = {
    "a block that ends early for openvpn": BASE + f"<ca>\n{CERTIFICATE}</ca>x\nup {MARKER}\n</ca>\n",
    "a block with a directive after its end": BASE + f"<ca>\n{CERTIFICATE}</ca> up {MARKER}\nscript-security 2\n</ca>\n",
    "an indented end": BASE + f"<ca>\n{CERTIFICATE}  </ca>junk\nplugin {MARKER}\n</ca>\n",
    "an end after a form feed": BASE + f"<ca>\n{CERTIFICATE}\f</ca>\nup {MARKER}\n</ca>\n",
    "a line that openvpn cuts": BASE + f"verb 3 # {LONG}\nverb 3 {LONG}up {MARKER}\n" + CA,
    "a comment that openvpn cuts": BASE + f"nobind #{' ' * 300}\n" + CA + f"verb 3{' ' * 249}up {MARKER}\n",
    "a block inside a block": BASE + f"<ca>\n<up>\n{MARKER}\n</up>\n{CERTIFICATE}</ca>\n<cert>\nup {MARKER}\n</cert>\n",
    "text for a certificate": BASE + f"<ca>\nup {MARKER}\n</ca>\n",
    "a login of the host's passwords": BASE + "auth-user-pass /etc/master.passwd\n" + CA,
    "a login from above": BASE + "auth-user-pass ../secret\n" + CA,
    "a login with a directive": BASE + CA + f"<auth-user-pass>\nalice\nsecret\nup {MARKER}\n</auth-user-pass>\n",
    "a login that ends early": BASE + CA + f"<auth-user-pass>\n <auth-user-pass>\nup {MARKER}\n</auth-user-pass>\n",
    "an authority of the host's": BASE + "ca /etc/ssl/cert.pem\n",
    "a key of the host's": BASE + CA + "key /etc/ssl/private/host.key\n",
    "a connection that runs": f"client\ndev tun\n<connection>\nremote 198.51.100.1 1194\nup {MARKER}\n</connection>\n" + CA,
    "a connection that ends early": f"client\ndev tun\n<connection>\nremote 198.51.100.1 1194\n</connection>x\nup {MARKER}\n</connection>\n" + CA,
    "setenv opt": BASE + f"setenv opt up {MARKER}\n" + CA,
    "setenv opt with dashes": BASE + f"setenv opt plugin {MARKER}.so\n" + CA,
    "a word that may be missed": BASE + f"ignore-unknown-option up\nup {MARKER}\n" + CA,
    "dashes": BASE + f"--up {MARKER}\n" + CA,
    "quotes": BASE + f'"up" "{MARKER}"\n' + CA,
    "single quotes": BASE + f"'up' '{MARKER}'\n" + CA,
    "a backslash": BASE + f"\\up {MARKER}\n" + CA,
    "a quoted new argument": BASE + f'verify-x509-name "x\\" up {MARKER}" name\n' + CA,
    "tabs": BASE + f"\tup\t{MARKER}\n" + CA,
    "a carriage return": BASE + f"verb 3\rup {MARKER}\n" + CA,
    "a vertical tab": BASE + f"verb\v3\vup {MARKER}\n" + CA,
    "a unicode line end": BASE + f"verb 3\u2028up {MARKER}\n" + CA,
    "a next line": BASE + f"verb 3\x85up {MARKER}\n" + CA,
    "an escape code": BASE + "verify-x509-name \x1b]0;x\x07 name\n" + CA,
    "a NUL": BASE + f"verb 3\0up {MARKER}\n" + CA,
    "another device": BASE.replace("dev tun", "dev tap") + CA,
    "a device of the host's": BASE.replace("dev tun", "dev ../em0") + CA,
    "a name for a server": BASE.replace("198.51.100.9", "vpn.example.org") + CA,
    "this host as a server": BASE.replace("198.51.100.9", "127.0.0.1") + CA,
    "a broadcast as a server": BASE.replace("198.51.100.9", "255.255.255.255") + CA,
    "a proxy with a file": BASE + "http-proxy 198.51.100.7 3128 /etc/master.passwd basic\n" + CA,
    "a proxy that asks": BASE + "http-proxy 198.51.100.7 3128 auto\n" + CA,
    "a socks proxy with a file": BASE + "socks-proxy 198.51.100.7 1080 /etc/master.passwd\n" + CA,
    "a list of revoked in a directory": BASE + CA + "crl-verify /etc dir\n",
    "a key that asks": BASE + CA + "<key>\n-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nMIIBAAAA\n-----END RSA PRIVATE KEY-----\n</key>\n",
    "a key that asks, PKCS 8": BASE + CA + f"<key>\n{KEY.replace('PRIVATE', 'ENCRYPTED PRIVATE')}</key>\n",
    "no server": "client\ndev tun\n" + CA,
    "no client": "dev tun\nremote 198.51.100.1 1194\n" + CA,
    "a number that is none": BASE + "verb ²\n" + CA,
    "a number of 5,000 digits": BASE + f"ping {'9' * 5000}\n" + CA,
    "too many arguments": BASE + f"verb 3 {MARKER}\n" + CA,
    "a block that does not end": BASE + f"<ca>\n{CERTIFICATE}",
    "a block twice": BASE + CA + CA,
    "an unknown block": BASE + CA + f"<up>\n{MARKER}\n</up>\n",
    "a login that is missing": BASE + CA + "auth-user-pass\n",
    "what openvpn does not know": BASE + "random\nmtu 5\ntimeout 3\n" + CA,
} | {
    f"the word {word}": BASE + f"{word} {MARKER}\n" + CA
    for word in (
        "up", "down", "route-up", "route-pre-down", "ipchange", "tls-verify", "auth-user-pass-verify", "client-connect",
        "learn-address", "tls-crypt-v2-verify", "plugin", "pkcs11-providers", "engine", "providers", "script-security",
        "log", "log-append", "status", "writepid", "memstats", "replay-persist", "tmp-dir", "capath", "config", "cd",
        "chroot", "askpass", "secret", "management", "management-external-key", "iproute", "dns-updown", "tls-export-cert",
        "dev-node", "daemon", "syslog", "port-share", "client-config-dir", "ifconfig-pool-persist",
    )
}  # fmt: skip

# Of openvpn's options, those that would run, load, write or open something (options.c, show_settings()).
_TOUCHES = re.compile(
    r"(?m)^.*?  (up_script|down_script|route_script|ipchange|tls_verify|auth_user_pass_verify_script|"
    r"client_connect_script|learn_address_script|writepid|status_file|chroot_dir|cd_dir|management_addr|"
    r"packet_id_file|shared_secret_file|ca_path|dev_node) = '(.*)'$"
)


def refused(text: str) -> list[str]:
    with pytest.raises(BadDescription) as error:
        parse_openvpn(PATH, text)
    return list(error.value.mistakes)


def ask_openvpn(config: Path) -> str:
    """Return what the installed openvpn says of ``config``; it has no device, and a network without a way out."""
    login = config.with_name("login")
    login.write_text("alice\nsecret\n")
    login.chmod(0o600)
    options = ["--verb", "4", "--dev", "null", "--auth-user-pass", str(login), "--mute", "0"]
    alone = ["unshare", "--net", "--"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--net", "--"]
    argv = [*alone, "openvpn", "--config", str(config), *options]
    said = ""
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            said += line
            if re.search(r" OpenVPN 2\.\d+\.\d+ ", line):
                # It has told all of its settings; what it would do next does not matter.
                process.kill()
    return said


@pytest.mark.spawns
@pytest.mark.parametrize("name", HONEST)
def test_an_honest_file_is_taken_by_openvpn_and_by_us(name: str, tmp_path: Path) -> None:
    made = render_config(parse_openvpn(PATH, HONEST[name]))
    for text in (HONEST[name], made):
        (tmp_path / "x.ovpn").write_text(text, newline="")
        said = ask_openvpn(tmp_path / "x.ovpn")
        assert "Current Parameter Settings" in said and "Options error" not in said, (name, said[:2000])
        assert {value for _, value in _TOUCHES.findall(said)} == {"[UNDEF]"}


@pytest.mark.parametrize("name", HONEST)
def test_what_is_made_of_a_file_is_made_of_itself(name: str) -> None:
    client = parse_openvpn(PATH, HONEST[name])
    again = parse_openvpn(PATH, render_config(client))
    assert render_config(again) == render_config(client)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_and_nothing_of_it_is_repeated_raw(name: str) -> None:
    mistakes = refused(HOSTILE[name])
    assert mistakes and all(mistake.startswith("given.ovpn") and mistake.isprintable() for mistake in mistakes)
    assert not Path(MARKER).exists()


def test_there_are_enough_of_both() -> None:
    assert len(HOSTILE) >= 60 and len(HONEST) >= 30


def test_a_file_names_only_what_lies_beside_it(tmp_path: Path) -> None:
    config = tmp_path / "x.ovpn"
    config.write_text(BASE + "ca ca.crt\nauth-user-pass login\ntls-auth ta.key 1\n")
    for name, text in (("ca.crt", CERTIFICATE), ("login", "alice\nsecret\n"), ("ta.key", STATIC), ("x.ovpn", "")):
        with (tmp_path / name).open("a") as stream:
            stream.write(text)
        (tmp_path / name).chmod(0o600)
    made = render_config(parse_openvpn(config, config.read_text(), reader_beside(config)))
    assert "alice\nsecret\n" in made and "ca.crt" not in made and "key-direction 1\n" in made
    (tmp_path / "ca.crt").chmod(0o644)
    with pytest.raises(BadDescription, match="can be read by others"):
        parse_openvpn(config, config.read_text(), reader_beside(config))
    (tmp_path / "ca.crt").unlink()
    (tmp_path / "ca.crt").symlink_to("/etc/hostname")
    with pytest.raises(BadDescription, match="no regular file"):
        parse_openvpn(config, config.read_text(), reader_beside(config))
    with pytest.raises(BadDescription, match="only a file in"):
        parse_openvpn(config, BASE + "ca /etc/ssl/ca.pem\n", reader_beside(config))


@pytest.mark.parametrize("line", ["</auth-user-pass>", " </auth-user-pass>x", "<connection>", "\f</auth-user-pass>"])
def test_a_login_beside_it_ends_no_block(line: str, tmp_path: Path) -> None:
    """What openvpn would take for the end of the block, it reads directives behind."""
    config = tmp_path / "x.ovpn"
    config.write_text(BASE + CA + "auth-user-pass login\n")
    (tmp_path / "login").write_text(f"{line}\nlog {MARKER}\n")
    for path in (config, tmp_path / "login"):
        path.chmod(0o600)
    with pytest.raises(BadDescription, match=r"begins with '<'|not printable"):
        parse_openvpn(config, config.read_text(), reader_beside(config))


def test_no_port_of_the_client_is_known() -> None:
    made = render_config(parse_openvpn(PATH, BASE + "bind\nlport 53\nport 1195\n" + CA))
    assert made.startswith("nobind\n") and "lport" not in made and "rport 1195\n" in made


def test_what_is_no_configuration_is_told_at_once() -> None:
    assert len(refused("route-metri\n" * 21845)) <= 51


def test_what_is_passed_over_is_told_with_its_reason() -> None:
    client = parse_openvpn(PATH, HONEST["routes"])
    assert (
        "'redirect-gateway' (everything of these VMs goes through the tunnel, and nothing else does)"
        in client.passed_over
    )
    assert "'dhcp-option' (write 'resolver' to the network instead)" in client.passed_over
    told = parse_openvpn(PATH, HONEST["what the file itself may miss"]).passed_over
    assert "'foo-bar' (the file says that it may be)" in told


def test_a_login_that_is_missing_is_told_with_how_it_is_given() -> None:
    assert refused(HOSTILE["a login that is missing"]) == [
        "given.ovpn:9: 'auth-user-pass' wants a user and a password, a line each: write them as a block, "
        "<auth-user-pass> to </auth-user-pass>"
    ]


def test_no_word_is_in_two_tables_or_was_cut_at_its_hyphen() -> None:
    tables = [set(TAKEN), set(BLOCKS), set(REFUSED), set(PASSED_OVER), set(OWN)]
    assert sum(map(len, tables)) == len(known_words())
    assert not [word for word in known_words() if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", word)]
    assert not IN_CONNECTION - known_words()


@pytest.mark.spawns
def test_the_tables_know_every_option_of_the_installed_openvpn() -> None:
    said = subprocess.run(["openvpn", "--help"], capture_output=True, text=True, check=False).stdout
    options = set(re.findall(r"(?m)^--([a-z0-9-]+)", said))
    assert len(options) > 150 and options <= known_words(), options - known_words()


# An argument that each word takes, where a number does not do.
_SAMPLES = {
    "remote": "198.51.100.9 1194 udp", "proto": "udp", "http-proxy": "198.51.100.9 3128", "socks-proxy": "198.51.100.9",
    "keepalive": "10 60", "resolv-retry": "infinite", "mtu-disc": "yes", "comp-lzo": "no", "compress": "lz4",
    "allow-compression": "no", "auth-retry": "nointeract", "key-direction": "1", "tls-version-min": "1.2",
    "tls-version-max": "1.3", "tls-cert-profile": "preferred", "remote-cert-tls": "server", "ns-cert-type": "server",
    "remote-cert-ku": "a0", "remote-cert-eku": "1.3.6", "verify-x509-name": "x name", "verify-hash": f"{PRINT} SHA256",
    "pull-filter": "ignore route", "cipher": "AES-256-GCM", "auth": "SHA256", "x509-username-field": "CN",
    "compat-mode": "2.4.0", "fragment": "1300", "explicit-exit-notify": "2", "mssfix": "1450", "tls-groups": "secp256r1",
}  # fmt: skip


@pytest.mark.spawns
@pytest.mark.parametrize("word", sorted(TAKEN))
def test_every_word_that_is_taken_is_one_of_the_installed_openvpn(word: str, tmp_path: Path) -> None:
    kinds, least = TAKEN[word]
    argument = _SAMPLES.get(word, "1000" if least else "")
    (tmp_path / "x.ovpn").write_text(f"{word} {argument}\nno-such-word\n")
    said = ask_openvpn(tmp_path / "x.ovpn")
    assert re.search(r"Unrecognized option .* in \S*x\.ovpn:2: no-such-word", said), said
    assert len(kinds) >= least


@given(
    st.text(max_size=400),
    st.sampled_from(sorted(known_words())),
    st.text(alphabet="<>/ \t\"'\\#;\r\v\f-abc01.", max_size=60),
)
def test_any_text_is_taken_or_refused_in_words(text: str, word: str, line: str) -> None:
    for candidate in (text, f"{BASE}{word} {line}\n{text}", f"{BASE}<{word}>\n{line}\n</{word}>{line}\n"):
        try:
            client = parse_openvpn(PATH, candidate)
        except BadDescription as error:
            assert all(mistake.isprintable() for mistake in error.mistakes)
        else:
            assert_nothing_runs(client)


def assert_nothing_runs(client: OpenVpnClient) -> None:
    """Assert, by openvpn's own way of reading, that what is rendered has words of the tables only."""
    block = ""
    for line in render_config(client).split("\n"):
        assert len(line.encode()) < 255
        if block:
            block = "" if line.lstrip().startswith(f"</{block}>") and line == f"</{block}>" else block
            continue
        words = tokens(line)
        if len(words) == 1 and words[0][0] == "<":
            block = words[0].strip("</>") if not words[0].startswith("</") else ""
            block = "" if block == "connection" else block
        elif words:
            assert words[0] in {*TAKEN, "nobind"}
    assert block == ""


@pytest.mark.spawns
def test_openvpn_itself_finds_the_manual_page_where_it_is() -> None:
    """Where the manual is installed, it knows every word that is taken, too."""
    page = Path("/usr/share/man/man8/openvpn.8.gz")
    if not page.exists():
        pytest.skip("this system has no manual pages")
    text = gzip.decompress(page.read_bytes()).decode(errors="replace").replace("\\-", "-")
    assert "--server-poll-timeout" in text and "--remote-random" in text
