"""The bench model: an ordinary checkpoint of the family, and its command line."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from lorakit.bench_model.__main__ import main
from lorakit.bench_model.shape import SIZES, tensor_shapes
from lorakit.bench_model.weights import make_tensor
from lorakit.bench_model.writer import write_checkpoint
from lorakit.errors import DiskError, UsageError
from lorakit.trainers.builtin.checkpoint import PREFIXES, load_base
from lorakit.trainers.builtin.lora import targets
from lorakit.trainers.builtin.text import encode, size_condition
from lorakit.trainers.builtin.tokenizers import load_tokenizers
from tests.bench_models import bench_checkpoint

ROOT = Path(__file__).parents[2]


def sizes(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, int]]:
    """Tensors and parameters per part."""
    parts = {part: [v for k, v in shapes.items() if k.startswith(prefix)] for part, prefix in PREFIXES.items()}
    return {part: (len(found), sum(math.prod(shape) for shape in found)) for part, found in parts.items()}


def test_full_has_the_tensors_of_the_real_sdxl() -> None:
    assert sizes(tensor_shapes(SIZES["full"])) == {
        "unet": (1680, 2_567_463_684),
        "te1": (196, 123_060_480),
        "te2": (390, 694_659_841),
        "vae": (248, 83_653_863),
    }


def test_slim_has_the_names_of_full_and_its_lora_modules() -> None:
    slim = tensor_shapes(SIZES["slim"])
    assert slim.keys() == tensor_shapes(SIZES["full"]).keys()
    found = targets(load_base(bench_checkpoint("slim")))
    assert {part: len(modules) for part, modules in found.items()} == {"te1": 72, "te2": 192, "unet": 722}


def test_every_size_has_the_whole_vocabulary_and_heads_of_64() -> None:
    for name in SIZES:
        shapes = tensor_shapes(SIZES[name])
        assert shapes[PREFIXES["te2"] + "token_embedding.weight"][0] == 49408
        widths = [shape[0] for key, shape in shapes.items() if key.endswith("attn1.to_q.weight")]
        assert all(width % 64 == 0 for width in widths)


@pytest.mark.parametrize("size", ["tiny", "slim"])
def test_activations_neither_vanish_nor_explode(size: str) -> None:
    base = load_base(bench_checkpoint(size))
    with torch.no_grad():
        images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
        latents = base.vae.encode(images).latent_dist.mean * base.vae.config.scaling_factor
        assert 0.3 < latents.std() < 3
        assert 0.1 < base.vae.decode(latents / base.vae.config.scaling_factor).sample.std() < 3
        text = encode(base, load_tokenizers(), ["a photo of a zorp", "a red circle"])
        assert 0.1 < text.hidden.std() < 10
        assert 0.1 < text.pooled.std() < 10
        assert (text.hidden[0] - text.hidden[1]).std() > 0.01
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))
        size_ids = size_condition([(64, 96)] * 2, [(0, 0)] * 2, [(64, 96)] * 2)
        condition = {"text_embeds": text.pooled, "time_ids": size_ids}
        times = torch.tensor([20, 999])
        predicted = base.unet(noise, times, text.hidden, added_cond_kwargs=condition).sample
        # it begins as a weak denoiser: better than predicting nothing where all is noise
        assert (predicted - noise).square().mean() < 0.7
        swapped = base.unet(noise, times, text.hidden.flip(0), added_cond_kwargs=condition).sample
        assert (predicted - swapped).abs().max() > 1e-4  # the caption matters


def test_the_same_seed_gives_the_same_bytes_and_another_another(tmp_path: Path) -> None:
    one, two, other = (tmp_path / f"{name}.safetensors" for name in ("one", "two", "other"))
    reports: list[tuple[int, int]] = []
    size = write_checkpoint(one, progress=lambda done, total: reports.append((done, total)))
    write_checkpoint(two)
    write_checkpoint(other, seed=1)
    assert one.read_bytes() == two.read_bytes()
    assert one.stat().st_size == other.stat().st_size == size
    key = "model.diffusion_model.input_blocks.4.1.proj_in.weight"
    assert not torch.equal(load_file(one)[key], load_file(other)[key])
    assert reports[-1] == (size, size)
    assert [done for done, _ in reports] == sorted(done for done, _ in reports)
    with safe_open(one, framework="pt") as file:
        assert "random weights" in (file.metadata() or {})["modelspec.title"]


def test_dtypes_hold_the_same_values() -> None:
    name = "model.diffusion_model.input_blocks.4.1.proj_in.weight"
    exact = make_tensor(name, (64, 64), seed=0)
    for dtype in ("bf16", "fp32"):
        stored = load_file(bench_checkpoint("tiny", dtype))[name]
        assert torch.equal(stored, exact.to(stored.dtype))


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskError, match="cannot be written"):
        write_checkpoint(tmp_path / "model.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_unknown_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no bench model"):
        write_checkpoint(tmp_path / "model.safetensors", size="huge")


# ---- command line ----


def test_the_command_line_writes_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "model.safetensors"
    assert main(["write", str(path), "--dtype", "bf16", "--seed", "3"]) == 0
    assert path.is_file()
    said = capsys.readouterr()
    assert f"{path.stat().st_size:,} bytes" in said.out
    assert "100%" in said.err
    assert main(["concepts", str(tmp_path / "demo"), "zorp"]) == 0
    assert "16 pictures" in capsys.readouterr().out


def test_an_error_has_words_and_a_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["write", str(tmp_path / "file" / "model.safetensors")]) == 11
    assert "cannot be written" in capsys.readouterr().err
    assert main(["concepts", str(tmp_path / "file" / "demo")]) == 11


def test_the_examples_of_the_docs_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "bench-model.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    prefix = "    python -m lorakit.bench_model "
    examples = [line.removeprefix(prefix).split() for line in page.splitlines() if line.startswith(prefix)]
    assert len(examples) >= 6
    for example in examples:
        if not {"full", "train", "score"} & {*example}:  # 7 GB, an hour, and a run: others do these
            assert main(example) == 0
    assert round((tmp_path / "tiny.safetensors").stat().st_size / 1e6) == 28
    assert round((tmp_path / "slim.safetensors").stat().st_size / 1e6) == 77
