"""lorakit: a lab notebook that runs your bakes."""

from __future__ import annotations

from lorakit._version import __version__

__all__ = ["__version__"]
