"""What python-xlib lacks of the X keyboard extension (XKBproto): events, and what is locked."""

from __future__ import annotations

from typing import Any, NamedTuple

from Xlib.protocol import rq

_CORE_KEYBOARD = 0x100


class _UseExtension(rq.ReplyRequest):  # type: ignore[misc]
    _request = rq.Struct(
        rq.Card8("opcode"), rq.Opcode(0), rq.RequestLength(), rq.Card16("wanted_major"), rq.Card16("wanted_minor")
    )
    _reply = rq.Struct(
        rq.ReplyCode(), rq.Bool("supported"), rq.Card16("sequence_number"), rq.ReplyLength(),
        rq.Card16("major_version"), rq.Card16("minor_version"), rq.Pad(20),
    )  # fmt: skip


class _SelectEvents(rq.Request):  # type: ignore[misc]
    _request = rq.Struct(
        rq.Card8("opcode"), rq.Opcode(1), rq.RequestLength(), rq.Card16("device"), rq.Card16("affect_which"),
        rq.Card16("clear"), rq.Card16("select_all"), rq.Card16("affect_map"), rq.Card16("map"),
    )  # fmt: skip


# NewKeyboardNotify and MapNotify: who uses the extension is told of another map by these, and no more by MappingNotify.
_MAP_EVENTS = 0x0003


class _GetState(rq.ReplyRequest):  # type: ignore[misc]
    _request = rq.Struct(rq.Card8("opcode"), rq.Opcode(4), rq.RequestLength(), rq.Card16("device"), rq.Pad(2))
    _reply = rq.Struct(
        rq.ReplyCode(), rq.Card8("device"), rq.Card16("sequence_number"), rq.ReplyLength(), rq.Card8("mods"),
        rq.Card8("base_mods"), rq.Card8("latched_mods"), rq.Card8("locked_mods"), rq.Card8("group"),
        rq.Card8("locked_group"), rq.Pad(18),
    )  # fmt: skip


class _LatchLockState(rq.Request):  # type: ignore[misc]
    _request = rq.Struct(
        rq.Card8("opcode"), rq.Opcode(5), rq.RequestLength(), rq.Card16("device"), rq.Card8("affect_mod_locks"),
        rq.Card8("mod_locks"), rq.Bool("lock_group"), rq.Card8("group_lock"), rq.Card8("affect_mod_latches"),
        rq.Card8("mod_latches"), rq.Pad(1), rq.Bool("latch_group"), rq.Card16("group_latch"),
    )  # fmt: skip


class State(NamedTuple):
    """The modifiers that are locked, the group (layout), and the modifiers that hold for one key more."""

    locked: int = 0
    group: int = 0
    latched: int = 0


class Keyboard:
    """The locks of a display's keyboard: Caps Lock and its like, and the group (layout)."""

    def __init__(self, display: Any) -> None:
        self._display, self._opcode, self._event = display, 0, 0
        self._held: tuple[int, int] | None = None
        found = display.query_extension("XKEYBOARD")
        if found is not None and found.present:
            _UseExtension(display=display.display, opcode=found.major_opcode, wanted_major=1, wanted_minor=0)
            self._opcode, self._event = found.major_opcode, int(found.first_event)

    def watch(self) -> int:
        """Ask to be told of another keyboard map; return the number of the events that say so, 0 for none."""
        if self._opcode:
            _SelectEvents(
                display=self._display.display, opcode=self._opcode, device=_CORE_KEYBOARD, affect_which=_MAP_EVENTS,
                clear=0, select_all=_MAP_EVENTS, affect_map=0, map=0,
            )  # fmt: skip
        return self._event if self._opcode else 0

    def state(self) -> State:
        """Return what is locked and latched; nothing where the server cannot tell."""
        if not self._opcode:
            return State()
        found = _GetState(display=self._display.display, opcode=self._opcode, device=_CORE_KEYBOARD)
        return State(int(found.locked_mods), int(found.locked_group), int(found.latched_mods))

    def put(self, state: State) -> None:
        """Have exactly this locked and latched."""
        self._held = None
        if self._opcode:
            _LatchLockState(
                display=self._display.display, opcode=self._opcode, device=_CORE_KEYBOARD, affect_mod_locks=0xFF,
                mod_locks=state.locked, lock_group=1, group_lock=state.group & 3, affect_mod_latches=0xFF,
                mod_latches=state.latched, latch_group=0, group_latch=0,
            )  # fmt: skip

    def forget(self) -> None:
        """Take nothing for known: somebody else may have locked something meanwhile."""
        self._held = None

    def lock(self, modifiers: int, group: int) -> None:
        """Have the ``modifiers`` (bits of X.ModMask) and the ``group`` (0 to 3) locked, as they are elsewhere."""
        if not self._opcode or self._held == (modifiers, group):
            return
        self._held = (modifiers, group)
        _LatchLockState(
            display=self._display.display, opcode=self._opcode, device=_CORE_KEYBOARD, affect_mod_locks=LOCKS,
            mod_locks=modifiers & LOCKS, lock_group=1, group_lock=group & 3, affect_mod_latches=0, mod_latches=0,
            latch_group=0, group_latch=0,
        )  # fmt: skip


# Lock (Caps Lock) and Mod2 (Num Lock, on all usual maps).
LOCKS = 0x02 | 0x10
