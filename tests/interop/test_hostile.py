"""Files that are no recipe, half of one, or meant to do harm: a clear sentence each, and nothing is run."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorakit.errors import UsageError
from lorakit.interop.convert import convert
from lorakit.interop.document import MAX_BYTES, Document, read_document
from lorakit.interop.powershell import Unreadable, evaluate, read_script
from lorakit.interop.recognise import import_file, import_text, recognise
from lorakit.preset.files import load_text
from tests.cli.running import Cli

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("a.json", b'{"network_dim": 8, "lr', "not whole JSON: line 1"),
        ("a.json", b"[" * 100_000, "cannot be read as JSON"),
        ("a.json", b"[1, 2]", "no object"),
        ("a.json", b'{"nodes": [], "links": []}', "ComfyUI"),
        ("a.json", b'{"x": 1}', "belong to no trainer"),
        ("a.toml", b"a = [1, ", "not whole TOML"),
        ("a.toml", b'[base]\nmodel = "x"\n', "preset of lorakit already"),
        ("a.txt", b"\x00\x01\x02 binary", "binary"),
        ("a.ps1", b"", "empty"),
        ("a.sh", b"#!/bin/sh\necho hello\n", "without a training command"),
        ("a.txt", b"<!DOCTYPE html><p>", "web page"),
        ("a.zip", b"PK\x03\x04rest", "import-run"),
        ("a.safetensors", b"\xff" * 40, "no whole .safetensors"),
        ("a.safetensors", b"", "no whole .safetensors"),
        ("a.safetensors", b"\x02\0\0\0\0\0\0\0{}", "without metadata"),
        ("a.txt", b"just words", "begins"),
    ],
)
def test_what_is_no_recipe_is_told_what_it_looks_like(tmp_path: Path, name: str, content: bytes, word: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        import_file(path)
    assert word in f"{caught.value.what} {caught.value.why} {caught.value.todo}"


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.json"
    with open(path, "wb") as file:
        file.truncate(100_000_000)
    with pytest.raises(UsageError, match=f"larger than {MAX_BYTES // 1_000_000} MB"):
        read_document(path)


def test_folders_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder"):
        import_file(tmp_path)
    with pytest.raises(UsageError, match="cannot be read"):
        import_file(tmp_path / "none.json")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "cp1251"])
def test_scripts_in_the_encodings_of_windows(tmp_path: Path, encoding: str) -> None:
    text = (FIXTURES / "anon.ps1").read_text(encoding="utf-8").replace("# holds", "# папка")
    path = tmp_path / "train.ps1"
    path.write_bytes(text.replace("\n", "\r\n").encode(encoding))
    imported = import_file(path)
    assert (imported.preset.network.dim, imported.preset.length.epochs) == (32, 9)


def test_code_in_a_script_is_listed_and_never_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    script = f"""
$unet_lr = 1e-4
$network_dim = $(New-Item {mark})
$network_alpha = Invoke-Expression "8"
$output_name = "x$(New-Item {mark})"
$max_train_epochs = 3
$learning_rate = (Get-Content secret.txt)
Start-Process touch {mark}
& touch {mark}
"""
    imported = import_text(script, "evil.ps1")
    assert not mark.exists()
    told = {one.name: one.reason for one in imported.unmapped}
    assert {"network_dim", "network_alpha", "output_name", "learning_rate"} <= told.keys()
    assert "code" in told["network_dim"]
    assert imported.preset.optim.unet_lr == 1e-4


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("9e-5", 9e-5), ("$a / 4", 2.0), ("$A * ($b + 1)", 24), ("[int](2.5)", 2), ("[int]3.5", 4), ("[math]::Round(0.5)", 0.0),
        ("[math]::Max(2, 3) - 1", 2), ("-3 + 5", 2), ("'it''s'", "it's"), ('"$a/x`"y"', '8/x"y'), ("$true", True), ("7 % 4", 3),
        ('"1" + 2', "12"), ("${a} - 1", 7), ("10 / 4", 2.5), ("'5' * 1", None),
    ],
)  # fmt: skip
def test_arithmetic(expression: str, value: Any) -> None:
    known = {"a": 8, "b": 2}
    if value is None:
        with pytest.raises(Unreadable):
            evaluate(expression, known)
    else:
        assert evaluate(expression, known) == value


@pytest.mark.parametrize(
    "expression",
    ["", "1 +", "(1", "1 / 0", "$unknown", "1e999", "9" * 400, "(" * 200 + "1", "-" * 500 + "1", "[math]::Pow(9, 9)", "@(1)", "1; 2",
     "a" * 20_000, "1e300 * 1e300", "Get-Date", "{ 1 }", "1 2"],
)  # fmt: skip
def test_what_is_more_than_arithmetic_is_refused(expression: str) -> None:
    with pytest.raises(Unreadable):
        evaluate(expression, {})


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.text(max_size=60) | st.from_regex(r"[-+*/%() 0-9.e$a'\"]{0,40}", fullmatch=True))
def test_any_expression_is_a_value_or_a_sentence(expression: str) -> None:
    try:
        value = evaluate(expression, {"a": 2, "e": "x"})
    except Unreadable:
        return
    assert value is None or isinstance(value, (str, int, float, bool))


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.integers(-1000, 1000), st.integers(1, 50), st.integers(-30, 30))
def test_arithmetic_is_pythons(a: int, b: int, c: int) -> None:
    assert evaluate(f"$a / {b} + ({c} - $a) * 2", {"a": a}) == pytest.approx(a / b + (c - a) * 2)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.text(max_size=120))
def test_any_text_is_a_script_of_some_statements(text: str) -> None:
    script = read_script(f"$network_dim = 4\n{text}")
    assert all(one.line >= 1 for one in script.variables.values())


_VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-5, 10**9)
    | st.floats()
    | st.text(max_size=8)
    | st.lists(st.text(max_size=3), max_size=2)
)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    st.sampled_from(["kohya_gui.json", "easy_2023_01.json", "onetrainer.json", "db_config.json"]),
    st.data(),
)
def test_any_value_in_any_box_ends_in_a_preset(name: str, data: st.DataObject) -> None:
    values = json.loads((FIXTURES / name).read_text(encoding="utf-8"))
    changed = data.draw(st.dictionaries(st.sampled_from(sorted(values)), _VALUES | st.just({"a": 1}), max_size=6))
    try:
        imported = import_text(json.dumps(values | changed), "x.json")
    except UsageError:
        return
    load_text(imported.toml, Path("/w/presets/x.toml"))
    json.dumps(imported.to_json(), allow_nan=False)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.sampled_from(["easy.toml", "koi.toml", "lora_scripts.toml", "dataset.toml"]), st.data())
def test_any_value_in_any_table_ends_in_a_preset(name: str, data: st.DataObject) -> None:
    values = tomllib.loads((FIXTURES / name).read_text(encoding="utf-8"))
    table: Any = values
    while True:
        key = data.draw(st.sampled_from(sorted(table) if isinstance(table, dict) else list(range(len(table)))))
        inside = table[key]
        if isinstance(inside, (dict, list)) and inside and data.draw(st.booleans()):
            table = inside
            continue
        table[key] = data.draw(_VALUES.filter(lambda value: value is not None) | st.just({"a": 1}) | st.just({}))
        break
    document = Document("x.toml", "toml", data=values)
    try:
        imported = convert(recognise(document).read(document), name="x")
    except UsageError:
        return
    load_text(imported.toml, Path("/w/presets/x.toml"))
    json.dumps(imported.to_json(), allow_nan=False)


def test_on_the_command_line(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "presets").mkdir()
    (tmp_path / "lorakit.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    source = str(FIXTURES / "kohya_gui.json")
    screen = cli("import", source)
    assert "next: lorakit import" in screen.out
    done = cli("import", source, "-o", "heron")
    assert "next: lorakit plan" in done.out
    assert (tmp_path / "presets" / "heron.toml").is_file()
    assert "exists already" in cli("import", source, "-o", "heron", code=2).err
    cli("import", source, "-o", "heron", "--force")
    assert cli("import", source, "--json").json["values"]["network.dim"]["text"] == "network_dim = 24"
    assert "there is no file" in cli("import", "nothing.json", code=2).err
    assert "no recipe" in cli("import", "these are words", code=2).err
    assert (
        cli("import", "sdxl_train_network.py --network_dim 6 --unet_lr 1e-4", "--json").json["values"]["network.dim"][
            "value"
        ]
        == 6
    )
    assert (
        cli("import", "--json", "--", "sdxl_train_network.py", "--network_dim", "7").json["values"]["network.dim"][
            "value"
        ]
        == 7
    )
