"""What a guest asks of its host: a line of words that tabs part, which may be anything."""

from __future__ import annotations

import msgspec

from okubsd.config.opening import parse_address
from okubsd.display.frame import plain

# The longest line, in bytes, and what of a notification is shown, in letters.
LONGEST = 4096
_TITLE, _TEXT = 80, 300


class OpenAsked(msgspec.Struct, frozen=True):
    """It asks to open an address, which is written anew."""

    address: str


class NotifyAsked(msgspec.Struct, frozen=True):
    """It asks to show a notification, of letters that are seen."""

    title: str
    text: str


def parse_ask(line: bytes) -> OpenAsked | NotifyAsked:
    """Return what a guest asks.  Raises ValueError, in words, for what means nothing."""
    words = line.decode(errors="replace").split("\t")
    if words[0] == "open" and len(words) == 2:
        return OpenAsked(parse_address(words[1]).text)
    if words[0] == "notify" and len(words) in (2, 3):
        title, text = plain(words[1], _TITLE), plain(words[2], _TEXT) if len(words) == 3 else ""
        if title:
            return NotifyAsked(title, text)
    raise ValueError("asks for something that there is not")


def notify_argv(vm: str, asked: NotifyAsked) -> tuple[str, ...]:
    """Return notify-send(1) that shows it as that of ``vm``; its text is markup, and has none (Desktop Notifications).

    Only the text: a guest names no icon, no action and no sound.
    """
    # notify-send(1) reads escapes in it as C does, after which they would be markup again.
    text = asked.text.replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return ("notify-send", "--app-name=okubsd", "--", f"[{vm}] {asked.title}", text)


class Paced:
    """How often something may happen: ``most`` times at once, and then once in ``seconds``."""

    def __init__(self, most: int, seconds: float) -> None:
        self._most, self._seconds = most, seconds
        self._left, self._at = float(most), 0.0

    def may(self, now: float) -> bool:
        """Return whether it may happen at the time ``now``, in seconds, and count it."""
        self._left = min(float(self._most), self._left + (now - self._at) / self._seconds)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
