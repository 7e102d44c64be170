"""From axes to cells: which LoRA at which weight each place has, and where the base model stands."""

from __future__ import annotations

import pytest

from lorakit.errors import ModelFileError, UsageError
from lorakit.sheet.layout import BASE, Grid
from lorakit.sheet.prompts import Prompt
from tests.sheet.made import drawn_as_text, grid_of, source

END = "a zorp #1 Euler a 4 3"


def loras(grid: Grid) -> list[list[list[str]]]:
    return [[[text.split(" ")[0] for text in row] for row in plane] for plane in drawn_as_text(grid)]


def test_without_axes_checkpoints_are_rows_and_prompts_columns() -> None:
    grid = grid_of(prompts=("a zorp", "a circle"))
    assert (grid.y, grid.x, grid.z) == ((BASE, "epoch 1", "epoch 2", "epoch 3"), ("a zorp", "a circle"), ("",))
    assert drawn_as_text(grid)[0][:2] == [
        [f"base {END}", "base a circle #1 Euler a 4 3"],
        [f"zorp-000001@1:1 {END}", "zorp-000001@1:1 a circle #1 Euler a 4 3"],
    ]
    assert len(list(grid)) == 8


def test_of_many_checkpoints_nobody_asked_for_a_few_are_shown_and_the_last_is_one() -> None:
    assert grid_of(source(epochs=tuple(range(1, 21)))).y == (BASE, *(f"epoch {at}" for at in (3, 6, 10, 13, 16, 20)))
    assert len(grid_of(source(epochs=tuple(range(1, 21))), y="epoch").y) == 21


def test_three_axes() -> None:
    grid = grid_of(y="epoch=1,last", x="weight=0.5,1", z='prompt=zorp,"red, round ball"')
    assert grid.z == ("zorp", "red, round ball")
    assert grid.y == (BASE, "epoch 1", "epoch 3")
    assert drawn_as_text(grid)[1] == [
        [f"base {END.replace('zorp', 'red, round ball')}"] * 2,
        [f"zorp-000001@{weight}:{weight} {END.replace('zorp', 'red, round ball')}" for weight in ("0.5", "1")],
        [f"zorp-000003@{weight}:{weight} {END.replace('zorp', 'red, round ball')}" for weight in ("0.5", "1")],
    ]


def test_weights_of_unet_and_text_encoders_apart() -> None:
    grid = grid_of(x="unet=0,1", y="te=0,0.5", base_row=False)
    assert loras(grid) == [[["base", "zorp-000003@0:1"], ["zorp-000003@0.5:0", "zorp-000003@0.5:1"]]]
    both = grid_of(x="weight=0.5,1", y="te=0.25")
    assert loras(both)[0] == [["base", "base"], ["zorp-000003@0.25:0.5", "zorp-000003@0.25:1"]]


def test_parts_are_the_four_of_attribution() -> None:
    grid = grid_of(y="part", weight=0.8)
    assert grid.y == (BASE, "text encoders only", "UNet only", "UNet and text encoders")
    assert loras(grid)[0] == [["base"], ["zorp-000003@0.8:0"], ["zorp-000003@0:0.8"], ["zorp-000003@0.8:0.8"]]


@pytest.mark.parametrize(
    ("axes", "place", "where"),
    [
        ({"x": "seed=1,2"}, "y", (BASE, "with LoRA")),
        ({"x": "epoch=1,2", "y": "seed=1,2"}, "x", (BASE, "epoch 1", "epoch 2")),
        ({"x": "seed=1,2", "y": "steps=2,3"}, "z", (BASE, "with LoRA")),
        ({"x": "seed=1,2", "y": "steps=2,3", "z": "epoch=1,2"}, "z", (BASE, "epoch 1", "epoch 2")),
        ({"x": "weight=0-1 (+0.5)"}, "y", ("",)),
        ({"x": "seed=1,2", "y": "steps=2,3", "z": "cfg=2,3"}, "z", ("CFG 2", "CFG 3")),
    ],
)
def test_the_base_model_stands_in_front_of_the_axis_of_the_lora(
    axes: dict[str, str], place: str, where: tuple[str, ...]
) -> None:
    grid = grid_of(**axes)
    assert getattr(grid, place) == where
    assert BASE not in getattr(grid_of(**axes, base_row=False), place)


def test_runs_that_no_axis_names_get_one_and_miss_what_they_do_not_have() -> None:
    grid = grid_of(source("a", (1, 2)), source("b", (2, 4)), x="epoch")
    assert grid.y == (BASE, "a", "b")
    assert grid.x == ("epoch 1", "epoch 2", "epoch 4")
    assert loras(grid)[0] == [
        ["base"] * 3,
        ["a-000001@1:1", "a-000002@1:1", "none"],
        ["none", "b-000002@1:1", "b-000004@1:1"],
    ]


def test_last_is_each_runs_own() -> None:
    grid = grid_of(source("a", (1, 2)), source("b", (2, 4)), y="epoch=first,last", x="run=b,a", base_row=False)
    assert grid.y == ("first checkpoint", "last checkpoint")
    assert loras(grid)[0] == [["b-000002@1:1", "a-000001@1:1"], ["b-000004@1:1", "a-000002@1:1"]]


def test_settings_and_prompts_own_words() -> None:
    prompts = (
        Prompt("a zorp", negative="bad", width=128, height=64, steps=9, cfg=2.0, seed=5, sampler="DDIM"),
        Prompt("b"),
    )
    grid = grid_of(prompts=prompts, y="steps=3,8", base_row=False)
    assert drawn_as_text(grid)[0][0] == ["zorp-000003@1:1 a zorp #5 DDIM 3 2", "zorp-000003@1:1 b #1 Euler a 3 3"]
    first, second = grid.cells[0][0]
    assert first is not None
    assert second is not None
    assert (first.negative, first.width, first.height) == ("bad", 128, 64)
    assert (second.negative, second.width, second.height) == ("", 64, 96)
    said = grid_of(prompts=prompts, seed=9, negative="n", size=(64, 64), sampler="UniPC", cfg=1.5, steps=2)
    assert {(cell.seed, cell.negative, cell.width, cell.sampler, cell.cfg, cell.steps) for cell in said} == {
        (9, "n", 64, "UniPC", 1.5, 2)
    }


def test_what_is_searched_for_is_replaced_in_the_negative_prompt_too() -> None:
    grid = grid_of(prompts=(Prompt("a cat", negative="no dog"),), x="prompt=dog,bird", base_row=False)
    assert [cell.negative for cell in grid] == ["no dog", "no bird"]


def test_constants_are_what_no_label_says() -> None:
    assert grid_of(x="seed=1,2").constants() == {
        "prompt": "a zorp", "LoRA": "zorp-000003", "weight": "1", "sampler": "Euler a", "steps": "4", "CFG": "3", "size": "64×96",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("axes", "error", "told"),
    [
        ({"x": "epoch=7"}, ModelFileError, "it has 1, 2, 3"),
        ({"x": "epoch=step5"}, ModelFileError, "no checkpoint of step 5"),
        ({"x": "prompt=dog,cat"}, UsageError, "'dog' is in no prompt"),
        ({"x": "seed", "y": "seed"}, UsageError, "given twice"),
        ({"x": "steps"}, UsageError, "has no values"),
        ({"x": "run=nobody"}, UsageError, "none of the runs"),
        ({"x": "seed=1-100", "y": "steps=1-100"}, UsageError, "pictures"),
    ],
)
def test_refusals(axes: dict[str, str], error: type[Exception], told: str) -> None:
    with pytest.raises(error) as caught:
        grid_of(**axes)
    assert told in f"{caught.value} {getattr(caught.value, 'why', '')}"


def test_a_torn_checkpoint_that_is_asked_for_is_said_to_be_torn() -> None:
    with pytest.raises(ModelFileError) as caught:
        grid_of(source(torn=(("zorp-000004.safetensors", "it ends early"),)), y="epoch=4")
    assert caught.value.why == "zorp-000004.safetensors is torn (it ends early)"


def test_without_prompts_there_is_nothing_to_draw() -> None:
    with pytest.raises(UsageError, match="nothing to draw"):
        grid_of(prompts=())


def test_three_axes_have_no_place_for_more_prompts() -> None:
    with pytest.raises(UsageError, match="2 prompts"):
        grid_of(x="seed", y="epoch", z="cfg=1,2", prompts=("a", "b"))
