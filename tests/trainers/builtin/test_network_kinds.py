"""LoCon, blocks, LoRA+, LoRA-FA: trained for real, each weight in the group it belongs to."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.trainers.builtin.runs import Run, train, write_images

DIMS = ",".join(["0"] * 3 + ["3"] * 20)
ONES = ",".join(["1"] * 23)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_images(folder / "1_x", ((64, 64), (64, 64)))
    return folder


def moved(run: Run) -> dict[str, torch.Tensor]:
    """Up-projections by module, all of which start at 0; of the text encoders those that the UNet hears of."""
    deaf = ("lora_te1_text_model_encoder_layers_1", "lora_te2_text_model_encoder_layers_1")
    ups = {key.partition(".")[0]: value for key, value in run.weights().items() if key.endswith("lora_up.weight")}
    return {name: value for name, value in ups.items() if not name.startswith(deaf)}


def test_locon_with_dims_alphas_and_rates_per_block(tiny_base: Path, data: Path, tmp_path: Path) -> None:
    network = [
        "conv_dim=2", "conv_alpha=1", f"block_dims={DIMS}", f"block_alphas={ONES}", "up_lr_weight=1,1,0.5,0,0,0,0,0,0",
        "loraplus_unet_lr_ratio=4",
    ]  # fmt: skip
    rates = {"unet_lr": "1e-3", "text_encoder_lr": ["1e-4"], "max_train_steps": 1}
    run = train(tiny_base, data, tmp_path, {"network_args": network, **rates})
    assert run.code == 0
    weights = run.weights()
    shapes = {key: tuple(value.shape) for key, value in weights.items()}
    # Block 2 (input_blocks.1) has dim 0: its convolutions alone, at conv_dim; blocks from 16 on have rate 0: nothing.
    assert shapes["lora_unet_input_blocks_1_0_in_layers_2.lora_down.weight"] == (2, 32, 3, 3)
    assert "lora_unet_input_blocks_1_0_emb_layers_1.lora_down.weight" not in shapes
    assert shapes["lora_unet_middle_block_1_proj_in.lora_down.weight"][0] == 3
    assert not [key for key in shapes if key.startswith("lora_unet_output_blocks_5")]
    assert float(weights["lora_unet_middle_block_1_proj_in.alpha"]) == 1
    assert all(bool(value.any()) for value in moved(run).values())
    # Adam's first step is as long as the rate: 1e-3 × 4 for up-projections, half of it in block 15.
    assert largest(run, "lora_unet_middle_block_1_proj_in") == pytest.approx(4e-3, rel=0.05)
    assert largest(run, "lora_unet_output_blocks_2_0_in_layers_2") == pytest.approx(2e-3, rel=0.05)
    assert largest(run, "lora_te1_text_model_encoder_layers_0_mlp_fc1") == pytest.approx(1e-4, rel=0.05)
    (start,) = run.of("start")
    assert start["modules"]["unet"] == len([name for name in moved(run) if name.startswith("lora_unet")])


def largest(run: Run, module: str) -> float:
    return float(moved(run)[module].abs().max())


def test_lora_fa_trains_the_up_projections_alone(tiny_base: Path, data: Path, tmp_path: Path) -> None:
    one = train(tiny_base, data, tmp_path / "1", {"network_module": "networks.lora_fa", "max_train_steps": 1})
    two = train(tiny_base, data, tmp_path / "2", {"network_module": "networks.lora_fa", "max_train_steps": 2})
    assert (one.code, two.code) == (0, 0)
    first, second = one.weights(), two.weights()
    assert first.keys() == second.keys()
    down = [key for key in first if key.endswith("lora_down.weight")]
    assert down
    assert all(torch.equal(first[key], second[key]) for key in down)
    before, after = moved(one), moved(two)
    assert all(not torch.equal(before[name], after[name]) for name in before)
