"""The keys of a VM: made once, kept 0600, looked at before every use."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from okubsd import layout
from okubsd.errors import Problem
from okubsd.guest.identity import Secrets, host_key_line, render_xauthority
from okubsd.host import door

CLIENT_KEY = "id_ed25519"
HOST_SEED = "host_ed25519"
COOKIE = "cookie"
_SECRET_FILES = (CLIENT_KEY, HOST_SEED)


def have_keys(directory: Path) -> bool:
    """Return whether the VM's keys were made; the last one written stands for all."""
    return (directory / layout.KNOWN_HOSTS).exists()


def make_keys(directory: Path, alias: str) -> None:
    """Make the host's key and the guest's host key in ``directory``, and pin the latter for ``alias``."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    client, host = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    public = client.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    door.write(directory / f"{CLIENT_KEY}.pub", public + b"\n", 0o644)
    door.write(directory / CLIENT_KEY, client.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    door.write(directory / HOST_SEED, host.private_bytes_raw() + host.public_key().public_bytes_raw())
    pinned = host_key_line(alias, host.public_key().public_bytes_raw())
    door.write(directory / layout.KNOWN_HOSTS, pinned.encode(), 0o644)


def read_secrets(directory: Path, cookie: bytes) -> Secrets:
    """Return the VM's key material.  Raises Problem where a file is missing, damaged or open to others."""
    check_keys(directory)
    seed = (directory / HOST_SEED).read_bytes()
    public = (directory / f"{CLIENT_KEY}.pub").read_text().strip()
    if len(seed) != 64:
        raise Problem(
            f"the key {directory / HOST_SEED} is damaged",
            f"rm {directory / layout.KNOWN_HOSTS}  # the next start makes new keys",
        )
    return Secrets(seed[:32], seed[32:], public, cookie)


def check_keys(directory: Path) -> None:
    """Raise Problem where a key file is missing, or readable by anybody else."""
    for name in (*_SECRET_FILES, f"{CLIENT_KEY}.pub"):
        path = directory / name
        try:
            mode = path.stat().st_mode
        except FileNotFoundError:
            raise Problem(
                f"the key {path} is missing", f"rm {directory / layout.KNOWN_HOSTS}  # the next start makes new keys"
            ) from None
        if name in _SECRET_FILES and mode & 0o077:
            raise Problem(f"the key {path} can be read by others (mode {mode & 0o777:04o})", f"chmod 0600 {path}")


def make_cookie(run: Path) -> bytes:
    """Return a fresh X11 cookie, after writing it as an Xauthority file for the VM's own server."""
    cookie = os.urandom(16)
    door.write(run / COOKIE, cookie, lasting=False)
    door.write(run / "Xauthority", render_xauthority(cookie), lasting=False)
    return cookie


def read_cookie(run: Path) -> bytes | None:
    """Return the cookie of the VM's display, or None."""
    with contextlib.suppress(OSError):
        if (run / COOKIE).stat().st_uid == os.geteuid():
            return (run / COOKIE).read_bytes()
    return None
