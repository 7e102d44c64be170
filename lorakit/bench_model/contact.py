"""A contact sheet: rows of pictures of the bench model, with names at the left and prompts on top."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

__all__ = ["contact_sheet"]

_GAP = 4
_LEFT = 150
_TOP = 64
_INK = (40, 40, 40)


def contact_sheet(rows: Sequence[tuple[str, NDArray[np.uint8]]], prompts: Sequence[str]) -> bytes:
    """A PNG of ``rows``, each a name (with line breaks) and one picture (128, 128, 3) for each of ``prompts``."""
    height, width = rows[0][1].shape[1:3]
    size = (_LEFT + len(prompts) * (width + _GAP), _TOP + len(rows) * (height + _GAP))
    sheet = Image.new("RGB", size, (255, 255, 255))
    brush = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=11)
    for column, prompt in enumerate(prompts):
        text = "\n".join(textwrap.wrap(prompt, 23)[:4])
        brush.multiline_text((_LEFT + column * (width + _GAP), 4), text, fill=_INK, font=font, spacing=2)
    for row, (name, pictures) in enumerate(rows):
        top = _TOP + row * (height + _GAP)
        brush.multiline_text((6, top + 8), name, fill=_INK, font=font, spacing=4)
        for column, picture in enumerate(pictures[: len(prompts)]):
            sheet.paste(Image.fromarray(picture), (_LEFT + column * (width + _GAP), top))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
