"""A preset file that cannot be read is one clear sentence, whatever the file is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lorakit.errors import PresetError
from lorakit.preset.files import load_preset
from lorakit.preset.source import MAX_BYTES, display, parse_source

from .conftest import LEAST, told

if TYPE_CHECKING:
    from .conftest import Write


def test_a_missing_file_names_similar_ones(write: Write) -> None:
    write(name="presets/hifumi.toml")
    write(name="presets/other.toml")
    assert told(Path("presets/hifmi.toml")) == [
        "presets/hifmi.toml: presets/hifmi.toml does not exist; did you mean presets/hifumi.toml?"
    ]


def test_a_missing_folder(write: Write) -> None:
    path = write()
    assert "does not exist" in told(Path("nowhere/at/all.toml"))[0]
    assert "does not exist" in told(path / "inside.toml")[0]


def test_a_folder(write: Write) -> None:
    write(name="presets/hifumi.toml")
    assert told(Path("presets")) == ["presets: presets is a folder, not a preset; give one of its files: hifumi.toml"]


def test_a_checkpoint_given_for_a_preset(write: Write) -> None:
    path = write(name="xl.safetensors")
    with path.open("r+b") as file:
        file.truncate(100 * MAX_BYTES)  # sparse: takes no space
    assert told(path) == [
        (
            "xl.safetensors: xl.safetensors is too large for a preset; it has 100.0 MB, and a preset has a few kB; "
            "give the .toml file of the preset, not a model or an archive"
        )
    ]


def test_text_that_is_not_utf8(write: Write) -> None:
    path = write()
    path.write_bytes(b'# ok\nname = "caf\xe9"\n')
    assert told(path) == [
        (
            "hifumi.toml:2: hifumi.toml is not UTF-8 text; byte 0xe9 in line 2 does not belong to any UTF-8 character; "
            "save the file as UTF-8; if it is not a preset at all, give the .toml file"
        )
    ]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_refused_and_not_waited_for(write: Write) -> None:
    write()
    os.mkfifo("pipe.toml")
    assert "is not a regular file" in told(Path("pipe.toml"))[0]


def test_a_file_that_may_not_be_read(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    path = write()
    monkeypatch.setattr("lorakit.preset.source._read", refuse)  # root may read everything
    assert told(path) == ["hifumi.toml: hifumi.toml cannot be read; Permission denied"]


def test_links_in_a_circle(write: Write) -> None:
    write()
    Path("a.toml").symlink_to("b.toml")
    Path("b.toml").symlink_to("a.toml")
    assert "a.toml cannot be read" in told(Path("a.toml"))[0]


@pytest.mark.parametrize("name", ["a\0b.toml", "x" * 5000 + ".toml", "\ud800.toml"])
def test_names_that_no_file_has(write: Write, name: str) -> None:
    write()
    assert told(Path(name))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("dim = = 4", "Invalid value: dim = = 4"),
        ("model = xl.safetensors", 'Invalid value: model = xl.safetensors; write texts and paths in "quotes"'),
        (r'model = "C:\models\xl"', "write paths with / or in 'single quotes', where a backslash is only a backslash"),
        ("dim: 4", "write key = value, not key: value"),
        ('name = "hifumi"', "Cannot overwrite a value: name ="),
    ],
)
def test_a_slip_in_the_toml_names_its_line_and_a_way_out(write: Write, line: str, said: str) -> None:
    (message,) = told(write(f"{LEAST}{line}\n[network]\n"))
    assert message.startswith("hifumi.toml:7: hifumi.toml is not valid TOML; ")
    assert said in message


def test_a_slip_at_the_end_of_the_file(write: Write) -> None:
    (message,) = told(write(f"{LEAST}[network]\nargs = [ 1,\n\n"))
    assert message.startswith("hifumi.toml:8:")


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "a = " + "[" * 5000 + "]" * 5000, "a = " + "{b=" * 3000, "a = " + "9" * 5000]
)
def test_toml_made_to_hurt(write: Write, text: str) -> None:
    assert len(told(write(text))) == 1


def test_a_byte_order_mark_is_no_problem_and_stays_in_the_text(write: Write) -> None:
    resolved = load_preset(write("\ufeff" + LEAST.replace("\n", "\r\n")))
    assert resolved.preset.name == "hifumi"
    assert resolved.source_text == "\ufeff" + LEAST.replace("\n", "\r\n")
    assert resolved.provenance["name"].line == 1


def test_a_path_with_control_characters_is_shown_on_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert display(Path("a\nb\x1b[31m.toml")) == r"a\nb\x1b[31m.toml"
    assert display(tmp_path / "x.toml") == "x.toml"
    assert display(tmp_path.parent / "x.toml") == str(tmp_path.parent / "x.toml")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=80) | st.text(max_size=80).map(lambda text: text.encode("utf-8", "surrogatepass")))
@example(b"extends = 'hifumi'")
@example(b"[extends]")
@example(b"extends = '\\u0000'")
@example(b"[[base]]\n[[base]]")
@example(b"name.name.name = 1")
@example(b"extra.x.y = 1979-05-27")
@example(b'optim.args."" = nan\noptim.args.x = [inf, [1]]')
@example(b"optim = 1\ndataset = []\nlength = ''\n")
def test_any_bytes_at_all_are_refused_with_problems(write: Write, raw: bytes) -> None:
    path = write()
    path.write_bytes(raw)
    with pytest.raises(PresetError) as caught:  # no 80 bytes are a whole preset
        load_preset(path)
    assert caught.value.problems
    assert all(problem.what and "\n" not in problem.where for problem in caught.value.problems)


def test_parse_source_keeps_the_text(tmp_path: Path) -> None:
    source = parse_source(tmp_path / "x.toml", "a = 1\n  b = 2  \n[c]\nd.e = 3\n")
    assert source.line_text(2) == "b = 2"
    assert source.line_of(("c", "d", "e")) == 4
    assert source.line_of(("c", "unknown")) == 3
    assert source.line_of(("nowhere",)) is None
