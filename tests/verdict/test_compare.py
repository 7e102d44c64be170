"""Runs side by side: what really differs, and what came of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorakit.archive.run import Run
from lorakit.cli.compare_screen import page
from lorakit.errors import ArchiveError, UsageError
from lorakit.verdict.compare import DatasetDifference, compare, dataset_difference
from lorakit.verdict.settings import settings, show_value
from tests.cli.made_runs import OUT_OF_MEMORY, image, make_run
from tests.cli.running import golden
from tests.verdict.made_loras import lora


def gradients(run: Run, **norms: float) -> None:
    """Twenty steps with these gradient norms, and ten times as large ones before the last two."""
    lines = [
        json.dumps(
            {
                "v": 1,
                "t": step,
                "type": "step",
                "step": step,
                "epoch": 1,
                "loss": 0.1,
                "grad_norm": {part: norm * (1 if step > 18 else 10) for part, norm in norms.items()},
            }
        )
        for step in range(1, 21)
    ]
    run.attempt(1).progress.write_text("\n".join(lines) + "\n")


def test_only_what_differs_is_shown(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path, short="k3f9", images=[image("1.png"), image("2.png"), image("3.png")]),
        make_run(tmp_path, "花見", short="m8aa", unet_lr="2.5e-4", te_lr="5e-5", packages={"torch": "2.12.0"}),
        make_run(tmp_path, short="p2xd", ended={**OUT_OF_MEMORY, "loss_average": None, "vram": None}, te_lr="0"),
    ]
    for at, run in enumerate(runs):
        lora(run.weights / "lora.safetensors", unet=3.0 + at, text=0.5 - at / 4)
    gradients(runs[0], unet=0.045, te1=0.011)
    found = compare(runs)
    assert [row.key for row in found.settings] == ["optim.unet_lr", "optim.te_lr"]
    assert [row.key for row in found.inputs] == ["dataset", "package torch"]
    golden("compare.txt", "".join(f"{line.plain}\n" for line in page(found, width=None)))


def test_the_same_run_twice_is_no_comparison(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with pytest.raises(UsageError):
        compare([run])
    with pytest.raises(UsageError):
        compare([run, run])


def test_nothing_differs(tmp_path: Path) -> None:
    found = compare([make_run(tmp_path), make_run(tmp_path)])
    assert found.settings == found.inputs == ()
    assert "nothing differs" in [line.plain.strip() for line in page(found, width=100)]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"alpha": '"dim/2"'}, {"alpha": "16"}),
        ({"alpha": "16.0"}, {"alpha": "16"}),
        ({"te_lr": "[5e-5, 5e-5]"}, {"te_lr": "5e-5"}),
    ],
)
def test_values_that_mean_the_same_do_not_differ(first: dict[str, Any], second: dict[str, Any], tmp_path: Path) -> None:
    assert compare([make_run(tmp_path, **first), make_run(tmp_path, **second)]).settings == ()


def test_a_percentage_of_another_length_is_still_the_same_percentage(tmp_path: Path) -> None:
    runs = [make_run(tmp_path), make_run(tmp_path)]
    runs[1].plan.write_text(json.dumps({"warmup_steps": 40}))
    assert compare(runs).settings == ()  # both say 5 %
    runs[1].preset.write_text(runs[1].preset.read_text().replace('"5%"', '"17 steps"'))
    assert [row.key for row in compare(runs).settings] == ["optim.warmup"]
    runs[1].plan.write_text(json.dumps({"warmup_steps": 17}))
    assert compare(runs).settings == ()  # 5 % came to the same 17 steps


def test_a_setting_that_one_run_does_not_have(tmp_path: Path) -> None:
    runs = [make_run(tmp_path), make_run(tmp_path)]
    runs[1].preset.write_text(runs[1].preset.read_text() + "\n[loss]\nmin_snr_gamma = 5\n")
    (row,) = compare(runs).settings
    assert (row.key, row.values, row.shown) == ("loss.min_snr_gamma", (None, 5), ("–", "5"))


def test_a_run_whose_preset_is_gone(tmp_path: Path) -> None:
    runs = [make_run(tmp_path), make_run(tmp_path)]
    runs[1].preset.unlink()
    with pytest.raises(ArchiveError, match=runs[1].id):
        compare(runs)


def test_records_that_are_missing_are_dashes(tmp_path: Path) -> None:
    runs = [make_run(tmp_path), make_run(tmp_path)]
    for path in (runs[1].dataset, runs[1].environment, runs[1].command_json, runs[1].attempt(1).ended):
        path.unlink()
    found = compare(runs)
    assert {"dataset", "base model", "trainer"} <= {row.key for row in found.inputs}
    assert len(page(found, width=80)) > 5


def test_json(tmp_path: Path) -> None:
    runs = [make_run(tmp_path), make_run(tmp_path, unet_lr="2e-4", ended={"loss_last": float("nan")})]
    found = json.loads(json.dumps(compare(runs).to_json(), allow_nan=False))
    assert found["settings"] == {"optim.unet_lr": [1e-4, 2e-4]}
    assert found["results"]["loss_last"] == [0.104, "nan"]
    assert [run["id"] for run in found["runs"]] == [run.id for run in runs]
    assert found["same"]["settings"] > 3


FIRST = {"images": [image("1.png"), image("2.png"), image("3.png")]}


@pytest.mark.parametrize(
    ("images", "difference"),
    [
        ([image("1.png"), image("2.png"), image("3.png")], "3 images"),
        ([image("1.png")], "1 image (−2)"),
        ([image("1.png"), image("2.png"), image("3.png"), image("4.png")], "4 images (+1)"),
        ([image("1.png"), image("2.png"), image("3.png", caption="a dog")], "3 images (1 recaptioned)"),
        ([image("1.png"), image("2.png"), image("3.png", content="new")], "3 images (1 changed)"),
        ([image("1.png"), image("2.png"), image("3.png", repeats=9)], "3 images (1 rearranged)"),
        ([image("1.png"), image("2.png"), image("3.png", validation=True)], "3 images (1 rearranged)"),
        ([image("1.png"), image("2.png"), image("moved.png", content="3.png")], "3 images"),
        ([image("1.png"), image("1.png"), image("2.png"), image("3.png")], "4 images (+1)"),
        ([], "0 images (−3)"),
    ],
)
def test_datasets(images: list[dict[str, Any]], difference: str) -> None:
    assert str(dataset_difference(FIRST, {"images": images})) == difference


IMAGES = st.lists(
    st.builds(
        lambda name, caption, content: image(name, caption=caption, content=content),
        st.sampled_from("abcd"),
        st.sampled_from(["x", "y"]),
        st.sampled_from("1234"),
    ),
    max_size=8,
)


@given(IMAGES, IMAGES)
def test_differences_add_up_and_are_seen_from_both_sides(
    ours: list[dict[str, Any]], theirs: list[dict[str, Any]]
) -> None:
    there, back = (dataset_difference({"images": a}, {"images": b}) for a, b in ((ours, theirs), (theirs, ours)))
    assert there.images - back.images == there.added - there.removed
    assert (there.added, there.removed, there.changed) == (back.removed, back.added, back.changed)
    assert dataset_difference({"images": ours}, {"images": ours}) == DatasetDifference(len(ours))


def test_settings_are_dotted(tmp_path: Path) -> None:
    found = settings(make_run(tmp_path))
    assert found["optim.te_lr"] == [5e-5, 2e-5]
    assert found["network.dim"] == 32


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("optim.unet_lr", 1e-4, "1e-4"),
        ("optim.te_lr", [5e-5, 2e-5], "5e-5/2e-5"),
        ("optim.te_lr", "odd", "odd"),
        ("network.dim", 32, "32"),
        ("loss.huber_c", 0.1, "0.1"),
        ("dataset.flip_aug", False, "false"),
        ("dataset.resolution", [832, 1216], "[832, 1216]"),
        ("base.vae", None, "–"),
    ],
)
def test_values_as_people_write_them(key: str, value: Any, text: str) -> None:
    assert show_value(key, value) == text
