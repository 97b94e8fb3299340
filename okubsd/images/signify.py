"""Keys and signatures in the form of signify(1), so that OpenBSD's own program makes and checks them, too.

Source: signify(1), signify.c: structs enckey, pubkey and sig, each in base64 below an untrusted comment.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping

import msgspec

_COMMENT = "untrusted comment: "
_ALGORITHM, _KDF = b"Ed", b"BK"
_NUMBER = 8  # bytes of a key's number, by which a signature names its key

# The first lines that a file of ours may have, and a list of the files of an archive.
LARGEST_KEY, LARGEST_LIST = 4 << 10, 1 << 20
_DIGEST = re.compile(r"SHA256 \(([A-Za-z0-9._/-]{1,100})\) = ([0-9a-f]{64})")


class PublicKey(msgspec.Struct, frozen=True):
    """An Ed25519 key: its number and its 32 bytes, with what its file says of it."""

    number: bytes
    key: bytes
    comment: str = ""

    @property
    def fingerprint(self) -> str:
        """Return what people compare: the SHA-256 of the key, as ssh-keygen(1) writes one."""
        return "SHA256:" + base64.b64encode(hashlib.sha256(self.key).digest()).decode().rstrip("=")


class Signature(msgspec.Struct, frozen=True):
    """Who signed, by the number of the key, and the 64 bytes."""

    number: bytes
    value: bytes


def parse_public_key(text: bytes) -> PublicKey:
    """Return the key of a .pub file.  Raises ValueError, in words, where it is none."""
    comment, raw, rest = _parse(text, LARGEST_KEY)
    if len(raw) != 2 + _NUMBER + 32 or rest:
        raise ValueError("is no public key of signify(1)")
    return PublicKey(raw[2 : 2 + _NUMBER], raw[2 + _NUMBER :], comment)


def render_public_key(key: PublicKey) -> bytes:
    """Return the .pub file of ``key``."""
    return _render(key.comment, _ALGORITHM + key.number + key.key)


def parse_secret_key(text: bytes) -> tuple[bytes, bytes]:
    """Return the number and the 32 secret bytes of a .sec file without passphrase.

    Raises ValueError, in words, where it is none, or is damaged.
    """
    _, raw, rest = _parse(text, LARGEST_KEY)
    if len(raw) != 2 + 2 + 4 + 16 + 8 + _NUMBER + 64 or rest or raw[2:4] != _KDF:
        raise ValueError("is no secret key of signify(1)")
    if raw[4:8] != bytes(4):
        raise ValueError("is locked by a passphrase, which cannot be asked for; make one with signify -G -n")
    checksum, number, secret = raw[24:32], raw[32:40], raw[40:]
    if hashlib.sha512(secret).digest()[:8] != checksum:
        raise ValueError("is damaged")
    return number, secret[:32]


def render_secret_key(public: PublicKey, secret: bytes) -> bytes:
    """Return the .sec file, without passphrase, of a key whose secret bytes are ``secret``."""
    whole = secret + public.key
    checksum = hashlib.sha512(whole).digest()[:8]
    return _render(
        public.comment.replace("public", "secret"),
        _ALGORITHM + _KDF + bytes(4) + bytes(16) + checksum + public.number + whole,
    )


def parse_signed(text: bytes, largest: int = LARGEST_LIST) -> tuple[Signature, bytes]:
    """Return the signature of a signed list, and the list.

    Raises ValueError, in words, where it is none, or has more than ``largest`` bytes.
    """
    _, raw, message = _parse(text, largest)
    if len(raw) != 2 + _NUMBER + 64:
        raise ValueError("is no signature of signify(1)")
    return Signature(raw[2 : 2 + _NUMBER], raw[2 + _NUMBER :]), message


def render_signed(signature: Signature, message: bytes, verify_with: str) -> bytes:
    """Return ``message`` below its signature, as `signify -S -e` writes it."""
    return _render(f"verify with {verify_with}", _ALGORITHM + signature.number + signature.value) + message


def parse_digests(message: bytes) -> dict[str, str]:
    """Return name to SHA-256 of a list in the form of sha256(1).  Raises ValueError, in words, where it is none."""
    found: dict[str, str] = {}
    for line in message.decode("ascii", errors="replace").split("\n")[:-1]:
        match = _DIGEST.fullmatch(line)
        if match is None or match[1] in found:
            raise ValueError("is no list of SHA-256 digests, each of another file")
        found[match[1]] = match[2]
    return found


def render_digests(digests: Mapping[str, str]) -> bytes:
    """Return name to SHA-256 as sha256(1) writes them, which `signify -C` checks."""
    return "".join(f"SHA256 ({name}) = {digest}\n" for name, digest in digests.items()).encode()


def _parse(text: bytes, largest: int) -> tuple[str, bytes, bytes]:
    """Return the comment, the bytes below it, and what follows."""
    lines = text.split(b"\n", 2)
    if len(text) > largest or len(lines) != 3 or not lines[0].startswith(_COMMENT.encode()):
        raise ValueError("is not in the form of signify(1)")
    try:
        raw = base64.b64decode(lines[1], validate=True)
        if base64.b64encode(raw) != lines[1]:
            # As b64_pton(3) of OpenBSD has it: bits beyond the last byte are 0.
            raise ValueError
    except (binascii.Error, ValueError):
        raise ValueError("has no base64 where it should be") from None
    if raw[:2] != _ALGORITHM:
        raise ValueError("is not of Ed25519")
    comment = lines[0][len(_COMMENT) :].decode("ascii", errors="replace")
    return "".join(letter for letter in comment if letter.isprintable())[:100], raw, lines[2]


def _render(comment: str, raw: bytes) -> bytes:
    return f"{_COMMENT}{comment}\n{base64.b64encode(raw).decode()}\n".encode()
