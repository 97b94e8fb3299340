"""The keys over a VM's windows that are okubsd's: on the desktop they are had before the guest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from Xlib import XK, X

from okubsd.config.chords import Chord, keysym_of, parse_chord, usual_code
from okubsd.host.xkb import LOCKS
from okubsd.model import Keys

if TYPE_CHECKING:
    from okubsd.host.glass.pane import Pane

# The modifiers that do not matter for a key of ours: Caps Lock and Num Lock in every mixture.
_LOCK_MIXTURES = (0, X.LockMask, X.Mod2Mask, X.LockMask | X.Mod2Mask)
# Where the modifiers are on the keyboards of PCs (X protocol, 10: SETofKEYMASK).
_MASKS = {"Control_L": X.ControlMask, "Shift_L": X.ShiftMask, "Alt_L": X.Mod1Mask, "Super_L": X.Mod4Mask}


class Grabs:
    """What each of our keys means, on the keyboard as it is now."""

    def __init__(self, display: Any, keys: Keys) -> None:
        self._words: dict[tuple[int, int], str] = {}
        for word, text in (("copy", keys.take), ("paste", keys.give), ("fill", keys.fill)):
            chord = parse_chord(text)
            # A map without Latin letters has the key all the same.
            code = display.keysym_to_keycode(_keysym(chord)) or usual_code(chord.key.lower())
            if code:
                self._words[code, sum(_MASKS[name] for name in set(chord.held))] = word

    def word(self, code: int, state: int) -> str:
        """Return what the key ``code`` means with the modifiers of ``state``, "" where it is the guest's."""
        return self._words.get((code, state & 0xFF & ~LOCKS), "")

    def grab(self, pane: Pane) -> None:
        """Have the keys over a window."""
        if pane.menu:
            return
        pane.top.ungrab_key(X.AnyKey, X.AnyModifier)
        for code, modifiers in self._words:
            for locks in _LOCK_MIXTURES:
                pane.top.grab_key(code, modifiers | locks, False, X.GrabModeAsync, X.GrabModeAsync)


def _keysym(chord: Chord) -> int:
    name = chord.key.lower() if len(chord.key) == 1 else chord.key
    return XK.string_to_keysym(name) or (keysym_of(name) if len(name) == 1 else 0)
