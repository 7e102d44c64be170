"""What a small run starts from, for tests and benchmarks: a preset of a few steps on the tiny base model, and a few pictures."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

_PRESET = """\
name = "{name}"
seed = 7

[base]
model = "{model}"

[dataset]
path = "{dataset}"
resolution = 64
bucket_min = 64
bucket_max = 128
bucket_step = 32
workers = 0

[network]
dim = 2

[optim]
type = "AdamW"
unet_lr = 1e-3
te_lr = 1e-3
schedule = "{schedule}"

[length]
steps = {steps}
batch_size = {batch_size}

[precision]
mixed = "no"
save = "{save}"
{states}
[trainer]
kind = "{kind}"

[launch]
cpu = true
threads = 1
"""
_STATES = """
[save]
every_n_steps = {every}
state = true
"""


def small_preset(
    name: str,
    *,
    steps: int,
    kind: str = "builtin",
    model: str = "base.safetensors",
    dataset: str = "things",
    schedule: str = "constant",
    batch_size: int = 1,
    save: str = "float",
    states_every: int | None = None,
) -> str:
    """The text of a preset; with ``states_every``, a checkpoint and a training state after each so many steps."""
    states = "" if states_every is None else _STATES.format(every=states_every)
    return _PRESET.format(
        name=name, steps=steps, kind=kind, model=model, dataset=dataset, schedule=schedule, batch_size=batch_size, save=save,
        states=states,
    )  # fmt: skip


def small_pictures(folder: Path, count: int, *, tall: bool = False) -> None:
    """Pictures of 64 pixels with captions, in a new folder; with ``tall``, every other one is half as high again."""
    folder.mkdir(parents=True)
    for index in range(count):
        size = (64, 64 + 32 * (index % 2) if tall else 64)
        Image.new("RGB", size, (60 * index, 90, 120)).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(f"thing, number {index}", encoding="utf-8")
