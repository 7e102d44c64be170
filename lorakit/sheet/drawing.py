"""Draws the cells of a sheet that are missing, through the program that has torch, and puts the sheet together."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lorakit import atomic
from lorakit.launch.helper import run_helper
from lorakit.sheet.cells import Cell, parameters
from lorakit.sheet.layout import Grid
from lorakit.sheet.page import page
from lorakit.sheet.picture import compose, with_text
from lorakit.sheet.store import Store

__all__ = ["Drawn", "batch_size", "draw_missing", "finish", "grid_parameters"]

_PROGRAM: Final = "lorakit.trainers.builtin.draw"
#: Pixels of a batch: four pictures of SDXL's size, or many small ones.
_BATCH_PIXELS: Final = 4 * 1024 * 1024
_MOST_AT_ONCE: Final = 16
#: What the webui calls our axes.
_WEBUI: Final = {
    "run": "LoRA",
    "epoch": "LoRA checkpoint",
    "prompt": "Prompt",
    "sr": "Prompt S/R",
    "weight": "LoRA weight",
    "unet": "LoRA UNet weight",
    "te": "LoRA TE weight",
    "part": "LoRA part",
    "seed": "Seed",
    "sampler": "Sampler",
    "steps": "Steps",
    "cfg": "CFG Scale",
    "base": "LoRA",
}


@dataclass(frozen=True)
class Drawn:
    """The files of a finished sheet."""

    picture: Path
    page: Path | None
    cells: tuple[Path, ...] = ()


def batch_size(cells: Sequence[Cell]) -> int:
    """How many pictures are drawn at once, by the largest of them."""
    largest = max((cell.width * cell.height for cell in cells), default=1)
    return max(1, min(_MOST_AT_ONCE, _BATCH_PIXELS // largest))


def draw_missing(
    store: Store, grid: Grid, *, batch: int | None = None, on_record: Callable[[dict[str, Any]], None] = lambda _: None
) -> None:
    """Draw what is not there yet. Each picture is kept as soon as it is there, so that an interrupted sheet goes on.

    All cells are handed over, drawn or not: batches depend on them all, and not on what is left. Raises ModelFileError for files that
    are not what they should be, TrainerError and RunFailed for a program that cannot go on.
    """
    if not store.missing(grid):
        return
    model = store.model
    cells = {store.path(cell): cell.settled() for cell in grid}
    job = {
        "base": str(model.path),
        "vae": None if model.vae is None else str(model.vae),
        "v_prediction": model.v_prediction,
        "zero_terminal_snr": model.zero_terminal_snr,
        "tokenizer_cache": None if model.tokenizer_cache is None else str(model.tokenizer_cache),
        "allow_pickle": model.allow_pickle,
        "precision": model.precision,
        "batch": batch or batch_size(list(cells.values())),
        "cells": [_entry(cell, path, parameters(model, cell)) for path, cell in cells.items()],
    }

    def heard(record: dict[str, Any]) -> None:
        if record["type"] == "speed":
            store.learn(record)
        on_record(record)

    run_helper(_PROGRAM, job, heard)


def _entry(cell: Cell, out: Path, text: str) -> dict[str, Any]:
    plain = {**vars(cell), "lora": None if cell.lora is None else str(cell.lora.path)}
    return {**plain, "text": text, "out": str(out)}


def grid_parameters(store: Store, grid: Grid) -> str:
    """The text of the whole sheet: that of its first cell, and the axes as the webui's X/Y/Z plot writes them."""
    first = next(iter(grid))
    more = {"Script": "X/Y/Z plot"}
    for place, labels in (("x", grid.x), ("y", grid.y), ("z", grid.z)):
        if place in grid.kinds:
            more[f"{place.upper()} Type"] = _WEBUI[grid.kinds[place]]
            more[f"{place.upper()} Values"] = ", ".join(f'"{label}"' if "," in label else label for label in labels)
    return parameters(store.model, first, more=more)


def finish(
    store: Store,
    grid: Grid,
    *,
    title: str,
    out: Path,
    html: Path | None,
    cells: Path | None = None,
    side: int | None = None,
) -> Drawn:
    """Write the sheet to ``out``, the page to ``html``, and every cell with its parameters into the folder ``cells``.

    Everything must be drawn. The same cells give the same bytes. Raises OSError for places that cannot be written.
    """
    told = {"axes": {place: list(getattr(grid, place)) for place in grid.kinds}, "kinds": dict(grid.kinds)}
    places = [[[None if cell is None else cell.to_json() for cell in row] for row in plane] for plane in grid.cells]
    text = {
        "parameters": grid_parameters(store, grid),
        "lorakit": json.dumps({**told, "cells": places}, ensure_ascii=False, default=str),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_bytes(out, compose(grid, store.open, title=title, text=text, side=side))
    if html is not None:
        html.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_text(html, page(grid, store.open, lambda cell: parameters(store.model, cell), title=title))
    return Drawn(out, html, _write_cells(store, grid, cells) if cells is not None else ())


def _write_cells(store: Store, grid: Grid, folder: Path) -> tuple[Path, ...]:
    """One file a place, named by its place: ``z0-y1-x2.png``; without a Z axis ``y1-x2.png``."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for z, plane in enumerate(grid.cells):
        for y, row in enumerate(plane):
            for x, cell in enumerate(row):
                if cell is None:
                    continue
                path = folder / (f"z{z}-y{y}-x{x}.png" if len(grid.z) > 1 else f"y{y}-x{x}.png")
                atomic.write_bytes(path, with_text(store.open(cell), {"parameters": parameters(store.model, cell)}))
                written.append(path)
    return tuple(written)
