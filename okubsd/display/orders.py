"""What the glass is told when it begins."""

from __future__ import annotations

import msgspec

from okubsd.decode import read_json
from okubsd.model import Keys


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """The VM's run directory, the user's display, how the windows look, and how okubsd is called.

    ``color`` and ``ink`` are 0xRRGGBB, ``network`` is what the label calls the VM's network, ``keyboard`` gives the
    VM's display the keyboard of the user's, ``words`` are shown until there is a window.  ``whole`` is the size
    (width, height) in pixels of the VM's screen where that is one window, None where each of its windows is.
    ``scale`` is how large the VM's programs draw (0: as the desktop's do), ``fullscreen`` says whether they may fill
    the screen, ``keys`` are ours over a window.
    """

    vm: str
    run: str
    desktop: str
    network: str
    color: int
    ink: int
    okubsd: tuple[str, ...]
    keyboard: tuple[str, ...] = ()
    words: str = ""
    whole: tuple[int, int] | None = None
    scale: float = 0.0
    fullscreen: bool = False
    keys: Keys = Keys()

    def render(self) -> str:
        """Return the one argument that the glass gets."""
        return msgspec.json.encode(self).decode()


def parse_orders(text: str) -> Orders:
    """Return the orders that ``text`` is.  Raises ValueError where it is none."""
    return read_json(text.encode(), Orders)


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A question to the user on the ``desktop``: what is to cross, whose rule wants it asked, and for how long."""

    desktop: str
    question: str
    what: str
    place: str
    seconds: float

    def render(self) -> str:
        """Return the one argument that the program which asks gets."""
        return msgspec.json.encode(self).decode()


def parse_asked(text: str) -> Asked:
    """Return the question that ``text`` is.  Raises ValueError where it is none."""
    return read_json(text.encode(), Asked)


class Attending(msgspec.Struct, frozen=True, kw_only=True):
    """What attends to a VM: the description that it is in, and whether the VM may be heard."""

    vm: str
    description: str = ""
    heard: bool = False

    def render(self) -> str:
        """Return it as one word of a command line."""
        return msgspec.json.encode(self).decode()


def parse_attending(text: str) -> Attending:
    """Return the orders that ``text`` is.  Raises ValueError where it is none."""
    return read_json(text.encode(), Attending)
