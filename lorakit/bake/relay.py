"""Tells the run protocol for a trainer that does not speak it, from its log and its TensorBoard events (stdlib only).

sd-scripts prints a bar, epochs and the files it saves; losses and rates stand in its event file. The relay reads both as they
grow and appends protocol records, so that everything else reads one thing only. Where sd-scripts runs through the probe, that
tells the protocol itself, and the relay is only there for an sd-scripts that the probe no longer fits.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from lorakit.archive.events import EventFollower, Scalar
from lorakit.archive.run import Attempt, read_record
from lorakit.archive.tensors import weights_fault
from lorakit.protocol import Follower, Writer, read

__all__ = ["Relay"]

_BAR: Final = re.compile(r"(?<!validation )steps:\s+\d+%\|[^|]*\|\s+(\d+)/(\d+)\s+\[")
_EPOCH: Final = re.compile(r"epoch (\d+)/(\d+)$")
_BATCHES: Final = re.compile(r"\s*num batches per epoch\b.*: (\d+)$")
_SAVING: Final = re.compile(r"saving checkpoint: (.+)$")
#: What the trainer says when it begins something, and how the protocol calls it.
_PHASES: Final = (
    (re.compile(r"load StableDiffusion checkpoint|building U-Net|loading U-Net"), "load"),
    (re.compile(r"caching latents"), "cache_latents"),
    (re.compile(r"caching Text Encoder outputs|cache Text Encoder outputs"), "cache_text"),
    (re.compile(r"running training"), "train"),
)
_VALIDATION: Final = frozenset({"loss/validation/step_average", "loss/validation/epoch_average"})
_CANNOT_SAVE: Final = (
    "this trainer cannot save on request: it will be ended after its next checkpoint; ask again to end it now"
)
#: Bytes that are kept of a line without an end.
_LONGEST_LINE: Final = 1 << 16
#: In place of a size: this image has been told.
_TOLD: Final = -1


@dataclass
class _Step:
    """What is known of one optimizer step."""

    losses: list[float] = field(default_factory=list)
    lr: dict[str, float] = field(default_factory=dict)
    time: float = 0.0


class Relay:
    """Follows one attempt; :meth:`poll` is called often, :meth:`finish` once.

    With ``probed`` it falls silent as soon as somebody else has told anything but warnings.
    """

    def __init__(self, attempt: Attempt, arguments: Sequence[str], *, probed: bool = False) -> None:
        self._attempt = attempt
        self._others = Follower(attempt.progress) if probed else None
        self._silent = False
        self._writer = Writer(attempt.progress)
        self._parts = _trained_parts(arguments)
        self._log_offset = 0
        self._line = b""
        self._events: dict[Path, EventFollower] = {}
        self._steps: dict[int, _Step] = {}
        self._told = 0
        self._shown = 0
        self._last_time: float | None = None
        self._micro: list[float] = []
        self._epoch = (0, 0)
        self._batches: int | None = None
        self._started = False
        self._phase = ""
        self._saving: list[Path] = []
        self._samples: dict[str, int] = {}
        self._stop_asked = False
        self.saved_after_stop = False

    def poll(self, *, stop_asked: bool = False) -> None:
        """Read what is new and tell it. After ``stop_asked``, ``saved_after_stop`` becomes true with the next checkpoint."""
        # Lines first: the probe speaks before the trainer says anything that would be told here.
        lines = self._new_lines()
        if self._is_silent():
            return
        if stop_asked and not self._stop_asked and (self._others is None or self._started):
            self._stop_asked = True
            self._writer.write("warn", message=_CANNOT_SAVE)
        for line in lines:
            self._read(line)
        fresh = self._read_events()
        # A step's values come in one burst; it is complete when the next one has begun or nothing more came.
        self._tell_steps(complete=not fresh)
        self._tell_saved()
        self._tell_samples()

    def finish(self) -> None:
        """Read and tell the rest."""
        self.poll()
        if self._silent:
            return
        if self._line:
            self._read(self._line.decode("utf-8", "replace"))
        self._tell_steps(complete=True)
        self._tell_bar()
        self._tell_saved()
        self._tell_samples(complete=True)
        if damaged := sum(follower.damaged for follower in self._events.values()):
            told = "1 record" if damaged == 1 else f"{damaged} records"
            self._writer.write("warn", message=f"{told} of its event files cannot be read: its curves have gaps")

    def end(self, reason: str, steps: int, message: str) -> None:
        """Tell how it ended, the last record, if nobody has."""
        if not (self._silent and any(record["type"] == "end" for record in read(self._attempt.progress))):
            self._writer.write("end", reason=reason, steps=steps, message=message)
        self.close()

    def _is_silent(self) -> bool:
        """Whether the trainer speaks for itself; once this relay has begun to tell, it goes on."""
        if self._others is not None and not (self._silent or self._started or self._phase):
            self._silent = any(record["type"] not in {"warn", "memory"} for record in self._others.poll())
        return self._silent

    def close(self) -> None:
        """Write no more."""
        self._writer.close()

    def _new_lines(self) -> list[str]:
        """Whole lines of the log since the last call; the bar's carriage returns end lines too."""
        try:
            with open(self._attempt.log, "rb") as file:
                if os.fstat(file.fileno()).st_size < self._log_offset:  # it was cut, see the guard
                    self._log_offset, self._line = 0, b""
                file.seek(self._log_offset)
                data = file.read(4 << 20)
        except FileNotFoundError:
            return []
        self._log_offset += len(data)
        *lines, rest = re.split(rb"[\r\n]+", self._line + data)
        self._line = rest[-_LONGEST_LINE:]
        return [line.decode("utf-8", "replace") for line in lines]

    def _read(self, line: str) -> None:
        if found := _BAR.search(line):
            self._start(total=int(found.group(2)))
            self._shown = max(self._shown, int(found.group(1)))
        elif found := _EPOCH.match(line):
            self._epoch = (int(found.group(1)), int(found.group(2)))
        elif found := _BATCHES.match(line):
            self._batches = int(found.group(1))
        elif found := _SAVING.search(line):
            self._saving.append(Path(found.group(1).strip()))
        elif not self._started:
            name = next((name for pattern, name in _PHASES if pattern.search(line)), self._phase)
            if name != self._phase:
                self._phase = name
                self._writer.write("phase", name=name)

    def _start(self, total: int) -> None:
        if self._started:
            return
        self._started = True
        self._writer.write(
            "start",
            total_steps=total,
            epochs=self._epoch[1] or None,
            batches_per_epoch=self._batches,
            first_step=0,
            trainer="sd-scripts",
        )

    def _read_events(self) -> bool:
        """Take new scalars; whether there were any."""
        if self._attempt.events.is_dir():
            for path in self._attempt.events.rglob("events.out.tfevents.*"):
                self._events.setdefault(path, EventFollower(path))
        fresh = False
        for follower in self._events.values():
            for scalar in follower.poll():
                fresh = True
                self._take(scalar)
        return fresh

    def _take(self, scalar: Scalar) -> None:
        if scalar.tag == "loss/current":
            # With gradient accumulation every micro-batch is logged, the last of a step under the step's own number.
            self._micro.append(scalar.value)
            if scalar.step > self._told and scalar.step not in self._steps:
                self._steps[scalar.step] = _Step(losses=self._micro, time=scalar.time)
                self._micro = []
        elif scalar.tag in _VALIDATION:
            self._tell_steps(complete=True)
            self._writer.write("validation", step=self._told, epoch=max(1, self._epoch[0]), loss=scalar.value)
        elif scalar.tag.startswith("lr/") and (step := self._steps.get(scalar.step)) is not None:
            for part in self._parts.get(scalar.tag, ()):
                step.lr[part] = scalar.value

    def _tell_steps(self, *, complete: bool) -> None:
        numbers = sorted(self._steps)
        for number in numbers if complete else numbers[:-1]:
            step = self._steps.pop(number)
            self._start(total=0)
            values: dict[str, Any] = {}
            if self._last_time is not None:
                values["seconds"] = round(step.time - self._last_time, 4)
            self._last_time = step.time
            self._writer.write(
                "step",
                step=number,
                epoch=max(1, self._epoch[0]),
                loss=sum(step.losses) / len(step.losses),
                lr=step.lr,
                **values,
                rss=self._rss(),
                vram=None,
            )
            self._told = number
        if not self._events:
            self._tell_bar()

    def _tell_bar(self) -> None:
        """Without events, the bar tells at least how far it is."""
        if self._shown > self._told:
            self._told = self._shown
            self._writer.write("step", step=self._shown, epoch=self._epoch[0], lr={}, rss=self._rss(), vram=None)

    def _tell_saved(self) -> None:
        """Tell files once they are whole."""
        for path in list(self._saving):
            try:
                if weights_fault(path) is not None:
                    continue
                size = path.stat().st_size
            except (OSError, ValueError):  # not there yet, or no path at all
                continue
            self._saving.remove(path)
            kind = (
                "step"
                if re.search(r"-step\d+$", path.stem)
                else "epoch"
                if re.search(r"-\d{6}$", path.stem)
                else "final"
            )
            self._writer.write("save", step=self._shown, epoch=self._epoch[0], path=str(path), bytes=size, kind=kind)
            self.saved_after_stop = self.saved_after_stop or self._stop_asked

    def _tell_samples(self, *, complete: bool = False) -> None:
        """Tell sample images that have stopped growing, by what appears in the run's samples/."""
        folder = self._attempt.path.parent.parent / "samples"
        try:
            sizes = {entry.name: entry.stat().st_size for entry in os.scandir(folder) if entry.name.endswith(".png")}
        except OSError:
            return
        for name in sorted(sizes):
            known = self._samples.get(name)
            if known == _TOLD:
                continue
            self._samples[name] = sizes[name]
            if sizes[name] and (complete or known == sizes[name]):
                self._samples[name] = _TOLD
                path = str(folder / name)
                self._writer.write("sample", step=self._shown, epoch=self._epoch[0], path=path, prompt="")

    def _rss(self) -> int | None:
        """Resident memory of rank 0, bytes."""
        record = read_record(self._attempt.ranks / "rank-0.json") or {}
        try:
            pages = int(Path(f"/proc/{record.get('pid')}/statm").read_text(encoding="ascii").split()[1])
        except (OSError, ValueError, IndexError):
            return None
        return pages * os.sysconf("SC_PAGE_SIZE")


def _trained_parts(arguments: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Which parts a curve of rates is for; ``lr/textencoder`` holds the first group, whatever that is."""
    if "--network_train_unet_only" in arguments:
        return {"lr/unet": ("unet",), "lr/group0": ("unet",)}
    if "--network_train_text_encoder_only" in arguments:
        return {"lr/textencoder": ("te1", "te2")}
    return {"lr/unet": ("unet",), "lr/textencoder": ("te1", "te2")}
