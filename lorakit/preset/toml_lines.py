"""Where each key of a TOML text stands: parsers give values without lines, and a message without a line sends people searching."""

from __future__ import annotations

import bisect
import functools
import re
import tomllib
from dataclasses import dataclass, field

__all__ = ["KeyPath", "dotted", "key_lines", "parse_key"]

#: The parts of a dotted key: ``("optim", "unet_lr")``.
KeyPath = tuple[str, ...]

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_BASIC = re.compile(r'"(?:[^"\\\n]|\\.)*"')
_LITERAL = re.compile(r"'[^'\n]*'")
_MULTI_BASIC = re.compile(r'"""(?:[^\\]|\\.)*?"""(?:"{0,2})', re.DOTALL)
_MULTI_LITERAL = re.compile(r"'''.*?'''(?:'{0,2})", re.DOTALL)
_BLANK = re.compile(r"(?:[ \t\r\n,]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_SCALAR = re.compile(r"[^,\]}#\n]*")


def key_lines(text: str) -> dict[KeyPath, int]:
    """The line (from 1) on which each key and table of a valid TOML text first stands.

    Tables inside arrays have no key path of their own and are left out. Raises ValueError for invalid TOML,
    RecursionError for arrays nested too deeply.
    """
    return _Scanner(text).scan()


def parse_key(text: str) -> KeyPath | None:
    """A dotted key with bare and quoted parts (``optim.args."a b"``), or None when it is not one."""
    scanner = _Scanner(text.strip())
    try:
        path = scanner.key()
    except ValueError:
        return None
    return path if scanner.at == len(scanner.text) else None


@functools.lru_cache(maxsize=4096)
def dotted(path: KeyPath) -> str:
    """The key path as TOML writes it, quoted where needed."""
    return ".".join(part if _BARE.fullmatch(part) else _quoted(part) for part in path)


def _quoted(part: str) -> str:
    escapes = {'"': '\\"', "\\": "\\\\"}
    return '"' + "".join(escapes.get(c) or (c if c.isprintable() else f"\\U{ord(c):08x}") for c in part) + '"'


@dataclass
class _Scanner:
    text: str
    at: int = 0
    lines: dict[KeyPath, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._breaks = [match.start() for match in re.finditer("\n", self.text)]

    def scan(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        while self._skip(_BLANK) < len(self.text):
            if self._next("["):
                brackets = 2 if self.text.startswith("[[", self.at) else 1
                self.at += brackets
                table = self.key()
                self.at += brackets
            else:
                self._pair(table)
        return self.lines

    def key(self, prefix: KeyPath = ()) -> KeyPath:
        """Read a dotted key, note its line under ``prefix``, and return the whole path."""
        path = prefix
        while True:
            self._skip(_SPACE)
            path = (*path, self._part())
            self.lines.setdefault(path, bisect.bisect_left(self._breaks, self.at) + 1)
            self._skip(_SPACE)
            if not self._next("."):
                return path
            self.at += 1

    def _part(self) -> str:
        start = self.at
        if self._next('"'):
            self._take(_BASIC)
            return str(tomllib.loads(f"part = {self.text[start : self.at]}")["part"])
        if self._next("'"):
            self._take(_LITERAL)
            return self.text[start + 1 : self.at - 1]
        self._take(_BARE)
        return self.text[start : self.at]

    def _pair(self, prefix: KeyPath) -> None:
        path = self.key(prefix)
        if not self._next("="):
            raise ValueError(f"no = after a key at character {self.at}")
        self.at += 1
        self._value(path)

    def _value(self, path: KeyPath | None) -> None:
        self._skip(_SPACE)
        if self._next('"""'):
            self._take(_MULTI_BASIC)
        elif self._next("'''"):
            self._take(_MULTI_LITERAL)
        elif self._next('"'):
            self._take(_BASIC)
        elif self._next("'"):
            self._take(_LITERAL)
        elif self._next("["):
            self._members("]", None)
        elif self._next("{"):
            self._members("}", path)
        else:
            self._take(_SCALAR)

    def _members(self, closing: str, path: KeyPath | None) -> None:
        self.at += 1
        while self._skip(_BLANK) < len(self.text) and not self._next(closing):
            if closing == "]":
                self._value(None)
            elif path is None:  # a table inside an array: its keys are read, and not noted
                noted, self.lines = self.lines, {}
                self._pair(())
                self.lines = noted
            else:
                self._pair(path)
        self.at += 1

    def _next(self, token: str) -> bool:
        return self.text.startswith(token, self.at)

    def _skip(self, pattern: re.Pattern[str]) -> int:
        match = pattern.match(self.text, self.at)
        self.at = match.end() if match else self.at
        return self.at

    def _take(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self.text, self.at)
        if match is None or match.end() == self.at:
            raise ValueError(f"not TOML at character {self.at}")
        self.at = match.end()
