"""Comparing hundreds of runs at once: seconds and peak memory of the table and of the page, on an archive it makes."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from lorakit.archive.run import list_runs  # noqa: E402
from tests.cli.made_runs import image, make_run  # noqa: E402
from tests.verdict.made_loras import lora  # noqa: E402

PROGRAM = """
import resource, sys, time
from pathlib import Path
from lorakit.archive.run import list_runs
from lorakit.verdict.compare import compare
began, spent = time.perf_counter(), time.process_time()
found = compare(list_runs(Path(sys.argv[1])))
table, table_spent = time.perf_counter() - began, time.process_time() - spent
from lorakit.verdict.page.build import compare_page
text = compare_page(found, Path(sys.argv[1]))
page, page_spent = time.perf_counter() - began - table, time.process_time() - spent - table_spent
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
print(f"table    {table:6.2f} s, {table_spent:6.2f} s of processor   {len(found.settings)} settings differ")
print(f"page     {page:6.2f} s, {page_spent:6.2f} s of processor   {len(text) / 1e6:.1f} MB")
print(f"memory   {peak:6.0f} MB at most, Python and numpy included")
"""


def archive(folder: Path, count: int, steps: int, pictures: int) -> None:
    """Runs that differ in two rates, each with a progress of so many steps and a dataset of so many pictures."""
    for at in range(count):
        images = [image(f"{number}.png", caption=f"picture {number}, " * 12) for number in range(pictures)]
        run = make_run(folder, unet_lr=f"{1 + at % 25}e-5", te_lr=f"{1 + at // 25}e-6", images=images, sealed=False)
        lora(run.weights / "lora.safetensors", unet=1 + at / 100)
        lines = [
            {
                "v": 1,
                "t": 1e9 + step / 2,
                "type": "step",
                "step": step,
                "epoch": 1 + step // 100,
                "loss": 0.1 + at / step / 1e4,
                "lr": {"unet": 1e-4, "te1": 5e-5, "te2": 2e-5},
                "grad_norm": {"unet": 0.02, "te1": 0.01, "te2": 0.02},
                "seconds": 0.5,
                "rss": 1 << 30,
            }
            for step in range(1, steps + 1)
        ]
        run.attempt(1).progress.write_text("".join(json.dumps(line) + "\n" for line in lines))


def main() -> None:
    """Run it and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--pictures", type=int, default=60)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        archive(folder, asked.runs, asked.steps, asked.pictures)
        print(f"{len(list_runs(folder))} runs of {asked.steps} steps and {asked.pictures} pictures", flush=True)
        for said in ("first, weights measured", "again, weights kept"):
            print(said, flush=True)
            subprocess.run([sys.executable, "-c", PROGRAM, str(folder)], check=True, cwd=ROOT)


if __name__ == "__main__":
    main()
