"""The script that draws a page's plots, as the PyPI package `plotly` carries it; the package itself is never imported."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path

from lorakit.errors import UsageError

__all__ = ["find", "require", "script"]


def find() -> Path | None:
    """Where the script is; None when the package is not installed."""
    try:
        spec = importlib.util.find_spec("plotly")
    except (ImportError, ValueError):
        return None
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(folder) / "package_data" / "plotly.min.js"
        if path.is_file():
            return path
    return None


def require() -> Path:
    """Where the script is. Raises UsageError that says what to install."""
    path = find()
    if path is None:
        raise UsageError(
            "pages need the package plotly, which is not installed",
            why="it carries the script that draws the plots; pages hold it, so that they need no network",
            todo='pip install "lorakit[pages]"',
        )
    return path


@lru_cache(maxsize=1)
def script() -> bytes:
    """The script (some 5 MB). Raises UsageError when it is not installed."""
    return require().read_bytes()
