"""The real sd-scripts that the environment names, and the marks of tests that need one.

LORAKIT_SD_SCRIPTS is a checkout of sd-scripts; without it these tests are skipped. LORAKIT_SD_SCRIPTS_PYTHON is the interpreter
of its environment (if not given: ``.venv`` in the checkout), LORAKIT_SD_SCRIPTS_SCRIPT what is run in place of ``fit_widths.py``.
LORAKIT_FULL_SIZE is an SDXL checkpoint of the full size; without it the one test of that size writes its own, of random weights.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

import pytest

from lorakit.workspace import Workspace

__all__ = ["CHECKOUT", "FULL_SIZE", "PYTHON", "SCRIPT", "asked", "commit", "needs_checkout", "workspace"]

CHECKOUT: Final = os.environ.get("LORAKIT_SD_SCRIPTS", "")
PYTHON: Final = os.environ.get("LORAKIT_SD_SCRIPTS_PYTHON", str(Path(CHECKOUT) / ".venv" / "bin" / "python"))
SCRIPT: Final = os.environ.get("LORAKIT_SD_SCRIPTS_SCRIPT", str(Path(__file__).with_name("fit_widths.py")))

FULL_SIZE: Final = os.environ.get("LORAKIT_FULL_SIZE", "")

#: Marks of a test that runs the real sd-scripts.
needs_checkout: Final = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not CHECKOUT, reason="LORAKIT_SD_SCRIPTS names no checkout of sd-scripts"),
]


def asked() -> dict[str, str]:
    """The variables, all given, for programs that run in the environment of sd-scripts. Raises SystemExit without a checkout."""
    if not CHECKOUT:
        raise SystemExit("LORAKIT_SD_SCRIPTS names no checkout of sd-scripts")
    return {
        "LORAKIT_SD_SCRIPTS": CHECKOUT,
        "LORAKIT_SD_SCRIPTS_PYTHON": PYTHON,
        "LORAKIT_SD_SCRIPTS_SCRIPT": SCRIPT,
    }


def commit() -> str:
    """The checkout's commit."""
    head = ["git", "-C", asked()["LORAKIT_SD_SCRIPTS"], "rev-parse", "HEAD"]
    return subprocess.run(head, capture_output=True, text=True, check=True).stdout.strip()


def workspace(root: Path) -> Workspace:
    """A workspace whose sd-scripts is the checkout."""
    return Workspace(root, {"sd_scripts": {"path": CHECKOUT, "python": PYTHON, "script": SCRIPT}})
