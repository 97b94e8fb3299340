"""How often the desktop is told of a window's properties: each is its window manager's work, and a reader may lie."""

from __future__ import annotations

import time

from okubsd.display.words import Message, Told

# What is told the window manager, so many at once and so many a second after them, of all windows of a VM together.
PACED = frozenset({Told.PLACE, Told.TITLE, Told.CLASS, Told.HINTS, Told.URGENT})
_AT_ONCE, _A_SECOND = 300.0, 60.0


class Pacing:
    """What waits to be told, the last of each kind of each window, in the order in which they began to wait."""

    def __init__(self, now: float | None = None) -> None:
        self._waiting: dict[tuple[int, int], Message] = {}
        self._left, self._at = _AT_ONCE, time.monotonic() if now is None else now

    def put(self, message: Message) -> None:
        """Have ``message`` wait, in place of an older one of its kind."""
        self._waiting[message.window, message.kind] = message

    def forget(self, window: int) -> None:
        """Drop what waits for a window that is gone."""
        for kind in PACED:
            self._waiting.pop((window, kind), None)

    def due(self, now: float | None = None) -> list[Message]:
        """Return what may be told at ``now`` (seconds of the monotonic clock), and take it out."""
        now = time.monotonic() if now is None else now
        self._left, self._at = min(_AT_ONCE, self._left + (now - self._at) * _A_SECOND), now
        found = [*self._waiting][: int(self._left)]
        self._left -= len(found)
        return [self._waiting.pop(key) for key in found]

    def wait(self) -> float | None:
        """Return after how many seconds more may be told, None where nothing waits."""
        return max(0.0, (1 - self._left) / _A_SECOND) if self._waiting else None
