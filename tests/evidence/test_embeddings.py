"""Embeddings of captions: the formulas by hand, the definition against the encoder's own hidden states, what a run keeps."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from lorakit.archive.run import Run
from lorakit.errors import ArchiveError, ModelFileError, UsageError
from lorakit.evidence import embeddings
from lorakit.evidence.embeddings import (
    Part,
    Question,
    measure,
    pair_similarities,
    question_of,
    read,
    read_all,
    statistics,
)
from lorakit.trainers.builtin.embed import embed_job
from lorakit.workspace import Workspace
from tests.bench_models import bench_checkpoint
from tests.loras import write_lora

CAPTIONS = ("a red circle", "a blue circle, on white", "zorp", "a photo of a zorp on a green background")


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The program's work, done in this process: torch is loaded once. The list gets a word for each start."""
    started: list[str] = []

    def run(module: str, job: Mapping[str, Any], on_record: Callable[[dict[str, Any]], None]) -> None:
        started.append(module)
        embed_job(json.loads(json.dumps(job)), lambda kind, **keys: on_record({"type": kind, **keys}))

    monkeypatch.setattr(embeddings, "run_helper", run)
    return started


def test_statistics_of_three_vectors_by_hand() -> None:
    # Cosines: 0 (x, y), 1/√2 (x, d), 1/√2 (y, d); lengths do not count.
    vectors = np.array([[2.0, 0.0], [0.0, 5.0], [1.0, 1.0]], np.float32)
    half = 1 / np.sqrt(2)
    mean = 2 * half / 3
    found = statistics(vectors)
    assert found.mean == pytest.approx(mean, abs=1e-6)
    assert found.std == pytest.approx(np.sqrt((mean**2 + 2 * (half - mean) ** 2) / 3), abs=1e-6)
    assert found.above == 0.0
    assert found.diversity == pytest.approx(1 - mean, abs=1e-6)


def test_alike_pairs_are_a_share_of_all_pairs() -> None:
    vectors = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.0, 1.0]], np.float32)
    assert statistics(vectors).above == pytest.approx(2 / 6)


@pytest.mark.parametrize("count", [0, 1])
def test_pairs_need_two(count: int) -> None:
    with pytest.raises(UsageError, match="nothing to compare"):
        statistics(np.ones((count, 3), np.float32))
    with pytest.raises(UsageError, match="nothing to compare"):
        measure(Question(Path("none"), ("same",) * 5 * count))


def test_the_embedding_is_the_mean_of_the_last_layer_but_one_over_tokens_and_end(tmp_path: Path) -> None:
    import torch

    from lorakit.trainers.builtin.checkpoint import load_text_encoders
    from lorakit.trainers.builtin.tokenizers import load_tokenizers

    base, out = bench_checkpoint(), tmp_path / "out.safetensors"
    embed_job({"base": str(base), "loras": [], "captions": list(CAPTIONS), "out": str(out)}, lambda *_, **__: None)
    found = load_file(out)
    assert found["tokens"].tolist() == [3, 6, 2, 10]
    for at, (part, encoder) in enumerate(zip(("te1", "te2"), load_text_encoders(base), strict=True)):
        for row, caption in enumerate(CAPTIONS):
            ids = load_tokenizers().encode([caption])[at][:, 0]
            with torch.no_grad():
                hidden = encoder(ids, output_hidden_states=True).hidden_states
            assert len(hidden) == encoder.config.num_hidden_layers + 1
            end = ids[0].tolist().index(49407)
            by_hand = hidden[len(hidden) - 2][0, 1 : end + 1].numpy().astype(np.float64).mean(axis=0)
            np.testing.assert_allclose(found[part][0, row].numpy(), by_hand, rtol=1e-4, atol=1e-5)


def test_long_captions_use_every_chunk(tmp_path: Path) -> None:
    long = "red circle " * 60
    job = {"base": str(bench_checkpoint()), "loras": [], "captions": [long + "zorp", long], "max_token_length": 150}
    embed_job({**job, "out": str(tmp_path / "long")}, lambda *_, **__: None)
    embed_job({**job, "max_token_length": None, "out": str(tmp_path / "cut")}, lambda *_, **__: None)
    long_rows, cut_rows = load_file(tmp_path / "long")["te1"][0], load_file(tmp_path / "cut")["te1"][0]
    assert not np.allclose(long_rows[0], long_rows[1], atol=1e-5)  # the word beyond the first chunk counts
    np.testing.assert_allclose(cut_rows[0], cut_rows[1], atol=1e-5)


def test_a_lora_of_text_encoders_changes_what_it_trains_and_one_of_the_unet_nothing(
    tmp_path: Path, in_process: list[str]
) -> None:
    both = write_lora(tmp_path / "te.safetensors", parts=("te1",), strength=0.5)
    unet = write_lora(tmp_path / "unet.safetensors", parts=("unet",), strength=0.5)
    found = measure(Question(bench_checkpoint(), CAPTIONS, (both, unet)))
    assert [one.checkpoint for one in found] == ["te.safetensors", "unet.safetensors"]
    assert found[0].captions == 4
    assert found[0].kept["te1"] < 0.999 < found[0].kept["te2"]
    assert found[0].parts["te1"] != found[0].base["te1"]
    assert found[0].parts["te2"] == found[0].base["te2"]
    assert found[1].parts == found[1].base
    assert found[1].kept == {"te1": pytest.approx(1), "te2": pytest.approx(1)}
    assert found[0].diversity == pytest.approx((found[0].parts["te1"].diversity + found[0].parts["te2"].diversity) / 2)


def test_pairs_are_told_in_order_with_their_tokens(in_process: list[str]) -> None:
    same, other = pair_similarities(bench_checkpoint(), [("zorp", "zorp"), ("a red circle", "zorp")])
    assert same == pytest.approx((1, 1, 2, 2), abs=1e-5)
    assert other.te1 < 0.999
    assert (other.tokens1, other.tokens2) == (3, 2)
    assert pair_similarities(bench_checkpoint(), []) == []


def make_run(folder: Path, captions: tuple[str, ...] = CAPTIONS) -> Run:
    run = Run(folder / "runs" / "2026-01-01_0000_some_abcd")
    run.weights.mkdir(parents=True)
    run.preset.write_text(f'[base]\nmodel = "{bench_checkpoint()}"\n[dataset]\nmax_token_length = 75\n')
    images: list[dict[str, Any]] = [{"path": f"{at}.png", "caption": caption} for at, caption in enumerate(captions)]
    images += [
        {"path": "r.png", "caption": "regular", "reg": True},
        {"path": "v.png", "caption": "v", "validation": True},
    ]
    run.dataset.write_text(json.dumps({"images": images}))
    return run


def test_a_run_is_measured_once(tmp_path: Path, in_process: list[str]) -> None:
    run = make_run(tmp_path, (*CAPTIONS, CAPTIONS[0]))
    place = Workspace(tmp_path)
    with pytest.raises(ModelFileError, match="abcd has no whole checkpoint"):
        question_of(run, place)
    write_lora(run.weights / "some-000001.safetensors", parts=("te1", "te2"), strength=0.1)
    write_lora(run.weights / "some.safetensors", parts=("te1", "te2"), strength=1.0)
    (run.weights / "some-000002.safetensors").write_bytes(b"torn")
    question = question_of(run, place)
    assert question.captions == CAPTIONS
    assert read(run) is None
    first = measure(question, keep_in=run)
    assert [one.checkpoint for one in first] == ["some-000001.safetensors", "some.safetensors"]
    assert measure(question, keep_in=run) == first == read_all(run)
    assert len(in_process) == 1
    last = read(run)
    assert last == first[-1]
    assert isinstance(last.parts["te1"], Part)
    write_lora(run.weights / "some.safetensors", parts=("te1",), strength=0.2)  # another file of the same name
    assert measure(question, keep_in=run) != first
    assert len(in_process) == 2


@pytest.mark.parametrize("text", ["", "[]", "{", '{"version": 0}', '{"version": 1, "checkpoints": [{"parts": 3}]}'])
def test_damaged_measurements_count_as_none(tmp_path: Path, text: str) -> None:
    run = make_run(tmp_path)
    run.analysis.mkdir()
    (run.analysis / embeddings.FILE).write_text(text)
    assert read(run) is None


def test_a_run_without_its_dataset_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.dataset.unlink()
    with pytest.raises(ArchiveError, match="does not tell its captions"):
        question_of(run, Workspace(tmp_path))


@pytest.mark.slow
def test_the_program_itself_tells_its_errors(tmp_path: Path) -> None:
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(b"\x00" * 20)
    with pytest.raises(ModelFileError, match="torn"):
        measure(Question(torn, CAPTIONS))
    records: list[dict[str, Any]] = []
    measure(Question(bench_checkpoint(), CAPTIONS), on_record=records.append)
    assert [record["type"] for record in records] == ["phase", "progress", "progress"]
