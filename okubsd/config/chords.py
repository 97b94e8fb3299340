"""Keys by their names, as people write them: Ctrl+L, Alt+F4, Return, ö."""

from __future__ import annotations

import msgspec

# The words for modifiers, and the keysym of each (keysymdef.h).
MODIFIERS = {"ctrl": "Control_L", "control": "Control_L", "shift": "Shift_L", "alt": "Alt_L", "super": "Super_L"}

# Names that keysymdef.h has otherwise.
_OTHERWISE = {
    "enter": "Return", "esc": "Escape", "del": "Delete", "backspace": "BackSpace", "pageup": "Prior",
    "pagedown": "Next", "space": "space", "tab": "Tab", "plus": "plus", "ins": "Insert",
}  # fmt: skip


# The keys of a PC's keyboard that have names (keysymdef.h), beside F1 to F24.
_NAMED = frozenset({
    *("Return", "Escape", "Tab", "BackSpace", "Delete", "Insert", "Home", "End", "Prior", "Next", "Up", "Down"),
    *("Left", "Right", "space", "plus", "minus", "equal", "comma", "period", "slash", "backslash", "semicolon"),
    *("apostrophe", "grave", "bracketleft", "bracketright", "less", "Print", "Pause", "Menu", "Scroll_Lock"),
    *("KP_Enter", "KP_Add", "KP_Subtract", "KP_Multiply", "KP_Divide"),
})  # fmt: skip
# Where Latin letters are on the keyboards of PCs, row by row, by the numbers of keys (xkeyboard-config, evdev): what a
# key of ours is where the user's map has no such letter.
_ROWS = {24: "qwertyuiop", 38: "asdfghjkl", 52: "zxcvbnm"}


class Chord(msgspec.Struct, frozen=True):
    """A key by the name of its keysym, and the keysyms of the modifiers that are held down with it."""

    key: str
    held: tuple[str, ...] = ()


def parse_chord(text: str) -> Chord:
    """Return the chord that ``text`` names.  Raises ValueError for a modifier that there is none of, or no key."""
    *held, key = text.split("+") if text != "+" and not text.endswith("++") else [*text[:-2].split("+"), "plus"]
    if not key:
        raise ValueError(f"'{text}' names no key")
    unknown = [word for word in held if word and word.lower() not in MODIFIERS]
    if unknown:
        raise ValueError(f"there is no modifier '{unknown[0]}', there are {', '.join(MODIFIERS)}")
    return Chord(_OTHERWISE.get(key.lower(), key), tuple(MODIFIERS[word.lower()] for word in held if word))


def is_key(name: str) -> bool:
    """Return whether a keyboard has a key of that name, which is no modifier: a letter, a digit, F1, Return."""
    is_function = name[:1] in "Ff" and name[1:].isdigit() and 1 <= int(name[1:]) <= 24
    return (len(name) == 1 and name.isalnum()) or is_function or name in _NAMED


def usual_code(letter: str) -> int:
    """Return the number of the key that has a Latin ``letter`` on most keyboards, 0 for what is none."""
    found = (first + row.index(letter) for first, row in _ROWS.items() if letter in row)
    return next(found, 0) if len(letter) == 1 else 0


def keysym_of(letter: str) -> int:
    """Return the keysym of a letter (X protocol, appendix A: Latin-1 is itself, others are 0x1000000 and more)."""
    if letter == "\n":
        return 0xFF0D
    if letter == "\t":
        return 0xFF09
    code = ord(letter)
    return code if 0x20 <= code <= 0x7E or 0xA0 <= code <= 0xFF else 0x1000000 + code
