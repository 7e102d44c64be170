"""The screens of the dataset desk: the page of a check, captions before and after."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lorakit.cli import screen

if TYPE_CHECKING:
    from rich.text import Text

    from lorakit.dataset.desk.edits import Edited
    from lorakit.dataset.desk.report import Finding, Report

__all__ = ["check_page", "diff_lines", "label_row"]

_LABEL: Final = 10
_WIDTH: Final = 100
_BUCKETS_SHOWN: Final = 8
_FILES_SHOWN: Final = 3
_TAGS_SHOWN: Final = 12
_DIFFS_SHOWN: Final = 5
_MEANING: Final = {"fail": "fail", "look": "look", "note": "same"}


def check_page(
    report: Report, *, seconds: float, width: int | None, every: bool, page: Path | None, preset: str | None, unwritten: str = ""
) -> list[Text]:  # fmt: skip
    """What is there, what was found, what to do next."""
    room = (width or _WIDTH) - _LABEL
    lines = [_verdict(report, seconds), screen.text("")]
    lines += label_row("folders", *_folders(report))
    lines += label_row("buckets", *_buckets(report, room))
    lines += label_row("captions", *_captions(report))
    lines += label_row("tokens", *_tokens(report))
    lines += label_row("tags", *_tags(report, room))
    if report.findings:
        lines.append(screen.text(""))
    for finding in report.findings:
        lines += _finding(finding, report.asked, every=every, width=width or _WIDTH)
    if unwritten:
        lines.append(
            screen.text(
                ("note  ", "same"), f"the next check is as slow as this one: what was seen cannot be kept ({unwritten})"
            )
        )
    lines.append(screen.text(""))
    if page is not None:
        lines.append(screen.text(("✓ ", "done"), (str(page), "strong"), "  open it in a browser"))
    lines.append(screen.text(("next: ", "same"), _next(report, page, preset)))
    return lines


def label_row(label: str, *lines: str | Text) -> list[Text]:
    """A dim label, and lines beside it."""
    return [
        screen.text(
            (f"{'' if at else label:<{_LABEL}}", "same"), line if not isinstance(line, str) else screen.text(line)
        )
        for at, line in enumerate(lines)
    ]


def _verdict(report: Report, seconds: float) -> Text:
    fails, looks = len(report.of_level("fail")), len(report.of_level("look"))
    if fails:
        told = ("✗ ", "fail"), (str(report.asked), "strong"), "  the trainer would stop at it"
    elif looks:
        told = (
            ("✓ ", "done"),
            (str(report.asked), "strong"),
            f"  can be trained on; {screen.count(looks, 'thing')} to look at",
        )
    else:
        told = ("✓ ", "done"), (str(report.asked), "strong"), "  can be trained on; nothing to look at"
    count = screen.count(len(report.items), "picture")
    return screen.text(*told, (f"  ({count} in {screen.duration(seconds)})", "same"))


def _folders(report: Report) -> list[Text]:
    rows: list[list[str | Text]] = []
    uneven = any(one.balanced != one.repeats for one in report.folders if not one.is_reg) and len(report.folders) > 1
    ratios = {one.balanced / one.repeats for one in report.folders if not one.is_reg}
    for one in report.folders:
        hint = f"× {one.balanced} would balance it" if uneven and len(ratios) > 1 and not one.is_reg else ""
        kind = "regularisation" if one.is_reg else ""
        rows.append(
            [
                one.path.name,
                f"{one.images} × {one.repeats}",
                f"{one.items} per epoch",
                screen.text((hint or kind, "same")),
            ]
        )
    return screen.columns(rows, right=(1, 2)) or [screen.text("none")]


def _buckets(report: Report, room: int) -> list[Text]:
    width, height = report.resolution
    about = f"{width} px" if width == height else f"{width}×{height}"
    counts: dict[tuple[int, int], int] = {}
    for dataset in report.data.datasets:
        for bucket, count in dataset.bucket_counts().items():
            counts[bucket] = counts.get(bucket, 0) + count
    most = max(counts.values(), default=1)
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    parts = [f"{b[0]}×{b[1]} {count:>4} {screen.bar(count / most, 10)}" for b, count in ordered[:_BUCKETS_SHOWN]]
    if len(ordered) > _BUCKETS_SHOWN:
        parts.append(f"and {len(ordered) - _BUCKETS_SHOWN} more")
    batches = f"{about}, batch {report.batch_size}: {screen.count(report.data.batches_per_epoch, 'batch', 'batches')} per epoch"
    return [*screen.wrap(parts, room, gap=4), screen.text((batches, "same"))]


def _captions(report: Report) -> list[str]:
    with_file = sum(item.caption_path is not None for item in report.items)
    told = f"{with_file} of {len(report.items)} pictures have one"
    return [f"{told}; {screen.count(report.sentences, 'is a sentence', 'are sentences')}" if report.sentences else told]


def _tokens(report: Report) -> list[str | Text]:
    tokens = report.tokens
    if tokens.why_not:
        return [screen.text(("not counted: ", "look"), tokens.why_not)]
    by = tokens.by_length
    parts = [f"{by['75']} fit 75"] + [f"{by[name]} need {name}" for name in ("150", "225") if by.get(name)]
    if by.get("more"):
        parts.append(f"{by['more']} longer than 225")
    told = f"longest {tokens.longest} of {tokens.length} · {' · '.join(parts)}"
    why = f"TE1 and TE2 count alike: one vocabulary, other padding ({tokens.source})"
    mended = "" if tokens.mended else "; text is not mended first, for the package ftfy is not installed"
    return [told, screen.text((why + mended, "same"))]


def _tags(report: Report, room: int) -> list[str | Text]:
    table = report.tags
    if not table.captions:
        return ["none"]
    lines: list[str | Text] = [f"{screen.count(len(table.counts), 'tag')} in {screen.count(table.captions, 'caption')}"]
    everywhere = {tag for tag, _ in table.everywhere}
    if everywhere:
        lines.append(_listed("everywhere", list(table.everywhere), room))
    common = [(tag, count) for tag, count in table.counts if tag not in everywhere and count > 1]
    if common:
        lines.append(_listed("most used", common, room))
    if table.once:
        lines.append(_listed(f"once ({len(table.once)})", [(tag, 1) for tag in table.once], room))
    return lines


def _listed(head: str, tags: Sequence[tuple[str, int]], room: int) -> Text:
    parts: list[str] = []
    left = room - 14
    for tag, count in tags[:_TAGS_SHOWN]:
        part = tag if count == 1 else f"{tag} {count}"
        left -= len(part) + 2
        if left < 8:
            break
        parts.append(part)
    more = f" … {len(tags) - len(parts)} more" if len(parts) < len(tags) else ""
    return screen.text((f"{head:<12}  ", "same"), ", ".join(parts), (more, "same"))


def _finding(finding: Finding, asked: Path, *, every: bool, width: int) -> list[Text]:
    lines = [screen.text((f"{finding.level:<6}", _MEANING[finding.level]), finding.what)]
    shown = _lines_of(finding, asked)
    most = len(shown) if every else _FILES_SHOWN
    for line in shown[:most]:
        room = width - 8
        lines.append(screen.text("        ", (line if every or len(line) <= room else line[: room - 1] + "…", "same")))
    if len(shown) > most:
        lines.append(screen.text("        ", (f"… {len(shown) - most} more (--all)", "same")))
    if finding.todo:
        lines.append(screen.text("      → ", finding.todo.replace(" DIR", f" {shlex.quote(str(asked))}")))
    return lines


def _lines_of(finding: Finding, asked: Path) -> list[str]:
    files = [os.path.relpath(path, asked if asked.is_dir() else asked.parent) for path in finding.files]
    if files and len(files) == len(finding.details):
        return [f"{file}  {detail}" for file, detail in zip(files, finding.details, strict=True)]
    return list(finding.details) or files


def _next(report: Report, page: Path | None, preset: str | None) -> str:
    asked = shlex.quote(str(report.asked))
    given = f" --preset {shlex.quote(preset)}" if preset else ""
    if page is None:
        return f"lorakit dataset check {asked}{given} --html dataset.html"
    return f"lorakit dataset tags {asked} --ontology anime|photographs|interiors"


def diff_lines(edited: Sequence[Edited], place: Path, *, width: int | None) -> list[Text]:
    """The first captions that change, before and after, each cut to one line of what differs."""
    lines: list[Text] = []
    room = (width or _WIDTH) - 4
    for one in edited[:_DIFFS_SHOWN]:
        before, after = _around(one.before, one.after, room)
        lines.append(screen.text((f"  {os.path.relpath(one.path, place)}", "same")))
        lines.append(screen.text(("  - " + before, "fail")))
        lines.append(screen.text(("  + " + after, "done")))
    if len(edited) > _DIFFS_SHOWN:
        lines.append(screen.text((f"  … {len(edited) - _DIFFS_SHOWN} more (--json names all)", "same")))
    return lines


def _around(before: str, after: str, room: int) -> tuple[str, str]:
    """Both captions from a little before the first letter that differs, cut to the room."""
    start = next(
        (at for at, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), min(len(before), len(after))
    )
    start = max(0, start - 20) if max(len(before), len(after)) > room else 0
    return _window(before, start, room), _window(after, start, room)


def _window(text: str, start: int, room: int) -> str:
    part = ("…" if start else "") + text[start:]
    return part if len(part) <= room else part[: room - 1] + "…"
