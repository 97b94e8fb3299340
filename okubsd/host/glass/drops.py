"""Files that the user drops on a window of a VM: their names go to a command of ours, which sends them to its inbox.

Who drags is a program of the desktop's own; the guest hears nothing of it.  Source: Drag-and-Drop Protocol for the X
Window System, version 5 (XDND); RFC 2483, section 5, for lists of names; RFC 8089 for a file's.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes, urlsplit

from Xlib import X, Xatom
from Xlib.protocol import event as xevent

if TYPE_CHECKING:
    from okubsd.host.glass.painter import Painter
    from okubsd.host.glass.pane import Pane

VERSION = 5
LIST = "text/uri-list"
ATOMS = (
    *("XdndAware", "XdndEnter", "XdndPosition", "XdndStatus", "XdndLeave", "XdndDrop", "XdndFinished"),
    *("XdndSelection", "XdndTypeList", "XdndActionCopy", LIST),
)

# How many files are taken at once, and how long the list of their names may be, in bytes.
_MOST_FILES, _LONGEST = 100, 256 << 10
# More than three kinds are told by a property.
_MORE_KINDS, _MOST_KINDS = 1, 256


def parse_list(data: bytes) -> tuple[str, ...]:
    """Return the paths of the files of this host that a list of names has; what is none of them is left out."""
    found = []
    for line in data.decode("ascii", errors="replace").split("\n"):
        try:
            parts = urlsplit(line.strip())
        except ValueError:
            continue
        if parts.scheme != "file" or parts.netloc not in ("", "localhost", socket.gethostname()):
            continue
        path = os.fsdecode(unquote_to_bytes(parts.path))
        if path.startswith("/") and "\0" not in path:
            found.append(path)
    return tuple(found[:_MOST_FILES])


class Drops:
    """Who drags something over a window of the VM's, and whether it is files."""

    def __init__(self) -> None:
        self._source = X.NONE
        self._files = False
        self._over: Pane | None = None

    def message(self, painter: Painter, pane: Pane, event: Any) -> bool:
        """Take a message of a program that drags; return whether it was one."""
        atoms = painter.desk.atoms
        names = {atoms[name]: name for name in ATOMS}
        name = names.get(event.client_type, "")
        if event.data[0] != 32 or name not in _TAKEN:
            return False
        numbers = [int(number) & 0xFFFFFFFF for number in event.data[1]]
        if name == "XdndEnter":
            self._source = numbers[0]
            self._files = atoms[LIST] in self._kinds(painter, numbers)
        elif numbers[0] != self._source:
            return True
        elif name == "XdndPosition":
            taken = (pane.top.id, int(self._files), 0, 0, atoms["XdndActionCopy"] if self._files else X.NONE)
            self._tell(painter, "XdndStatus", *taken)
        elif name == "XdndDrop":
            self._over = pane
            if self._files:
                pane.top.convert_selection(atoms["XdndSelection"], atoms[LIST], atoms["XdndSelection"], numbers[2])
            else:
                self._finish(painter, taken=False)
        return True

    def _kinds(self, painter: Painter, numbers: list[int]) -> list[int]:
        if not numbers[1] & _MORE_KINDS:
            return numbers[2:5]
        window = painter.display.create_resource_object("window", numbers[0])
        found = window.get_property(painter.desk.atoms["XdndTypeList"], Xatom.ATOM, 0, _MOST_KINDS)
        return list(found.value) if found is not None and found.format == 32 else []

    def selection(self, painter: Painter, event: Any) -> None:
        """Take the list that was asked for."""
        pane, atoms = self._over, painter.desk.atoms
        if pane is None or event.requestor.id != pane.top.id or event.selection != atoms["XdndSelection"]:
            return
        found = None
        if event.property != X.NONE:
            found = pane.top.get_property(atoms["XdndSelection"], X.AnyPropertyType, 0, _LONGEST // 4)
            pane.top.delete_property(atoms["XdndSelection"])
        data = bytes(found.value) if found is not None and found.format == 8 else b""
        paths = parse_list(data)
        self._finish(painter, taken=bool(paths))
        if paths:
            painter.deeds.send(paths)
        else:
            painter.tell(pane, "what was dropped is no file of this host")

    def _finish(self, painter: Painter, *, taken: bool) -> None:
        pane, self._over = self._over, None
        assert pane is not None
        copied = painter.desk.atoms["XdndActionCopy"] if taken else X.NONE
        self._tell(painter, "XdndFinished", pane.top.id, int(taken), copied, 0, 0)
        self._source, self._files = X.NONE, False

    def _tell(self, painter: Painter, name: str, *numbers: int) -> None:
        window = painter.display.create_resource_object("window", self._source)
        told = xevent.ClientMessage(window=window, client_type=painter.desk.atoms[name], data=(32, list(numbers)))
        window.send_event(told)


_TAKEN = frozenset({"XdndEnter", "XdndPosition", "XdndDrop"})
