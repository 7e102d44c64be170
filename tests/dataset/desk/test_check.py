"""A check of a folder: every finding, the memory, the page."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lorakit.dataset.blueprint import DatasetDefaults
from lorakit.dataset.desk.check import Counter, blueprint_of, check, with_thumbnails
from lorakit.dataset.desk.page import html_page
from lorakit.dataset.desk.pictures import Memory, Picture, look, look_at
from lorakit.dataset.desk.report import Report
from lorakit.errors import DatasetError
from tests.dataset.desk.made import caption, scene

DEFAULTS = DatasetDefaults(
    resolution=(128, 128), enable_bucket=True, min_bucket_reso=64, max_bucket_reso=256, bucket_reso_steps=32, caption_extension=".txt",
)  # fmt: skip
WORDS = Counter(lambda text: len(text.replace(",", " ").split()), "words")


def checked(folder: Path, memory: Path | None = None, **more: object) -> Report:
    kept = Memory(memory or folder.parent / "memory.json")
    return check(folder, blueprint_of(folder, DEFAULTS), kept, WORDS, max_token_length=more.get("length", 75))  # type: ignore[arg-type]


def finding(report: Report, code: str) -> tuple[str, list[str]]:
    found = next(one for one in report.findings if one.code == code)
    return found.level, sorted(path.name for path in found.files)


def codes(report: Report) -> set[str]:
    return {one.code for one in report.findings}


@pytest.fixture(scope="module")
def messy(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """One folder with everything that can be odd, and one that is small."""
    folder = tmp_path_factory.mktemp("messy") / "set"
    one, two = folder / "2_one", folder / "10_two"
    scene(one / "a.png", 1, text="zorp, red star, red_star, a, a")
    (one / "same.png").write_bytes((one / "a.png").read_bytes())
    caption(one / "same.png", "zorp, red star")
    scene(one / "smaller.jpg", 1, (140, 140), text="zorp, red star")
    scene(one / "tiny.png", 2, (40, 40), text="zorp, " + ", ".join(f"word{n}" for n in range(90)))
    scene(one / "long.png", 3, (600, 150), text="\ufeffzorp, b")
    scene(one / "clear.png", 4, mode="RGBA", text="zorp\nsecond line")
    scene(one / "none.webp", 5)
    scene(one / "blank.png", 6, text="\n")
    levels = np.full((160, 160), 255, np.uint8)
    levels[:40] = 0
    image = Image.open(one / "clear.png")
    image.putalpha(Image.fromarray(levels))
    image.save(one / "clear.png")
    exif = Image.Exif()
    exif[274] = 6
    Image.open(scene(one / "turned.jpg", 7, (200, 130), text="zorp, c")).save(one / "turned.jpg", exif=exif)
    caption(one / "nobody.png", "stray")
    scene(two / "empty.png", 8, text="")
    scene(two / "latin.png", 9, text="x").with_suffix(".txt").write_bytes("caf\xe9".encode("latin-1"))
    (two / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\nnot")
    scene(two / "odd.Png", 10)
    return checked(folder)


def test_what_stops_the_trainer_is_all_named(messy: Report) -> None:
    stops = next(one for one in messy.findings if one.code == "stops")
    assert stops.level == "fail"
    assert len(stops.details) == 3
    for name in ("empty.txt", "latin.txt", "torn.png"):
        assert any(name in detail for detail in stops.details)


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("same-file", ["a.png", "same.png"]), ("too-small", ["tiny.png"]), ("extreme-ratio", ["long.png"]), ("alpha", ["clear.png"]),
        ("exif-rotation", ["turned.jpg"]), ("no-caption", ["none.webp"]), ("empty-caption", ["blank.png"]),
        ("same-caption", ["same.png", "smaller.jpg"]), ("caption-text", ["long.txt"]), ("more-lines", ["clear.txt"]),
        ("stray-caption", ["nobody.txt"]), ("too-long", ["tiny.png"]), ("look-alike", ["a.png", "smaller.jpg"]),
    ],
)  # fmt: skip
def test_each_finding_names_its_files(messy: Report, code: str, names: list[str]) -> None:
    assert finding(messy, code)[1] == names


def test_tags_and_spellings(messy: Report) -> None:
    assert messy.tags.repeated == (("a", 1),)
    assert [tag for tag, _ in messy.spellings[0].ways] == ["red star", "red_star"]
    assert {"repeated-tag", "spellings", "skipped"} <= codes(messy)
    assert dict(messy.tags.counts)["zorp"] == 7


def test_the_cut_words_are_shown(messy: Report) -> None:
    ((path, cut),) = messy.tokens.cuts
    assert path.name == "tiny.png"
    assert (cut.tokens, cut.lost.split(", ")[-1]) == (91, "word89")
    assert messy.tokens.by_length["150"] == 1


def test_repeats_that_balance_the_folders(messy: Report) -> None:
    assert [(one.path.name, one.images, one.repeats, one.balanced) for one in messy.folders] == [
        ("10_two", 2, 10, 4),
        ("2_one", 9, 2, 1),
    ]


def test_json_is_plain_and_whole(messy: Report) -> None:
    table = json.loads(json.dumps(messy.to_json()))
    assert len(table["images"]) == 11
    assert {image["exif_orientation"] for image in table["images"]} == {1, 6}
    assert next(image for image in table["images"] if image["path"].endswith("clear.png"))["alpha"] == 0.25


def test_a_clean_folder_has_no_findings(tmp_path: Path) -> None:
    for number in range(3):
        scene(tmp_path / "set/1_x" / f"{number}.png", number, (128, 128), text=f"zorp, thing {number}")
    report = checked(tmp_path / "set")
    assert codes(report) == set()
    assert [tag for tag, _ in report.tags.everywhere] == ["zorp"]


@pytest.mark.parametrize("name", ["4_zorp", "loose"])
def test_a_folder_of_pictures_itself_is_checked(tmp_path: Path, name: str) -> None:
    scene(tmp_path / name / "a.png", text="x")
    (item,) = checked(tmp_path / name).items
    assert item.repeats == (4 if name == "4_zorp" else 1)


def test_a_dataset_configuration_is_checked(tmp_path: Path) -> None:
    scene(tmp_path / "pictures/a.png", text="x")
    config = tmp_path / "set.toml"
    config.write_text(
        f'[[datasets]]\n[[datasets.subsets]]\nimage_dir = "{tmp_path / "pictures"}"\nnum_repeats = 3\n',
        encoding="utf-8",
    )
    assert checked(config).items[0].repeats == 3


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="cannot be read"):
        blueprint_of(tmp_path / "none", DEFAULTS)


def test_without_a_vocabulary_nothing_is_counted_and_it_says_so(tmp_path: Path) -> None:
    scene(tmp_path / "a.png", text="x " * 200)
    report = check(
        tmp_path, blueprint_of(tmp_path, DEFAULTS), Memory(tmp_path / "m.json"), Counter(None, why_not="no vocabulary")
    )
    assert report.tokens.why_not == "no vocabulary"
    assert "too-long" not in codes(report)
    assert "no vocabulary" in html_page(report)


def test_a_prefix_of_the_preset_counts(tmp_path: Path) -> None:
    scene(tmp_path / "a.png", text="x")
    defaults = DatasetDefaults(
        resolution=(128, 128), caption_extension=".txt", caption_prefix="one two three", shuffle_caption=True
    )
    report = check(tmp_path, blueprint_of(tmp_path, defaults), Memory(tmp_path / "m.json"), WORDS)
    assert (report.items[0].text, report.items[0].tokens) == ("one two three x", 4)


def test_what_was_seen_is_not_looked_at_twice_unless_it_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = scene(tmp_path / "a.png", 1), scene(tmp_path / "b.jpg", 2)
    memory = Memory(tmp_path / "m.json")
    before = look_at([first, second], memory)
    memory.write([first, second])
    calls: list[str] = []

    def counted(path: Path, *, whole: bool) -> Picture:
        calls.append(path.name)
        return look(path, whole=whole)

    monkeypatch.setattr("lorakit.dataset.desk.pictures.look", counted)
    assert look_at([first, second], Memory(tmp_path / "m.json")) == before
    assert calls == []
    scene(first, 3, (170, 170))
    assert look_at([first, second], Memory(tmp_path / "m.json"))[first] != before[first]
    assert calls == ["a.png"]
    assert look_at([second], Memory(tmp_path / "m.json"), whole=True)[second].thumbnail


@pytest.mark.parametrize("junk", [b"", b"{", b"[]", b'{"version": 2}', b'{"version": 2, "pictures": {"x": 3}}'])
def test_a_torn_memory_is_forgotten(tmp_path: Path, junk: bytes) -> None:
    picture = scene(tmp_path / "a.png", 1)
    (tmp_path / "m.json").write_bytes(junk.replace(b'"x"', json.dumps(str(picture)).encode()))
    assert look_at([picture], Memory(tmp_path / "m.json"))[picture].top


def test_a_memory_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    picture = scene(tmp_path / "a.png", 1)
    (tmp_path / "file").write_bytes(b"")
    memory = Memory(tmp_path / "file" / "m.json")
    look_at([picture], memory)
    memory.write([picture])
    assert memory.fault


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_part_of_a_picture_tells_the_same_as_the_whole(tmp_path: Path, suffix: str, mode: str) -> None:
    picture = scene(tmp_path / f"a{suffix}", 1, (700, 500), mode=mode)
    part, whole = look(picture, whole=False), look(picture, whole=True)
    assert (int(part.top, 16) ^ int(whole.top, 16)).bit_count() <= 6
    assert not part.thumbnail
    assert whole.thumbnail


@pytest.mark.parametrize("mode", ["P", "1", "LA"])
def test_pngs_of_other_kinds_are_read(tmp_path: Path, mode: str) -> None:
    Image.open(scene(tmp_path / "a.png", 1, (400, 400))).convert(mode).save(tmp_path / "b.png")
    assert not look(tmp_path / "b.png", whole=False).fault


def test_flat_pictures_of_other_colours_are_not_alike(tmp_path: Path) -> None:
    for number, colour in enumerate(("white", "black", "white")):
        path = tmp_path / "set/1_x" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (128, 128 + 32 * number), colour).save(path)
        caption(path, f"c{number}")
    assert finding(checked(tmp_path / "set"), "look-alike")[1] == ["0.png", "2.png"]


class Page(HTMLParser):
    """Refuses a page that loads anything, and keeps its text."""

    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []
        self.pictures = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        assert tag not in {"link", "iframe", "object", "base", "form"}
        assert not [name for name in named if name.startswith("on")]
        if tag == "img":
            self.pictures += 1
            assert str(named["src"]).startswith("data:image/jpeg;base64,")
        assert "src" not in named or tag == "img"

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_is_self_contained_and_escaped(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>, \"onload='x'"
    for number in range(3):
        scene(tmp_path / "1_<b>set" / f"pic&{number}'.png", number, text=f"{hostile}, {number}")
    kept = Memory(tmp_path / "m.json")
    report = with_thumbnails(checked(tmp_path), kept, 2)
    page = Page()
    text = html_page(report)
    page.feed(text)
    assert page.pictures == 2
    assert "<script>alert" not in text
    assert "<script>alert(1)</script>" in "".join(page.text)
    assert "prefers-color-scheme:dark" in text
    assert "http://" not in text
    assert "https://" not in text
