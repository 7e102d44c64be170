"""Prompt files, in the trainer's syntax."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lorakit.errors import TrainerError
from lorakit.trainers.builtin.prompts import SamplePrompt, parse_line, read_prompts


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a zorp", SamplePrompt("a zorp")),
        (
            "a zorp --n bad, worse --w 832 --h 1216 --d 7 --s 28 --l 5.5 --ss euler_a",
            SamplePrompt("a zorp", "bad, worse", 832, 1216, 28, 5.5, 7, "euler_a"),
        ),
        ("a zorp --W 640 --L 3", SamplePrompt("a zorp", width=640, scale=3.0)),
        ("a zorp --w 640px --d 12abc", SamplePrompt("a zorp", width=640, seed=12)),
        ("a zorp --s 5000", SamplePrompt("a zorp", steps=1000)),
        ("a zorp --s 0", SamplePrompt("a zorp", steps=1)),
        ("a zorp --g 3 --fs 1 --am 0.5 --unknown --w", SamplePrompt("a zorp")),
        ("n is a letter", SamplePrompt("n is a letter")),
        ("well-known --style art", SamplePrompt("well-known")),
    ],
)
def test_a_line(line: str, expected: SamplePrompt) -> None:
    assert parse_line(line) == expected


@given(st.text())
@example("--w 3")
@example(" -- -- --n")
def test_any_line_gives_a_prompt(line: str) -> None:
    prompt = parse_line(line)
    assert prompt.steps >= 1
    fitted = prompt.fitted()
    assert fitted.width % 32 == fitted.height % 32 == 0
    assert fitted.width >= 64


def test_sizes_are_rounded_down_to_what_sdxl_draws() -> None:
    prompt = SamplePrompt("a", width=130, height=10)
    assert (prompt.fitted().width, prompt.fitted().height) == (128, 64)
    fine = SamplePrompt("a")
    assert fine.fitted() is fine


def test_a_text_file_with_comments(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("\ufeff# a comment\n\none --w 64\n  two  \n", encoding="utf-8")
    assert read_prompts(path) == (SamplePrompt("one", width=64), SamplePrompt("two"))


def test_a_toml_file_with_defaults(tmp_path: Path) -> None:
    path = tmp_path / "prompts.toml"
    path.write_text(
        '[prompt]\nwidth = 640\nnegative_prompt = "bad"\n[[prompt.subset]]\nprompt = "one"\n'
        '[[prompt.subset]]\nprompt = "two"\nwidth = 64\nseed = 3\nscale = 4\nsample_steps = 9\nsample_sampler = "ddim"\n'
    )
    assert read_prompts(path) == (
        SamplePrompt("one", "bad", 640),
        SamplePrompt("two", "bad", 64, 512, 9, 4.0, 3, "ddim"),
    )


def test_a_json_file_of_lines_and_tables(tmp_path: Path) -> None:
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps(["one --w 64", {"prompt": "two", "height": 64, "seed": None}]))
    assert read_prompts(path) == (SamplePrompt("one", width=64), SamplePrompt("two", height=64))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.toml", b"[prompt"),
        ("p.toml", b"prompt = 3"),
        ("p.toml", b"[[prompt.subset]]\nwidth = 3"),
        ("p.json", b"{}"),
        ("p.json", b'[{"prompt": "a", "width": "wide"}]'),
        ("p.json", b"[3]"),
        ("p.json", b'[{"prompt": "a", "width": [1]}]'),
        ("p.txt", b"\xff\xfe"),
        ("p.yaml", b"a"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(TrainerError, match=name):
        read_prompts(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match="cannot be read"):
        read_prompts(tmp_path / "none.txt")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=80), kind=st.sampled_from(["txt", "toml", "json"]))
@example(content=b"[" * 5000, kind="json")
@example(content=b"prompt = {subset = 3}", kind="toml")
@example(content=b"prompt.subset = [1]", kind="toml")
def test_hostile_files_end_in_prompts_or_a_trainer_error(tmp_path: Path, content: bytes, kind: str) -> None:
    path = tmp_path / f"p.{kind}"
    path.write_bytes(content)
    try:
        prompts = read_prompts(path)
    except TrainerError:
        return
    assert all(isinstance(prompt.prompt, str) for prompt in prompts)
