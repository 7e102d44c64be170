"""The presets that ship are what their comments say."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorakit.plan.prompts import prompt_sizes
from lorakit.preset.units import TextEncoderRates, Warmup
from tests.trainers.presets import NAMES, PRESETS, REPO, shipped


def test_all_that_were_promised_are_there() -> None:
    promised = {
        "quickstart", "sdxl-character", "sdxl-style", "sdxl-concept", "sdxl-12gb", "sdxl-8gb", "te-revive", "refine-unet",
        "refine-te", "anneal",
    }  # fmt: skip
    assert promised <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_is_named_as_its_file_and_begins_with_what_it_is_for(name: str) -> None:
    assert shipped(name).name == name
    assert shipped(name).description
    first = (PRESETS / f"{name}.toml").read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ")


@pytest.mark.parametrize("name", NAMES)
def test_samples_are_drawn_at_sizes_near_the_trained_ones(name: str) -> None:
    preset = shipped(name)
    assert preset.sample.prompts is not None
    sizes = prompt_sizes(REPO / preset.sample.prompts)
    area = preset.dataset.resolution.width * preset.dataset.resolution.height
    assert sizes
    assert all(0.9 <= width * height / area <= 1.0 for width, height in sizes)


@pytest.mark.parametrize("path", sorted((PRESETS / "prompts").iterdir()), ids=lambda path: path.name)
def test_no_prompt_file_is_left_over(path: Path) -> None:
    used = {Path(shipped(name).sample.prompts or "").name for name in NAMES}
    assert path.name in used


def test_te_revive_keeps_its_recipe() -> None:
    preset = shipped("te-revive")
    optim = preset.optim
    assert optim.te_lr == TextEncoderRates(2 * optim.unet_lr, 2 * optim.unet_lr)
    assert (optim.schedule, optim.warmup) == ("constant_with_warmup", Warmup(steps=100))
    assert (preset.loss.min_snr_gamma, preset.loss.noise_offset) == (5, 0.05)


def test_those_that_go_on_do_so_from_weights_gently() -> None:
    first = shipped("sdxl-character")
    unet, te, both = shipped("refine-unet"), shipped("refine-te"), shipped("anneal")
    assert all(preset.network.weights for preset in (unet, te, both))
    assert all(preset.network.dim == first.network.dim for preset in (unet, te, both))
    assert unet.optim.te_lr == TextEncoderRates(0, 0)
    assert unet.memory.cache_text_encoder_outputs
    assert (te.optim.unet_lr, te.optim.te_lr) == (0, TextEncoderRates(1e-6, 1e-6))
    assert both.optim.unet_lr == pytest.approx(first.optim.unet_lr / 10)
    assert both.optim.te_lr.te1 == pytest.approx(first.optim.te_lr.te1 / 10)


def test_smaller_cards_ask_for_less() -> None:
    large, middle, small = shipped("sdxl-character"), shipped("sdxl-12gb"), shipped("sdxl-8gb")
    assert large.network.dim > middle.network.dim > small.network.dim
    assert middle.optim.te_lr == small.optim.te_lr == TextEncoderRates(0, 0)
    assert large.length.batch_size == middle.length.batch_size * middle.length.gradient_accumulation
    assert small.dataset.resolution.width < middle.dataset.resolution.width


def test_the_quickstart_needs_no_gpu_and_no_workers() -> None:
    preset = shipped("quickstart")
    assert (preset.trainer.kind, preset.launch.cpu, preset.dataset.workers) == ("builtin", True, 0)
    assert preset.seed is not None
