"""Drawing on a terminal: the console, aligned columns, bars, sparklines, and units as people read them."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

__all__ = [
    "MEANING",
    "bar",
    "clock",
    "columns",
    "console",
    "count",
    "duration",
    "fitting",
    "loss",
    "moment",
    "plain",
    "print_json",
    "progress_bar",
    "put",
    "size",
    "sparkline",
    "speed",
    "text",
    "wrap",
]

#: The only colours there are, by what they mean.
MEANING = {"fail": "red", "look": "yellow", "done": "green", "same": "dim", "strong": "bold"}

_LEVELS = "▁▂▃▄▅▆▇█"
_EIGHTHS = " ▏▎▍▌▋▊▉"
#: A column that gives way keeps at least this.
_NARROWEST = 8
#: Columns of a destination that is no terminal: nothing is cut in a file or a pipe.
_UNBOUNDED = 10_000


def console(*, err: bool = False) -> Console:
    """The console all screens are printed on; nothing printed is ever read as markup.

    A pipe or file has no width, so nothing is cut there; a reader that goes away raises BrokenPipeError.
    """
    from rich.console import Console

    class PlainConsole(Console):
        def on_broken_pipe(self) -> NoReturn:
            raise BrokenPipeError

    stream = sys.stderr if err else sys.stdout
    made = PlainConsole(file=stream, highlight=False, markup=False, emoji=False, soft_wrap=True)
    if not made.is_terminal:
        made.width = _UNBOUNDED
    return made


def put(made: Console, lines: Iterable[Text]) -> None:
    """Print lines; on a terminal, sentences are folded between words, and lines that hold a command are left whole to copy."""
    for line in lines:
        if made.is_terminal and line.cell_len > made.width and "lorakit " not in line.plain:
            made.print(*_folded(made, line), sep="\n")
        else:
            made.print(line)


def _folded(made: Console, line: Text) -> list[Text]:
    """A line in pieces that fit, the later ones indented a little deeper."""
    indent = len(line.plain) - len(line.plain.lstrip(" ")) + 2
    first, *rest = line.wrap(made, made.width - indent)
    for piece in (first, *rest):
        piece.rstrip()
    return [first, *(text(" " * indent, piece) for piece in rest)]


def text(*parts: str | Text | tuple[str, str]) -> Text:
    """One line out of plain strings, texts, and (string, meaning) pairs; control characters are made visible."""
    from rich.text import Text

    line = Text()
    for part in parts:
        if isinstance(part, Text):
            line.append_text(part)
        elif isinstance(part, str):
            line.append(plain(part))
        else:
            line.append(plain(part[0]), MEANING.get(part[1], part[1]))
    return line


def plain(value: object) -> str:
    """Text that cannot move the cursor: newlines, escapes and other control characters become visible."""
    string = str(value)
    if string.isprintable():
        return string
    return "".join(char if char.isprintable() else _visible(char) for char in string)


def _visible(char: str) -> str:
    if char == "\u3000":  # the space of East Asian text is two columns wide and harmless
        return char
    return char.encode("unicode_escape").decode("ascii")


def columns(
    rows: Sequence[Sequence[str | Text]],
    *,
    right: Sequence[int] = (),
    flexible: Sequence[int] = (),
    gap: int = 2,
    indent: int = 0,
    width: int | None = None,
) -> list[Text]:
    """Rows as aligned lines, wide characters counted as drawn; ``right`` numbers the right-aligned columns.

    Where a ``width`` is given and the lines are wider, the ``flexible`` columns are cut, the widest first.
    """
    cells = [[cell if not isinstance(cell, str) else text(cell) for cell in row] for row in rows]
    count = max((len(row) for row in cells), default=0)
    widths = [max((row[at].cell_len for row in cells if at < len(row)), default=0) for at in range(count)]
    excess = 0 if width is None else indent + sum(widths) + gap * (count - 1) - width
    for _ in range(max(excess, 0)):
        widest = max(flexible, key=lambda at: widths[at], default=None)
        if widest is None or widths[widest] <= _NARROWEST:
            break
        widths[widest] -= 1
    lines = []
    for row in cells:
        line = text(" " * indent)
        for at, cell in enumerate(row):
            fitted = cell.copy()
            fitted.truncate(widths[at], overflow="ellipsis")
            padding = " " * (widths[at] - fitted.cell_len)
            for part in (padding, fitted) if at in right else (fitted, padding):
                line.append(part)
            line.append(" " * gap)
        line.rstrip()
        lines.append(line)
    return lines


def wrap(parts: Iterable[str | Text], width: int, *, gap: int = 5) -> list[Text]:
    """Parts side by side, on as many lines as the width asks for."""
    lines: list[Text] = []
    for part in map(text, parts):
        if lines and lines[-1].cell_len + gap + part.cell_len <= width:
            lines[-1].append(" " * gap)
            lines[-1].append_text(part)
        else:
            lines.append(part)
    return lines


def fitting(made: Console) -> int | None:
    """The width tables have to fit in, or None when nothing needs to be cut."""
    return None if made.width >= _UNBOUNDED else made.width


def sparkline(values: Sequence[float], width: int = 24, *, from_zero: bool = False) -> str:
    """Values as a row of blocks, averaged into at most ``width`` of them; what is not finite is drawn as ``×``."""
    if not values:
        return ""
    count = min(width, len(values))
    means = [
        _mean(values[at * len(values) // count : max(at * len(values) // count + 1, (at + 1) * len(values) // count)])
        for at in range(count)
    ]
    finite = [value for value in means if math.isfinite(value)]
    if not finite:
        return "×" * count
    low, high = (0.0 if from_zero else min(finite)), max(finite)
    spread = high - low
    return "".join(
        "×" if not math.isfinite(value) else _LEVELS[round((value - low) / spread * 7) if spread > 0 else 3]
        for value in means
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def bar(share: float, width: int) -> str:
    """A bar of ``share`` (0 to 1) of ``width`` columns, fine to an eighth of one; what is not zero is never invisible."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    if share > 0:
        eighths = max(eighths, 1)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def progress_bar(share: float, width: int) -> Text:
    """A line of ``width`` columns of which ``share`` (0 to 1) is done."""
    halves = round(min(max(share, 0.0), 1.0) * width * 2)
    done = "━" * (halves // 2) + ("╸" if halves % 2 else "")
    return text((done, "done"), ("━" * (width - len(done)), "same"))


def size(count: float) -> str:
    """Bytes in decimal units: ``228 MB``, ``1.6 GB``."""
    value, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while abs(value) >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    # Memory is bought in whole gigabytes and missed by tenths of one.
    finer = {"B": 0.0, "GB": 99.95}.get(units[0], 9.95)
    return f"{value:.1f} {units[0]}" if value < finer else f"{value:.0f} {units[0]}"


def duration(seconds: float | None) -> str:
    """``4.2 s`` below ten seconds, then ``0:31``, ``2:49``, ``1:02:03``, ``2 d 03:14``."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 9.95:
        return f"{max(seconds, 0.0):.1f} s"
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 24:
        return f"{hours // 24} d {hours % 24:02}:{minutes:02}"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def clock(unix: float, *, now: float) -> str:
    """The time of day, on the reader's clock, of a moment near ``now``; with the weekday when it is another day's."""
    then = time.localtime(unix)
    return time.strftime("%H:%M" if then[:3] == time.localtime(now)[:3] else "%a %H:%M", then)


def moment(unix: float | None, *, now: float) -> str:
    """When something was: ``14:29`` today, ``Nov 21 14:29`` this year, else ``2025-11-21``."""
    if unix is None:
        return "–"
    then, today = time.localtime(unix), time.localtime(now)
    if then[:3] == today[:3]:
        return time.strftime("%H:%M", then)
    return time.strftime("%b %d %H:%M" if then.tm_year == today.tm_year else "%Y-%m-%d", then)


def count(number: int, word: str, words: str = "") -> str:
    """``1 step``, ``2 steps``; ``words`` is the plural where it is not made by an s."""
    return f"{number} {word if number == 1 else words or word + 's'}"


def speed(steps_per_second: float) -> str:
    """``2.1 it/s``, or ``3.4 s/it`` for what is slower than one a second."""
    return f"{steps_per_second:.1f} it/s" if steps_per_second >= 1 else f"{1 / steps_per_second:.1f} s/it"


def loss(value: float | None) -> str:
    """A loss to three digits or so: ``0.0759``, ``0.104``, ``1.10``; a dash when there is none."""
    if value is None:
        return "–"
    if not math.isfinite(value) or abs(value) >= 1000:
        return f"{value:.3g}"
    return f"{value:.4f}" if abs(value) < 0.1 else f"{value:.3f}" if abs(value) < 1 else f"{value:.2f}"


def print_json(value: Any) -> None:
    """Print machine-readable output: two-space indent, unicode kept unless a name in it is not valid unicode."""
    rendered = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    try:
        rendered.encode("utf-8")
    except UnicodeEncodeError:
        rendered = json.dumps(value, indent=2, allow_nan=False)
    sys.stdout.write(rendered + "\n")
