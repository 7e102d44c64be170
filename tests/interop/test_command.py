"""Command lines come in from three shells, and any command that lorakit writes comes back as its preset."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from lorakit.errors import UsageError
from lorakit.interop.imported import Imported
from lorakit.interop.recognise import import_text
from lorakit.interop.words import Shell, shell_of, split
from lorakit.preset.files import load_text
from lorakit.preset.models import Preset
from lorakit.trainers.render import render, shell_line
from tests.preset.strategies import presets
from tests.trainers.presets import NAMES, PATHS, shipped
from tests.trainers.test_render import expected, options_of_extra

BASH = r"""
# the koi,
# second try
accelerate launch --num_cpu_threads_per_process=4 --multi_gpu ./sdxl_train_network.py \
  --pretrained_model_name_or_path="/m/base xl.safetensors" \
  --train_data_dir '/sets/koi' --output_name=koi --resolution 1024,1024 \
  --network_module networks.lora --network_dim 16 --network_alpha 8 \
  --unet_lr 9e-5 --text_encoder_lr 2e-5 --lr_scheduler cosine --lr_warmup_steps 5% --max_train_epochs 8
"""
POWERSHELL = """
<# the koi,
   second try #>
accelerate launch --num_cpu_threads_per_process=4 --multi_gpu .\\sdxl_train_network.py `
  --pretrained_model_name_or_path="/m/base xl.safetensors" `
  --train_data_dir '/sets/koi' --output_name=koi --resolution "1024,1024" `
  --network_module networks.lora --network_dim 16 --network_alpha 8 `
  --unet_lr 9e-5 --text_encoder_lr 2e-5 --lr_scheduler cosine --lr_warmup_steps 5% --max_train_epochs 8 # done
"""
CMD = """
@echo off
rem the koi, second try
accelerate launch --num_cpu_threads_per_process=4 --multi_gpu .\\sdxl_train_network.py ^
  --pretrained_model_name_or_path="/m/base xl.safetensors" ^
  --train_data_dir /sets/koi --output_name=koi --resolution 1024,1024 ^
  --network_module networks.lora --network_dim 16 --network_alpha 8 ^
  --unet_lr 9e-5 --text_encoder_lr 2e-5 --lr_scheduler cosine --lr_warmup_steps 5% --max_train_epochs 8
"""
HEAD = "accelerate launch sdxl_train_network.py --unet_lr 1e-4 --max_train_epochs 2"


def reasons(imported: Imported) -> dict[str, str]:
    return {one.text: one.reason for one in imported.unmapped}


@pytest.mark.parametrize(("text", "shell"), [(BASH, "bash"), (POWERSHELL, "powershell"), (CMD, "cmd")])
def test_three_shells_say_the_same(text: str, shell: Shell) -> None:
    assert shell_of(text) == shell
    imported = import_text(text)
    values = {key: value.value for key, value in imported.values.items()}
    assert values["base.model"] == "/m/base xl.safetensors"
    assert values["dataset.path"] == "/sets/koi"
    assert (values["network.dim"], values["network.alpha"]) == (16, 8.0)
    assert (values["optim.unet_lr"], values["optim.te_lr"]) == (9e-5, 2e-5)
    assert (values["optim.warmup"], values["length.epochs"]) == (0.05, 8)
    assert values["launch.threads"] == 4
    assert imported.preset.name == "koi"
    assert imported.values["optim.unet_lr"].line == 8
    assert reasons(imported) == {"--multi_gpu": "lorakit writes the launcher's configuration itself"}
    assert (imported.recipe.epochs, imported.recipe.warmup_ratio) == (8, 0.05)


def test_what_is_not_said_is_the_trainers_default_and_says_so() -> None:
    imported = import_text(HEAD)
    for key, value in (("dataset.caption_extension", ".caption"), ("optim.type", "AdamW"), ("network.dim", 4)):
        assert (imported.values[key].value, imported.values[key].origin) == (value, "default")
    assert imported.values["base.model"].origin == "unknown"
    assert imported.values["optim.te_lr"].value == 2e-6
    assert "# unknown: the recipe does not say" in imported.toml


def test_nothing_is_dropped() -> None:
    imported = import_text(
        f"{HEAD} --network_dims 8 --seed x --max_train_steps 1e3 --resume st --lr_warmup_steps 1.0 stray"
        " --network_args conv_dim --optimizer_args betas=a,b --wandb_api_key abc123 --resolution 5x5 --v2"
    )
    told = reasons(imported)
    assert "--network_dim is meant" in told["--network_dims 8"]
    assert "no number" in told["--seed x"]
    assert "no whole number" in told["--max_train_steps 1e3"]
    assert "lorakit's own work" in told["--resume st"]
    assert "neither steps" in told["--lr_warmup_steps 1.0 stray"]
    assert "does not take it" in told["stray"]
    assert "name=value" in told["conv_dim"]
    assert "Python literal" in told["betas=a,b"]
    assert "secret" in told["--wandb_api_key •••"]
    assert "neither a size" in told["--resolution 5x5"]
    assert "Stable Diffusion 2" in told["--v2"]
    assert "abc123" not in imported.toml


def test_the_last_of_two_counts_and_beginnings_are_taken() -> None:
    imported = import_text(
        f"{HEAD} --network_d 3 --network_dim 8 --network_dim 12 --use_8bit_adam --pretrained_m a/b.safetensors"
    )
    assert imported.preset.network.dim == 12
    assert any("given twice" in note.what for note in imported.notes)
    assert imported.values["optim.type"].value == "AdamW8bit"
    assert imported.preset.base.model == "a/b.safetensors"


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ("--cache_text_encoder_outputs", "LK021"),
        ("--cache_text_encoder_outputs --shuffle_caption --network_train_unet_only", "LK028"),
        ("--v_parameterization --pretrained_model_name_or_path m/sd_xl_base_1.0.safetensors", "predicts noise"),
        ("--shuffle_caption", "trigger word"),
        ("--max_token_length 225", "three windows"),
    ],
)
def test_findings_come_with_it(options: str, word: str) -> None:
    imported = import_text(f"{HEAD} {options}")
    said = [finding.code for finding in imported.findings] + [f"{note.what} {note.why}" for note in imported.notes]
    assert any(word in one for one in said)


@pytest.mark.parametrize("script", ["flux_train_network.py", "sdxl_train.py", "train_db.py", "fine_tune.py"])
def test_another_training_is_refused_by_name(script: str) -> None:
    with pytest.raises(UsageError, match=script):
        import_text(f"python {script} --pretrained_model_name_or_path x")


def test_stable_diffusion_1_is_told() -> None:
    imported = import_text(HEAD.replace("sdxl_train", "train"))
    assert any(note.what == "the recipe is not for SDXL" for note in imported.notes)


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_presets_command_comes_back(name: str) -> None:
    preset = shipped(name)
    kind: Any = "builtin" if preset.trainer.kind == "builtin" else "sd-scripts"
    imported = import_text(f"python sdxl_train_network.py {shell_line(render(preset, PATHS, kind=kind))}")
    assert imported.preset.model_dump() == expected(preset).model_dump()


@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(preset=presets({("extra",): options_of_extra()}))
def test_any_exported_command_comes_back(preset: Preset) -> None:
    rates = preset.optim.te_lr
    assume(any((preset.optim.unet_lr, rates.te1, rates.te2)))
    assume(not (rates.is_pair and (not preset.trainer.probe or 0 in (rates.te1, rates.te2))))
    preset = preset if preset.seed is not None else preset.model_copy(update={"seed": 5})
    argv = ["python", "sdxl_train_network.py", *render(preset, PATHS, kind="sd-scripts")]
    imported = import_text(shell_line(argv))
    assert imported.preset.model_dump() == expected(preset).model_dump()
    assert not [one for one in imported.unmapped if one.name != "console_log_simple"]
    from_file = load_text(imported.toml, PATHS.root / "presets" / "p.toml").preset
    assert from_file.model_dump() == imported.preset.model_dump()


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8), max_size=6))
def test_bash_words_come_back(words: list[str]) -> None:
    assert [word.text for word in split(shlex.join(words), "bash") if not word.end] == words


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.text(max_size=60), st.sampled_from(["bash", "powershell", "cmd"]))
def test_no_text_breaks_the_tokeniser(text: str, shell: Shell) -> None:
    for word in split(text, shell):
        assert 1 <= word.line <= text.count("\n") + 1


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.text(max_size=80))
def test_hostile_options_end_in_a_preset_or_a_sentence(text: str) -> None:
    imported = import_text(f"sdxl_train_network.py --network_dim {text} --optimizer_args {text} --resolution {text}")
    load_text(imported.toml, PATHS.root / "presets" / "p.toml")
