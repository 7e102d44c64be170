"""The pin: which sd-scripts is installed, and into what environment (vendor/sd-scripts.toml)."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lorakit.errors import TrainerError

if TYPE_CHECKING:
    from lorakit.workspace import Workspace

__all__ = ["NAME", "Pin", "read_pin", "version_of"]

#: The pin's name in vendor/.
NAME: Final = "sd-scripts.toml"


@dataclass(frozen=True)
class Pin:
    """One version of sd-scripts and what it needs.

    ``equal`` are commits that train the same; ``folders`` what is checked out beside the files at the top; ``index`` is a
    URL with ``{variant}`` in it; ``extras`` are packages on request, by name; Python versions are (major, minor).
    """

    repository: str
    tag: str
    commit: str
    equal: tuple[str, ...]
    folders: tuple[str, ...]
    prefer: tuple[int, int]
    at_least: tuple[int, int]
    below: tuple[int, int]
    torch: tuple[str, ...]
    index: str
    packages: tuple[str, ...]
    extras: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def means(self, commit: str) -> bool:
        """Whether a commit is the pinned one or trains the same."""
        return commit in (self.commit, *self.equal)


def read_pin(workspace: Workspace) -> Pin:
    """The workspace's pin, or the one that ships with lorakit where it has none. Raises TrainerError when it cannot be read."""
    own = workspace.vendor / NAME
    path = own if own.is_file() else _shipped()
    try:
        return _pin(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise _broken(path, str(error)) from error
    except KeyError as error:
        raise _broken(path, f"{error.args[0]} is missing") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise _broken(path, str(error)) from error


def _shipped() -> Path:
    # A wheel carries the file inside the package; a checkout has it beside it.
    package = Path(__file__).resolve().parents[2]
    inside = package / "shipped" / "vendor" / NAME
    return inside if inside.is_file() else package.parent / "vendor" / NAME


def _broken(path: Path, why: str) -> TrainerError:
    return TrainerError(
        f"{path} cannot be read",
        why=why,
        todo="mend the file; where there is none, lorakit init writes the one that ships",
    )


def _pin(table: dict[str, Any]) -> Pin:
    commits = [table["commit"], *table.get("equal", [])]
    for commit in commits:
        if not re.fullmatch(r"[0-9a-f]{40}", commit):
            raise ValueError(f"{commit!r} is no whole commit: it has 40 digits from 0 to f")
    python, torch, environment = table["python"], table["torch"], table["environment"]
    return Pin(
        repository=_text(table["repository"]),
        tag=_text(table["tag"]),
        commit=commits[0],
        equal=tuple(commits[1:]),
        folders=_texts(table["folders"]),
        prefer=version_of(python["prefer"]),
        at_least=version_of(python["at_least"]),
        below=version_of(python["below"]),
        torch=_texts(torch["packages"]),
        index=_text(torch["index"]),
        packages=(*_texts(environment["packages"]), *_texts(environment.get("some_platforms", []))),
        extras={name: _texts(packages) for name, packages in table.get("with", {}).items()},
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _texts(values: object) -> tuple[str, ...]:
    if not isinstance(values, list):
        raise TypeError(f"{values!r} is no list")
    return tuple(_text(value) for value in values)


def version_of(text: str) -> tuple[int, int]:
    """Major and minor of a version such as 3.11 or 3.11.7. Raises ValueError for anything else."""
    match = re.match(r"(\d+)\.(\d+)", text)
    if match is None:
        raise ValueError(f"{text!r} is no version such as 3.11")
    return int(match[1]), int(match[2])
