"""The plan as a page: what will be trained on, for how long, at which rates, what will be written."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from lorakit.cli import screen
from lorakit.preset.units import format_number, format_rate

if TYPE_CHECKING:
    from rich.text import Text

    from lorakit.bake.cache_keys import Found
    from lorakit.cli.presets import Baker
    from lorakit.plan import Bucket, Checkpoint, Plan
    from lorakit.preset.files import ResolvedPreset
    from lorakit.preset.models import Preset
    from lorakit.preset.rules import Finding

__all__ = ["finding_lines", "plan_page", "why_page"]

PARTS: Final = {"unet": "UNet", "te1": "TE1", "te2": "TE2"}
_LABEL: Final = 12
#: What is drawn for a file or a pipe is this wide.
_WIDTH: Final = 100
#: More buckets than these are summed up in one line.
_BUCKETS_SHOWN: Final = 8


def plan_page(
    preset: Preset,
    plan: Plan,
    *,
    baker: Baker,
    findings: Sequence[Finding],
    asked: str,
    width: int | None,
    caches: Sequence[Found] = (),
    time: str = "",
) -> list[Text]:
    """The whole page. ``asked`` is the preset as it was named, ``width`` that of the window, ``caches`` those on disk.

    ``time`` says how long it will take, and how that is known.
    """
    from lorakit.cli.presets import missing_lines

    room = (width or _WIDTH) - _LABEL
    lines = [_title(preset, baker.told), screen.text("")]
    lines += _row("images", _images(plan))
    lines += _row("repeats", *_repeats(plan))
    lines += _row("buckets", *_buckets(plan, room))
    lines += _row("batches", _batches(plan))
    lines += _row("steps", *_steps(preset, plan, room))
    if time:
        lines += _row("time", time)
    lines += _row("rates", *_rates(preset, plan, room))
    if plan.validation.images:
        held_out, batches = plan.validation.images, plan.validation.batches
        told = f"{screen.count(held_out, 'image')} held out, {screen.count(batches, 'batch', 'batches')} each time"
        lines += _row("validation", told)
    lines += _row("writes", *_writes(plan, room))
    lines += _row("caches", *_caches(plan, caches))
    lines.append(screen.text(""))
    warnings = [screen.text(("warn  ", "look"), warning) for warning in plan.warnings]
    blocks = [*missing_lines(baker), *finding_lines(findings)]
    if warnings or blocks:
        lines += [*warnings, *blocks, screen.text("")]
    stops = any(finding.level == "error" for finding in findings)
    follow = "lorakit check" if stops else "lorakit bake"
    lines.append(screen.text(("next: ", "same"), f"{follow} {shlex.quote(asked)}"))
    return lines


def finding_lines(findings: Iterable[Finding]) -> list[Text]:
    """Each finding in three lines, with its code; errors red, warnings yellow."""
    from lorakit.cli.trouble import problem_lines

    lines: list[Text] = []
    for finding in findings:
        error = finding.level == "error"
        lines += problem_lines(
            [finding.problem()], label="error" if error else "warn", meaning="fail" if error else "look"
        )
    return lines


def why_page(resolved: ResolvedPreset, *, width: int | None) -> list[Text]:
    """Every value and where it comes from, table by table; what nobody set is dim."""
    from lorakit.verdict.settings import show_value

    values = dict(flat(resolved.preset.model_dump(mode="json")))
    rows: list[list[str | Text]] = []
    for key, value in values.items():
        origin = resolved.provenance.get(key)
        meaning = "same" if origin is None or origin.kind == "default" else ""
        shown = "–" if value is None else show_value(key, value)
        cells = (key, shown, str(origin) if origin is not None else "")
        rows.append([screen.text((cell, meaning)) for cell in cells])
    return screen.columns(rows, width=width, flexible=(1, 2))


def flat(table: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Nested tables as dotted keys, in order; an empty table stays one value."""
    for key, value in table.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _title(preset: Preset, trainer: str) -> Text:
    from lorakit.preset.kinds import title

    network = preset.network
    alpha = network.alpha.of(network.dim)
    scale = format_number(round(alpha / network.dim, 4))
    facts = f" · SDXL {title(network)} dim {network.dim} alpha {format_number(alpha)} (scale {scale}) · {trainer}"
    return screen.text((preset.name, "strong"), facts)


def _row(label: str, *lines: str | Text) -> list[Text]:
    return [
        screen.text(
            (f"{'' if at else label:<{_LABEL}}", "same"), line if not isinstance(line, str) else screen.text(line)
        )
        for at, line in enumerate(lines)
    ]


def _images(plan: Plan) -> str:
    if not plan.skipped:
        return f"{plan.images} used"
    reasons = Counter(f"{skipped.path.suffix or skipped.path.name}: {skipped.reason}" for skipped in plan.skipped)
    told = "; ".join(f"{count} × {reason}" if count > 1 else reason for reason, count in reasons.most_common(4))
    more = f"; and {len(reasons) - 4} other reasons" if len(reasons) > 4 else ""
    return f"{plan.images} used, {len(plan.skipped)} skipped ({told}{more})"


def _repeats(plan: Plan) -> list[Text]:
    rows = [
        [f"{folder.path.name}", f"{folder.images} × {folder.repeats}", f"{folder.examples} per epoch", _kind(folder)]
        for folder in plan.folders
    ]
    if len(rows) > 1:
        rows.append(["together", "", f"{plan.examples_per_epoch} per epoch", ""])
    return screen.columns(rows, gap=3)


def _kind(folder: Any) -> str:
    return "regularisation" if folder.is_reg else ""


def _buckets(plan: Plan, width: int) -> list[Text]:
    together: dict[tuple[int, int], int] = {}
    for bucket in plan.buckets:
        size = (bucket.width, bucket.height)
        together[size] = together.get(size, 0) + bucket.count
    ranked = sorted(together.items(), key=lambda item: -item[1])
    shown, rest = ranked[:_BUCKETS_SHOWN], ranked[_BUCKETS_SHOWN:]
    most = max(together.values(), default=1)
    room = max(4, min(24, width // 3 - 16))
    cells: list[list[str | Text]] = [
        [f"{size[0]}×{size[1]}", str(count), screen.text((screen.bar(count / most, room), "done"))]
        for size, count in shown
    ]
    lines = _side_by_side(screen.columns(cells, right=(1,)), width)
    if rest:
        lines.append(screen.text((f"and {len(rest)} more with {sum(count for _, count in rest)}", "same")))
    return lines


def _side_by_side(cells: Sequence[Text], width: int) -> list[Text]:
    widest = max((cell.cell_len for cell in cells), default=1)
    per_line = max(1, (width + 3) // (widest + 3))
    return screen.columns([cells[at : at + per_line] for at in range(0, len(cells), per_line)], gap=3)


def _batches(plan: Plan) -> str:
    sizes = "/".join(str(size) for size in dict.fromkeys(plan.batch_sizes))
    short = f"; {_short(plan)}" if plan.short_batches else ""
    return f"{_sum([bucket.batches for bucket in _ranked(plan.buckets)], plan.batches_per_epoch)} per epoch (batch {sizes}{short})"


def _ranked(buckets: Iterable[Bucket]) -> list[Bucket]:
    return sorted(buckets, key=lambda bucket: -bucket.count)


def _short(plan: Plan) -> str:
    return "one is short" if plan.short_batches == 1 else f"{plan.short_batches} are short"


def _sum(numbers: Sequence[int], total: int) -> str:
    if not 1 < len(numbers) <= 6 or sum(numbers) != total:
        return str(total)
    return f"{' + '.join(map(str, numbers))} = {total}"


def _steps(preset: Preset, plan: Plan, width: int) -> list[Text]:
    counts = plan.counts
    per_epoch = counts.updates_per_epoch
    if plan.epochs * per_epoch == plan.total_steps:
        length = f"{plan.epochs} epochs × {per_epoch} = {plan.total_steps}"
    else:
        length = f"{plan.total_steps}, in {plan.epochs} epochs of {per_epoch}"
    notes = []
    if counts.gradient_accumulation_steps > 1:
        notes.append(f"each of {counts.gradient_accumulation_steps} batches")
    if counts.processes > 1:
        notes.append(f"on {counts.processes} processes")
    if notes:
        length += f" ({', '.join(notes)})"
    warmup = preset.optim.warmup
    if plan.warmup_steps == 0:
        return screen.wrap([length, "no warmup"], width)
    told = f"{warmup} = {plan.warmup_steps} steps" if warmup.ratio is not None else f"{plan.warmup_steps} steps"
    return screen.wrap([length, f"warmup {told}"], width)


def _rates(preset: Preset, plan: Plan, width: int) -> list[Text]:
    optim = preset.optim
    rates = {"unet": optim.unet_lr, "te1": optim.te_lr.te1, "te2": optim.te_lr.te2}
    told = [f"{PARTS[part]} {format_rate(rate) if rate else 'not trained'}" for part, rate in rates.items()]
    told += _uneven(preset, plan)
    lines = screen.wrap([*told, f"{optim.type}, {_schedule(preset)}"], width, gap=3)
    part = next((part for part in PARTS if plan.lr.get(part)), None)
    if part is None or not plan.curve:
        return lines
    curve = screen.sparkline([factor for _, factor in plan.curve], 24, from_zero=True)
    points = " · ".join(f"{point.step} {format_rate(float(f'{point.lr:.2g}'))}" for point in _few(plan.lr[part]))
    lines += screen.wrap([screen.text((curve, "done")), f"{PARTS[part]} at step {points}"], width, gap=3)
    return lines


def _uneven(preset: Preset, plan: Plan) -> list[str]:
    """Rates of groups within the parts: LoRA+'s, and those of the UNet's blocks."""
    network, told = preset.network, []
    for part in PARTS:
        if any(name.startswith(part) and name.endswith(" plus") for name in plan.lr):
            own = network.loraplus_unet_lr_ratio if part == "unet" else network.loraplus_te_lr_ratio
            told.append(f"{PARTS[part]} up ×{format_number(own or network.loraplus_lr_ratio or 1)}")
    blocks = [name for name in plan.lr if "_block" in name and not name.endswith(" plus")]
    if blocks and plan.lr.get("unet"):
        at = next((n for n, point in enumerate(plan.lr["unet"]) if point.lr), 0)
        whole = plan.lr["unet"][at].lr or 1.0
        factors = sorted({round(plan.lr[name][at].lr / whole, 3) for name in blocks})
        span = " to ".join(f"×{format_number(factor)}" for factor in factors[:: max(1, len(factors) - 1)])
        told.append(f"{len(blocks)} UNet blocks at {span}")
    return told


def _few(points: Sequence[Any]) -> list[Any]:
    """First, the first at the full rate, middle and last: what one wants to know of a schedule."""
    wanted = [points[0], max(points, key=lambda point: point.lr), points[len(points) // 2], points[-1]]
    return sorted({point.step: point for point in wanted}.values(), key=lambda point: int(point.step))


def _schedule(preset: Preset) -> str:
    optim = preset.optim
    if optim.schedule == "cosine_with_restarts":
        return f"{optim.schedule}, {optim.cycles} cycle{'s' if optim.cycles > 1 else ''}"
    if optim.schedule == "polynomial":
        return f"{optim.schedule}, power {format_number(optim.power)}"
    return optim.schedule


def _writes(plan: Plan, width: int) -> list[Text]:
    kept = [file for file in plan.checkpoints if file.kept]
    weights = [file for file in kept if not file.kind.endswith("state")]
    states = [file for file in kept if file.kind.endswith("state")]
    parts = [_files(weights, "checkpoint")] if weights else []
    parts += [_files(states, "training state")] if states else []
    pictures = sum(moment.images for moment in plan.samples)
    parts += [f"{screen.count(pictures, 'sample')} at {screen.count(len(plan.samples), 'moment')}"] if pictures else []
    disk = plan.disk
    room = f"{screen.size(disk.needed)} of {screen.size(disk.free)} free"
    short = disk.needed >= disk.free
    return screen.wrap(
        [", ".join(parts), screen.text((room, "fail" if short else "")), *(["not enough"] if short else [])], width
    )


def _caches(plan: Plan, caches: Sequence[Found]) -> list[str]:
    lines = [f"{one.kind}: {_origin(one)}" + (f" (key {one.key[:8]})" if one.key else "") for one in caches]
    if stray := plan.data.stray_caches:
        lines.append(
            f"{screen.count(stray, 'cache file')} beside the images: not read, they may be of other images or settings"
        )
    return lines


def _origin(found: Found) -> str:
    if found.found == found.files:
        return f"all {found.files} made by earlier runs"
    if found.found:
        return f"{found.found} of {found.files} made by earlier runs, the rest will be"
    return f"{found.files} will be made, for later runs too"


def _files(files: Sequence[Checkpoint], word: str) -> str:
    return f"{screen.count(len(files), word)} × {screen.size(files[-1].bytes)}"
