"""What a run writes: names, moments, retention, sizes."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorakit.plan.inputs import Caching, Sampling, Saving
from lorakit.plan.network import REAL_SDXL, network_size
from lorakit.plan.writes import Checkpoint, cache_bytes, checkpoints, peak_bytes, sample_bytes, sample_moments
from lorakit.schedule import steps

NETWORK = network_size(REAL_SDXL, ["unet"], 1)


def written(saving: Saving, *, batches: int = 9, epochs: int = 4, total: int | None = None) -> tuple[Checkpoint, ...]:
    counts = steps(batches, max_train_epochs=None if total else epochs, max_train_steps=total or 0)
    return checkpoints(counts, saving, NETWORK, "n")


def names(files: Iterable[Checkpoint], *, kept: bool | None = None) -> list[str]:
    return [file.name for file in files if kept is None or file.kept == kept]


def test_the_final_file_is_always_written() -> None:
    (file,) = written(Saving())
    assert (file.name, file.kind, file.step, file.epoch, file.kept) == ("n.safetensors", "final", 36, 4, True)


def test_epochs_leave_the_last_to_the_final_file() -> None:
    assert [(f.name, f.step, f.epoch) for f in written(Saving(every_n_epochs=1))] == [
        ("n-000001.safetensors", 9, 1),
        ("n-000002.safetensors", 18, 2),
        ("n-000003.safetensors", 27, 3),
        ("n.safetensors", 36, 4),
    ]
    assert names(written(Saving(every_n_epochs=2))) == ["n-000002.safetensors", "n.safetensors"]
    assert names(written(Saving(every_n_epochs=5))) == ["n.safetensors"]


def test_steps_include_the_last_and_come_before_the_epoch() -> None:
    assert names(written(Saving(every_n_steps=9, every_n_epochs=2))) == [
        "n-step00000009.safetensors",
        "n-step00000018.safetensors",
        "n-000002.safetensors",
        "n-step00000027.safetensors",
        "n-step00000036.safetensors",
        "n.safetensors",
    ]


def test_a_run_cut_short_by_its_steps() -> None:
    files = written(Saving(every_n_epochs=1), total=20)
    assert [(f.name, f.step) for f in files] == [
        ("n-000001.safetensors", 9),
        ("n-000002.safetensors", 18),
        ("n.safetensors", 20),
    ]


def test_ratio_of_epochs() -> None:
    assert names(written(Saving(n_epoch_ratio=2), epochs=5)) == [
        "n-000002.safetensors",
        "n-000004.safetensors",
        "n.safetensors",
    ]
    assert len(written(Saving(n_epoch_ratio=9), epochs=5)) == 5
    files = written(Saving(n_epoch_ratio=4, last_n_epochs=1), epochs=8)
    assert names(files, kept=True) == ["n-000006.safetensors", "n.safetensors"]


def test_last_n_steps_keeps_one_more_as_the_trainer_does() -> None:
    # Every 10, last 30: at step 50 there are 20, 30, 40, 50.
    files = written(Saving(every_n_steps=10, last_n_steps=30), total=50)
    assert names(files, kept=True) == [f"n-step{s:08d}.safetensors" for s in (20, 30, 40, 50)] + ["n.safetensors"]
    assert names(files, kept=False) == ["n-step00000010.safetensors"]


def test_last_n_epochs() -> None:
    files = written(Saving(every_n_epochs=1, last_n_epochs=2), epochs=6)
    assert names(files, kept=True) == ["n-000004.safetensors", "n-000005.safetensors", "n.safetensors"]
    files = written(Saving(every_n_epochs=2, last_n_epochs=1), epochs=9)
    assert names(files, kept=True) == ["n-000008.safetensors", "n.safetensors"]


def test_states_follow_the_files_with_their_own_limit() -> None:
    saving = Saving(every_n_epochs=1, state=True, last_n_epochs=3, last_n_epochs_state=1)
    files = written(saving, epochs=5)
    assert names((f for f in files if f.kind == "epoch"), kept=True) == [f"n-{e:06d}.safetensors" for e in (2, 3, 4)]
    assert names((f for f in files if "state" in f.kind), kept=True) == ["n-000004-state", "n-state"]
    assert names(written(Saving(state_on_train_end=True))) == ["n.safetensors", "n-state"]


def test_sizes() -> None:
    half = checkpoints(steps(1, max_train_epochs=1), Saving(bytes_per_parameter=2), NETWORK, "n")[0].bytes
    assert half == pytest.approx(2_659_840 * 2, rel=0.1)
    whole = network_size(REAL_SDXL, ["unet", "te1", "te2"], 32)
    assert checkpoints(steps(1, max_train_epochs=1), Saving(bytes_per_parameter=2), whole, "n")[
        0
    ].bytes == pytest.approx(228e6, rel=0.01)


@pytest.mark.parametrize(
    ("optimizer", "per_parameter"),
    [("AdamW", 12), ("AdamW8bit", 6), ("PagedAdamW8bit", 6), ("Lion", 8), ("prodigyopt.Prodigy", 20), ("Other", 12)],
)
def test_state_sizes(optimizer: str, per_parameter: int) -> None:
    saving = Saving(state_on_train_end=True)
    state = checkpoints(steps(1, max_train_epochs=1), saving, NETWORK, "n", optimizer)[-1]
    assert state.bytes == 2_659_840 * per_parameter + 2 * 722 * 1000


def test_samples() -> None:
    counts = steps(9, max_train_epochs=4)
    two = ((64, 64), (64, 128))
    every_epoch = sample_moments(counts, Sampling(every_n_epochs=2, every_n_steps=5, at_first=True, sizes=two))
    assert [(m.step, m.epoch, m.images) for m in every_epoch] == [(0, 0, 2), (18, 2, 2), (36, 4, 2)]
    every_step = sample_moments(counts, Sampling(every_n_steps=10, sizes=two))
    assert [(m.step, m.epoch) for m in every_step] == [(10, 2), (20, 3), (30, 4)]
    assert sample_moments(counts, Sampling(every_n_steps=10)) == ()
    assert sample_bytes(every_step, Sampling(sizes=two)) == 3 * int(64 * 64 * 1.6 + 64 * 128 * 1.6)


def test_caches() -> None:
    assert cache_bytes(((128, 64),), Caching(latents=True), flipped=False) == 0
    assert cache_bytes(((128, 64),), Caching(latents_to_disk=True), flipped=False) == 16 * 8 * 4 * 4
    assert cache_bytes(((128, 64),), Caching(latents_to_disk=True), flipped=True) == 2 * 16 * 8 * 4 * 4
    encodings = Caching(text_encoder_outputs_to_disk=True, max_token_length=150)
    assert cache_bytes(((128, 64),) * 2, encodings, flipped=False) == 2 * 4 * (152 * 2048 + 1280)


@given(
    st.integers(1, 30), st.integers(1, 12), st.integers(1, 9), st.integers(1, 9), st.none() | st.integers(1, 5),
    st.none() | st.integers(1, 60), st.booleans(),
)  # fmt: skip
def test_what_is_kept_is_what_a_trainer_would_leave(
    batches: int, epochs: int, by_epoch: int, by_step: int, last_epochs: int | None, last_steps: int | None, state: bool
) -> None:
    counts = steps(batches, max_train_epochs=epochs)
    saving = Saving(by_epoch, by_step, None, last_epochs, last_steps, state)
    disk: set[str] = set()
    for step in range(1, counts.total_steps + 1):  # a loop as a trainer has it, saving and removing
        if step % by_step == 0:
            disk.add(f"n-step{step:08d}.safetensors")
            if last_steps:
                old = step - last_steps - 1
                disk.discard(f"n-step{old - old % by_step:08d}.safetensors")
        epoch, within = divmod(step, counts.updates_per_epoch)
        if within == 0 and epoch % by_epoch == 0 and epoch < epochs:
            disk.add(f"n-{epoch:06d}.safetensors")
            if last_epochs:
                disk.discard(f"n-{max(0, epoch - by_epoch * last_epochs):06d}.safetensors")
    disk.add("n.safetensors")
    files = [file for file in checkpoints(counts, saving, NETWORK, "n") if "state" not in file.kind]
    assert {file.name for file in files if file.kept} == disk
    assert len({file.name for file in files}) == len(files)
    assert [file.step for file in files] == sorted(file.step for file in files)
    assert peak_bytes(tuple(files)) >= len(disk) * files[0].bytes
