"""The words of OpenBSD's configuration files: vm.conf(5) and pf.conf(5) are cut up in the same way.

Source: yylex() and lgetc() in usr.sbin/vmd/parse.y and sbin/pfctl/parse.y of OpenBSD; what they take and refuse
was observed on the parsers themselves (tests/openbsd/corpus).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

_MACRO = re.compile(r"\$(\w+)")
_NUMBER = re.compile(r"-?\d+(?=[\s),/}=]|$)")
_STRING = re.compile(r"[A-Za-z0-9:_/][^\s(){}<>!=#,]*")
_ASSIGNMENT = re.compile(r"([A-Za-z_][\w-]*)[ \t]*=[ \t]*(?=[^=\s])")
_VALUE = re.compile(r"\"([^\"]*)\"|'([^']*)'|\$(\w+)|([^\s\"'$(){}<>!=#,]+)")
_ESCAPED = "\"' \t\n"


class Token(msgspec.Struct, frozen=True):
    """One word: its kind ("word" for a keyword, "string", "number", "newline", a mark or "end"), text and line.

    ``expanded`` says that it came out of a macro.
    """

    kind: str
    text: str
    line: int
    expanded: bool = False


class ConfError(Exception):
    """A file that OpenBSD refuses: ``line`` of it, and the parser's own words."""

    def __init__(self, line: int, sentence: str) -> None:
        super().__init__(f"{line}: {sentence}")
        self.line = line
        self.sentence = sentence


class Lexer:
    """Cut ``text`` into tokens; ``macros`` are those given on the command line (-D), which win."""

    def __init__(self, text: str, keywords: frozenset[str], macros: Mapping[str, str] | None = None) -> None:
        self.keywords = keywords
        self.text = text.replace("\\\n", "\0")
        self.given = frozenset(macros or {})
        self.macros = dict(macros or {})
        self.at = 0
        self.line = 1
        self.expanded_to = 0

    def tokens(self) -> list[Token]:
        """Return every token, the last one of kind "end".  Raises ConfError."""
        found: list[Token] = []
        while True:
            if not found or found[-1].kind == "newline":
                self._skip_blank()
                if self._take_assignment():
                    continue
            token = self._next()
            found.append(token)
            if token.kind == "end":
                return found

    def _skip_blank(self) -> None:
        while self.at < len(self.text) and self.text[self.at] in " \t\0":
            self.line += self.text[self.at] == "\0"
            self.at += 1

    def _take_assignment(self) -> bool:
        """Take `name = value` at the start of a line; return whether there was one."""
        match = _ASSIGNMENT.match(self.text, self.at)
        if match is None or match[1] in self.keywords:
            return False
        self.at = match.end()
        values = []
        while part := _VALUE.match(self.text, self.at):
            self.at = part.end()
            values.append(
                self._defined(part[3]) if part[3] else next(text for text in part.groups() if text is not None)
            )
            self._skip_blank()
        if not values:
            raise ConfError(self.line, "syntax error")
        if match[1] not in self.given:
            self.macros[match[1]] = " ".join(values)
        return True

    def _defined(self, macro: str) -> str:
        if macro not in self.macros:
            raise ConfError(self.line, f"macro '{macro}' not defined")
        return self.macros[macro]

    def _next(self) -> Token:
        self._skip_blank()
        if self.at < len(self.text) and self.text[self.at] == "#":
            self.at = (self.text + "\n").find("\n", self.at)
        if self.at >= len(self.text):
            return Token("end", "", self.line)
        letter = self.text[self.at]
        if letter == "\n":
            self.at += 1
            self.line += 1
            return Token("newline", "", self.line - 1)
        if letter in "\"'":
            expanded = self.at < self.expanded_to
            return Token("string", self._quoted(letter), self.line, expanded)
        if letter == "$":
            return self._macro()
        return self._word(letter)

    def _macro(self) -> Token:
        match = _MACRO.match(self.text, self.at)
        if match is None:
            raise ConfError(self.line, "syntax error")
        value = self._defined(match[1])
        # The parser reads the macro's text as if it stood here.
        self.text = self.text[: self.at] + value + self.text[match.end() :]
        self.expanded_to = self.at + len(value)
        return self._next()

    def _quoted(self, quote: str) -> str:
        """Return a quoted string; a raw newline inside is swallowed."""
        text = ""
        self.at += 1
        while self.at < len(self.text):
            letter = self.text[self.at]
            self.at += 1
            if letter == quote:
                return text
            if letter == "\\" and self.text[self.at : self.at + 1] in {quote, *_ESCAPED[2:]}:
                text += self.text[self.at]
                self.at += 1
            elif letter in "\n\0":
                self.line += 1
            else:
                text += letter
        raise ConfError(self.line, "syntax error")

    def _word(self, letter: str) -> Token:
        match = _NUMBER.match(self.text, self.at)
        if match is not None:
            self.at = match.end()
            return Token("number", match[0], self.line)
        match = _STRING.match(self.text, self.at)
        if match is None:
            self.at += 1
            return Token(letter, letter, self.line)
        expanded = self.at < self.expanded_to
        self.at = match.end()
        return Token("word" if match[0] in self.keywords else "string", match[0], self.line, expanded)


class Cursor:
    """Tokens read one after the other: what the parsers of both grammars stand on."""

    def __init__(self, lexer: Lexer) -> None:
        self.tokens = lexer.tokens()
        self.at = 0

    @property
    def next(self) -> Token:
        """Return the token that comes next; the last one, "end", comes again and again."""
        return self.tokens[self.at]

    def take(self) -> Token:
        """Return the next token and go past it."""
        token = self.tokens[self.at]
        self.at = min(self.at + 1, len(self.tokens) - 1)
        return token

    def fail(self, sentence: str = "syntax error", line: int = 0) -> ConfError:
        """Return the error of ``line``, or of the next token's."""
        return ConfError(line or self.next.line, sentence)

    def mark(self, kind: str) -> Token:
        """Return the next token, which has to be of ``kind``.  Raises ConfError."""
        if self.next.kind != kind:
            raise self.fail()
        return self.take()

    def accept_mark(self, kind: str) -> bool:
        """Go past the next token if it is of ``kind``; return whether it was."""
        return self.next.kind == kind and bool(self.take())

    def number(self) -> int:
        """Return a number.  Raises ConfError."""
        return int(self.mark("number").text)

    def skip_newlines(self) -> None:
        """Go past empty lines."""
        while self.next.kind == "newline":
            self.take()
