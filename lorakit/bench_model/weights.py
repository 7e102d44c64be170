"""Random weights of a bench model: every layer keeps its signal near unit size, so nothing vanishes or explodes."""

from __future__ import annotations

import hashlib
import math
import re

import torch

__all__ = ["make_tensor"]

_NORM = re.compile(
    r"(norm|norm\d|norm_out|layer_norm\d|final_layer_norm|ln_\d|ln_final|in_layers\.0|out_layers\.0|\.out\.0)\.weight$"
)
#: Layers whose output is added to a residual stream: kept small so that deep streams grow slowly.
_RESIDUAL = re.compile(
    r"(to_out\.0|ff\.net\.2|proj_out|out_layers\.3|out_proj|c_proj|mlp\.fc2|block\.\d+\.conv2|block_\d\.conv2)\.weight$"
)
_UNET = "model.diffusion_model."
_SILU = 0.5965  # root mean square of silu(z) for a standard normal z
_LATENT_SIZE = 7.68  # standard deviation of latents before SDXL's factor 0.13025


def make_tensor(name: str, shape: tuple[int, ...], *, seed: int) -> torch.Tensor:
    """The float32 tensor ``name`` of a checkpoint: a function of seed, name and shape alone."""
    if name.endswith("logit_scale"):
        return torch.tensor(math.log(100.0))
    if _NORM.search(name):
        return torch.ones(shape)
    if name == "first_stage_model.quant_conv.bias":
        # means stay; the log variance is small: encoding is almost deterministic
        return torch.cat([torch.zeros(shape[0] // 2), torch.full((shape[0] // 2,), -10.0)])
    if name.endswith("bias"):
        return torch.zeros(shape)
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
    tensor = torch.randn(shape, generator=generator) * _spread(name, shape)
    if name == "first_stage_model.quant_conv.weight":
        tensor[shape[0] // 2 :] = 0.0
    if name.startswith(_UNET):
        _lay_through_path(tensor, name.removeprefix(_UNET))
    if name.endswith("text_projection"):
        # symmetric: some trainers read this matrix transposed, and a bench model must mean the same to all of them
        tensor = (tensor + tensor.T) / math.sqrt(2)
    return tensor


def _lay_through_path(tensor: torch.Tensor, name: str) -> None:
    """Carry the noisy latents through to the UNet's output, in place.

    Much of a noisy latent is noise, so the model begins as a weak denoiser rather than as a source of noise, and there is
    something to be learned. Channels 0-3 hold the latents, 4-7 their negatives, for silu(z) - silu(-z) = z.
    """
    middle = (1, 1)
    for channel in range(4):
        if name == "input_blocks.0.0.weight":
            tensor[[channel, channel + 4]] = 0.0
            tensor[channel, channel, *middle] = 1.0
            tensor[channel + 4, channel, *middle] = -1.0
        elif name == "output_blocks.8.0.skip_connection.weight":
            first = tensor.shape[1] - tensor.shape[0]  # the second half comes straight from input_blocks.0
            for place in (channel, channel + 4):
                tensor[place] = 0.0
                tensor[place, first + place] = 1.0
        elif name == "output_blocks.8.0.out_layers.3.weight":
            tensor[[channel, channel + 4]] = 0.0
        elif name == "out.2.weight":
            tensor[channel, channel, *middle] += 1.0
            tensor[channel, channel + 4, *middle] -= 1.0


def _spread(name: str, shape: tuple[int, ...]) -> float:
    """Standard deviation of a weight."""
    if "token_embedding" in name:
        return 0.5
    if "position" in name:
        return 0.1
    if name.endswith("text_projection"):
        return 1.0 / math.sqrt(shape[0])
    fan_in = math.prod(shape[1:])
    return _gain(name) / math.sqrt(fan_in)


def _gain(name: str) -> float:
    if name == "model.diffusion_model.out.2.weight":
        return 0.3 / _SILU
    if name == "first_stage_model.quant_conv.weight":
        return _LATENT_SIZE
    if name == "first_stage_model.post_quant_conv.weight":
        return 1.0 / _LATENT_SIZE
    if name == "first_stage_model.encoder.conv_out.weight":
        return 1.0 / _SILU
    if name == "first_stage_model.decoder.conv_out.weight":
        return 0.5 / _SILU
    return 0.4 if _RESIDUAL.search(name) else 1.0
