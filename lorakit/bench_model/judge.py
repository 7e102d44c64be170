"""A judge of pictures of the world of coloured shapes: finds the object by its pixels and says what it is."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from lorakit.bench_model.world import (
    BACKGROUNDS,
    COLOURS,
    POSITIONS,
    PURPLE,
    RING_HOLE,
    SHAPES,
    SIDE,
    SIZES,
    Scene,
    outline,
    reach,
)

__all__ = ["ATTRIBUTES", "Verdict", "judge", "right", "to_lab"]

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

_GRID = 48
_UNIT = 14.0  # pixels of a template's grid that stand for the square root of its area / 2
_MIN_AREA = 150  # pixels; the smallest object of the world has about 600
_LEAST = 9.0  # smallest difference of an object from its background that counts, in the units of _distance
_NAMES = (*SHAPES, "star")
_PAINTS = {**COLOURS, "purple": PURPLE}
#: Light and shadow change L* more than hue, so differences of L* count half.
_WEIGHTS = np.array([0.5, 1.0, 1.0])


@dataclass(frozen=True)
class Verdict:
    """What a picture seems to show; ``shape`` and the rest of the object are None when there is no object.

    ``likeness`` is the overlap (intersection over union, 0 … 1) with each shape, brought to the same place and area.
    """

    background: str
    shape: str | None = None
    colour: str | None = None
    size: str | None = None
    position: str | None = None
    style: str | None = None
    stripe: str | None = None
    likeness: tuple[tuple[str, float], ...] = ()

    def overlap(self, shape: str) -> float:
        """Likeness to one shape; 0 when there is no object."""
        return dict(self.likeness).get(shape, 0.0)


ATTRIBUTES = ("shape", "colour", "background", "size", "position", "style", "stripe")


def right(verdict: Verdict, scene: Scene) -> dict[str, bool]:
    """For each attribute, whether the picture shows what the scene says."""
    return {name: getattr(verdict, name) == getattr(scene, name) for name in ATTRIBUTES}


def judge(pixels: Pixels) -> Verdict:
    """Judge one picture, (128, 128, 3) uint8."""
    lab = to_lab(pixels)
    ground = _fit_ground(lab)
    background = _nearest(np.median(ground.reshape(-1, 3), axis=0), BACKGROUNDS)
    mask = _largest(_closed(_object_pixels(lab, ground)))
    if mask.any():  # the edge of a soft object is where it is halfway to the background, not where it begins to differ
        mask = _largest(_closed(_object_pixels(lab, ground, least=_halfway(lab, ground, mask))))
    area = float(mask.sum())
    if area < _MIN_AREA:
        return Verdict(background)
    likeness = _likeness(mask)
    shape = max(likeness, key=likeness.__getitem__)
    if shape == "circle" and _has_hole(lab, ground, _middle(mask), math.sqrt(area / _facts("circle").area)):
        shape = "ring"  # with a hole so small, or so blurred, that the outline alone looks like a circle
    style = "drawing" if _is_drawing(lab, mask, ground) else "photo"
    inner = _eroded(mask, 4 if style == "drawing" else 2)
    if inner.sum() < 30:
        inner = mask
    template = _facts(shape)
    radius = math.sqrt(area / template.area)
    if style == "drawing":  # the ink stands half outside the shape
        radius -= 1.0
    middle = _middle(mask)
    centre = (middle[0] - radius * template.centroid[0], middle[1] - radius * template.centroid[1])
    colour, stripe = _paint(lab, inner, centre[1], radius)
    size = min(SIZES, key=lambda name: abs(math.log(SIZES[name] / max(radius, 1.0))))
    return Verdict(
        background, shape, colour, size, _position(centre, SIZES[size]), style, stripe, tuple(likeness.items())
    )


def _middle(mask: Mask) -> tuple[float, float]:
    """The centroid, (x, y) in pixels."""
    y, x = np.nonzero(mask)
    return float(x.mean()) + 0.5, float(y.mean()) + 0.5


def to_lab(rgb: NDArray[np.uint8] | Floats) -> Floats:
    """From sRGB (…, 3), 0 … 255, to CIE L*a*b* under D65 (IEC 61966-2-1, CIE 15)."""
    value = np.asarray(rgb, np.float64) / 255.0
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    matrix = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ matrix.T / np.array([0.9505, 1.0, 1.089])
    root = np.where(xyz > 216 / 24389, np.cbrt(np.maximum(xyz, 1e-9)), (24389 / 27 * xyz + 16) / 116)
    x, y, z = root[..., 0], root[..., 1], root[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def _distance(one: Floats, other: Floats) -> Floats:
    return np.asarray(np.linalg.norm((one - other) * _WEIGHTS, axis=-1))


def _nearest(colour: Floats, names: dict[str, tuple[int, int, int]]) -> str:
    return min(names, key=lambda name: float(_distance(to_lab(np.array(names[name], np.float64)), colour)))


def _fit_ground(lab: Floats) -> Floats:
    """The background (128, 128, 3): a plane through the border's pixels, without what stands out from it."""
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    grid = np.stack([np.ones((SIDE, SIDE)), x / SIDE - 0.5, y / SIDE - 0.5], axis=-1)
    border = (np.minimum(x, y) < 5) | (np.maximum(x, y) >= SIDE - 5)
    values, places = lab[border], grid[border]
    keep = _distance(values, np.median(values, axis=0)) < 18
    plane = np.zeros((3, 3))
    for _ in range(3):
        if keep.sum() < 100:
            keep[:] = True
        plane = np.linalg.lstsq(places[keep], values[keep], rcond=None)[0]
        keep = _distance(values, places @ plane) < 6
    return np.asarray(grid @ plane)


def _halfway(lab: Floats, ground: Floats, mask: Mask) -> float:
    return float(np.clip(0.4 * np.quantile(_distance(lab, ground)[mask], 0.3), _LEAST, 20.0))


def _object_pixels(lab: Floats, ground: Floats, *, least: float = _LEAST) -> Mask:
    """Pixels that are neither background nor its shadow: a shadow is the background, darker and paler by the same part."""
    light = lab[..., :1] / np.maximum(ground[..., :1], 1.0)
    shadow = ground * np.clip(light, 0.66, 1.0)
    return np.asarray(np.minimum(_distance(lab, ground), _distance(lab, shadow)) > least)


def _largest(mask: Mask) -> Mask:
    """The largest group of pixels that touch, by flood filling."""
    image = Image.fromarray(mask.astype(np.uint8) * 255)
    best, size = np.zeros_like(mask), 0
    left = mask.copy()
    while left.sum() > size:
        y, x = (int(side[0]) for side in np.nonzero(left))
        ImageDraw.floodfill(image, (x, y), 128)
        group = np.asarray(image) == 128
        image.paste(0, mask=Image.fromarray(group))
        left &= ~group
        if group.sum() > size:
            best, size = group, int(group.sum())
    return best


def _closed(mask: Mask) -> Mask:
    """The mask with gaps of one or two pixels filled: where two paints meet, their mixture may look like the ground."""
    padded = np.pad(mask, 1)
    wider = mask | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
    return mask | _eroded(wider, 1)


def _eroded(mask: Mask, times: int) -> Mask:
    for _ in range(times):
        padded = np.pad(mask, 1)
        mask = padded[1:-1, 1:-1] & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask


def _is_drawing(lab: Floats, mask: Mask, ground: Floats) -> bool:
    """Drawings have an even background, photos a fall of light; on black, where it is hard to see, ink tells too."""
    light = ground[..., 0]
    fall = max(abs(light[0, 0] - light[-1, -1]), abs(light[0, -1] - light[-1, 0]))
    if float(np.median(light)) > 20:
        return bool(fall < 2.0)
    return bool(fall < 0.9) and _pale_edge(lab, mask)


def _pale_edge(lab: Floats, mask: Mask) -> bool:
    """Whether the edge is paler than the inside, as white ink makes it; true of white objects."""
    band, inside = mask & ~_eroded(mask, 3), _eroded(mask, 4)
    if inside.sum() < 20:
        inside = mask
    edge, core = (
        float(np.median(np.hypot(part[:, 1], part[:, 2]) / (part[:, 0] + 5))) for part in (lab[band], lab[inside])
    )
    return core < 0.12 or edge < 0.75 * core


def _has_hole(lab: Floats, ground: Floats, centre: tuple[float, float], radius: float) -> bool:
    """Whether the middle looks like the background rather than like what is left and right of it (a stripe does)."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] + 0.5
    across, down = np.abs(x - centre[0]) / radius, np.abs(y - centre[1]) / radius
    middle = (across < 0.2) & (down < 0.2)
    sides = (np.abs(across - 0.76) < 0.12) & (down < 0.2)
    if not middle.any() or not sides.any():
        return False
    seen = np.median(lab[middle], axis=0)
    behind, beside = np.median(ground[middle], axis=0), np.median(lab[sides], axis=0)
    return float(_distance(seen, behind)) < float(_distance(seen, beside))


def _paint(lab: Floats, inner: Mask, middle: float, radius: float) -> tuple[str, str | None]:
    """Colour of the object, and of a horizontal stripe across its middle if there is one."""
    rows = np.arange(SIDE) + 0.5
    offset = np.abs(rows - middle)
    away = inner & (offset > 0.28 * radius)[:, None]
    within = inner & (offset < 0.13 * radius)[:, None]
    body = np.median(lab[away if away.sum() > 15 else inner], axis=0)
    if within.sum() < 6:
        return _nearest(body, _PAINTS), None
    band = np.median(lab[within], axis=0)
    colour, stripe = _nearest(body, _PAINTS), _nearest(band, _PAINTS)
    if stripe == colour or float(_distance(body, band)) < 14:
        return colour, None
    return colour, stripe


def _position(centre: tuple[float, float], radius: float) -> str:
    """The place whose middle is nearest, for an object of the given radius."""
    offset = (centre[0] - SIDE / 2, centre[1] - SIDE / 2)
    way = reach(radius)
    return min(POSITIONS, key=lambda name: math.dist(offset, [way * step for step in POSITIONS[name]]))


@dataclass(frozen=True)
class _Facts:
    """Area and centroid of a shape with radius 1 about the origin, and its likenesses at several tilts."""

    area: float
    centroid: tuple[float, float]
    templates: tuple[Floats, ...]


@functools.cache
def _facts(shape: str) -> _Facts:
    side = 400
    masks = [_template_mask(shape, turn, side) for turn in (-0.1, 0.0, 0.1)]
    y, x = np.nonzero(masks[1])
    radius = side * 0.4
    centroid = ((float(x.mean()) + 0.5 - side / 2) / radius, (float(y.mean()) + 0.5 - side / 2) / radius)
    return _Facts(len(x) / radius**2, centroid, tuple(_normalised(mask) for mask in masks))


def _template_mask(shape: str, turn: float, side: int) -> Mask:
    image = Image.new("L", (side, side))
    brush = ImageDraw.Draw(image)
    brush.polygon(outline(shape, (side / 2, side / 2), side * 0.4, turn), fill=255)
    if shape == "ring":
        brush.polygon(outline("ring", (side / 2, side / 2), side * 0.4 * RING_HOLE), fill=0)
    return np.asarray(image) > 127


def _normalised(mask: Mask) -> Floats:
    """The mask brought to a common centroid and area, (48, 48), 0 … 1."""
    y, x = np.nonzero(mask)
    scale = math.sqrt(len(x)) / (2 * _UNIT)  # source pixels per grid pixel
    centre = (float(x.mean()) + 0.5, float(y.mean()) + 0.5)
    start = [middle - scale * _GRID / 2 for middle in centre]
    image = Image.fromarray(mask.astype(np.uint8) * 255)
    moved = image.transform(
        (_GRID, _GRID), Image.Transform.AFFINE, (scale, 0, start[0], 0, scale, start[1]), Image.Resampling.BILINEAR
    )
    return np.asarray(moved, np.float64) / 255.0


def _likeness(mask: Mask) -> dict[str, float]:
    seen = _normalised(mask)
    return {
        name: max(
            float(np.minimum(seen, template).sum() / np.maximum(seen, template).sum())
            for template in _facts(name).templates
        )
        for name in _NAMES
    }
