"""The time zone that a guest has: the host's, unless its network is to hide where its user is.

What a guest is given is the compiled file itself (tzfile(5)), so that its image needs no list of zones.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from okubsd.model import NetworkKind, Vm, Zone

_LOCALTIME, _ZONES = Path("/etc/localtime"), Path("/usr/share/zoneinfo")
_MAGIC, _LARGEST = b"TZif", 64 << 10
_NAME = re.compile(r":?([A-Za-z0-9_+-]+(?:/[A-Za-z0-9_+-]+){0,3})")


def zone_of(vm: Vm, env: Mapping[str, str] = os.environ) -> bytes:
    """Return the time zone of ``vm`` as a file of tzfile(5), b"" for UTC.

    The host's is what TZ of ``env`` names, or else its own.  A VM behind a tunnel or another VM has none of it, unless
    it is asked for: a clock tells where one lives.
    """
    hidden = vm.network.kind.is_tunnel or vm.network.kind is NetworkKind.GATEWAY
    if vm.timezone is Zone.UTC or (vm.timezone is Zone.AUTO and hidden):
        return b""
    match = _NAME.fullmatch(env.get("TZ", ""))
    path = _ZONES / match[1] if match else _LOCALTIME
    try:
        with path.open("rb") as stream:
            data = stream.read(_LARGEST + 1)
    except OSError:
        return b""
    return data if data.startswith(_MAGIC) and len(data) <= _LARGEST else b""
