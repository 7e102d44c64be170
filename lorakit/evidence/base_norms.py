"""How large the base model's own weights are where a LoRA changes them: what ‖ΔW‖ is to be held against."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from lorakit import atomic
from lorakit.archive.run import read_record
from lorakit.errors import ModelFileError
from lorakit.evidence.tensor_file import TensorFile

__all__ = ["base_norms", "norm_of"]

_UNET: Final = "model.diffusion_model."
_TE1: Final = "conditioner.embedders.0.transformer."
_TE2: Final = "conditioner.embedders.1.model.transformer.resblocks."
#: OpenCLIP's names for what the LoRA's second text encoder calls otherwise.
_OPEN_CLIP: Final = {"mlp.c_fc": "mlp_fc1", "mlp.c_proj": "mlp_fc2", "attn.out_proj": "self_attn_out_proj"}
_VERSION: Final = 1


def base_norms(base: Path, kept_in: Path | None = None) -> Mapping[str, float]:
    """The Frobenius norm of every matrix and convolution of an SDXL checkpoint, by the name its LoRA module has in kohya's files.

    One pass over the file (some seconds for the 7 GB of SDXL); ``kept_in`` is a folder where results are kept by the file's path,
    size and time. Raises ModelFileError for a folder and for what is no whole .safetensors file.
    """
    if not base.is_file():
        raise ModelFileError(
            f"{base} is no single file", why="weights are compared with those of a .safetensors checkpoint"
        )
    status = base.stat()
    told = f"{_VERSION} {base.resolve()} {status.st_size} {status.st_mtime_ns}"
    cache = None if kept_in is None else kept_in / f"{hashlib.sha256(told.encode()).hexdigest()[:24]}.json"
    if cache is not None and (known := read_record(cache)) and "norms" in known:
        return {str(key): float(value) for key, value in known["norms"].items()}
    found = _measure(TensorFile(base))
    if cache is not None:
        cache.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_json(cache, {"norms": found})
    return found


def _measure(file: TensorFile) -> dict[str, float]:
    jobs = [(key, names) for key, info in file.tensors.items() if len(info.shape) >= 2 and (names := _lora_names(key))]
    with ThreadPoolExecutor(2) as pool:
        measured = pool.map(lambda job: _norms(file, *job), jobs)
        return {name: value for norms in measured for name, value in norms.items()}


def _norms(file: TensorFile, key: str, names: tuple[str, ...]) -> dict[str, float]:
    import numpy as np

    parts = np.split(file.read(key), len(names))
    return {name: float(np.linalg.norm(part)) for name, part in zip(names, parts, strict=True)}


def _lora_names(key: str) -> tuple[str, ...]:
    """The modules that a checkpoint's tensor is the weight of; three for OpenCLIP's joined attention matrix."""
    if key.startswith(_UNET) and key.endswith(".weight"):
        return ("lora_unet_" + key[len(_UNET) : -len(".weight")].replace(".", "_"),)
    if key.startswith(_TE1) and key.endswith(".weight"):
        return ("lora_te1_" + key[len(_TE1) : -len(".weight")].replace(".", "_"),)
    if key.startswith(_TE2):
        layer, _, rest = key[len(_TE2) :].partition(".")
        prefix = f"lora_te2_text_model_encoder_layers_{layer}_"
        if rest == "attn.in_proj_weight":
            return tuple(f"{prefix}self_attn_{which}_proj" for which in "qkv")
        if (name := _OPEN_CLIP.get(rest.removesuffix(".weight"))) and rest.endswith(".weight"):
            return (prefix + name,)
    return ()


def norm_of(norms: Mapping[str, float], module: str) -> float:
    """The base's norm under a LoRA module's name, in kohya's or diffusers' words; NaN for one that is not there."""
    return norms.get(module, norms.get(_kohya(module), math.nan))


def _kohya(module: str) -> str:
    flat = module.replace(".", "_")
    for prefix, part in _PREFIXES:
        if flat.startswith(prefix):
            rest = flat.removeprefix(prefix)
            return part + (_original(rest) if part == "lora_unet_" else rest)
    return flat


_PREFIXES: Final[Iterable[tuple[str, str]]] = (
    *(
        (f"{start}{name}_", f"lora_{part}_")
        for start in ("base_model_model_", "")
        for name, part in (("text_encoder_2", "te2"), ("text_encoder", "te1"), ("unet", "unet"))
    ),
    ("lora_unet_", "lora_unet_"),
)


def _original(path: str) -> str:
    """A transformer of diffusers' UNet in the names of the original one: three blocks a level, attention second in each."""
    if found := re.match(r"down_blocks_(\d+)_attentions_(\d+)_(.*)", path):
        return f"input_blocks_{3 * int(found[1]) + 1 + int(found[2])}_1_{found[3]}"
    if found := re.match(r"up_blocks_(\d+)_attentions_(\d+)_(.*)", path):
        return f"output_blocks_{3 * int(found[1]) + int(found[2])}_1_{found[3]}"
    if found := re.match(r"mid_block_attentions_0_(.*)", path):
        return f"middle_block_1_{found[1]}"
    return path
