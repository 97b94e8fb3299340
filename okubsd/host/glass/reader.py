"""The reader of the glass: the window manager of a VM's own display, which tells the painter what is to be seen.

It speaks to a server that a hostile guest draws on, so it holds nothing else: see sandbox.py.
"""

from __future__ import annotations

import contextlib
import select
import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import msgspec
from Xlib import X, Xutil, error
from Xlib.ext import composite, damage
from Xlib.protocol import event as xevent

from okubsd.display.frame import MOST_WINDOWS, Box
from okubsd.display.letters import letters_of
from okubsd.display.words import Asked, Message, State, Told
from okubsd.host.glass import laying, said, telling
from okubsd.host.glass.inputs import Inputs
from okubsd.host.glass.obeying import ASKED, Asks
from okubsd.host.glass.telling import TELLS
from okubsd.host.glass.wire import SLOTS, Hung, Slots, Wire

# XFIXES, CursorNotify: the pointer has another picture.
XFIXES_CURSOR = 1
# How many events are taken in a turn, and how many may wait: a guest can make them faster than they are taken.
_MOST_EVENTS, _MOST_WAITING = 256, 20_000
# How large the window of an icon is, in pixels: wide enough for the VM's name above it.
_TRAY_WIDTH, _TRAY_HEIGHT = 120, 24
# How long a window manager of the guest's may take to go.
_MANAGER_SECONDS = 5.0


class Pane(msgspec.Struct):
    """A window of the guest that is mapped."""

    window: Any
    box: Box
    over: bool
    damage: int
    border: int = 0
    pressed: bool = False
    states: set[State] = set()
    # What states it asked for since that was told last.
    asked: dict[State, bool] = {}
    # What of it is to be told, and will be once a turn, however often it changes.
    told: set[str] = set()
    pixmap: Any = None
    dirty: Box | None = None
    seen: bool = True
    wish: Box | None = None
    urgent: bool = False


def _place(box: Box) -> tuple[int, int, int, int]:
    return box.x, box.y, box.width, box.height


class Reader:
    """What is known of the nested display."""

    asked: ClassVar[Asks] = ASKED
    tells: ClassVar[Mapping[str, Callable[[Any, Pane], None]]] = TELLS

    def __init__(self, display: Any, wire: Wire, slots: Slots) -> None:
        """Become the window manager of ``display``.  Raises Xlib.error.XError where it has one already."""
        self.display, self.wire, self.slots = display, wire, slots
        self.root = display.screen().root
        self.panes: dict[int, Pane] = {}
        self.free = list(range(SLOTS))
        self.atoms = {name: display.intern_atom(name) for name in said.NAMES}
        self.inputs = Inputs(display)
        self.cursor_due = True
        self.tray: Any = None
        display.set_error_handler(lambda *_: 0)
        self._manage()
        self._find_windows()

    def _manage(self) -> None:
        """Take the display's windows under management; whoever comes second is told so by the server."""
        end = time.monotonic() + _MANAGER_SECONDS
        while (refused := self._redirect()) is not None:
            # The guest has one of its own while nobody looks; it is ended, as it would have ended itself after us.
            said.end_manager(self.display, self.atoms)
            if time.monotonic() > end:
                raise refused
            time.sleep(0.05)
        for query in ("composite", "damage", "xfixes"):
            getattr(self.display, f"{query}_query_version")()
        self.root.composite_redirect_subwindows(composite.RedirectAutomatic)
        self.display.xfixes_select_cursor_input(self.root, XFIXES_CURSOR)
        said.announce(self.root, self.atoms)
        self.tray = said.announce_tray(self.display, self.atoms)

    def _redirect(self) -> error.XError | None:
        """Ask the server to be asked about windows; return what it says against that."""
        refused = error.CatchError(error.BadAccess)
        mask = X.SubstructureRedirectMask | X.SubstructureNotifyMask
        self.root.change_attributes(event_mask=mask, onerror=refused)
        self.display.sync()
        found: error.XError | None = refused.get_error()
        return found

    def _find_windows(self) -> None:
        for window in self.root.query_tree().children[-MOST_WINDOWS:]:
            with contextlib.suppress(error.XError):
                attributes = window.get_attributes()
                if attributes.map_state == X.IsViewable and attributes.win_class == X.InputOutput:
                    self._adopt(window, over=bool(attributes.override_redirect))

    # --- turning -------------------------------------------------------------------------------

    def run(self) -> None:
        """Turn until the display or the painter is gone, which raises."""
        while True:
            self._take_events()
            self._tell_changes()
            laying.tell_cursor(self)
            laying.tell_pixels(self)
            self.display.flush()
            writing = [self.wire] if self.wire.waits else []
            timeout = 0.0 if self.display.display.event_queue else None
            ready, _, _ = select.select([self.display.fileno(), self.wire], writing, [], timeout)
            self.wire.flush()
            if self.wire in ready:
                for message in self.wire.hear():
                    self._asked(message)

    def _take_events(self) -> None:
        """Take some of the events that are there, so that the painter is heard also while they never end."""
        queue = self.display.display.event_queue
        for _ in range(_MOST_EVENTS):
            # Not read before what is there is taken: each look brings thousands.
            if not queue and not self.display.pending_events():
                return
            self._event(self.display.next_event())
        if len(queue) > _MOST_WAITING:
            queue[:] = said.thin(queue)
            if len(queue) > _MOST_WAITING:
                raise Hung("the guest floods its display")

    def _tell_changes(self) -> None:
        """Tell what changed of each window, once, in the end's shape."""
        for pane in [pane for pane in self.panes.values() if pane.told]:
            told, pane.told = pane.told, set()
            for name in told:
                with contextlib.suppress(error.XError):
                    self.tells[name](self, pane)

    def _event(self, event: Any) -> None:
        """Take one event of the server; what it is about may be gone."""
        handler = self.handlers.get(type(event).__name__)
        # What programs send each other as an event is none, but for what ICCCM has them send.
        if event.send_event and not isinstance(event, xevent.ClientMessage | xevent.UnmapNotify):
            return
        if handler is not None:
            with contextlib.suppress(error.XError):
                handler(self, event)

    # --- windows -------------------------------------------------------------------------------

    def _adopt(self, window: Any, *, over: bool) -> None:
        """Take a window that is or will be mapped."""
        if window == self.root or window.id in self.panes or len(self.panes) >= MOST_WINDOWS:
            return
        size = window.get_geometry()
        border = size.border_width if over else 0
        box = Box(size.x + border, size.y + border, size.width, size.height)
        if not over:
            window.configure(border_width=0)
            window.change_property(self.atoms["WM_STATE"], self.atoms["WM_STATE"], 32, [Xutil.NormalState, 0])
        window.change_attributes(event_mask=X.PropertyChangeMask)
        made = window.damage_create(damage.DamageReportBoundingBox)
        pane = Pane(window=window, box=box, over=over, damage=made, border=border)
        self.panes[window.id] = pane
        owner = said.owner_of(window)
        self.wire.tell(Told.WINDOW, window.id, *_place(box), int(over), owner if owner in self.panes else 0)
        for tell in (telling.class_, telling.title, telling.hints, telling.urgency):
            tell(self, pane)
        self.whole(pane)

    def dock(self, window: Any) -> None:
        """Show an icon that a program lays into the tray as a small window: so it is not lost."""
        if window.get_attributes().win_class == X.InputOutput and window.id not in self.panes:
            window.configure(width=_TRAY_WIDTH, height=_TRAY_HEIGHT)
            window.map()
            self._adopt(window, over=False)
            said.embed(window, self.tray, self.atoms)

    def _map_request(self, event: Any) -> None:
        attributes = event.window.get_attributes()
        event.window.map()
        if attributes.win_class == X.InputOutput:
            self._adopt(event.window, over=False)

    def _mapped(self, event: Any) -> None:
        pane = self.panes.get(event.window.id)
        if pane is None and event.override:
            if event.window.get_attributes().win_class == X.InputOutput:
                self._adopt(event.window, over=True)
        elif pane is not None:
            # The picture of a window begins anew with each mapping.
            self.drop_pixmap(pane)
            self.whole(pane)

    def _gone(self, event: Any) -> None:
        pane = self.panes.pop(event.window.id, None)
        if pane is None:
            return
        self.wire.tell(Told.GONE, event.window.id)
        self.drop_pixmap(pane)
        if pane.pressed:
            self.inputs.release_buttons()
        if not isinstance(event, xevent.DestroyNotify):
            self.display.damage_destroy(pane.damage)
            pane.window.change_attributes(event_mask=0)

    def drop_pixmap(self, pane: Pane) -> None:
        if pane.pixmap is not None:
            pane.pixmap.free()
        pane.pixmap = None

    def _configure_request(self, event: Any) -> None:
        pane = self.panes.get(event.window.id)
        asked = {
            name: getattr(event, name)
            for name, bit in (("x", X.CWX), ("y", X.CWY), ("width", X.CWWidth), ("height", X.CWHeight))
            if event.value_mask & bit
        }
        if pane is None or pane.over:
            event.window.configure(**asked)
            return
        box = Box(**{**msgspec.structs.asdict(pane.box), **asked})
        pane.wish = box
        pane.told.add("place")
        # A window must be told where it is, also where it stays (ICCCM, 4.1.5).
        self.send_place(pane)

    def _configured(self, event: Any) -> None:
        pane = self.panes.get(event.window.id)
        if pane is None:
            return
        pane.border = event.border_width
        x, y = event.x + pane.border, event.y + pane.border
        before, pane.box = pane.box, Box(x, y, event.width, event.height)
        if (before.width, before.height) != (event.width, event.height):
            self.drop_pixmap(pane)
            self.whole(pane)
        if pane.over and before != pane.box:
            pane.told.add("place")

    def send_place(self, pane: Pane) -> None:
        told = xevent.ConfigureNotify(
            window=pane.window, event=pane.window, x=pane.box.x, y=pane.box.y, width=pane.box.width,
            height=pane.box.height, border_width=0, above_sibling=X.NONE, override=0,
        )  # fmt: skip
        pane.window.send_event(told, X.StructureNotifyMask)

    # --- pixels ------------------------------------------------------------------------------------

    def _damaged(self, event: Any) -> None:
        pane = self.panes.get(event.drawable.id)
        if pane is not None:
            self.display.damage_subtract(pane.damage)
            area = event.area
            pane.dirty = Box(area.x, area.y, area.width, area.height).join(pane.dirty)

    def whole(self, pane: Pane) -> None:
        pane.dirty = Box(0, 0, pane.box.width, pane.box.height)

    def _cursor_changed(self, _event: Any) -> None:
        self.cursor_due = True

    def _take_letters(self, numbers: tuple[int, ...]) -> None:
        """Say how letters are drawn; who comes from now on finds all in place."""
        said.announce_letters(self.display, letters_of(numbers), self.atoms)
        size = self.root.get_geometry()
        self.display.sync()
        self.wire.tell(Told.READY, 0, size.width, size.height)

    def _asked(self, message: Message) -> None:
        numbers = message.numbers
        if message.kind == Asked.DONE:
            if numbers[0] not in self.free:
                self.free.append(numbers[0])
        elif message.kind == Asked.KEY:
            self.inputs.key(numbers[0], numbers[2], numbers[3], down=bool(numbers[1]))
        elif message.kind == Asked.FOCUS and message.window == 0:
            self.inputs.release_all()
        elif message.kind == Asked.LETTERS:
            self._take_letters(numbers)
        elif (pane := self.panes.get(message.window)) is not None:
            with contextlib.suppress(error.XError):
                self.asked[Asked(message.kind)](self, pane, numbers)

    handlers: ClassVar[Mapping[str, Callable[[Any, Any], None]]] = {
        "MapRequest": _map_request,
        "MapNotify": _mapped,
        "UnmapNotify": _gone,
        "DestroyNotify": _gone,
        "ConfigureRequest": _configure_request,
        "ConfigureNotify": _configured,
        "PropertyNotify": telling.property_changed,
        "ClientMessage": telling.message,
        "DamageNotify": _damaged,
        "DisplayCursorNotify": _cursor_changed,
    }
