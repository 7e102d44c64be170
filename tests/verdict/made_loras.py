"""Small LoRA files of SDXL with known weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

UNET = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
OUT = "lora_unet_output_blocks_2_1_transformer_blocks_0_attn1_to_q"
TE1 = "lora_te1_text_model_encoder_layers_3_mlp_fc1"
TE2 = "lora_te2_text_model_encoder_layers_9_mlp_fc1"


def lora(
    path: Path, unet: float = 3.0, text: float = 0.5, metadata: dict[str, str] | None = None, **more: float
) -> Path:
    """A LoRA whose modules have these norms: rank 2, alpha 2, one number in each factor."""
    tensors: dict[str, np.ndarray] = {}
    for name, norm in ((UNET, unet), (OUT, unet / 2), (TE1, text), (TE2, text / 2), *more.items()):
        down, up = np.zeros((2, 6), np.float32), np.zeros((8, 2), np.float32)
        down[0, 0], up[0, 0] = 1.0, norm
        down[1, 1] = 1.0
        tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
        tensors[f"{name}.alpha"] = np.array(2.0, np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata or {})
    return path
