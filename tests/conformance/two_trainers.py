"""Trains the cases of ``trainer_cases`` with the real sd-scripts and writes down what it did: numbers only.

    python -m tests.conformance.two_trainers [CASE …]
    python -m tests.conformance.two_trainers --table    (what docs/two-trainers.md says)

The environment's variables are those of ``checkout``. The built-in trainer is run in this process.
"""

from __future__ import annotations

import copy
import hashlib
import importlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors.numpy import load_file, save_file

from lorakit import protocol
from lorakit.archive.events import read_scalars
from lorakit.trainers.render import RenderPaths, TrainerKind, render
from lorakit.trainers.sd_scripts import tokenizers
from tests.conformance.checkout import commit
from tests.conformance.trainer_cases import BASE, CASES, INIT, Case, lay_out, start_weights
from tests.conformance.warm_trainer import WarmTrainer

__all__ = [
    "CURVES",
    "DATA",
    "TOLERANCE",
    "Trained",
    "one_model",
    "prepare",
    "recorded",
    "seen",
    "train_builtin",
    "train_sd_scripts",
]

DATA: Final = Path(__file__).with_name("data") / "two_trainers.json"
CURVES: Final = DATA.with_name("two_trainers_curves.json")
_DRAWS: Final = Path(__file__).with_name("fixed_draws.py")
#: How far apart the trainers may be, relative: a batch's loss; the length of what a part was trained by; the mean of all weights
#: (absolute: AdamW's first steps are as long as the rate, so that a gradient of rounding alone moves a weight, too).
TOLERANCE: Final = {"loss": 1e-4, "moved": 1e-3, "weights": 1e-5, "bf16": 5e-3}
#: Curves that both trainers write.
_COMPARED_RATES: Final = frozenset({"lr/unet", "lr/textencoder", "lr/group0", "lr/group1"})
#: Metadata that tells of the moment, the program or the file rather than of the training.
_OF_THE_RUN: Final = frozenset({
    "modelspec.date", "modelspec.implementation_version", "ss_new_sd_model_hash", "ss_sd_model_hash", "ss_sd_scripts_commit_hash",
    "ss_session_id", "ss_training_finished_at", "ss_training_started_at", "sshs_legacy_hash", "sshs_model_hash",
})  # fmt: skip


@dataclass(frozen=True)
class Trained:
    """What a training left: the loss of every batch, curves by tag, its folder."""

    losses: tuple[float, ...]
    curves: Mapping[str, tuple[tuple[int, float], ...]]
    output: Path
    log: str = ""

    @property
    def files(self) -> list[str]:
        """Names of what was saved."""
        return sorted(path.name for path in self.output.glob("*.safetensors"))

    @property
    def weights(self) -> dict[str, np.ndarray[Any, Any]]:
        """The final LoRA."""
        return dict(load_file(self.output / "two.safetensors"))

    @property
    def metadata(self) -> dict[str, str]:
        """The final LoRA's metadata."""
        with open(self.output / "two.safetensors", "rb") as file:
            return dict(json.loads(file.read(int.from_bytes(file.read(8), "little")))["__metadata__"])


def prepare(root: Path) -> None:
    """The base model and the LoRA to start from, in the workspace ``root``."""
    from lorakit.bench_model.writer import write_checkpoint

    write_checkpoint(root / BASE, size="slim")
    save_file(start_weights(lora_shapes(root / BASE, dim=2), 1.0), root / INIT)
    tokenizers.fill(root / "tokenizers", tokenizers.merges_of_package())


def arguments(
    case: Case, kind: TrainerKind, root: Path, output: Path, steps: int | None, more: Sequence[str]
) -> list[str]:
    """The command line of a case, for ``steps`` in place of its own."""
    paths = RenderPaths(root, output, output / "logs", tokenizer_cache=root / "tokenizers")
    return [*render(case.preset(kind), paths, kind=kind), *(["--max_train_steps", str(steps)] if steps else []), *more]


def train_builtin(case: Case, root: Path, *more: str, steps: int | None = None, fixed: bool = True) -> Trained:
    """Train a case with the built-in trainer in this process; with ``fixed`` nothing is left to chance."""
    from accelerate.state import AcceleratorState, GradientState, PartialState

    from lorakit.trainers.builtin.__main__ import main

    output = _fresh(root / "out", f"builtin-{case.name}")
    with _without_chance(fixed), _environment({protocol.PROGRESS_ENV: str(output / "progress.jsonl")}):
        try:
            code = main(arguments(case, "builtin", root, output, steps, more))
        finally:
            for state in (AcceleratorState, GradientState, PartialState):
                state._reset_state()
    assert code == 0
    curves = _curves(output / "logs")
    return Trained(tuple(loss for _, loss in curves["loss/current"]), curves, output)


def train_sd_scripts(
    case: Case, root: Path, trainer: WarmTrainer, *more: str, steps: int | None = None, fixed: bool = True
) -> Trained:
    """Train a case with the real sd-scripts."""
    output = _fresh(root / "out", f"sd-scripts-{case.name}")
    words = arguments(case, "sd-scripts", root, output, steps, more)
    script = trainer.script
    try:
        if fixed:
            trainer.script, words = str(_DRAWS), [script, *words]
        code, error = trainer.run(words, output / "log")
    finally:
        trainer.script = script
    log = (output / "log").read_text(encoding="utf-8", errors="replace")
    if code:
        raise RuntimeError(f"sd-scripts ended with {code} ({error}):\n{log[-3000:]}")
    curves = _curves(output / "logs")
    return Trained(tuple(loss for _, loss in curves["loss/current"]), curves, output, log)


def seen(trained: Trained) -> dict[str, Any]:
    """What of a training is compared, in plain values: rates are those that the steps used."""
    start, final = load_file(trained.output.parents[1] / INIT), trained.weights
    told = trained.metadata
    parts = {part: [name for name in final if name.startswith(f"lora_{part}_")] for part in ("te1", "te2", "unet")}
    described = sorted(f"{name} {value.shape} {value.dtype}" for name, value in final.items())
    return {
        "losses": list(trained.losses),
        "moved": {
            part: float(np.sqrt(sum(np.square(final[name].astype(np.float64) - start[name]).sum() for name in names)))
            for part, names in parts.items()
            if names
        },
        "rates": _rates(trained),
        "files": trained.files,
        "tensors": hashlib.sha256("\n".join(described).encode()).hexdigest()[:16],
        "keys": sorted(told),
        "metadata": {key: value for key, value in sorted(told.items()) if key not in _OF_THE_RUN},
    }


def _rates(trained: Trained) -> dict[str, list[float]]:
    """The rates of the steps after the first by tag: the real trainer logs a rate once the scheduler has moved on to the next step."""
    late = 1 if trained.log else 0
    curves = {tag: dict(points) for tag, points in trained.curves.items() if tag in _COMPARED_RATES}
    return {
        tag: [rate for step, rate in sorted(curve.items()) if 2 <= step + late <= max(curve)]
        for tag, curve in curves.items()
    }


def recorded() -> dict[str, Any]:
    """What was recorded of the real trainer: ``commit``, ``cases`` by name, ``measured`` differences of the built-in one.

    A case's metadata and keys are written as what they change of the first case's.
    """
    data: dict[str, Any] = json.loads(DATA.read_text(encoding="utf-8"))
    first = next(iter(data["cases"].values()))
    for case in data["cases"].values():
        changed = first["metadata"] | case["metadata"]
        case["metadata"] = {key: value for key, value in changed.items() if value is not None}
        case.setdefault("keys", first["keys"])
    return data


def lora_shapes(base: Path, dim: int) -> dict[str, tuple[int, ...]]:
    """Every tensor of a LoRA on the base model, by its name."""
    import torch

    from lorakit.trainers.builtin.checkpoint import load_base
    from lorakit.trainers.builtin.lora import LoraNetwork

    whole = torch.float32
    model = load_base(base, vae_path=None, unet_dtype=whole, te_dtype=whole, vae_dtype=whole)
    network = LoraNetwork.create(model, dim=dim, alpha=1)
    return {name: tuple(value.shape) for name, value in network.kohya_state_dict().items()}


def _fresh(parent: Path, name: str) -> Path:
    """A folder that nobody has used."""
    parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=parent))


def _curves(logs: Path) -> dict[str, tuple[tuple[int, float], ...]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for path in sorted(logs.rglob("events.out.tfevents.*")):
        for scalar in read_scalars(path):
            found.setdefault(scalar.tag, []).append((scalar.step, scalar.value))
    return {tag: tuple(points) for tag, points in found.items()}


@contextmanager
def one_model() -> Iterator[None]:
    """Trainings of the built-in trainer inside read the base model's file once."""
    setup: Any = importlib.import_module("lorakit.trainers.builtin.setup")
    load, known = setup.load_base, {}

    def copy_of_base(path: Path, **keywords: Any) -> Any:
        if path not in known:
            known[path] = load(path, **keywords)
        return copy.deepcopy(known[path])

    setup.load_base = copy_of_base
    try:
        yield
    finally:
        setup.load_base = load


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _without_chance(fixed: bool) -> Iterator[None]:
    if not fixed:
        yield
        return
    import torch

    from lorakit.trainers.builtin import latents
    from tests.conformance.fixed_draws import take

    def certain(vae: Any, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, std = posterior(vae, pixels)
        return mean, torch.zeros_like(std)

    posterior: Callable[..., tuple[torch.Tensor, torch.Tensor]] = latents._posterior
    back = take()
    latents._posterior = certain
    try:
        yield
    finally:
        latents._posterior = posterior
        back()


def _write(commit: str, found: Mapping[str, dict[str, Any]], measured: Mapping[str, dict[str, float]]) -> None:
    """Write the record, a case a line."""
    names = [name for name in CASES if name in found]
    first = found[names[0]]
    lines = []
    for name in names:
        case = {"digest": CASES[name].digest(), **found[name]}
        if name != names[0]:
            both = {**dict.fromkeys(first["metadata"]), **case["metadata"]}
            case["metadata"] = {key: value for key, value in both.items() if first["metadata"].get(key) != value}
            if case["keys"] == first["keys"]:
                del case["keys"]
        lines.append(f"    {json.dumps(name)}: {json.dumps(case)}")
    differences = [f"    {json.dumps(name)}: {json.dumps(measured[name])}" for name in names]
    DATA.write_text(
        f'{{\n  "commit": {json.dumps(commit)},\n  "cases": {{\n' + ",\n".join(lines)
        + '\n  },\n  "measured": {\n' + ",\n".join(differences) + "\n  }\n}\n",
        encoding="utf-8",
    )  # fmt: skip


def apart(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, float]:
    """The largest relative differences of losses and of what the parts moved."""
    pairs = zip(ours["losses"], theirs["losses"], strict=True)
    loss = max(abs(mine - its) / abs(its) for mine, its in pairs)
    moved = max(abs(ours["moved"][part] - its) / its for part, its in theirs["moved"].items())
    return {"loss": float(f"{loss:.2g}"), "moved": float(f"{moved:.2g}")}


def table() -> str:
    """The page's table: what each case was apart when it was recorded."""
    data = recorded()["measured"]
    rows = [f"| `{name}` | {data[name]['loss']:.0e} | {data[name]['moved']:.0e} |" for name in CASES if name in data]
    return "\n".join(["| case | losses | what the parts learned |", "|---|---|---|", *rows])


def _main(names: Sequence[str]) -> None:
    known = recorded() if DATA.exists() else {"cases": {}, "measured": {}}
    found = {name: {k: v for k, v in case.items() if k != "digest"} for name, case in known["cases"].items()}
    measured = dict(known["measured"])
    trainer = WarmTrainer()
    with tempfile.TemporaryDirectory(prefix="lorakit-two-") as folder:
        root = Path(folder)
        prepare(root)
        for name in names or CASES:
            lay_out(CASES[name], root)
            theirs = seen(train_sd_scripts(CASES[name], root, trainer))
            found[name], measured[name] = theirs, apart(seen(train_builtin(CASES[name], root)), theirs)
            print(name, measured[name], flush=True)
            _write(commit(), found, measured)
    trainer.close()


if __name__ == "__main__":
    if sys.argv[1:] == ["--table"]:
        print(table())
    else:
        _main(sys.argv[1:])
