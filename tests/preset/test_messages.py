"""What a reader is told: in words, with the key, the line, and what was probably meant."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from lorakit.errors import PresetError
from lorakit.preset.dump import spell
from lorakit.preset.fields import choices, field_flag, flag, is_text, words
from lorakit.preset.files import load_text
from lorakit.preset.models import Preset
from lorakit.preset.schema import TABLES, fields, is_open, model_at
from lorakit.preset.suggest import meant
from lorakit.preset.table import Table
from lorakit.preset.toml_lines import dotted

from .conftest import LEAST, told
from .strategies import plain_values

if TYPE_CHECKING:
    from lorakit.preset.toml_lines import KeyPath

    from .conftest import Write

FLOATS = [path for path, field in fields() if words(field).startswith("a number")]
INTEGERS = [path for path, field in fields() if words(field).startswith(("a whole number", "a timestep"))]
PATHS = [path for path, field in fields() if words(field) == "a path"]
VALUES = [(path, field) for path, field in fields() if not is_open(path)]


def with_value(path: KeyPath, value: str) -> str:
    """The least preset with one more value, given as TOML; keys that it rules out are left out."""
    rivals = {"length.steps": "length.epochs", "dataset.config": "dataset.path"}
    skip = {dotted(path), rivals.get(dotted(path))}
    lines = [line for line in LEAST.splitlines() if line.split(" ")[0] not in skip]
    return f"{dotted(path)} = {value}\n" + "\n".join(lines) + "\n"


def refusal(path: KeyPath, value: str) -> str:
    with pytest.raises(PresetError) as caught:
        load_text(with_value(path, value), Path("x.toml"))
    problem = caught.value.problems[0]
    assert problem.key == dotted(path)
    assert problem.where == "x.toml:1"
    return f"{problem.what}; {problem.why}; {problem.todo}"


def accepted(path: KeyPath, value: str) -> Any:
    found: Any = load_text(with_value(path, value), Path("x.toml")).preset
    for part in path:
        found = getattr(found, part)
    return found


# Every key


@pytest.mark.parametrize(("path", "field"), VALUES, ids=lambda value: dotted(value) if isinstance(value, tuple) else "")
def test_every_key_refuses_a_table_a_date_and_lists_of_texts_in_words(path: KeyPath, field: Any) -> None:
    for value in ("{ a = 1 }", "1979-05-27", '["a", "b", "c"]', "[[]]"):
        said = refusal(path, value)
        assert said.startswith(f"{dotted(path)} = ")
        assert "input" not in said.lower()
        assert len(said) < 400


@pytest.mark.parametrize("path", FLOATS, ids=dotted)
def test_numbers(path: KeyPath) -> None:
    for value in ("nan", "inf", "-inf"):
        assert "neither infinity nor NaN" in refusal(path, value) or "takes a number" in refusal(path, value)
    for value in ("true", '"0.5"', '""', "[1]"):
        assert "it takes a number" in refusal(path, value)
    number, part = ("3", "1.5") if "above 1" in refusal(path, '"x"') else ("1", "0.5")
    whole = accepted(path, number)
    assert (whole, type(whole)) == (float(number), float)
    assert type(accepted(path, part)) is float


@pytest.mark.parametrize("path", INTEGERS, ids=dotted)
def test_whole_numbers(path: KeyPath) -> None:
    for value in ("true", "5.5", "nan", '"5"', "-1", "99999999999999999999"):
        assert "it takes a" in refusal(path, value)
    assert refusal(path, "5.0").endswith("write 5") or "timestep" in refusal(path, "5.0")
    assert accepted(path, "5") == 5


@pytest.mark.parametrize("path", PATHS, ids=dotted)
def test_paths(path: KeyPath) -> None:
    assert "an empty text says nothing" in refusal(path, '""')
    assert "an empty text says nothing" in refusal(path, '" "')
    assert "NUL" in refusal(path, '"a\\u0000b"')
    assert refusal(path, "5").endswith('write "5"')
    for name in ("a b", "--x", "a'\"b", "日本", "a\nb", "a=b"):
        assert accepted(path, spell(name)) == name


@pytest.mark.parametrize(
    "name", ["a", "a b", "--x", "-", 'say "hi"', "it's", "日本語", "näme", "🙂", "a=b", "$(rm)", "x" * 200, "a.b", "%s"]
)
def test_names_that_may_be(name: str) -> None:
    assert accepted(("name",), spell(name)) == name


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "empty"),
        ("   ", "empty"),
        ("a\nb", "control characters"),
        ("a\x1b[31m", "control characters"),
        ("a\x7f", "control characters"),
        ("a\u2028b", "line ends"),
        ("a\0b", "control characters"),
        ("a/b", "slash"),
        ("a\\b", "slash"),
        ("..", "slash"),
        ("x" * 201, "too long"),
        ("日" * 67, "too long"),
    ],
)
def test_names_that_may_not_be(name: str, why: str) -> None:
    assert why in refusal(("name",), spell(name))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        (
            "optim.warmup", "100.0",
            ("optim.warmup = 100.0; 100.0 could mean 100 steps or 100 times the run; "
            'the trainer would take it as the second; write "100 steps" or "5%"'),
        ),
        ("network.dim", '"16"', 'network.dim = "16"; it takes a whole number of at least 1; write 16, without quotes'),
        ("dataset.bucket", "1", "dataset.bucket = 1; it takes true or false; write true"),
        ("dataset.bucket", '"off"', 'dataset.bucket = "off"; it takes true or false; write false'),
        ("precision.mixed", '"fp61"', 'precision.mixed = "fp61"; it takes one of "no", "fp16", "bf16"; did you mean "fp16"?'),
        ("dataset.max_token_length", "100", "dataset.max_token_length = 100; it takes one of 75, 150, 225; "),
        ("network.alpha", "true", 'network.alpha = true; alpha is a positive number, "dim" or "dim/2", not true; '),
        ("optim.te_lr", "[1e-4]", "optim.te_lr = [0.0001]; give one rate for both text encoders or a pair [TE1, TE2], not 1 values; "),
        ("network", "[]", "network = []; network is a table; write [network] and its keys below"),
        ("extra", "5", "extra = 5; it takes a table of arguments, each a text, a number, true, false, or a list of these; "),
        ("seed", "-1", "seed = -1; it takes a whole number from 0 to 4294967295; "),
    ],
)  # fmt: skip
def test_what_is_said(key: str, value: str, said: str) -> None:
    assert refusal(tuple(key.split(".")), value) == said


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("optim.args.betas = [nan]", "an argument is a text, a finite number, true or false, not nan"),
        ("optim.args.x = { y = 1 }", "an argument is a text, a finite number, true or false, not {y = 1}"),
        ("network.args.x = [1]", "an argument is a text, a finite number, true or false, not [1]"),
        ("extra.x = 1979-05-27", "an argument is a text, a finite number, true or false, not 1979-05-27"),
        ('optim.args."a b" = 1', 'an argument\'s name is made of letters, digits and underscores, unlike "a b"'),
    ],
)
def test_free_arguments(write: Write, line: str, said: str) -> None:
    (message,) = told(write(f"{line}\n{LEAST}"))
    assert message.startswith(f"hifumi.toml:1: {line.split(' = ', maxsplit=1)[0]} = ")
    assert message.endswith(said)


# What was meant


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("network.dmi", "did you mean network.dim?"),
        ("optim.te-lr", "did you mean optim.te_lr?"),
        ("nmae", "did you mean name?"),
        ("netwrk", "did you mean [network]?"),
        ("optimizer", "did you mean [optim]?"),
        ("network.unet_lr", "unet_lr belongs to [optim]"),
        ("dim", "dim belongs to [network]"),
        ("optim.name", "name belongs to the top, before any table"),
        ("network.every_n_epochs", "every_n_epochs belongs to [save] or [sample] or [validation]"),
        ("save.precision", "did you mean precision.save?"),
        ("network.network_dim", "network_dim is the trainer's name for it; write network.dim"),
        ("train_batch_size", "train_batch_size is the trainer's name for it; write length.batch_size"),
        ("--max_train_epochs", "max_train_epochs is the trainer's name for it; write length.epochs"),
        ("optim.learning_rate", "learning_rate is the trainer's own; lorakit writes the rates of the parts: optim.unet_lr and optim.te_lr"),
        ("memory.xformers", 'xformers is the trainer\'s own; write memory.attention = "xformers"'),
        ("network.rank", "did you mean network.dim?"),
        ("dataset.num_repeats", "repeats stand in the folder's name: 3_hifumi is repeated 3 times"),
        ("trian.steps", "steps belongs to [length]"),
        ("optm.unet_lr", "did you mean optim.unet_lr?"),
        ("save.last_n_epoch_states", "did you mean save.last_n_epochs_state?"),
        ("log.gradient_checkpoint", "did you mean memory.gradient_checkpointing?"),
        ("zz.ceckpointing_ofload_cpu", "the keys are in docs/presets.md; other options of the trainer go under [extra]"),
        ("launch.shuffle_captions", "did you mean dataset.shuffle_caption?"),
        ("zzzzzz", "the keys are in docs/presets.md; other options of the trainer go under [extra]"),
    ],
)  # fmt: skip
def test_what_an_unknown_key_may_have_meant(key: str, said: str) -> None:
    assert meant(tuple(key.split("."))) == said


def test_every_option_of_the_trainer_leads_to_its_key() -> None:
    names = {path[-1] for path, _ in fields()}
    for path, _ in fields():
        option = field_flag(model_at(path[0] if len(path) > 1 else ""), path[-1])
        if option and (name := option.removeprefix("--")) not in names:
            assert meant(("network", name)) == f"{name} is the trainer's name for it; write {dotted(path)}"


@settings(deadline=None)
@given(st.lists(st.text(max_size=10), min_size=1, max_size=4).map(tuple))
def test_any_unknown_key_gets_a_sentence(path: KeyPath) -> None:
    assert meant(path)


def test_an_unknown_table_is_told_once(write: Write) -> None:
    assert told(write(f"{LEAST}[netwrk]\ndim = 4\nalpha = 4\n")) == [
        "hifumi.toml:7: there is no table [netwrk]; did you mean [network]?"
    ]


def test_problems_come_in_the_order_of_the_file(write: Write) -> None:
    lines = "loss.huber_c = -1\nseed = -1\noptim.cycles = 0\nnope = 1\nbase.clip_skip = 0\n"
    assert [message.split(":")[1] for message in told(write(lines + LEAST))] == ["1", "2", "3", "4", "5"]


def test_what_is_missing(write: Write) -> None:
    messages = told(write("[optim]\n"))
    assert [message.split(";")[0] for message in messages] == [
        "hifumi.toml: name is missing",
        "hifumi.toml: base.model is missing",
        "hifumi.toml: dataset is missing",
        "hifumi.toml:1: optim.unet_lr is missing",
        "hifumi.toml:1: optim.te_lr is missing",
        "hifumi.toml: length is missing",
    ]
    assert all("; write " in message for message in messages)


def test_the_error_itself_counts(write: Write) -> None:
    with pytest.raises(PresetError, match=r"^hifumi\.toml has a problem\n"):
        load_text("network.dmi = 1\n" + LEAST, write())
    with pytest.raises(PresetError, match=r"^hifumi\.toml has 2 problems\n"):
        load_text("network.dmi = 1\nx = 1\n" + LEAST, write())


# The tables themselves


def test_every_default_is_what_loading_it_gives() -> None:
    for path, field in fields():
        if not field.is_required() and field.default is not None and not is_open(path):
            again = accepted(path, spell(field.default, path))
            assert (again, type(again)) == (field.default, type(field.default)), dotted(path)


def test_tables_are_frozen_and_closed() -> None:
    assert set(TABLES) <= set(Preset.model_fields)
    preset = load_text(LEAST, Path("x.toml")).preset
    with pytest.raises(ValidationError):
        preset.network.dim = 3  # type: ignore[misc]
    with pytest.raises(ValidationError):
        type(preset.network)(dmi=3)  # type: ignore[call-arg]


def test_a_preset_survives_its_own_plain_form() -> None:
    preset = load_text(LEAST, Path("x.toml")).preset
    assert Preset.model_validate(preset.model_dump()) == preset
    assert Preset.model_validate_json(preset.model_dump_json()) == preset


def test_text_keys_are_told_from_others() -> None:
    known = dict(fields())
    assert is_text(known["name",])
    assert is_text(known["launch", "gpu_ids"])
    assert not is_text(known["network", "dim"])
    assert not is_text(known["precision", "mixed"])
    assert choices(known["precision", "mixed"]) == ("no", "fp16", "bf16")


def test_a_type_without_words_is_noticed() -> None:
    class Odd(Table):
        value: bytes = flag(None, b"", "nothing")

    with pytest.raises(TypeError, match="has no name in words"):
        words(Odd.model_fields["value"])


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_what_a_key_takes_is_accepted(data: st.DataObject) -> None:
    path, field = data.draw(st.sampled_from(VALUES))
    accepted(path, spell(data.draw(plain_values(path, field)), path))
