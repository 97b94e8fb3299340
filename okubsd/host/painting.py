"""When a window is painted: it shows something, and goes on showing it while its VM has nothing to do."""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

# A window that was painted looks as it did so long ago at least, in seconds, while its VM wants less than so much of a
# processor.  It is looked at so often, and what it showed is known for so long: a caret that blinks comes and goes.
_STILL_SECONDS, _AT_REST, _STEP_SECONDS, _KNOWN_SECONDS = 0.5, 0.5, 0.2, 2.4


class Sample(NamedTuple):
    """What a window showed (a digest, None where that is nothing yet) and the seconds that its VM had wanted, when."""

    at: float
    shown: int | None
    wanted: float


def is_painted(samples: Sequence[Sample]) -> bool:
    """Return whether the last of ``samples`` shows what was there long enough before, and the VM rested meanwhile."""
    last = samples[-1]
    return last.shown is not None and any(
        sample.shown == last.shown
        and last.at - sample.at >= _STILL_SECONDS
        and 0 <= (last.wanted - sample.wanted) / (last.at - sample.at) < _AT_REST
        for sample in samples
    )


def wait_for_paint(opened: Any, windows: Callable[[], set[int]], pid: int | None) -> None:
    """Wait until one of the ``windows`` of the display ``opened`` is painted; ``pid`` is the VM's."""
    samples: deque[Sample] = deque(maxlen=round(_KNOWN_SECONDS / _STEP_SECONDS))
    while not samples or not is_painted(samples):
        time.sleep(_STEP_SECONDS)
        samples.append(Sample(time.monotonic(), _shown(_pixels_of(opened, windows())), wanted_by(pid)))


def _shown(pixels: bytes) -> int | None:
    """Return a digest of what a window shows, None where that has one color."""
    return None if pixels == pixels[:4] * (len(pixels) // 4) else hash(pixels)


def _pixels_of(opened: Any, windows: set[int]) -> bytes:
    """Return what the largest of ``windows`` shows, b"" where none can be looked at now."""
    from Xlib import X, error

    found: list[tuple[int, bytes]] = []
    for window in windows:
        with contextlib.suppress(error.BadWindow, error.BadDrawable, error.BadMatch):
            drawable = opened.create_resource_object("window", window)
            size = drawable.get_geometry()
            image = drawable.get_image(0, 0, size.width, size.height, X.ZPixmap, 0xFFFFFFFF)
            found.append((size.width * size.height, bytes(image.data)))
    return max(found)[1] if found else b""


def spent_by(pid: int | None) -> float:
    """Return the seconds of processors that process ``pid`` has used, 0 where that cannot be told (proc(5), stat)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wanted_by(pid: int | None) -> float:
    """Return the seconds of processors that process ``pid`` has used or waited for, as others had them.

    So a VM on a busy host is not taken for one at rest (Linux, Documentation/scheduler/sched-stats.rst: schedstat).  No
    more waiting counts than it has used: a host may be so busy that also who rests waits long.
    """
    found: list[list[str]] = []
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):
            found.append(path.read_text().split())
    ran, waited = (sum(int(words[at]) for words in found) for at in (0, 1))
    return (ran + min(ran, waited)) / 1e9 if found else spent_by(pid)
