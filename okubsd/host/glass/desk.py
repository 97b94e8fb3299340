"""What all windows of a VM share on the user's display: its colors, letters, monitors and atoms."""

from __future__ import annotations

from typing import Any

import msgspec
from Xlib import X, Xatom

from okubsd.display.frame import FRAME, MENU, Box, edges_at, smallest
from okubsd.display.letters import parse_resources
from okubsd.errors import HostLacks
from okubsd.host.glass import drops
from okubsd.model import Keys

# The fonts of labels, the first that the server has (X core fonts; the ones with all of Unicode first), by the least
# scale that they are for.
_FONTS = {
    1.4: (
        "-misc-fixed-medium-r-normal--20-*-*-*-*-*-iso10646-1",
        "-misc-fixed-medium-r-normal--18-*-*-*-*-*-iso10646-1",
    ),
    0.0: (
        "-misc-fixed-medium-r-normal--13-*-*-*-*-*-iso10646-1",
        "-misc-fixed-medium-r-semicondensed--13-*-*-*-*-*-iso10646-1",
        "fixed",
    ),
}
_MOST_MONITORS = 32
# How much of a label keeps the color of the VM also while a notice is in it, in pixels.
_RIM = 2
# How much of a label's height its letters are to have.
_LETTER_SHARE = 0.7
# Letters that titles often have and few of the server's fonts do.
_PLAINER = str.maketrans({"–": "-", "—": "-", "‘": "'", "’": "'", "“": '"', "”": '"', "…": "...", "·": "-"})


class Look(msgspec.Struct, frozen=True):
    """How the windows of one VM look: its name, the two colors of its frames, and what its network is called.

    ``scale`` is how large its programs draw (0: as the desktop's), ``fullscreen`` whether they may fill the screen,
    ``keys`` are ours over them.
    """

    vm: str
    color: int
    ink: int
    network: str
    scale: float = 0.0
    fullscreen: bool = False
    keys: Keys = Keys()


class Desk:
    """What all panes of a VM share on the user's display."""

    def __init__(self, display: Any, look: Look) -> None:
        self.display, self.look = display, look
        # Whether the VM has the microphone, which every label then says.
        self.hearing = False
        # The window that no menu of the VM is above, where there is one.
        self.above: Any = None
        self.screen = display.screen()
        self.root = self.screen.root
        self.size = (0, 0)
        self.monitors: tuple[Box, ...] = ()
        self.measure(self.screen.width_in_pixels, self.screen.height_in_pixels)
        self.atoms = {name: display.intern_atom(name) for name in _ATOMS}
        self.visual, self.colormap = _visual(self.screen)
        self.letters = parse_resources(_resources(self.root), look.scale)
        # A question of ours has room on any monitor.
        width, height = smallest(self.monitors)
        self.scale = min(self.letters.scale, max(1.0, width / 600), max(1.0, height / 300))
        self.frame, self.menu = edges_at(FRAME, self.scale), edges_at(MENU, self.scale)
        self.font = _font(display, self.scale)
        metrics = self.font.query()
        self.ascent, self.descent = max(1, metrics.font_ascent), max(0, metrics.font_descent)
        # Where the server has no letters that are large enough, each of their pixels is drawn as several.
        self.zoom = max(1, round(self.frame.top * _LETTER_SHARE / (self.ascent + self.descent)))
        self.letter_width = max(1, metrics.max_bounds.character_width) * self.zoom
        # Where a line of text stands, so that it is in the middle of a label.
        self.baseline = (self.frame.top + (self.ascent - self.descent) * self.zoom) // 2
        self.label_gc = self.root.create_gc(foreground=look.ink, background=look.color, font=self.font)
        self.turned_gc = self.root.create_gc(foreground=look.color, background=look.ink, font=self.font)
        self.leader = self.root.create_window(-1, -1, 1, 1, 0, X.CopyFromParent)

    def px(self, number: int) -> int:
        """Return how many pixels ``number`` of them are at the desktop's scale."""
        return round(number * self.scale)

    def measure(self, width: int, height: int) -> None:
        """Take the size of the whole screen, and look which monitors show it (RandR 1.5, RRGetMonitors)."""
        self.size = (width, height)
        whole = Box(0, 0, width, height)
        found: list[Box] = []
        if hasattr(self.root, "xrandr_get_monitors"):
            told = self.root.xrandr_get_monitors().monitors[:_MOST_MONITORS]
            found = [Box(one.x, one.y, one.width_in_pixels, one.height_in_pixels) for one in told]
        self.monitors = tuple(box for box in found if box.width > 0 and box.height > 0) or (whole,)

    def idle_seconds(self) -> float:
        """Return how long nobody has typed or pointed, 0 where the server does not tell (MIT-SCREEN-SAVER)."""
        if not self.display.has_extension("MIT-SCREEN-SAVER"):
            return 0.0
        return float(self.root.screensaver_query_info().idle) / 1000

    def another_id(self) -> None:
        """Have the next window get a number that none had just before.

        python-xlib gives a number again at once, and a window manager takes the new window for the old one then.
        """
        inner = self.display.display
        inner.last_resource_id = (inner.last_resource_id + 1) & inner.info.resource_id_mask

    def mark(self, window: Any, width: int, height: int) -> None:
        """Fill a label with the color of its words, but for its rim."""
        window.fill_rectangle(self.label_gc, _RIM, _RIM, max(1, width - 2 * _RIM), max(1, height - 2 * _RIM))

    def text(self, window: Any, x: int, y: int, words: str, *, turned: bool = False) -> None:
        """Write ``words`` into ``window``, perhaps in ``turned`` colors; a letter that the font lacks is its box."""
        letters = [min(ord(letter), 0xFFFF) for letter in words[:250].translate(_PLAINER)]
        gc = self.turned_gc if turned else self.label_gc
        if self.zoom == 1:
            window.image_text_16(gc, x, y, letters)
        elif letters:
            self._text_zoomed(window, x, y - self.ascent * self.zoom, letters, gc)

    def _text_zoomed(self, window: Any, x: int, y: int, letters: list[int], gc: Any) -> None:
        """Draw letters with their upper left corner at ``x``, ``y``, each of their pixels as a square of several."""
        width, height = len(letters) * self.letter_width // self.zoom, self.ascent + self.descent
        laid = window.create_pixmap(width, height, 24)
        laid.image_text_16(gc, 0, self.ascent, letters)
        data, stride = laid.get_image(0, 0, width, height, X.ZPixmap, 0xFFFFFFFF).data, 4 * width
        laid.free()
        for row in range(height):
            line = data[row * stride : (row + 1) * stride]
            wide = b"".join(line[at : at + 4] * self.zoom for at in range(0, stride, 4)) * self.zoom
            top = y + row * self.zoom
            window.put_image(gc, x, top, width * self.zoom, self.zoom, X.ZPixmap, 24, 0, wide)


_ATOMS = (
    *("WM_PROTOCOLS", "WM_DELETE_WINDOW", "WM_TAKE_FOCUS", "WM_CHANGE_STATE", "UTF8_STRING", "_OKUBSD_VM"),
    *("_NET_WM_NAME", "_NET_WM_ICON", "_NET_WM_USER_TIME", "_NET_WM_MOVERESIZE", "_NET_ACTIVE_WINDOW"),
    *("_NET_WM_STATE", "_NET_WM_STATE_MAXIMIZED_VERT", "_NET_WM_STATE_MAXIMIZED_HORZ", "_NET_WM_STATE_FULLSCREEN"),
    *("_NET_WM_WINDOW_TYPE", "_NET_WM_WINDOW_TYPE_NORMAL", "_NET_WM_WINDOW_TYPE_DIALOG"),
    *drops.ATOMS,
)


def _visual(screen: Any) -> tuple[int, int]:
    """Return the visual of depth 24 that guests' pixels are for, and a colormap for it.

    Raises HostLacks where the screen has none.
    """
    if screen.root_depth == 24:
        return screen.root_visual, screen.default_colormap
    for depth in screen.allowed_depths:
        for visual in depth.visuals if depth.depth == 24 else ():
            if visual.visual_class == X.TrueColor:
                return visual.visual_id, screen.root.create_colormap(visual.visual_id, X.AllocNone)
    raise HostLacks("the X display has no colors of 24 bits", "xdpyinfo")


# What is read of the desktop's resources, in words of four bytes.
_MOST_RESOURCES = 16_384


def _resources(root: Any) -> str:
    found = root.get_property(Xatom.RESOURCE_MANAGER, Xatom.STRING, 0, _MOST_RESOURCES)
    return bytes(found.value).decode("latin-1") if found is not None and found.format == 8 else ""


def _font(display: Any, scale: float) -> Any:
    names = (name for least, some in _FONTS.items() if scale >= least for name in some)
    for name in names:
        if display.list_fonts(name, 1):
            return display.open_font(name)
    return display.open_font("cursor")
