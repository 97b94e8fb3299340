"""The log of crossings: what went from one VM to another or to the host, who allowed it, and what was refused."""

from __future__ import annotations

import contextlib
import json
import time

from okubsd import layout
from okubsd.host import door
from okubsd.host.places import Places

# The log is kept twice, each at most so long.
_LONGEST = 1 << 20
ALLOWED, REFUSED = "allowed", "refused"


def write_down(places: Places, service: str, source: str, target: str, outcome: str, **more: str | int) -> None:
    """Append a crossing: which service, from whom, to whom, and what came of it, but never what crossed.

    Raises Problem where it cannot be written: then nothing crosses.
    """
    door.make_private(places.state)
    path = places.state / layout.CROSSINGS
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > _LONGEST:
            path.replace(places.state / layout.OLD_CROSSINGS)
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    said = {"time": when, "service": service, "source": source, "target": target, **more, "outcome": outcome}
    door.append(path, json.dumps(said).encode())


def crossings(places: Places, name: str = "") -> list[dict[str, object]]:
    """Return the crossings that were written down, the oldest first: all, or those from or to the VM ``name``."""
    found = []
    for log in (layout.OLD_CROSSINGS, layout.CROSSINGS):
        with contextlib.suppress(OSError):
            for line in (places.state / log).read_text(errors="replace").splitlines():
                # The last line of a host that lost its power may be half a one.
                with contextlib.suppress(ValueError):
                    found.append(json.loads(line))
    entries = [entry for entry in found if isinstance(entry, dict)]
    return [entry for entry in entries if not name or name in (entry.get("source"), entry.get("target"))]
