"""Sources, loras and grids for tests, without files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lorakit.sheet.axes import parse_axis
from lorakit.sheet.cells import Lora, Model
from lorakit.sheet.layout import Grid, Wish, lay_out
from lorakit.sheet.prompts import Prompt
from lorakit.sheet.sources import Checkpoint, Source

MODEL = Model(Path("models/bench, small.safetensors"), "b" * 64)


def source(
    name: str = "zorp", epochs: tuple[int, ...] = (1, 2, 3), *, torn: tuple[tuple[str, str], ...] = ()
) -> Source:
    files = [
        Checkpoint(Path(f"{name}-{epoch:06d}.safetensors"), epoch=epoch, last=epoch == epochs[-1]) for epoch in epochs
    ]
    return Source(name, tuple(files), torn=torn)


def lora_of(checkpoint: Checkpoint) -> Lora:
    stem = checkpoint.path.stem
    return Lora(checkpoint.path, f"sha of {stem}", stem, "0123456789abcdef")


def grid_of(
    *sources: Source,
    x: str | None = None,
    y: str | None = None,
    z: str | None = None,
    prompts: Any = ("a zorp",),
    **more: Any,
) -> Grid:
    axes = {place: parse_axis(text) for place, text in (("x", x), ("y", y), ("z", z)) if text is not None}
    told = tuple(prompt if isinstance(prompt, Prompt) else Prompt(prompt) for prompt in prompts)
    more.setdefault("otherwise", Prompt("", "", 64, 96, steps=4, cfg=3.0, seed=1, sampler="Euler a"))
    return lay_out(Wish(sources or (source(),), told, axes, **more), lora_of)


def drawn_as_text(grid: Grid) -> list[list[list[str]]]:
    """Each cell as LoRA@te:unet and what the axes may change."""
    return [[[_text(cell) for cell in row] for row in plane] for plane in grid.cells]


def _text(cell: Any) -> str:
    if cell is None:
        return "none"
    lora = "base" if cell.lora is None else f"{cell.lora.name}@{cell.te:g}:{cell.unet:g}"
    return f"{lora} {cell.prompt} #{cell.seed} {cell.sampler} {cell.steps} {cell.cfg:g}"
