"""The cookbook of knobs: bakes presets/bench/* with several seeds, judges the pictures, writes docs/knobs.md.

    python benchmarks/knobs.py                    everything that is not in docs/knobs.json yet, three seeds each
    python benchmarks/knobs.py x1 unet-ten        these alone
    python benchmarks/knobs.py --page             the page again, from docs/knobs.json; nothing is baked

Stopped at any moment, it goes on there the next time: a bake counts when its line is in docs/knobs.json. One process and one
thread for all of them: the trainer gets the arguments that `lorakit bake` would give it, but starting it, and the archive
of runs, take no time here. LoRAs are kept in output/knobs.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import io
import json
import os
import shutil
import sys
import time
import tomllib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

Means = dict[str, float]

ROOT = Path(__file__).parents[1]
PRESETS = ROOT / "presets" / "bench"
RESULTS = ROOT / "docs" / "knobs.json"
PAGE = ROOT / "docs" / "knobs.md"
CARD = ROOT / "docs" / "bench-model.md"
PICTURE = ROOT / "docs" / "images" / "knobs.png"
PLACE = ROOT / "output" / "knobs"
SEEDS = (1, 2, 3)
#: The order of the page, and of the work.
ORDER = (
    "x1", "both-tenth", "unet-ten", "te-thirty", "te-only", "unet-only", "te-ten", "unet-tenth", "te-tenth", "alpha-half",
    "dim-2", "dim-32", "no-warmup", "long-warmup", "constant", "caption-dropout", "batch-1", "accumulate", "no-min-snr",
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*ORDER, []], help="presets of presets/bench")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="how many")
    parser.add_argument("--minutes", type=float, help="start no bake after so many")
    parser.add_argument("--page", action="store_true", help="write the page and bake nothing")
    options = parser.parse_args()
    if not options.page:
        work(options.names or ORDER, SEEDS[: options.seeds], options.minutes)
    write_page(load())
    return 0


def load() -> dict[str, dict[str, Any]]:
    """What has been measured, by "preset/seed"."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}


def work(names: Iterable[str], seeds: Iterable[int], minutes: float | None) -> None:
    """Bake and judge what is missing; every result is kept as soon as it is there."""
    import torch

    from lorakit import atomic
    from lorakit.bench_model.learned import shipped_file, write_learned
    from lorakit.bench_model.score import Drawn
    from lorakit.trainers.builtin.checkpoint import load_base

    torch.set_num_threads(1)
    model = PLACE / "models" / "bench-sdxl.safetensors"
    model.parent.mkdir(parents=True, exist_ok=True)
    (PLACE / "lorakit.toml").touch()
    write_learned(model)
    weights = hashlib.sha256(shipped_file().read_bytes()).hexdigest()[:12]
    results = {key: value for key, value in load().items() if value["weights"] == weights}
    base = load_base(model)
    before: Drawn | None = None
    start = time.monotonic()
    for seed in seeds:
        for name in names:
            key = f"{name}/{seed}"
            if key in results and results[key]["preset"] == _fingerprint(name):
                continue
            if minutes is not None and time.monotonic() - start > 60 * minutes:
                return
            before = before or Drawn.of(base, "zorp", 0)
            found = {"weights": weights, "preset": _fingerprint(name), **_bake(name, seed, base, before)}
            # read again: a second process may have been working on other presets
            results = {other: value for other, value in load().items() if value["weights"] == weights} | {key: found}
            atomic.write_text(RESULTS, json.dumps(results, indent=1, sort_keys=True) + "\n")
            print(key, _line(found), flush=True)


def _fingerprint(name: str) -> str:
    """Of the preset's values, so that a changed preset is baked again."""
    from lorakit.preset.files import load_preset

    return hashlib.sha256(load_preset(PRESETS / f"{name}.toml").preset.model_dump_json().encode()).hexdigest()[:12]


def _bake(name: str, seed: int, base: Any, before: Any) -> dict[str, Any]:
    import lorakit
    from lorakit.bench_model.judge import judge
    from lorakit.bench_model.score import draw_with, score_drawn
    from lorakit.protocol import PROGRESS_ENV
    from lorakit.trainers.builtin.__main__ import main as trainer

    data = f"dataset.path={ROOT / 'datasets' / 'demo' / 'zorp'}"
    preset = lorakit.load_preset(PRESETS / f"{name}.toml", [f"seed={seed}", data])
    folder = PLACE / "bakes" / f"{name}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.environ[PROGRESS_ENV] = str(folder / "progress.jsonl")
    code = trainer(_arguments(lorakit.render(preset, workspace=PLACE), folder))
    loras = list(folder.glob("*.safetensors"))
    if code != 0 or not loras:  # stopped, for example
        raise SystemExit(f"{name}, seed {seed}: the trainer ended with exit code {code} and {len(loras)} LoRAs")
    after = draw_with(base, loras[0], "zorp")
    score = score_drawn("zorp", after, before)
    if seed == SEEDS[0]:
        _keep_row(name, after.on_sheet())
        _keep_row("base", before.on_sheet())
    steps = [json.loads(line) for line in (folder / "progress.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = [line["loss"] for line in steps if line["type"] == "step"]
    found = {part: round(value["mean"], 4) for part, value in dataclasses.asdict(score).items()}
    star = round(sum(judge(pixels).shape == "star" for pixels in after.probes) / len(after.probes), 4)
    return {**found, "star": star, "loss": round(sum(losses[-32:]) / len(losses[-32:]), 5)}


def _arguments(launch: Sequence[str], folder: Path) -> list[str]:
    """The trainer's own arguments of a launch line, with results going into ``folder``."""
    arguments = list(launch[launch.index("lorakit.trainers.builtin") + 1 :])
    for option, place in (("--output_dir", folder), ("--logging_dir", folder / "events")):
        arguments[arguments.index(option) + 1] = str(place)
    return arguments


def _keep_row(name: str, pictures: Any) -> None:
    import numpy as np

    path = PLACE / "rows" / f"{name}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, pictures)


# ---- the page ----

#: What people say of each knob, and what of it these numbers can tell: (claim, preset, measure, direction, against).
CLAIMS = (
    ("rates a tenth teach next to nothing", "both-tenth", "concept", "below"),
    ("rates a tenth keep the rest as it was", "both-tenth", "others", "above"),
    ("a UNet rate ten times too high fries everything", "unet-ten", "others", "below"),
    ("a text encoder rate thirty times too high brings training content everywhere", "te-thirty", "others", "below"),
    ("a text encoder rate ten times too high does so too", "te-ten", "others", "below"),
    ("the text encoders alone do not learn a new shape", "te-only", "star", "below"),
    ("the UNet alone leaves other prompts more as they were", "unet-only", "others", "above"),
    ("alpha at half of dim with twice the rate is the same training", "alpha-half", "concept", "same"),
    ("dim 2 learns less", "dim-2", "concept", "below"),
    ("dim 32 learns more", "dim-32", "concept", "above"),
    ("without warmup it goes wrong", "no-warmup", "concept", "below"),
    ("a long warmup learns less", "long-warmup", "concept", "below"),
    ("a constant rate drifts further than a cosine", "constant", "drift", "above"),
    ("caption dropout keeps other prompts more as they were", "caption-dropout", "others", "above"),
    ("batch 1 at the same steps learns less", "batch-1", "concept", "below"),
    ("four accumulated batches of 1 are a batch of 4", "accumulate", "concept", "same"),
    ("without min-SNR a new concept is learned worse", "no-min-snr", "concept", "below"),
)


def write_page(results: dict[str, dict[str, Any]]) -> None:
    """docs/knobs.md and its picture, from the measurements."""
    by_name = {name: [results[key] for key in sorted(results) if key.split("/")[0] == name] for name in ORDER}
    measured = {name: found for name, found in by_name.items() if found}
    drawn = _write_picture(list(measured))
    lines = [*_HEAD.strip().splitlines(), ""]
    lines += [
        "| preset | what differs | seeds | zorp | star | others | drift | last loss |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, found in measured.items():
        about = tomllib.loads((PRESETS / f"{name}.toml").read_text(encoding="utf-8"))["description"]
        cells = [_spread([one[part] for one in found]) for part in ("concept", "star", "others", "drift", "loss")]
        lines.append(f"| `bench/{name}` | {about} | {len(found)} | {' | '.join(cells)} |")
    base = next((one["before"] for found in measured.values() for one in found), None)
    lines += ["", f"Without a LoRA: zorp {base}." if base is not None else "Nothing has been measured yet."]
    missing = [f"`{name}` ({len(by_name[name])} of {len(SEEDS)})" for name in ORDER if len(by_name[name]) < len(SEEDS)]
    if missing:
        lines += ["", f"Not run, or not with all {len(SEEDS)} seeds: {', '.join(missing)}."]
    if drawn:
        lines += ["", f"![One row for each preset, seed 1](images/{PICTURE.name})"]
    lines += ["", "## What people say, and what these numbers say", ""]
    lines += ["| claim | here | against `x1` |", "|---|---|---|"]
    lines += [_claim(by_name, *claim) for claim in CLAIMS]
    lines += ["", *_TAIL.strip().splitlines(), ""]
    PAGE.write_text("\n".join(lines), encoding="utf-8")
    _write_card(by_name)


#: What is asked of presets: (preset, in words, and whether these means, beside those of x1, hold to it).
ASKED: tuple[tuple[str, str, Callable[[Means, Means], bool]], ...] = (
    (
        "x1",
        "zorp ≥ before + 0.15, others ≥ 0.65, drift ≤ 0.10",
        lambda own, _: own["gain"] >= 0.15 and own["others"] >= 0.65 and own["drift"] <= 0.10,
    ),
    (
        "both-tenth",
        "zorp ≤ before + 0.08, others ≥ 0.95, drift ≤ 0.06",
        lambda own, _: own["gain"] <= 0.08 and own["others"] >= 0.95 and own["drift"] <= 0.06,
    ),
    ("unet-ten", "others ≤ 0.10, drift ≥ 0.25", lambda own, _: own["others"] <= 0.10 and own["drift"] >= 0.25),
    ("te-ten", "others at least 0.3 below x1", lambda own, x1: own["others"] <= x1["others"] - 0.3),
    ("te-thirty", "others at least 0.3 below x1", lambda own, x1: own["others"] <= x1["others"] - 0.3),
    ("te-only", "star ≤ 0.10", lambda own, _: own["star"] <= 0.10),
)


def _means(found: list[dict[str, Any]]) -> Means:
    means = {
        part: sum(one[part] for one in found) / len(found) for part in ("concept", "before", "star", "others", "drift")
    }
    return means | {"gain": means["concept"] - means["before"]}


def _write_card(by_name: dict[str, list[dict[str, Any]]]) -> None:
    """The table of the model card that says what its LoRAs must show, between two marks."""
    lines = ["| preset | asked | seeds | zorp | star | others | drift | holds |", "|---|---|---|---|---|---|---|---|"]
    for name, asked, holds in ASKED:
        if not by_name[name] or not by_name["x1"]:
            continue
        own = _means(by_name[name])
        word = "yes" if holds(own, _means(by_name["x1"])) else "**no**"
        cells = " | ".join(f"{own[part]:.3f}" for part in ("concept", "star", "others", "drift"))
        lines.append(f"| `bench/{name}` | {asked} | {len(by_name[name])} of {len(SEEDS)} | {cells} | {word} |")
    first, last = "<!-- make knobs -->\n", "\n<!-- /make knobs -->"
    before, rest = CARD.read_text(encoding="utf-8").split(first)
    after = rest.split(last)[1]
    CARD.write_text(before + first + "\n".join(lines) + last + after, encoding="utf-8")


def _claim(by_name: dict[str, list[dict[str, Any]]], claim: str, name: str, part: str, direction: str) -> str:
    ours, theirs = ([one[part] for one in by_name[which]] for which in (name, "x1"))
    if min(len(ours), len(theirs)) < len(SEEDS):
        return f"| {claim} | not measured with {len(SEEDS)} seeds | |"
    apart = sum(ours) / len(ours) - sum(theirs) / len(theirs)
    # no test of significance can say much about three seeds; beyond the spread of all of them is a plain statement
    beyond = min(ours) > max(theirs) or max(ours) < min(theirs)
    holds = {"below": apart < 0 and beyond, "above": apart > 0 and beyond, "same": not beyond}[direction]
    word = "supported" if holds else "**unsupported**"
    if not holds and beyond and direction != "same":
        word = "**the opposite was seen**"
    label = {"concept": "zorp"}.get(part, part)
    return f"| {claim} | {word} | {label} {apart:+.3f} |"


def _spread(values: list[float]) -> str:
    mean = sum(values) / len(values)
    return f"{mean:.3f} ({min(values):.3f} … {max(values):.3f})" if len(values) > 1 else f"{mean:.3f}"


def _line(found: dict[str, Any]) -> str:
    return " ".join(f"{part} {found[part]:.3f}" for part in ("concept", "others", "drift", "loss"))


def _write_picture(names: list[str]) -> bool:
    import numpy as np
    from PIL import Image

    kept = [(name, PLACE / "rows" / f"{name}.npy") for name in ("base", *names)]
    rows = [(name, np.load(path)) for name, path in kept if path.exists()]
    if len(rows) < 2:
        return PICTURE.exists()
    from lorakit.bench_model.contact import contact_sheet
    from lorakit.bench_model.score import sheet_prompts

    sheet = Image.open(io.BytesIO(contact_sheet(rows, sheet_prompts("zorp"))))
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    sheet.resize((sheet.width * 2 // 3, sheet.height * 2 // 3), Image.Resampling.LANCZOS).quantize(200).save(PICTURE)
    return True


_HEAD = """
# Knobs

What each setting of a LoRA training does, measured where half a minute is a training: the [learned model](bench-model.md) is
taught a zorp (a purple star with a yellow stripe) from sixteen pictures, with one thing changed at a time, several seeds
each, and a program looks at the pictures. `make knobs` bakes what is missing here and writes this page; `lorakit bake
presets/bench/NAME.toml` bakes one yourself. The numbers are in `docs/knobs.json`.

- *zorp*: of star, purple and yellow stripe, the share that pictures of 16 prompts show, 0 … 1.
- *star*: the share of those pictures that show a star, 0 … 1.
- *others*: the share of 32 other prompts with shape, colour and background still right.
- *drift*: how far the pixels of those moved from the base model's, 0 … 1.
- *last loss*: mean of the last 32 steps.

Means over seeds, lowest and highest in parentheses.
"""

_TAIL = """
A claim is *supported* when every seed lies beyond every seed of `x1` on the side it names (for "the same": when they do
not), and unsupported otherwise. With three seeds that is a weak statement; differences smaller than the spread mean nothing.

## What carries over to the real SDXL, and what does not

- Which way a knob turns should carry over; nobody has compared it here with the real model.
- The rates do not. This model has 4 million trained weights, not 3 billion, and bears rates 10 to 100 times as high.
- Nothing here speaks of faces, of styles of drawing, or of data sets with mistakes in them: one object, clean captions.
- Repeats against epochs are not an experiment here: with one folder and a shuffled epoch, 4 repeats for 20 epochs and 1
  repeat for 80 show the same pictures equally often; only saving and validation, which count in epochs, differ.
"""


if __name__ == "__main__":
    sys.exit(main())
