"""`lorakit dataset check`: pictures, captions, tags and token counts of a dataset before it is trained on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from lorakit.cli.options import Json, complete_preset, workspace
from lorakit.errors import DiskError, TrainerError, UsageError

if TYPE_CHECKING:
    from lorakit.dataset.desk.check import Counter, Progress
    from lorakit.dataset.desk.pictures import Memory
    from lorakit.preset.models import Preset

__all__ = ["DEFAULTS", "HELP", "Folder", "PresetOption", "check", "counter_of", "progress_line", "settings_of"]

HELP: Final = "Check a dataset, and rewrite its captions with an undo."
#: A preset of nothing but defaults, for folders that are checked without one.
DEFAULTS: Final = 'name = "defaults"\n[base]\nmodel = "sdxl.safetensors"\n[dataset]\npath = "."\n[optim]\nunet_lr = 1e-4\nte_lr = 0\n[length]\nepochs = 1\n'

Folder = Annotated[
    str, typer.Argument(metavar="DIR", help="The folder that holds the N_name folders, or one folder of pictures.")
]
PresetOption = Annotated[
    str | None,
    typer.Option(
        "--preset",
        metavar="PRESET",
        autocompletion=complete_preset,
        help="Take resolution, buckets and caption settings from this preset; else 1024 px, .txt.",
    ),
]


def check(
    folder: Folder,
    *,
    preset: PresetOption = None,
    html: Annotated[
        str | None,
        typer.Option("--html", metavar="FILE", help="Write one page with thumbnails, buckets and crops to this file."),
    ] = None,
    pictures: Annotated[
        int,
        typer.Option(
            "--pictures", metavar="N", help="Pictures with a thumbnail on the page, those with findings first."
        ),
    ] = 500,
    tokenizer: Annotated[
        str | None, typer.Option("--tokenizer", metavar="DIR", help="Count tokens with the merges.txt in this folder.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Name every file of a finding, not only the first.")] = False,
    as_json: Json = False,
) -> None:
    """Say what stops the trainer or deserves a look.

    Pictures, captions, tags, token counts, buckets; what was seen of a picture is remembered.
    """
    from lorakit.cli import screen
    from lorakit.cli.desk_screens import check_page
    from lorakit.dataset.desk.check import blueprint_of, with_thumbnails
    from lorakit.dataset.desk.check import check as checked
    from lorakit.plan.from_preset import dataset_defaults

    settings = settings_of(preset)
    asked = Path(folder).expanduser()
    blueprint = blueprint_of(asked, dataset_defaults(settings))
    memory = memory_of(asked)
    began = time.monotonic()
    with progress_line() as progress:
        report = checked(
            asked,
            blueprint,
            memory,
            counter_of(tokenizer),
            max_token_length=settings.dataset.max_token_length,
            progress=progress,
        )
        if html is not None:
            report = with_thumbnails(report, memory, pictures, progress)
    seconds = time.monotonic() - began
    page = None if html is None else Path(html).expanduser()
    if page is not None:
        from lorakit.dataset.desk.page import html_page

        _write(page, html_page(report))
    if as_json:
        screen.print_json(
            {**report.to_json(), "seconds": round(seconds, 2), "html": None if page is None else str(page)}
        )
        return
    out = screen.console()
    lines = check_page(
        report,
        seconds=seconds,
        width=screen.fitting(out),
        every=every,
        page=page,
        preset=preset,
        unwritten=memory.fault,
    )
    screen.put(out, lines)


def settings_of(preset: str | None) -> Preset:
    """The preset that is named, or one of defaults."""
    from lorakit.preset.files import find_preset, load_preset, load_text

    if preset is None:
        return load_text(DEFAULTS, Path("defaults.toml")).preset
    return load_preset(find_preset(preset, workspace().presets)).preset


def memory_of(asked: Path) -> Memory:
    """What was seen of a folder before, in the workspace's private folder."""
    from hashlib import sha256

    from lorakit.dataset.desk.pictures import Memory

    name = sha256(str(asked.absolute()).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return Memory(workspace().private / "pictures" / f"{name}.json")


def counter_of(folder: str | None) -> Counter:
    """Who counts tokens: a folder that is named, the workspace's tokenizer cache, or the package with the vocabulary."""
    from lorakit.dataset.desk.check import Counter
    from lorakit.dataset.desk.tokens import ClipCounter
    from lorakit.trainers.sd_scripts.tokenizers import cache_of, is_complete, merges_of_folder, merges_of_package

    cache = cache_of(workspace())
    if folder is not None:
        merges, source = merges_of_folder(Path(folder).expanduser()), folder
    elif is_complete(cache):
        merges, source = merges_of_folder(cache), "the workspace's tokenizers"
    else:
        try:
            merges, source = merges_of_package(), "instant-clip-tokenizer"
        except TrainerError as error:
            return Counter(
                None, why_not=f"{error.what}: pip install 'lorakit[builtin]', or give a folder with --tokenizer DIR"
            )
    counter = ClipCounter(merges)
    return Counter(counter.count, source, mends=counter.mends)


@contextmanager
def progress_line() -> Iterator[Progress | None]:
    """One line that says how far it is, once it takes longer than a moment; None where nobody would see it."""
    from lorakit.cli import screen
    from lorakit.cli.presets import PATIENCE_SECONDS

    out = screen.console(err=True)
    if not out.is_terminal:
        yield None
        return
    from rich.live import Live

    began = time.monotonic()
    with Live(console=out, transient=True, auto_refresh=False) as live:

        def show(what: str, done: int, total: int) -> None:
            if time.monotonic() - began > PATIENCE_SECONDS and total:
                share = done / total
                live.update(screen.text(f"{what}  {done}/{total}  ", screen.progress_bar(share, 30)), refresh=True)

        yield show


def _write(target: Path, text: str) -> None:
    from lorakit import atomic

    if not target.parent.is_dir():
        raise UsageError(f"there is no folder {target.parent}", todo="make it first, or choose another")
    try:
        atomic.write_text(target, text)
    except OSError as error:
        raise DiskError(f"{target} cannot be written", why=error.strerror or str(error)) from error
