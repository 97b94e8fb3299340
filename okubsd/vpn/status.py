"""What wg(8) and ifconfig(8) tell of a WireGuard tunnel that is there.

Source: wg(8), show INTERFACE dump; ifconfig(8) of OpenBSD, observed: only root is told of the peers.
"""

from __future__ import annotations

import re

import msgspec


class WgState(msgspec.Struct, frozen=True, kw_only=True):
    """One peer: where it is, the seconds since its last handshake (None: there was none), and the bytes so far."""

    endpoint: str
    handshake: int | None
    received: int
    sent: int

    def in_words(self) -> str:
        """Return what the numbers mean."""
        if self.handshake is not None and self.handshake < 180:
            return f"answers, last {self.handshake} s ago"
        if self.handshake is not None:
            return f"silent for {self.handshake} s"
        return "never answered" if self.sent else "was not spoken to yet"


def parse_wg_show(text: str, now: float) -> tuple[WgState, ...]:
    """Return the peers of `wg show INTERFACE dump`; ``now`` is in seconds since the epoch."""
    found = []
    for line in text.splitlines()[1:]:
        words = line.split("\t")
        if len(words) != 8 or not all(re.fullmatch("[0-9]{1,18}", word) for word in words[4:7]):
            continue
        last = int(words[4])
        handshake = max(0, int(now) - last) if last else None
        endpoint = words[2] if re.fullmatch(r"[0-9.:]{7,30}", words[2]) else ""
        found.append(WgState(endpoint=endpoint, handshake=handshake, received=int(words[5]), sent=int(words[6])))
    return tuple(found)


_PEER = re.compile(r"(?m)^\twgpeer \S+$((?:\n\t\t.*)*)")
_UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}


def parse_ifconfig_wg(text: str) -> tuple[WgState, ...]:
    """Return the peers that ifconfig(8) shows of a wg(4)."""
    found = []
    for match in _PEER.finditer(text):
        body = match[1]
        endpoint = re.search(r"wgendpoint ([0-9.]+) (\d+)", body)
        moved = re.search(r"tx: (\d+), rx: (\d+)", body)
        parts = re.search(r"last handshake: (.*) ago", body)
        times = re.findall(r"(\d+) (second|minute|hour|day)s?", parts[1]) if parts else []
        found.append(
            WgState(
                endpoint=f"{endpoint[1]}:{endpoint[2]}" if endpoint else "",
                handshake=sum(int(count) * _UNITS[unit] for count, unit in times) if times else None,
                received=int(moved[2]) if moved else 0,
                sent=int(moved[1]) if moved else 0,
            )
        )
    return tuple(found)
