"""Records the evidence of the real bakes: `python -m tests.verdict.diagnose.record_bakes [NAME | NAME=RUN_DIR]…`.

Each NAME of bakes.py is baked in output/diagnose (half a minute on a free core; some minutes for all), or taken from a run
that was made the same way; its facts are written to data/NAME.json, and what is found is printed.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

from lorakit import api
from lorakit.archive.run import Run
from lorakit.evidence.base_model import base_sha256
from lorakit.preset.files import load_preset
from lorakit.verdict.diagnose.diagnosis import diagnose
from lorakit.verdict.diagnose.facts import Facts
from lorakit.verdict.diagnose.gather import of_run
from lorakit.verdict.diagnose.thresholds import settle
from lorakit.workspace import find_workspace
from tests.verdict.diagnose.bakes import BAKES, DATA, REPO, Bake, Place, sets_of


def bake(name: str, place: Place) -> Run:
    """Bake one of them. Raises what a bake raises."""
    wanted: Bake = BAKES[name]
    root = place.prepare()
    return api.bake(load_preset(root / "presets" / f"{wanted.preset}.toml", sets_of(wanted)), workspace=root)


def record(name: str, run: Run) -> Facts:
    """Write the facts of a run, without what depends on the machine."""
    facts = of_run(run, find_workspace(run.path))
    kept = dataclasses.replace(facts, subject=name, losses=tuple(float(f"{value:.4g}") for value in facts.losses))
    DATA.mkdir(exist_ok=True)
    told = {"base_model_sha256": base_sha256(run), "facts": kept.to_json()}
    (DATA / f"{name}.json").write_text(json.dumps(told, separators=(",", ":")) + "\n", encoding="utf-8")
    return kept


def main(words: list[str]) -> None:
    """Record what is named, or all that is not there yet."""
    place = Place(REPO / "output" / "diagnose")
    for word in words or [name for name in BAKES if not (DATA / f"{name}.json").exists()]:
        name, _, folder = word.partition("=")
        run = Run(Path(folder).resolve()) if folder else bake(name, place)
        facts = record(name, run)
        found = {one.code for one in diagnose(facts, settle(facts.scale)).findings}
        well = BAKES[name].must <= found <= BAKES[name].must | BAKES[name].may
        print(
            f"{name:14} {'as it should be' if well else 'NOT as it should be'}: {' '.join(sorted(found)) or 'nothing found'}",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
