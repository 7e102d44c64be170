"""A sheet as one PNG: labelled axes, a sub-grid for each value of Z, and what was drawn in its text chunk."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from lorakit.sheet.cells import Cell
from lorakit.sheet.layout import BASE, Grid

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

__all__ = ["compose", "with_text"]

#: Colours: paper, ink, quiet ink, the ground of a place without a picture, the line before a plane.
_PAPER: Final = (255, 255, 255)
_INK: Final = (28, 30, 36)
_QUIET: Final = (118, 122, 132)
_EMPTY: Final = (240, 241, 244)
_RULE: Final = (222, 224, 230)
_ACCENT: Final = (38, 92, 200)
#: Pictures smaller than this are shown at twice their size, larger than that are made smaller; pixels of the longer side.
_SMALL: Final = 192
_LARGE: Final = 640
_MARGIN: Final = 20
_GAP: Final = 6
#: Lines of a label at most; what does not fit ends in an ellipsis.
_LINES: Final = 5
#: Where other scripts than Latin are found; each is looked for where the system keeps its fonts.
_FONTS: Final = ("NotoSansCJK-Regular.ttc", "NotoSans-Regular.ttf", "DejaVuSans.ttf", "Arial Unicode.ttf")


@dataclass(frozen=True)
class _Sizes:
    """Sizes in pixels of the finished sheet."""

    widths: tuple[int, ...]
    heights: tuple[int, ...]
    left: int
    top: int
    font: int


def compose(
    grid: Grid,
    open_cell: Callable[[Cell], Image.Image],
    *,
    title: str,
    text: Mapping[str, str],
    side: int | None = None,
) -> bytes:
    """The PNG of a sheet. The same pictures and words give the same bytes.

    ``text`` goes into its text chunks. ``side`` is how long the longer side of the largest picture becomes; None shows small ones at
    twice their size and large ones smaller.
    """
    from PIL import Image, ImageDraw

    scale = _scale(grid, side)
    widths = [max((round(cell.width * scale) for cell in column if cell), default=64) for column in _columns(grid)]
    heights = [max((round(cell.height * scale) for cell in row if cell), default=64) for row in _rows(grid)]
    font_size = 11 if max(widths) < 150 else 13 if max(widths) < 300 else 16 if max(widths) < 520 else 20
    brush = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    font = _font(font_size, "".join((*grid.x, *grid.y, *grid.z)))
    left = _left(grid, brush, font, font_size, min(heights))
    top = _height(
        brush, font, [_wrapped(brush, label, font, width) for label, width in zip(grid.x, widths, strict=True)]
    )
    sizes = _Sizes(tuple(widths), tuple(heights), left, top, font_size)
    inner = left + sum(widths) + _GAP * (len(widths) - 1)
    head = _Heading(title, _facts(grid), inner)
    plane_head = round(font_size * 2.6) if len(grid.z) > 1 else 0
    plane = plane_head + top + sum(heights) + _GAP * (len(heights) - 1)
    total = head.height + len(grid.z) * plane + (len(grid.z) - 1) * 2 * _MARGIN
    sheet = Image.new("RGB", (inner + 2 * _MARGIN, total + 2 * _MARGIN), _PAPER)
    brush = ImageDraw.Draw(sheet)
    head.draw(brush, _MARGIN, _MARGIN)
    at = _MARGIN + head.height
    for label, cells in zip(grid.z, grid.cells, strict=True):
        if plane_head:
            bold = _font(round(font_size * 1.25), label)
            brush.line((_MARGIN, at, _MARGIN + inner, at), fill=_RULE, width=1)
            brush.text((_MARGIN, at + font_size // 2), label, fill=_ink(label, _INK), font=bold)
        corner = (_MARGIN, at + plane_head)
        _plane(sheet, font, corner, sizes, grid=grid, cells=cells, open_cell=open_cell, scale=scale)
        at += plane + 2 * _MARGIN
    return with_text(sheet, text)


def with_text(picture: Image.Image, text: Mapping[str, str]) -> bytes:
    """The picture as a PNG with text chunks (iTXt where Latin-1 does not do)."""
    from PIL.PngImagePlugin import PngInfo

    chunks = PngInfo()
    for key, value in text.items():
        # NUL ends a chunk's text and cannot stand in it.
        chunks.add_text(key, value.replace("\0", "").encode("utf-8", "replace").decode("utf-8"))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", pnginfo=chunks, optimize=True)
    return buffer.getvalue()


def _columns(grid: Grid) -> list[list[Cell | None]]:
    return [[row[at] for plane in grid.cells for row in plane] for at in range(len(grid.x))]


def _rows(grid: Grid) -> list[list[Cell | None]]:
    return [[cell for plane in grid.cells for cell in plane[at]] for at in range(len(grid.y))]


def _scale(grid: Grid, side: int | None) -> float:
    longest = max((max(cell.width, cell.height) for cell in grid), default=64)
    if side is not None:
        return side / longest
    return 2.0 if longest < _SMALL else min(1.0, _LARGE / longest)


def _facts(grid: Grid) -> str:
    names = {"negative": "negative prompt", "sampler": "", "size": "", "LoRA": "", "prompt": ""}
    found = []
    for name, value in grid.constants().items():
        word = names.get(name, name)
        found.append(
            f"“{value}”" if name == "prompt" else f"{value} steps" if name == "steps" else f"{word} {value}".strip()
        )
    return "   ·   ".join(found)


@dataclass(frozen=True)
class _Heading:
    """The title and, below it, what all pictures have in common."""

    title: str
    facts: str
    width: int

    @property
    def _blocks(self) -> list[tuple[list[str], Any, int, tuple[int, int, int]]]:
        from PIL import Image, ImageDraw

        brush = ImageDraw.Draw(Image.new("RGB", (1, 1)))
        found = []
        for text, size, ink in ((self.title, 20 if self.width > 420 else 15, _INK), (self.facts, 12, _QUIET)):
            if text:
                font = _font(size, text)
                found.append((_wrapped(brush, text, font, self.width), font, round(size * 1.4), ink))
        return found

    @property
    def height(self) -> int:
        """In pixels, with the room below."""
        return sum(len(lines) * step for lines, _, step, _ in self._blocks) + _MARGIN * 3 // 4

    def draw(self, brush: ImageDraw.ImageDraw, x: int, y: int) -> None:
        for lines, font, step, ink in self._blocks:
            for line in lines:
                brush.text((x, y), line, fill=ink, font=font)
                y += step


def _plane(
    sheet: Image.Image,
    font: Any,
    corner: tuple[int, int],
    sizes: _Sizes,
    *,
    grid: Grid,
    cells: Sequence[Sequence[Cell | None]],
    open_cell: Callable[[Cell], Image.Image],
    scale: float,
) -> None:
    """One sub-grid: labels above, labels at the left, pictures each in the middle of its place."""
    from PIL import Image, ImageDraw

    brush = ImageDraw.Draw(sheet)
    step = round(sizes.font * 1.3)
    x = corner[0] + sizes.left
    for label, width in zip(grid.x, sizes.widths, strict=True):
        lines = _wrapped(brush, label, font, width)
        y = corner[1] + sizes.top - len(lines) * step - 4
        for line in lines:
            brush.text((x + width / 2, y), line, fill=_ink(label, _INK), font=font, anchor="ma")
            y += step
        x += width + _GAP
    y = corner[1] + sizes.top
    for label, height, row in zip(grid.y, sizes.heights, cells, strict=True):
        lines = _wrapped(brush, label, font, sizes.left - 14) if label else []
        at = y + (height - len(lines) * step) // 2
        for line in lines:
            brush.text((corner[0] + sizes.left - 12, at), line, fill=_ink(label, _INK), font=font, anchor="ra")
            at += step
        x = corner[0] + sizes.left
        for cell, width in zip(row, sizes.widths, strict=True):
            if cell is None:
                brush.rectangle((x, y, x + width - 1, y + height - 1), fill=_EMPTY)
                brush.text((x + width / 2, y + height / 2), "none", fill=_QUIET, font=font, anchor="mm")
            else:
                picture = open_cell(cell).convert("RGB")
                size = (round(cell.width * scale), round(cell.height * scale))
                if picture.size != size:
                    picture = picture.resize(size, Image.Resampling.LANCZOS)
                sheet.paste(picture, (x + (width - size[0]) // 2, y + (height - size[1]) // 2))
            x += width + _GAP
        y += height + _GAP


def _ink(label: str, usual: tuple[int, int, int]) -> tuple[int, int, int]:
    return _ACCENT if label == BASE else usual


def _left(grid: Grid, brush: ImageDraw.ImageDraw, font: Any, font_size: int, lowest: int) -> int:
    """The width of the labels at the left: as narrow as keeps them on as many lines as a row is high."""
    if not any(grid.y):
        return 0
    most = max(1, min(_LINES, lowest // round(font_size * 1.3)))
    for width in range(font_size * 5, font_size * 18, font_size):
        if all(len(_folded(brush, label, font, width)) <= most for label in grid.y):
            longest = max(
                brush.textlength(line, font=font) for label in grid.y for line in _folded(brush, label, font, width)
            )
            return round(longest) + 16
    return font_size * 18 + 16


def _height(brush: ImageDraw.ImageDraw, font: Any, labels: Sequence[Sequence[str]]) -> int:
    del brush
    most = max((len(lines) for lines in labels if any(lines)), default=0)
    return round(font.size * 1.3) * most + 8 if most else 0


def _wrapped(brush: ImageDraw.ImageDraw, text: str, font: Any, width: float) -> list[str]:
    lines = _folded(brush, text, font, width)
    if len(lines) <= _LINES:
        return lines
    last = lines[_LINES - 1]
    while last and brush.textlength(f"{last}…", font=font) > width:
        last = last[:-1]
    return [*lines[: _LINES - 1], f"{last.rstrip(' ,')}…"]


def _folded(brush: ImageDraw.ImageDraw, text: str, font: Any, width: float) -> list[str]:
    """Text in lines of at most ``width`` pixels, broken between words, within one only where it does not fit alone."""
    lines: list[str] = []
    current = ""
    for word in "".join(char if char.isprintable() else " " for char in text).replace("×", "x").split():
        joined = f"{current} {word}".strip()
        if brush.textlength(joined, font=font) <= width:
            current = joined
            continue
        if current:
            lines.append(current)
        current = word
        while len(current) > 1 and brush.textlength(current, font=font) > width:
            cut = next(
                (at for at in range(len(current) - 1, 1, -1) if brush.textlength(current[:at], font=font) <= width), 1
            )
            lines.append(current[:cut])
            current = current[cut:]
    return [*lines, current] if current or not lines else lines


def _font(size: int, text: str) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font, the same everywhere; another where it has no letters for the text and the system has some."""
    from PIL import ImageFont

    own = ImageFont.load_default(size=size)
    # Sign by sign: what is printed on the sheet for × is x.
    strange = {char for char in text if not char.isascii()} - {"×"}
    if strange:
        nothing = _drawn(own, "\uffff")
        if any(_drawn(own, char) == nothing for char in strange):
            for name in _FONTS:
                try:
                    return ImageFont.truetype(name, size)
                except OSError:
                    continue
    return own


def _drawn(font: Any, char: str) -> bytes:
    return bytes(font.getmask(char))
