"""`lorakit dataset diff`: the pictures and captions of two runs, or of a run and a folder, side by side."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lorakit.cli.desk import PresetOption, progress_line, settings_of
from lorakit.cli.options import Json, complete_run, workspace
from lorakit.errors import ArchiveError, DatasetError

if TYPE_CHECKING:
    from rich.text import Text

    from lorakit.verdict.dataset_diff import Diff

__all__ = ["diff"]

_SHOWN = 8


def diff(
    first: Annotated[
        str, typer.Argument(metavar="RUN|DIR", autocompletion=complete_run, help="A run, or a folder with pictures.")
    ],
    second: Annotated[
        str, typer.Argument(metavar="RUN|DIR", autocompletion=complete_run, help="What it is compared with.")
    ],
    *,
    preset: PresetOption = None,
    as_json: Json = False,
) -> None:
    """Say which pictures and captions of two runs differ."""
    from lorakit.cli import screen
    from lorakit.verdict.dataset_diff import diff as compared

    names, records = zip(*(_record(word, preset) for word in (first, second)), strict=True)
    found = compared(*records)
    if as_json:
        screen.print_json({"first": names[0], "second": names[1], **found.to_json()})
        return
    out = screen.console()
    screen.put(out, _page(found, names[0], names[1], width=screen.fitting(out)))


def _record(word: str, preset: str | None) -> tuple[str, dict[str, Any]]:
    """The name and the dataset record of a run, or of a folder as it is now; a run of that name comes first."""
    from lorakit.archive.run import open_run, read_record

    place = workspace()
    folder = Path(word).expanduser()
    try:
        run = open_run(place.runs, word)
    except ArchiveError as error:
        if folder.exists():
            return word, _record_of_folder(folder, preset)
        raise ArchiveError(
            f"there is neither a run nor a folder {word}", why=error.what, todo="lorakit ls lists the runs"
        ) from error
    record = read_record(run.dataset)
    if not isinstance((record or {}).get("images"), list):
        raise ArchiveError(f"{run.short} has no readable dataset.json", todo=f"lorakit verify {run.short}")
    return run.short, record or {}


def _record_of_folder(folder: Path, preset: str | None) -> dict[str, Any]:
    from lorakit.dataset.desk.check import blueprint_of
    from lorakit.dataset.scan import scan
    from lorakit.plan.from_preset import dataset_defaults
    from lorakit.verdict.dataset_diff import record_of

    blueprint = blueprint_of(folder, dataset_defaults(settings_of(preset)))
    with progress_line() as progress:
        tell = (lambda done, total: progress("reading the dataset", done, total)) if progress else None
        data = scan(blueprint, skip_unreadable=True, progress=tell)
    try:
        return record_of(data)
    except OSError as error:
        raise DatasetError(f"{error.filename} cannot be read", why=error.strerror or str(error)) from error


def _page(found: Diff, first: str, second: str, *, width: int | None) -> list[Text]:
    from lorakit.cli import screen

    counts = f"{screen.count(found.images[0], 'picture')} → {screen.count(found.images[1], 'picture')}"
    parts = [
        f"{sign}{len(which)}{word}" for sign, which, word in (
            ("+", found.added, ""), ("−", found.removed, ""), ("", found.replaced, " replaced"),
            ("", found.recaptioned, " recaptioned"), ("", found.rearranged, " rearranged"), ("", found.moved, " renamed"),
        ) if which
    ]  # fmt: skip
    if not parts:
        return [
            screen.text(
                ("✓ ", "done"),
                f"{first} and {second} have the same pictures, captions, repeats and buckets  ({counts})",
            )
        ]
    lines = [screen.text((f"{first} → {second}", "strong"), f"  {counts}: {', '.join(parts)}"), screen.text("")]
    lines += _list("+", "done", found.added) + _list("−", "fail", found.removed)
    lines += _list("≠", "look", found.replaced, "another picture under the same name")
    lines += _list("→", "same", tuple(f"{before} is {after} now" for before, after in found.moved))
    for one in found.recaptioned[:_SHOWN]:
        lines.append(screen.text(("✎ ", "look"), one.path))
        if one.added or one.removed:
            tags = [*(f"+ {tag}" for tag in one.added), *(f"− {tag}" for tag in one.removed)]
            lines += [screen.text("    ", part) for part in screen.wrap(tags, (width or 100) - 6, gap=3)]
        else:
            lines.append(screen.text("    ", ("the same tags in another order", "same")))
    if len(found.recaptioned) > _SHOWN:
        lines.append(
            screen.text(("    ", ""), (f"… {len(found.recaptioned) - _SHOWN} more captions (--json names all)", "same"))
        )
    lines += _list("⇄", "look", tuple(f"{path}  {what}" for path, what in found.rearranged))
    if found.tags:
        rows: list[list[str | Text]] = [
            [tag, str(before), "→", str(after)] for tag, before, after in found.tags[:_SHOWN]
        ]
        lines += [screen.text(""), screen.text(("tags in captions", "same"))]
        lines += screen.columns(rows, right=(1, 3), indent=2, width=width, flexible=(0,))
        if len(found.tags) > _SHOWN:
            lines.append(screen.text((f"  … {len(found.tags) - _SHOWN} more", "same")))
    folder = next((word for word in (second, first) if Path(word).expanduser().is_dir()), None)
    follow = f"lorakit dataset check {shlex.quote(folder)}" if folder else f"lorakit compare {first} {second}"
    lines += [screen.text(""), screen.text(("next: ", "same"), follow)]
    return lines


def _list(sign: str, meaning: str, names: tuple[str, ...], what: str = "") -> list[Text]:
    from lorakit.cli import screen

    lines = [screen.text((f"{sign} ", meaning), name, (f"  {what}" if what else "", "same")) for name in names[:_SHOWN]]
    if len(names) > _SHOWN:
        lines.append(screen.text((f"  … {len(names) - _SHOWN} more (--json names all)", "same")))
    return lines
