"""`lorakit sheet` and `lorakit embeddings`: what a checkpoint does, shown in pictures and in what the text encoders say."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lorakit.cli.options import Json, complete_run, workspace
from lorakit.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from lorakit.sheet.drawing import Drawn
    from lorakit.sheet.order import Asked, Order

__all__ = ["sheet"]


def sheet(
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN|FILE...",
            autocompletion=complete_run,
            help="Runs or LoRA files; the newest run if none is given.",
        ),
    ] = None,
    *,
    x: Annotated[str | None, typer.Option("-x", metavar="AXIS", help="Columns, such as weight=0-1.5 (+0.5).")] = None,
    y: Annotated[str | None, typer.Option("-y", metavar="AXIS", help="Rows, such as epoch=1-9 (+2),last.")] = None,
    z: Annotated[str | None, typer.Option("-z", metavar="AXIS", help="One grid for each value.")] = None,
    attribution: Annotated[
        bool, typer.Option("--attribution", help="Rows: base model, text encoders only, UNet only, both.")
    ] = False,
    prompt: Annotated[
        list[str] | None, typer.Option("--prompt", "-p", metavar="TEXT", help="What to draw; may be repeated.")
    ] = None,
    prompts: Annotated[
        str | None, typer.Option("--prompts", metavar="FILE", help="A prompt file as trainers take it.")
    ] = None,
    negative: Annotated[str | None, typer.Option("--negative", metavar="TEXT", help="The negative prompt.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", help="The seed; -1 draws one.")] = None,
    sampler: Annotated[
        str | None, typer.Option("--sampler", metavar="NAME", help="The sampler, such as Euler a.")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", metavar="N", help="Steps of the sampler.")] = None,
    cfg: Annotated[float | None, typer.Option("--cfg", metavar="SCALE", help="Strength of guidance.")] = None,
    size: Annotated[str | None, typer.Option("--size", metavar="WxH", help="Size of the pictures, pixels.")] = None,
    weight: Annotated[float, typer.Option("--weight", metavar="W", help="Network weight where no axis says.")] = 1.0,
    base: Annotated[str | None, typer.Option("--base", metavar="FILE", help="The base model.")] = None,
    no_base: Annotated[bool, typer.Option("--no-base", help="Leave out the row without a LoRA.")] = False,
    out: Annotated[str | None, typer.Option("--out", "-o", metavar="FILE", help="Where the PNG goes.")] = None,
    cells: Annotated[
        str | None, typer.Option("--cells", metavar="DIR", help="Write every picture as a file of its own, too.")
    ] = None,
    side: Annotated[
        int | None, typer.Option("--side", metavar="PX", help="Longer side of a picture on the sheet, pixels.")
    ] = None,
    no_page: Annotated[bool, typer.Option("--no-page", help="Write no HTML page beside the PNG.")] = False,
    batch: Annotated[int | None, typer.Option("--batch", metavar="N", help="Pictures drawn at once.")] = None,
    precision: Annotated[str, typer.Option("--precision", metavar="P", help="auto, fp32, bf16 or fp16.")] = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell how many pictures and how long.")] = False,
    as_json: Json = False,
) -> None:
    """Draw checkpoints side by side: a grid of pictures.

    An X/Y/Z grid as a PNG and a page. Axes: run, epoch, prompt, weight, unet, te, part, seed, sampler, steps, cfg. What is drawn is kept: an interrupted sheet goes on, and no picture is drawn twice.
    """
    from lorakit.archive.records import require_writable
    from lorakit.cli import screen
    from lorakit.sheet.order import place_order

    place = _place(out)
    asked = _asked(
        targets=targets, x=x, y=y, z=z, attribution=attribution, prompts=prompt, prompt_file=prompts, negative=negative,
        seed=seed, sampler=sampler, steps=steps, cfg=cfg, size=size, weight=weight, base=base, base_row=not no_base,
        precision=precision, side=side, batch=batch,
    )  # fmt: skip
    order = place_order(asked, workspace())
    told = screen.console(err=True)
    screen.put(told, [screen.text(("look  ", "look"), warning) for warning in order.warnings])
    if dry_run:
        _tell_dry(order, as_json=as_json)
        return
    if place is None:
        if order.run is not None:
            require_writable(order.run)
        place = order.place
    missing = len(order.store.missing(order.grid))
    began = time.monotonic()
    _draw(order, batch, told)
    html = None if no_page else place.with_suffix(".html")
    from lorakit.sheet.drawing import finish

    drawn = finish(
        order.store,
        order.grid,
        title=order.title,
        out=place,
        html=html,
        cells=Path(cells) if cells else None,
        side=side,
    )
    _tell_end(order, drawn, missing, time.monotonic() - began, as_json=as_json)


def _place(out: str | None) -> Path | None:
    if out is None:
        return None
    path = Path(out)
    if path.suffix.lower() != ".png":
        raise UsageError(f"{out} is no name of a PNG", todo=f"write -o {path.with_suffix('.png')}")
    return path


def _asked(**given: Any) -> Asked:
    from lorakit.sheet.axes import draw_seed, parse_axis
    from lorakit.sheet.order import Asked

    axes = tuple((name, parse_axis(text)) for name in "xyz" if (text := given.pop(name)) is not None)
    _within("--steps", given["steps"], 1, 1000)
    _within("--cfg", given["cfg"], 0, 50)
    _within("--weight", given["weight"], -5, 5)
    _within("--seed", given["seed"], -1, 2**32 - 1)
    _within("--side", given.pop("side"), 32, 4096)
    _within("--batch", given.pop("batch"), 1, 256)
    if given["precision"] not in ("auto", "fp32", "bf16", "fp16"):
        raise UsageError(f"there is no precision {given['precision']!r}", why="there are auto, fp32, bf16 and fp16")
    if given["seed"] == -1:
        given["seed"] = draw_seed()
    return Asked(
        axes=axes,
        **{
            **given,
            "targets": tuple(given["targets"] or ()),
            "prompts": tuple(given["prompts"] or ()),
            "prompt_file": Path(given["prompt_file"]) if given["prompt_file"] else None,
            "size": _size(given["size"]),
        },
    )


def _within(option: str, value: float | None, low: float, high: float) -> None:
    if value is not None and not low <= value <= high:
        raise UsageError(f"{option} {value:g} cannot be meant", why=f"it takes {low:g} to {high:.0f}")


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d{2,5})\s*[x×]\s*(\d{2,5})", text.strip())
    sides = (int(match[1]), int(match[2])) if match else (0, 0)
    if not all(64 <= side <= 4096 and side % 32 == 0 for side in sides):
        raise UsageError(
            f"--size {text} cannot be drawn",
            why="SDXL draws multiples of 32, from 64 to 4096",
            todo="write --size 832x1216",
        )
    return sides


def _draw(order: Order, batch: int | None, told: Console) -> None:
    """Draw what is missing under a bar; Ctrl-C keeps what is drawn."""
    from lorakit.cli import screen
    from lorakit.errors import Stopped
    from lorakit.sheet.drawing import draw_missing

    try:
        with _bar(told) as hear:
            draw_missing(order.store, order.grid, batch=batch, on_record=hear)
    except KeyboardInterrupt:
        left = len(order.store.missing(order.grid))
        raise Stopped(
            f"stopped: {screen.count(left, 'picture')} still to draw",
            todo="what is drawn is kept; the same command goes on",
        ) from None


class _bar:  # noqa: N801 (a context manager, used as a function)
    """A progress bar for a drawing program's records, with the time that is left; where nobody would see it, warnings alone."""

    def __init__(self, told: Console) -> None:
        self._told = told
        self._live: Any = None
        self._began = time.monotonic()
        self._words = "loading the model"

    def __enter__(self) -> Callable[[dict[str, Any]], None]:
        if self._told.is_terminal:
            from rich.live import Live

            self._live = Live(console=self._told, transient=True, auto_refresh=False)
            self._live.start()
        return self._hear

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def _hear(self, record: dict[str, Any]) -> None:
        from lorakit.cli import screen

        if record["type"] == "warn":
            self._told.print(screen.text(("look  ", "look"), str(record["message"])))
        if self._live is None:
            return
        if record["type"] == "progress" and record["of"]:
            if record["done"] == 0:
                self._began = time.monotonic()
            share = record["done"] / record["of"]
            spent = time.monotonic() - self._began
            left = f"  {screen.duration(spent / share - spent)} left" if share > 0.02 else ""
            line = screen.text(screen.progress_bar(share, 40), f"  {share:.0%}{left}")
            self._live.update(line, refresh=True)
        elif record["type"] == "phase":
            self._live.update(screen.text((self._words, "same")), refresh=True)


def _counts(order: Order) -> dict[str, Any]:
    cells = list(order.grid)
    keys = {order.store.path(cell) for cell in cells}
    missing = order.store.missing(order.grid)
    return {
        "places": len(cells),
        "pictures": len(keys),
        "to_draw": len(missing),
        "seconds": order.store.seconds(missing),
        "x": list(order.grid.x),
        "y": list(order.grid.y),
        "z": list(order.grid.z),
        "kinds": dict(order.grid.kinds),
    }


def _tell_dry(order: Order, *, as_json: bool) -> None:
    from lorakit.cli import screen

    found = _counts(order)
    if as_json:
        screen.print_json({**found, "warnings": list(order.warnings)})
        return
    out = screen.console()
    rows: list[list[Any]] = []
    for place, word in (("z", "grids"), ("y", "rows"), ("x", "columns")):
        if place in order.grid.kinds:
            rows.append([screen.text((word, "same")), " · ".join(label or "–" for label in found[place])])
    rows.append([screen.text(("pictures", "same")), _pictures(found)])
    seconds = found["seconds"]
    time_ = "nothing to draw" if not found["to_draw"] else "not known: nothing was drawn with this model here" if seconds is None else f"about {screen.duration(seconds)}"  # fmt: skip
    rows.append([screen.text(("time", "same")), time_])
    common = ", ".join(f"{name} {value}" for name, value in order.grid.constants().items())
    if common:
        rows.append([screen.text(("all", "same")), common])
    lines = [
        screen.text((order.title, "strong")),
        *screen.columns(rows, gap=3, flexible=(1,), width=screen.fitting(out)),
    ]
    screen.put(out, lines)


def _pictures(found: dict[str, Any]) -> str:
    from lorakit.cli import screen

    told = screen.count(found["places"], "place")
    if found["pictures"] != found["places"]:
        told += f", {found['pictures']} different ones"
    kept = found["pictures"] - found["to_draw"]
    return f"{told}: {found['to_draw']} to draw" + (f", {kept} drawn before" if kept else "")


def _tell_end(order: Order, drawn: Drawn, missing: int, seconds: float, *, as_json: bool) -> None:
    from lorakit.cli import screen

    files = {"picture": str(drawn.picture), "page": None if drawn.page is None else str(drawn.page)}
    counts = _counts(order)
    if as_json:
        plain = {**counts, "to_draw": 0, "drawn": missing, "seconds": seconds}
        screen.print_json(
            {**plain, **files, "cells": [str(path) for path in drawn.cells], "warnings": list(order.warnings)}
        )
        return
    out = screen.console()
    grid = order.grid
    shape = " × ".join(str(len(labels)) for labels in (grid.z, grid.y, grid.x) if len(labels) > 1)
    done = f"{screen.count(missing, 'picture')} drawn in {screen.duration(seconds)}" if missing else "nothing to draw"
    kept = counts["pictures"] - missing
    parts = [shape, done, f"{kept} drawn before" if kept else ""]
    out.print(screen.text(("✓ ", "done"), (order.title, "strong"), "  ", " · ".join(part for part in parts if part)))
    for word, path in (("sheet", files["picture"]), ("page", files["page"])):
        if path:
            out.print(screen.text("  ", (f"{word:<6}", "same"), path))
    if drawn.cells:
        out.print(
            screen.text(
                "  ", ("cells ", "same"), f"{screen.count(len(drawn.cells), 'file')} in {drawn.cells[0].parent}"
            )
        )
