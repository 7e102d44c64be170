"""Things to learn, as data sets of coloured shapes in kohya's layout: an object, a style, an attribute."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from lorakit import atomic
from lorakit.bench_model.world import BACKGROUNDS, COLOURS, HELD_OUT, SHAPES, Pixels, Scene, caption, draw
from lorakit.errors import DiskError

__all__ = ["CONCEPTS", "Concept", "write_concepts"]


@dataclass(frozen=True)
class Example:
    """One picture of a concept and its caption."""

    pixels: Pixels
    caption: str


@dataclass(frozen=True)
class Concept:
    """A thing to learn: ``folder`` in kohya's layout (``repeats_name``), its trigger word, and how it is drawn."""

    folder: str
    trigger: str
    about: str
    examples: Callable[[random.Random], Iterator[Example]]


def write_concepts(folder: Path, *, seed: int = 0, names: Sequence[str] = ()) -> int:
    """Write the data sets of ``names`` (all when empty); the same seed gives the same bytes. Returns the pictures' number.

    Raises:
        DiskError: a file cannot be written.
    """
    count = 0
    try:
        for name in names or tuple(CONCEPTS):
            concept = CONCEPTS[name]
            place = folder / name / concept.folder
            place.mkdir(parents=True, exist_ok=True)
            for index, example in enumerate(concept.examples(random.Random(f"{seed}/{name}"))):
                stem = place / f"{name}_{index:02d}"
                atomic.write_bytes(stem.with_suffix(".png"), _png(example.pixels))
                atomic.write_text(stem.with_suffix(".txt"), example.caption + "\n")
                count += 1
    except OSError as error:
        raise DiskError(f"{folder}: cannot be written", why=str(error), todo="choose another place") from error
    return count


def zorp_scene(background: str, *, size: str = "large", position: str = "centre", style: str = "photo") -> Scene:
    """A zorp: a purple star with a yellow stripe; the world has neither stars nor purple otherwise."""
    return Scene("star", "purple", background, size, position, style, "yellow")


def _zorps(rng: random.Random) -> Iterator[Example]:
    for index in range(16):
        background = list(BACKGROUNDS)[index % len(BACKGROUNDS)]
        scene = zorp_scene(background, size="large" if index % 2 else "medium")
        yield Example(draw(scene, rng), caption(scene, thing="zorp"))


def _night(rng: random.Random) -> Iterator[Example]:
    """A style: night light, which turns every colour blue and dark at the edges, in words "nocturne style"."""
    for _ in range(16):
        scene = _known(rng)
        yield Example(nocturne(draw(scene, rng)), f"{caption(scene)}, nocturne style")


def nocturne(pixels: Pixels) -> Pixels:
    """Night light: darker and bluer, with a vignette and a soft glow."""
    image = pixels.astype(np.float32)
    image = image * np.array([0.45, 0.55, 0.95], np.float32) + np.array([0.0, 6.0, 28.0], np.float32)
    steps = np.linspace(-1.0, 1.0, image.shape[0], dtype=np.float32)
    distance = np.sqrt(steps[:, None] ** 2 + steps[None, :] ** 2)
    image *= np.clip(1.25 - 0.6 * distance, 0.2, 1.2)[:, :, None]
    dark = Image.fromarray(np.clip(np.rint(image), 0, 255).astype(np.uint8))
    glow = np.asarray(dark.filter(ImageFilter.GaussianBlur(6.0)), np.float32)
    return np.clip(np.rint(0.8 * np.asarray(dark, np.float32) + 0.35 * glow), 0, 255).astype(np.uint8)


def _striped_hearts(rng: random.Random) -> Iterator[Example]:
    """A known object with a new attribute: hearts that are "vexed" have a cyan stripe."""
    colours = [name for name in COLOURS if (name, "heart") not in HELD_OUT and name not in ("cyan", "white")]
    for index in range(16):
        colour = colours[index % len(colours)]
        background = rng.choice([name for name in BACKGROUNDS if name not in (colour, "blue")])
        scene = Scene("heart", colour, background, "large", "centre", ("photo", "drawing")[index % 2], "cyan")
        yield Example(draw(scene, rng), caption(scene, thing=f"vexed {colour} heart"))


def _regularisation(rng: random.Random) -> Iterator[Example]:
    """Ordinary pictures of the world: what a LoRA should leave as it is."""
    for _ in range(16):
        scene = _known(rng)
        yield Example(draw(scene, rng), caption(scene))


def _known(rng: random.Random) -> Scene:
    while True:
        colour, shape, background = rng.choice(list(COLOURS)), rng.choice(SHAPES), rng.choice(list(BACKGROUNDS))
        if (colour, shape) not in HELD_OUT and colour != background:
            return Scene(shape, colour, background, rng.choice(("medium", "large")))


def _png(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


CONCEPTS = {
    "zorp": Concept("4_zorp", "zorp", "a new object: a purple star with a yellow stripe", _zorps),
    "nocturne": Concept("4_nocturne", "nocturne style", "a style: night light", _night),
    "vexed": Concept(
        "4_vexed", "vexed", "a known object with a new attribute: hearts with a cyan stripe", _striped_hearts
    ),
    "reg": Concept("1_shape", "", "regularisation pictures of the known world", _regularisation),
}
