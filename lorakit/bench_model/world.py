"""A world of captioned pictures: coloured shapes, each picture a function of a seed and a number."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

__all__ = [
    "BACKGROUNDS",
    "COLOURS",
    "HELD_OUT",
    "POSITIONS",
    "PURPLE",
    "RING_HOLE",
    "SHAPES",
    "SIDE",
    "SIZES",
    "STYLES",
    "Picture",
    "Scene",
    "caption",
    "draw",
    "outline",
    "picture",
    "picture_scene",
    "reach",
    "sample_scene",
    "wide_picture",
]

SIDE = 128  # pixels
_OVERSAMPLING = 3

Colour = tuple[int, int, int]
Point = tuple[float, float]
Pixels = NDArray[np.uint8]

COLOURS: dict[str, Colour] = {
    "red": (214, 38, 38),
    "orange": (242, 140, 26),
    "yellow": (248, 220, 48),
    "green": (38, 150, 62),
    "cyan": (60, 205, 222),
    "blue": (40, 72, 208),
    "pink": (244, 140, 190),
    "brown": (122, 72, 38),
    "white": (246, 246, 242),
}
BACKGROUNDS: dict[str, Colour] = {
    "white": (240, 240, 236),
    "grey": (132, 136, 140),
    "black": (26, 26, 30),
    "red": (190, 52, 48),
    "green": (58, 138, 74),
    "blue": (52, 86, 190),
    "yellow": (236, 208, 74),
    "pink": (236, 160, 194),
}
#: Can be drawn, as can a star, but no random scene has it: it is left for what is to be learned.
PURPLE: Colour = (124, 44, 168)
SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring", "heart")
SIZES = {"small": 23.0, "medium": 32.0, "large": 43.0}  # radius in pixels
POSITIONS = {"centre": (0, 0), "left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1)}
STYLES = ("photo", "drawing")

#: Pairs of colour and shape that random scenes leave out: they show whether a model can put together what it knows.
HELD_OUT = frozenset(
    {
        ("red", "heart"),
        ("orange", "diamond"),
        ("yellow", "cross"),
        ("green", "circle"),
        ("cyan", "triangle"),
        ("blue", "ring"),
        ("pink", "square"),
        ("brown", "heart"),
    }
)

_PLACES = {
    "centre": "",
    "left": " at the left",
    "right": " at the right",
    "top": " at the top",
    "bottom": " at the bottom",
}
_MARGIN = 6.0  # pixels between an object and the edge it stands next to
_STRIPE_SHARE = 0.15
_INK = (np.float32(20.0), np.float32(232.0))  # the outline of drawings; on black it is light


@dataclass(frozen=True)
class Scene:
    """What a picture shows, in words; the star and purple, which random scenes never have, are allowed too."""

    shape: str
    colour: str
    background: str
    size: str = "medium"
    position: str = "centre"
    style: str = "photo"
    stripe: str | None = None


@dataclass(frozen=True)
class Picture:
    """A drawn scene: ``pixels`` (128, 128, 3) uint8 and its caption."""

    scene: Scene
    caption: str
    pixels: Pixels


def caption(scene: Scene, *, thing: str | None = None) -> str:
    """The caption of a scene; ``thing`` stands in for colour, shape and stripe (a new word such as zorp).

    Medium size and the centre go without saying.
    """
    size = "" if scene.size == "medium" else f"{scene.size} "
    stripe = f" with a {scene.stripe} stripe" if scene.stripe else ""
    thing = size + (f"{scene.colour} {scene.shape}{stripe}" if thing is None else thing)
    article = "an" if thing.startswith("orange") else "a"
    return f"a {scene.style} of {article} {thing}{_PLACES[scene.position]} on a {scene.background} background"


def sample_scene(rng: random.Random, *, held_out: bool = False) -> Scene:
    """A random scene without, or with, a held-out pair of colour and shape."""
    while True:
        colour, shape = rng.choice(sorted(HELD_OUT)) if held_out else (rng.choice(list(COLOURS)), rng.choice(SHAPES))
        background = rng.choice(list(BACKGROUNDS))
        if ((colour, shape) in HELD_OUT) == held_out and colour != background:
            break
    stripe = None
    if rng.random() < _STRIPE_SHARE:
        stripe = rng.choice([name for name in COLOURS if name not in (colour, background)])
    return Scene(
        shape,
        colour,
        background,
        size=rng.choice(list(SIZES)),
        position=rng.choice(list(POSITIONS)) if rng.random() < 0.75 else "centre",
        style=rng.choice(STYLES),
        stripe=stripe,
    )


def picture(seed: int, index: int) -> Picture:
    """Picture ``index`` of the world of ``seed``."""
    rng = random.Random(f"{seed}/picture/{index}")
    scene = sample_scene(rng)
    return Picture(scene, caption(scene), draw(scene, rng))


def picture_scene(seed: int, index: int) -> Scene:
    """What picture ``index`` shows, without drawing it."""
    return sample_scene(random.Random(f"{seed}/picture/{index}"))


def draw(scene: Scene, rng: random.Random) -> Pixels:
    """Draw a scene, (128, 128, 3) uint8; ``rng`` gives what captions leave open: tilt, light, exact place and size."""
    radius = SIZES[scene.size] * rng.uniform(0.94, 1.06)
    way = reach(radius)
    toward = POSITIONS[scene.position]
    centre = tuple(SIDE / 2 + direction * way + rng.uniform(-2.0, 2.0) for direction in toward)
    points = outline(scene.shape, (centre[0], centre[1]), radius, rng.uniform(-0.1, 0.1))
    mask = _mask(points, hole=_hole(scene.shape, (centre[0], centre[1]), radius))
    colour = COLOURS.get(scene.colour, PURPLE)
    paint = np.empty((SIDE, SIDE, 3), np.float32)
    paint[:] = colour
    if scene.stripe:
        band = _band(centre[1], radius * 0.2)
        paint += band[:, None, None] * (np.asarray(COLOURS[scene.stripe], np.float32) - paint)
    ground = np.empty((SIDE, SIDE, 3), np.float32)
    ground[:] = BACKGROUNDS[scene.background]
    if scene.style == "photo":
        ground *= _light(rng.uniform(0, 2 * math.pi), 0.14)
        angle = rng.uniform(0.25 * math.pi, 0.75 * math.pi)
        shadow = _shadow(mask, (3.5 * math.cos(angle), 4.5 * math.sin(angle)))
        ground *= 1.0 - 0.35 * shadow[:, :, None]
        paint *= _light(rng.uniform(0, 2 * math.pi), 0.12)
        edge = None
    else:
        edge = _line(points, scene.shape, (centre[0], centre[1]), radius)
    image = ground + mask[:, :, None] * (paint - ground)
    if edge is not None:
        image += edge[:, :, None] * (_INK[scene.background == "black"] - image)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def reach(radius: float) -> float:
    """How far from the middle an object of this radius stands when it is at a side, in pixels."""
    return SIDE / 2 - radius - _MARGIN


def wide_picture(seed: int, index: int) -> Pixels:
    """Random polygons in random colours: wider than the world, so that the VAE can also draw what is new to it."""
    rng = random.Random(f"{seed}/wide/{index}")
    image = Image.new("RGB", (SIDE * 2, SIDE * 2), _any_colour(rng))
    brush = ImageDraw.Draw(image)
    for _ in range(rng.randint(1, 5)):
        centre = (rng.uniform(20, 2 * SIDE - 20), rng.uniform(20, 2 * SIDE - 20))
        if rng.random() < 0.5:
            points = outline(rng.choice((*SHAPES, "star")), centre, rng.uniform(24, 90), rng.uniform(0, math.pi))
        else:
            points = [
                (centre[0] + rng.uniform(-80, 80), centre[1] + rng.uniform(-80, 80)) for _ in range(rng.randint(3, 7))
            ]
        width = rng.choice((0, 0, 3, 6))
        brush.polygon(points, fill=_any_colour(rng))
        if width:
            brush.line([*points, points[0]], fill=_any_colour(rng), width=width, joint="curve")
    pixels = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX), np.float32)
    if rng.random() < 0.5:
        pixels = pixels * _light(rng.uniform(0, 2 * math.pi), 0.2)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def outline(shape: str, centre: Point, radius: float, turn: float = 0.0) -> list[Point]:
    """The corners of a shape (for a ring: of its outer circle), turned by ``turn`` radians about ``centre``."""
    cos, sin = math.cos(turn), math.sin(turn)
    return [
        (centre[0] + radius * (x * cos - y * sin), centre[1] + radius * (x * sin + y * cos))
        for x, y in _UNIT_OUTLINES[shape]()
    ]


def _regular(corners: int, start: float, inner: float = 1.0) -> list[Point]:
    radii = [1.0 if index % 2 == 0 else inner for index in range(corners)]
    angles = [start + 2 * math.pi * index / corners for index in range(corners)]
    return [(length * math.cos(angle), length * math.sin(angle)) for length, angle in zip(radii, angles, strict=True)]


def _heart() -> list[Point]:
    turns = [2 * math.pi * index / 60 for index in range(60)]
    return [
        (
            16 * math.sin(t) ** 3 / 16.5,
            -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t) + 2.0) / 15.5,
        )
        for t in turns
    ]


def _cross() -> list[Point]:
    arm, half = 1.0, 0.34
    corners = [(half, -arm), (half, -half), (arm, -half), (arm, half), (half, half), (half, arm)]
    return corners + [(-x, -y) for x, y in corners]


_UNIT_OUTLINES: dict[str, Callable[[], list[Point]]] = {
    "circle": lambda: _regular(72, 0.0),
    "ring": lambda: _regular(72, 0.0),
    "square": lambda: [(0.86 * x, 0.86 * y) for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1))],
    "triangle": lambda: [(0.0, -1.0), (1.0, 0.82), (-1.0, 0.82)],
    "diamond": lambda: [(0.0, -1.0), (0.72, 0.0), (0.0, 1.0), (-0.72, 0.0)],
    "cross": _cross,
    "heart": _heart,
    "star": lambda: _regular(10, -math.pi / 2, 0.45),
}
RING_HOLE = 0.52


def _hole(shape: str, centre: Point, radius: float) -> list[Point] | None:
    return outline("ring", centre, radius * RING_HOLE) if shape == "ring" else None


def _scaled(points: Sequence[Point]) -> list[Point]:
    return [(x * _OVERSAMPLING, y * _OVERSAMPLING) for x, y in points]


def _mask(points: Sequence[Point], *, hole: Sequence[Point] | None) -> NDArray[np.float32]:
    image = Image.new("L", (SIDE * _OVERSAMPLING, SIDE * _OVERSAMPLING))
    brush = ImageDraw.Draw(image)
    brush.polygon(_scaled(points), fill=255)
    if hole:
        brush.polygon(_scaled(hole), fill=0)
    return _reduced(image)


def _line(points: list[Point], shape: str, centre: Point, radius: float) -> NDArray[np.float32]:
    image = Image.new("L", (SIDE * _OVERSAMPLING, SIDE * _OVERSAMPLING))
    brush = ImageDraw.Draw(image)
    hole = _hole(shape, centre, radius)
    for path in (points, hole) if hole else (points,):
        closed = _scaled([*path, path[0], path[1]])
        brush.line(closed, fill=255, width=round(2.6 * _OVERSAMPLING), joint="curve")
    return _reduced(image)


def _reduced(image: Image.Image) -> NDArray[np.float32]:
    return np.asarray(image.reduce(_OVERSAMPLING), np.float32) / np.float32(255.0)


def _band(centre: float, half: float) -> NDArray[np.float32]:
    """How much of each row lies in a horizontal stripe, (128,)."""
    rows = np.arange(SIDE, dtype=np.float32) + np.float32(0.5)
    band: NDArray[np.float32] = np.clip(half + 0.5 - np.abs(rows - np.float32(centre)), 0.0, 1.0).astype(np.float32)
    return band


def _light(angle: float, strength: float) -> NDArray[np.float32]:
    """A linear fall of light across the picture, (128, 128, 1), from 1 + strength / 2 to 1 - strength."""
    steps = (np.arange(SIDE, dtype=np.float32) + np.float32(0.5)) / np.float32(SIDE / 2) - np.float32(1.0)
    slope = (np.float32(math.cos(angle)) * steps[None, :] + np.float32(math.sin(angle)) * steps[:, None]) / np.float32(
        math.sqrt(2)
    )
    light: NDArray[np.float32] = (1.0 - 0.25 * strength + 0.75 * strength * slope)[:, :, None].astype(np.float32)
    return light


def _shadow(mask: NDArray[np.float32], offset: Point) -> NDArray[np.float32]:
    image = Image.fromarray(np.rint(mask * 255).astype(np.uint8))
    moved = image.transform(
        image.size, Image.Transform.AFFINE, (1, 0, -offset[0], 0, 1, -offset[1]), Image.Resampling.BILINEAR
    )
    return np.asarray(moved.filter(ImageFilter.GaussianBlur(3.0)), np.float32) / np.float32(255.0)


def _any_colour(rng: random.Random) -> Colour:
    return (rng.randrange(256), rng.randrange(256), rng.randrange(256))
