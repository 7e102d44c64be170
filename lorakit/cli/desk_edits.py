"""`lorakit dataset tags`, `add`, `remove`, `rename`, `dedupe`, `captions`, `undo`: captions rewritten, shown first, with an undo."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lorakit.cli.desk import Folder
from lorakit.cli.options import Json
from lorakit.errors import DatasetError, UsageError

if TYPE_CHECKING:
    from lorakit.dataset.desk.edits import Edit, Rewriting

__all__ = ["add", "captions", "dedupe", "remove", "rename", "tags", "undo"]

Write = Annotated[bool, typer.Option("--write", help="Write the captions; without it they are only shown.")]
Extension = Annotated[str, typer.Option("--extension", metavar="SUFFIX", help="Suffix of the caption files.")]
Separator = Annotated[str, typer.Option("--separator", metavar="TEXT", help="What stands between tags.")]


def tags(
    folder: Folder,
    *,
    ontology: Annotated[
        str, typer.Option("--ontology", metavar="NAME|FILE", help="anime, photographs, interiors, or a TOML file.")
    ],
    trigger: Annotated[
        list[str] | None,
        typer.Option("--trigger", metavar="TAG", help="Stays first; found by itself where captions begin alike."),
    ] = None,
    keep: Annotated[int, typer.Option("--keep", metavar="N", help="So many first tags keep their place.")] = 0,
    check: Annotated[
        bool, typer.Option("--check", help="Measure how alike both text encoders find each caption before and after.")
    ] = False,
    base: Annotated[
        str | None,
        typer.Option("--base", metavar="FILE|PRESET", help="The base model for --check, or a preset that names it."),
    ] = None,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Write although --check finds the captions too different.")
    ] = False,
    write: Write = False,
    extension: Extension = ".txt",
    separator: Separator = ",",
    as_json: Json = False,
) -> None:
    """Sort the tags of every caption by an ontology.

    No word is added or lost. Like the commands below it shows what would change, and writes with --write.
    """
    from lorakit.cli import desk_similarity
    from lorakit.dataset.desk.caption_files import captions_of, images_below, read_caption_file
    from lorakit.dataset.desk.edits import common_first, rewriting, sort
    from lorakit.dataset.desk.ontology import load_ontology

    place = Path(folder).expanduser()
    order = load_ontology(ontology)
    if keep < 0:
        raise UsageError("--keep takes 0 or more")
    found = None
    if trigger is None and not keep:
        files = {path for _, path in captions_of(images_below(place), extension) if path}
        found = common_first((read_caption_file(path).caption for path in sorted(files)), separator)
    edit = sort(order, triggers=trigger or ([found] if found else []), keep=keep)
    made = rewriting(place, edit, extension=extension, separator=separator, keep_front=True, sentences=False)
    similarity = desk_similarity.measure(made, base) if check else None
    too_far = similarity is not None and not similarity.passes
    done = write and (anyway or not too_far)
    extra: dict[str, Any] = {
        "ontology": order.name,
        "trigger": trigger or ([found] if found else []),
        "check": None if similarity is None else similarity.to_json(),
        "categories": {one.path.name: _sorted_by(one.after, separator, order) for one in made.edited}
        if as_json
        else {},
    }
    notes = (
        [("note", f"{found!r} begins almost every caption: taken as the trigger, which stays first")] if found else []
    )
    _finish(place, made, f"tags --ontology {ontology}", write=done, as_json=as_json, notes=notes, extra=extra,
            similarity=similarity.lines() if similarity else ())  # fmt: skip
    if too_far and not done:
        assert similarity is not None
        raise DatasetError(
            "the new order changes what the text encoders read too much",
            why=similarity.why,
            todo="keep more tags in front (--keep N), or --anyway to write it all the same",
        )


def add(
    folder: Folder,
    new: Annotated[list[str], typer.Argument(metavar="TAG...", help="Tags to put in front, where they are not yet.")],
    *,
    where: Annotated[
        str | None, typer.Option("--where", metavar="PATTERN", help="Only in captions with a tag that fits.")
    ] = None,
    last: Annotated[bool, typer.Option("--last", help="Put them at the end.")] = False,
    write: Write = False,
    extension: Extension = ".txt",
    separator: Separator = ",",
    as_json: Json = False,
) -> None:
    """Add tags to captions that do not have them."""
    from lorakit.dataset.desk import edits

    _run(
        folder,
        edits.add(new, where=where, last=last),
        "add " + shlex.join(new),
        write=write,
        files=(extension, separator),
        as_json=as_json,
    )


def remove(
    folder: Folder,
    patterns: Annotated[list[str], typer.Argument(metavar="PATTERN...", help="Tags, *hair, or /regular expression/.")],
    *,
    write: Write = False,
    extension: Extension = ".txt",
    separator: Separator = ",",
    as_json: Json = False,
) -> None:
    """Remove the tags that fit a pattern."""
    from lorakit.dataset.desk import edits

    _run(
        folder,
        edits.remove(patterns),
        "remove " + shlex.join(patterns),
        write=write,
        files=(extension, separator),
        as_json=as_json,
    )


def rename(
    folder: Folder,
    pattern: Annotated[str, typer.Argument(metavar="PATTERN", help="A tag, *hair, or /regular expression/.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help=r"The new tag; \1 is a group of a regular expression.")],
    *,
    write: Write = False,
    extension: Extension = ".txt",
    separator: Separator = ",",
    as_json: Json = False,
) -> None:
    """Rename the tags that fit a pattern."""
    from lorakit.dataset.desk import edits

    _run(
        folder,
        edits.rename(pattern, new),
        shlex.join(["rename", pattern, new]),
        write=write,
        files=(extension, separator),
        as_json=as_json,
    )


def dedupe(
    folder: Folder,
    *,
    write: Write = False,
    extension: Extension = ".txt",
    separator: Separator = ",",
    as_json: Json = False,
) -> None:
    """Leave out tags that come twice in a caption.

    Case, underscores and weights make no other tag.
    """
    from lorakit.dataset.desk import edits

    _run(folder, edits.dedupe, "dedupe", write=write, files=(extension, separator), as_json=as_json)


def captions(
    folder: Folder,
    *,
    use: Annotated[
        str,
        typer.Option("--use", metavar="WHAT", help="tags, sentences, joined (one line), or either (drawn each time)."),
    ],
    tag_suffix: Annotated[str, typer.Option("--tags", metavar="SUFFIX", help="Files with tags.")] = ".txt",
    sentence_suffix: Annotated[
        str, typer.Option("--sentences", metavar="SUFFIX", help="Files with sentences.")
    ] = ".caption",
    output: Annotated[str, typer.Option("--output", "-o", metavar="SUFFIX", help="Files to write.")] = ".train.txt",
    sentence_first: Annotated[
        bool, typer.Option("--sentence-first", help="With joined: the sentence before the tags.")
    ] = False,
    protect: Annotated[
        str | None,
        typer.Option(
            "--protect", metavar="MARK", help="Write MARK for a sentence's commas, so that it is shuffled as one tag."
        ),
    ] = None,
    write: Write = False,
    as_json: Json = False,
) -> None:
    """Make captions of a tag file and a sentence file.

    They stand beside each picture; the settings that the preset needs are named.
    """
    from lorakit.cli import screen
    from lorakit.dataset.desk.dual import USES, dual_captions, names, settings_needed
    from lorakit.dataset.desk.rewrite import apply

    chosen = next((one for one in USES if one == use), None)
    if chosen is None:
        raise UsageError(f"--use {use} is not known", todo=f"one of {', '.join(USES)}")
    place = Path(folder).expanduser()
    made = dual_captions(
        place, chosen, tags=tag_suffix, sentences=sentence_suffix, target=output, sentence_first=sentence_first, protect=protect
    )  # fmt: skip
    needed = settings_needed(chosen, output if output.startswith(".") else f".{output}", protect)
    written = apply(place, made.changes, f"captions --use {use}") if write else 0
    if as_json:
        screen.print_json(
            {
                "changed": [str(one.path) for one in made.changes],
                "same": made.same,
                "written": written,
                "fallen_back": list(map(str, made.fallen_back)),
                "without_caption": list(map(str, made.neither)),
                "left": [{"path": str(path), "reason": reason} for path, reason in made.left],
                "settings": dict(needed),
            }
        )
        return
    out = screen.console()
    lines = [_head(len(made.changes), made.same, written, "caption file")]
    if made.sample:
        text, trained = made.sample
        lines += [screen.text(("  file      ", "same"), text), screen.text(("  trained   ", "same"), trained)]
    lines += [screen.text(("look  ", "look"), f"{path.name} {reason}") for path, reason in made.left[:5]]
    if made.fallen_back:
        lines.append(
            screen.text(
                ("look  ", "look"),
                f"{screen.count(len(made.fallen_back), 'picture')} with one of the two files only: {names(made.fallen_back)}",
            )
        )
    if made.neither:
        lines.append(
            screen.text(
                ("look  ", "look"), f"{screen.count(len(made.neither), 'picture')} with neither: {names(made.neither)}"
            )
        )
    lines.append(
        screen.text(
            "the preset needs  ", (" · ".join(f"{key} = {_toml(value)}" for key, value in needed.items()), "strong")
        )
    )
    lines.append(_next(place, bool(made.changes), written))
    screen.put(out, lines)


def undo(
    folder: Folder,
    *,
    anyway: Annotated[
        bool,
        typer.Option("--anyway", help="Leave captions that were changed since as they are, and put back the others."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Put back what the last rewrite of a folder replaced.

    Again: the one before it.
    """
    from lorakit.cli import screen
    from lorakit.dataset.desk.rewrite import undo as undone

    place = Path(folder).expanduser()
    if not place.is_dir():
        raise DatasetError(f"there is no folder {place}")
    found = undone(place, anyway=anyway)
    if as_json:
        screen.print_json({**asdict(found), "left": list(map(str, found.left))})
        return
    out = screen.console()
    out.print(screen.text(("✓ ", "done"), f"{screen.count(found.restored, 'file')} as before {found.what!r}"))
    for path in found.left:
        out.print(screen.text(("look  ", "look"), f"{path} was changed since and is left as it is"))


def _run(folder: str, edit: Edit, what: str, *, write: bool, files: tuple[str, str], as_json: bool) -> None:
    """One edit of a folder; ``files`` are the suffix of its caption files and what stands between their tags."""
    from lorakit.dataset.desk.edits import rewriting

    place = Path(folder).expanduser()
    made = rewriting(place, edit, extension=files[0], separator=files[1])
    _finish(place, made, what, write=write, as_json=as_json)


def _finish(
    place: Path, made: Rewriting, what: str, *, write: bool, as_json: bool, notes: Sequence[tuple[str, str]] = (),
    extra: dict[str, Any] | None = None, similarity: Sequence[Any] = (),
) -> None:  # fmt: skip
    """Show what changes, and write it where that is asked for."""
    from lorakit.cli import screen
    from lorakit.cli.desk_screens import diff_lines
    from lorakit.dataset.desk.rewrite import apply

    written = apply(place, made.changes, what) if write else 0
    if as_json:
        screen.print_json(
            {
                **(extra or {}),
                "changed": [{"path": str(one.path), "before": one.before, "after": one.after} for one in made.edited],
                "same": made.same,
                "left": [{"path": str(path), "reason": reason} for path, reason in made.left],
                "without_caption": made.without_caption,
                "written": written,
            }
        )
        return
    out = screen.console()
    lines = [_head(len(made.edited), made.same, written, "caption")]
    if not written:
        lines += diff_lines(made.edited, place, width=screen.fitting(out))
    lines += [screen.text((f"{level:<6}", "same"), text) for level, text in notes]
    reasons: dict[str, list[Path]] = {}
    for path, reason in made.left:
        reasons.setdefault(reason, []).append(path)
    for reason, paths in reasons.items():
        told = f"{screen.count(len(paths), 'caption')} left as {'it is' if len(paths) == 1 else 'they are'}: {paths[0].name} {reason}"
        lines.append(screen.text(("look  ", "look"), told + (" …" if len(paths) > 1 else "")))
    lines += similarity
    lines.append(_next(place, bool(made.edited), written))
    screen.put(out, lines)


def _head(changed: int, same: int, written: int, word: str) -> Any:
    from lorakit.cli import screen

    if written:
        return screen.text(
            ("✓ ", "done"), (screen.count(written, word), "strong"), f" written, {same} stay as they are"
        )
    if not changed:
        return screen.text(("✓ ", "done"), f"nothing to change in {screen.count(same, word)}")
    return screen.text(
        (screen.count(changed, word), "strong"), f" would change, {same} stay as they are; nothing is written yet"
    )


def _next(place: Path, changes: bool, written: int) -> Any:
    from lorakit.cli import screen

    asked = shlex.quote(str(place))
    if written:
        return screen.text(("back: ", "same"), f"lorakit dataset undo {asked}")
    if changes:
        return screen.text(("next: ", "same"), "the same with --write; lorakit dataset undo puts everything back")
    return screen.text(("next: ", "same"), f"lorakit dataset check {asked}")


def _sorted_by(caption: str, separator: str, order: Any) -> dict[str, list[str]]:
    from lorakit.dataset.desk.tags import split

    found: dict[str, list[str]] = {}
    for tag in split(caption, separator):
        found.setdefault(order.category(tag), []).append(tag)
    return found


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f'"{value}"'
