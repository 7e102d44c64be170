"""Ontologies of tags: ordered categories, each with tags, patterns and words, read from TOML; they say in which order tags stand."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Final

from lorakit.dataset.desk.tags import plain_tag
from lorakit.errors import DatasetError, Problem

__all__ = ["Category", "Ontology", "load_ontology", "parse_ontology", "shipped"]

_KEYS: Final = ("tags", "patterns", "endings", "words")
_MAX_BYTES: Final = 5_000_000


@dataclass(frozen=True)
class Category:
    """One category of tags.

    ``tags``: whole tags; ``patterns``: regular expressions for whole tags; ``endings``: last words of a tag, which say what a
    thing is (brass floor *lamp*); ``words``: words anywhere in a tag.
    """

    name: str
    tags: frozenset[str] = frozenset()
    patterns: tuple[re.Pattern[str], ...] = ()
    endings: frozenset[str] = frozenset()
    words: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Ontology:
    """Categories in the order their tags are to stand in; ``fallback`` is the one of tags that fit none."""

    name: str
    description: str
    categories: tuple[Category, ...]
    fallback: str
    _known: dict[str, str] = field(default_factory=dict, compare=False, repr=False)

    def category(self, tag: str) -> str:
        """The name of a tag's category: by the whole tag, else by a pattern, else by its last words, else by any word.

        Of several endings the longest counts, of several categories the first.
        """
        plain = plain_tag(tag)
        if plain not in self._known:
            self._known[plain] = self._find(plain)
        return self._known[plain]

    def rank(self, tag: str) -> int:
        """The place of a tag's category, from 0."""
        return self._ranks[self.category(tag)]

    @cached_property
    def _ranks(self) -> Mapping[str, int]:
        return {category.name: at for at, category in enumerate(self.categories)}

    @cached_property
    def _by_tag(self) -> Mapping[str, str]:
        return {tag: category.name for category in self.categories for tag in category.tags}

    def _find(self, plain: str) -> str:
        if found := self._by_tag.get(plain):
            return found
        for category in self.categories:
            if any(pattern.fullmatch(plain) for pattern in category.patterns):
                return category.name
        words = plain.replace("-", " ").split()
        for start in range(len(words)):
            ending = " ".join(words[start:])
            for category in self.categories:
                if ending in category.endings or _singular(ending) in category.endings:
                    return category.name
        for category in self.categories:
            if any(word in category.words or _singular(word) in category.words for word in words):
                return category.name
        return self.fallback


def _singular(word: str) -> str:
    """Good enough to find "sofas" among the sofas."""
    if word.endswith("ies") and len(word) > 4:
        return f"{word[:-3]}y"
    if word.endswith(("ches", "shes", "sses", "xes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def shipped() -> tuple[str, ...]:
    """The names of the ontologies that come with lorakit."""
    return tuple(
        sorted(entry.name.removesuffix(".toml") for entry in _folder().iterdir() if entry.name.endswith(".toml"))
    )


def load_ontology(asked: str) -> Ontology:
    """An ontology by the name of one that is shipped, or by its file. Raises DatasetError with every problem in it."""
    if asked in shipped():
        return parse_ontology((_folder() / f"{asked}.toml").read_text(encoding="utf-8"), asked)
    path = Path(asked).expanduser()
    if not path.exists() and "/" not in asked and not asked.endswith(".toml"):
        raise DatasetError(f"there is no ontology {asked}", todo=f"one of {', '.join(shipped())}, or a TOML file")
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DatasetError(f"{path} is larger than {_MAX_BYTES // 1_000_000} MB: that is no ontology")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DatasetError(f"{path} cannot be read", why=error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not UTF-8 text", why=str(error)) from error
    return parse_ontology(text, path.stem, where=str(path))


def parse_ontology(text: str, name: str, *, where: str = "") -> Ontology:
    """An ontology of its TOML: name, description, fallback, and [[category]] with name, tags, patterns, endings, words."""
    where = where or name
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise DatasetError(f"{where} is not valid TOML", why=str(error), todo="mend it at the place named") from error
    problems = [
        Problem("is no key of an ontology", todo="name, description, fallback, [[category]]", key=key)
        for key in sorted(table.keys() - {"name", "description", "fallback", "category"})
    ]
    entries = table.get("category")
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        problems.append(Problem("is missing: at least one [[category]] is needed", key="category"))
        entries = []
    categories = [_category(entry, at, problems) for at, entry in enumerate(entries)]
    problems += _in_two_places(categories)
    names = [category.name for category in categories]
    problems += [Problem(f"{one!r} is there twice", key="category") for one in {n for n in names if names.count(n) > 1}]
    fallback = table.get("fallback", names[-1] if names else "")
    if names and fallback not in names:
        problems.append(Problem(f"{fallback!r} is no category", todo=f"one of {', '.join(names)}", key="fallback"))
    if problems:
        raise DatasetError(
            f"{where} has {len(problems)} problem{'' if len(problems) == 1 else 's'}",
            why="; ".join(f"{problem.key}: {problem.what}" for problem in problems[:8]),
            todo="docs/dataset-desk.md shows how an ontology is written",
            problems=tuple(problems),
        )
    return Ontology(str(table.get("name", name)), str(table.get("description", "")), tuple(categories), str(fallback))


def _in_two_places(categories: Iterable[Category]) -> Iterator[Problem]:
    homes: dict[str, str] = {}
    for category in categories:
        for tag in sorted(category.tags):
            if homes.setdefault(tag, category.name) != category.name:
                yield Problem(f"{tag!r} is in {homes[tag]} and in {category.name}", todo="one place each", key="tags")


def _category(entry: Mapping[str, Any], at: int, problems: list[Problem]) -> Category:
    key = f"category[{at}]"
    name = entry.get("name")
    if not isinstance(name, str) or not name.strip():
        problems.append(Problem("needs a name", key=key))
        name = key
    problems += [
        Problem("is no key of a category", todo="name, tags, patterns, endings, words", key=f"{name}.{unknown}")
        for unknown in sorted(entry.keys() - {"name", *_KEYS})
    ]
    lists: dict[str, list[str]] = {}
    for part in _KEYS:
        values = entry.get(part, [])
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            problems.append(Problem("takes a list of texts", key=f"{name}.{part}"))
            values = []
        lists[part] = values
    patterns = []
    for text in lists["patterns"]:
        try:
            patterns.append(re.compile(text, re.IGNORECASE))
        except re.error as error:
            problems.append(Problem(f"{text!r} is no regular expression: {error}", key=f"{name}.patterns"))
    whole = (frozenset(map(plain_tag, lists[part])) for part in ("tags", "endings", "words"))
    tags, endings, words = whole
    return Category(name, tags, tuple(patterns), endings, words)


def _folder() -> Any:
    return resources.files("lorakit.dataset.desk") / "ontologies"
