"""The user's own signing key, and the keys whose images he takes."""

from __future__ import annotations

import getpass
import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec

from okubsd import layout
from okubsd.config.names import IMAGE_NAME, quoted
from okubsd.errors import Misuse, Problem, Unknown
from okubsd.host import door, locks
from okubsd.host.places import Places
from okubsd.host.trust import place_mistake
from okubsd.images.signify import (
    LARGEST_KEY,
    LARGEST_LIST,
    PublicKey,
    Signature,
    parse_public_key,
    parse_secret_key,
    parse_signed,
    render_public_key,
    render_secret_key,
    render_signed,
)

# The keys that root trusts for everybody on the host.
SYSTEM_KEYS = "etc/okubsd/keys"
OWN = "okubsd"


class Known(msgspec.Struct, frozen=True):
    """A key that is known here: what it is called, whether it is the user's own, and where it lies."""

    name: str
    key: PublicKey
    own: bool
    path: Path


def known_keys(places: Places) -> Iterator[Known]:
    """Yield the user's own key, then those that he or root trusts; what cannot be read is passed over."""
    own = places.state / layout.STATE_KEY / f"{OWN}.pub"
    trusted = sorted((places.state / layout.STATE_TRUSTED).glob("*.pub"))
    of_system = sorted((places.system / SYSTEM_KEYS).glob("*.pub"))
    for path in (own, *trusted, *of_system):
        key = _read_public(path)
        if key is not None:
            yield Known(path.stem, key, path == own, path)


def _read_public(path: Path) -> PublicKey | None:
    if not path.is_file() or path.stat().st_size > LARGEST_KEY or place_mistake(path):
        return None
    try:
        return parse_public_key(path.read_bytes())
    except ValueError:
        return None


def need_own_key(places: Places) -> tuple[PublicKey, bytes]:
    """Return the user's own key and its secret bytes, after making it if need be.

    Raises Problem where it is damaged, or readable by others.
    """
    directory = places.state / layout.STATE_KEY
    secret = directory / f"{OWN}.sec"
    for private in (places.state, directory):
        door.make_private(private)
    with locks.locked(directory / "lock"):
        if not secret.exists():
            _make_key(directory)
    if secret.stat().st_mode & 0o077:
        raise Problem(f"the key {secret} can be read by others", f"chmod 0600 {secret}")
    public = _read_public(directory / f"{OWN}.pub")
    try:
        number, raw = parse_secret_key(secret.read_bytes())
    except ValueError as error:
        raise Problem(f"{secret} {error}") from None
    if public is None or public.number != number:
        raise Problem(
            f"{directory / OWN}.pub is not the public half of {secret}",
            "put both halves back from your copy; okubsd makes a new pair where none is",
        )
    return public, raw


def _make_key(directory: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    made = Ed25519PrivateKey.generate()
    who = "".join(letter for letter in f"{_user()}@{socket.gethostname()}" if letter.isascii() and letter.isprintable())
    comment = f"okubsd {who[:60]} public key"
    public = PublicKey(secrets.token_bytes(8), made.public_key().public_bytes_raw(), comment)
    # The secret one last: it stands for both.
    door.write(directory / f"{OWN}.pub", render_public_key(public), 0o644)
    door.write(directory / f"{OWN}.sec", render_secret_key(public, made.private_bytes_raw()))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.geteuid()}"


def sign(places: Places, message: bytes) -> tuple[PublicKey, bytes]:
    """Return the user's own key, and ``message`` below its signature."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    public, raw = need_own_key(places)
    signature = Signature(public.number, Ed25519PrivateKey.from_private_bytes(raw).sign(message))
    return public, render_signed(signature, message, f"{OWN}.pub")


def check_signed(key: PublicKey, text: bytes, largest: int = LARGEST_LIST) -> bytes:
    """Return what is signed in ``text``, which ``key`` has to have signed.  Raises ValueError, in words, otherwise."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    signature, message = parse_signed(text, largest)
    if signature.number != key.number:
        raise ValueError("was signed by another key than the one that it names")
    try:
        Ed25519PublicKey.from_public_bytes(key.key).verify(signature.value, message)
    except InvalidSignature:
        raise ValueError("does not have the signature of its key: it was changed") from None
    return message


def check_by_known(places: Places, text: bytes, largest: int = LARGEST_LIST) -> tuple[Known, bytes]:
    """Return the trusted key that has signed ``text``, and what is signed.  Raises ValueError, in words, for none."""
    signature, _ = parse_signed(text, largest)
    found = [known for known in known_keys(places) if known.key.number == signature.number]
    if not found:
        raise ValueError("is signed by a key that is not trusted here; see okubsd key ls")
    return found[0], check_signed(found[0].key, text, largest)


def trusted_key(places: Places, offered: PublicKey) -> Known | None:
    """Return the key that is trusted here and has the very bytes of ``offered``, or None."""
    return next((known for known in known_keys(places) if known.key.key == offered.key), None)


def trust(places: Places, key: PublicKey, name: str) -> Path:
    """Trust ``key`` under ``name`` and return its file.  Raises Misuse for a name that is none, or is taken."""
    if not IMAGE_NAME.fullmatch(name) or name == OWN:
        raise Misuse(f"{quoted(name)} is no name for a key: small letters, digits and '-'")
    directory = places.state / layout.STATE_TRUSTED
    for private in (places.state, directory):
        door.make_private(private)
    path = directory / f"{name}.pub"
    present = _read_public(path)
    if present is not None and present.key != key.key:
        raise Misuse(f"there is another key called '{name}'; choose another --name", "okubsd key ls")
    door.write(path, render_public_key(key), 0o644)
    return path


def distrust(places: Places, name: str) -> None:
    """Take the trust in the key called ``name``, or with this fingerprint, back, under whatever names it is here.

    Raises Unknown or Problem where that cannot be.
    """
    known = list(known_keys(places))
    meant = {one.key.key for one in known if name in (one.name, one.key.fingerprint)}
    found = [one for one in known if one.key.key in meant]
    if not found:
        raise Unknown(f"there is no key {quoted(name)}", "okubsd key ls")
    if any(one.own for one in found):
        raise Problem("that is your own key, which signs what you export; it stays")
    for one in found:
        one.path.unlink()
