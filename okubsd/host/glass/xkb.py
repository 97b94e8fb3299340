"""The two requests of the X keyboard extension that python-xlib lacks (XKBproto: UseExtension, LatchLockState)."""

from __future__ import annotations

from typing import Any

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


class _LatchLockState(rq.Request):  # type: ignore[misc]
    _request = rq.Struct(
        rq.Card8("opcode"), rq.Opcode(5), rq.RequestLength(), rq.Card16("device"), rq.Card8("affect_mod_locks"),
        rq.Card8("mod_locks"), rq.Bool("lock_group"), rq.Card8("group_lock"), rq.Card8("affect_mod_latches"),
        rq.Card8("mod_latches"), rq.Pad(1), rq.Bool("latch_group"), rq.Card16("group_latch"),
    )  # fmt: skip


class Keyboard:
    """The locks of a display's keyboard: Caps Lock and its like, and the group (layout)."""

    def __init__(self, display: Any) -> None:
        self._display, self._opcode = display, 0
        self._held: tuple[int, int] | None = None
        found = display.query_extension("XKEYBOARD")
        if found is not None and found.present:
            _UseExtension(display=display.display, opcode=found.major_opcode, wanted_major=1, wanted_minor=0)
            self._opcode = found.major_opcode

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
