"""The presets that ship, and fixed paths to render them with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lorakit.preset.files import load_preset
from lorakit.trainers.render import RenderPaths

if TYPE_CHECKING:
    from lorakit.preset.models import Preset

__all__ = ["NAMES", "PATHS", "PRESETS", "REPO", "shipped"]

REPO = Path(__file__).parents[2]
PRESETS = REPO / "presets"
NAMES = sorted(path.stem for path in PRESETS.glob("*.toml"))
PATHS = RenderPaths(
    root=Path("/workspace"),
    output_dir=Path("/workspace/runs/RUN/weights"),
    logging_dir=Path("/workspace/runs/RUN/attempts/01/events"),
    run_id="k3f9",
)


def shipped(name: str, *overrides: str) -> Preset:
    """A preset that ships, with a fixed seed where it has none."""
    preset = load_preset(PRESETS / f"{name}.toml", overrides).preset
    return preset if preset.seed is not None else preset.model_copy(update={"seed": 1})
