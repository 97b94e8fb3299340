"""The QEMU Machine Protocol as text: what we say and what we understand.

Source: docs/interop/qmp-spec.rst of QEMU.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from okubsd.decode import read_json

# QEMU's answers to what we ask are small; whatever is longer is not from a sane QEMU.
LARGEST_LINE = 1 << 20


class QmpAnswer(msgspec.Struct, frozen=True):
    """One line from QEMU: a greeting, an answer, an error or an event."""

    greeting: Any = msgspec.field(default=None, name="QMP")
    result: Any = msgspec.field(default=None, name="return")
    error: dict[str, Any] | None = None
    event: str = ""

    @property
    def is_reply(self) -> bool:
        """Return whether this line answers a command."""
        return not self.event and self.greeting is None


def render_command(name: str, **arguments: object) -> bytes:
    """Return the line that executes ``name``."""
    message: dict[str, object] = {"execute": name}
    if arguments:
        message["arguments"] = arguments
    return msgspec.json.encode(message) + b"\r\n"


def parse_answer(line: bytes) -> QmpAnswer:
    """Return the QmpAnswer of one line.  Raises ValueError where it is none."""
    return read_json(line, QmpAnswer)


# "  TCP[HOST_FORWARD]  12       127.0.0.1 37671       10.0.2.15    22     0     0"
_FORWARD = re.compile(r"TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d{1,5})\s+\S+\s+22\s")


def parse_usernet(text: str) -> int | None:
    """Return the loopback port that leads to the guest's port 22, from `info usernet`, or None."""
    match = _FORWARD.search(text)
    return int(match[1]) if match else None
