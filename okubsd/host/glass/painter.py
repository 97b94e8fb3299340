"""The painter of the glass: it shows the windows of one VM on the user's desktop, and gives them keys and pointer.

It speaks to the user's X server only.  What the reader tells it may be a lie: every number is checked, nothing is
drawn outside of the inside of a frame, and it never waits for the reader.
"""

from __future__ import annotations

import contextlib
import select
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
from Xlib import X, error
from Xlib.protocol import event as xevent

from okubsd.display.frame import MOST_WINDOWS, clamp_box, is_menu, menu_pixels, smallest
from okubsd.display.words import Asked, Message, Told
from okubsd.host.glass import cursor, drawing, shm
from okubsd.host.glass.desk import Desk, Look
from okubsd.host.glass.drops import Drops
from okubsd.host.glass.grabs import Grabs
from okubsd.host.glass.hearing import HANDLERS
from okubsd.host.glass.marking import Mark
from okubsd.host.glass.pacing import PACED, Pacing
from okubsd.host.glass.pane import Pane
from okubsd.host.glass.splash import Splash
from okubsd.host.glass.told import TOLD
from okubsd.host.glass.wire import Slots, Wire
from okubsd.host.xkb import LOCKS, Keyboard

# How long a notice stays in the label, in seconds.
_NOTICE_SECONDS = 4.0
# How long after a start its window may take the keyboard.
_EXPECT_SECONDS = 120.0
# How long after a window was closed in the user's hands the next may take the keyboard.
_HANDS_SECONDS = 1.0
# How many messages are taken before the desktop is heard again.
_MOST_MESSAGES = 64


class Deeds(msgspec.Struct, frozen=True):
    """What others do: ``cross`` with "copy" or "paste", ``remap`` the VM's keyboard, ``send`` files to the VM."""

    cross: Callable[[str], None]
    send: Callable[[tuple[str, ...]], None]
    remap: Callable[[], None]


class Painter:
    """The windows of one VM on the user's display."""

    def __init__(self, display: Any, wire: Wire, slots: Slots, look: Look, deeds: Deeds) -> None:
        self.display, self.wire, self.slots, self.deeds = display, wire, slots, deeds
        self.desk = Desk(display, look)
        self.panes: dict[int, Pane] = {}
        self.frames: dict[int, Pane] = {}
        self.segment = shm.segment_of(display, slots.slot_size)
        self.focused: Pane | None = None
        self.drops = Drops()
        self.mark: Mark | None = None
        self.ready = False
        self.splash: Splash | None = None
        self.cursor: Any = None
        self._notice_ends = self._expecting = self._hands_until = self.states_from = 0.0
        self._heard: deque[Message] = deque()
        self._pacing = Pacing()
        # Keys of ours that are down, and when each was let go of last.
        self.taken: set[int] = set()
        self.crossing: dict[int, int] = {}
        # Keys that the guest was told are down; who had the keyboard before somebody grabbed it.
        self.down: set[int] = set()
        self.before_grab: Pane | None = None
        # Whether the user had a window leave the whole screen, which then none has back.
        self.left = False
        wire.tell(Asked.LETTERS, 0, *self.desk.letters.numbers())
        display.set_error_handler(lambda *_: 0)
        self.desk.root.change_attributes(event_mask=X.StructureNotifyMask)
        # Only who has asked for the extension is told the group of a key (XKB, 12.1).
        self._map_event = Keyboard(display).watch()
        self._map = self._key_map()
        self.keys = Grabs(display, look.keys)
        mapping = display.get_modifier_mapping()
        self.lock_codes = {*mapping[X.LockMapIndex], *mapping[X.Mod2MapIndex]}

    def _key_map(self) -> list[Any]:
        info = self.display.display.info
        first, count = info.min_keycode, info.max_keycode - info.min_keycode + 1
        held = list(self.display.get_keyboard_mapping(first, count))
        self.display.refresh_keyboard_mapping(xevent.MappingNotify(request=1, first_keycode=first, count=count))
        return held

    def _remap(self) -> None:
        """Take another keyboard map; the server says that there is one also when another device is typed on."""
        held = self._key_map()
        if held == self._map:
            return
        self._map = held
        self.keys = Grabs(self.display, self.desk.look.keys)
        for pane in self.panes.values():
            self.keys.grab(pane)
        self.deeds.remap()

    # --- turning -------------------------------------------------------------------------------

    def turn(self, others: list[Any]) -> list[Any]:
        """Wait for something to happen and take it; return those of ``others`` that something happened to.

        Raises Hung where the reader is gone, and what python-xlib raises where the display is.
        """
        self._drain()
        self.display.flush()
        waiting = [self.display.fileno(), self.wire, *others]
        # What flush() read besides is there already.
        timeout = 0.0 if self._heard or self.display.display.event_queue else self._next()
        ready, _, _ = select.select(waiting, [self.wire] if self.wire.waits else [], [], timeout)
        self.wire.flush()
        if self.wire in ready and len(self._heard) < _MOST_MESSAGES:
            self._heard.extend(self.wire.hear())
        for _ in range(min(_MOST_MESSAGES, len(self._heard))):
            self._told(self._heard.popleft())
        self._tell_desktop()
        self._drain()
        if self._notice_ends and time.monotonic() >= self._notice_ends:
            self._notice_ends = 0.0
            for pane in self.panes.values():
                pane.notice = pane.whispered = ""
                pane.draw_label()
        return [other for other in others if other in ready]

    def _next(self) -> float | None:
        """Return after how many seconds something is to be done by itself, None for nothing."""
        notice = max(0.0, self._notice_ends - time.monotonic()) if self._notice_ends else None
        mark = self.mark.wait() if self.mark is not None else None
        return min((seconds for seconds in (notice, mark, self._pacing.wait()) if seconds is not None), default=None)

    def _tell_desktop(self) -> None:
        """Do what its window manager has to take in, no faster than it is meant to."""
        for message in self._pacing.due():
            pane = self.panes.get(message.window)
            if pane is not None:
                TOLD[Told(message.kind)](self, pane, message)
        if self.mark is not None:
            self.mark.come_up()

    def _drain(self) -> None:
        """Take every event that is there; of moves of the pointer that follow each other only the last."""
        while self.display.pending_events():
            event = self.display.next_event()
            queue = self.display.display.event_queue
            if isinstance(event, xevent.MotionNotify) and queue and isinstance(queue[0], xevent.MotionNotify):
                continue
            self._event(event)

    def bring_up(self, pane: Pane) -> None:
        """Have the desktop's window manager raise and focus a window, as somebody asked for, perhaps while he types."""
        if not pane.focused:
            pane.expected, pane.welcome, pane.came = False, True, False
        self.ask_manager(pane, "_NET_ACTIVE_WINDOW", 2, X.CurrentTime)
        pane.top.map()
        pane.top.configure(stack_mode=X.Above)

    def ask_to_close(self, pane: Pane) -> None:
        """Ask the program of a window to close it."""
        self.wire.tell(Asked.CLOSE, pane.number)

    def say(self, words: str) -> None:
        """Say how far a start is: in a window of ours while there is none of the guest, or else in the labels."""
        # Who starts something expects a window of it.
        self._expecting = time.monotonic() + _EXPECT_SECONDS
        if self.panes:
            self.notice(words)
        elif self.splash is None:
            self.splash = Splash(self.desk, words)
        else:
            self.splash.say(words)

    def notice(self, words: str) -> None:
        """Show ``words`` in the labels for a moment."""
        for pane in self.panes.values():
            pane.notice = words
            pane.draw_label()
        self._notice_ends = time.monotonic() + _NOTICE_SECONDS

    def show_for_a_moment(self) -> None:
        """Have what the labels show besides be gone after a moment."""
        self._notice_ends = max(self._notice_ends, time.monotonic() + _NOTICE_SECONDS)

    def tell(self, pane: Pane, words: str) -> None:
        """Show ``words`` in one label for a moment, where nothing else is shown there."""
        if not pane.notice:
            pane.notice = words
            pane.draw_label()
            self.show_for_a_moment()

    # --- what the reader tells -------------------------------------------------------------------

    def _told(self, message: Message) -> None:
        if message.kind == Told.READY:
            self.ready = True
        elif message.kind == Told.WINDOW:
            self._window(message)
        elif message.kind == Told.PIXELS:
            drawing.pixels(self, message)
        elif message.kind == Told.CURSOR:
            cursor.show(self, message.numbers)
        elif message.kind == Told.GONE:
            self._gone(message)
        elif message.kind in PACED and message.window in self.panes:
            self._pacing.put(message)
        elif (pane := self.panes.get(message.window)) is not None and message.kind in TOLD:
            TOLD[Told(message.kind)](self, pane, message)

    def _window(self, message: Message) -> None:
        over, owner = message.numbers[4:6]
        if message.window in self.panes or len(self.panes) >= MOST_WINDOWS:
            return
        self._drop_splash()
        box = clamp_box(message.numbers)
        # Monitors are put up and taken away while nothing else changes.
        self.desk.measure(*self.desk.size)
        pixels = menu_pixels(box.width, box.height, self.desk.menu)
        menu = bool(over) and is_menu(pixels, smallest(self.desk.monitors), self.menus())
        now = time.monotonic()
        hands = self.focused
        expected = hands is not None and hands.expected
        # What was started comes when it likes, perhaps while the user types elsewhere.
        started, awaited = not menu and now < self._expecting, self._expecting
        welcome = started or now < self._hands_until or (hands is not None and hands.welcome)
        # A menu, or the picture that some programs begin with, is not the window that was waited for.
        self._expecting = self._expecting if menu else 0.0
        pane = Pane(
            self.desk, message.window, box, menu=menu, owner=self.panes.get(owner), expected=expected, welcome=welcome
        )  # fmt: skip
        pane.awaited_until = awaited if started else 0.0
        self.panes[message.window] = pane
        self.frames[pane.top.id] = self.frames[pane.inner.id] = pane
        if self.cursor is not None:
            pane.inner.change_attributes(cursor=self.cursor)
        self.keys.grab(pane)

    def _drop_splash(self) -> None:
        if self.splash is not None:
            self.splash.destroy()
        self.splash = None

    def menus(self, but: Pane | None = None) -> list[int]:
        """Return how many pixels of the desktop each menu of the VM that is shown covers."""
        menus = (pane for pane in self.panes.values() if pane.menu and pane.shown and pane is not but)
        return [menu_pixels(pane.width, pane.height, pane.edges) for pane in menus]

    def hide_menus(self) -> None:
        """Take menus away that would cover a screen that has become smaller; the guest may ask for others."""
        for pane in self.panes.values():
            if pane.menu and pane.shown and not is_menu(0, smallest(self.desk.monitors), self.menus()):
                pane.hide()

    def _gone(self, message: Message) -> None:
        pane = self.panes.get(message.window)
        if pane is None:
            return
        self._pacing.forget(message.window)
        del self.panes[message.window], self.frames[pane.top.id], self.frames[pane.inner.id]
        if self.before_grab is pane:
            self.before_grab = None
        if self.down and self.focused in (None, pane):
            # What is held down is let go of: the user types elsewhere now.
            self.let_go()
        if self.focused is pane:
            # One that closed in his hands often makes room for the next.
            self._hands_until = time.monotonic() + _HANDS_SECONDS if pane.expected or pane.welcome else 0.0
            self.focused = None
            self.let_go()
        if not pane.expected and pane.awaited_until:
            # What a program shows while it begins is not the window that was waited for.
            self._expecting = pane.awaited_until
        pane.destroy()

    def tell_key(self, pane: Pane, code: int, state: int, *, down: bool) -> None:
        """Tell the guest of a key; of a release only where it was told of the press."""
        if down:
            self.down.add(code)
        elif code in self.down:
            self.down.discard(code)
        else:
            return
        self.wire.tell(Asked.KEY, pane.number, code, int(down), state & LOCKS, state >> 13 & 3)

    def let_go(self) -> None:
        """Have the guest's display let go of every key: the user types elsewhere."""
        self.down.clear()
        self.wire.tell(Asked.FOCUS, 0)

    def ask_manager(self, pane: Pane, name: str, *numbers: int) -> None:
        data = (32, [*numbers, *[0] * (5 - len(numbers))])
        told = xevent.ClientMessage(window=pane.top, client_type=self.desk.atoms[name], data=data)
        self.desk.root.send_event(told, X.SubstructureRedirectMask | X.SubstructureNotifyMask)

    # --- what the desktop tells ------------------------------------------------------------------

    def _event(self, event: Any) -> None:
        """Take one event of the desktop's server; keys and buttons that a program sent by itself are none."""
        if isinstance(event, xevent.MappingNotify) or event.type == self._map_event:
            self._remap()
            return
        if isinstance(event, xevent.ConfigureNotify) and event.window == self.desk.root:
            # The screen has another size: what comes from now on is kept within that.
            self.desk.measure(event.width, event.height)
            self.hide_menus()
            return
        if self.splash is not None and getattr(event, "window", None) == self.splash.top:
            self._splash_event(event)
            return
        if self.mark is not None and getattr(event, "window", None) == self.mark.top:
            self.mark.event(event)
            return
        if isinstance(event, xevent.SelectionNotify):
            with contextlib.suppress(error.BadWindow):
                self.drops.selection(self, event)
            return
        pane = self.frames.get(event.window.id) if hasattr(event, "window") else None
        handler = HANDLERS.get(type(event).__name__)
        if pane is None or handler is None:
            return
        if event.send_event and not isinstance(event, xevent.ConfigureNotify | xevent.ClientMessage):
            return
        with contextlib.suppress(error.BadWindow, error.BadDrawable):
            handler(self, pane, event)

    def _splash_event(self, event: Any) -> None:
        if isinstance(event, xevent.Expose) and self.splash is not None:
            self.splash.draw()
        elif isinstance(event, xevent.ClientMessage):
            # Its close button closes it, and not the VM that starts.
            self._drop_splash()
