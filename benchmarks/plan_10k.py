"""How long `lorakit plan` takes for 10,000 images: the whole command, and the planning alone.

python benchmarks/plan_10k.py [--images N] [--rounds N]

Writes a few distinct images of several sizes and formats into a temporary folder and hard-links the rest, each with its
own caption. The command runs as a user's would, interpreter start included; the best of the rounds is what the machine can
do, the median what to expect.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

SIZES = ((832, 1216), (1216, 832), (1024, 1024), (768, 1344), (1920, 1080), (640, 480), (896, 1152), (300, 700))
SUFFIXES = ("png", "jpg", "webp")

PRESET = """
name = "ten thousand"
seed = 1
[base]
model = "none.safetensors"
[dataset]
path = "data"
[optim]
unet_lr = 1e-4
te_lr = 5e-5
warmup = "5%"
[length]
epochs = 5
batch_size = 4
[save]
every_n_epochs = 1
"""


def make_workspace(root: Path, images: int) -> None:
    from PIL import Image

    folder = root / "data" / "1_many"
    folder.mkdir(parents=True)
    (root / "presets").mkdir()
    (root / "lorakit.toml").touch()
    (root / "presets" / "many.toml").write_text(PRESET)
    originals = []
    for number, (size, suffix) in enumerate((size, suffix) for size in SIZES for suffix in SUFFIXES):
        path = root / f"original{number}.{suffix}"
        Image.effect_noise(size, 40).convert("RGB").save(path)
        originals.append(path)
    for number in range(images):
        original = originals[number % len(originals)]
        (folder / f"image {number:05d}{original.suffix}").hardlink_to(original)
        (folder / f"image {number:05d}.txt").write_text(f"girl, tag {number}, another tag, standing")


def seconds_of_command(root: Path) -> float:
    begin = time.perf_counter()
    command = [str(Path(sys.executable).with_name("lorakit")), "plan", "many", "--json"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - begin
    if done.returncode:
        sys.exit(f"lorakit plan failed ({done.returncode}):\n{done.stdout}\n{done.stderr}")
    assert json.loads(done.stdout)["images"] > 0
    return seconds


def seconds_of_planning(root: Path) -> tuple[float, int]:
    from lorakit.plan import plan
    from lorakit.preset.models import Preset
    from lorakit.workspace import Workspace

    preset = Preset.model_validate(tomllib.loads(PRESET))
    begin = time.perf_counter()
    planned = plan(preset, Workspace(root))
    return time.perf_counter() - begin, planned.images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lorakit-plan-") as name:
        root = Path(name)
        make_workspace(root, arguments.images)
        whole = sorted(seconds_of_command(root) for _ in range(arguments.rounds))
        alone = sorted(seconds_of_planning(root) for _ in range(arguments.rounds))
    print(f"images            {alone[0][1]:,}")
    print(f"lorakit plan      best {whole[0]:.2f} s   median {statistics.median(whole):.2f} s")
    print(f"planning alone    best {alone[0][0]:.2f} s   median {statistics.median(s for s, _ in alone):.2f} s")


if __name__ == "__main__":
    main()
