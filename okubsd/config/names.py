"""Names are hostile until they match: they end in vm.conf, pf.conf, a path and a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable

# vmd takes fewer than 64 bytes of [A-Za-z0-9._-] and reads an all-digit name as an id (vmctl main.c);
# a pf label holds 63 bytes of which "okubsd:" and ":host" are ours.  32 leaves room for both and
# for a unix socket's 104 bytes.
VM_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,31}")
VM_NAME_RULE = "a letter, then at most 31 letters, digits, '.', '_' or '-'"
# Names that a command line or a pf anchor already means something else by.
RESERVED = frozenset({"all", "any", "compile", "host", "okubsd", "self"})

# The suffix of the VM that okubsd makes by itself for a tunnel, where the host has none of its own.
GATEWAY_SUFFIX = ".gw"

IMAGE_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
IMAGE_NAME_RULE = "a small letter, then at most 31 small letters, digits or '-'"
APP_NAME = IMAGE_NAME

# useradd(8): login names and groups; a group that pf names must not end in a digit either.
USER_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,30}")
USER_NAME_RULE = "a user name: small letters, digits, '_' or '-', at most 31"
GROUP_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,13}[a-z_-]|[a-z_]")
GROUP_NAME_RULE = "a group name: small letters, digits, '_' or '-', at most 15, no digit at the end"

# A gateway that is made for a network is a VM of that name, with a suffix of three letters.
NETWORK_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,28}")
NETWORK_NAME_RULE = "the name of a network: a letter, then at most 28 letters, digits, '_' or '-'"
# ifconfig(8): a driver and a number.
INTERFACE_NAME = re.compile(r"[a-z]{1,12}[0-9]{1,3}")
INTERFACE_NAME_RULE = "the name of an interface, such as em0"

# Debian policy, section 5.6.1, and an optional architecture.
PACKAGE_NAME = re.compile(r"[a-z0-9][a-z0-9.+-]+(:[a-z0-9]+)?")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the nearest of ``known``, or ""."""
    import difflib  # only who mistypes pays for it

    near = difflib.get_close_matches(word.lower(), list(known), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


def quoted(untrusted: object, limit: int = 60) -> str:
    """Return ``untrusted`` quoted for a terminal: printable, one line, at most ``limit`` characters."""
    text = "".join(letter if letter.isprintable() else "?" for letter in str(untrusted))
    return f"'{text[: limit - 1]}…'" if len(text) > limit else f"'{text}'"


def host_name(vm: str) -> str:
    """Return the guest's host name for a VM's name (RFC 1123: no '_' or '.', no '-' at the end)."""
    return re.sub(r"[^a-z0-9-]", "-", vm.lower()).rstrip("-")


# C0 but for tab and newline, DEL, and C1: what moves a cursor, sets a title or answers back.  And what is not seen
# and changes what is: directions, line separators, tags (Unicode, general categories Cf, Zl, Zp), fillers, variants of
# letters, half surrogates.  The joiners of scripts and emoji stay.
CONTROL = re.compile(
    "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\xad\\u034f\\u061c\\u115f\\u1160\\u17b4\\u17b5\\u180b-\\u180f\\u200b\\u200e\\u200f"
    "\\u2028-\\u202e\\u2060-\\u206f\\u3164\\ud800-\\udfff\\ufe00-\\ufe0d\\ufeff\\uffa0\\ufff9-\\ufffb"
    "\\U00013430-\\U0001345f\\U0001bca0-\\U0001bca3\\U0001d173-\\U0001d17a\\U000e0000-\\U000e0fff]"
)
