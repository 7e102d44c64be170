"""Sizes from headers, caption files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lorakit.dataset.files import (
    UnreadableImage,
    caption_candidates,
    image_size,
    is_image_name,
    read_caption,
    why_not_an_image,
)


@pytest.mark.parametrize("suffix", ["png", "jpg", "jpeg", "webp", "bmp", "PNG", "JPG", "JPEG", "WEBP", "BMP"])
def test_names_that_the_trainer_takes(suffix: str) -> None:
    assert is_image_name(f"a b.{suffix}")
    assert not is_image_name(f".a.{suffix}")


@pytest.mark.parametrize("name", ["a.Png", "a.jPG", "a.gif", "a.tif", "a", "png", ".png", "a.png.txt"])
def test_names_that_it_does_not(name: str) -> None:
    assert not is_image_name(name)


def test_reasons() -> None:
    assert "lower case or all upper case" in str(why_not_an_image("a.Jpg"))
    assert "does not read this format" in str(why_not_an_image("a.gif"))
    assert "hidden" in str(why_not_an_image("._a.png"))
    assert why_not_an_image("a.txt") is None


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.png", {}),
        ("a.jpg", {}),
        ("a.jpg", {"progressive": True, "comment": b"x" * 70_000}),
        ("a.webp", {}),
        ("a.webp", {"lossless": True}),
        ("a.webp", {"exif": b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00"}),
        ("a.bmp", {}),
    ],
)
@pytest.mark.parametrize("size", [(1, 1), (3, 200), (257, 31), (1000, 17)])
def test_size_is_pillows(
    tmp_path: Path, name: str, options: dict[str, Any], size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name
    options = {k: v[:60_000] if isinstance(v, bytes) else v for k, v in options.items()}
    Image.new("RGB", size, (9, 9, 9)).save(path, **options)

    def decode(*_: object) -> None:
        raise AssertionError("a healthy image was decoded")

    monkeypatch.setattr("lorakit.dataset.files._size_by_pillow", decode)
    assert image_size(str(path)) == size


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_other_modes(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (40, 30)).save(tmp_path / "a.png")
    assert image_size(str(tmp_path / "a.png")) == (40, 30)


def test_exif_orientation_is_not_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg", exif=exif)
    assert image_size(str(tmp_path / "a.jpg")) == (40, 30)


def test_format_is_told_by_content_not_by_suffix(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png", format="JPEG")
    assert image_size(str(tmp_path / "a.png")) == (40, 30)
    Image.new("RGB", (40, 30)).save(tmp_path / "b.png", format="GIF")
    assert image_size(str(tmp_path / "b.png")) == (40, 30)


def test_something_behind_the_end_is_no_harm(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "a.webp", "a.bmp"):
        path = tmp_path / name
        Image.new("RGB", (40, 30)).save(path)
        path.write_bytes(path.read_bytes() + b"trailing bytes of a camera")
        assert image_size(str(path)) == (40, 30)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.bmp"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.95])
def test_a_cut_off_file_is_unreadable(tmp_path: Path, name: str, share: float) -> None:
    path = tmp_path / name
    Image.effect_noise((90, 70), 80).convert("RGB").save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(UnreadableImage):
        image_size(str(path))


def test_a_folder_or_missing_file_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage):
        image_size(str(tmp_path))
    with pytest.raises(UnreadableImage, match="No such file"):
        image_size(str(tmp_path / "no.png"))


@given(st.binary(max_size=80), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF", b"BM", b"GIF89a"]))
def test_any_bytes_give_a_size_or_the_error(
    tmp_path_factory: pytest.TempPathFactory, tail: bytes, start: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.png"
    path.write_bytes(start + tail)
    try:
        width, height = image_size(str(path))
    except UnreadableImage:
        return
    with Image.open(io.BytesIO(start + tail)) as image:
        assert image.size == (width, height)


def test_caption_candidates() -> None:
    assert caption_candidates("/data/a", "txt") == ("/data/a.txt",)
    assert caption_candidates("/data/a_10_20_30_40", ".txt") == ("/data/a_10_20_30_40.txt", "/data/a.txt")
    # Underscores of the folders count as well.
    assert caption_candidates("/1_a_b_c/d_e", ".cap") == ("/1_a_b_c/d_e.cap", "/1.cap")


@pytest.mark.parametrize(
    ("data", "first", "every"),
    [
        (b"a, b\nc", "a, b", "a, b\nc"),
        (b"  a \r\n\r\n b \r\n", "a", "a\nb"),
        (b"\na", "", "a"),
        (b"\n", "", ""),
        ("é, ü".encode(), "é, ü", "é, ü"),
        (b"\xef\xbb\xbfa", "\ufeffa", "\ufeffa"),
        (b"a\x0bb\x0cc", "a\x0bb\x0cc", "a\x0bb\x0cc"),
    ],
)
def test_read_caption(tmp_path: Path, data: bytes, first: str, every: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    assert read_caption(str(path), all_lines=False) == first
    assert read_caption(str(path), all_lines=True) == every


def test_caption_files_that_stop_the_trainer(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"")
    assert read_caption(str(path), all_lines=False) is None
    path.write_bytes("é".encode("latin-1"))
    with pytest.raises(UnicodeDecodeError):
        read_caption(str(path), all_lines=False)
