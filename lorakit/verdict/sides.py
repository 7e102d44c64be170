"""What can be put side by side: runs, bare LoRA files, log folders of another trainer; and what each tells of itself."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

from lorakit.archive.records import RunState, state
from lorakit.archive.run import RUN_ID, Run, open_run, read_record
from lorakit.archive.states import checkpoints, whole_checkpoints
from lorakit.errors import ArchiveError, LorakitError, ModelFileError, UsageError
from lorakit.evidence.curves import Curves, curves_of_logs, curves_of_run
from lorakit.evidence.events import event_files
from lorakit.evidence.measured import WeightSummary, of_checkpoint, of_file
from lorakit.evidence.tensor_file import TensorFile
from lorakit.verdict.settings import effective, settings

__all__ = ["Checkpoints", "Side", "side_of", "sides"]

Kind = Literal["run", "file", "logs"]
#: Metadata of a LoRA file → names of models, as dataset.json has them, and their sha256.
_MODELS: Final = {
    "base.model": ("ss_sd_model_name", "ss_new_sd_model_hash"),
    "base.vae": ("ss_vae_name", "ss_new_vae_hash"),
}


@dataclass(frozen=True)
class Checkpoints:
    """A side's weights: the summaries of those that were measured, oldest first, and why others were not."""

    measured: tuple[WeightSummary, ...] = ()
    complaints: tuple[str, ...] = ()

    @property
    def last(self) -> WeightSummary | None:
        """The newest."""
        return self.measured[-1] if self.measured else None


@dataclass(frozen=True)
class Side:
    """One of the things compared: ``label`` is its short, unique name here. What is not known of it is not in its answers."""

    kind: Kind
    label: str
    path: Path

    @cached_property
    def run(self) -> Run | None:
        """The run, where it is one."""
        return Run(self.path) if self.kind == "run" else None

    @cached_property
    def state(self) -> RunState | None:
        """Where the run stands; None for what is none."""
        return None if self.run is None else state(self.run)

    @property
    def name(self) -> str:
        """The preset's name, or the file's or folder's."""
        return self.state.name if self.state is not None else self.path.name

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """Its settings by dotted key: a run's all, a LoRA file's as far as its metadata tells, none of a log folder.

        Raises ArchiveError for a run whose preset cannot be read.
        """
        if self.run is not None:
            return settings(self.run)
        return _told_by_metadata(self.path) if self.kind == "file" and self.metadata else {}

    @cached_property
    def meant(self) -> Mapping[str, Any]:
        """The same settings by what they come to."""
        return effective(self.run, self.settings)

    @property
    def is_whole(self) -> bool:
        """Whether all of its settings are known: one that a run does not have is not there, one that a file does not tell is unknown."""
        return self.kind == "run"

    @cached_property
    def origins(self) -> Mapping[str, str]:
        """Where each setting came from, as people read it: default, a line of a preset, --set …."""
        if self.run is None:
            return dict.fromkeys(self.settings, "metadata")
        values = (read_record(self.run.provenance) or {}).get("values")
        return {key: _origin(entry) for key, entry in values.items()} if isinstance(values, dict) else {}

    @cached_property
    def metadata(self) -> Mapping[str, str]:
        """A LoRA file's own words; empty for anything else."""
        return TensorFile(self.path).metadata if self.kind == "file" else {}

    @cached_property
    def environment(self) -> Mapping[str, Any]:
        """environment.json of a run; empty for anything else."""
        return (read_record(self.run.environment) or {}) if self.run is not None else {}

    def dataset(self) -> Mapping[str, Any]:
        """dataset.json of a run, and of a LoRA file the models it names. Read each time: it may be large."""
        if self.run is not None:
            return read_record(self.run.dataset) or {}
        models = {
            key: [{"path": self.metadata.get(name, "?"), "sha256": self.metadata[sha]}]
            for key, (name, sha) in _MODELS.items()
            if re.fullmatch(r"[0-9a-f]{8,}", self.metadata.get(sha, ""))
        }
        return {"models": models} if models else {}

    @cached_property
    def trainer(self) -> str | None:
        """Kind, and the commit of its checkout where it has one."""
        if self.run is None:
            commit = self.metadata.get("ss_sd_scripts_commit_hash", "")
            return _named(commit) if commit else None
        command = (read_record(self.run.command_json) or {}).get("trainer") or {}
        described = self.environment.get("trainer") or {}
        checkout = described.get("checkout") or {}
        parts = [str(command.get("kind") or described.get("kind") or "–")]
        if isinstance(checkout, dict) and checkout.get("commit"):
            parts.append(str(checkout["commit"])[:8] + (" (changed)" if checkout.get("dirty") else ""))
        return " ".join(parts)

    def curves(self) -> Curves:
        """Its curves; read each time: they may be long."""
        if self.run is not None:
            return curves_of_run(self.run)
        return curves_of_logs([self.path]) if self.kind == "logs" else Curves({})

    def weights(self, *, every: bool = False, measure_now: bool = True) -> Checkpoints:
        """What its last whole checkpoint weighs, or ``every`` one; torn and foreign ones are told of."""
        found: list[WeightSummary] = []
        complaints: list[str] = []
        if self.kind == "file":
            try:
                found.append(of_file(self.path))
            except ModelFileError as error:
                complaints.append(_sentence(error).replace(str(self.path), self.path.name))
        if self.run is not None:
            paths = whole_checkpoints(self.run)
            complaints += [f"{entry['path']}: {entry['fault']}" for entry in checkpoints(self.run) if "fault" in entry]
            if not paths:
                complaints.append("no whole checkpoint")
            for path in paths if every else paths[-1:]:
                try:
                    summary = of_checkpoint(self.run, path, measure_now=measure_now)
                except (OSError, LorakitError) as error:
                    complaints.append(_sentence(error).replace(str(self.path), self.path.name))
                else:
                    found += [] if summary is None else [summary]
        return Checkpoints(tuple(found), tuple(complaints))

    @property
    def weight_bytes(self) -> int:
        """Size of what ``weights`` reads; 0 when there is nothing."""
        if self.kind == "file":
            return self.path.stat().st_size
        paths = whole_checkpoints(self.run)[-1:] if self.run is not None else ()
        return sum(path.stat().st_size for path in paths)


def _sentence(error: Exception) -> str:
    return f"{error} ({error.why})" if isinstance(error, LorakitError) and error.why else str(error)


def _named(commit: str) -> str:
    return (
        commit.replace("lorakit-", "builtin, lorakit ") if commit.startswith("lorakit-") else f"sd-scripts {commit[:8]}"
    )


def _origin(entry: Any) -> str:
    if not isinstance(entry, dict):
        return ""
    kind, file, line = str(entry.get("kind") or ""), entry.get("file"), entry.get("line")
    if kind == "set":
        return f"--set {entry.get('text') or ''}".strip()
    if file:
        return f"{Path(str(file)).name}:{line}" if line else Path(str(file)).name
    return kind


def _told_by_metadata(path: Path) -> dict[str, Any]:
    """The settings that a file's metadata tells, by the keys of a preset; nothing where it is another trainer's."""
    from lorakit.interop.recognise import import_file

    try:
        found = import_file(path)
    except LorakitError:  # no kohya metadata: its weights are all that can be compared
        return {}
    return {key: value.value for key, value in found.values.items() if value.origin in ("explicit", "derived")}


def side_of(word: str, runs_dir: Path) -> Side:
    """What a word on the line means: a LoRA file, a run folder or log folder by path, else a run as ``open_run`` takes it.

    Raises ArchiveError or ModelFileError for what is none of these.
    """
    path = Path(word)
    if path.suffix == ".safetensors" or (path.is_file() and path.suffix):
        TensorFile(path)  # missing, torn or no such file: said now, by its name
        return Side("file", path.stem, path)
    if path.is_dir():
        resolved = path.resolve()
        if RUN_ID.fullmatch(resolved.name) and (resolved / "preset.toml").exists():
            return Side("run", Run(resolved).short, resolved)
        if event_files(path):
            return Side("logs", path.name or str(path), path)
        if path.parts[1:] or word.endswith("/"):
            raise ArchiveError(
                f"{word} is neither a run folder nor a trainer's log folder",
                why="there are no records of a run and no event files in it",
            )
    run = open_run(runs_dir, word)
    return Side("run", run.short, run.path)


def sides(found: Sequence[Side | Run], *, least: int = 2) -> tuple[Side, ...]:
    """The sides of a comparison, each with a label of its own. Raises UsageError for fewer than ``least`` different ones."""
    made = [Side("run", one.short, one.path) if isinstance(one, Run) else one for one in found]
    if len({side.path.resolve() for side in made}) < len(made) or len(made) < least:
        raise UsageError("two or more different runs can be compared", todo="lorakit compare k3f9 latest")
    labels = [side.label for side in made]
    return tuple(
        side
        if labels.count(side.label) == 1
        else Side(side.kind, f"{side.label} ({labels[:at].count(side.label) + 1})", side.path)
        for at, side in enumerate(made)
    )
