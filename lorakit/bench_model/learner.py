"""The bench model before training: its parts in the SDXL shape, and the embedding tables that are made from a seed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lorakit.bench_model.shape import LEARNED, VOCABULARY

__all__ = ["Learner", "embedding_table", "new_learner"]

_EMBEDDING_SEED = "lorakit bench model"


def embedding_table(part: str, width: int) -> Tensor:
    """The frozen token embeddings (49408, width) of a text encoder, te1 or te2: +0.1 or -0.1, from a hash of its name.

    Random signs set all words equally far apart, known and unknown; training the layers after them is enough. So the
    tables, half of the model, need not be shipped.
    """
    digest = hashlib.shake_256(f"{_EMBEDDING_SEED}/{part}".encode()).digest(VOCABULARY * width // 8)
    bits = np.unpackbits(np.frombuffer(digest, np.uint8)).reshape(VOCABULARY, width)
    return torch.from_numpy(bits.astype(np.float32)) * 0.2 - 0.1


@dataclass(frozen=True)
class Learner:
    """The parts that pre-training trains: UNet and both text encoders."""

    unet: UNet2DConditionModel
    te1: CLIPTextModel
    te2: CLIPTextModelWithProjection

    def parts(self) -> dict[str, nn.Module]:
        """The modules by name."""
        return {"unet": self.unet, "te1": self.te1, "te2": self.te2}

    def trained(self) -> dict[str, nn.Parameter]:
        """All parameters but the embedding tables, by name."""
        return {
            f"{part}.{name}": parameter
            for part, module in self.parts().items()
            for name, parameter in module.named_parameters()
            if "token_embedding" not in name
        }


def new_learner(seed: int) -> Learner:
    """Untrained parts of the model's shape; residual branches of the UNet are silent, as in the original code."""
    torch.manual_seed(seed)
    width = LEARNED.te1[0]
    unet = UNet2DConditionModel(sample_size=16, **LEARNED.unet_config())
    te1 = CLIPTextModel(_clip(*LEARNED.te1, "quick_gelu"))
    te2 = CLIPTextModelWithProjection(_clip(*LEARNED.te2, "gelu"))
    with torch.no_grad():
        for name, module in unet.named_modules():
            if name.endswith((".conv2", ".proj_out")) or name == "conv_out":
                module.weight.zero_()
                module.bias.zero_()
        # the pooled text is 80 numbers beside 1536 of sizes that say little: let it be heard from the start
        unet.add_embedding.linear_1.weight[:, :width] *= 4.0
        for part, encoder in (("te1", te1), ("te2", te2)):
            for name, parameter in encoder.named_parameters():
                if "token_embedding" in name:
                    parameter.copy_(embedding_table(part, width))
                    parameter.requires_grad_(False)
                elif "position_embedding" in name:
                    parameter.normal_(0.0, 0.03)
    return Learner(unet.to(memory_format=torch.channels_last), te1, te2)


def _clip(width: int, layers: int, activation: str) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=LEARNED.divisions.heads(width),
        max_position_embeddings=77,
        hidden_act=activation,
        projection_dim=width,
        bos_token_id=49406,
        eos_token_id=49407,
        pad_token_id=1,
    )
