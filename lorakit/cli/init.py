"""`lorakit init`: lay out a workspace from what ships, never overwriting anything."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer

from lorakit.cli.options import Json
from lorakit.errors import DiskError, LorakitError
from lorakit.workspace import MARKER

__all__ = ["LaidOut", "init", "lay_out"]

#: The pages that a workspace has of its own, by their path in it.
PAGES: Final = {
    MARKER: (
        "# This folder is a lorakit workspace: commands find it from any sub-folder, and relative paths in presets count "
        "from here.\n"
    ),
    "runs/README.md": (
        "# runs/\n\nThe archive: one folder per run, made by `lorakit bake`. Nothing here is under version control but "
        "this page.\n"
    ),
    "vendor/README.md": (
        "# vendor/\n\nTrainers that live apart from lorakit, each in its own environment. Nothing here is under version "
        "control but this page.\n"
    ),
}
#: What ships with the package, by its path in a workspace.
SHIPPED: Final = ("presets", "datasets/demo")
#: Single files that ship, where the installation has them.
SHIPPED_FILES: Final = ("vendor/sd-scripts.toml",)


@dataclass(frozen=True)
class LaidOut:
    """What a workspace got, and what was already there and stayed as it was; paths relative to ``root``."""

    root: Path
    made: tuple[str, ...]
    kept: tuple[str, ...]


def init(
    folder: Annotated[
        str,
        typer.Argument(
            metavar="DIR", show_default=False, help="The folder, made if missing; the current one if not given."
        ),
    ] = ".",
    as_json: Json = False,
) -> None:
    """Make a folder a workspace, with presets and a dataset.

    It gets presets/, datasets/, runs/, vendor/ and lorakit.toml. Files that exist are left as they are, so it may be typed again after an upgrade to get what is new.
    """
    done = lay_out(Path(folder))
    from lorakit.cli import screen

    if as_json:
        screen.print_json({"root": str(done.root), "made": done.made, "kept": done.kept})
        return
    out = screen.console()
    for top in ("lorakit.toml", "presets", "datasets", "runs", "vendor"):
        made = sum(_is_under(name, top) for name in done.made)
        kept = sum(_is_under(name, top) for name in done.kept)
        told = [f"{count} {word}" for count, word in ((made, "new"), (kept, "already there")) if count]
        label = top if top == MARKER else f"{top}/"
        out.print(screen.text((f"  {label:<14}", "done" if made else "same"), ", ".join(told)))
    out.print(screen.text(("✓ ", "done"), f"{done.root} is a workspace"))
    here = "" if done.root == Path.cwd() else f"cd {_quoted(folder)} && "
    steps = (
        ("look", f"{here}lorakit plan quickstart"),
        ("model", "python -m lorakit.bench_model write models/bench-sdxl.safetensors --size learned"),
        ("bake", "lorakit bake quickstart"),
    )
    screen.put(out, screen.columns([(label, command) for label, command in steps], indent=2, gap=3))


def lay_out(folder: Path) -> LaidOut:
    """Make a workspace of ``folder``. Raises DiskError where it cannot be written, LorakitError when lorakit is incomplete."""
    from lorakit import atomic

    root = Path(os.path.expanduser(folder)).absolute()  # not Path.expanduser: it fails at the ~ of nobody
    made: list[str] = []
    kept: list[str] = []
    try:
        for name, content in _content():
            target = root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                atomic.write_once(target, content)
                made.append(name)
            except FileExistsError:
                kept.append(name)
    except OSError as error:
        raise DiskError(
            f"{root} cannot become a workspace",
            why=f"{error.filename or root}: {error.strerror}",
            todo="choose a folder that can be written to",
        ) from error
    return LaidOut(root, tuple(made), tuple(kept))


def _content() -> Iterator[tuple[str, bytes]]:
    for name, page in PAGES.items():
        yield name, page.encode()
    source = _source()
    for top in SHIPPED:
        for path in sorted((source / top).rglob("*")):
            parts = path.relative_to(source).parts
            if path.is_file() and not any(part.startswith((".", "__")) for part in parts):
                yield "/".join(parts), path.read_bytes()
    for name in SHIPPED_FILES:
        if (source / name).is_file():
            yield name, (source / name).read_bytes()


def _source() -> Path:
    # A wheel carries the files inside the package; a checkout has them beside it.
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "shipped", package.parent):
        if all((folder / top).is_dir() for top in SHIPPED):
            return folder
    raise LorakitError(
        "the presets that ship with lorakit are missing", why=f"looked in {package}", todo="install lorakit again"
    )


def _is_under(name: str, top: str) -> bool:
    return name == top or name.startswith(f"{top}/")


def _quoted(path: str) -> str:
    import shlex

    return shlex.quote(path)
