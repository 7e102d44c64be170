"""`lorakit import` and `lorakit export-config`: recipes of other trainers in, and out again."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorakit.cli.options import Json, workspace
from lorakit.errors import DiskError, UsageError

if TYPE_CHECKING:
    from rich.text import Text

    from lorakit.interop.imported import Imported, Recipe
    from lorakit.preset.models import Preset

__all__ = ["export_config", "import_recipe"]


def import_recipe(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE|COMMAND",
            help="A settings file or LoRA of another trainer, or its command line in quotes; - reads it from the terminal.",
        ),
    ],
    *,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="PRESET", help="Write the preset to this file.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace PRESET when it exists.")] = False,
    era: Annotated[
        str | None,
        typer.Option("--era", metavar="ERA", help="The version of kohya_ss, such as v25; else told by the keys."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Turn another trainer's recipe into a preset."""
    from lorakit.cli import screen

    imported = _imported(words, era)
    target = None if output is None else _target(output)
    if target is not None:
        _write(target, imported.toml, force=force)
    if as_json:
        screen.print_json({**imported.to_json(), "path": None if target is None else str(target)})
        return
    out = screen.console()
    screen.put(out, _page(imported, target, asked=words, width=screen.fitting(out)))


def export_config(
    asked: Annotated[
        str, typer.Argument(metavar="RUN|PRESET", help="A preset by file or name, or a run in the archive.")
    ],
    *,
    to: Annotated[
        str, typer.Option("--to", metavar="FORMAT", help="sd-scripts-toml, kohya-gui, easy-training or onetrainer.")
    ],
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE", help="Write it to this file; else it is printed.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE when it exists.")] = False,
    as_json: Json = False,
) -> None:
    """Write a preset as another trainer's settings."""
    from dataclasses import asdict

    from lorakit.cli import screen
    from lorakit.interop.export import export

    exported = export(_preset(asked), workspace().root, to)
    target = None if output is None else Path(output).expanduser()
    if target is not None:
        _write(target, exported.text, force=force)
    if as_json:
        screen.print_json({**asdict(exported), "path": None if target is None else str(target)})
        return
    if target is None:
        sys.stdout.write(exported.text)
    out = screen.console(err=target is None)
    if target is not None:
        out.print(screen.text(("✓ ", "done"), (str(target), "strong"), f"  for {to}"))
    rows: list[list[str | Text]] = [
        [screen.text(("lost  ", "look"), one.key), one.asked, "→", one.becomes] for one in exported.lost
    ]
    screen.put(out, screen.columns(rows, width=screen.fitting(out), flexible=(1, 3)))
    if not rows:
        out.print(screen.text(("✓ ", "done"), "nothing is lost"))
    if target is not None:
        out.print(screen.text(("look  ", "same"), f"lorakit import {shlex.quote(str(target))}"))


def _preset(asked: str) -> Preset:
    from lorakit.archive.run import open_run
    from lorakit.bake.rerun import archived_preset
    from lorakit.errors import ArchiveError, PresetError
    from lorakit.preset.files import find_preset, load_preset

    place = workspace()
    try:
        path = find_preset(asked, place.presets)
    except PresetError:
        try:
            return archived_preset(open_run(place.runs, asked)).preset
        except ArchiveError as error:
            raise UsageError(
                f"there is neither a preset nor a run {asked}", why=error.what, todo="lorakit ls lists the runs"
            ) from error
    return load_preset(path).preset


def _imported(words: list[str], era: str | None) -> Imported:
    from lorakit.interop.recognise import import_file, import_text

    if len(words) > 1:  # a command that was not put in quotes, after a --
        return import_text(shlex.join(words), era=era)
    asked = words[0]
    if asked == "-":
        return import_text(sys.stdin.read(), era=era)
    try:
        path = Path(asked).expanduser()
        exists = os.path.lexists(path)
    except (OSError, ValueError, RuntimeError):  # too long for a path: a command
        exists = False
    if exists:
        return import_file(path, era=era)
    if any(letter.isspace() for letter in asked.strip()):
        return import_text(asked, era=era)
    raise UsageError(
        f"there is no file {asked}",
        why="a command line has blanks in it, and this has none",
        todo="give a settings file",
    )


def _target(output: str) -> Path:
    """``koi`` and ``koi.toml`` are files where they are named; a bare name goes to presets/."""
    path = Path(output).expanduser()
    if path.suffix != ".toml":
        path = path.with_name(path.name + ".toml")
    return workspace().presets / path if path.name == str(path) and workspace().presets.is_dir() else path


def _write(target: Path, text: str, *, force: bool) -> None:
    from lorakit import atomic

    if os.path.lexists(target) and not force:
        raise UsageError(f"{target} exists already", todo="choose another name, or --force to replace it")
    if not target.parent.is_dir():
        raise UsageError(f"there is no folder {target.parent}", todo="make it first, or choose another")
    try:
        atomic.write_text(target, text)
    except OSError as error:
        raise DiskError(f"{target} cannot be written", why=error.strerror or str(error)) from error


def _page(imported: Imported, target: Path | None, *, asked: list[str], width: int | None) -> list[Text]:
    """What came in, how long it trains, what did not come in, what to look at, and the next command."""
    from lorakit.cli import screen
    from lorakit.cli.plan_screen import finding_lines
    from lorakit.interop.preset_text import origin_words
    from lorakit.verdict.settings import show_value

    era = f" · {imported.era}" if imported.era else ""
    lines = [screen.text((imported.preset.name, "strong"), f"  from {imported.title}{era}"), screen.text("")]
    rows: list[list[str | Text]] = []
    for key, value in imported.values.items():
        if value.origin == "default" and key not in imported.toml_keys:
            continue
        meaning = {"unknown": "look", "default": "same"}.get(value.origin, "")
        rows.append([screen.text((cell, meaning)) for cell in (key, show_value(key, value.value), origin_words(value))])
    lines += screen.columns(rows, width=width, flexible=(2,), indent=2)
    lines += [screen.text(""), screen.text(("recipe  ", "same"), recipe_words(imported.recipe))]
    if imported.unmapped:
        lines += [screen.text(""), screen.text(("not imported", "look"))]
        lines += screen.columns(
            [[one.text, one.reason] for one in imported.unmapped], width=width, flexible=(0, 1), indent=2
        )
    if imported.notes or imported.findings:
        lines.append(screen.text(""))
    for note in imported.notes:
        lines.append(screen.text(("look  ", "look"), note.what))
        if note.why:
            lines.append(screen.text(("      " + note.why, "same")))
    lines += finding_lines(imported.findings)
    lines.append(screen.text(""))
    if target is None:
        name = imported.preset.name.replace(" ", "-")
        source = shlex.quote(asked[0]) if len(asked) == 1 and len(asked[0]) < 80 else "…"
        lines.append(screen.text(("next: ", "same"), f"lorakit import {source} -o {shlex.quote(name)}"))
    else:
        lines.append(screen.text(("✓ ", "done"), (str(target), "strong")))
        lines.append(screen.text(("next: ", "same"), f"lorakit plan {shlex.quote(str(target))}"))
    return lines


def recipe_words(recipe: Recipe) -> str:
    """``9 epochs · warmup 7% of the steps it estimates, rounded half to even``."""
    length = (
        f"{recipe.epochs:g} epochs" if recipe.epochs is not None
        else f"{recipe.steps} steps" if recipe.steps is not None
        else "length unknown"
    )  # fmt: skip
    warm = "no warmup"
    if recipe.warmup_ratio:
        base = "the steps it estimates from files" if recipe.base == "estimated" else "the steps that are trained"
        rounding = {"half-even": ", rounded half to even", "floor": ", rounded down", "none": ""}[recipe.rounding]
        warm = f"warmup {recipe.warmup_ratio * 100:.4g}% of {base}{rounding}"
    elif recipe.warmup_steps:
        warm = f"warmup {recipe.warmup_steps} steps"
    emitted = "".join(f" · {name} {number:g} stands in it, and follows" for name, number in recipe.emitted.items())
    return f"{length} · {warm}{emitted}"
