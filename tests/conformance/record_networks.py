"""Trains every kind of network of ``network_cases`` with the real sd-scripts and writes down what it made: numbers only.

    python -m tests.conformance.record_networks [CASE …]

Without names it records what is new or asks something else than it did; ``all`` records everything. The environment's
variables are those of ``checkout``; lycoris-lora must be in the trainer's environment.
"""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from PIL import Image

from lorakit.trainers.render import RenderPaths, render
from lorakit.trainers.sd_scripts import tokenizers
from tests.conformance.checkout import PYTHON, commit
from tests.conformance.network_cases import BASE, CASES, DATA_FOLDER, Case
from tests.conformance.warm_trainer import WarmTrainer

__all__ = ["DATA", "record", "summary"]

DATA: Final = Path(__file__).with_name("data") / "networks.json"
HOOK: Final = Path(__file__).with_name("network_hook.py")


def record(cases: Iterable[Case], root: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """What the real trainer made of each case, by name; ``root`` becomes a workspace with all of them."""
    # torch, which the tests that only read the data do without
    from lorakit.bench_model.writer import write_checkpoint

    write_checkpoint(root / BASE, size="slim")
    tokenizers.fill(root / "tokenizers", tokenizers.merges_of_package())
    folder = root / DATA_FOLDER / "1_thing"
    folder.mkdir(parents=True)
    for number, colour in enumerate(("red", "blue")):
        Image.new("RGB", (128, 128), colour).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(colour, encoding="utf-8")
    trainer = WarmTrainer()
    trainer.script = str(HOOK)
    try:
        for case in cases:
            yield case.name, _record_one(case, root, trainer)
    finally:
        trainer.close()


def _record_one(case: Case, root: Path, trainer: WarmTrainer) -> dict[str, Any]:
    place = root / case.name
    place.mkdir()
    paths = RenderPaths(root, place / "output", place / "logs", tokenizer_cache=root / "tokenizers")
    code, error = trainer.run(render(case.preset(), paths, kind="sd-scripts"), place / "log.txt")
    found: dict[str, Any] = {"case": case.digest(), "exit": code, "error": error}
    if code == 0:
        made = json.loads((place / "network.json").read_text(encoding="utf-8"))
        found |= {"groups": made["groups"], "start": summary(made["start"])}
        found |= _file(place / "output" / f"{case.name}.safetensors")
    print(case.name, {key: found.get(key) for key in ("exit", "error", "tensors", "numbers")}, flush=True)
    return found


def summary(tensors: Mapping[str, tuple[list[int], float, float]]) -> dict[str, Any]:
    """Names and shapes as one digest, and by part and kind of tensor how many there are, the sum of all numbers and that of
    their squares.

    Takes (shape, sum, sum of squares) by name.
    """
    names = "\n".join(f"{name} {list(tensors[name][0])}" for name in sorted(tensors))
    kinds: dict[str, list[float]] = {}
    for name in sorted(tensors):
        _, total, squares = tensors[name]
        part, kind = name.split("_")[1], name.partition(".")[2]
        entry = kinds.setdefault(f"{part} {kind}", [0, 0.0, 0.0])
        entry[0] += 1
        entry[1] += total
        entry[2] += squares
    rounded = {kind: [int(count), *(float(f"{value:.9g}") for value in sums)] for kind, (count, *sums) in kinds.items()}
    return {"names": hashlib.sha256(names.encode()).hexdigest()[:16], "kinds": rounded}


def _file(path: Path) -> dict[str, Any]:
    """Modules, tensors and numbers of the saved file by part; how many tensors are not all zero."""
    from safetensors import safe_open

    modules: dict[str, set[str]] = {}
    tensors: dict[str, int] = {}
    numbers: dict[str, int] = {}
    moved = 0
    with safe_open(path, framework="numpy") as file:
        for name in file.keys():  # noqa: SIM118  (it is not a mapping)
            part = name.split("_")[1]
            modules.setdefault(part, set()).add(name.partition(".")[0])
            tensors[part] = tensors.get(part, 0) + 1
            if not name.endswith(".alpha"):
                tensor = file.get_tensor(name)
                numbers[part] = numbers.get(part, 0) + math.prod(tensor.shape)
                moved += bool(tensor.any())
    return {
        "modules": {part: len(found) for part, found in sorted(modules.items())},
        "tensors": dict(sorted(tensors.items())),
        "numbers": dict(sorted(numbers.items())),
        "moved": moved,
        "bytes": path.stat().st_size,
    }


def _main(names: list[str]) -> None:
    known = json.loads(DATA.read_text(encoding="utf-8"))["cases"] if DATA.exists() else {}
    stale = [name for name, case in CASES.items() if known.get(name, {}).get("case") != case.digest()]
    asked = (list(CASES) if names == ["all"] else names) if names else stale
    version = "import importlib.metadata; print(importlib.metadata.version('lycoris-lora'))"
    lycoris = subprocess.run([PYTHON, "-c", version], capture_output=True, text=True, check=True).stdout.strip()
    with tempfile.TemporaryDirectory(prefix="lorakit-record-") as folder:
        for name, found in record([CASES[name] for name in asked], Path(folder)):
            known[name] = found
            lines = [f"    {json.dumps(name)}: {json.dumps(known[name])}" for name in CASES if name in known]
            head = f'  "commit": {json.dumps(commit())},\n  "lycoris": {json.dumps(lycoris)},\n'
            text = "{\n" + head + '  "cases": {\n' + ",\n".join(lines) + "\n  }\n}\n"
            DATA.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    _main(sys.argv[1:])
