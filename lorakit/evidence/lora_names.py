"""Which part and block of SDXL a module of a LoRA file belongs to, in kohya's names and in those of diffusers and peft."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

__all__ = ["ModuleName", "foreign_architecture", "read_name", "split_key"]

#: Suffixes of tensors in files of every kind → what they are.
_ROLES: Final = {
    "lora_down.weight": "down",
    "lora_up.weight": "up",
    "lora_mid.weight": "mid",
    "lora.down.weight": "down",
    "lora.up.weight": "up",
    "lora_A.weight": "down",
    "lora_B.weight": "up",
    "lora_A.default.weight": "down",
    "lora_B.default.weight": "up",
    "alpha": "alpha",
    "dora_scale": "magnitude",
    "lora_magnitude_vector": "magnitude",
    "lora_magnitude_vector.weight": "magnitude",
}
#: Beginnings of other kinds of tensors that small networks have, and how the kind is called.
_KINDS: Final = {
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "oft_": "OFT",
    "on_input": "IA3",
    "diff": "full difference",
    "glora": "GLoRA",
}

_PREFIXES: Final = (
    ("te1", ("lora_te1_", "text_encoder.", "base_model.model.text_encoder.")),
    ("te2", ("lora_te2_", "text_encoder_2.", "base_model.model.text_encoder_2.")),
    ("unet", ("lora_unet_", "unet.", "base_model.model.unet.")),
)
#: What only files of other architectures have.
_FOREIGN: Final = (
    (re.compile(r"^(lora_)?te_text_model|^lora_te_"), "SD 1.5 or 2"),
    (re.compile(r"double_blocks|single_blocks|single_transformer_blocks"), "Flux"),
    (re.compile(r"joint_blocks|transformer_blocks_\d+_attn_add"), "SD 3"),
    (re.compile(r"^(lora_)?te3_|^lora_te_t5"), "SD 3"),
    (re.compile(r"^(transformer|diffusion_model)\.|^lora_transformer_"), "a transformer model such as Flux"),
)


@dataclass(frozen=True)
class ModuleName:
    """A module's part (unet, te1, te2), its block (IN04, MID, OUT03, L07 …) and its path as the file writes it."""

    part: str
    block: str
    path: str


def split_key(key: str) -> tuple[str, str] | None:
    """A tensor's module and role (down, up, mid, alpha, magnitude, or the name of another kind), None for what is neither."""
    for suffix, role in _ROLES.items():
        if key.endswith("." + suffix):
            return key[: -len(suffix) - 1], role
    module, _, last = key.rpartition(".")
    if last == "weight":
        module, _, last = module.rpartition(".")
    kind = next((kind for start, kind in _KINDS.items() if last.startswith(start)), None)
    return None if kind is None or not module else (module, kind)


def read_name(module: str) -> ModuleName | None:
    """Part and block of a module of an SDXL LoRA; None for a name that is not one's."""
    for part, prefixes in _PREFIXES:
        for prefix in prefixes:
            if module.startswith(prefix):
                path = module.removeprefix(prefix)
                # Kohya joins with underscores what others join with dots.
                flat = path.replace(".", "_")
                return ModuleName(part, _unet_block(flat) if part == "unet" else _text_block(flat), module)
    return None


def _text_block(path: str) -> str:
    found = re.search(r"layers_(\d+)_", path)
    return f"L{int(found[1]):02d}" if found else "other"


def _unet_block(path: str) -> str:
    """Numbered as the original UNet's input, middle and output blocks; SDXL has three in each of its three levels."""
    if found := re.match(r"(input|output)_blocks_(\d+)_", path):
        return f"{'IN' if found[1] == 'input' else 'OUT'}{int(found[2]):02d}"
    if path.startswith(("middle_block", "mid_block")):
        return "MID"
    if found := re.match(r"down_blocks_(\d+)_(resnets|attentions|downsamplers)_(\d+)", path):
        level, kind, place = int(found[1]), found[2], int(found[3])
        return f"IN{3 * level + (3 if kind == 'downsamplers' else 1 + place):02d}"
    if found := re.match(r"up_blocks_(\d+)_(resnets|attentions|upsamplers)_(\d+)", path):
        level, kind, place = int(found[1]), found[2], int(found[3])
        return f"OUT{3 * level + (2 if kind == 'upsamplers' else place):02d}"
    return "IN00" if path.startswith("conv_in") else "other"


def foreign_architecture(modules: list[str]) -> str | None:
    """The architecture that module names betray, when it is not SDXL's."""
    for pattern, name in _FOREIGN:
        if any(pattern.search(module) for module in modules):
            return name
    unet = [module for module in modules if module.startswith(("lora_unet_", "unet."))]
    text = [module for module in modules if module.startswith(("lora_te", "text_encoder"))]
    # SD 1.5 has attention in the first level, SDXL has none there.
    if any(re.search(r"down_blocks[._]0[._]attentions|input_blocks_[12]_1_", module) for module in unet) and not any(
        module.startswith(("lora_te2_", "text_encoder_2.")) for module in text
    ):
        return "SD 1.5 or 2"
    return None
