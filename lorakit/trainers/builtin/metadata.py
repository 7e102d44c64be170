"""What a LoRA file says about its training: ss_*, modelspec.* and sshs_* metadata, and writing the file."""

from __future__ import annotations

import argparse
import base64
import functools
import hashlib
import json
import mimetypes
import os
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from lorakit._version import __version__
from lorakit.atomic import TEMP_MARK, fsync_dir
from lorakit.errors import DiskError, ModelFileError

__all__ = ["TrainingFacts", "at_save", "build_metadata", "model_hashes", "model_spec", "save_lora"]

#: ss_<name> is the argument <name>, as text.
_FROM_ARGUMENTS = (
    "output_name", "learning_rate", "unet_lr", "gradient_checkpointing", "gradient_accumulation_steps",
    "lr_warmup_steps", "lr_scheduler", "mixed_precision", "full_fp16", "clip_skip", "max_token_length",
    "cache_latents", "seed", "lowram", "noise_offset", "multires_noise_iterations", "multires_noise_discount",
    "adaptive_noise_scale", "zero_terminal_snr", "training_comment", "max_grad_norm", "caption_dropout_rate",
    "caption_dropout_every_n_epochs", "caption_tag_dropout_rate", "face_crop_aug_range", "prior_loss_weight",
    "min_snr_gamma", "scale_weight_norms", "ip_noise_gamma", "noise_offset_random_strength",
    "ip_noise_gamma_random_strength", "loss_type", "huber_schedule", "huber_scale", "huber_c", "fp8_base",
    "fp8_base_unet", "validation_seed", "validation_split", "max_validation_steps", "validate_every_n_epochs",
    "validate_every_n_steps", "resize_interpolation", "network_dropout",
)  # fmt: skip

#: The same for a data set given by folders; one given by a TOML says all this in ss_datasets.
_FROM_ARGUMENTS_FOLDERS = (
    "color_aug", "flip_aug", "random_crop", "shuffle_caption", "enable_bucket", "bucket_no_upscale",
    "min_bucket_reso", "max_bucket_reso", "keep_tokens",
)  # fmt: skip

#: All that is left of ss_* under --no_metadata.
_MINIMUM = (
    "ss_v2", "ss_base_model_version", "ss_network_module", "ss_network_dim", "ss_network_alpha", "ss_network_args",
)  # fmt: skip

#: modelspec.<key> from the argument metadata_<name>, when given.
_SPEC_OPTIONAL = (
    "author", "description", "license", "tags", "usage_hint", "merged_from", "trigger_phrase", "preprocessor",
    "is_negative_embedding",
)  # fmt: skip

_SHA_WINDOW = (0x100000, 0x110000)  # the part of a file that its legacy hash covers
_HASHING = threading.Lock()


@dataclass(frozen=True)
class TrainingFacts:
    """What the metadata needs and the arguments do not tell.

    ``optimizer`` is "module.Class" or "module.Class(k=v,...)". The dictionaries are written as JSON: ``dataset_dirs`` and
    ``reg_dataset_dirs`` {folder: {"n_repeats", "img_count"}}, ``tag_frequency`` {folder: {tag: count}}, ``bucket_info``
    {"buckets": {"0": {"resolution", "count"}}, "mean_img_ar_error"}. ``datasets`` (one dictionary per data set) is set for
    a data set TOML and replaces the folder's arguments, ``reg_dataset_dirs`` and ``bucket_info``.
    """

    num_train_images: int
    num_validation_images: int
    num_reg_images: int
    num_batches_per_epoch: int
    num_epochs: int
    max_train_steps: int
    total_batch_size: int
    optimizer: str
    dataset_dirs: Mapping[str, Any] = field(default_factory=dict)
    reg_dataset_dirs: Mapping[str, Any] = field(default_factory=dict)
    tag_frequency: Mapping[str, Any] = field(default_factory=dict)
    bucket_info: Mapping[str, Any] | None = None
    datasets: Sequence[Mapping[str, Any]] | None = None
    session_id: int = field(default_factory=lambda: secrets.randbelow(2**32))
    started_at: float = field(default_factory=time.time)


def build_metadata(arguments: argparse.Namespace, facts: TrainingFacts) -> dict[str, str]:
    """All ss_* entries that are known when the training starts; every value is text (None is "None").

    Reads the base model and the VAE whole for their hashes.
    """
    values: dict[str, Any] = {f"ss_{name}": getattr(arguments, name) for name in _FROM_ARGUMENTS}
    te_lr = arguments.text_encoder_lr
    values |= {
        "ss_session_id": facts.session_id,
        "ss_training_started_at": facts.started_at,
        "ss_text_encoder_lr": te_lr[0] if isinstance(te_lr, (list, tuple)) and te_lr else te_lr,
        "ss_num_train_images": facts.num_train_images,
        "ss_num_validation_images": facts.num_validation_images,
        "ss_num_reg_images": facts.num_reg_images,
        "ss_num_batches_per_epoch": facts.num_batches_per_epoch,
        "ss_num_epochs": facts.num_epochs,
        "ss_max_train_steps": facts.max_train_steps,
        "ss_debiased_estimation": arguments.debiased_estimation_loss,
        "ss_fp8_base": bool(arguments.fp8_base),
        "ss_fp8_base_unet": bool(arguments.fp8_base_unet),
        "ss_optimizer": facts.optimizer,
        "ss_sd_scripts_commit_hash": f"lorakit-{__version__}",  # no sd-scripts took part
    }
    values |= _network(arguments) | _dataset(arguments, facts) | _models(arguments)
    return {key: str(value) for key, value in values.items()}


def at_save(
    metadata: Mapping[str, str],
    arguments: argparse.Namespace,
    *,
    steps: int,
    epoch: int,
    finished_at: float | None = None,
) -> dict[str, str]:
    """``metadata`` completed for one file: end time, steps, epoch and modelspec.*; cut down by --no_metadata."""
    now = time.time() if finished_at is None else finished_at
    full = dict(metadata) | {
        "ss_training_finished_at": str(now),
        "ss_steps": str(steps),
        "ss_epoch": str(epoch),
    }
    if arguments.no_metadata:
        full = {key: full[key] for key in _MINIMUM if key in full}
    return full | model_spec(arguments, now)


def model_spec(arguments: argparse.Namespace, now: float) -> dict[str, str]:
    """The modelspec.* entries (Stability's model metadata standard) of a file written at ``now`` (unix seconds)."""
    width, height = _resolution(arguments.resolution) or (1024, 1024)
    spec = {
        "sai_model_spec": "1.0.1",
        "architecture": "stable-diffusion-xl-v1-base/lora",
        "implementation": "https://github.com/Stability-AI/generative-models",
        "title": arguments.metadata_title or arguments.output_name or f"LoRA@{now}",
        "resolution": f"{width}x{height}",
        "date": datetime.fromtimestamp(int(now)).isoformat(),  # noqa: DTZ006 (the standard's local time)
        "prediction_type": "v" if arguments.v_parameterization else "epsilon",
        "implementation_version": f"lorakit/{__version__}",
    }
    if arguments.clip_skip is not None:
        spec["encoder_layer"] = str(arguments.clip_skip)
    if arguments.min_timestep is not None or arguments.max_timestep is not None:
        first = 0 if arguments.min_timestep is None else arguments.min_timestep
        last = 1000 if arguments.max_timestep is None else arguments.max_timestep
        spec["timestep_range"] = f"{first},{last}"
    spec |= {
        name: str(value)
        for name in _SPEC_OPTIONAL
        if (value := getattr(arguments, f"metadata_{name}", None)) is not None
    }
    if arguments.metadata_thumbnail:
        spec["thumbnail"] = _thumbnail(arguments.metadata_thumbnail)
    return {f"modelspec.{key}": value for key, value in spec.items()}


def save_lora(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Write a LoRA file under a temporary name and rename it; adds sshs_model_hash and sshs_legacy_hash.

    The same tensors and metadata give the same bytes.

    Raises:
        DiskError: the file cannot be written; nothing is left under ``path`` but what was there.
    """
    data = _tensor_area(tensors)
    hashed = {key: value for key, value in metadata.items() if key.startswith("ss_")}
    hashes = {
        "sshs_model_hash": hashlib.sha256(data[1]).hexdigest(),
        "sshs_legacy_hash": _legacy_hash(_header(data[0], hashed) + data[1][: _SHA_WINDOW[1]]),
    }
    temp = path.with_name(f".{path.name[:80]}{TEMP_MARK}{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with open(temp, "xb") as file:
            file.write(_header(data[0], {**metadata, **hashes}))
            file.write(data[1])
            file.flush()
            os.fsync(file.fileno())
        os.replace(temp, path)
        fsync_dir(path.parent)
    except OSError as error:
        raise DiskError(
            f"{path}: cannot be written", why=str(error), todo="make room or choose another output folder"
        ) from error
    finally:
        temp.unlink(missing_ok=True)


def model_hashes(path: Path) -> tuple[str, str]:
    """The legacy hash (8 hex digits) and the sha256 of a model file; "IsADirectory" twice for a folder."""
    if path.is_dir():
        return "IsADirectory", "IsADirectory"
    try:
        status = path.stat()
        with _HASHING:  # whoever asks meanwhile waits for the answer
            return _file_hashes(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read", why=str(error)) from error


@functools.cache
def _file_hashes(path: Path, _size: int, _changed: int) -> tuple[str, str]:
    """Once for all trainings of a process; a file of another size or time is another file."""
    with open(path, "rb") as file:
        whole = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(_SHA_WINDOW[0])
        window = file.read(_SHA_WINDOW[1] - _SHA_WINDOW[0])
    return hashlib.sha256(window).hexdigest()[:8], whole


def _network(arguments: argparse.Namespace) -> dict[str, Any]:
    values = {
        "ss_v2": False,
        "ss_base_model_version": "sdxl_base_v1-0",
        "ss_network_module": arguments.network_module,
        "ss_network_dim": arguments.network_dim,
        "ss_network_alpha": arguments.network_alpha,
    }
    if arguments.network_args:
        pairs = dict(item.split("=", 1) for item in arguments.network_args)
        values["ss_network_args"] = json.dumps({**pairs, "dropout": arguments.network_dropout})
    return values


def _dataset(arguments: argparse.Namespace, facts: TrainingFacts) -> dict[str, Any]:
    common = {
        "ss_tag_frequency": json.dumps(facts.tag_frequency),
        "ss_dataset_dirs": json.dumps(facts.dataset_dirs),
    }
    if facts.datasets is not None:
        return common | {"ss_datasets": json.dumps(list(facts.datasets))}
    folders = {f"ss_{name}": getattr(arguments, name) for name in _FROM_ARGUMENTS_FOLDERS}
    return (
        common
        | folders
        | {
            "ss_batch_size_per_device": arguments.train_batch_size,
            "ss_total_batch_size": facts.total_batch_size,
            "ss_resolution": _resolution(arguments.resolution),
            "ss_reg_dataset_dirs": json.dumps(facts.reg_dataset_dirs),
            "ss_bucket_info": json.dumps(facts.bucket_info),
        }
    )


def _models(arguments: argparse.Namespace) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for word, name in (("sd_model", arguments.pretrained_model_name_or_path), ("vae", arguments.vae)):
        if name is not None:
            path = Path(name)
            values[f"ss_{word}_name"] = path.name
            if path.exists():
                values[f"ss_{word}_hash"], values[f"ss_new_{word}_hash"] = model_hashes(path)
    return values


def _resolution(text: object) -> tuple[int, int] | None:
    """(width, height) of "1024", "832,1216", a number or a pair; None when nothing is given."""
    if text is None:
        return None
    sides = [int(side) for side in (str(text).split(",") if isinstance(text, (str, int)) else list(text))]  # type: ignore[call-overload]
    return (sides[0], sides[0]) if len(sides) == 1 else (sides[0], sides[1])


def _thumbnail(name: str) -> str:
    if name.startswith("data:"):
        return name
    path = Path(name)
    try:
        encoded = base64.b64encode(path.read_bytes()).decode("ascii")
    except OSError as error:
        raise ModelFileError(f"{path}: the thumbnail cannot be read", why=str(error)) from error
    return f"data:{mimetypes.guess_type(path.name)[0] or 'image/jpeg'};base64,{encoded}"


def _tensor_area(tensors: Mapping[str, torch.Tensor]) -> tuple[dict[str, Any], bytes]:
    """The header's entries and the bytes of the tensors, as safetensors lays them out."""
    whole = save(dict(tensors))
    length = int.from_bytes(whole[:8], "little")
    return json.loads(whole[8 : 8 + length]), whole[8 + length :]


def _header(entries: Mapping[str, Any], metadata: Mapping[str, str]) -> bytes:
    """A safetensors header; metadata sorted, because the library's own order changes from call to call."""
    content = {"__metadata__": dict(sorted(metadata.items())), **entries} if metadata else dict(entries)
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _legacy_hash(whole: bytes) -> str:
    return hashlib.sha256(whole[_SHA_WINDOW[0] : _SHA_WINDOW[1]]).hexdigest()[:8]
