"""The catalogue of the trainer's options and the parser made of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorakit.errors import TrainerError
from lorakit.trainers.catalogue import Catalogue, int_or_float


def test_every_option_is_there_with_the_trainers_defaults() -> None:
    catalogue = Catalogue.load()
    assert len(catalogue.flags) == 196
    parsed = vars(catalogue.parser().parse_args([]))
    assert len(parsed) == 196
    assert parsed["caption_extension"] == ".caption"
    assert parsed["max_bucket_reso"] == 1024
    assert parsed["learning_rate"] == 2e-6
    assert parsed["gradient_checkpointing"] is False


@pytest.mark.parametrize(
    ("text", "value"), [("0", 0.0), ("100", 100), ("0.05", 0.05), ("5%", 0.05), ("100%", 1.0), ("1", 1)]
)
def test_counts_and_ratios_are_spelled_the_trainers_way(text: str, value: float) -> None:
    assert int_or_float(text) == value
    assert isinstance(int_or_float(text), type(value))


@pytest.mark.parametrize("text", ["1.0", "1e2", "", "%", "five"])
def test_spellings_that_the_trainer_rejects(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        int_or_float(text)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--no_such_flag"],
        ["--max_token_length", "75"],
        ["--network_dim", "four"],
        ["--lr_warmup_steps", "1.0"],
        ["--network_di", "4"],  # no abbreviations: a new option of the trainer would change their meaning
        ["--loss_type", "l3"],
    ],
)
def test_bad_arguments_are_a_trainer_error(arguments: list[str]) -> None:
    with pytest.raises(TrainerError) as caught:
        Catalogue.load().parser().parse_args(arguments)
    assert arguments[0] in caught.value.what


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=3))
def test_lists_of_numbers_come_back(values: list[float]) -> None:
    argv = ["--text_encoder_lr", *(repr(value) for value in values)]
    if any(value < 0 and "e" in repr(value) for value in values):
        argv = ["--learning_rate=" + repr(values[0])]
        assert Catalogue.load().parser().parse_args(argv).learning_rate == values[0]
    else:
        assert Catalogue.load().parser().parse_args(argv).text_encoder_lr == values
