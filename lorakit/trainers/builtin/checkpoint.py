"""Loading a base model of the SDXL family, its configuration read from the file alone, with no hub access."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lorakit.errors import ModelFileError
from lorakit.trainers.builtin import shapes
from lorakit.trainers.builtin.names import UnetStructure
from lorakit.trainers.builtin.tensorfile import TensorFile, open_tensors

__all__ = ["PREFIXES", "BaseModel", "load_base", "load_text_encoders", "load_vae"]

UNET = "model.diffusion_model."
TE1 = "conditioner.embedders.0.transformer."
TE2 = "conditioner.embedders.1.model."
VAE = "first_stage_model."
PREFIXES = {"unet": UNET, "te1": TE1, "te2": TE2, "vae": VAE}

_VAE_PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")

_Model = TypeVar("_Model", bound=torch.nn.Module)
_Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class BaseModel:
    """The four frozen modules of an SDXL-family model, in eval mode, and where they were read from."""

    unet: UNet2DConditionModel
    te1: CLIPTextModel
    te2: CLIPTextModelWithProjection
    vae: AutoencoderKL
    path: Path
    vae_path: Path | None = None


def load_base(
    path: Path,
    *,
    vae_path: Path | None = None,
    unet_dtype: torch.dtype = torch.float32,
    te_dtype: torch.dtype = torch.float32,
    vae_dtype: torch.dtype = torch.float32,
    allow_pickle: bool = False,
) -> BaseModel:
    """Load a single-file checkpoint or a diffusers folder of any width of the family.

    The modules are built without memory and take the file's own (memory-mapped) tensors where the dtype is the
    file's, so a 7 GB bf16 file loaded as bf16 needs little more than its size.

    Raises:
        ModelFileError: the file is missing, torn, a pickle without ``allow_pickle``, or not of the SDXL family.
    """
    if os.path.isdir(path):  # Path.is_dir raises for a name that no file can have
        unet, te1, te2 = _load_folder(path, unet_dtype, te_dtype)
        vae = load_vae(vae_path or path, vae_dtype, allow_pickle=allow_pickle)
        return BaseModel(unet, te1, te2, vae, path, vae_path)
    with open_tensors(path, allow_pickle=allow_pickle) as file:
        shapes.require_sdxl(file.shapes, path)
        unet = _load_unet(file, unet_dtype)
        te1 = _load_te1(file, te_dtype)
        te2 = _load_te2(file, te_dtype)
        vae = load_vae(vae_path, vae_dtype, allow_pickle=allow_pickle) if vae_path else _read_vae(file, vae_dtype)
    return BaseModel(unet, te1, te2, vae, path, vae_path)


def load_text_encoders(
    path: Path, *, dtype: torch.dtype = torch.float32, allow_pickle: bool = False
) -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    """TE1 and TE2 alone, as :func:`load_base` loads them; of the rest nothing is read.

    Raises:
        ModelFileError: as :func:`load_base`.
    """
    if os.path.isdir(path):
        te1_config, te1 = _read_folder(path / "text_encoder")
        te2_config, te2 = _read_folder(path / "text_encoder_2")
        return (
            _fill(lambda: CLIPTextModel(_clip_config(te1_config)), te1, dtype, path / "text_encoder"),
            _fill(lambda: CLIPTextModelWithProjection(_clip_config(te2_config)), te2, dtype, path / "text_encoder_2"),
        )
    with open_tensors(path, allow_pickle=allow_pickle) as file:
        shapes.require_sdxl(file.shapes, path)
        return _load_te1(file, dtype), _load_te2(file, dtype)


def load_vae(path: Path, dtype: torch.dtype = torch.float32, *, allow_pickle: bool = False) -> AutoencoderKL:
    """Load a VAE from a full checkpoint, a VAE-only file (LDM or diffusers names), or a diffusers folder.

    Raises:
        ModelFileError: as :func:`load_base`.
    """
    if os.path.isdir(path):  # Path.is_dir raises for a name that no file can have
        folder = path / "vae" if (path / "vae").is_dir() else path
        config, tensors = _read_folder(folder)
        return _fill(lambda: AutoencoderKL.from_config(config), tensors, dtype, folder)
    with open_tensors(path, allow_pickle=allow_pickle) as file:
        return _read_vae(file, dtype)


def _divisions(file: TensorFile) -> shapes.Divisions:
    return shapes.Divisions.from_metadata(file.metadata, file.path)


def _load_unet(file: TensorFile, dtype: torch.dtype) -> UNet2DConditionModel:
    tensors = file.tensors(UNET)
    config = shapes.unet_config(_shapes(tensors), _shapes(file.tensors(TE2)), file.path, _divisions(file))
    structure = UnetStructure.from_ldm(tensors)
    converted = convert_ldm_unet_checkpoint({UNET + key: tensor for key, tensor in tensors.items()}, config)
    _refuse_extra(tensors.keys() - {_known(structure.to_ldm, key) for key in converted}, UNET, file.path)
    return _fill(
        lambda: UNet2DConditionModel(**config), converted, dtype, file.path, original=structure.to_ldm, prefix=UNET
    )


def _load_te1(file: TensorFile, dtype: torch.dtype) -> CLIPTextModel:
    tensors = file.tensors(TE1)
    config = shapes.te1_config(_shapes(tensors), file.path, _divisions(file))
    return _fill(lambda: CLIPTextModel(CLIPTextConfig(**config)), tensors, dtype, file.path)


def _load_te2(file: TensorFile, dtype: torch.dtype) -> CLIPTextModelWithProjection:
    tensors = file.tensors(TE2)
    config = CLIPTextConfig(**shapes.te2_config(_shapes(tensors), file.path, _divisions(file)))
    with torch.device("meta"):
        model = CLIPTextModelWithProjection(config)
    # transposes text_projection, as every inference program does; sd-scripts 0.10 takes it as it stands in a single
    # file, so on such a file its pooled condition differs from ours, and ours is the one that images are drawn with
    converted = convert_open_clip_checkpoint(model, tensors, prefix="")
    return _fill(lambda: CLIPTextModelWithProjection(config), converted, dtype, file.path)


def _read_vae(file: TensorFile, dtype: torch.dtype) -> AutoencoderKL:
    prefix = VAE if any(key.startswith(VAE) for key in file.shapes) else ""
    tensors = {key: tensor for key, tensor in file.tensors(prefix).items() if key.startswith(_VAE_PARTS)}
    if "encoder.conv_in.weight" not in tensors:
        raise ModelFileError(
            f"{file.path}: no VAE in this file",
            why="neither first_stage_model.encoder.* nor encoder.* tensors are there",
            todo="give a full SDXL checkpoint, a VAE-only file or a diffusers folder",
        )
    ldm = not any(key.startswith("encoder.down_blocks.") for key in tensors)
    read = shapes.vae_config_ldm if ldm else shapes.vae_config_diffusers
    config = read(_shapes(tensors), file.path, _divisions(file))
    if ldm:
        converted = convert_ldm_vae_checkpoint(tensors, config)
        if len(converted) != len(tensors):
            raise ModelFileError(
                f"{file.path}: the VAE has tensors that the architecture has no place for",
                why=f"{len(tensors)} tensors in the file, {len(converted)} of them understood",
                todo="choose an SDXL VAE",
            )
        tensors = converted
    return _fill(lambda: AutoencoderKL(**config), tensors, dtype, file.path)


def _load_folder(
    path: Path, unet_dtype: torch.dtype, te_dtype: torch.dtype
) -> tuple[UNet2DConditionModel, CLIPTextModel, CLIPTextModelWithProjection]:
    absent = [name for name in ("unet", "text_encoder", "text_encoder_2", "vae") if not (path / name).is_dir()]
    if absent:
        raise ModelFileError(
            f"{path}: not a diffusers folder of an SDXL model",
            why=f"it has no {'/, '.join(absent)}/",
            todo="give a folder with unet, text_encoder, text_encoder_2 and vae, or a single .safetensors file",
        )
    unet_config, unet = _read_folder(path / "unet")
    te1_config, te1 = _read_folder(path / "text_encoder")
    te2_config, te2 = _read_folder(path / "text_encoder_2")
    if unet_config.get("addition_embed_type") != "text_time":
        raise ModelFileError(
            f"{path}: not an SDXL model",
            why="its UNet has no size condition (addition_embed_type is not text_time)",
            todo="choose an SDXL model",
        )
    return (
        _fill(lambda: UNet2DConditionModel.from_config(unet_config), unet, unet_dtype, path / "unet"),
        _fill(lambda: CLIPTextModel(_clip_config(te1_config)), te1, te_dtype, path / "text_encoder"),
        _fill(lambda: CLIPTextModelWithProjection(_clip_config(te2_config)), te2, te_dtype, path / "text_encoder_2"),
    )


def _clip_config(config: dict[str, Any]) -> CLIPTextConfig:
    return CLIPTextConfig(
        **{
            key: value
            for key, value in config.items()
            if key not in ("architectures", "dtype", "torch_dtype", "transformers_version", "model_type")
        }
    )


def _read_folder(folder: Path) -> tuple[dict[str, Any], _Tensors]:
    """The configuration and the tensors of one component of a diffusers folder."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelFileError(
            f"{folder / 'config.json'}: cannot be read", why=str(error), todo="check the diffusers folder"
        ) from error
    tensors: _Tensors = {}
    for weights in _weight_files(folder):
        with open_tensors(weights) as file:
            tensors |= file.tensors("")
    return config, tensors


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors file or shards of a component; the plain ones before a variant such as fp16."""
    for stem in ("diffusion_pytorch_model", "model"):
        for variant in ("", ".fp16"):
            index = folder / f"{stem}.safetensors.index{variant}.json"
            if index.is_file():
                names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
                return [folder / name for name in sorted(set(names))]
            single = folder / f"{stem}{variant}.safetensors"
            if single.is_file():
                return [single]
    raise ModelFileError(
        f"{folder}: no .safetensors weights in it",
        why="pickled weights (.bin) are not read from a diffusers folder",
        todo="save the model again with safe serialisation",
    )


def _fill(
    build: Callable[[], _Model],
    tensors: _Tensors,
    dtype: torch.dtype,
    path: Path,
    *,
    original: Callable[[str], str] | None = None,
    prefix: str = "",
) -> _Model:
    """Build a module without memory and give it ``tensors`` (emptied on the way) in ``dtype``, frozen, in eval mode."""
    with torch.device("meta"):
        model = build()
    # transformers 5 dropped the wrapper "text_model." of one of the two text encoders; files have it in both
    ours = model.state_dict()
    if not any(key.startswith("text_model.") for key in ours):
        for key in [key for key in tensors if key.startswith("text_model.")]:
            tensors[key.removeprefix("text_model.")] = tensors.pop(key)
    for key in [key for key in tensors if key.endswith("embeddings.position_ids")]:
        del tensors[key]  # an index table that newer versions make themselves
    missing = [prefix + _known(original, key) for key in ours if key not in tensors]
    if missing:
        raise ModelFileError(
            f"{path}: {len(missing)} tensors of {type(model).__name__} are missing",
            why=f"among them {', '.join(missing[:3])}",
            todo="the file is incomplete or of another architecture: choose a full SDXL model",
        )
    _refuse_extra(tensors.keys() - ours.keys(), prefix, path)
    for key, place in ours.items():
        if place.shape != tensors[key].shape:
            raise ModelFileError(
                f"{path}: {prefix}{_known(original, key)} has the shape {tuple(tensors[key].shape)}",
                why=f"the rest of the file asks for {tuple(place.shape)}",
                todo="the file is damaged or of another architecture: choose an SDXL model",
            )
    model.load_state_dict({key: tensors.pop(key).to(dtype) for key in ours}, assign=True)
    _restore_buffers(model)
    return model.requires_grad_(False).eval()


def _restore_buffers(model: torch.nn.Module) -> None:
    """Give index tables, which no file holds, real memory."""
    for module in model.modules():
        table = getattr(module, "position_ids", None)
        if isinstance(table, torch.Tensor) and table.is_meta:
            module.position_ids = torch.arange(table.shape[-1]).expand(1, -1)
    left = [name for name, buffer in model.named_buffers() if buffer.is_meta]
    if left:
        raise ModelFileError(f"buffers without values: {', '.join(left)}", why="a library newer than lorakit knows")


def _refuse_extra(extra: Iterable[str], prefix: str, path: Path) -> None:
    names = sorted(extra)
    if names:
        raise ModelFileError(
            f"{path}: {len(names)} tensors that the SDXL architecture has no place for",
            why=f"among them {', '.join(prefix + name for name in names[:3])}",
            todo="the file is of another architecture: choose an SDXL model",
        )


def _known(translate: Callable[[str], str] | None, key: str) -> str:
    try:
        return translate(key) if translate else key
    except KeyError:
        return key


def _shapes(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in tensors.items()}
