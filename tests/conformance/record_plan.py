"""Runs the real sd-scripts on the cases of ``plan_cases`` and writes down what it did: numbers and outcomes only.

    python -m tests.conformance.record_plan [CASE …]

The environment's variables are those of ``checkout``. A case whose rates are not compared is ended as soon as the trainer
has said what it is going to do.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from lorakit.archive.events import read_scalars
from lorakit.trainers.render import RenderPaths, render
from lorakit.trainers.sd_scripts import tokenizers
from tests.conformance.checkout import commit
from tests.conformance.plan_cases import BASE, CASES, Case, lay_out
from tests.conformance.warm_trainer import WarmTrainer

__all__ = ["DATA", "record"]

DATA: Final = Path(__file__).with_name("data") / "plan.json"

#: How many trainings run at a time.
_AT_ONCE: Final = 2


def record(cases: Iterable[Case], root: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """What the real trainer did with each case, by name, in order; ``root`` becomes a workspace with all of them."""
    # torch, which the tests that only read the data do without
    from lorakit.bench_model.writer import write_checkpoint

    write_checkpoint(root / BASE, size="slim")
    tokenizers.fill(root / "tokenizers", tokenizers.merges_of_package())
    cases = list(cases)
    shares = [cases[start::_AT_ONCE] for start in range(min(_AT_ONCE, len(cases)))]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for share in pool.map(lambda share: _record_share(share, root), shares):
            yield from share


def _record_share(cases: list[Case], root: Path) -> list[tuple[str, dict[str, Any]]]:
    trainer = WarmTrainer()
    try:
        return [(case.name, _record_one(case, root, trainer)) for case in cases]
    finally:
        trainer.close()


def _record_one(case: Case, root: Path, trainer: WarmTrainer) -> dict[str, Any]:
    lay_out(case, root)
    output, logs, log = root / case.name / "output", root / case.name / "logs", root / case.name / "log.txt"
    preset = case.preset()
    paths = RenderPaths(root, output, logs, tokenizer_cache=root / "tokenizers")
    arguments = render(preset, paths, kind="sd-scripts")
    code, _ = trainer.run(arguments, log, trains=case.trains, probe=preset.trainer.probe)
    text = log.read_text(encoding="utf-8", errors="replace")
    found = {"case": case.digest(), "exit": code, **_announced(text)}
    if case.trains and code == 0:
        found |= {"saved": _saved(text), "kept": sorted(path.name for path in output.iterdir())}
        found["lr"] = _rates(logs)
    print(case.name, {key: value for key, value in found.items() if key not in {"lr", "buckets"}}, flush=True)
    return found


#: The numbers of the trainer's announcement, by the words before them.
_NUMBERS: Final = {
    "images": r"num train images \* repeats",
    "validation": r"num validation images \* repeats",
    "reg": r"num reg images",
    "batches": r"num batches per epoch",
    "epochs": r"num epochs",
    "accumulation": r"gradient accumulation steps",
    "steps": r"total optimization steps",
}
_BUCKET: Final = re.compile(r"bucket \d+: resolution \((\d+), (\d+)\), count: (\d+)")


def _announced(log: str) -> dict[str, Any]:
    """The numbers in a log; outcome "started" where the training began, "refused" where it did not."""
    found: dict[str, Any] = {}
    for name, words in _NUMBERS.items():
        if match := re.search(rf"^\s*{words}[^:=\n]*[:=] *(\d+)", log, re.MULTILINE):
            found[name] = int(match[1])
    if "steps" not in found:
        return {"outcome": "refused"}
    # Validation datasets print their buckets after those of training.
    training, _, held_out = log.partition("[Prepare validation dataset")
    buckets = [[int(number) for number in match.groups()] for match in _BUCKET.finditer(training)]
    found |= {"outcome": "started", "buckets": buckets}
    if held_out:
        found["validation_buckets"] = [[int(n) for n in match.groups()] for match in _BUCKET.finditer(held_out)]
    return found


def _saved(log: str) -> list[str]:
    """Names of the files in the order they are said to be saved."""
    return [Path(match[1].strip()).name for match in re.finditer(r"saving checkpoint: (.+)", log)]


def _rates(logs: Path) -> dict[str, list[list[float]]]:
    """Each rate's curve: the different [step, rate] that TensorBoard has."""
    curves: dict[str, list[list[float]]] = {}
    for path in sorted(logs.rglob("events.out.tfevents.*")):
        for scalar in read_scalars(path):
            if scalar.tag.startswith("lr/"):
                curve, point = curves.setdefault(scalar.tag, []), [scalar.step, float(f"{scalar.value:.8g}")]
                if point not in curve:
                    curve.append(point)
    return curves


def _main(names: list[str]) -> None:
    known = json.loads(DATA.read_text(encoding="utf-8")) if DATA.exists() else {"cases": {}}
    with tempfile.TemporaryDirectory(prefix="lorakit-record-") as folder:
        asked = [CASES[name] for name in names] if names else list(CASES.values())
        found = dict(record(asked, Path(folder)))
    cases = {**known["cases"], **found}
    lines = [f"    {json.dumps(name)}: {json.dumps(cases[name])}" for name in CASES if name in cases]
    DATA.parent.mkdir(exist_ok=True)
    DATA.write_text(
        f'{{\n  "commit": {json.dumps(commit())},\n  "cases": {{\n' + ",\n".join(lines) + "\n  }\n}\n", encoding="utf-8"
    )


if __name__ == "__main__":
    _main(sys.argv[1:])
