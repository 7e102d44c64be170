"""`lorakit weights`: what a LoRA did to UNet and text encoders, told from its file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from lorakit.cli.options import Json, complete_run, workspace

if TYPE_CHECKING:
    from rich.text import Text

    from lorakit.evidence.weights import Weights
    from lorakit.workspace import Workspace

__all__ = ["weights"]

_NAMES: Final = {"unet": "UNet", "te1": "TE1", "te2": "TE2"}


def weights(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN|FILE...",
            autocompletion=complete_run,
            help="A run, whose checkpoints are measured, or LoRA files.",
        ),
    ],
    *,
    modules: Annotated[bool, typer.Option("--modules", help="With --json: every module too.")] = False,
    as_json: Json = False,
) -> None:
    """Measure what LoRAs did to UNet and text encoders.

    How far each was moved, which part carries the LoRA, how it grew from checkpoint to checkpoint. Reads the weights alone, of any trainer's SDXL LoRA. Two files are also compared with each other.
    """
    from lorakit.cli import screen
    from lorakit.evidence.weights import cosine, measure

    paths = [path for target in targets for path in _files(target, workspace())]
    out = screen.console(err=as_json)
    found: list[Weights] = []
    for path in paths:
        if out.is_terminal:
            with out.status(screen.text(f"measuring {path.name}")):
                found.append(measure(path))
        else:
            found.append(measure(path))
    alike = cosine(*paths) if len(paths) == 2 and len(targets) == 2 else None
    if as_json:
        told: dict[str, Any] = {"files": [one.to_json(modules=modules) for one in found]}
        screen.print_json({**told, "cosine": alike} if alike is not None else told)
        return
    screen.put(out, _table(found, of_a_run=len(targets) == 1) if len(found) > 1 else _page(found[0]))
    if alike is not None:
        said = "  ".join(f"{_NAMES.get(part, 'all')} {value:.3f}" for part, value in alike.items())
        out.print(screen.text(("cosine   ", "same"), said))


def _files(target: str, place: Workspace) -> list[Path]:
    """The file that is named, or the checkpoints of a run, oldest first. Raises ModelFileError for a run without any."""
    from lorakit.archive.run import open_run
    from lorakit.archive.states import whole_checkpoints
    from lorakit.errors import ModelFileError

    path = Path(target)
    if path.suffix == ".safetensors" or path.is_file():
        return [path]
    run = open_run(place.runs, target)
    found = list(whole_checkpoints(run))
    if not found:
        raise ModelFileError(f"{run.short} has no whole checkpoint", todo=f"lorakit show {run.short}")
    return found


def _page(one: Weights) -> list[Text]:
    """One file: parts, then blocks."""
    from lorakit.cli import screen

    dims = sorted({module.dim for module in one.modules})
    alphas = sorted({module.alpha for module in one.modules})
    told = f"dim {_range(dims)} alpha {_range(alphas)} · {screen.count(len(one.modules), 'module')}" if dims else ""
    lines = [screen.text((one.path.name, "strong"), f" · {told}" if told else ""), screen.text("")]
    table: list[list[str | Text]] = [
        [
            screen.text((word, "same"))
            for word in ("", "‖ΔW‖", "share", "largest σ", "effective rank", "untrained modules")
        ]
    ]
    for part, values in one.to_json()["parts"].items():
        dead = f"{values['dead']} of {values['modules']}" if values["dead"] else "none"
        row = [_NAMES[part], _number(values["norm"]), f"{values['share']:.1%}", _number(values["spectral"])]
        table.append([*row, f"{values['effective_rank']:.1f}", dead])
    lines += screen.columns(table, gap=3)
    for part in ("unet", "te1", "te2"):
        if blocks := one.blocks(part):
            lines += [screen.text(""), screen.text((f"{_NAMES[part]} by block", "same"))]
            norms = {block: one.norm(part, block) for block in blocks}
            top = max(norms.values()) or 1.0
            rows: list[list[str | Text]] = [
                [block, _number(norm), screen.text((screen.bar(norm / top, 24), "same"))]
                for block, norm in norms.items()
            ]
            lines += screen.columns(rows, gap=2)
    if one.unmeasured:
        kinds = ", ".join(f"{count} {kind}" for kind, count in one.unmeasured.items())
        lines += [screen.text(""), screen.text(("not measured  ", "look"), f"{kinds}: there are no A and B to measure")]
    return lines


def _table(found: Sequence[Weights], *, of_a_run: bool) -> list[Text]:
    """Several files in a row: norm of each part and, along a run, growth since the checkpoint before."""
    from lorakit.cli import screen

    parts = [part for part in _NAMES if any(module.part == part for one in found for module in one.modules)]
    head = ["", "‖ΔW‖", *(["growth"] if of_a_run else []), *(_NAMES[part] for part in parts), "carried by"]
    table: list[list[str | Text]] = [[screen.text((word, "same")) for word in head]]
    before = 0.0
    for one in found:
        norm = one.norm()
        growth = [f"×{norm / before:.2f}" if before else ""] if of_a_run else []
        carrier = max(parts, key=one.share) if parts and norm else None
        carried = f"{_NAMES[carrier]} {one.share(carrier):.0%}" if carrier else "–"
        table.append([one.path.name, _number(norm), *growth, *(_number(one.norm(part)) for part in parts), carried])
        before = norm
    return screen.columns(table, gap=3)


def _range(values: Sequence[float]) -> str:
    ends = [f"{value:g}" for value in (values[0], values[-1])]
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"


def _number(value: float) -> str:
    return "0" if value == 0 else f"{value:.3g}"
