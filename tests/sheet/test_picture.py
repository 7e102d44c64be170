"""The sheet as a PNG and as a page: where things stand, what they say, the same bytes, and no hostile name at work."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from lorakit.sheet.cells import Cell
from lorakit.sheet.page import page
from lorakit.sheet.picture import compose, with_text
from lorakit.sheet.prompts import Prompt
from tests.sheet.made import grid_of, source

HOSTILE = '<script>alert(1)</script>" onload="x\' --> ]]> </style> \u202e\ud800'


def colour(cell: Cell) -> tuple[int, int, int]:
    return (255, 0, 0) if cell.lora is None else (0, 120 + 30 * (cell.lora.path.stem[-1] == "1"), cell.seed * 50)


def painted(cell: Cell) -> Image.Image:
    return Image.new("RGB", (cell.width, cell.height), colour(cell))


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def blocks(picture: Image.Image) -> dict[tuple[int, int, int], int]:
    """How many pixels each colour has."""
    found = picture.convert("RGB").getcolors(1 << 24)
    assert found is not None
    return {tone: count for count, tone in found if isinstance(tone, tuple)}  # type: ignore[misc]


def test_every_cell_is_on_the_sheet_at_its_size() -> None:
    grid = grid_of(y="epoch=1,2", x="seed=1,2")
    found = blocks(opened(compose(grid, painted, title="zorp", text={}, side=96)))
    assert found[255, 0, 0] == 2 * 64 * 96
    for tone in {colour(cell) for cell in grid if cell.lora}:
        assert found[tone] == 64 * 96


def test_a_sub_grid_for_each_z_below_the_other() -> None:
    one = opened(compose(grid_of(y="epoch=1,2", x="seed=1,2"), painted, title="t", text={}))
    two = opened(compose(grid_of(y="epoch=1,2", x="seed=1,2", z="cfg=1,2"), painted, title="t", text={}))
    assert two.width == one.width
    assert two.height > 1.8 * one.height


def test_sizes_of_prompts_may_differ_and_places_may_be_empty() -> None:
    wide = (Prompt("wide", width=128, height=64), Prompt("high", width=64, height=128))
    grid = grid_of(source("a", (1,)), source("b", (2,)), x="epoch", z="prompt", prompts=wide, base_row=False)
    assert [cell is None for plane in grid.cells for row in plane for cell in row] == [False, True, True, False] * 2
    picture = opened(compose(grid, painted, title="t", text={}, side=128))
    assert blocks(picture)[240, 241, 244] > 2 * 128 * 128  # the grounds of empty places


def test_small_pictures_are_shown_larger_and_large_ones_smaller() -> None:
    small = opened(compose(grid_of(size=(64, 64)), painted, title="t", text={}))
    large = opened(compose(grid_of(size=(1024, 1024), y="epoch=1"), painted, title="t", text={}))
    assert blocks(small)[255, 0, 0] == 128 * 128
    assert blocks(large)[255, 0, 0] == 640 * 640


def test_the_same_cells_give_the_same_bytes_and_the_words_are_in_it() -> None:
    grid = grid_of(x="seed=1,2")
    text = {"parameters": "a zorp\nSteps: 4", "lorakit": "日本 \0 “x”"}
    data = compose(grid, painted, title="zorp", text=text)
    assert data == compose(grid, painted, title="zorp", text=text)
    assert data != compose(grid, painted, title="zorb", text=text)
    assert opened(data).text == {"parameters": "a zorp\nSteps: 4", "lorakit": "日本  “x”"}  # type: ignore[attr-defined]
    assert with_text(painted(next(iter(grid))), {"a": "b"}).startswith(b"\x89PNG")


@pytest.mark.parametrize("label", [HOSTILE, "x" * 500, "日本語 のラベル", "", "\n\t\x1b[2J", "word " * 200])
def test_any_label_fits(label: str) -> None:
    grid = grid_of(prompts=(label or " ", "b"), y="epoch=1")
    picture = opened(compose(grid, painted, title=label, text={"parameters": label}))
    assert picture.width < 1200
    assert picture.height < 1200


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_page_shows_every_place_and_loads_nothing() -> None:
    grid = grid_of(y="epoch=1,2", x="seed=1,2", z="cfg=1,2")
    made = page(grid, painted, lambda cell: f"seed {cell.seed}", title="zorp")
    tags = Tags()
    tags.feed(made)
    pictures = [attrs for tag, attrs in tags.found if tag == "img" and attrs.get("src")]
    assert len(pictures) == 12
    assert {attrs["data-text"] for attrs in pictures} == {"seed 1", "seed 2"}
    assert sum("data-base" in attrs for attrs in pictures) == 4
    assert pictures[0]["alt"] == "CFG 1 · base model · seed 1"
    assert all(attrs["src"] is not None and attrs["src"].startswith("data:image/png;base64,") for attrs in pictures)
    assert "default-src 'none'" in made
    assert not re.search(r"https?:|//[a-z]", made)
    assert made == page(grid, painted, lambda cell: f"seed {cell.seed}", title="zorp")


def test_hostile_words_stay_words() -> None:
    grid = grid_of(prompts=(HOSTILE, "b"), y="epoch=1")
    made = page(grid, painted, lambda _: HOSTILE, title=HOSTILE)
    tags = Tags()
    tags.feed(made)
    assert [tag for tag, _ in tags.found].count("script") == 1
    assert not any(name.startswith("on") for _, attrs in tags.found for name in attrs)
    made.encode("utf-8")


def test_large_pictures_are_webp() -> None:
    noise = Image.effect_noise((256, 256), 80).convert("RGB")
    assert "data:image/webp;base64," in page(grid_of(y="epoch=1"), lambda _: noise, lambda _: "", title="t")
