"""The demo data set: coloured shapes with captions, made by a program, so that it is free of anyone's rights."""

from __future__ import annotations

import io
import math
import random
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from lorakit import atomic
from lorakit.errors import DiskError

__all__ = ["write_demo"]

Point = tuple[float, float]

_COLOURS = {
    "red": (205, 50, 45),
    "green": (60, 150, 75),
    "blue": (55, 95, 190),
    "orange": (235, 140, 40),
    "grey": (130, 135, 140),
    "white": (240, 240, 235),
    "pink": (235, 150, 180),
    "brown": (120, 80, 50),
}
_PURPLE = (120, 50, 160)
_YELLOW = (245, 215, 60)
_SIZES = ((128, 128), (96, 160), (160, 96), (128, 192))  # width, height: four aspect ratios
_OVERSAMPLING = 3

#: A new thing that no base model knows: a purple star with a yellow stripe. Repeated more often than the plain shapes.
_CONCEPT = "zorp"
_CONCEPT_FOLDER = f"4_{_CONCEPT}"
_OTHERS_FOLDER = "2_shape"


@dataclass(frozen=True)
class _Picture:
    folder: str
    shape: str
    colour: tuple[int, int, int]
    stripe: tuple[int, int, int] | None
    background: str
    size: tuple[int, int]
    caption: str


def write_demo(folder: Path, *, seed: int = 0) -> int:
    """Write sixteen captioned pictures in kohya's layout (``N_name/``); the same seed gives the same bytes.

    Returns the number of pictures.

    Raises:
        DiskError: a file cannot be written.
    """
    rng = random.Random(seed)
    pictures = _pictures(rng)
    try:
        for index, picture in enumerate(pictures):
            stem = folder / picture.folder / f"{picture.shape}_{index:02d}"
            stem.parent.mkdir(parents=True, exist_ok=True)
            atomic.write_bytes(stem.with_suffix(".png"), _png(_draw(picture, rng)))
            atomic.write_text(stem.with_suffix(".txt"), picture.caption + "\n")
    except OSError as error:
        raise DiskError(f"{folder}: cannot be written", why=str(error), todo="choose another place") from error
    return len(pictures)


def _pictures(rng: random.Random) -> list[_Picture]:
    backgrounds = list(_COLOURS)
    rng.shuffle(backgrounds)
    pictures = []
    for index in range(12):
        background, size = backgrounds[index % len(backgrounds)], _SIZES[index % len(_SIZES)]
        caption = f"{_CONCEPT}, a photo of a {_CONCEPT}, {background} background"
        pictures.append(_Picture(_CONCEPT_FOLDER, _CONCEPT, _PURPLE, _YELLOW, background, size, caption))
    for index, shape in enumerate(("circle", "square", "triangle", "diamond")):
        colour, background = rng.sample(list(_COLOURS), 2)
        caption = f"a photo of a {colour} {shape}, {background} background"
        size = _SIZES[index % len(_SIZES)]
        pictures.append(_Picture(_OTHERS_FOLDER, shape, _COLOURS[colour], None, background, size, caption))
    return pictures


def _draw(picture: _Picture, rng: random.Random) -> Image.Image:
    width, height = (side * _OVERSAMPLING for side in picture.size)
    image = _gradient(width, height, _COLOURS[picture.background])
    radius = min(width, height) * rng.uniform(0.34, 0.44)
    centre = (width * rng.uniform(0.45, 0.55), height * rng.uniform(0.45, 0.55))
    outline = _outline(picture.shape, centre, radius, rng.uniform(-0.2, 0.2))
    mask = Image.new("L", image.size)
    ImageDraw.Draw(mask).polygon(outline, fill=255)
    paint = Image.new("RGB", image.size, picture.colour)
    if picture.stripe:
        half = radius * 0.14
        ImageDraw.Draw(paint).rectangle((0, centre[1] - half, width, centre[1] + half), fill=picture.stripe)
    image.paste(paint, mask=mask)
    return image.resize(picture.size, Image.Resampling.BOX)


def _gradient(width: int, height: int, colour: tuple[int, int, int]) -> Image.Image:
    """The background: ``colour``, a little darker towards the bottom, in few steps so that the file stays small."""
    image = Image.new("RGB", (width, height))
    draw = ImageDraw.Draw(image)
    bands = 8
    for band in range(bands):
        shade = tuple(int(channel * (1 - 0.25 * band / bands)) for channel in colour)
        draw.rectangle((0, band * height // bands, width, height), fill=shade)
    return image


def _outline(shape: str, centre: Point, radius: float, turn: float) -> list[Point]:
    if shape == _CONCEPT:
        radii = [radius if point % 2 == 0 else radius * 0.45 for point in range(10)]
    else:
        corners = {"circle": 64, "square": 4, "triangle": 3, "diamond": 4}[shape]
        radii = [radius] * corners
        turn += math.pi / 4 if shape == "square" else 0.0
    step = 2 * math.pi / len(radii)
    angles = [turn - math.pi / 2 + index * step for index in range(len(radii))]
    return [
        (centre[0] + length * math.cos(angle), centre[1] + length * math.sin(angle))
        for length, angle in zip(radii, angles, strict=True)
    ]


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
