"""What a pack needs on a GPU, computed: bytes that autograd keeps of the full-size UNet, and the trials that fit into 8, 12 and 24 GB.

``python benchmarks/packed_memory.py``. Nothing is trained: the UNet with a LoRA runs on torch's meta device, which has shapes and no
numbers. The bytes for each latent pixel are those in ``lorakit.sweep.pack_memory``; the table is made by its ``fit``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from lorakit.bench_model.shape import SIZES
from lorakit.plan.network import REAL_SDXL, network_size
from lorakit.sweep.pack_memory import Elements, Need, fit, room
from lorakit.trainers.builtin.attention import _UnetAttention
from lorakit.trainers.builtin.lora import LoraModule, unet_targets
from lorakit.trainers.builtin.recompute import Recomputation


class Counter:
    """Bytes of different storages, those of weights left out."""

    def __init__(self, weights: list[Tensor]) -> None:
        self.bytes = 0
        self._seen: dict[int, Any] = {weight.untyped_storage()._cdata: weight for weight in weights}

    def __call__(self, tensor: Tensor) -> Tensor:
        """Count a tensor that is kept; returns it."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._seen:
            self._seen[storage._cdata] = storage  # held, so that no later one gets its place
            self.bytes += storage.nbytes()
        return tensor


class Blocks(Recomputation):
    """Stands in for gradient checkpointing: inputs of blocks count, what a block keeps within counts by itself."""

    def __init__(self, counter: Counter, weights: list[Tensor]) -> None:
        super().__init__(0, ())
        self._counter, self._weights_too = counter, weights
        self.largest = 0

    def __call__(self, block: Callable[..., Any], *args: Any) -> Any:
        """What diffusers calls in place of a block."""
        for value in args:
            for tensor in value if isinstance(value, tuple) else (value,):
                if isinstance(tensor, Tensor):
                    self._counter(tensor)
        inside = Counter([*self._weights_too, *(value for value in args if isinstance(value, Tensor))])
        with saved_tensors_hooks(inside, lambda tensor: tensor):
            out = block(*args)
        self.largest = max(self.largest, inside.bytes)
        cut = [tensor.detach().requires_grad_() for tensor in (out if isinstance(out, tuple) else (out,))]
        return tuple(cut) if isinstance(out, tuple) else cut[0]


def kept(pixels: int, *, checkpointing: bool) -> tuple[float, float]:
    """Bytes for each latent pixel of one example in bf16: kept for the backward pass, and by the largest block alone."""
    side = pixels // 8
    with torch.device("meta"):
        unet = UNet2DConditionModel(**SIZES["full"].unet_config()).to(torch.bfloat16)
        unet.requires_grad_(requires_grad=False)
        unet.set_attn_processor(_UnetAttention())
        modules = [
            (target, LoraModule(target.module, 16, 16)) for target in unet_targets(unet, with_convolutions=False)
        ]
        for target, module in modules:
            module.to(torch.bfloat16).attach(target.module)
        weights = [*unet.parameters(), *(weight for _, module in modules for weight in module.parameters())]
        counter = Counter(weights)
        blocks = Blocks(counter, weights)
        if checkpointing:
            unet.enable_gradient_checkpointing()
            for module in unet.modules():
                if getattr(module, "gradient_checkpointing", False):
                    module._gradient_checkpointing_func = blocks
        conditions = {"text_embeds": torch.empty(1, 1280, dtype=torch.bfloat16), "time_ids": torch.empty(1, 6)}
        with saved_tensors_hooks(counter, lambda tensor: tensor):
            unet(
                torch.empty(1, 4, side, side, dtype=torch.bfloat16),
                torch.empty(1, dtype=torch.long),
                encoder_hidden_states=torch.empty(1, 77, 2048, dtype=torch.bfloat16),
                added_cond_kwargs=conditions,
            )
    return counter.bytes / side**2, blocks.largest / side**2


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.is_autocast_enabled = lambda _device=None: False  # the meta device knows no autocast
    for checkpointing in (False, True):
        whole, block = kept(1024, checkpointing=checkpointing)
        print(
            f"gradient checkpointing {checkpointing!s:5}  {whole / 1e3:6.0f} KB for each latent pixel, largest block {block / 1e3:.0f} KB"
        )
    print(
        "\ntrials that fit (learning together), 1024 px, batch 1, bf16, gradient checkpointing, AdamW8bit, 0.5 GB used by others"
    )
    elements = Elements()
    for name, parts, dim, cached in (
        ("UNet, dim 8, texts cached", ("unet",), 8, True),
        ("UNet, dim 16, texts cached", ("unet",), 16, True),
        ("UNet, dim 32, texts cached", ("unet",), 32, True),
        ("UNet and text encoders, dim 16", ("unet", "te1", "te2"), 16, False),
    ):
        numbers = network_size(REAL_SDXL, parts, dim).total_parameters
        pixels = (1024 // 8) ** 2
        base = 2 * (elements.unet + (0 if cached else elements.text))
        need = Need(base, numbers * (4 + 2 + 4 + 2), int((36e3 + 18e3) * pixels * 1.25))
        cells = []
        for size in (8, 12, 24):
            available = room(int(size * 2**30 - 0.5e9), gpu=True)
            found = fit(need, available, batch=1)
            fits = need.base + need.trial + need.example <= available
            cells.append(f"{size:>3} GB: {f'{found.trials:2} ({found.together(1)})' if fits else 'none'}")
        print(f"  {name:32} {numbers / 1e6:5.0f} M each   " + "   ".join(cells))


if __name__ == "__main__":
    main()
