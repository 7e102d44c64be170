"""Presets as command lines: golden text for what ships, and the way back for any preset."""

from __future__ import annotations

import dataclasses
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from lorakit.errors import RuleError
from lorakit.plan.naming import output_name as name_of_files
from lorakit.preset.models import Preset
from lorakit.preset.units import Warmup, format_number
from lorakit.schedule import parse_warmup
from lorakit.trainers.catalogue import Catalogue, Flag
from lorakit.trainers.extra import check_extra, typed_key
from lorakit.trainers.readback import preset_values
from lorakit.trainers.render import RenderPaths, output_name, render, shell_line, warmup_text
from lorakit.workspace import Workspace
from tests.preset.strategies import presets
from tests.trainers.presets import NAMES, PATHS, shipped

GOLDEN = Path(__file__).parent / "golden"


def kind_of(preset: Preset) -> Any:
    return "builtin" if preset.trainer.kind == "builtin" else "sd-scripts"


def argv_of(name: str, *overrides: str, kind: Any = None) -> tuple[str, ...]:
    preset = shipped(name, *overrides)
    return render(preset, PATHS, kind=kind or kind_of(preset))


def option(argv: tuple[str, ...], flag: str) -> list[str]:
    """The values of an option; fails where it is not given."""
    start = argv.index(flag) + 1
    rest = list(argv[start:])
    return rest[: next((n for n, text in enumerate(rest) if text.startswith("--")), len(rest))]


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_preset_renders_to_its_golden_command(name: str) -> None:
    # To rewrite after a change that is meant: LORAKIT_WRITE_GOLDEN=1 pytest tests/trainers/test_render.py
    golden = GOLDEN / f"{name}.txt"
    preset = shipped(name)
    program = {"builtin": "-m lorakit.trainers.builtin", "sd-scripts": "sdxl_train_network.py"}[kind_of(preset)]
    text = shell_line([*program.split(), *argv_of(name)]) + "\n"
    if os.environ.get("LORAKIT_WRITE_GOLDEN"):
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


def test_no_golden_command_is_left_without_a_preset() -> None:
    assert sorted(path.stem for path in GOLDEN.glob("*.txt")) == NAMES


# Law 4: what the trainer would assume on its own is written out.
ALWAYS = (
    "--pretrained_model_name_or_path", "--resolution", "--min_bucket_reso", "--max_bucket_reso", "--bucket_reso_steps",
    "--caption_extension", "--network_module", "--network_dim", "--network_alpha", "--optimizer_type", "--learning_rate",
    "--lr_scheduler", "--lr_warmup_steps", "--max_grad_norm", "--train_batch_size", "--gradient_accumulation_steps",
    "--loss_type", "--mixed_precision", "--save_precision", "--save_model_as", "--output_dir", "--output_name", "--seed",
    "--max_data_loader_n_workers", "--vae_batch_size", "--prior_loss_weight",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_nothing_that_matters_is_left_to_the_trainer(name: str) -> None:
    argv = argv_of(name)
    assert all(option(argv, flag) for flag in ALWAYS)


def test_captions_are_txt_and_buckets_reach_2048() -> None:
    argv = argv_of("sdxl-character")
    assert option(argv, "--caption_extension") == [".txt"]
    assert option(argv, "--max_bucket_reso") == ["2048"]


def test_a_part_without_a_rate_is_left_out_by_the_trainers_own_switch() -> None:
    unet_only = argv_of("sdxl-style")
    assert "--network_train_unet_only" in unet_only
    assert "--text_encoder_lr" not in unet_only
    te_only = argv_of("refine-te")
    assert "--network_train_text_encoder_only" in te_only
    assert "--unet_lr" not in te_only
    assert option(te_only, "--learning_rate") == option(te_only, "--text_encoder_lr") == ["1e-6"]


def test_one_text_encoder_rate_is_one_value_and_a_pair_is_two() -> None:
    one = argv_of("quickstart", "optim.te_lr=[2e-4, 2e-4]")
    assert option(one, "--text_encoder_lr") == ["2e-4"]
    pair = argv_of("quickstart", "optim.te_lr=[2e-4, 5e-5]")
    assert option(pair, "--text_encoder_lr") == ["2e-4", "5e-5"]
    real = argv_of("quickstart", "optim.te_lr=[2e-4, 5e-5]", kind="sd-scripts")
    assert option(real, "--text_encoder_lr") == ["2e-4", "5e-5"]


@pytest.mark.parametrize(
    ("overrides", "kind"),
    [
        (("optim.te_lr=0", "optim.unet_lr=0"), "builtin"),
        (("optim.te_lr=[1e-4, 0]",), "builtin"),
        (("optim.te_lr=[1e-4, 5e-5]", "trainer.probe=false"), "sd-scripts"),
    ],
)
def test_what_the_command_cannot_say_is_refused(overrides: tuple[str, ...], kind: str) -> None:
    with pytest.raises(RuleError):
        argv_of("quickstart", *overrides, kind=kind)


def test_a_seed_must_have_been_drawn() -> None:
    preset = shipped("quickstart").model_copy(update={"seed": None})
    with pytest.raises(RuleError, match="seed"):
        render(preset, PATHS, kind="builtin")


def test_a_split_has_a_seed_even_when_none_is_given() -> None:
    assert option(argv_of("quickstart"), "--validation_seed") == ["42"]
    assert option(argv_of("quickstart", "validation.seed=7"), "--validation_seed") == ["7"]
    assert "--validation_seed" not in argv_of("sdxl-character")


@pytest.mark.parametrize(
    ("warmup", "processes", "text"),
    [
        (Warmup(ratio=0.05), 1, "5%"),
        (Warmup(ratio=0.05), 4, "5%"),
        (Warmup(steps=100), 1, "100"),
        (Warmup(steps=100), 4, "400"),  # the trainer counts scheduler ticks, of which a step makes one per process
        (Warmup(steps=1), 1, "1"),
        (Warmup(steps=0), 2, "0"),
    ],
)
def test_warmup_is_spelled_for_the_trainer(warmup: Warmup, processes: int, text: str) -> None:
    assert warmup_text(warmup, processes) == text


@given(st.floats(0, 1, exclude_min=True, exclude_max=True))
def test_a_warmup_ratio_reads_back_exactly(ratio: float) -> None:
    assert parse_warmup(warmup_text(Warmup(ratio=ratio))) == ratio


@pytest.mark.parametrize(
    ("written", "spelled"),
    [
        ("betas=[0.9, 0.99]", "betas=(0.9,0.99)"),
        ("betas=[0.9]", "betas=(0.9,)"),
        ('mode="a, b"', "mode='a, b'"),
        ("flag=true", "flag=True"),
        ("weight_decay=0.01", "weight_decay=0.01"),
    ],
)
def test_optimizer_arguments_are_python_literals(written: str, spelled: str) -> None:
    argv = argv_of("quickstart", f"optim.args.{written}")
    assert option(argv, "--optimizer_args") == [spelled]


def test_the_run_id_follows_the_users_comment() -> None:
    argv = argv_of("quickstart", "log.comment=for the cover")
    assert option(argv, "--training_comment") == ["for the cover; lorakit run k3f9"]


def test_a_value_that_begins_with_a_dash_survives() -> None:
    argv = argv_of("quickstart", "log.title=--seed 3", "loss.noise_offset=0.1", "loss.adaptive_noise_scale=-1e-05")
    parsed = Catalogue.load().parser().parse_args(argv)
    assert parsed.metadata_title == "--seed 3"
    assert parsed.adaptive_noise_scale == -1e-05
    assert parsed.seed == 42


def test_only_sd_scripts_is_told_to_log_in_plain_lines() -> None:
    assert "--console_log_simple" in argv_of("sdxl-style", kind="sd-scripts")
    assert "--console_log_simple" not in argv_of("sdxl-style", kind="builtin")


def test_a_dataset_toml_is_told_what_repeats_default_to() -> None:
    assert option(argv_of("quickstart", "dataset.config=d.toml"), "--dataset_repeats") == ["1"]
    argv = argv_of("quickstart", "dataset.config=d.toml", "extra.dataset_repeats=3")
    assert argv.count("--dataset_repeats") == 1
    assert option(argv, "--dataset_repeats") == ["3"]


def test_extra_options_come_last() -> None:
    argv = argv_of("quickstart", "extra.log_prefix=a b", "extra.torch_compile=true", 'extra.base_weights=["x", "y"]')
    assert argv[-6:] == ("--log_prefix", "a b", "--torch_compile", "--base_weights", "x", "y")


def test_paths_are_absolute_and_relative_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    real = tmp_path / "store" / "xl.safetensors"
    real.touch()
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "one.safetensors").symlink_to("../store/xl.safetensors")
    (tmp_path / "models" / "vae.safetensors").symlink_to(real)
    preset = shipped("quickstart", "base.model=store/../models/one.safetensors", "base.vae=models/vae.safetensors")
    paths = RenderPaths.of(Workspace(tmp_path), preset, tmp_path / "runs" / "r", "r")
    argv = render(preset, paths, kind="builtin")
    # sd-scripts reads a relative link as if it stood in the current folder; an absolute one it reads well.
    assert option(argv, "--pretrained_model_name_or_path") == [str(real)]
    assert option(argv, "--vae") == [str(tmp_path / "models" / "vae.safetensors")]
    assert option(argv, "--train_data_dir") == [str(tmp_path / "datasets" / "demo" / "zorp")]
    assert option(argv, "--output_dir") == [str(tmp_path / "runs" / "r" / "weights")]


def test_a_link_that_points_at_itself_ends(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").symlink_to("b.safetensors")
    (tmp_path / "b.safetensors").symlink_to("a.safetensors")
    preset = shipped("quickstart", "base.model=a.safetensors")
    RenderPaths.of(Workspace(tmp_path), preset, tmp_path / "run")


def test_the_shell_reads_the_command_as_it_was() -> None:
    argv = [
        "python",
        "a b.py",
        "--x",
        "it's",
        "--empty",
        "",
        "--n",
        "two\nlines \\",
        "--dollar",
        '$HOME `id` "q" *',
        "--é=–",
    ]
    line = shell_line(["printf", "%s\\0", *argv])
    done = subprocess.run(["sh", "-c", line], capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[:-1] == argv


def test_names_of_files_are_safe() -> None:
    assert output_name(shipped("quickstart", "name=--x $(id) 'ü' 日本")) == "x_id_ü_日本"


def options_of_extra() -> st.SearchStrategy[dict[str, Any]]:
    """Tables [extra] that pass its check."""
    free = [flag for flag in Catalogue.load() if not typed_key(flag.dest)]
    allowed = [flag for flag in free if not check_extra(_with_extra({flag.dest: _some(flag)}), "sd-scripts")]
    return st.sets(st.sampled_from([flag.dest for flag in allowed]), max_size=4).flatmap(
        lambda names: st.fixed_dictionaries({flag.dest: _values(flag) for flag in allowed if flag.dest in names})
    )


def _with_extra(extra: dict[str, Any]) -> Preset:
    return shipped("quickstart").model_copy(update={"extra": extra})


def _values(flag: Flag) -> st.SearchStrategy[Any]:
    if flag.type == "bool":
        return st.just(value=True)
    if flag.choices:
        return st.sampled_from([choice for choice in flag.choices if choice not in (None, flag.default)])
    one: st.SearchStrategy[Any] = {"int": st.integers(1, 9), "float": st.floats(0.5, 2)}.get(flag.type, st.just("a b"))
    return (
        st.lists(one, min_size=1, max_size=2) if flag.nargs == "*" else one.filter(lambda value: value != flag.default)
    )


def _some(flag: Flag) -> Any:
    typed = {"bool": True, "int": 1, "float": 0.5}.get(flag.type, "text")
    value = next((choice for choice in flag.choices or () if choice is not None), typed)
    return [value] if flag.nargs == "*" else value


@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(preset=presets({("extra",): options_of_extra()}), kind=st.sampled_from(["sd-scripts", "builtin"]))
def test_any_preset_comes_back_from_its_command(preset: Preset, kind: Any) -> None:
    rates = preset.optim.te_lr
    assume(any((preset.optim.unet_lr, rates.te1, rates.te2)))
    bare = kind == "sd-scripts" and not preset.trainer.probe
    assume(not (rates.is_pair and (bare or 0 in (rates.te1, rates.te2))))
    preset = preset if preset.seed is not None else preset.model_copy(update={"seed": 5})
    argv = render(preset, PATHS, kind=kind)
    assert argv == render(preset, PATHS, kind=kind)
    parsed = Catalogue.load().parser().parse_args(argv)
    back = Preset.model_validate(preset_values(parsed))
    assert back.model_dump() == expected(preset).model_dump()


def expected(preset: Preset) -> Preset:
    """The preset as far as a command can tell it: absolute paths, numbers in place of words, nothing about the launch."""

    def path(text: str | None) -> str | None:
        return text and PATHS.resolve(text)

    def ticks(length: Warmup | None) -> Warmup | None:
        steps = length and length.steps
        return Warmup(steps=steps * preset.launch.processes) if steps else length

    data, network, optim = preset.dataset, preset.network, preset.optim
    split = preset.validation.split > 0
    updates: dict[str, dict[str, Any]] = {
        "base": {
            "model": path(preset.base.model), "vae": path(preset.base.vae), "allow_pickle": False,
            "tokenizer_cache": path(preset.base.tokenizer_cache),
        },
        "dataset": {
            "path": path(data.path), "reg_path": path(data.reg_path), "config": path(data.config), "skip_unreadable": False,
        },
        "network": {
            "weights": path(network.weights),
            "alpha": dataclasses.replace(network.alpha, number=network.alpha.of(network.dim), divisor=None),
            "args": {name: _spelled(value) for name, value in network.args.items()},
        },
        "optim": {
            "warmup": ticks(optim.warmup),
            "decay": None if optim.decay == Warmup(steps=0) else ticks(optim.decay),
        },
        "length": {"stop_at_loss_spike": None, "stop_at_gradient_spike": None},
        "precision": {"full": preset.precision.full and preset.precision.mixed != "no"},
        "sample": {
            "prompts": path(preset.sample.prompts),
            "sampler": preset.sample.sampler if preset.sample.prompts else "euler_a",
        },
        "validation": {
            "seed": (preset.seed if preset.validation.seed is None else preset.validation.seed) if split else None,
        },
        "log": {"comment": "; ".join(filter(None, [preset.log.comment, "lorakit run k3f9"]))},
    }  # fmt: skip
    tables: dict[str, Any] = {}
    for name, table in preset:
        if name in {"trainer", "description", "extra", "name", "seed"}:
            continue
        told = {key: None if value == "" and key not in _NEVER_NONE else value for key, value in table}
        tables[name] = told | updates.get(name, {})
    tables["launch"] = {"ddp_timeout": preset.launch.ddp_timeout}
    head = {"name": name_of_files(preset.name), "seed": preset.seed, "extra": preset.extra}
    return Preset.model_validate(head | {name: _without_none(table) for name, table in tables.items()})


_NEVER_NONE = {"keep_tokens_separator", "comment"}


def _without_none(table: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in table.items() if value is not None}


def _spelled(value: Any) -> str:
    return format_number(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)
