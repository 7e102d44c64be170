"""Command lines as words: bash, PowerShell and cmd, each with its own quotes, continuations and comments. Nothing is run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

__all__ = ["Shell", "Word", "shell_of", "split"]

Shell = Literal["bash", "powershell", "cmd"]


@dataclass(frozen=True)
class Word:
    """One word of a command and the line (from 1) it begins on; ``end`` marks the end of a command. ``bare``: not quoted."""

    text: str
    line: int
    end: bool = False
    bare: bool = True


@dataclass(frozen=True)
class _Rules:
    escape: str  # the letter that takes the meaning off the next one, and continues a line at its end
    quotes: str
    comments: tuple[str, ...]  # what begins a comment where a word could begin
    ends: str  # letters that end a command


_RULES: Final[dict[Shell, _Rules]] = {
    "bash": _Rules("\\", "'\"", ("#",), ";&|"),
    "powershell": _Rules("`", "'\"", ("#",), ";|"),
    "cmd": _Rules("^", '"', ("::",), "&|"),
}

#: A single quote of PowerShell and of bash takes everything as it stands.
_LITERAL: Final = "'"


def shell_of(text: str) -> Shell:
    """The shell that a command was most likely written for, told from its continuations, comments and paths."""
    if re.search(r"`[ \t]*\r?\n", text):
        return "powershell"
    if re.search(r"\^[ \t]*\r?\n", text) or re.search(r"(?im)^\s*(@echo|rem\b|::)", text):
        return "cmd"
    if re.search(r"\\[ \t]*\r?\n", text):
        return "bash"
    if re.search(r"(?m)<#|^\s*\$[A-Za-z_]\w*\s*=|\$env:", text):
        return "powershell"
    # In bash an unquoted C:\models would lose its backslashes: whoever wrote it was not in bash.
    if re.search(r"(?:^|[\s=])[A-Za-z]:\\", text) or re.search(r"(?:^|\s)\.\\", text):
        return "powershell" if _LITERAL in text else "cmd"
    return "bash"


def split(text: str, shell: Shell) -> list[Word]:
    """The words of a text, with an end mark after each command. Never fails: a quote that is not closed reaches to the end."""
    return _Splitter(text, shell).words()


class _Splitter:
    def __init__(self, text: str, shell: Shell) -> None:
        self.text = text
        self.shell, self.rules = shell, _RULES[shell]
        self.at, self.line = 0, 1
        self.found: list[Word] = []
        self.word: list[str] | None = None
        self.bare, self.start = True, 1

    def words(self) -> list[Word]:
        while self.at < len(self.text):
            self._step(self.text[self.at])
        self._close(end=True)
        return self.found

    def _step(self, letter: str) -> None:
        rules = self.rules
        if letter == "\n":
            self._close(end=True)
            self._skip(1)
        elif letter in " \t\r":
            self._close()
            self._skip(1)
        elif self.word is None and (comment := self._comment()):
            self._skip(comment)
        elif letter == rules.escape and (rest := re.compile(r"[ \t\r]*(\n|\Z)").match(self.text, self.at + 1)):
            # Space after the letter keeps the shell from continuing the line; what was meant is plain nonetheless.
            self._close()
            self._skip(rest.end() - self.at)
        elif letter == rules.escape and self.at + 1 < len(self.text):
            self._add(self.text[self.at + 1])
            self._skip(2)
        elif letter in rules.quotes:
            self._quoted(letter)
        elif letter in rules.ends:
            self._close(end=True)
            self._skip(1)
        else:
            self._add(letter)
            self._skip(1)

    def _comment(self) -> int:
        """How many letters of a comment begin here."""
        rest = self.text[self.at :][:4]
        if self.shell == "powershell" and rest.startswith("<#"):
            end = self.text.find("#>", self.at)
            return (len(self.text) if end < 0 else end + 2) - self.at
        first = not self.found or self.found[-1].end
        remark = self.shell == "cmd" and first and re.match(r"(?i)rem(\s|$)", rest)
        if remark or rest.startswith(self.rules.comments):
            end = self.text.find("\n", self.at)
            return (len(self.text) if end < 0 else end) - self.at
        return 0

    def _quoted(self, quote: str) -> None:
        self._add("", bare=False)
        self._skip(1)
        escape = "" if quote == _LITERAL or self.shell == "cmd" else self.rules.escape
        while self.at < len(self.text):
            letter = self.text[self.at]
            following = self.text[self.at + 1 : self.at + 2]
            if letter == quote and following == quote and self.shell != "bash":
                self._add(quote)  # a doubled quote is one
                self._skip(2)
            elif letter == quote:
                self._skip(1)
                return
            elif escape and letter == escape and following and (self.shell != "bash" or following in '"\\$`\n'):
                self._add("" if following == "\n" else following)
                self._skip(2)
            else:
                self._add(letter)
                self._skip(1)

    def _add(self, letters: str, *, bare: bool = True) -> None:
        if self.word is None:
            self.word, self.bare, self.start = [], True, self.line
        self.word.append(letters)
        self.bare = self.bare and bare

    def _skip(self, count: int) -> None:
        self.line += self.text.count("\n", self.at, self.at + count)
        self.at += count

    def _close(self, *, end: bool = False) -> None:
        if self.word is not None:
            self.found.append(Word("".join(self.word), self.start, bare=self.bare))
            self.word = None
        if end and self.found and not self.found[-1].end:
            self.found.append(Word("", self.line, end=True))
