"""`lorakit embeddings`: how alike the text encoders make the captions, with each checkpoint and without."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from lorakit.cli.options import Json, complete_run, workspace
from lorakit.errors import UsageError

if TYPE_CHECKING:
    from rich.text import Text

    from lorakit.archive.run import Run
    from lorakit.evidence.embeddings import Embeddings, Question
    from lorakit.workspace import Workspace

__all__ = ["embeddings"]

_NAMES: Final = {"te1": "TE1", "te2": "TE2"}


def embeddings(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN|FILE...",
            autocompletion=complete_run,
            help="A run, whose checkpoints are measured, or LoRA files.",
        ),
    ],
    *,
    captions: Annotated[
        str | None,
        typer.Option(
            "--captions", metavar="FILE|DIR", help="Captions: a file with one a line, or a folder with caption files."
        ),
    ] = None,
    base: Annotated[str | None, typer.Option("--base", metavar="FILE", help="The base model.")] = None,
    as_json: Json = False,
) -> None:
    """Measure how alike text encoders make the captions.

    Mean cosine similarity of all pairs, its spread, the share above 0.9 and the diversity (1 − mean), of TE1 and TE2, with each checkpoint and with the base model alone. Needs the extra `builtin`; kept in the run's analysis/.
    """
    from lorakit.cli import screen
    from lorakit.cli.desk import progress_line
    from lorakit.evidence.embeddings import measure

    found: list[tuple[str, tuple[Embeddings, ...]]] = []
    with progress_line() as show:

        def hear(record: dict[str, Any]) -> None:
            if show is not None and record["type"] == "progress":
                show("embedding the captions", record["done"], record["of"])

        for name, question, run in _questions(targets, captions, base, workspace()):
            found.append((name, measure(question, keep_in=run, on_record=hear)))
    if as_json:
        told = [{"name": name, "checkpoints": [entry.to_json() for entry in entries]} for name, entries in found]
        screen.print_json(told)
        return
    out = screen.console()
    for at, (name, entries) in enumerate(found):
        screen.put(out, [*([screen.text("")] if at else []), *_page(name, entries, screen.fitting(out))])


def _questions(
    targets: Sequence[str], captions: str | None, base: str | None, place: Workspace
) -> list[tuple[str, Question, Run | None]]:
    """What to ask: of each run by itself; of files together where they have one base model. Raises as the files and runs do."""
    from dataclasses import replace

    from lorakit.archive.run import open_run
    from lorakit.evidence.embeddings import Question, question_of
    from lorakit.sheet.sources import find_base, open_source

    given = None if captions is None else _captions(Path(captions))
    found: list[tuple[str, Question, Run | None]] = []
    for target in targets:
        source = open_source(target, place)
        model = find_base((source,), base, place)
        if source.run is None:
            if given is None:
                raise UsageError(f"{target} is a file, and brings no captions", todo="add --captions FILE, or a folder")
            question = Question(model, given, tuple(one.path for one in source.checkpoints))
        else:
            question = question_of(open_run(place.runs, target), place, base=model)
            question = question if given is None else replace(question, captions=given)
        # What was measured with other captions than the run's own is not what its diagnosis asks for.
        found.append((source.name, question, source.run if given is None and base is None else None))
    return found


def _captions(path: Path) -> tuple[str, ...]:
    """The lines of a file, or what the .txt and .caption files of a folder and those below say."""
    try:
        if path.is_dir():
            files = sorted(one for one in path.rglob("*") if one.suffix in (".txt", ".caption") and one.is_file())
            texts = [one.read_text(encoding="utf-8", errors="replace").strip() for one in files]
        else:
            texts = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError as error:
        raise UsageError(f"{path} cannot be read", why=error.strerror or str(error)) from error
    return tuple(text for text in texts if text)


def _page(name: str, entries: Sequence[Embeddings], width: int | None) -> list[Text]:
    """A table: the base model, then each checkpoint."""
    from lorakit.cli import screen

    first = entries[0]
    pairs = first.captions * (first.captions - 1) // 2
    head = screen.text((name, "strong"), f"  {first.captions} distinct captions, {screen.count(pairs, 'pair')}")
    words = ["", *(word for part in _NAMES.values() for word in (f"{part} alike", ">.9", "diverse", "kept")), "overall"]
    table: list[list[str | Text]] = [[screen.text((word, "same")) for word in words]]
    rows = [("base model", first.base, None), *((Path(one.checkpoint).stem, one.parts, one) for one in entries)]
    for label, parts, one in rows:
        row: list[str | Text] = [label]
        for part in _NAMES:
            found = parts[part]
            row += [f"{found.mean:.3f} ±{found.std:.3f}", f"{found.above:.0%}", f"{found.diversity:.3f}"]
            row.append(f"{one.kept[part]:.3f}" if one else screen.text(("–", "same")))
        overall = sum(parts[part].diversity for part in _NAMES) / len(_NAMES)
        table.append([*row, f"{overall:.3f}"])
    meaning = (
        "alike: mean cosine of two captions · diverse: 1 − alike · kept: cosine of a caption with and without the LoRA"
    )
    lines = screen.columns(table, gap=2, right=tuple(range(1, len(words))), flexible=(0,), width=width)
    return [head, *lines, screen.text((meaning, "same"))]
