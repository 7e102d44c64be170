"""CLIP's tokens: the real ids, the pads of the two encoders, and long captions in chunks."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from lorakit.errors import TrainerError
from lorakit.trainers.builtin.tokenizers import BOS, EOS, FOLDERS, Tokenizer, Tokenizers, load_tokenizers


def test_ids_are_those_of_clip(tokenizers: Tokenizers) -> None:
    first, second = tokenizers.encode(["A person riding a motorcycle"])
    words = [320, 2533, 6765, 320, 10297]
    assert first.shape == second.shape == (1, 1, 77)
    assert first[0, 0].tolist() == [BOS, *words, EOS, *[EOS] * 70]
    assert second[0, 0].tolist() == [BOS, *words, EOS, *[0] * 70]
    assert tokenizers.first.count("A person riding a motorcycle") == 5


def test_the_empty_caption_is_begin_and_end(tokenizers: Tokenizers) -> None:
    first, second = tokenizers.encode([""])
    assert first[0, 0].tolist() == [BOS] + [EOS] * 76
    assert second[0, 0].tolist() == [BOS, EOS] + [0] * 75


def test_case_spaces_and_composition_do_not_matter_and_special_words_are_themselves(tokenizers: Tokenizers) -> None:
    words = tokenizers.first.words
    assert words("A  Red\n\tCat") == words("a red cat")
    assert words("cafe\u0301") == words("caf\u00e9")
    assert words("a <|endoftext|> b") == [*words("a"), EOS, *words("b")]


def count_up(pad: int) -> Tokenizer:
    """A tokenizer whose text is a number: that many words with the ids 1, 2, 3 …"""
    return Tokenizer(lambda text: list(range(1, int(text) + 1)), pad)


@pytest.mark.parametrize("pad", [EOS, 0])
def test_a_long_caption_is_cut(pad: int) -> None:
    row = count_up(pad).encode("100")
    assert row.tolist() == [[BOS, *range(1, 76), EOS]]


def test_chunks_of_a_tokenizer_that_pads_with_eos() -> None:
    rows = count_up(EOS).encode("80", 225)
    assert rows.shape == (3, 77)
    assert rows[0].tolist() == [BOS, *range(1, 76), EOS]
    assert rows[1].tolist() == [BOS, *range(76, 81), *[EOS] * 71]
    assert rows[2].tolist() == [BOS] + [EOS] * 76


def test_chunks_of_a_tokenizer_that_pads_with_zero() -> None:
    rows = count_up(0).encode("80", 225)
    assert rows[0].tolist() == [BOS, *range(1, 76), EOS]  # full: ends itself
    assert rows[1].tolist() == [BOS, *range(76, 81), EOS, *[0] * 70]
    assert rows[2].tolist() == [BOS, EOS] + [0] * 75  # empty: as the empty caption


@pytest.mark.parametrize("words", [0, 1, 74, 75, 76, 149, 150, 151, 400])
@pytest.mark.parametrize("pad", [EOS, 0])
def test_no_word_is_lost_in_150_tokens(words: int, pad: int) -> None:
    rows = count_up(pad).encode(str(words), 150)
    assert rows.shape == (2, 77)
    assert (rows[:, 0] == BOS).all()
    middles = rows[:, 1:-1].flatten()
    assert middles[(middles != pad) & (middles != EOS)].tolist() == list(range(1, min(words, 150) + 1))
    assert (rows == EOS).any(dim=1).all()


def test_a_length_that_is_no_multiple_of_75_is_refused() -> None:
    with pytest.raises(TrainerError, match="not a multiple"):
        count_up(0).encode("1", 100)


# ---- where the vocabulary comes from ----


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A tokenizer cache with a vocabulary of letters and one merge."""
    letters = [*"abcdefghijklmnopqrstuvwxyz"]
    vocabulary = [*letters, *(letter + "</w>" for letter in letters), "zo", "<|startoftext|>", "<|endoftext|>"]
    for name in FOLDERS:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(vocabulary)}))
        (folder / "merges.txt").write_text("#version: 0.2\nz o\n")
        (folder / "tokenizer_config.json").write_text(
            json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 77})
        )
        (folder / "special_tokens_map.json").write_text(
            json.dumps({"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"})
        )
    return tmp_path


def test_a_cache_folder_is_read(cache: Path) -> None:
    tokenizers = load_tokenizers(cache)
    assert tokenizers.source == str(cache)
    first, second = tokenizers.encode(["Zob"])
    assert first[0, 0, :4].tolist() == [BOS, 52, 27, EOS]
    assert second[0, 0, 4] == 0


def test_a_long_caption_from_a_cache_folder_is_quiet(cache: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert torch.is_tensor(load_tokenizers(cache).first.encode("z " * 300))
    assert "longer than" not in "".join(capfd.readouterr())


def test_an_incomplete_cache_folder_is_refused(cache: Path) -> None:
    (cache / FOLDERS[1] / "merges.txt").unlink()
    with pytest.raises(TrainerError, match=r"merges\.txt not found") as caught:
        load_tokenizers(cache)
    assert "--tokenizer_cache_dir" in caught.value.todo


def test_a_damaged_cache_folder_is_refused(cache: Path) -> None:
    (cache / FOLDERS[0] / "vocab.json").write_text("{")
    with pytest.raises(TrainerError, match="cannot be read"):
        load_tokenizers(cache)


def test_without_package_and_folder_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "instant_clip_tokenizer", None)
    with pytest.raises(TrainerError, match="no CLIP vocabulary") as caught:
        load_tokenizers()
    assert "--tokenizer_cache_dir" in caught.value.todo


def test_text_is_mended_as_clip_does_it(tokenizers: Tokenizers) -> None:
    for written, meant in [("a “zorp”", 'a "zorp"'), ("ｚｏｒｐ", "zorp"), ("it’s", "it's")]:
        assert torch.equal(tokenizers.first.encode(written), tokenizers.first.encode(meant))
