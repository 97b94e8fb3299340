"""An entry of a menu for one app of one VM, and the same for window managers without such menus.

The command is ours: `okubsd start VM APP`.  Source: Desktop Entry Specification 1.5, "The Exec key".
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import msgspec

from okubsd.model import Argv

PREFIX = "okubsd-"
MADE = "# Made by `okubsd menu sync`, which changes and removes it."
# What has to be quoted in a word of Exec, and what has to be escaped within quotes.
_SPECIAL = re.compile(r"[^A-Za-z0-9_./:=+,@%-]")
_ESCAPED = re.compile(r'["`$\\]')


def stem_of(vm: str, app: str) -> str:
    """Return what the files of an entry are called: no two are called alike, whatever hyphens are in the two names."""
    return f"{PREFIX}{vm}{'--' if '-' in vm + app else '-'}{app}"


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One app of one VM: what it is called, by which command it starts, and where its picture lies."""

    vm: str
    app: str
    name: str
    comment: str
    command: Argv
    icon: Path | None = None
    categories: tuple[str, ...] = ()
    copies: bool = True

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"{stem_of(self.vm, self.app)}.desktop"

    @property
    def title(self) -> str:
        """What a menu shows: the program first, so that menus sort by it, and whose it is."""
        return f"{self.name} ({self.vm})"

    def start(self, *options: str) -> Argv:
        """Return the command that starts it."""
        return (*self.command, "start", *options, self.vm, self.app)


def render_entry(entry: Entry) -> str:
    """Return the desktop file of ``entry``."""
    lines = [
        "[Desktop Entry]", MADE, "Type=Application", f"Name={_value(entry.title)}", f"Comment={_value(entry.comment)}",
        f"Exec={render_exec(entry.start())}", *([f"Icon={_value(str(entry.icon))}"] if entry.icon else []),
        "Terminal=false", f"Categories={''.join(f'{word};' for word in entry.categories or ('Utility',))}",
        # What its windows have for WM_CLASS, so that task bars know them.
        f"StartupWMClass={PREFIX}{entry.vm}", f"X-Okubsd-VM={entry.vm}", f"X-Okubsd-App={entry.app}",
    ]  # fmt: skip
    if entry.copies:
        lines += ["Actions=copy;", "", "[Desktop Action copy]", "Name=In a copy of which nothing is left",
                  f"Exec={render_exec(entry.start('--disposable'))}"]  # fmt: skip
    return "\n".join(lines) + "\n"


# What hands addresses and files to `okubsd open`, and what it can be chosen for (shared-mime-info; RFC 6838).
OPENER = f"{PREFIX}open.desktop"
_OPENED = (
    *("x-scheme-handler/http", "x-scheme-handler/https", "text/html", "text/plain", "application/pdf"),
    *("image/png", "image/jpeg", "image/gif", "image/webp", "image/tiff", "audio/mpeg", "audio/ogg", "video/mp4"),
    *("video/webm", "video/x-matroska", "application/msword", "application/rtf", "application/epub+zip"),
    *(f"application/vnd.oasis.opendocument.{kind}" for kind in ("text", "spreadsheet", "presentation")),
    *(
        f"application/vnd.openxmlformats-officedocument.{kind}"
        for kind in ("wordprocessingml.document", "spreadsheetml.sheet", "presentationml.presentation")
    ),
)


def render_opener(command: Argv) -> str:
    """Return the desktop file of what opens addresses and files; the desktop asks for it where the user chose it."""
    lines = [
        "[Desktop Entry]", MADE, "Type=Application", "Name=Open in a VM",
        "Comment=In the VM that open.rules names", f"Exec={render_exec((*command, 'open'))} %u", "Terminal=false",
        "NoDisplay=true", f"MimeType={''.join(f'{kind};' for kind in _OPENED)}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _value(text: str) -> str:
    """Return ``text`` as the value of a key, where a backslash begins an escape."""
    return text.replace("\\", "\\\\").replace("\n", " ")


def render_exec(words: Argv) -> str:
    """Return a command as the Exec key has it: quoted, and then escaped as any value is."""
    return _value(" ".join(_quoted(word) for word in words))


def _quoted(word: str) -> str:
    word = word.replace("%", "%%")
    if word and not _SPECIAL.search(word):
        return word
    return '"' + _ESCAPED.sub(lambda match: "\\" + match[0], word) + '"'


def render_cwm(entries: list[Entry]) -> str:
    """Return the lines of a cwmrc(5): commands of its application menu; what cannot be quoted there is left out."""
    rows = ((_bare(entry.title), shlex.join(entry.start())) for entry in entries)
    return "".join(f'command "{title}" "{command}"\n' for title, command in rows if command == _bare(command))


def render_fvwm(entries: list[Entry]) -> str:
    """Return a menu of fvwm's: `Read` it, and pop up the menu Okubsd."""
    rows = (f'+ "{_bare(entry.title)}" Exec exec {_unexpanded(entry.start())}\n' for entry in entries)
    return "DestroyMenu Okubsd\nAddToMenu Okubsd okubsd Title\n" + "".join(rows)


def render_list(entries: list[Entry]) -> str:
    """Return a line a program for dmenu(1) or rofi(1): VM and app, as `okubsd start` takes them."""
    return "".join(f"{entry.vm} {entry.app}\n" for entry in entries)


def _bare(text: str) -> str:
    """Return ``text`` without what would end a quoted word, or means something else to a window manager."""
    return re.sub(r'["\\&%*$^@]', "", text)


def _unexpanded(words: Argv) -> str:
    """Return a command in which fvwm expands nothing."""
    return shlex.join(words).replace("$", "$$")
