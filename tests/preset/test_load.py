"""Loading: parents, overrides, the provenance of every value, names, seeds."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorakit.errors import PresetError
from lorakit.preset.dump import dump_toml, spell
from lorakit.preset.files import find_preset, load_preset, load_text, with_seed
from lorakit.preset.layers import Layer
from lorakit.preset.models import Preset
from lorakit.preset.provenance import Provenance
from lorakit.preset.schema import fields
from lorakit.preset.toml_lines import dotted
from lorakit.preset.units import Alpha, Resolution, TextEncoderRates, Warmup

from .conftest import LEAST, told
from .strategies import preset_data

if TYPE_CHECKING:
    from .conftest import Write

PARENT = """\
name = "parent"
[base]
model = "xl.safetensors"
[dataset]
path = "datasets/parent"
reg_path = "datasets/reg"
[network]
dim = 32
args = { block = 1, other = "x" }
[optim]
unet_lr = 1e-4
te_lr = 0
[length]
epochs = 10
batch_size = 4
"""


# Parents


def test_a_child_merges_over_its_parents_key_by_key(write: Write) -> None:
    write(PARENT, "grand.toml")
    write('extends = "grand"\nname = "mid"\n[network]\nargs.block = 2\n', "mid.toml")
    path = write('extends = "mid.toml"\nname = "hifumi"\nnetwork.alpha = "dim/2"\n')
    resolved = load_preset(path)
    preset = resolved.preset
    assert preset.name == "hifumi"
    assert (preset.network.dim, preset.network.alpha) == (32, Alpha(divisor=2))
    assert preset.network.args == {"block": 2, "other": "x"}
    assert [file.name for file in resolved.chain] == ["hifumi.toml", "mid.toml", "grand.toml"]
    assert resolved.source_text == path.read_text()
    origin = resolved.provenance
    assert str(origin["name"]) == "hifumi.toml:2"
    assert str(origin["network.alpha"]) == "hifumi.toml:3"
    assert str(origin["network.args.block"]) == "mid.toml:4"
    assert str(origin["network.args.other"]) == "grand.toml:9"
    assert origin["network.dim"] == Provenance("parent", Path.cwd() / "grand.toml", 8, "dim = 32")
    assert "network.args" not in origin


@pytest.mark.parametrize(
    ("parent", "extends"),
    [
        ("presets/p.toml", "p"),
        ("presets/p.toml", "p.toml"),
        ("presets/p.toml", "./p"),
        ("shared/p.toml", "../shared/p.toml"),
        ("presets/presets/p.toml", "p"),
        ("presets/p.v2.toml", "p.v2"),
        ("presets/p", "p"),
    ],
)
def test_places_where_a_parent_is_looked_for(write: Write, parent: str, extends: str) -> None:
    write(PARENT, parent)
    path = write(f'extends = "{extends}"\n', "presets/hifumi.toml")
    assert load_preset(path).preset.name == "parent"


def test_a_preset_elsewhere_finds_parents_in_the_presets_folder_beside_it_and_in_the_workspace(write: Write) -> None:
    write(PARENT, "presets/p.toml")
    assert load_preset(write('extends = "p"', "mine/hifumi.toml")).preset.name == "parent"
    write("", "lorakit.toml")
    assert load_preset(write('extends = "p"', "mine/far/down/hifumi.toml")).preset.name == "parent"


def test_an_absolute_parent(write: Write) -> None:
    parent = write(PARENT, "elsewhere/p.toml").absolute()
    assert load_preset(write(f"extends = '{parent}'\n", "presets/hifumi.toml")).preset.name == "parent"


def test_the_file_beside_wins_over_the_presets_folder(write: Write) -> None:
    write(PARENT, "presets/p.toml")
    write(PARENT.replace('"parent"', '"beside"'), "p.toml")
    assert load_preset(write('extends = "p"\n')).preset.name == "beside"


def test_a_missing_parent_says_where_it_was_looked_for(write: Write) -> None:
    write(PARENT, "presets/sdxl-character.toml")
    (message,) = (text for text in told(write(f"{LEAST}\n".replace("name", 'extends = "sdxl-charcter"\nname', 1))))
    assert message.startswith(
        'hifumi.toml:1: extends = "sdxl-charcter": no such preset; looked for sdxl-charcter.toml, '
    )
    assert "presets/sdxl-charcter.toml" in message
    assert message.endswith("did you mean presets/sdxl-character.toml?")


def test_a_circle_is_named(write: Write) -> None:
    path = write('extends = "b"\n', "a.toml")
    write('extends = "c"\n', "b.toml")
    write('\nextends = "./b"\n', "c.toml")
    assert "c.toml:2: presets extend each other in a circle; b.toml → c.toml → b.toml; cut it" in told(path)


def test_a_preset_that_extends_itself(write: Write) -> None:
    assert "in a circle; hifumi.toml → hifumi.toml" in told(write(f'extends = "hifumi"\n{LEAST}'))[0]


@pytest.mark.parametrize(
    "value", ["5", '""', '["a"]', "true", '"a\\u0000b"', '"~nobody_of_that_name/x"', f'"{"x" * 5000}"']
)
def test_what_cannot_be_extended(write: Write, value: str) -> None:
    (message,) = told(write(f"extends = {value}\n{LEAST}"))
    assert message.startswith("hifumi.toml:1: extends = ")


def test_a_parent_that_is_broken_does_not_hide_the_childs_problems(write: Write) -> None:
    write("a = = 1", "p.toml")
    messages = told(write(f'extends = "p"\n{LEAST}network.dmi = 3\n'))
    assert [message.split(":")[0] for message in messages] == ["p.toml", "hifumi.toml"]


def test_problems_of_all_files_come_together(write: Write) -> None:
    write(PARENT.replace("dim = 32", "dim = 0") + "save.every = 1\n", "grand.toml")
    write('extends = "grand"\n[optim]\nunet_lr = -1\n', "mid.toml")
    path = write('extends = "mid"\nname = ""\n[network]\ndim = 8\nextra = 1\n')
    assert [message.split(": ")[0] for message in told(path, "loss.huber_c=no")] == [
        "hifumi.toml:2",
        "hifumi.toml:5",
        "mid.toml:3",
        "grand.toml:8",
        "grand.toml:16",
        "--set loss.huber_c=no",
    ]


# Keys that rule each other out


def test_a_later_layer_drops_what_its_key_rules_out(write: Write) -> None:
    write(PARENT, "p.toml")
    resolved = load_preset(write('extends = "p"\nlength.steps = 20\ndataset.config = "d.toml"\n'))
    assert (resolved.preset.length.epochs, resolved.preset.length.steps) == (None, 20)
    dataset = resolved.preset.dataset
    assert (dataset.path, dataset.reg_path, dataset.config) == (None, None, "d.toml")
    assert resolved.provenance["length.epochs"].kind == "default"
    resolved = load_preset(resolved.path, ["length.epochs=3", "dataset.path=d"])
    assert (resolved.preset.length.epochs, resolved.preset.length.steps) == (3, None)
    assert (resolved.preset.dataset.path, resolved.preset.dataset.config) == ("d", None)


def test_both_in_one_file_is_a_problem_in_whatever_layer(write: Write) -> None:
    write(f"{LEAST}length.steps = 5\ndataset.config = 'd.toml'\n", "p.toml")
    messages = told(write('extends = "p"\nlength.steps = 7\n'))
    assert messages == [
        "p.toml:8: dataset.path and dataset.config are both given; they stand at p.toml:3 and p.toml:8; keep one of them",
        "p.toml:7: length.epochs and length.steps are both given; they stand at p.toml:6 and p.toml:7; keep one of them",
    ]


# --set


@pytest.mark.parametrize(
    ("argument", "key", "value"),
    [
        ("network.dim=16", "network.dim", 16),
        ("name=foo", "name", "foo"),
        ("name=foo bar = baz", "name", "foo bar = baz"),
        ("name='42'", "name", "42"),
        ("name=42", "name", "42"),
        ("name=true # yes", "name", "true # yes"),
        ("name=2026-11-22", "name", "2026-11-22"),
        ("name=--x", "name", "--x"),
        ("launch.gpu_ids=0", "launch.gpu_ids", "0"),
        ("launch.gpu_ids=0,1", "launch.gpu_ids", "0,1"),
        ("optim.te_lr=5e-5/2e-5", "optim.te_lr", TextEncoderRates(5e-5, 2e-5)),
        ("optim.te_lr=[5e-5, 2e-5]", "optim.te_lr", TextEncoderRates(5e-5, 2e-5)),
        ("optim.warmup=100 steps", "optim.warmup", Warmup(steps=100)),
        ("optim.warmup=5%", "optim.warmup", Warmup(ratio=0.05)),
        ("length.steps=20", "length.steps", 20),
        ("network.alpha=dim/2", "network.alpha", Alpha(divisor=2)),
        ("network.alpha=16", "network.alpha", Alpha(number=16)),
        ("dataset.resolution=832x1216", "dataset.resolution", Resolution(832, 1216)),
        ("memory.gradient_checkpointing=true", "memory.gradient_checkpointing", True),
        ("loss.noise_offset=0", "loss.noise_offset", 0.0),
        ("optim.args={betas=[0.9,0.99]}", "optim.args", {"betas": [0.9, 0.99]}),
        ('optim.args."weight_decay"=0.1', "optim.args", {"weight_decay": 0.1}),
        ("extra.console_log_level=INFO", "extra", {"console_log_level": "INFO"}),
        (" network . dim = 16 ", "network.dim", 16),
        ("description=line one\nname = 'two'", "description", "line one\nname = 'two'"),
    ],
)
def test_overrides(write: Write, argument: str, key: str, value: Any) -> None:
    resolved = load_preset(write(), [argument])
    found: Any = resolved.preset
    for part in key.split("."):
        found = getattr(found, part)
    assert found == value
    assert type(found) is type(value)
    where = key if not isinstance(value, dict) else f"{key}.{next(iter(value))}"
    assert resolved.provenance[where] == Provenance("set", text=argument)


def test_an_override_sets_one_key_whatever_its_value_holds(write: Write) -> None:
    (message,) = told(write(), 'network.dim=1\nname = "x"')
    assert message.startswith("--set network.dim=1\\nname = ")
    assert "it takes a whole number" in message


def test_later_overrides_win_and_an_empty_one_takes_back(write: Write) -> None:
    path = write(f'{LEAST}dataset.reg_path = "reg"\n[optim.args]\nweight_decay = 0.1\nbetas = [0.9, 0.99]\n')
    resolved = load_preset(path, ["network.dim=8", "network.dim=4", "dataset.reg_path=", "optim.args.betas="])
    assert resolved.preset.network.dim == 4
    assert resolved.preset.dataset.reg_path is None
    assert resolved.provenance["dataset.reg_path"] == Provenance("default")
    assert resolved.preset.optim.args == {"weight_decay": 0.1}
    assert load_preset(path, ["optim.args="]).preset.optim.args == {}
    assert load_preset(path, ["network.dim=8", "network="]).preset.network.dim == 16
    assert load_preset(path, ["length.epochs=", "length.steps=3"]).preset.length.steps == 3


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("network.dim", ("--set network.dim: this is not KEY=VALUE; write --set network.dim=16, "
         "or --set dataset.reg_path= to take a value back")),
        ("=5", ("--set =5: this is not KEY=VALUE; write --set network.dim=16, "
         "or --set dataset.reg_path= to take a value back")),
        ("network.dim=abc", '--set network.dim=abc: network.dim = "abc"; it takes a whole number of at least 1'),
        ("network.dim=16.0", "--set network.dim=16.0: network.dim = 16.0; it takes a whole number of at least 1; write 16"),
        ("network.dmi=3", "--set network.dmi=3: there is no key network.dmi; did you mean network.dim?"),
        ("network.dmi=", "--set network.dmi=: there is no key network.dmi; did you mean network.dim?"),
        ("network=3", "--set network=3: network = 3; network is a table; write [network] and its keys below"),
        ("extends=x", "--set extends=x: there is no key extends; extends stands in the preset file, at its top"),
        ("dataset.bucket=yes", '--set dataset.bucket=yes: dataset.bucket = "yes"; it takes true or false; write true'),
        ("base.model=", ("hifumi.toml:2: base.model is missing; SDXL checkpoint (.safetensors) or diffusers folder; relative to the "
         'workspace; it takes a path; write [base] model = "models/sd_xl_base_1.0.safetensors"')),
        ("length.epochs=", ("hifumi.toml:6: length is missing; neither length.epochs nor length.steps says how long to train; "
         "write [length] epochs = 10, or steps = 2000")),
        ("name=a\nb", '--set name=a\\nb: name = "a\\nb"; a name cannot hold control characters or line ends, and this holds \'\\n\''),
    ],
)  # fmt: skip
def test_overrides_that_cannot_be_meant_are_named(write: Write, argument: str, message: str) -> None:
    assert told(write(), argument) == [message]


_keys = st.sampled_from([dotted(path) for path, _ in fields()]) | st.sampled_from(
    ["network", "extra.x", "optim.args.x", "a.b"]
)
_values = st.text(max_size=12) | st.from_regex(r"[-+0-9.e%/x\[\]{}\"' ,=]{0,12}", fullmatch=True)


@settings(max_examples=200)
@given(st.lists(st.tuples(_keys, _values).map("=".join) | st.text(max_size=12), min_size=1, max_size=3))
def test_any_override_is_taken_or_refused_by_name(arguments: list[str]) -> None:
    try:
        resolved = load_text(LEAST, Path("x.toml"), arguments)
    except PresetError as error:
        found = error.problems
        assert found
        assert {problem.where[:6] for problem in found} <= {"--set ", "x.toml"}
        # What a --set takes away is missed in the file.
        assert all(problem.where.startswith("--set ") or problem.code == "LK903" for problem in found)
        return
    assert load_text(dump_toml(resolved.preset), Path("y.toml")).preset == resolved.preset
    assert {origin.kind for origin in resolved.provenance.values()} <= {"preset", "set", "default"}


# Provenance


@settings(max_examples=60, deadline=None)
@given(preset_data())
def test_every_value_has_a_provenance(data: dict[str, Any]) -> None:
    text = dump_toml(Preset.model_validate(data))
    resolved = load_text(text, Path("x.toml"))
    keys = {dotted(path) for path, _ in fields()}
    for table in (resolved.preset.network, resolved.preset.optim):
        if table.args:
            name = "network" if table is resolved.preset.network else "optim"
            keys = keys - {f"{name}.args"} | {dotted((name, "args", key)) for key in table.args}
    if resolved.preset.extra:
        keys = keys - {"extra"} | {dotted(("extra", key)) for key in resolved.preset.extra}
    assert resolved.provenance.keys() == keys
    for path, value in Layer("preset", data).leaves():
        origin = resolved.provenance[dotted(path)]
        assert (origin.kind, origin.file) == ("preset", Path("x.toml"))
        assert origin.line is not None
        assert text.splitlines()[origin.line - 1].strip() == origin.text
        assert path[-1] in origin.text
        assert value is not None


def test_provenance_for_people_and_for_json(write: Write) -> None:
    origin = load_preset(write(), ["network.dim=4"]).provenance
    assert str(origin["optim.te_lr"]) == "hifumi.toml:5"
    assert origin["optim.te_lr"].to_json() == {
        "kind": "preset", "file": str(Path.cwd() / "hifumi.toml"), "line": 5, "text": "optim.te_lr = 5e-5",
    }  # fmt: skip
    assert str(origin["network.dim"]) == "--set network.dim=4"
    assert str(origin["network.alpha"]) == "default"


def test_a_dump_says_where_values_come_from(write: Write) -> None:
    resolved = load_preset(write(), ["network.dim=4"])
    lines = dump_toml(resolved.preset, provenance=resolved.provenance).splitlines()
    assert "unet_lr = 1e-4  # hifumi.toml:4" in lines
    assert "dim = 4  # --set network.dim=4" in lines
    assert 'alpha = "dim"' in lines
    assert load_text("\n".join(lines), Path("x.toml")).preset == resolved.preset


def test_values_are_spelled_as_people_write_them() -> None:
    assert spell(0.00005, ("optim", "unet_lr")) == "5e-5"
    assert spell(TextEncoderRates(5e-5, 0), ("optim", "te_lr")) == "[5e-5, 0]"
    assert spell({"a b": [True, "x\x7f\n"]}) == '{ "a b" = [true, "x\\u007f\\n"] }'


# Seeds


def test_a_seed_is_drawn_once_and_remembered(write: Write) -> None:
    resolved = load_preset(write())
    drawn = with_seed(resolved, random.Random(0))
    assert drawn.preset.seed == random.Random(0).randrange(2**32)
    assert drawn.provenance["seed"] == Provenance("derived", text="drawn for this run")
    assert str(drawn.provenance["seed"]) == "derived: drawn for this run"
    assert resolved.preset.seed is None
    assert with_seed(drawn) is drawn
    assert with_seed(resolved).preset.seed is not None
    assert len({with_seed(resolved).preset.seed for _ in range(4)}) > 1


def test_a_seed_that_was_given_stays(write: Write) -> None:
    resolved = load_preset(write(f"seed = 0\n{LEAST}"))
    assert with_seed(resolved) is resolved


# Names


def test_presets_are_found_by_name_or_path(write: Write) -> None:
    named = write(name="presets/hifumi.toml")
    other = write(name="here/other.toml")
    nested = write(name="presets/old/x.toml")
    assert find_preset("hifumi", Path("presets")) == named
    assert find_preset("hifumi.toml", Path("presets")) == named
    assert find_preset("presets/hifumi.toml", Path("presets")) == named
    assert find_preset(named, Path("presets")) == named
    assert find_preset("presets/hifumi", Path("presets")) == named
    assert find_preset(other.absolute(), Path("presets")) == other.absolute()
    assert find_preset("here/other", Path("presets")) == other
    assert find_preset("old/x", Path("presets")) == nested


def test_a_plain_name_means_the_presets_folder_before_a_file_of_that_name(write: Write) -> None:
    named = write(name="presets/hifumi.toml")
    write(name="hifumi")
    write(name="hifumi.toml")
    assert find_preset("hifumi", Path("presets")) == named
    assert find_preset("hifumi.toml", Path("presets")) == Path("hifumi.toml")


def test_a_miss_suggests(write: Write) -> None:
    write(name="presets/sdxl-character.toml")
    write(name="presets/sdxl-style.toml")
    with pytest.raises(PresetError) as caught:
        find_preset("sdxl-charcter", Path("presets"))
    assert caught.value.what == 'there is no preset "sdxl-charcter"'
    assert caught.value.why == "neither a file of that path nor presets/sdxl-charcter.toml exists"
    assert caught.value.todo.startswith("did you mean presets/sdxl-character.toml")
    with pytest.raises(PresetError) as caught:
        find_preset("zzz", Path("presets"))
    assert caught.value.todo == "presets has sdxl-character, sdxl-style"


def test_a_folder_given_for_a_preset_is_called_a_folder(write: Write) -> None:
    write(name="presets/hifumi.toml")
    for asked in ("presets/../presets", Path("presets").absolute()):
        assert "presets is a folder, not a preset" in told(find_preset(asked, Path("presets")))[0]


@pytest.mark.parametrize(
    "name", ["", ".", "..", "/", "a\0b", "x" * 5000, "~nobody_of_that_name/x", "a/\n", "presets", "-"]
)
def test_odd_names_are_sentences(write: Write, name: str) -> None:
    write()
    with pytest.raises(PresetError):
        load_preset(find_preset(name, Path("presets")))
