"""The live view of a bake: where it is, how it goes, when it will be done; redrawn on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final, Self

from lorakit.archive.progress import gpu_bytes
from lorakit.cli import screen
from lorakit.cli.tally import Tally, number
from lorakit.preset.units import format_rate

if TYPE_CHECKING:
    from types import TracebackType

    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

__all__ = ["STOPPING", "View", "frame", "plain_line"]

#: What is said after one, two and three Ctrl-C.
STOPPING: Final = (
    "stopping after this step and saving what is trained; Ctrl-C again is faster",
    "ending the trainer now; the last checkpoint is kept; Ctrl-C once more kills",
    "killing the trainer",
)

#: What Ctrl-C does.
CTRL_C: Final = "Ctrl-C stops after this step and keeps what is trained"

_PARTS: Final = {"unet": "UNet", "te1": "TE1", "te2": "TE2"}
_PHASES: Final = {
    "prepare": "preparing",
    "scan": "reading the dataset",
    "hash": "fingerprinting images and models",
    "import": "starting the trainer",
    "load": "loading the models",
    "wait_cache": "waiting for the run that fills the same cache",
    "cache_latents": "caching latents",
    "cache_text": "caching captions",
    "train": "starting to train",
}
#: Seconds between two drawings: what the eye can follow, and what costs the trainer nothing.
_REDRAW_SECONDS: Final = 0.1
#: Seconds between two lines where nothing can be redrawn.
_PLAIN_EVERY: Final = 10.0


class View:
    """Follows one bake; a context manager, so that the terminal is given back whatever happens.

    ``title`` is the first line, ``hint`` what Ctrl-C does, ``clock`` unix seconds.
    """

    def __init__(self, out: Console, title: str, *, hint: str = CTRL_C, clock: Callable[[], float] = time.time) -> None:
        self.tally = Tally()
        self._out = out
        self._title = title
        self._hint = hint
        self._clock = clock
        self._began = clock()
        self._note = ""
        self._live: Live | None = None
        self._drawn = 0.0
        self._last_line = 0.0
        self._told_stage: tuple[Any, ...] = ()

    def __enter__(self) -> Self:
        if self._out.is_terminal:
            from rich.live import Live

            self._live = Live(console=self._out, auto_refresh=False, transient=True, vertical_overflow="crop")
            self._live.__enter__()
            self._draw()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, trace)
            self._live = None

    def title(self, title: str) -> None:
        """Change the first line, once the run has its name."""
        if title != self._title:
            self._title = title
            if self._live is None:
                self._print(screen.text(title))

    def update(self, records: Iterable[Mapping[str, Any]] = ()) -> None:
        """Take new protocol records, possibly none, and show how it stands."""
        for record in records:
            self.tally.add(record)
            if record.get("type") == "warn":
                self._print(screen.text(("warn  ", "look"), str(record.get("message", ""))))
            elif self._live is None:
                self._tell(record)
        self._draw()

    def say(self, lines: Iterable[str]) -> None:
        """Print lines of the training's own above the view."""
        for line in lines:
            self._print(screen.text(line))

    def note(self, line: str) -> None:
        """Say something about the bake itself, such as what a Ctrl-C has set going."""
        self._note = line
        self._drawn = 0.0
        if self._live is None and line:
            self._print(screen.text(line))
        self._draw()

    def _draw(self) -> None:
        if self._live is None:
            return
        from rich.console import Group

        now = self._clock()
        if 0 <= now - self._drawn < _REDRAW_SECONDS:  # less than 0: the clock was set back
            return
        self._drawn = now
        lines = frame(
            self.tally, self._title, note=self._note, hint=self._hint, width=self._out.width, now=now, began=self._began
        )
        self._live.update(Group(*lines), refresh=True)

    def _tell(self, record: Mapping[str, Any]) -> None:
        now = self._clock()
        due = not 0 <= now - self._last_line < _PLAIN_EVERY
        match record.get("type"):
            case "phase":
                stage = (record.get("name"), record.get("done") == record.get("total"))
                if due or stage != self._told_stage:
                    self._told_stage = stage
                    self._last_line = now
                    self._print(_phase_text(record))
            case "step":
                if due or len(self.tally.losses) == 1 or self.tally.steps == self.tally.total_steps:
                    self._last_line = now
                    self._print(plain_line(self.tally, now=now))
            case "save" | "sample" | "validation":
                self._print(screen.text(f"step {_counter(self.tally)}  {_event(record)}"))

    def _print(self, line: Text) -> None:
        self._out.print(line)
        self._out.file.flush()


def frame(
    tally: Tally, title: str, *, note: str, hint: str = CTRL_C, width: int, now: float, began: float | None = None
) -> list[Text]:
    """What stands on the screen at one moment: a few lines, none wider than ``width``.

    ``now`` and ``began``, when the view began, are unix seconds.
    """
    wide = min(width, 120)
    name, *rest = title.split(" · ", 1)
    lines = [screen.text((name, "strong"), *(f" · {part}" for part in rest))]
    if tally.step is None:
        lines += screen.wrap(_waiting(tally, wide, None if began is None else now - began), wide)
    else:
        lines += screen.wrap(_where(tally, wide, now), wide, gap=2)
        lines += screen.wrap(_how(tally, wide), wide)
    lines.append(_status(tally, note, hint))
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines


def plain_line(tally: Tally, *, now: float) -> Text:
    """One line for a log file: the same facts without drawing."""
    parts = [_counter(tally), *_epoch(tally), f"loss {screen.loss(tally.smoothed)}"]
    rates = _rates(tally)
    parts += [f"lr {rates}"] if rates else []
    parts += [*_speed(tally), *_left(tally, now), *_memory(tally)]
    return screen.text("step " + "  ".join(parts))


def _waiting(tally: Tally, width: int, seconds: float | None) -> list[Text]:
    phase = tally.phase or {"name": "prepare"}
    parts = [_phase_text(phase)]
    done, total = phase.get("done"), phase.get("total")
    if isinstance(done, int) and isinstance(total, int) and total > 1:
        parts.append(screen.progress_bar(done / total, min(30, width // 3)))
    if seconds is not None and seconds >= 1:  # something must move while a large model is read
        parts.append(screen.text((f"{int(seconds) // 60}:{int(seconds) % 60:02}", "same")))
    return parts


def _phase_text(phase: Mapping[str, Any]) -> Text:
    name = str(phase.get("name", ""))
    done, total = phase.get("done"), phase.get("total")
    counted = f"  {done}/{total}" if isinstance(total, int) and total > 1 else ""
    return screen.text(_PHASES.get(name, name.replace("_", " ")) + counted)


def _where(tally: Tally, width: int, now: float) -> list[Text]:
    rest = [screen.text(part) for part in (_counter(tally), *_epoch(tally), *_speed(tally), *_left(tally, now))]
    room = width - sum(part.cell_len + 2 for part in rest)
    total = tally.total_steps
    share = tally.steps / total if total else 0.0
    return [screen.progress_bar(share, min(max(room, 10), 48)), *rest]


def _how(tally: Tally, width: int) -> list[Text]:
    curve = screen.sparkline(tally.losses, max(8, min(20, width // 5)))
    parts = [screen.text("loss ", (screen.loss(tally.smoothed), "strong"), f"  {curve}")]
    rates = _rates(tally)
    if rates:
        parts.append(screen.text("lr  ", rates))
    norms = tally.step.get("grad_norm") if tally.step else None
    shown = [number(norms.get(part)) for part in _PARTS if part in norms] if isinstance(norms, Mapping) else []
    if shown:
        parts.append(screen.text("grad  ", " / ".join("–" if value is None else f"{value:.3g}" for value in shown)))
    if tally.validation is not None:
        parts.append(screen.text(f"validation {screen.loss(tally.validation)}"))
    parts += [screen.text(part) for part in _memory(tally)]
    return parts


def _status(tally: Tally, note: str, hint: str) -> Text:
    if tally.ended:
        return screen.text(("sealing the run", "same"))
    if note:
        return screen.text((note, "look"))
    parts = []
    if tally.saves:
        parts.append(_event(tally.saves[-1]))
    if tally.samples:
        parts.append(f"sampled {tally.samples}")
    if tally.step is not None:
        parts.append(hint)
    return screen.text((" · ".join(parts), "same"))


def _event(record: Mapping[str, Any]) -> str:
    name = PurePath(str(record.get("path", ""))).name
    match record.get("type"):
        case "save":
            size = record.get("bytes")
            return f"saved {name}" + (f" ({screen.size(size)})" if isinstance(size, int) else "")
        case "sample":
            return f"sampled {name}"
        case _:
            return f"validation {screen.loss(number(record.get('loss')))}"


def _counter(tally: Tally) -> str:
    return f"{tally.steps}/{tally.total_steps}" if tally.total_steps else str(tally.steps)


def _epoch(tally: Tally) -> list[str]:
    epoch = tally.step.get("epoch") if tally.step else None
    total = tally.start.get("epochs")
    if epoch is None:
        return []
    return [f"epoch {epoch}/{total}" if total else f"epoch {epoch}"]


def _speed(tally: Tally) -> list[str]:
    speed = tally.speed
    if speed is None:
        return []
    return [screen.speed(speed)]


def _left(tally: Tally, now: float) -> list[str]:
    pace, total = tally.pace, tally.total_steps
    if pace is None or total is None or tally.steps >= total:
        return []
    seconds = pace * (total - tally.steps)
    clock = f" (done {screen.clock(now + seconds, now=now)})" if seconds >= 60 else ""
    return [f"{screen.duration(seconds)} left{clock}"]


def _rates(tally: Tally) -> str:
    rates = tally.step.get("lr") if tally.step else None
    if not isinstance(rates, Mapping):
        return ""
    shown = [(label, number(rates[part])) for part, label in _PARTS.items() if part in rates]
    return "  ".join(f"{label} {_rate(rate)}" for label, rate in shown if rate is not None)


def _rate(rate: float) -> str:
    # Two digits are what the eye compares while it moves.
    return format_rate(float(f"{rate:.2g}")) if math.isfinite(rate) and rate > 0 else f"{rate:g}"


def _memory(tally: Tally) -> list[str]:
    step = tally.step or {}
    vram, rss = step.get("vram"), step.get("rss")
    if tally.memory is not None:
        rss = tally.memory.get("rss", rss)
        vram = gpu_bytes(tally.memory) or vram
        told = [f"VRAM {screen.size(vram)}"] if isinstance(vram, int) else []
        return [*told, f"RAM {screen.size(rss)}"] if isinstance(rss, int) else told
    if isinstance(vram, int):
        return [f"VRAM {screen.size(vram)}"]
    return [f"RAM {screen.size(rss)}"] if isinstance(rss, int) else []
