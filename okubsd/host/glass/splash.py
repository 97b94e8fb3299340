"""A window before there is one of the guest: how far the start is; or why it failed, as a program of its own."""

from __future__ import annotations

import select
import sys
import textwrap
import time
from typing import Any

from Xlib import X, Xutil

from okubsd.display.orders import parse_orders
from okubsd.errors import HostLacks
from okubsd.host.glass.desk import Desk, Look
from okubsd.host.window import open_desktop

_WIDTH, _LINE, _TOP, _EDGE = 460, 18, 20, 14
# How long the reason of a failure is shown where nobody closes it, in seconds; and the letters of a line of it.
_SECONDS, _LETTERS = 60.0, 70


class Splash:
    """One small window of ours in the VM's color."""

    def __init__(self, desk: Desk, words: str) -> None:
        self.desk, self.lines = desk, textwrap.wrap(words, _LETTERS)[:8]
        width, height = desk.px(_WIDTH), desk.px(_TOP + 2 * _EDGE + _LINE * max(1, len(self.lines)))
        at = desk.monitors[0]
        desk.another_id()
        self.top = desk.root.create_window(
            at.x + (at.width - width) // 2, at.y + (at.height - height) // 3, width, height, 0, 24, X.InputOutput,
            desk.visual, background_pixel=desk.look.color, border_pixel=0, colormap=desk.colormap,
            event_mask=X.ExposureMask | X.KeyPressMask | X.ButtonPressMask | X.StructureNotifyMask,
        )  # fmt: skip
        self.top.set_wm_protocols([desk.atoms["WM_DELETE_WINDOW"]])
        self.top.set_wm_class(f"okubsd-{desk.look.vm}", "okubsd")
        self.top.set_wm_name(f"[{desk.look.vm}] okubsd")
        self.top.set_wm_normal_hints(flags=Xutil.PPosition | Xutil.PMinSize, min_width=width, min_height=height)
        self.top.map()

    def say(self, words: str) -> None:
        """Show other ``words``, on the same lines."""
        self.lines = textwrap.wrap(words, _LETTERS)[:8]
        self.draw()

    def draw(self) -> None:
        """Write the lines."""
        self.top.clear_area()
        self.desk.text(self.top, self.desk.px(_EDGE), self.desk.px(14), self.desk.look.vm)
        for number, line in enumerate(self.lines, 1):
            self.desk.text(self.top, self.desk.px(_EDGE), self.desk.px(_TOP + _LINE * number), line)

    def destroy(self) -> None:
        """Take it away."""
        self.top.destroy()


def main() -> int:
    """Show a reason until it is closed, a key is pressed or a button, or its time is over."""
    orders = parse_orders(sys.argv[1])
    try:
        opened = open_desktop(orders.desktop)
        splash = Splash(Desk(opened, Look(orders.vm, orders.color, orders.ink, "")), orders.words)
    except HostLacks:
        return 1
    end = time.monotonic() + _SECONDS
    while time.monotonic() < end:
        while opened.pending_events():
            if not _goes_on(opened.next_event(), splash):
                return 0
        opened.flush()
        if not opened.display.event_queue:
            select.select([opened.fileno()], [], [], max(0.0, end - time.monotonic()))
    return 0


def _goes_on(event: Any, splash: Splash) -> bool:
    if event.type == X.Expose:
        splash.draw()
    return event.type not in (X.KeyPress, X.ButtonPress, X.ClientMessage, X.DestroyNotify)


if __name__ == "__main__":
    sys.exit(main())
