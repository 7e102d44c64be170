"""Cache files beside images: what the trainers call them, and which files of a folder are such."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from lorakit.dataset.records import ImageRecord

__all__ = ["INFO", "is_cache_name", "latent_name", "text_name"]

#: What ``cache_info`` writes: sizes and captions, which the trainer then believes more than the files.
INFO: Final = "metadata_cache.json"


def latent_name(image: ImageRecord) -> Path:
    """Where the trainers keep SDXL latents of an image: named by stem and original size."""
    return image.path.with_name(f"{image.path.stem}_{image.width:04d}x{image.height:04d}_sdxl.npz")


def text_name(image: ImageRecord) -> Path:
    """Where the trainers keep what SDXL's text encoders say to an image's caption."""
    return image.path.with_name(f"{image.path.stem}_te_outputs.npz")


def is_cache_name(name: str) -> bool:
    """Whether a file of this name would be believed instead of the images and captions beside it."""
    return name.endswith(".npz") or name == INFO
