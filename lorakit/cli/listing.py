"""`lorakit ls`: the runs of an archive, filtered, sorted, in columns of one's choice."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from lorakit.cli.options import Json, workspace
from lorakit.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from rich.text import Text

    from lorakit.archive.facts import Value
    from lorakit.archive.index import Index
    from lorakit.archive.records import RunState

__all__ = ["ls"]

#: So many of the newest runs are listed unless all are asked for.
SHOWN: Final = 30
#: What `--csv` has unless columns are asked for.
_CSV: Final = (
    "id", "name", "created", "state", "reason", "steps", "total_steps", "loss.first", "loss.last", "validation", "seconds",
    "network.dim", "network.alpha", "optim.unet_lr", "optim.te_lr", "tag", "note",
)  # fmt: skip
#: What `+KEY` is added to.
_DEFAULT: Final = ("run", "name", "created", "state", "steps", "loss.last")


def ls(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILTER", help="Which runs, e.g. 'network.dim==32 and loss.last<0.1 and tag:good'."),
    ] = None,
    *,
    sort: Annotated[
        str | None, typer.Option("--sort", metavar="KEY", help="By this value, least first; -KEY: greatest first.")
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option("--columns", "-c", metavar="KEYS", help="These values, by commas; +KEY adds one to the usual."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", "-a", help=f"All runs, not only the newest {SHOWN}.")] = False,
    trash: Annotated[bool, typer.Option("--trash", help="What was removed and not yet purged.")] = False,
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print comma-separated values, all runs.")] = False,
) -> None:
    """List the runs, newest first."""
    from lorakit.archive.index import index_path, open_index
    from lorakit.archive.query import parse

    text = " ".join(words or ())
    node = parse(text)
    place = workspace()
    folder: Path = place.runs
    path: Path | None = index_path(place.private)
    if trash:
        from lorakit.archive.trash import trash_of

        folder, path = trash_of(place.runs), None
    with open_index(folder, path) as index:
        chosen = _chosen(index, node, text)
        chosen = _sorted(index, chosen, sort)
        keys = _columns(index, columns)
        if as_csv:
            _print_csv(index, chosen, keys or _CSV)
        elif as_json:
            _print_json(index, chosen, keys)
        else:
            _print(index, chosen, keys, everything=everything, asked=text, trash=trash)


def _chosen(index: Index, node: Any, text: str) -> list[int]:
    """The numbers of the runs that fit, newest first."""
    from lorakit.archive.query import keys_of, select

    newest_first = list(reversed(index.numbers))
    if node is None:
        return newest_first
    for key, at in keys_of(node):
        _must_exist(index, key, at, text)
    fitting = select(node, index.column, frozenset(index.numbers), text=text)
    return [number for number in newest_first if number in fitting]


def _must_exist(index: Index, key: str, at: int, text: str) -> None:
    from lorakit.archive.facts import RESULTS
    from lorakit.archive.query import unknown_key

    if key in RESULTS or key in index.known_keys():
        return
    from lorakit.preset.schema import exists
    from lorakit.preset.suggest import meant

    path = tuple(key.split("."))
    if not exists(path):
        raise unknown_key(key, at, text, index.known_keys(), "" if path[0] == "extra" else meant(path))


def _sorted(index: Index, numbers: list[int], sort: str | None) -> list[int]:
    from lorakit.archive.facts import canonical

    if sort is None:
        return numbers
    backwards = sort.startswith("-")
    key = canonical(sort.lstrip("+-"))
    _must_exist(index, key, len(sort) - len(sort.lstrip("+-")), sort)
    column = index.column(key)
    having = [number for number in numbers if number in column]
    having.sort(key=lambda number: _rank(column[number]), reverse=backwards)
    return having + [number for number in numbers if number not in column]


def _rank(value: Value) -> tuple[bool, float, str]:
    """Numbers before words; each by its own order."""
    if isinstance(value, (int, float)):
        return False, float(value), ""
    return True, 0.0, value if isinstance(value, str) else " ".join(value)


def _columns(index: Index, asked: str | None) -> tuple[str, ...]:
    """The keys of the columns that were asked for; empty for the usual ones."""
    from lorakit.archive.facts import canonical

    if asked is None:
        return ()
    words = [word.strip() for word in asked.split(",")]
    if not all(words):
        raise UsageError("a column has no name", why=asked, todo="such as --columns run,name,network.dim,loss.last")
    keys = list(_DEFAULT) if any(word.startswith("+") for word in words) else []
    at = 0
    for word in words:
        key = canonical(word.lstrip("+"))
        _must_exist(index, key, asked.index(word, at), asked)
        at = asked.index(word, at) + len(word)
        if key not in keys:
            keys.append(key)
    return tuple(keys)


def _print_json(index: Index, numbers: Sequence[int], keys: Sequence[str]) -> None:
    from lorakit.cli import screen

    if not keys:
        screen.print_json([state.to_json() for state in index.states(numbers)])
        return
    found = [{key: index.column(key).get(number) for key in ("id", *keys)} for number in numbers]
    screen.print_json(found)


def _print_csv(index: Index, numbers: Sequence[int], keys: Sequence[str]) -> None:
    import csv

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(keys)
    for number in numbers:
        cells = (index.column(key).get(number) for key in keys)
        writer.writerow([" ".join(cell) if isinstance(cell, list) else cell for cell in cells])


def _print(
    index: Index, numbers: Sequence[int], keys: Sequence[str], *, everything: bool, asked: str, trash: bool
) -> None:
    from lorakit.cli import run_screens, screen

    out = screen.console()
    if not index.numbers:
        nothing = "the trash is empty" if trash else "there are no runs yet; lorakit bake PRESET makes one"
        out.print(screen.text(nothing))
        return
    if not numbers:
        out.print(screen.text(f"none of {screen.count(len(index.numbers), 'run')} fits: {asked}"))
        return
    shown = numbers if everything else numbers[:SHOWN]
    states = index.states(shown)
    width = screen.fitting(out)
    if keys:
        screen.put(out, _table(index, shown, states, keys, width))
    else:
        screen.put(out, run_screens.listing(states, now=time.time(), width=width))
    if any(state.read_only for state in states):
        out.print(
            screen.text(("some were written by a newer lorakit: shown as far as understood, never changed", "look"))
        )
    if len(shown) < len(numbers):
        told = f"{len(numbers) - len(shown)} more fit" if asked else f"{len(numbers) - len(shown)} older"
        out.print(screen.text((f"{told}: lorakit ls --all", "same")))
    elif asked:
        out.print(screen.text((f"{len(numbers)} of {screen.count(len(index.numbers), 'run')}", "same")))


def _table(
    index: Index, numbers: Sequence[int], states: Iterable[RunState], keys: Sequence[str], width: int | None
) -> list[Text]:
    """The chosen columns, numbers to the right."""
    from lorakit.cli import run_screens, screen

    now = time.time()
    by_id = {state.run.id: state for state in states}
    rows: list[list[str | Text]] = [[screen.text((key, "same")) for key in keys]]
    for number in numbers:
        state = by_id.get(index.run(number).id)
        if state is not None:
            rows.append([run_screens.cell(key, index.column(key).get(number), state, now=now) for key in keys])
    right = [at for at, key in enumerate(keys) if all(_is_number(value) for value in index.column(key).values())]
    flexible = [at for at, key in enumerate(keys) if key in {"name", "message", "note", "id"}]
    return screen.columns(rows, gap=3, right=right, width=width, flexible=flexible or range(len(keys)))


def _is_number(value: Value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
