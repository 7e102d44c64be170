"""What a command line asks for, with the gaps filled from the runs: sources, prompts, base model, name of the file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from lorakit.archive.run import Run, list_runs, read_record
from lorakit.archive.states import whole_checkpoints
from lorakit.errors import ArchiveError, UsageError
from lorakit.evidence.base_model import settings_of
from lorakit.sheet.axes import Axis, sampler_name
from lorakit.sheet.cells import Model
from lorakit.sheet.layout import Grid, Wish, lay_out
from lorakit.sheet.prompts import Prompt, parse_line, read_file
from lorakit.sheet.sources import Source, find_base, open_source
from lorakit.sheet.store import Hashes, Store
from lorakit.workspace import Workspace

__all__ = ["Asked", "Order", "place_order"]

#: Without prompts of its own, a run is shown with so many of its captions.
_CAPTIONS: Final = 4
_STEP: Final = 32


@dataclass(frozen=True)
class Asked:
    """The words of a command line; what is None or empty was not said. ``prompts`` may carry the trainer's options (``--w 832``)."""

    targets: tuple[str, ...] = ()
    axes: tuple[tuple[str, Axis], ...] = ()
    prompts: tuple[str, ...] = ()
    prompt_file: Path | None = None
    negative: str | None = None
    seed: int | None = None
    sampler: str | None = None
    steps: int | None = None
    cfg: float | None = None
    size: tuple[int, int] | None = None
    weight: float = 1.0
    base: str | None = None
    base_row: bool = True
    attribution: bool = False
    precision: str = "auto"


@dataclass(frozen=True)
class Order:
    """A sheet that can be drawn: its grid, where its cells are kept, its title, and where it goes unless somebody says.

    ``run`` is the one run whose analysis/ that place is in.
    """

    grid: Grid
    store: Store
    title: str
    place: Path
    run: Run | None
    warnings: tuple[str, ...]


def place_order(asked: Asked, workspace: Workspace) -> Order:
    """Look at every file and lay the sheet out; nothing is drawn.

    Raises UsageError, ArchiveError and ModelFileError for what cannot be drawn.
    """
    words = tuple(dict.fromkeys(asked.targets)) or (_newest(workspace),)
    sources = tuple(open_source(word, workspace) for word in words)
    hashes = Hashes(workspace)
    model = _model(sources, asked, workspace, hashes)
    prompts, otherwise = _prompts(sources[0], asked, workspace)
    axes = dict(asked.axes)
    if asked.attribution:
        free = [place for place in "yxz" if place not in axes]
        if not free:
            raise UsageError("--attribution needs an axis", why="all three are taken")
        axes[free[0]] = Axis("part", ("none", "te", "unet", "both"))
    wish = Wish(
        sources=sources,
        prompts=prompts,
        axes=axes,
        negative=asked.negative,
        seed=asked.seed,
        sampler=None if asked.sampler is None else sampler_name(asked.sampler),
        steps=asked.steps,
        cfg=asked.cfg,
        size=asked.size,
        weight=asked.weight,
        base_row=asked.base_row,
        otherwise=otherwise,
    )
    grid = lay_out(wish, lambda checkpoint: hashes.lora(checkpoint.path))
    store = Store.of(workspace, model)
    title = f"{' · '.join(source.name for source in sources)}  on {model.path.stem}"
    run = sources[0].run if len(sources) == 1 else None
    return Order(grid, store, title, _place(run, store, grid), run, tuple(_warnings(sources, model)))


def _newest(workspace: Workspace) -> str:
    for run in reversed(list_runs(workspace.runs)):
        if whole_checkpoints(run):
            return run.id
    raise ArchiveError(
        f"there is no run with a checkpoint in {workspace.runs}",
        todo="lorakit bake PRESET makes one, or give a LoRA file",
    )


def _model(sources: tuple[Source, ...], asked: Asked, workspace: Workspace, hashes: Hashes) -> Model:
    path = find_base(sources, asked.base, workspace)
    run = next((source.run for source in sources if source.run is not None), None)
    preset: dict[str, Any] = settings_of(run) if run is not None else {}
    base, loss = preset.get("base", {}), preset.get("loss", {})
    vae = workspace.resolve(base["vae"]) if base.get("vae") else None
    cache = workspace.resolve(base["tokenizer_cache"]) if base.get("tokenizer_cache") else None
    return Model(
        path=path,
        sha256=hashes.content(path),
        vae=vae,
        vae_sha256=None if vae is None else hashes.content(vae),
        v_prediction=bool(base.get("v_prediction")),
        zero_terminal_snr=bool(loss.get("zero_terminal_snr")),
        tokenizer_cache=cache,
        allow_pickle=bool(base.get("allow_pickle")),
        precision=asked.precision,
    )


def _prompts(source: Source, asked: Asked, workspace: Workspace) -> tuple[tuple[Prompt, ...], Prompt]:
    """What is drawn, and what holds for whatever nothing else says: as the run's own samples were drawn."""
    width, height = source.resolution or (1024, 1024)
    sampler, own = "Euler a", tuple[Prompt, ...]()
    if source.run is not None:
        table = settings_of(source.run).get("sample", {})
        own = read_file(workspace.resolve(table["prompts"])) if table.get("prompts") else ()
        try:
            sampler = sampler_name(table.get("sampler") or sampler)
        except UsageError:  # one that only the trainer has
            sampler = "Euler a"
    otherwise = Prompt("", "", _fit(width), _fit(height), steps=20, cfg=7.0, seed=1, sampler=sampler)
    if asked.prompt_file is not None:
        found = read_file(asked.prompt_file)
        if not found:
            raise UsageError(f"{asked.prompt_file} has no prompts", todo="one a line, or the trainer's .toml or .json")
        return (*found, *map(parse_line, asked.prompts)), otherwise
    if asked.prompts:
        if own:
            first = own[0]
            otherwise = replace(
                otherwise,
                negative=first.negative or "",
                steps=first.steps or 20,
                cfg=first.cfg if first.cfg is not None else 7.0,
            )
        return tuple(map(parse_line, asked.prompts)), otherwise
    return own or _captions(source), otherwise


def _captions(source: Source) -> tuple[Prompt, ...]:
    """A few of the captions that the run was trained on, evenly among them."""
    images = (read_record(source.run.dataset) or {}).get("images", []) if source.run is not None else []
    captions = sorted({str(one.get("caption") or "") for one in images if not one.get("reg")} - {""})
    count = min(_CAPTIONS, len(captions))
    return tuple(Prompt(captions[at * len(captions) // count]) for at in range(count))


def _fit(side: int) -> int:
    return max(64, side // _STEP * _STEP)


def _place(run: Run | None, store: Store, grid: Grid) -> Path:
    """In the analysis of the run, else the current folder; another sheet gets another name."""
    cells = "\n".join(store.path(cell).name for cell in grid)
    mark = hashlib.sha256(f"{grid.x}{grid.y}{grid.z}{cells}".encode("utf-8", "replace")).hexdigest()[:8]
    return (Path.cwd() if run is None else run.analysis) / f"sheet-{mark}.png"


def _warnings(sources: Sequence[Source], model: Model) -> list[str]:
    found = []
    for source in sources:
        if source.base_sha256 is not None and source.base_sha256 != model.sha256:
            made = source.base_name or f"a model {source.base_sha256[:10]}"
            found.append(
                f"{source.name} was trained on {made}, and is drawn on {model.path.name}, which is another model"
            )
        found += [f"{source.name}: {name} is left out: {fault}" for name, fault in source.torn]
    return found
