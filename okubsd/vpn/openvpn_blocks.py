"""The blocks of an OpenVPN file: certificates, keys and a login, read into lines and judged (RFC 7468, openvpn(8))."""

from __future__ import annotations

import base64
import binascii
import re

from okubsd.config.names import quoted
from okubsd.vpn.openvpn_words import Kind

_LONGEST_LOGIN = 127  # USER_PASS_LEN of openvpn is 128, with its end
_PEM = re.compile(r"-----(BEGIN|END) ([A-Za-z0-9 #-]{1,60})-----")


def parse_block(kind: Kind, lines: list[str]) -> tuple[str, ...]:
    """Return the lines of a block of ``kind``, made anew.  Raises ValueError in words that repeat nothing of it."""
    match kind:
        case Kind.LOGIN:
            return _parse_login(lines)
        case Kind.FINGERPRINTS:
            found = [line for line in lines if line and line[0] not in "#;"]
            if not found or not all(re.fullmatch(r"(?:[0-9A-Fa-f]{2}:){31}[0-9A-Fa-f]{2}", line) for line in found):
                raise ValueError("is no list of SHA-256 fingerprints such as AB:CD:...")
            return tuple(found)
        case Kind.BASE64:
            return _base64_lines([line for line in lines if line])
        case _:
            return _parse_pem(kind, lines)


def _parse_login(lines: list[str]) -> tuple[str, ...]:
    found = [line for line in lines if line]
    if len(found) != 2:
        raise ValueError("is not a user and a password, a line each")
    for line in found:
        if line.lstrip().startswith("<"):
            # openvpn would take it for the end of the block, or for the beginning of another.
            raise ValueError("has a line that begins with '<'")
        if not line.isprintable() or len(line.encode()) > _LONGEST_LOGIN:
            raise ValueError(f"has a line that is not printable, or longer than {_LONGEST_LOGIN} bytes")
    return tuple(found)


def _parse_pem(kind: Kind, lines: list[str]) -> tuple[str, ...]:
    """Return the PEM objects among ``lines`` (RFC 7468), each encoded anew; the text around them is left out."""
    made: list[str] = []
    body: list[str] | None = None
    label = ""
    for line in lines:
        match = _PEM.fullmatch(line)
        if match and match[1] == "BEGIN" and body is None:
            label, body = match[2], []
            if not re.fullmatch(kind, label):
                raise ValueError(f"has {quoted(label)}, which does not belong there")
        elif match and match[1] == "END" and body is not None and match[2] == label:
            made += [f"-----BEGIN {label}-----", *_pem_body(label, body), f"-----END {label}-----"]
            body = None
        elif body is not None:
            body.append(line)
    if body is not None or not made:
        raise ValueError("has no whole '-----BEGIN ...-----' to '-----END ...-----'")
    return tuple(made)


def _pem_body(label: str, lines: list[str]) -> tuple[str, ...]:
    if any(line.startswith(("Proc-Type:", "DEK-Info:")) for line in lines):
        raise ValueError("is locked by a passphrase, which nobody could be asked for")
    if label == "OpenVPN Static key V1":
        text = "".join(lines)
        if not re.fullmatch(r"[0-9A-Fa-f]{512}", text):
            raise ValueError("is no static key of 2048 bits in hexadecimal")
        return tuple(text[at : at + 32].lower() for at in range(0, 512, 32))
    return _base64_lines(lines)


def _base64_lines(lines: list[str]) -> tuple[str, ...]:
    try:
        raw = base64.b64decode("".join(lines), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("is not base64") from None
    if not raw:
        raise ValueError("is empty")
    text = base64.b64encode(raw).decode()
    return tuple(text[at : at + 64] for at in range(0, len(text), 64))
