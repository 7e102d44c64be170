"""From what was asked to a grid of cells: the values of three axes, the row of the base model, what stays the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from lorakit.errors import ModelFileError, UsageError
from lorakit.sheet.axes import Axis
from lorakit.sheet.cells import Cell, Lora
from lorakit.sheet.prompts import Prompt
from lorakit.sheet.sources import Checkpoint, Source

__all__ = ["BASE", "Grid", "Wish", "lay_out"]

#: How the row without a LoRA is called.
BASE: Final = "base model"
#: Values are applied in this order, wherever their axes stand: a run before its epoch, both weights before one of them.
_ORDER: Final = (
    "run",
    "epoch",
    "prompt",
    "sr",
    "weight",
    "unet",
    "te",
    "part",
    "seed",
    "sampler",
    "steps",
    "cfg",
    "base",
)
#: Axes whose values mean nothing to the base model.
_OF_LORA: Final = frozenset({"run", "epoch", "weight", "unet", "te", "part"})
_PARTS: Final = {
    "te": ("text encoders only", 0.0, 1.0),
    "unet": ("UNet only", 1.0, 0.0),
    "both": ("UNet and text encoders", 1.0, 1.0),
}
#: Of more checkpoints than this, a sheet that names none shows so many, evenly chosen.
_FEW: Final = 6
_MOST_CELLS: Final = 5000


@dataclass(frozen=True)
class Wish:
    """What was asked. What is None is for the prompts to say, then for ``otherwise``."""

    sources: tuple[Source, ...]
    prompts: tuple[Prompt, ...]
    axes: Mapping[str, Axis] = field(default_factory=dict)
    negative: str | None = None
    seed: int | None = None
    sampler: str | None = None
    steps: int | None = None
    cfg: float | None = None
    size: tuple[int, int] | None = None
    weight: float = 1.0
    base_row: bool = True
    otherwise: Prompt = field(
        default_factory=lambda: Prompt("", "", 1024, 1024, steps=20, cfg=7.0, seed=1, sampler="Euler a")
    )


@dataclass(frozen=True)
class Grid:
    """The labels of the axes and the cells, ``cells[z][y][x]``; a place without a cell has no such checkpoint."""

    x: tuple[str, ...]
    y: tuple[str, ...]
    z: tuple[str, ...]
    cells: tuple[tuple[tuple[Cell | None, ...], ...], ...]
    kinds: Mapping[str, str]

    def __iter__(self) -> Iterator[Cell]:
        """Every cell, row by row; equal ones again."""
        for plane in self.cells:
            for row in plane:
                yield from (cell for cell in row if cell is not None)

    def constants(self) -> dict[str, str]:
        """What all cells have in common and no label says."""
        cells = list(self)
        told = {
            "prompt": {cell.prompt for cell in cells},
            "negative": {cell.negative for cell in cells},
            "LoRA": {cell.lora.name for cell in cells if cell.lora},
            "weight": {_weight(cell) for cell in cells if cell.lora},
            "sampler": {cell.sampler for cell in cells},
            "steps": {str(cell.steps) for cell in cells},
            "CFG": {f"{cell.cfg:g}" for cell in cells},
            "seed": {str(cell.seed) for cell in cells},
            "size": {f"{cell.width}×{cell.height}" for cell in cells},
        }
        return {name: next(iter(values)) for name, values in told.items() if len(values) == 1 and values != {""}}


def _weight(cell: Cell) -> str:
    return f"{cell.unet:g}" if cell.unet == cell.te else f"UNet {cell.unet:g}, TE {cell.te:g}"


@dataclass(frozen=True)
class _Draft:
    """A cell on the way: the axes change it one by one."""

    source: Source
    checkpoint: Checkpoint
    prompt: Prompt
    unet: float
    te: float
    seed: int | None
    sampler: str | None
    steps: int | None
    cfg: float | None
    search: tuple[str, str] | None = None
    bare: bool = False


_T = TypeVar("_T")
#: Gives None where there is no such checkpoint.
_Change = Callable[[_Draft], _Draft | None]


@dataclass(frozen=True)
class _Line:
    """One axis: its kind, and label and effect of each value."""

    kind: str
    values: tuple[tuple[str, _Change], ...]


def lay_out(wish: Wish, lora_of: Callable[[Checkpoint], Lora]) -> Grid:
    """The grid of a wish; ``lora_of`` tells name and hash of a checkpoint's file.

    Several prompts or runs that no axis names go on a free one; without any axis, checkpoints are rows and prompts columns. The base
    model gets a row (or column, or plane) of its own in front of the axis that changes the LoRA. Raises UsageError for a wish that
    cannot be laid out, ModelFileError for checkpoints that are named and are not there.
    """
    if not wish.prompts:
        raise UsageError(
            "there is nothing to draw", why="no prompt is given and the run has none", todo='add --prompt "…"'
        )
    placed = _placed(wish)
    lines = {place: _line(axis, wish) for place, axis in placed.items()}
    if wish.base_row:
        _add_base(lines)
    none = _Line("", (("", lambda draft: draft),))
    x, y, z = (lines.get(place, none) for place in "xyz")
    count = len(x.values) * len(y.values) * len(z.values)
    if count > _MOST_CELLS:
        raise UsageError(
            f"that is {count} pictures", why=f"a sheet has at most {_MOST_CELLS}", todo="leave out some values"
        )
    start = _start(wish)

    def cell(*chosen: tuple[str, _Change]) -> Cell | None:
        draft: _Draft | None = start
        changes = [(line.kind, change) for line, (_, change) in zip((z, y, x), chosen, strict=True) if line.kind]
        bare = any(label == BASE for label, _ in chosen)
        for kind, change in sorted(changes, key=lambda pair: _ORDER.index(pair[0])):
            if draft is None or (bare and kind in _OF_LORA and change is not _bare):
                continue
            draft = change(draft)
        return None if draft is None else _cell(draft, wish, lora_of)

    planes = tuple(tuple(tuple(cell(at_z, at_y, at_x) for at_x in x.values) for at_y in y.values) for at_z in z.values)
    labels = {name: tuple(label for label, _ in line.values) for name, line in zip("xyz", (x, y, z), strict=True)}
    return Grid(**labels, cells=planes, kinds={place: line.kind for place, line in lines.items()})


def _placed(wish: Wish) -> dict[str, Axis]:
    """The axes on their places, with those that nobody placed and that have several values."""
    placed = dict(wish.axes)
    # Whole prompts, and words in them that take each other's place, are two axes.
    names = [(axis.kind, axis.kind == "prompt" and axis.values is None) for axis in placed.values()]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"the axis {name[0]} is given twice", todo="put all its values on one")
    kinds = {axis.kind for axis in placed.values() if axis.kind != "prompt" or axis.values is None}
    free = [place for place in "yxz" if place not in placed]
    checkpoints = max(len(source.checkpoints) for source in wish.sources)

    def put(kind: str, wanted: str, why: str) -> None:
        if not free:
            raise UsageError(why, why="all three axes are taken", todo=f"put {kind} on one of them: -z {kind}")
        at = wanted if wanted in free else free[0]
        free.remove(at)
        placed[at] = Axis(kind)

    if len(wish.sources) > 1 and "run" not in kinds:
        put("run", "y", f"there are {len(wish.sources)} runs or files, and no axis for them")
    elif not wish.axes and checkpoints > 1:
        put("epoch", "y", "")
    if len(wish.prompts) > 1 and "prompt" not in kinds:
        put("prompt", "x", f"there are {len(wish.prompts)} prompts, and no axis for them")
    return placed


def _add_base(lines: dict[str, _Line]) -> None:
    """Put the base model in front of the axis that changes the LoRA, unless one of the values is the base model anyway."""
    if any(label in (BASE, "weight 0") for line in lines.values() for label, _ in line.values):
        return
    base = (BASE, _bare)
    for place in "yxz":
        if place in lines and lines[place].kind in _OF_LORA:
            lines[place] = replace(lines[place], values=(base, *lines[place].values))
            return
    for place in "yxz":
        if place not in lines:
            lines[place] = _Line("base", (base, ("with LoRA", lambda draft: draft)))
            return


def _bare(draft: _Draft) -> _Draft:
    return replace(draft, bare=True)


def _start(wish: Wish) -> _Draft:
    source = wish.sources[0]
    return _Draft(
        source, source.checkpoints[-1], wish.prompts[0], wish.weight, wish.weight, wish.seed, wish.sampler, wish.steps, wish.cfg
    )  # fmt: skip


def _line(axis: Axis, wish: Wish) -> _Line:
    if axis.kind == "run":
        return _Line("run", tuple((source.name, _to_source(source)) for source in _sources(axis, wish)))
    if axis.kind == "epoch":
        return _Line("epoch", tuple((_epoch_label(mark), _to_epoch(mark)) for mark in _marks(axis, wish)))
    if axis.kind == "prompt":
        return _prompt_line(axis, wish)
    if axis.values is None:
        raise UsageError(f"the axis {axis.kind} has no values", todo=f"write {axis.kind}=10,20")
    return _Line(axis.kind, tuple(_setting(axis.kind, value) for value in axis.values))


def _sources(axis: Axis, wish: Wish) -> Sequence[Source]:
    if axis.values is None:
        return wish.sources
    found = []
    for word in axis.values:
        named = [
            source
            for source in wish.sources
            if word in (source.name, *((source.run.short, source.run.id, source.run.name) if source.run else ()))
            or (source.run is None and word in (str(source.checkpoints[0].path), source.checkpoints[0].path.name))
        ]
        if len(named) != 1:
            raise UsageError(f"{word!r} is none of the runs of this sheet", todo=f"lorakit sheet {word} … -y run")
        found.append(named[0])
    return found


def _to_source(source: Source) -> _Change:
    return lambda draft: replace(draft, source=source, checkpoint=source.checkpoints[-1])


def _marks(axis: Axis, wish: Wish) -> tuple[str, ...]:
    """The checkpoints on the axis: those that are named and that some run has, or all there are, a few if nobody asked."""
    known = dict.fromkeys(one.mark for source in wish.sources for one in source.checkpoints)
    ordered = sorted(known, key=_position)
    if axis.values is None:
        if wish.axes or len(ordered) <= _FEW:
            return tuple(ordered)
        return tuple(ordered[(at + 1) * len(ordered) // _FEW - 1] for at in range(_FEW))
    found: list[str] = []
    for mark in axis.values:
        for one in ordered if mark == "all" else (mark,):
            _require(one, wish.sources)
            found.append(one)
    # 5 and last may be the same file, which is drawn once and shown once.
    last = {source.checkpoints[-1].mark for source in wish.sources}
    if len(last) == 1:
        found = [next(iter(last)) if mark in ("last", "final") else mark for mark in found]
    return tuple(dict.fromkeys(found))


def _position(mark: str) -> tuple[int, int]:
    if mark == "last":
        return (2, 0)
    return (1, int(mark[4:])) if mark.startswith("step") else (0, int(mark))


def _require(mark: str, sources: Sequence[Source]) -> None:
    for source in sources:
        if source.at(mark) is not None:
            continue
        number = mark.removeprefix("step")
        torn = [f"{name} is torn ({fault})" for name, fault in source.torn if number.lstrip("0") in name]
        raise ModelFileError(
            f"{source.name} has no checkpoint of {'step ' + number if mark.startswith('step') else 'epoch ' + mark}",
            why="; ".join(torn) or f"it has {', '.join(one.mark for one in source.checkpoints)}",
            todo="name one that it has, or leave the values out to see all",
        )


def _epoch_label(mark: str) -> str:
    if mark in ("last", "first", "final"):
        return f"{mark.replace('final', 'last')} checkpoint"
    return f"step {mark[4:]}" if mark.startswith("step") else f"epoch {mark}"


def _to_epoch(mark: str) -> _Change:
    def change(draft: _Draft) -> _Draft | None:
        found = draft.source.at(mark)
        return None if found is None else replace(draft, checkpoint=found)

    return change


def _prompt_line(axis: Axis, wish: Wish) -> _Line:
    if axis.values is None:
        return _Line("prompt", tuple((prompt.text, _to_prompt(prompt)) for prompt in wish.prompts))
    search = axis.values[0]
    texts = [text for prompt in wish.prompts for text in (prompt.text, wish.negative or prompt.negative or "")]
    if not search or not any(search in text for text in texts):
        raise UsageError(
            f"{search!r} is in no prompt",
            why="the first value of a prompt axis is what is searched for; each value takes its place",
            todo=f"the prompts are: {'; '.join(prompt.text for prompt in wish.prompts)}",
        )
    return _Line("sr", tuple((value or "(nothing)", _to_search(search, value)) for value in axis.values))


def _to_prompt(prompt: Prompt) -> _Change:
    return lambda draft: replace(draft, prompt=prompt)


def _to_search(search: str, value: str) -> _Change:
    return lambda draft: replace(draft, search=(search, value))


def _setting(kind: str, value: str) -> tuple[str, _Change]:
    """Label and effect of one value of an axis that sets a number or a name."""
    if kind == "part":
        if value == "none":
            return BASE, _bare
        label, unet, te = _PARTS[value]
        return label, lambda draft: replace(draft, unet=draft.unet * unet, te=draft.te * te)
    if kind == "sampler":
        return value, lambda draft: replace(draft, sampler=value)
    number = float(value)
    settings: dict[str, tuple[str, _Change]] = {
        "weight": (f"weight {value}", lambda draft: replace(draft, unet=number, te=number)),
        "unet": (f"UNet {value}", lambda draft: replace(draft, unet=number)),
        "te": (f"TE {value}", lambda draft: replace(draft, te=number)),
        "seed": (f"seed {value}", lambda draft: replace(draft, seed=int(value))),
        "steps": (f"{value} steps", lambda draft: replace(draft, steps=int(value))),
        "cfg": (f"CFG {value}", lambda draft: replace(draft, cfg=number)),
    }
    return settings[kind]


def _cell(draft: _Draft, wish: Wish, lora_of: Callable[[Checkpoint], Lora]) -> Cell:
    prompt, rest = draft.prompt, wish.otherwise
    negative = _first(wish.negative, prompt.negative, rest.negative, "")
    text = prompt.text
    if draft.search is not None:
        text, negative = text.replace(*draft.search), negative.replace(*draft.search)
    bare = draft.bare or (draft.unet == 0 and draft.te == 0)
    sides = wish.size or (None, None)
    return Cell(
        prompt=text,
        negative=negative,
        seed=_first(draft.seed, prompt.seed, rest.seed, 1),
        sampler=_first(draft.sampler, prompt.sampler, rest.sampler, "Euler a"),
        steps=_first(draft.steps, prompt.steps, rest.steps, 20),
        cfg=_first(draft.cfg, prompt.cfg, rest.cfg, 7.0),
        width=_first(sides[0], prompt.width, rest.width, 1024),
        height=_first(sides[1], prompt.height, rest.height, 1024),
        lora=None if bare else lora_of(draft.checkpoint),
        unet=0.0 if bare else draft.unet,
        te=0.0 if bare else draft.te,
    )


def _first(*values: _T | None) -> _T:
    """The first that is said."""
    return next(value for value in values if value is not None)
