"""What a scan finds, passes over, and refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lorakit.dataset.blueprint import Blueprint, DatasetDefaults, DatasetSpec, SubsetSpec, from_folders
from lorakit.dataset.scan import ImageRecord, ScannedData, scan
from lorakit.dataset.selection import balance_regularisation, split_for_validation
from lorakit.errors import DatasetError
from tests.dataset.pictures import picture

DEFAULTS = DatasetDefaults(
    resolution=(128, 128),
    enable_bucket=True,
    min_bucket_reso=64,
    max_bucket_reso=256,
    caption_extension=".txt",
    train_batch_size=2,
)


def scanned(root: Path, *, reg: Path | None = None, skip_unreadable: bool = False, **changes: object) -> ScannedData:
    defaults = replace(DEFAULTS, **changes)  # type: ignore[arg-type]
    return scan(from_folders(root, reg, defaults), skip_unreadable=skip_unreadable)


def test_a_plain_dataset(tmp_path: Path) -> None:
    picture(tmp_path / "3_girl/b.png", (128, 128), "first, line\nsecond")
    picture(tmp_path / "3_girl/a.jpg", (160, 96), None)
    data = scanned(tmp_path)
    first, second = data.datasets[0].train
    assert first.path == tmp_path / "3_girl/a.jpg"
    assert (first.caption, first.caption_path, first.bucket, first.resized) == ("girl", None, (128, 128), (213, 128))
    assert (second.caption, second.caption_path) == ("first, line", tmp_path / "3_girl/b.txt")
    assert (second.width, second.height, second.repeats, second.is_reg) == (128, 128, 3, False)
    assert data.datasets[0].bucket_counts() == {(128, 128): 6}
    assert data.datasets[0].batches() == {(128, 128): 3}
    assert (data.images, data.batches_per_epoch) == (2, 3)
    assert data.warnings == (
        f"{tmp_path / '3_girl'}: 1 of 2 images have no .txt file and train with its class tokens 'girl'",
    )


def test_contract_example_of_batches(tmp_path: Path) -> None:
    # 16 repeated images in buckets of 3 and 13, batch 2: 2 + 7 = 9 batches
    for i in range(3):
        picture(tmp_path / f"1_a/w{i}.png", (192, 64))
    for i in range(13):
        picture(tmp_path / f"1_a/s{i}.png", (128, 128))
    assert scanned(tmp_path).batches_per_epoch == 9


def test_skipped_with_reason(tmp_path: Path) -> None:
    folder = tmp_path / "1_a"
    picture(folder / "a.png")
    for name in ("b.Png", "c.gif", "d.tiff", ".e.png", "notes.md", "a.npz", ".gitkeep"):
        (folder / name).write_bytes(b"x")
    picture(folder / "deeper/f.png")
    picture(tmp_path / "loose/g.png")
    data = scanned(tmp_path)
    assert {(s.path.name, s.reason.split(":")[0]) for s in data.skipped} == {
        ("loose", "folder name does not start with a number of repeats (N_name)"),
        ("deeper", "sub-folder"),
        ("b.Png", "suffix .Png"),
        ("c.gif", "suffix .gif"),
        ("d.tiff", "suffix .tiff"),
        (".e.png", "hidden file (name starts with a dot)"),
    }
    assert data.images == 1


@pytest.mark.parametrize(
    "name",
    [
        "with space.png",
        "quote'\".png",
        "new\nline.png",
        "--x.png",
        "[a]*?.png",
        "日本語 ☃.png",
        "a.b.png",
        "é.PNG",
        "$(rm -rf).webp",
    ],
)
def test_hostile_names(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "2_--a 'b'\n[c]"
    path = picture(folder / name, caption="found")
    (record,) = scanned(tmp_path).datasets[0].train
    assert record.path == path
    assert record.caption == "found"
    assert record.repeats == 2


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    folder = tmp_path / "1_a"
    picture(folder / "a.png", caption="x")
    (folder / "a.png").rename(folder / "\udcff.png")
    (folder / "a.txt").rename(folder / "\udcff.txt")
    (record,) = scanned(tmp_path).datasets[0].train
    assert record.caption == "x"


def test_caption_extension_gets_its_dot_and_face_crops_share_a_caption(tmp_path: Path) -> None:
    picture(tmp_path / "1/a_1_2_3_4.png", caption=None)
    (tmp_path / "1/a.cap").write_text("face")
    (record,) = scanned(tmp_path, caption_extension="cap").datasets[0].train
    assert (record.caption, record.caption_path) == ("face", tmp_path / "1/a.cap")


def test_no_caption_and_no_class_tokens(tmp_path: Path) -> None:
    picture(tmp_path / "1/a.png", caption=None)
    data = scanned(tmp_path)
    assert data.datasets[0].train[0].caption == ""
    assert "an empty caption" in data.warnings[0]


def test_wildcard_captions_keep_all_lines(tmp_path: Path) -> None:
    picture(tmp_path / "1_a/a.png", caption="one\n\n two \n")
    assert scanned(tmp_path, enable_wildcard=True).datasets[0].train[0].caption == "one\ntwo"


def test_byte_order_mark_and_blank_line_are_reported(tmp_path: Path) -> None:
    picture(tmp_path / "1_a/a.png", caption="\ufeffgirl")
    picture(tmp_path / "1_a/b.png", caption="\ngirl")
    data = scanned(tmp_path)
    assert [r.caption for r in data.datasets[0].train] == ["\ufeffgirl", ""]
    assert "byte order mark" in data.warnings[0]
    assert "empty first line" in data.warnings[1]


def test_everything_that_stops_the_trainer_is_named_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "1_a"
    picture(folder / "good.png")
    picture(folder / "empty.png", caption="")
    picture(folder / "latin.png", caption=None)
    (folder / "latin.txt").write_bytes(b"caf\xe9")
    picture(folder / "twin.png")
    picture(folder / "twin.jpg")
    picture(folder / "broken.png").write_bytes(b"not an image")
    with pytest.raises(DatasetError) as caught:
        scanned(tmp_path)
    error = caught.value
    assert "4 files" in error.what
    assert len(error.problems) == 4
    for name in ("empty.txt", "latin.txt", "twin.png", "broken.png"):
        assert sum(name in problem.what for problem in error.problems) == 1, name
    assert "dataset.skip_unreadable=true" in error.todo


def test_skip_unreadable_names_them(tmp_path: Path) -> None:
    picture(tmp_path / "1_a/good.png")
    picture(tmp_path / "1_a/broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    data = scanned(tmp_path, skip_unreadable=True)
    assert data.images == 1
    (skipped,) = data.skipped
    assert skipped.path.name == "broken.png"
    assert skipped.reason.startswith("unreadable image: ")


def test_a_folder_named_like_an_image_stops_the_trainer(tmp_path: Path) -> None:
    picture(tmp_path / "1_a/a.png")
    (tmp_path / "1_a/b.png").mkdir()
    with pytest.raises(DatasetError, match="1 file") as caught:
        scanned(tmp_path)
    assert "b.png" in caught.value.why


def test_a_link_to_nowhere_is_unreadable(tmp_path: Path) -> None:
    picture(tmp_path / "1_a/a.png")
    (tmp_path / "1_a/gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(DatasetError) as caught:
        scanned(tmp_path)
    assert "No such file" in caught.value.why


def test_nothing_left_to_train_on(tmp_path: Path) -> None:
    (tmp_path / "1_a").mkdir()
    (tmp_path / "1_a/a.gif").touch()
    with pytest.raises(DatasetError) as caught:
        scanned(tmp_path)
    assert "'a.gif': suffix .gif" in caught.value.why


def test_too_narrow_for_a_bucket_is_named(tmp_path: Path) -> None:
    picture(tmp_path / "1_a/thin.png", (300, 20))
    with pytest.raises(DatasetError) as caught:
        scanned(tmp_path, bucket_no_upscale=True)
    assert "thin.png" in caught.value.why


def test_an_empty_folder_beside_a_good_one(tmp_path: Path) -> None:
    picture(tmp_path / "1_a/a.png")
    (tmp_path / "1_b").mkdir()
    assert any("holds no images" in warning for warning in scanned(tmp_path).warnings)
    with pytest.raises(DatasetError, match="cannot be trained on"):
        scanned(tmp_path, validation_split=0.5, validation_seed=1)


def test_a_folder_listed_twice_is_used_once(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    subset = SubsetSpec(tmp_path, caption_extension=".txt")
    data = scan(Blueprint((DatasetSpec((subset, replace(subset, num_repeats=5)), (64, 64)),)))
    assert data.batches_per_epoch == 1
    assert "listed twice" in data.warnings[0]


def test_missing_image_dir(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="cannot be read as a folder"):
        scan(Blueprint((DatasetSpec((SubsetSpec(tmp_path / "no"),), (64, 64)),)))


def test_progress_reaches_the_end(tmp_path: Path) -> None:
    for i in range(5):
        picture(tmp_path / f"1_a/{i}.png")
    calls: list[tuple[int, int]] = []
    scan(from_folders(tmp_path, None, DEFAULTS), progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (5, 5)


def test_stray_caches_are_counted(tmp_path: Path) -> None:
    picture(tmp_path / "1_a/a.png")
    for name in ("ab_0128x0128_sdxl.npz", "a_te_outputs.npz", "metadata_cache.json"):
        (tmp_path / "1_a" / name).write_text("{}")
    assert scanned(tmp_path).stray_caches == 2
    assert scanned(tmp_path, cache_info=True).stray_caches == 3


# Regularisation and validation


def test_reg_is_repeated_to_match(tmp_path: Path) -> None:
    for i in range(8):
        picture(tmp_path / f"train/1_a/{i}.png")
    for i in range(2):
        picture(tmp_path / f"reg/1_girl/{i}.png")
    data = scanned(tmp_path / "train", reg=tmp_path / "reg")
    reg = [record for record in data.datasets[0].train if record.is_reg]
    assert [record.repeats for record in reg] == [4, 4]
    assert data.datasets[0].reg_found == 2
    assert data.batches_per_epoch == 8
    assert data.images == 8


def test_surplus_reg_is_left_out_and_said(tmp_path: Path) -> None:
    picture(tmp_path / "train/2_a/0.png")
    for i in range(5):
        picture(tmp_path / f"reg/1_girl/{i}.png")
    data = scanned(tmp_path / "train", reg=tmp_path / "reg")
    assert [r.path.name for r in data.datasets[0].train if r.is_reg] == ["0.png", "1.png"]
    assert any("3 of 5 regularisation images are not used" in warning for warning in data.warnings)


def test_validation_is_held_out_with_one_repeat(tmp_path: Path) -> None:
    for i in range(10):
        picture(tmp_path / f"train/3_a/{i}.png")
        picture(tmp_path / f"reg/1_girl/{i}.png")
    data = scanned(tmp_path / "train", reg=tmp_path / "reg", validation_split=0.2, validation_seed=7)
    dataset = data.datasets[0]
    train = {r.path for r in dataset.train if not r.is_reg}
    validation = {r.path for r in dataset.validation}
    assert (len(train), len(validation), train & validation) == (8, 2, set())
    assert {r.repeats for r in dataset.validation} == {1}
    assert sum(r.repeats for r in dataset.train if r.is_reg) == 24
    assert sum(dataset.batches(validation=True).values()) == 1


def test_validation_without_seed_or_out_of_range_is_refused(tmp_path: Path) -> None:
    picture(tmp_path / "1_a/a.png")
    with pytest.raises(DatasetError, match="without validation_seed"):
        scanned(tmp_path, validation_split=0.2)
    with pytest.raises(DatasetError, match=r"validation_split is 1\.5"):
        scanned(tmp_path, validation_split=1.5, validation_seed=1)


def record(name: int, repeats: int = 1) -> ImageRecord:
    return ImageRecord(Path(str(name)), "", None, 1, 1, repeats, False, 0, (1, 1), (1, 1), (0, 0, 1, 1))


def test_split_of_the_contract() -> None:
    train, validation, shared = split_for_validation([record(i) for i in range(6)], 0.25, 3)
    assert (len(train), len(validation), shared) == (5, 1, 1)


def test_split_order_is_that_of_the_trainer() -> None:
    # Seen in sd-scripts: python's random shuffles the sorted paths; the last ones validate.
    train, validation, _ = split_for_validation([record(i) for i in range(10)], 0.3, 42)
    assert [r.path.name for r in train] == ["7", "3", "2", "8", "5", "6", "9"]
    assert [r.path.name for r in validation] == ["4", "0", "1"]


@given(st.integers(1, 60), st.floats(0, 1, exclude_max=True), st.integers(0, 2**32 - 1))
def test_split_properties(count: int, split: float, seed: int) -> None:
    images = [record(i) for i in range(count)]
    train, validation, shared = split_for_validation(images, split, seed)
    assert not {r.path for r in train} & {r.path for r in validation}
    assert len(train) >= count * (1 - split) - 1e-9
    assert len(validation) + shared == round(count * split)
    assert (train, validation, shared) == split_for_validation(images, split, seed)


@given(st.lists(st.integers(1, 5), max_size=12), st.integers(0, 60))
def test_balancing_equals_a_round_robin(repeats: list[int], wanted: int) -> None:
    images = [record(i, r) for i, r in enumerate(repeats)]
    used = balance_regularisation(images, wanted)
    counts: list[int] = []
    total = 0
    while images and total < wanted:  # one repeat at a time, after the first round
        for index, image in enumerate(images):
            if index == len(counts):
                counts.append(image.repeats)
                total += image.repeats
            else:
                counts[index] += 1
                total += 1
            if total >= wanted:
                break
    assert [image.repeats for image in used] == counts
    assert [image.path for image in used] == [image.path for image in images[: len(used)]]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=20),
        min_size=1,
        max_size=6,
        unique_by=lambda name: name.lower(),
    )
)
def test_any_name_is_found_or_named(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    root = tmp_path_factory.mktemp("names")
    for name in names:
        picture(root / "1_a" / f"{name}.png", (8, 8), caption=None)
    (root / "1_a/a seed image.png").write_bytes((root / "1_a" / f"{names[0]}.png").read_bytes())
    data = scanned(root)
    hidden = {f"{name}.png" for name in names if name.startswith(".")}
    assert {r.path.name for r in data.datasets[0].train} == {f"{n}.png" for n in (*names, "a seed image")} - hidden
    assert {s.path.name for s in data.skipped} == hidden
