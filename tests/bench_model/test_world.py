"""The world of coloured shapes: what is shown, what never is, and the judge's ceiling on it."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from lorakit.bench_model.judge import ATTRIBUTES, judge, right
from lorakit.bench_model.world import BACKGROUNDS, HELD_OUT, SHAPES, Scene, caption, draw, picture, sample_scene


def test_a_picture_is_a_function_of_seed_and_number() -> None:
    one, again, other = picture(3, 5), picture(3, 5), picture(3, 6)
    assert one.caption == again.caption
    assert (one.pixels == again.pixels).all()
    assert one.pixels.shape == (128, 128, 3)
    assert (one.pixels != other.pixels).any()


def test_random_scenes_never_show_a_held_out_pair_a_star_or_an_object_of_the_backgrounds_colour() -> None:
    rng = random.Random(1)
    scenes = [sample_scene(rng) for _ in range(3000)]
    assert not {(scene.colour, scene.shape) for scene in scenes} & HELD_OUT
    assert {scene.shape for scene in scenes} == set(SHAPES)
    assert all(scene.colour != scene.background and scene.stripe != scene.colour for scene in scenes)
    held = [sample_scene(rng, held_out=True) for _ in range(300)]
    assert {(scene.colour, scene.shape) for scene in held} == HELD_OUT


@pytest.mark.parametrize(
    ("scene", "text"),
    [
        (Scene("circle", "red", "blue"), "a photo of a red circle on a blue background"),
        (Scene("cross", "orange", "grey"), "a photo of an orange cross on a grey background"),
        (
            Scene("ring", "white", "black", "small", "left", "drawing", "pink"),
            "a drawing of a small white ring with a pink stripe at the left on a black background",
        ),
    ],
)
def test_captions(scene: Scene, text: str) -> None:
    assert caption(scene) == text


def test_a_new_word_stands_in_for_colour_shape_and_stripe() -> None:
    scene = Scene("star", "purple", "pink", "large", stripe="yellow")
    assert caption(scene, thing="zorp") == "a photo of a large zorp on a pink background"


def test_the_judge_is_right_about_real_pictures() -> None:
    """Its ceiling: what a perfect model would score."""
    rng, found = random.Random(5), Counter[str]()
    scenes = [sample_scene(rng, held_out=index % 2 == 0) for index in range(150)]
    for scene in scenes:
        verdict = right(judge(draw(scene, rng)), scene)
        found.update(name for name in ATTRIBUTES if verdict[name])
        found["all"] += all(verdict.values())
    assert found["all"] >= 0.98 * len(scenes)
    assert min(found[name] for name in ATTRIBUTES) >= 0.98 * len(scenes)


def test_the_judge_knows_a_zorp_on_every_background() -> None:
    rng = random.Random(2)
    for background in BACKGROUNDS:
        scene = Scene("star", "purple", background, "large", stripe="yellow")
        verdict = judge(draw(scene, rng))
        assert (verdict.shape, verdict.colour, verdict.stripe) == ("star", "purple", "yellow"), background


def test_the_judge_sees_what_is_wrong() -> None:
    scene = Scene("circle", "red", "blue", "large", "left", "photo")
    pixels = draw(scene, random.Random(4))
    for change in (
        {"shape": "square"},
        {"colour": "pink"},
        {"background": "grey"},
        {"size": "small"},
        {"position": "top"},
        {"style": "drawing"},
        {"stripe": "white"},
    ):
        assert not all(right(judge(pixels), replace(scene, **change)).values()), change


def test_the_judge_finds_nothing_in_an_empty_picture_and_no_match_in_noise() -> None:
    assert judge(np.full((128, 128, 3), 200, np.uint8)).shape is None
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3)).astype(np.uint8)
    assert not all(right(judge(noise), Scene("circle", "red", "blue")).values())
