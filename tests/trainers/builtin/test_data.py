"""Batches, pixels and caches: what is trained on is what was planned, and nothing stale is used."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from lorakit import schedule
from lorakit.dataset.blueprint import DatasetDefaults, from_folders
from lorakit.dataset.scan import ImageRecord, ScannedData, scan
from lorakit.errors import DatasetError, RunFailed
from lorakit.trainers.builtin import latents as latents_module
from lorakit.trainers.builtin.batches import epoch_batches, process_batches, validation_batches
from lorakit.trainers.builtin.data import BatchLoader, Examples, Sources, cache_jobs
from lorakit.trainers.builtin.images import PixelSettings, crop_top_left, read_pixels, resize
from lorakit.trainers.builtin.latents import CacheJob, LatentStore, encode_pixels, fill, latent_path
from lorakit.trainers.builtin.rng import derive, python_random
from lorakit.trainers.builtin.text_cache import TextStore, text_path
from tests.trainers.builtin.runs import write_images


def scanned(folder: Path, **settings: Any) -> ScannedData:
    defaults = DatasetDefaults(
        **{
            "resolution": (64, 64), "enable_bucket": True, "min_bucket_reso": 32, "bucket_reso_steps": 32,
            "train_batch_size": 2, "caption_extension": ".txt", **settings,
        }
    )  # fmt: skip
    return scan(from_folders(folder, None, defaults))


@pytest.fixture
def data(tmp_path: Path) -> ScannedData:
    write_images(tmp_path / "data" / "3_cat")
    return scanned(tmp_path / "data")


def record_of(data: ScannedData, index: int = 0) -> ImageRecord:
    return data.datasets[0].train[index]


class TestBatches:
    def test_an_epoch_is_the_planned_one(self, data: ScannedData) -> None:
        batches = epoch_batches(data, seed=1, epoch=1)
        assert len(batches) == data.batches_per_epoch == 9
        images = data.datasets[0].train
        assert Counter(index for batch in batches for index in batch.images) == dict.fromkeys(range(5), 3)
        for batch in batches:
            assert {images[index].bucket for index in batch.images} == {batch.bucket}
        assert Counter(len(batch.images) for batch in batches) == {2: 6, 1: 3}  # 9, 3 and 3 examples by twos
        assert [batch.position for batch in batches] == list(range(9))

    def test_order_depends_on_seed_and_epoch_alone(self, data: ScannedData) -> None:
        one = epoch_batches(data, 1, 1)
        assert one == epoch_batches(data, 1, 1)
        orders = {
            tuple(batch.images for batch in epoch_batches(data, seed, epoch)) for seed in (1, 2) for epoch in (1, 2)
        }
        assert len(orders) == 4

    @pytest.mark.parametrize("processes", [1, 2, 4])
    def test_processes_share_an_epoch(self, data: ScannedData, processes: int) -> None:
        counts = schedule.steps(9, max_train_epochs=2, processes=processes, gradient_accumulation_steps=2)
        shares = [list(process_batches(data, 1, 2, counts, rank=rank)) for rank in range(processes)]
        assert {len(share) for share in shares} == {counts.batches_per_process}
        dealt = [batch for turn in zip(*shares, strict=True) for batch in turn]
        assert [batch.images for batch in dealt[:9]] == [batch.images for batch in epoch_batches(data, 1, 2)]
        assert len({batch.position for batch in dealt}) == len(dealt)  # batches dealt twice draw anew
        assert dealt[0].step == counts.updates_per_epoch
        assert shares[0][2].step == counts.updates_per_epoch + 1
        assert list(process_batches(data, 1, 2, counts, skip=2)) == shares[0][2:]

    def test_validation_order_is_fixed(self, tmp_path: Path) -> None:
        write_images(tmp_path / "data" / "2_cat")
        data = scanned(tmp_path / "data", validation_split=0.6, validation_seed=1)
        batches = validation_batches(data)
        assert sum(len(batch.images) for batch in batches) == 3
        assert validation_batches(data, 1) == batches[:1]


class TestPixels:
    def test_resized_to_cover_and_cropped_in_the_middle(self, tmp_path: Path) -> None:
        folder = tmp_path / "data" / "1_cat"
        folder.mkdir(parents=True)
        array = np.zeros((64, 192, 3), np.uint8)
        array[:, :, 0] = np.linspace(0, 255, 192).astype(np.uint8)  # red grows to the right
        array[:, :, 1] = 255
        Image.fromarray(array).save(folder / "0.png")
        record = record_of(scanned(tmp_path / "data", enable_bucket=False))
        pixels = read_pixels(record, PixelSettings())
        assert pixels.shape == (3, 64, 64)
        assert pixels.dtype == torch.float32
        assert float(pixels[1].min()) == 1.0
        assert float(pixels[2].max()) == -1.0
        middle = torch.from_numpy(array[:, 64:128, 0].astype(np.float32) / 127.5 - 1)
        torch.testing.assert_close(pixels[0], middle)
        assert torch.equal(read_pixels(record, PixelSettings(), flipped=True), pixels.flip(-1))

    def test_random_crop_stays_inside_and_moves(self, tmp_path: Path) -> None:
        write_images(tmp_path / "data" / "1_cat", ((200, 64),))
        record = record_of(scanned(tmp_path / "data", enable_bucket=False))
        whole = read_pixels(record, PixelSettings(), None)
        crops = [read_pixels(record, PixelSettings(random_crop=True), random.Random(seed)) for seed in range(8)]
        assert all(crop.shape == whole.shape for crop in crops)
        assert len({crop.numpy().tobytes() for crop in crops}) > 4
        assert torch.equal(read_pixels(record, PixelSettings(random_crop=True), None), whole)

    def test_colours_move_a_little(self, data: ScannedData) -> None:
        record = record_of(data)
        plain = read_pixels(record, PixelSettings())
        moved = read_pixels(record, PixelSettings(color_aug=True), random.Random(1))
        assert 0 < float((moved - plain).abs().mean()) < 0.2

    @pytest.mark.parametrize("how", ["lanczos", "nearest", "bilinear", "linear", "bicubic", "cubic", "area", "box"])
    def test_every_filter(self, data: ScannedData, how: str) -> None:
        assert read_pixels(record_of(data, 3), PixelSettings(how)).shape == (3, 64, 64)

    def test_shrinking_averages_by_default(self, data: ScannedData) -> None:
        record = record_of(data, 3)  # 128×128 in the bucket 64×64
        with Image.open(record.path) as image:
            blocks = np.asarray(image, np.float32).reshape(64, 2, 64, 2, 3).mean((1, 3))
        pixels = (read_pixels(record, PixelSettings()).permute(1, 2, 0).numpy() + 1) * 127.5
        assert np.abs(pixels - blocks).max() <= 0.51  # rounded to whole values

    def test_averages_count_fractions_of_pixels(self) -> None:
        """Three columns to two: each new one is a whole old one and half the middle one, by two thirds."""
        image = Image.fromarray(np.array([[[0] * 3, [90] * 3, [240] * 3]] * 3, np.uint8))
        averaged = np.asarray(resize(image, (2, 2), None))
        assert averaged[0, :, 0].tolist() == [30, 190]

    def test_enlarging_is_lanczos_by_default(self, data: ScannedData) -> None:
        with Image.open(record_of(data).path) as image:
            enlarged = resize(image, (100, 90), None)
            assert enlarged.tobytes() == image.resize((100, 90), Image.Resampling.LANCZOS).tobytes()
            with_one_side = resize(image, (100, 40), None)
            assert with_one_side.tobytes() == image.resize((100, 40), Image.Resampling.LANCZOS).tobytes()

    def test_grey_alpha_and_palette_images_become_rgb(self, tmp_path: Path) -> None:
        folder = tmp_path / "data" / "1_cat"
        folder.mkdir(parents=True)
        for mode in ("L", "LA", "RGBA", "P", "1", "I;16"):
            Image.new(mode, (64, 64)).save(folder / f"{mode.replace(';', '')}.png")
        data = scanned(tmp_path / "data")
        assert all(read_pixels(record, PixelSettings()).shape == (3, 64, 64) for record in data.datasets[0].train)

    def test_a_changed_image_is_named(self, data: ScannedData) -> None:
        record = record_of(data)
        Image.new("RGB", (32, 32)).save(record.path)
        with pytest.raises(DatasetError, match="is 32×32 now"):
            read_pixels(record, PixelSettings())
        record.path.write_bytes(b"not an image")
        with pytest.raises(DatasetError, match="cannot be read"):
            read_pixels(record, PixelSettings())

    def test_mirrored_crop_counts_from_the_other_side(self, tmp_path: Path) -> None:
        write_images(tmp_path / "data" / "1_cat", ((100, 64), (64, 100)))
        wide, tall = scanned(tmp_path / "data", enable_bucket=False).datasets[0].train
        assert crop_top_left(wide, flipped=False) == (int(wide.crop_ltrb[1]), 0)
        assert crop_top_left(tall, flipped=False) == (0, int(tall.crop_ltrb[0]))
        assert crop_top_left(tall, flipped=True) == (0, int(64 - tall.crop_ltrb[2]))


class FakePosterior:
    def __init__(self, mean: torch.Tensor) -> None:
        self.mean = mean
        self.std = torch.full_like(mean, 0.1)


class FakeVae(nn.Module):
    """Pools 8×8 blocks; counts what it encodes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.seen: list[tuple[int, ...]] = []

    def encode(self, pixels: torch.Tensor) -> Any:
        self.seen.append(tuple(pixels.shape))
        mean = torch.nn.functional.avg_pool2d(pixels, 8).mean(1, keepdim=True).expand(-1, 4, -1, -1)
        return type("Output", (), {"latent_dist": FakePosterior(mean)})


@pytest.fixture
def vae() -> FakeVae:
    return FakeVae()


def jobs_of(data: ScannedData, *, flip: bool = False) -> list[CacheJob]:
    return [CacheJob(job.record, job.settings, flip=flip) for job in cache_jobs(data)]


def filled(store: LatentStore, jobs: list[CacheJob], vae: FakeVae, chunk: int = 1, seed: int = 1) -> int:
    todo = list(store.missing(jobs))
    fill({seed: store}, todo, vae, chunk=chunk, advance=lambda _done: None)
    return len(todo)


class TestLatents:
    def test_a_sample_depends_on_its_generator_alone(self, vae: FakeVae) -> None:
        pixels = torch.rand(3, 3, 64, 32)
        whole = encode_pixels(vae, pixels, [torch.Generator().manual_seed(i) for i in range(3)], chunk=3)
        parts = encode_pixels(vae, pixels, [torch.Generator().manual_seed(i) for i in range(3)], chunk=1)
        torch.testing.assert_close(whole, parts)
        assert whole.shape == (3, 4, 8, 4)
        assert len(vae.seen) == 4
        mean = vae.encode(pixels).latent_dist.mean
        assert float((whole - mean).std()) == pytest.approx(0.1, rel=0.2)

    def test_overflow_is_an_error(self, vae: FakeVae) -> None:
        with pytest.raises(RunFailed, match="NaN or infinite latents"):
            encode_pixels(vae, torch.full((1, 3, 64, 64), float("inf")), [torch.Generator()])

    @pytest.mark.parametrize("to_disk", [False, True])
    def test_memory_and_disk_give_the_same(self, data: ScannedData, vae: FakeVae, *, to_disk: bool) -> None:
        jobs = jobs_of(data, flip=True)
        store = LatentStore(to_disk=to_disk, vae_identity="v")
        assert filled(store, jobs, vae, chunk=2) == 5
        other = LatentStore(to_disk=False, vae_identity="v")
        assert filled(other, jobs, vae, seed=0 if to_disk else 1) == 5  # on disk the draw is every seed's
        for job in jobs:
            for flipped in (False, True):
                torch.testing.assert_close(store.get(job, flipped=flipped), other.get(job, flipped=flipped))
        assert not torch.equal(store.get(jobs[0], flipped=False), store.get(jobs[0], flipped=True))
        assert filled(store, jobs, vae) == 0

    def test_files_have_the_trainers_layout(self, data: ScannedData, vae: FakeVae) -> None:
        jobs = jobs_of(data, flip=True)
        filled(LatentStore(to_disk=True, vae_identity="v"), jobs, vae)
        record = record_of(data, 1)
        path = record.path.with_name("1_0128x0048_sdxl.npz")
        assert latent_path(record) == path
        with np.load(path) as content:
            assert content["latents"].shape == (4, record.bucket[1] // 8, record.bucket[0] // 8)
            assert content["latents"].dtype == np.float32
            assert content["latents_flipped"].shape == content["latents"].shape
            assert content["original_size"].tolist() == [128, 48]
            assert content["crop_ltrb"].tolist() == list(record.crop_ltrb)
        assert not list(record.path.parent.glob(".*"))

    @pytest.mark.parametrize("change", ["image", "resolution", "vae", "flip", "filter", "foreign", "torn"])
    def test_stale_files_are_made_anew(self, data: ScannedData, vae: FakeVae, change: str) -> None:
        jobs = jobs_of(data)
        filled(LatentStore(to_disk=True, vae_identity="v"), jobs, vae)
        record = jobs[0].record
        path = latent_path(record)
        identity, expected = "v", 1
        match change:
            case "image":
                write_images(record.path.parent, ((64, 64),), seed=9)
            case "resolution":
                jobs, expected = jobs_of(scanned(record.path.parent.parent, resolution=(96, 96))), 5
            case "vae":
                identity, expected = "w", 5
            case "flip":
                jobs, expected = jobs_of(data, flip=True), 5
            case "filter":
                jobs, expected = [CacheJob(job.record, PixelSettings("nearest")) for job in jobs], 5
            case "foreign":  # as sd-scripts writes it: nothing says how it was made
                np.savez(
                    path, latents=np.zeros((4, 8, 8), np.float32), original_size=[64, 64], crop_ltrb=[0, 0, 64, 64]
                )
            case "torn":
                path.write_bytes(path.read_bytes()[:100])
        store = LatentStore(to_disk=True, vae_identity=identity)
        assert filled(store, jobs, vae) == expected
        assert store.get(jobs[0], flipped=False).any()

    def test_a_file_that_changes_during_training_is_an_error(self, data: ScannedData, vae: FakeVae) -> None:
        store = LatentStore(to_disk=True, vae_identity="v")
        jobs = jobs_of(data)
        filled(store, jobs, vae)
        latent_path(jobs[0].record).unlink()
        with pytest.raises(DatasetError, match="vanished or were changed"):
            store.get(jobs[0], flipped=False)

    def test_one_image_at_two_sizes_cannot_share_a_file(self, data: ScannedData) -> None:
        small = jobs_of(data)
        large = jobs_of(scanned(small[0].record.path.parent.parent, resolution=(96, 96)))
        store = LatentStore(to_disk=True, vae_identity="v")
        store.refuse_conflicts(small)
        with pytest.raises(DatasetError, match="two different latents"):
            store.refuse_conflicts([*small, *large])

    def test_a_plain_user_of_a_file_leaves_the_mirror_image_in_it(self, data: ScannedData, vae: FakeVae) -> None:
        store = LatentStore(to_disk=True, vae_identity="v")
        plain, both = jobs_of(data)[0], jobs_of(data, flip=True)[0]
        fill({1: store}, [both, plain], vae, chunk=1, advance=lambda _done: None)
        assert store.get(both, flipped=True).any()

    def test_bucket_mates_are_encoded_together(self, data: ScannedData, vae: FakeVae) -> None:
        filled(LatentStore(to_disk=False, vae_identity="v"), jobs_of(data), vae, chunk=2)
        assert sorted(shape[0] for shape in vae.seen) == [1, 1, 1, 2]
        assert latents_module.SCALE == 0.13025


class TestText:
    def store(self, *, to_disk: bool, identity: str = "i") -> TextStore:
        return TextStore(to_disk=to_disk, first_width=3, identity=identity)

    @pytest.mark.parametrize("to_disk", [False, True])
    def test_what_is_put_comes_back(self, data: ScannedData, *, to_disk: bool) -> None:
        store = self.store(to_disk=to_disk)
        for number, record in enumerate(data.datasets[0].train):
            store.put(record, torch.full((77, 8), float(number)).half(), torch.full((5,), float(number)))
        assert list(store.missing(data.datasets[0].train)) == []
        hidden, pooled = store.get(record_of(data, 2))
        assert hidden.shape == (77, 8)
        assert hidden.dtype == torch.float32
        assert float(hidden.mean()) == float(pooled.mean()) == 2.0

    def test_files_have_the_trainers_layout(self, data: ScannedData) -> None:
        record = record_of(data)
        self.store(to_disk=True).put(record, torch.randn(77, 8), torch.randn(5))
        assert text_path(record).name == "0_te_outputs.npz"
        with np.load(text_path(record)) as content:
            shapes = {name: content[name].shape for name in ("hidden_state1", "hidden_state2", "pool2")}
        assert shapes == {"hidden_state1": (77, 3), "hidden_state2": (77, 5), "pool2": (5,)}

    def test_stale_files_are_made_anew(self, data: ScannedData) -> None:
        record = record_of(data)
        self.store(to_disk=True).put(record, torch.randn(77, 8), torch.randn(5))
        assert list(self.store(to_disk=True).missing([record])) == []
        assert list(self.store(to_disk=True, identity="other").missing([record])) == [record]
        assert record.caption_path is not None
        record.caption_path.write_text("another caption")
        (again, *_) = scanned(record.path.parent.parent).datasets[0].train
        assert list(self.store(to_disk=True).missing([again])) == [again]
        with pytest.raises(DatasetError, match="vanished or was changed"):
            self.store(to_disk=True).get(again)

    def test_equal_captions_are_encoded_once_in_memory(self, tmp_path: Path) -> None:
        folder = write_images(tmp_path / "data" / "1_cat", ((64, 64),) * 3)
        for path in folder.glob("*.txt"):
            path.write_text("the same")
        records = scanned(tmp_path / "data").datasets[0].train
        assert len(list(self.store(to_disk=False).missing(records))) == 1


class TestExamples:
    @pytest.fixture
    def loading(self) -> Callable[..., list[Any]]:
        def load(data: ScannedData, epoch: int = 1, workers: int = 0, **options: Any) -> list[Any]:
            sources = Sources(data, seed=1, total_steps=100, **options)
            loader = BatchLoader(Examples(sources), workers=workers, persistent=workers > 0)
            return list(loader.load(epoch_batches(data, 1, epoch)))

        return load

    def test_a_batch_has_everything(self, data: ScannedData, loading: Callable[..., list[Any]]) -> None:
        for item in loading(data):
            count = len(item.batch.images)
            width, height = item.batch.bucket
            assert item.pixels.shape == (count, 3, height, width)
            assert item.latents is None
            for row, index in enumerate(item.batch.images):
                record = record_of(data, index)
                top, left = crop_top_left(record, flipped=False)
                assert item.sizes[row].tolist() == [record.height, record.width, top, left, height, width]
                assert item.captions[row] == record.caption
            assert item.weights.tolist() == [1.0] * count

    def test_captions_change_with_the_epoch_and_drop_to_nothing(
        self, tmp_path: Path, loading: Callable[..., list[Any]]
    ) -> None:
        write_images(tmp_path / "data" / "20_cat", ((64, 64),))
        data = scanned(tmp_path / "data", shuffle_caption=True, keep_tokens=1, caption_dropout_rate=0.3, flip_aug=True)
        captions = [caption for epoch in (1, 2) for item in loading(data, epoch) for caption in item.captions]
        assert 4 <= captions.count("") <= 20
        kept = [caption for caption in captions if caption]
        assert len(set(kept)) == 6  # three tags in every order behind the kept one
        assert all(caption.startswith("a cat, ") for caption in kept)
        again = [caption for epoch in (1, 2) for item in loading(data, epoch, workers=1) for caption in item.captions]
        assert captions == again

    def test_workers_that_stay_load_the_next_epoch(self, data: ScannedData) -> None:
        loader = BatchLoader(Examples(Sources(data, 1, 10)), workers=1, persistent=True)
        for epoch in (1, 2, 3):
            wanted = epoch_batches(data, 1, epoch)
            assert tuple(item.batch for item in loader.load(wanted)) == wanted

    def test_regularisation_images_weigh_less(self, tmp_path: Path, loading: Callable[..., list[Any]]) -> None:
        write_images(tmp_path / "data" / "1_cat", ((64, 64),) * 2)
        write_images(tmp_path / "reg" / "1_animal", ((64, 64),) * 2, seed=5)
        defaults = DatasetDefaults(resolution=(64, 64), train_batch_size=4, caption_extension=".txt")
        data = scan(from_folders(tmp_path / "data", tmp_path / "reg", defaults))
        (item,) = loading(data, prior_loss_weight=0.5)
        images = data.datasets[0].train
        assert item.weights.tolist() == [0.5 if images[index].is_reg else 1.0 for index in item.batch.images]
        assert sorted(item.weights.tolist()) == [0.5, 0.5, 1.0, 1.0]

    def test_validation_sees_steady_captions(self, tmp_path: Path) -> None:
        write_images(tmp_path / "data" / "1_cat", ((64, 64),) * 4)
        data = scanned(
            tmp_path / "data", validation_split=0.5, validation_seed=1, shuffle_caption=True, caption_dropout_rate=1.0,
            caption_tag_dropout_rate=0.9, caption_prefix="photo of", flip_aug=True, random_crop=True,
        )  # fmt: skip
        loader = BatchLoader(Examples(Sources(data, 1, 10)), workers=0, persistent=False)
        (one,), (two,) = (list(loader.load(validation_batches(data))) for _ in range(2))
        held = data.datasets[0].validation
        assert one.captions == two.captions == tuple(f"photo of {held[index].caption}" for index in one.batch.images)
        assert one.pixels is not None
        assert two.pixels is not None
        assert torch.equal(one.pixels, two.pixels)


def test_streams_are_stable_and_apart() -> None:
    assert derive(1, "noise", 2) == derive(1, "noise", 2)
    numbers = {derive(seed, name, index) for seed in (0, 1) for name in ("a", "b") for index in (0, 1, 10, "1 0")}
    assert len(numbers) == 16
    assert all(0 <= number < 2**63 for number in numbers)
    assert python_random(1, "x").random() != python_random(2, "x").random()
