"""Whole plans from plain inputs: the numbers, the JSON, the golden example."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lorakit.dataset.blueprint import DatasetDefaults, from_folders, from_toml
from lorakit.errors import DatasetError, UsageError
from lorakit.plan import REAL_SDXL, Caching, PlanInput, Sampling, Saving, ScheduleInput, network_size, plan_from
from tests.dataset.pictures import picture

DEFAULTS = DatasetDefaults(
    resolution=(128, 128),
    enable_bucket=True,
    min_bucket_reso=64,
    max_bucket_reso=256,
    bucket_reso_steps=32,
    caption_extension=".txt",
    train_batch_size=4,
)


def data(root: Path) -> Path:
    """117 : 51 : 21 examples in three buckets, as 39, 17 and 7 images of 3 repeats."""
    folder = root / "data/3_girl"
    first = {size: picture(folder / f"{size[0]}_00.png", size) for size in ((96, 160), (128, 128), (160, 96))}
    for (size, path), count in zip(first.items(), (39, 17, 7), strict=True):
        for i in range(1, count):
            (folder / f"{size[0]}_{i:02d}.png").hardlink_to(path)
            (folder / f"{size[0]}_{i:02d}.txt").hardlink_to(path.with_suffix(".txt"))
    return root / "data"


def asked(root: Path, **changes: object) -> PlanInput:
    value = PlanInput(
        blueprint=from_folders(data(root), None, DEFAULTS),
        output_name="girl",
        output_dir=root / "runs/not/there/yet",
        rates={"unet": 1e-4, "te1": 5e-5, "te2": 2e-5},
        network=network_size(REAL_SDXL, ["unet", "te1", "te2"], 32),
        schedule=ScheduleInput("cosine", warmup=0.05, base_lr=1e-4),
        max_train_epochs=7,
        saving=Saving(every_n_epochs=1, bytes_per_parameter=2),
    )
    return replace(value, **changes)  # type: ignore[arg-type]


def test_numbers(tmp_path: Path) -> None:
    plan = plan_from(asked(tmp_path))
    assert plan.images == 63
    assert [(b.width, b.height, b.count, b.images, b.batches) for b in plan.buckets] == [
        (96, 160, 117, 39, 30),
        (128, 128, 51, 17, 13),
        (160, 96, 21, 7, 6),
    ]
    assert (plan.examples_per_epoch, plan.batches_per_epoch, plan.short_batches) == (189, 49, 3)
    assert (plan.epochs, plan.total_steps, plan.warmup_steps) == (7, 343, 17)
    assert [(f.path.name, f.repeats, f.images, f.examples) for f in plan.folders] == [("3_girl", 3, 63, 189)]
    assert len(plan.checkpoints) == 7
    assert plan.checkpoints[0].bytes == pytest.approx(228e6, rel=0.01)
    assert plan.disk.needed == plan.disk.weights == sum(file.bytes for file in plan.checkpoints)
    assert plan.disk.free > 0


def test_rates(tmp_path: Path) -> None:
    lr = plan_from(asked(tmp_path)).lr
    assert set(lr) == {"unet", "te1", "te2"}
    unet = {point.step: point.lr for point in lr["unet"]}
    assert unet[1] == 0
    assert unet[18] == 1e-4  # the first step after a warm-up of 17
    assert unet[343] < 1e-8
    assert [p.lr * 0.2 for p in lr["unet"]] == pytest.approx([p.lr for p in lr["te2"]])
    assert len(plan_from(asked(tmp_path / "other")).curve) == 25


def test_accumulation_and_processes(tmp_path: Path) -> None:
    plan = plan_from(asked(tmp_path, processes=2, gradient_accumulation_steps=3))
    # 49 batches: 25 for each process, 9 updates of which the last is short
    assert (plan.counts.batches_per_process, plan.counts.updates_per_epoch, plan.total_steps) == (25, 9, 63)
    assert plan.warmup_steps == 3  # int(0.05 × 126) = 6 ticks, 2 a step
    assert plan.checkpoints[-1].step == 63


def test_steps_in_place_of_epochs(tmp_path: Path) -> None:
    plan = plan_from(asked(tmp_path, max_train_epochs=None, max_train_steps=100))
    assert (plan.epochs, plan.total_steps) == (3, 100)
    assert [file.name for file in plan.checkpoints] == [
        "girl-000001.safetensors",
        "girl-000002.safetensors",
        "girl.safetensors",
    ]


def test_the_json_holds_what_is_promised(tmp_path: Path) -> None:
    plain = plan_from(asked(tmp_path, sampling=Sampling(every_n_epochs=1, sizes=((64, 64),)))).to_json()
    assert json.loads(json.dumps(plain)) == plain
    promised = {"images", "skipped", "buckets", "batches_per_epoch", "epochs", "total_steps", "warmup_steps", "lr"}
    assert promised <= set(plain)
    assert plain["buckets"][0] == {"width": 96, "height": 160, "count": 117, "batches": 30, "images": 39, "dataset": 0}
    assert plain["lr"]["te1"][0] == {"step": 1, "lr": 0.0}
    assert plain["samples"][0] == {"step": 49, "epoch": 1, "images": 1}
    assert plain["folders"][0]["path"] == str(tmp_path / "data/3_girl")
    assert plain["network"]["total_modules"] == 986
    assert "data" not in plain


def test_an_optimizer_with_rates_of_its_own(tmp_path: Path) -> None:
    plan = plan_from(asked(tmp_path, rates={"unet": None}, schedule=ScheduleInput(None), warnings=("said before",)))
    assert plan.lr == {}
    assert plan.warmup_steps == 0
    assert plan.warnings[0] == "said before"


def test_validation_and_regularisation(tmp_path: Path) -> None:
    for i in range(5):
        picture(tmp_path / f"reg/1_girl/{i}.png", (128, 128))
    defaults = replace(DEFAULTS, validation_split=0.1, validation_seed=5)
    blueprint = from_folders(data(tmp_path), tmp_path / "reg", defaults)
    plan = plan_from(asked(tmp_path / "b", blueprint=blueprint, max_validation_steps=1))
    # 63 images: ceil(56.7) = 57 train, round(6.3) = 6 validate
    assert (plan.images, plan.validation.images, plan.validation.batches, plan.validation.overlap) == (57, 6, 1, 0)
    assert (plan.reg.images, plan.reg.examples, plan.reg.found) == (5, 171, 5)
    assert plan.examples_per_epoch == 342


def test_two_datasets(tmp_path: Path) -> None:
    folder = data(tmp_path) / "3_girl"
    text = f"[[datasets]]\nbatch_size = 5\n[[datasets.subsets]]\nimage_dir = {str(folder)!r}\n"
    text += f"[[datasets]]\nresolution = 64\n[[datasets.subsets]]\nimage_dir = {str(folder)!r}\nnum_repeats = 2\n"
    (tmp_path / "d.toml").write_text(text)
    plan = plan_from(asked(tmp_path / "b", blueprint=from_toml(tmp_path / "d.toml", DEFAULTS)))
    assert plan.batch_sizes == (5, 4)
    assert plan.batches_per_epoch == (8 + 4 + 2) + -(-(39 + 17 + 7) * 2 // 4) == 46
    assert {bucket.dataset for bucket in plan.buckets} == {0, 1}


def test_caches_and_states_count_as_disk(tmp_path: Path) -> None:
    caching = Caching(latents=True, latents_to_disk=True)
    saving = Saving(every_n_epochs=1, last_n_epochs=1, state=True, bytes_per_parameter=2)
    plan = plan_from(asked(tmp_path, caching=caching, saving=saving))
    assert plan.disk.caches == 16 * (39 * 12 * 20 + 17 * 16 * 16 + 7 * 20 * 12)
    assert (
        plan.disk.weights == 3 * plan.checkpoints[0].bytes
    )  # kept, final, and one that goes when its successor is there
    assert plan.disk.states > plan.disk.weights


def test_pictures_of_other_sizes_without_buckets_are_warned_of(tmp_path: Path) -> None:
    blueprint = from_folders(data(tmp_path), None, replace(DEFAULTS, enable_bucket=False))
    plan = plan_from(asked(tmp_path / "b", blueprint=blueprint))
    assert "46 images are not of the training resolution" in plan.warnings[0]
    cached = plan_from(asked(tmp_path / "c", blueprint=blueprint, caching=Caching(latents=True)))
    assert cached.warnings == ()


def test_errors_come_before_numbers(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot warm up"):
        plan_from(asked(tmp_path, schedule=ScheduleInput("constant", warmup=5)))
    (tmp_path / "data/3_girl/bad.png").write_bytes(b"")
    with pytest.raises(DatasetError, match="cannot be trained on"):
        plan_from(asked(tmp_path / "b", blueprint=from_folders(tmp_path / "data", None, DEFAULTS)))
