"""lorakit: a lab notebook that runs your bakes."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from lorakit._version import __version__

if TYPE_CHECKING:
    from lorakit.api import bake, list_runs, load_preset, open_run, plan, render
else:  # a type checker that saw this would believe in any name

    def __getattr__(name: str) -> Any:
        # Nothing heavy is loaded until it is asked for: `lorakit ls` needs no pydantic.
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if name in _ROOMS:
            return importlib.import_module(f"{__name__}.{name}")
        return getattr(importlib.import_module("lorakit.api"), name)


__all__ = ["__version__", "bake", "list_runs", "load_preset", "open_run", "plan", "render"]


def __dir__() -> list[str]:
    return sorted(__all__)


#: Rooms that share their name with what they do: ``lorakit.plan(…)`` and ``from lorakit.plan import Plan`` both work.
_ROOMS = ("bake", "plan")


class _Room(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        api = importlib.import_module("lorakit.api")
        return getattr(api, self.__name__.rpartition(".")[2])(*args, **kwargs)


class _Package(ModuleType):
    # Python binds every imported room as an attribute here, which would hide the function of the same name.
    def __setattr__(self, name: str, value: Any) -> None:
        if name in _ROOMS and isinstance(value, ModuleType):
            value.__class__ = _Room
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
