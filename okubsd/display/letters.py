"""How large and how smooth letters are drawn: read from the desktop as numbers, written anew for a VM's display.

Sources: the resources of Xft (Xft(3), fonts-conf(5)); XSETTINGS 0.5 and the names of its settings in GTK 3,
gdk/x11/gdksettings.c.
"""

from __future__ import annotations

import math
import re
import struct
import sys

import msgspec

# Dots an inch that stand for a scale of 1, and what a desktop may ask for.
DOTS, _LEAST, _MOST = 96, 48, 480
_STYLES = ("hintnone", "hintslight", "hintmedium", "hintfull")
_ORDERS = ("none", "rgb", "bgr", "vrgb", "vbgr")
_FALSE = ("0", "false", "no", "off")
# fontconfig counts its orders from 0 for one that is not known, and "none" last.
_ORDER_NUMBERS = {"1": 1, "2": 2, "3": 3, "4": 4, "5": 0}


class Letters(msgspec.Struct, frozen=True):
    """Dots an inch; whether letters are antialiased and hinted, in which style, in which order of subpixels."""

    dots: int = DOTS
    antialias: bool = True
    hinting: bool = True
    style: int = 1
    order: int = 0

    @property
    def scale(self) -> float:
        """How large a frame is, beside one of 96 dots an inch."""
        return max(1.0, min(4.0, self.dots / DOTS))

    def numbers(self) -> tuple[int, ...]:
        """Return it as the numbers of a message."""
        return self.dots, int(self.antialias), int(self.hinting), self.style, self.order


def letters_of(numbers: tuple[int, ...]) -> Letters:
    """Return the letters that the first five ``numbers`` of a message stand for, each within its bounds."""
    dots, antialias, hinting, style, order = numbers[:5]
    style, order = max(0, min(len(_STYLES) - 1, style)), max(0, min(len(_ORDERS) - 1, order))
    return Letters(max(_LEAST, min(_MOST, dots)), bool(antialias), bool(hinting), style, order)


def parse_resources(text: str, scale: float = 0.0) -> Letters:
    """Return the letters of a desktop whose resource database is ``text``, as large as ``scale`` asks for if it does.

    What it does not say, or says in words that are not known, is as GTK and Xft have it.
    """
    found = dict(re.findall(r"(?m)^Xft[.*](\w+):[ \t]*([\w.]{1,20})[ \t]*$", text))
    dots = re.fullmatch(r"(\d{2,3})(\.\d+)?", found.get("dpi", ""))
    style, order = found.get("hintstyle", "").lower(), found.get("rgba", "").lower()
    return Letters(
        dots=max(_LEAST, min(_MOST, round(DOTS * scale) if scale else int(dots[1]) if dots else DOTS)),
        antialias=found.get("antialias", "1").lower() not in _FALSE,
        hinting=found.get("hinting", "1").lower() not in _FALSE,
        style=_STYLES.index(style) if style in _STYLES else int(style) if re.fullmatch("[0-3]", style) else 1,
        order=_ORDERS.index(order) if order in _ORDERS else _ORDER_NUMBERS.get(order, 0),
    )


def render_resources(letters: Letters) -> str:
    """Return the resource database that a VM's display has."""
    lines = {
        "dpi": str(letters.dots), "antialias": str(int(letters.antialias)), "hinting": str(int(letters.hinting)),
        "hintstyle": _STYLES[letters.style], "rgba": _ORDERS[letters.order],
    }  # fmt: skip
    return "".join(f"Xft.{name}:\t{value}\n" for name, value in lines.items())


def render_settings(letters: Letters) -> bytes:
    """Return the value of _XSETTINGS_SETTINGS, which GTK programs and browsers read.

    GTK draws in whole multiples; what is between is left to the letters.
    """
    whole = max(1, math.floor(letters.dots / DOTS + 0.25))
    settings: dict[str, int | str] = {
        "Gdk/UnscaledDPI": letters.dots * 1024 // whole, "Gdk/WindowScalingFactor": whole,
        "Xft/Antialias": int(letters.antialias), "Xft/DPI": letters.dots * 1024, "Xft/Hinting": int(letters.hinting),
        "Xft/HintStyle": _STYLES[letters.style], "Xft/RGBA": _ORDERS[letters.order],
    }  # fmt: skip
    order = 0 if sys.byteorder == "little" else 1
    head = struct.pack("=BxxxII", order, 1, len(settings))
    return head + b"".join(_render_setting(name, value) for name, value in settings.items())


def _render_setting(name: str, value: int | str) -> bytes:
    kind, laid = (0, struct.pack("=i", value)) if isinstance(value, int) else (1, _lengthed(value))
    return struct.pack("=BxH", kind, len(name)) + _padded(name) + struct.pack("=I", 1) + laid


def _lengthed(text: str) -> bytes:
    return struct.pack("=I", len(text)) + _padded(text)


def _padded(text: str) -> bytes:
    data = text.encode()
    return data + bytes(-len(data) % 4)
