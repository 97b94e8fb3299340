"""What a window of a guest may look like on the desktop: its frame, its place, its words.  Numbers in, numbers out.

The rules are those of Qubes' gui-daemon: what comes from a guest is clamped, and nothing of it lies outside a frame.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from okubsd.config.names import CONTROL

# The widths of a frame in pixels at scale 1: its border, and the label above the guest's pixels.
BORDER, LABEL = 3, 20
MENU_BORDER = 2
# Around a menu's border is a line of the other color: so it is seen as one also where it lies upon a label.
MENU_LINE = 1

# What is too large for an X server's coordinates is too large for anybody.
LARGEST, SMALLEST = 16384, 1

# The largest part of a screen that a VM's windows without a window manager may take, all of them together with their
# borders and lines, and how many there may be.
LARGEST_MENU = 0.5
MOST_MENUS = 40

# How many windows a guest may have on the desktop.
MOST_WINDOWS = 500

# The colors of VMs, as 0xRRGGBB: one to tell them by, and one for words upon it.
COLORS = {
    "red": (0xC0392B, 0xFFFFFF),
    "orange": (0xE67E22, 0x000000),
    "yellow": (0xF1C40F, 0x000000),
    "green": (0x27AE60, 0xFFFFFF),
    "blue": (0x2471A3, 0xFFFFFF),
    "purple": (0x7D3C98, 0xFFFFFF),
    "grey": (0x7F8C8D, 0xFFFFFF),
    "black": (0x1C2833, 0xFFFFFF),
}


class Box(msgspec.Struct, frozen=True):
    """A rectangle in pixels."""

    x: int
    y: int
    width: int
    height: int

    def cut(self, width: int, height: int) -> Box | None:
        """Return what of it lies within (0, 0, ``width``, ``height``), None where nothing does."""
        left, top = max(0, self.x), max(0, self.y)
        right, bottom = min(width, self.x + self.width), min(height, self.y + self.height)
        return Box(left, top, right - left, bottom - top) if right > left and bottom > top else None

    def join(self, other: Box | None) -> Box:
        """Return the smallest rectangle that holds both."""
        if other is None:
            return self
        left, top = min(self.x, other.x), min(self.y, other.y)
        right = max(self.x + self.width, other.x + other.width)
        bottom = max(self.y + self.height, other.y + other.height)
        return Box(left, top, right - left, bottom - top)


class Edges(msgspec.Struct, frozen=True):
    """How wide the frame around a guest's pixels is, in pixels."""

    side: int
    top: int

    def around(self, inner: Box) -> Box:
        """Return the frame whose inside is ``inner``."""
        width, height = inner.width + 2 * self.side, inner.height + self.top + self.side
        return Box(inner.x - self.side, inner.y - self.top, width, height)

    def inside(self, width: int, height: int) -> tuple[int, int]:
        """Return the size of the inside of a frame of ``width`` and ``height``."""
        return max(1, width - 2 * self.side), max(1, height - self.top - self.side)


FRAME = Edges(BORDER, LABEL)
MENU = Edges(MENU_BORDER, MENU_BORDER)


def edges_at(edges: Edges, scale: float) -> Edges:
    """Return ``edges`` as wide as they are where all is drawn ``scale`` times as large."""
    return Edges(round(edges.side * scale), round(edges.top * scale))


def clamp_size(width: int, height: int) -> tuple[int, int]:
    """Return a size that a window of a display may have at all."""
    return max(SMALLEST, min(LARGEST, width)), max(SMALLEST, min(LARGEST, height))


def clamp_box(numbers: tuple[int, ...]) -> Box:
    """Return the place and size that the first four ``numbers`` ask for, as far as a window of a display may."""
    x, y, width, height = numbers[:4]
    return Box(max(-LARGEST, min(LARGEST, x)), max(-LARGEST, min(LARGEST, y)), *clamp_size(width, height))


def fit(width: int, height: int, edges: Edges, screen: tuple[int, int]) -> tuple[int, int]:
    """Return the size that a guest's window gets: with its frame it is never larger than the ``screen``."""
    most = edges.inside(*screen)
    return max(SMALLEST, min(most[0], width)), max(SMALLEST, min(most[1], height))


def menu_pixels(width: int, height: int, edges: Edges) -> int:
    """Return how many pixels of the desktop a menu covers, whose inside has this size: its border and line, too."""
    outer = edges.around(Box(0, 0, width, height))
    return (outer.width + 2 * MENU_LINE) * (outer.height + 2 * MENU_LINE)


def is_menu(pixels: int, screen: tuple[int, int], others: Sequence[int] = ()) -> bool:
    """Return whether a window that overrides redirection may, which covers so many ``pixels`` of the ``screen``.

    ``others`` are what the other menus cover.  What would cover the screen with them gets a frame.
    """
    return len(others) < MOST_MENUS and pixels + sum(others) <= LARGEST_MENU * screen[0] * screen[1]


def within(box: Box, area: Box) -> Box:
    """Return ``box`` moved, and cut where it has to be, so that all of it lies in the ``area``."""
    width, height = min(box.width, area.width), min(box.height, area.height)
    x = max(area.x, min(box.x, area.x + area.width - width))
    y = max(area.y, min(box.y, area.y + area.height - height))
    return Box(x, y, width, height)


def nearest(box: Box, monitors: tuple[Box, ...]) -> Box:
    """Return that of the ``monitors`` on which the middle of ``box`` lies, or which is nearest to it."""
    x, y = box.x + box.width // 2, box.y + box.height // 2

    def distance(monitor: Box) -> int:
        across = max(monitor.x - x, 0, x - (monitor.x + monitor.width - 1))
        along = max(monitor.y - y, 0, y - (monitor.y + monitor.height - 1))
        return across + along

    return min(monitors, key=distance)


def smallest(monitors: tuple[Box, ...]) -> tuple[int, int]:
    """Return the size of the smallest of the ``monitors``."""
    found = min(monitors, key=lambda monitor: monitor.width * monitor.height)
    return found.width, found.height


def plain(untrusted: str, limit: int = 100) -> str:
    """Return the words of a guest as they may stand in a label: one line, no letter that is not seen."""
    seen = CONTROL.sub("", untrusted.replace("\t", " ").replace("\n", " "))
    return "".join(letter if letter.isprintable() else "?" for letter in seen)[:limit].strip()


def host_title(vm: str, title: str) -> str:
    """Return what the desktop's own window manager shows: the VM first, then what its window calls itself."""
    return f"[{vm}] {title}".rstrip()


def size_hints(numbers: tuple[int, ...], edges: Edges, screen: tuple[int, int]) -> dict[str, int]:
    """Return the hints of ICCCM's WM_NORMAL_HINTS for a frame around a window that gave the ``numbers``.

    These are least width and height, most, steps and base, 0 where it gave none.  No least is larger than the
    ``screen``.
    """
    wide, high = 2 * edges.side, edges.top + edges.side
    least_w, least_h, most_w, most_h, step_w, step_h, base_w, base_h = (max(0, min(LARGEST, n)) for n in numbers)
    least_w, least_h = fit(least_w, least_h, edges, screen)
    base_w, base_h = (fit(base_w, base_h, edges, screen)[at] if base else 0 for at, base in enumerate((base_w, base_h)))
    most = edges.inside(*screen)
    # A window manager rounds a least size up by whole steps: that has room, too.
    step_w, step_h = (step if least + step <= room else 1 for step, least, room in
                      zip((step_w, step_h), (least_w, least_h), most, strict=True))  # fmt: skip
    hints = {"min_width": max(least_w, 1) + wide, "min_height": max(least_h, 1) + high}
    if most_w and most_h:
        hints |= {"max_width": max(most_w, least_w) + wide, "max_height": max(most_h, least_h) + high}
    if 1 < step_w <= 256 or 1 < step_h <= 256:
        hints |= {"width_inc": max(1, min(256, step_w)), "height_inc": max(1, min(256, step_h))}
        hints |= {"base_width": (base_w or least_w) + wide, "base_height": (base_h or least_h) + high}
    return hints
