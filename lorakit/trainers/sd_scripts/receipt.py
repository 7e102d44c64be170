"""The receipt of an installation: what was done, when, from where; and whether it came to its end."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lorakit.atomic import write_json
from lorakit.errors import TrainerError

if TYPE_CHECKING:
    from lorakit.workspace import Workspace

__all__ = ["SCHEMA", "Receipt", "path_of", "read_receipt", "write_receipt"]

SCHEMA: Final = 1


@dataclass(frozen=True)
class Receipt:
    """What an installation did. ``complete`` is false from its first moment to its last; ``time`` is in unix seconds.

    ``how`` is install or adopt; ``changed`` are the tracked files of the checkout that differ from its commit; ``extras`` the packages on
    request, by their names in the pin; ``options`` is
    how many options its parser has.
    """

    how: str
    complete: bool
    time: float
    lorakit: str
    folder: str
    source: str = ""
    tag: str = ""
    commit: str = ""
    changed: tuple[str, ...] = ()
    python: str = ""
    python_version: str = ""
    installer: str = ""
    torch: str = ""
    packages: dict[str, str] = field(default_factory=dict)
    tokenizers: str = ""
    extras: tuple[str, ...] = ()
    options: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"schema": SCHEMA, **asdict(self), "changed": list(self.changed), "extras": list(self.extras)}


def path_of(workspace: Workspace) -> Path:
    """The receipt's file, beside the checkout."""
    return workspace.vendor / "sd-scripts.receipt.json"


def read_receipt(workspace: Workspace) -> Receipt | None:
    """The receipt, None where there is none. Raises TrainerError when it cannot be read."""
    path = path_of(workspace)
    try:
        value = json.loads(path.read_bytes())
        values = {name: item for name, item in value.items() if name != "schema"}
        tuples = {name: tuple(values.get(name, ())) for name in ("changed", "extras")}
        return Receipt(**{**values, **tuples})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise TrainerError(
            f"{path} cannot be read", why=str(error), todo="delete it and type: lorakit trainer install"
        ) from error


def write_receipt(workspace: Workspace, receipt: Receipt) -> None:
    """Write the receipt, whole or not at all."""
    path = path_of(workspace)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, receipt.to_json())
