"""Tries the combinations of ``rule_cases`` on the real sd-scripts and writes down what came of it: outcomes and numbers only.

    python -m tests.conformance.record_rules [WORDS OF A TRIAL …]

Without words it records what is new or asks something else than it did; ``all`` records everything. The environment's
variables are those of ``checkout``.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final

from lorakit.archive.events import read_scalars
from lorakit.trainers.render import RenderPaths, render
from lorakit.trainers.sd_scripts import tokenizers
from tests.conformance.checkout import PYTHON, SCRIPT, asked, commit
from tests.conformance.rule_cases import TRIALS
from tests.conformance.rule_trials import BASE, Trial, lay_out
from tests.conformance.warm_trainer import ENVIRONMENT, WarmTrainer

__all__ = ["DATA", "record"]

DATA: Final = Path(__file__).with_name("data") / "rules.json"

#: How many trials run at a time.
_AT_ONCE: Final = 2


def record(trials: Iterable[Trial], root: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """What the real trainer made of each trial, by name, as they end; ``root`` takes their folders and a checkpoint."""
    # torch, which the tests that only read the data do without
    from lorakit.bench_model.writer import write_checkpoint

    write_checkpoint(root / BASE, size="slim")
    tokenizers.fill(root / "tokenizers", tokenizers.merges_of_package())
    idle: SimpleQueue[WarmTrainer] = SimpleQueue()

    def tried(trial: Trial, folder: Path) -> tuple[str, dict[str, Any]]:
        trainer = idle.get()
        try:
            return trial.name, _record_one(trial, folder, root, trainer)
        finally:
            idle.put(trainer)

    trainers = [WarmTrainer() for _ in range(_AT_ONCE)]
    try:
        for trainer in trainers:
            idle.put(trainer)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            asked = [pool.submit(tried, trial, root / f"{number:03}") for number, trial in enumerate(trials)]
            for done in as_completed(asked):
                yield done.result()
    finally:
        for trainer in trainers:
            trainer.close()


def _record_one(trial: Trial, folder: Path, root: Path, trainer: WarmTrainer) -> dict[str, Any]:
    if trial.after is not None:
        _run(trial.after, folder, root, trainer, "before")
    code, error, log = _run(trial, folder, root, trainer, "trial")
    found = {"trial": trial.digest(), "exit": code, **_outcome(folder / "trial", code, error, log)}
    if found["outcome"] == "trained":
        found |= _weights(folder / "trial" / "output") | _curves(folder / "trial" / "logs")
        found["files"] = _files(folder / "trial" / "output")
        found["epochs"] = _epochs(folder / "trial" / "output")
        found |= _dataset(folder, log)
    print(trial.name, {key: found.get(key) for key in ("outcome", "error", "where")}, flush=True)
    return found


def _run(trial: Trial, folder: Path, root: Path, trainer: WarmTrainer, name: str) -> tuple[int, str, str]:
    """Exit code, class of the exception, log; everything it writes is in a folder of this name."""
    lay_out(trial, folder)
    out = folder / name
    out.mkdir()
    preset = trial.preset(folder, rendered=True)
    paths = RenderPaths(root, out / "output", out / "logs", tokenizer_cache=root / "tokenizers")
    arguments = (*_without(render(preset, paths, kind="sd-scripts"), trial.drop), *trial.raw)
    log = out / "log.txt"
    if preset.launch.processes > 1:
        code, error = _distributed(arguments, log, preset.launch.processes)
    else:
        code, error = trainer.run(arguments, log, probe=preset.trainer.probe)
    return code, error, log.read_text(encoding="utf-8", errors="replace")


def _without(arguments: tuple[str, ...], option: str) -> tuple[str, ...]:
    """The arguments without an option and its one value."""
    if not option:
        return arguments
    at = arguments.index(option)
    return arguments[:at] + arguments[at + 2 :]


def _distributed(arguments: tuple[str, ...], log: Path, processes: int) -> tuple[int, str]:
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command = [PYTHON, *launch, SCRIPT, *arguments]
    with open(log, "wb") as file:
        done = subprocess.run(
            command, env={**os.environ, **asked(), **ENVIRONMENT}, stdout=file, stderr=file, check=False
        )
    errors = re.findall(
        r"^(?:\[rank\d+\]: ?)?(\w+Error): ", log.read_text(encoding="utf-8", errors="replace"), re.MULTILINE
    )
    return done.returncode, errors[0] if errors else ""


def _outcome(out: Path, code: int, error: str, log: str) -> dict[str, Any]:
    """``trained``; ``nothing``, where it ends well without a LoRA; ``failed``, with the exception's class and where."""
    if code == 0:
        written = any((out / "output").glob("rule.*")) if (out / "output").is_dir() else False
        return {"outcome": "trained" if written else "nothing"}
    if "total optimization steps" in log:
        where = "in the loop"
    elif "import network module" in log:
        where = "after the model"
    elif code == 2 and error == "SystemExit":
        where = "parser"
    else:
        where = "before the model"
    return {"outcome": "failed", "error": error, "where": where}


def _weights(output: Path) -> dict[str, Any]:
    """What the LoRA is: modules by part, how many of them moved, digests of the weights, alphas, metadata."""
    import torch
    from safetensors import safe_open

    path = next(output.glob("rule.*"))
    if path.suffix != ".safetensors":
        loaded = torch.load(path, weights_only=True)
        return {"metadata": any(not isinstance(value, torch.Tensor) for value in loaded.values())}
    effect = {part: hashlib.sha256() for part in ("unet", "te1", "te2")}
    modules: dict[str, set[str]] = {part: set() for part in effect}
    moved = dict.fromkeys(effect, 0)
    down, alphas, bits = hashlib.sha256(), set(), 0
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        for name in sorted(file.keys()):
            part = name.split("_")[1]
            if part not in effect:
                continue  # of a network that does not tell its text encoders apart
            tensor = file.get_tensor(name)
            modules[part].add(name.partition(".")[0])
            if name.endswith(".alpha"):
                alphas.add(float(tensor))
                continue
            data = name.encode() + tensor.float().contiguous().numpy().tobytes()
            effect[part].update(data)
            bits = tensor.element_size() * 8
            if "lora_down" in name:
                down.update(data)
            elif bool(tensor.any()):
                moved[part] += 1
    return {
        "effect": {part: digest.hexdigest()[:16] for part, digest in effect.items()},
        "down": down.hexdigest()[:16],
        "modules": {part: len(found) for part, found in modules.items()},
        "moved": moved,
        "alphas": sorted(alphas),
        "bits": bits,
        "metadata": len(metadata) > 0,
        "comment": "mine" in metadata.get("ss_training_comment", ""),
    }


def _curves(logs: Path) -> dict[str, Any]:
    """The loss of every step, the highest rate of any group, and the tags of rates."""
    loss, rates, tags = [], [0.0], set()
    for path in sorted(logs.rglob("events.out.tfevents.*")):
        for scalar in read_scalars(path):
            if scalar.tag == "loss/current":
                loss.append(float(f"{scalar.value:.6g}"))
            elif scalar.tag.startswith("lr/"):
                rates.append(float(f"{scalar.value:.6g}"))
                tags.add(scalar.tag)
    return {"loss": loss, "peak": max(rates), "tags": sorted(tags)}


def _files(output: Path) -> list[str]:
    """Names of what was written, samples without their time."""
    names = [path.relative_to(output).as_posix() for path in output.glob("*")] + [
        path.relative_to(output).as_posix() for path in output.glob("sample/*")
    ]
    return sorted(re.sub(r"_\d{14}", "", name) for name in names)


def _epochs(output: Path) -> list[str]:
    """The epochs that the checkpoints of steps say they are of."""
    from safetensors import safe_open

    told = []
    for path in sorted(output.glob("rule-step*.safetensors")):
        with safe_open(path, framework="numpy") as file:
            told.append((file.metadata() or {}).get("ss_epoch", ""))
    return told


_BUCKET: Final = re.compile(r"bucket \d+: resolution \((\d+), (\d+)\), count: (\d+)")


def _dataset(folder: Path, log: str) -> dict[str, Any]:
    """Buckets of training, whether one of them is held out too; height and width of cached latents."""
    # A validation dataset prints its buckets after those of training.
    training, _, held_out = log.partition("[Prepare validation dataset")
    buckets = [[int(number) for number in match.groups()] for match in _BUCKET.finditer(training)]
    held = [[int(number) for number in match.groups()] for match in _BUCKET.finditer(held_out)]
    found: dict[str, Any] = {"buckets": buckets, "overlap": any(bucket in buckets for bucket in held)}
    import numpy as np

    for path in sorted((folder / "data" / "1_thing").glob("*_sdxl.npz")):
        with np.load(path) as arrays:
            keys = [key for key in arrays.files if key.startswith("latents") and "flipped" not in key]
            found["latents"] = list(arrays[keys[0]].shape[-2:])
    return found


def _main(words: list[str]) -> None:
    known = json.loads(DATA.read_text(encoding="utf-8"))["trials"] if DATA.exists() else {}
    stale = {name for name, trial in TRIALS.items() if known.get(name, {}).get("trial") != trial.digest()}
    if words:
        stale = {name for name in TRIALS if words == ["all"] or any(word in name for word in words)}
    told = commit()
    trials = [trial for name, trial in TRIALS.items() if name in stale]
    with tempfile.TemporaryDirectory(prefix="lorakit-record-") as folder:
        for name, found in record(trials, Path(folder)):
            known[name] = found
            _write(told, known)
    _write(told, known)


def _write(commit: str, known: dict[str, Any]) -> None:
    lines = [
        f"    {json.dumps(name, ensure_ascii=False)}: {json.dumps(known[name])}" for name in TRIALS if name in known
    ]
    DATA.write_text(
        f'{{\n  "commit": {json.dumps(commit)},\n  "trials": {{\n' + ",\n".join(lines) + "\n  }\n}\n", encoding="utf-8"
    )


if __name__ == "__main__":
    _main(sys.argv[1:])
