"""What does not map is listed, never dropped: every setting of a file is found again in what came in, or among the unmapped."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import tomlkit

from lorakit.interop import kohya_gui
from lorakit.interop.imported import Imported
from lorakit.interop.recognise import import_text

#: They say which recipe it is, which its title tells, or that a part is trained, which its rate does.
SAID_OTHERWISE = {
    "__version", "training_method", "use_lora", "train", "learning_rate", "sdxl", "train_mode", "num_repeats", "noise_offset_type",
    "additional_parameters",
}  # fmt: skip
FIXTURES = Path(__file__).parent / "fixtures"
#: Every box that the reader of kohya_ss knows by name, and some that it does not.
BOXES = sorted(
    {
        *kohya_gui._HANDLED, *kohya_gui._SILENT, *kohya_gui._UNSET_AT_ZERO, *kohya_gui._NETWORK_ARGS, *kohya_gui._TELLING,
        *kohya_gui._RENAMED, *(name for name, _ in kohya_gui._LYCORIS_ARGS), "num_cpu_threads_per_process", "weighted_captions",
        "wandb_run_name", "extra_accelerate_launch_args", "multi_gpu", "lowvram", "dataset_config", "blocks_to_swap", "never_heard_of",
    }
)  # fmt: skip


def mentioned(imported: Imported) -> set[str]:
    texts = [f"{value.text} {value.why}" for value in imported.values.values()]
    texts += [f"{one.name} {one.text}" for one in imported.unmapped]
    texts += [f"{note.what} {note.why}" for note in imported.notes]
    return set(re.findall(r"[A-Za-z_]\w*", " ".join(texts)))


def leaves(table: Mapping[str, Any]) -> Iterator[str]:
    """The names of every setting that says something, however deep."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from leaves(value)
        elif isinstance(value, list) and value and all(isinstance(one, Mapping) for one in value):
            for one in value:
                yield from leaves(one)
        elif value not in (None, "", False, 0, [], {}, [False]):
            yield key


@pytest.mark.parametrize("box", BOXES)
def test_every_box_of_kohya_ss(box: str) -> None:
    base = json.loads((FIXTURES / "kohya_gui.json").read_text(encoding="utf-8"))
    for value in (3, True, "zz"):
        imported = import_text(json.dumps({**base, box: value}), "koi.json")
        read = (box == "sdxl" and value is True) or (box == "additional_parameters" and value == "zz")
        assert read or box in mentioned(imported), f"{box} = {value!r} vanished"


@pytest.mark.parametrize(
    "table", ["general_args.args", "saving_args.args", "network_args.args", "bucket_args.dataset_args", "subsets", ""]
)
@pytest.mark.parametrize(
    "key", ["tag_occurrence", "save_toml", "tag_file_location", "save_toml_location", "train_mode", "never_heard_of"]
)
def test_every_key_of_easy_training_in_every_table(table: str, key: str) -> None:
    document = tomlkit.parse((FIXTURES / "easy.toml").read_text(encoding="utf-8")).unwrap()
    place: Any = document
    if key == "train_mode" and not table:
        return  # that is the name of a table of it
    for part in filter(None, table.split(".")):
        place = place[0] if isinstance(place, list) else place.setdefault(part, {})
    (place[0] if isinstance(place, list) else place)[key] = "somewhere"
    assert key in mentioned(import_text(tomlkit.dumps(document), "koi.toml"))


@pytest.mark.parametrize(
    "name",
    [
        "kohya_gui.json",
        "kohya_gui_2023.json",
        "easy.toml",
        "easy_2023_01.json",
        "easy_2023_04.json",
        "onetrainer.json",
        "db_config.json",
        "lora_scripts.toml",
        "koi.toml",
    ],
)
@pytest.mark.parametrize("extra", [False, True])
def test_every_setting_of_every_fixture(name: str, extra: bool) -> None:
    text = (FIXTURES / name).read_text(encoding="utf-8")
    if extra:
        text = (
            text.replace("{", '{"never_heard_of": "zz", ', 1)
            if name.endswith(".json")
            else f'never_heard_of = "zz"\n{text}'
        )
    table = json.loads(text) if name.endswith(".json") else tomllib.loads(text)
    missing = set(leaves(table)) - mentioned(import_text(text, name))
    assert not missing - SAID_OTHERWISE
