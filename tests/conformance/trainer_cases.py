"""Trainings that both trainers do, made from code alone, and what of them is compared."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from lorakit.preset.models import Preset

__all__ = ["BASE", "CASES", "INIT", "Case", "lay_out", "start_weights"]

BASE: Final = "slim.safetensors"
#: The LoRA that both trainers go on from: what they start from themselves is drawn.
INIT: Final = "start.safetensors"

_LONG: Final = ", ".join(f"a picture of thing number {number} on a table" for number in range(30))
#: By folder of the dataset: images by name, with size and caption. Two are to be resized, two buckets are needed.
_IMAGES: Final[Mapping[str, Mapping[str, tuple[tuple[int, int], str]]]] = {
    "data/2_thing": {
        "a": ((64, 64), "a red circle, on white"),
        "b": ((64, 64), "Two  (blue) squares, déjà vu & 3.5"),
        "c": ((96, 64), "<thing> & other"),
    },
    "reg/1_thing": {"r": ((64, 64), "a circle"), "s": ((96, 64), "a square")},
}


@dataclass(frozen=True)
class Case:
    """A preset, as tables over the common ones. ``resized``: images are not of their bucket's size. ``long``: long captions.
    ``wide``: one image goes to another bucket.
    """

    name: str
    tables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    resized: bool = False
    long: bool = False
    wide: bool = False

    def preset(self, kind: str) -> Preset:
        """The preset for the trainer ``kind``, with paths relative to the workspace."""
        return Preset.model_validate(self._asked() | {"trainer": {"kind": kind, "probe": False}})

    def _asked(self) -> dict[str, Any]:
        tables: dict[str, dict[str, Any]] = {
            "base": {"model": BASE},
            "dataset": {
                "path": f"{self.name}/data",
                "resolution": 64,
                "bucket_min": 32,
                "bucket_max": 128,
                "bucket_step": 32,
                "workers": 0,
            },
            "network": {"dim": 2, "alpha": 1, "weights": INIT},
            "optim": {"type": "AdamW", "unet_lr": 1e-3, "te_lr": 5e-4, "schedule": "cosine", "warmup": "1 steps"},
            "length": {"steps": 4, "batch_size": 2},
            "precision": {"mixed": "no", "save": "float"},
        }
        tables |= {name: tables.get(name, {}) | dict(table) for name, table in self.tables.items()}
        return {"name": "two", "seed": 7, "launch": {"cpu": True, "threads": 1}, **tables}

    def digest(self) -> str:
        """Changes when what is asked does: a record of another case proves nothing of this one."""
        more = ["wide"] if self.wide else []
        asked = json.dumps([self._asked(), self.resized, self.long, _IMAGES, _LONG, *more], sort_keys=True)
        return hashlib.sha256(asked.encode()).hexdigest()[:16]


def _case(
    name: str, *, resized: bool = False, long: bool = False, wide: bool = False, **tables: Mapping[str, Any]
) -> Case:
    return Case(name, tables, resized, long, wide)


CASES: Final = {
    case.name: case
    for case in (
        _case("epsilon"),
        _case("v-prediction", base={"v_prediction": True}),
        _case("min-snr", loss={"min_snr_gamma": 5}),
        _case("min-snr-v", base={"v_prediction": True}, loss={"min_snr_gamma": 5}),
        _case("noise-offset", loss={"noise_offset": 0.05}),
        _case("noise-offset-adaptive", loss={"noise_offset": 0.05, "adaptive_noise_scale": 0.01}),
        _case("noise-offset-random", loss={"noise_offset": 0.05, "noise_offset_random": True}),
        _case("zero-terminal-snr", base={"v_prediction": True}, loss={"zero_terminal_snr": True, "min_timestep": 900}),
        _case("zero-terminal-snr-min-snr", base={"v_prediction": True}, loss={"zero_terminal_snr": True, "min_snr_gamma": 5}),
        _case("scale-v", base={"v_prediction": True}, loss={"scale_v_pred_like_noise_pred": True}),
        _case("v-pred-like", loss={"v_pred_like": 0.5}),
        _case("debiased", loss={"debiased": True}),
        _case("debiased-v", base={"v_prediction": True}, loss={"debiased": True}),
        _case("multires", loss={"multires_noise_iterations": 6, "multires_noise_discount": 0.3}),
        _case("ip-noise", loss={"ip_noise_gamma": 0.1}),
        _case("ip-noise-random", loss={"ip_noise_gamma": 0.1, "ip_noise_gamma_random": True}),
        _case("l1", loss={"type": "l1"}),
        _case("huber-snr", loss={"type": "huber"}),
        _case("huber-exponential", loss={"type": "huber", "huber_schedule": "exponential", "huber_scale": 2}),
        _case("smooth-l1-constant", loss={"type": "smooth_l1", "huber_schedule": "constant", "huber_c": 0.3}),
        _case("timesteps", loss={"min_timestep": 200, "max_timestep": 300}),
        _case("clip-skip", base={"clip_skip": 2}),
        _case("long-75", long=True),
        _case("long-150", long=True, dataset={"max_token_length": 150}),
        _case("long-225", long=True, dataset={"max_token_length": 225}),
        _case("prior-loss", dataset={"reg_path": "prior-loss/reg"}, loss={"prior_loss_weight": 0.3}),
        _case("resized", resized=True),
        _case("buckets", wide=True),
        _case("accumulated", length={"steps": 3, "batch_size": 1, "gradient_accumulation": 2}),
        _case("unet-only", optim={"te_lr": 0}, memory={"cache_text_encoder_outputs": True}),
        _case("te-only", optim={"unet_lr": 0}),
        _case("checkpointed", memory={"gradient_checkpointing": True}),
        _case("max-norm", network={"dim": 2, "alpha": 1, "weights": INIT, "max_norm": 0.05}),
    )
}  # fmt: skip


def lay_out(case: Case, root: Path) -> None:
    """Write the case's images and captions into the workspace ``root``."""
    for folder, images in _IMAGES.items():
        for name, (size, caption) in images.items():
            path = root / case.name / folder / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            shown = (128, 40) if case.wide and name == "c" else size
            picture(name, shown if not case.resized else (shown[0] * 3 + 7, shown[1] * 2 + 30)).save(path)
            path.with_suffix(".txt").write_text(f"{caption}, {_LONG}" if case.long else caption, encoding="utf-8")


def picture(name: str, size: tuple[int, int]) -> Image.Image:
    """Soft waves of colour, the same everywhere."""
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    waves = [
        127 + 120 * np.sin((x * (1 + channel) + y * (3 - channel)) / 11 + zlib.crc32(name.encode()) % 7 + channel)
        for channel in range(3)
    ]
    return Image.fromarray(np.stack(waves, axis=-1).astype(np.uint8))


def start_weights(shapes: Mapping[str, tuple[int, ...]], alpha: float) -> dict[str, np.ndarray[Any, Any]]:
    """A LoRA of these tensors that already does something, drawn by the tensors' names."""
    found: dict[str, np.ndarray[Any, Any]] = {}
    for name, shape in shapes.items():
        rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
        scale = 0.02 if "lora_up" in name else 1 / np.sqrt(max(1, int(np.prod(shape[1:]))))
        drawn = (rng.standard_normal(shape) * scale).astype(np.float32)
        found[name] = np.array(alpha, np.float32) if name.endswith(".alpha") else drawn
    return found
