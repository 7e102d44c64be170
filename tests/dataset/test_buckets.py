"""Buckets: the resolutions, the assignment and the crops of the trainer."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lorakit.dataset.buckets import (
    Bucketer,
    BucketSettings,
    Size,
    assign_bucket,
    bucket_resolutions,
    crop_ltrb,
)
from lorakit.errors import DatasetError

SDXL = BucketSettings((1024, 1024), max_bucket_reso=2048)
SMALL = BucketSettings((128, 128), min_bucket_reso=64, max_bucket_reso=256)


@pytest.mark.parametrize(
    ("settings", "count"),
    [(BucketSettings((1024, 1024)), 25), (SDXL, 41), (replace(SDXL, bucket_reso_steps=32), 81)],
)
def test_number_of_buckets(settings: BucketSettings, count: int) -> None:
    assert len(bucket_resolutions(settings)) == count


@pytest.mark.parametrize(
    ("settings", "image", "bucket"),
    [
        (BucketSettings((1024, 1024)), (1920, 1080), (1024, 576)),
        (BucketSettings((1024, 1024)), (832, 1216), (704, 1024)),
        (SDXL, (1024, 1024), (1024, 1024)),
        (SDXL, (832, 1216), (832, 1216)),
        (SDXL, (896, 1152), (896, 1152)),
        (SDXL, (768, 1344), (768, 1344)),
        (SDXL, (1920, 1080), (1344, 768)),
        (SDXL, (3000, 2000), (1216, 832)),
        # The distance is linear in width / height: portrait and landscape part ways.
        (SMALL, (96, 160), (64, 192)),
        (SMALL, (160, 96), (128, 128)),
    ],
)
def test_assignment_seen_in_the_trainer(settings: BucketSettings, image: Size, bucket: Size) -> None:
    assert assign_bucket(*image, settings).bucket == bucket


def test_without_buckets_all_share_the_resolution() -> None:
    assigned = assign_bucket(300, 200, BucketSettings((128, 96), enable_bucket=False))
    assert assigned.bucket == (128, 96)
    assert assigned.resized == (144, 96)


def test_halves_round_up() -> None:
    # 101 × 128 / 64 = 202; 75 × 0.5 = 37.5 → 38
    assert assign_bucket(150, 75, BucketSettings((64, 32), enable_bucket=False)).resized == (64, 32)
    assert assign_bucket(256, 101, BucketSettings((128, 32), enable_bucket=False)).resized == (128, 51)


@pytest.mark.parametrize(
    ("image", "bucket", "resized"),
    [
        ((100, 70), (64, 64), (100, 70)),  # small: kept, sides floored to the step
        ((128, 128), (128, 128), (128, 128)),
        ((640, 480), (64, 64), (85, 64)),  # large: shrunk so that one side is on the step
        ((400, 150), (192, 64), (192, 72)),
    ],
)
def test_no_upscale(image: Size, bucket: Size, resized: Size) -> None:
    assigned = assign_bucket(*image, replace(SMALL, bucket_no_upscale=True))
    assert (assigned.bucket, assigned.resized) == (bucket, resized)


def test_no_upscale_refuses_an_image_narrower_than_the_step() -> None:
    with pytest.raises(DatasetError, match="40×100 image has no bucket"):
        assign_bucket(40, 100, replace(SMALL, bucket_no_upscale=True))
    with pytest.raises(DatasetError, match="no bucket"):
        assign_bucket(20_000, 30, replace(SMALL, bucket_no_upscale=True))


def test_crop_is_that_of_a_letterbox() -> None:
    assert crop_ltrb((128, 128), (200, 100)) == (0, 32, 128, 96)
    assert crop_ltrb((128, 128), (100, 200)) == (32, 0, 96, 128)
    left, top, right, bottom = crop_ltrb((64, 192), (96, 160))
    assert (left, top, right) == (0, 42, 64)
    assert bottom == pytest.approx(42 + 64 * 160 / 96)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        (replace(SDXL, bucket_reso_steps=48), "bucket_reso_steps"),
        (replace(SDXL, bucket_reso_steps=0), "bucket_reso_steps"),
        (replace(SMALL, min_bucket_reso=50), "min_bucket_reso"),
        (replace(SMALL, min_bucket_reso=256), "min_bucket_reso"),
        (replace(SMALL, max_bucket_reso=64), "max_bucket_reso"),
    ],
)
def test_settings_that_stop_the_trainer(settings: BucketSettings, key: str) -> None:
    with pytest.raises(DatasetError) as caught:
        Bucketer(settings)
    assert [problem.key for problem in caught.value.problems] == [key]


def test_all_settings_problems_at_once() -> None:
    settings = BucketSettings((64, 512), min_bucket_reso=128, max_bucket_reso=256)
    assert [p.key for p in settings.problems()] == ["min_bucket_reso", "max_bucket_reso"]
    assert replace(settings, bucket_no_upscale=True).problems() == ()
    assert replace(settings, enable_bucket=False).problems() == ()


# An independent reading of the rules: every multiple of the step is tried, distances are exact fractions.

settings_of = st.builds(
    lambda step, low, high, w, h: BucketSettings(
        (w * step, h * step), min_bucket_reso=low * step, max_bucket_reso=high * step, bucket_reso_steps=step
    ),
    st.sampled_from([32, 64, 96]),
    st.integers(1, 4),
    st.integers(4, 40),
    st.integers(1, 20),
    st.integers(1, 20),
)
side = st.integers(1, 5000)


def brute_force(settings: BucketSettings) -> set[Size]:
    step, area = settings.bucket_reso_steps, settings.resolution[0] * settings.resolution[1]
    root = max(side for side in range(0, 5000, step) if side * side <= area)
    found = {(root, root)}
    sides = range(settings.min_bucket_reso, settings.max_bucket_reso + 1, step)
    for width in sides:
        fitting = [height for height in sides if width * height <= area]
        if fitting:
            found |= {(width, max(fitting)), (max(fitting), width)}
    return found


@given(settings_of)
def test_resolutions_equal_brute_force(settings: BucketSettings) -> None:
    assume(not settings.problems())
    resolutions = bucket_resolutions(settings)
    assert set(resolutions) == brute_force(settings)
    assert list(resolutions) == sorted(set(resolutions))


@given(settings_of, side, side)
def test_assignment_is_the_nearest_ratio_and_covers(settings: BucketSettings, width: int, height: int) -> None:
    assume(not settings.problems())
    assigned = assign_bucket(width, height, settings)
    ratio = Fraction(width, height)
    distance = abs(Fraction(*assigned.bucket) - ratio)
    if (width, height) in bucket_resolutions(settings):
        assert assigned.bucket == assigned.resized == (width, height)
    nearest = min(abs(Fraction(*size) - ratio) for size in bucket_resolutions(settings))
    assert float(distance) == pytest.approx(float(nearest), rel=1e-9, abs=1e-12)
    assert all(r >= b for r, b in zip(assigned.resized, assigned.bucket, strict=True))
    assert any(r == b for r, b in zip(assigned.resized, assigned.bucket, strict=True))


@given(settings_of, side, side)
def test_no_upscale_never_enlarges(settings: BucketSettings, width: int, height: int) -> None:
    settings = replace(settings, bucket_no_upscale=True)
    try:
        assigned = assign_bucket(width, height, settings)
    except DatasetError:
        scale = min(1, math.sqrt(settings.max_area / (width * height)))
        assert min(width, height) * scale < 2 * settings.bucket_reso_steps
        return
    step = settings.bucket_reso_steps
    assert all(b % step == 0 and b > 0 for b in assigned.bucket)
    assert all(b <= r for r, b in zip(assigned.resized, assigned.bucket, strict=True))
    if width * height <= settings.max_area:
        assert assigned.resized == (width, height)
    else:
        assert math.prod(assigned.bucket) <= math.prod(assigned.resized)


@given(settings_of, side, side)
def test_letterbox_lies_in_the_bucket(settings: BucketSettings, width: int, height: int) -> None:
    assume(not settings.problems())
    assigned = assign_bucket(width, height, settings)
    left, top, right, bottom = assigned.crop_ltrb
    assert left >= 0
    assert top >= 0
    assert right <= assigned.bucket[0] + 1e-6
    assert bottom <= assigned.bucket[1] + 1e-6
    assert min(left, top) == 0
