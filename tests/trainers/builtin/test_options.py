"""The command line: every argument is acted upon, known to be harmless, or refused by name."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from lorakit.errors import TrainerError
from lorakit.trainers import builtin_support as support
from lorakit.trainers.builtin.options import TrainOptions, implemented, parse
from lorakit.trainers.catalogue import Catalogue

BASE = (
    "--pretrained_model_name_or_path", "m.safetensors", "--output_dir", "out", "--train_data_dir", "data",
    "--resolution", "832,1216", "--network_module", "networks.lora",
)  # fmt: skip


def parsed(*more: str) -> TrainOptions:
    return parse([*BASE, *more])


def test_every_argument_has_exactly_one_fate() -> None:
    known = set(Catalogue.load().by_dest())
    fates = [implemented(), frozenset(support.HARMLESS), frozenset(support.REFUSED)]
    assert set().union(*fates) == known
    assert sum(len(fate) for fate in fates) == len(known) == 196
    assert all(len(reason) > 5 for reason in (*support.HARMLESS.values(), *support.REFUSED.values()))


@pytest.mark.parametrize("name", sorted(support.REFUSED))
def test_refused_by_name(name: str) -> None:
    flag = Catalogue.load().by_dest()[name]
    samples = {"int": "7", "float": "0.7", "str": "x", "Path": "x", "int_or_float": "7"}
    value = () if flag.type == "bool" else (flag.choices[-1] if flag.choices else samples[flag.type],)
    with pytest.raises(TrainerError, match=name) as caught:
        parsed(flag.flag, *map(str, value))
    assert caught.value.exit_code == 8
    assert [problem.key for problem in caught.value.problems] == [name]


@pytest.mark.parametrize("name", sorted(support.HARMLESS))
def test_harmless_is_taken(name: str) -> None:
    flag = Catalogue.load().by_dest()[name]
    samples = {"int": "7", "float": "0.7", "str": "x"}
    value = () if flag.type == "bool" else (flag.choices[-1] if flag.choices else samples[flag.type],)
    assert parsed(flag.flag, *map(str, value)) is not None


def test_all_problems_at_once_and_before_anything_heavy_is_imported() -> None:
    code = (
        "import sys\n"
        "from lorakit.trainers.builtin.__main__ import main\n"
        "code = main(sys.argv[1:])\n"
        "assert not {'torch', 'diffusers', 'transformers', 'accelerate', 'numpy'} & set(sys.modules)\n"
        "sys.exit(code)\n"
    )
    line = [*BASE, "--v2", "--fp8_base", "--network_args", "algo=lokr", "--optimizer_type", "AdamWScheduleFree"]
    done = subprocess.run([sys.executable, "-c", code, *line], capture_output=True, text=True, check=False)
    assert done.returncode == 8
    assert "v2, fp8_base, network_args, optimizer_type" in done.stderr.splitlines()[0]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("--network_module lycoris.kohya", "network_module"),
        ("--network_args conv_dim", "network_args"),
        ("--network_args rank_dropout=much", "network_args"),
        ("--network_args block_dims=4,4,4", "network_args"),
        ("--network_args up_lr_weight=wave", "network_args"),
        ("--network_args mid_lr_weight=cosine", "network_args"),
        ("--network_args down_lr_weight=0.5", "network_args"),
        ("--network_module networks.lora_fa --network_args loraplus_lr_ratio=4", "network_args"),
        ("--network_module networks.dylora", "network_module"),
        ("--optimizer_type no_such_package.Optimizer", "optimizer_type"),
        ("--optimizer_args betas", "optimizer_args"),
        ("--optimizer_args name=text", "optimizer_args"),
        ("--lr_scheduler reduce_lr_on_plateau", "lr_scheduler"),
        ("--log_with wandb --logging_dir l", "log_with"),
        ("--save_model_as ckpt", "save_model_as"),
        ("--full_bf16", "full_bf16"),
        ("--text_encoder_lr 1e-4 1e-5 1e-6", "text_encoder_lr"),
        ("--network_train_unet_only --network_train_text_encoder_only", "network_train_unet_only"),
        ("--learning_rate 0", "learning_rate"),
        ("--optimizer_type Prodigy --unet_lr 1 --text_encoder_lr 0.5", "optimizer_type"),
        ("--lr_warmup_steps 5", "lr_warmup_steps"),
        ("--lr_scheduler cosine_with_min_lr", "lr_scheduler_min_lr_ratio"),
        ("--lr_scheduler adafactor:1e-3", "lr_scheduler"),
        ("--use_8bit_adam --use_lion_optimizer", "use_8bit_adam"),
        ("--use_8bit_adam --optimizer_type Lion", "optimizer_type"),
        ("--cache_text_encoder_outputs", "cache_text_encoder_outputs"),
        ("--cache_text_encoder_outputs --network_train_unet_only --shuffle_caption", "shuffle_caption"),
        ("--cache_latents --random_crop", "random_crop"),
        ("--cache_latents_to_disk --color_aug", "color_aug"),
        ("--adaptive_noise_scale 0.1", "adaptive_noise_scale"),
        ("--scale_v_pred_loss_like_noise_pred", "scale_v_pred_loss_like_noise_pred"),
        ("--v_pred_like_loss 0.1 --v_parameterization", "v_pred_like_loss"),
        ("--max_timestep 1001", "max_timestep"),
        ("--min_timestep 1000 --max_timestep 1000", "max_timestep"),
        ("--gradient_accumulation_steps 0", "gradient_accumulation_steps"),
        ("--seed -1", "seed"),
        ("--persistent_data_loader_workers --max_data_loader_n_workers 0", "persistent_data_loader_workers"),
        ("--log_with tensorboard", "logging_dir"),
        ("--sample_every_n_steps 5", "sample_prompts"),
        ("--max_train_steps -1", "max_train_steps"),
    ],
)
def test_combinations_that_cannot_work(line: str, key: str) -> None:
    with pytest.raises(TrainerError) as caught:
        parsed(*line.split())
    assert key in [problem.key for problem in caught.value.problems]


def test_missing_essentials() -> None:
    with pytest.raises(TrainerError) as caught:
        parse([])
    keys = {problem.key for problem in caught.value.problems}
    assert {"pretrained_model_name_or_path", "output_dir", "train_data_dir", "network_module"} <= keys


def test_unknown_and_abbreviated_arguments() -> None:
    for line in (("--resolutio", "64"), ("--no_such_thing",), ("--seed", "one")):
        with pytest.raises(TrainerError, match="cannot be read"):
            parsed(*line)


def test_values_arrive_typed() -> None:
    options = parsed(
        "--text_encoder_lr", "1e-4", "5e-5", "--network_args", "rank_dropout=0.1", "module_dropout=None",
        "--optimizer_args", "betas=0.9,0.95", "--lr_scheduler", "cosine", "--lr_warmup_steps", "5%",
        "--cache_latents_to_disk", "--caption_extention", "txt", "--network_alpha", "0", "--network_dim", "8",
    )  # fmt: skip
    assert options.data.defaults.resolution == (832, 1216)
    assert options.data.defaults.caption_extension == "txt"
    assert options.optim.text_encoder_lr == (1e-4, 5e-5)
    assert (options.network.dim, options.network.alpha) == (8, 8.0)
    assert options.network.argument("rank_dropout") == 0.1
    assert options.network.argument("module_dropout") is None
    assert options.schedule.lr_warmup_steps == 0.05
    assert options.cache.cache_latents
    assert options.optim.optimizer_args == ("betas=0.9,0.95",)


def test_legacy_switches_name_their_optimizers() -> None:
    assert parsed("--use_8bit_adam").optim.optimizer_type == "AdamW8bit"
    assert parsed("--use_lion_optimizer").optim.optimizer_type == "Lion"
    assert parsed().network.dim == 4


def test_dataset_config_needs_no_resolution(tmp_path: Path) -> None:
    line = [*BASE[:4], "--network_module", "networks.lora", "--dataset_config", str(tmp_path / "d.toml")]
    assert parse(line).data.dataset_config == tmp_path / "d.toml"


GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize("name", sorted(path.stem for path in GOLDEN.glob("*.txt")))
def test_the_command_of_every_shipped_preset_is_taken(name: str) -> None:
    words = shlex.split((GOLDEN / f"{name}.txt").read_text(encoding="utf-8").replace("\\\n", " "))
    first = next(index for index, word in enumerate(words) if word.startswith("--"))
    options = parse(words[first:])
    assert options.save.output_name == name
    assert options.length.seed is not None
