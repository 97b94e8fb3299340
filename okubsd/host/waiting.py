"""The one loop that waits for something to become so."""

from __future__ import annotations

import time
from collections.abc import Callable

from okubsd.errors import TimedOut


def wait_until(ready: Callable[[], bool], seconds: float, late: str = "", *, pause: float = 0.01) -> bool:
    """Ask ``ready`` again and again, ``pause`` seconds apart; return whether it said yes within ``seconds``.

    With a sentence for being ``late``, TimedOut is raised instead of returning False.
    """
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            if late:
                raise TimedOut(late)
            return False
        time.sleep(pause)
    return True
