"""The table of rules: for each rule a preset that breaks it and nothing else, and a neighbour that keeps it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorakit.preset.files import load_text
from lorakit.preset.models import Preset
from lorakit.preset.rules import RULES, TABLES, TrainerKind, check
from lorakit.preset.schema import TABLES as PRESET_TABLES
from lorakit.preset.schema import exists
from tests.preset.strategies import presets

PLAIN = """
name = "plain"
base.model = "models/xl.safetensors"
dataset.path = "datasets/plain"
optim.unet_lr = 1e-4
optim.te_lr = 5e-5
length.epochs = 10
"""


@dataclass(frozen=True)
class Case:
    """``breaks`` and ``keeps`` are overrides on the plain preset, beside ``both``."""

    code: str
    breaks: tuple[str, ...]
    keeps: tuple[str, ...]
    both: tuple[str, ...] = ()
    kind: TrainerKind = "sd-scripts"
    other_kind_keeps: bool = False


def case(
    code: str, breaks: str, keeps: str, both: str = "", kind: TrainerKind = "sd-scripts", *, only: bool = False
) -> Case:
    """``only``: the same preset is fine with the other trainer. Overrides are separated by spaces around a bar."""
    split = [tuple(part for part in text.split(" | ") if part) for text in (breaks, keeps, both)]
    return Case(code, split[0], split[1], split[2], kind, only)


UNET_ONLY = "optim.te_lr=0"
CONFIG = "dataset.config=d.toml"
ADAFACTOR = "optim.type=AdaFactor"
FIXED = "optim.args={relative_step = false, scale_parameter = false, warmup_init = false}"
FLAT = "optim.schedule=constant_with_warmup | optim.max_grad_norm=0"
NINE = ",".join("1" * 9)
BLOCKS = ",".join(["4"] * 23)
ZEROS = ",".join("0" * 23)

CASES = [
    case("LK002", "base.clip_skip=2", ""),
    case("LK003", "precision.mixed=no", "precision.mixed=fp16 | precision.no_half_vae=true", "precision.full=true"),
    case("LK004", "precision.mixed=no", "precision.mixed=bf16", "precision.fp8_base=true"),
    case("LK004", "precision.mixed=no", "precision.mixed=bf16", "precision.fp8_base_unet=true"),
    case("LK005", "launch.cpu=true", "launch.cpu=false", "precision.mixed=fp16 | precision.no_half_vae=true"),
    case("LK006", "launch.cpu=true", "", "precision.fp8_base_unet=true"),
    case("LK007", "precision.mixed=fp16", "precision.mixed=fp16 | base.vae=vae.safetensors"),
    case("LK008", "precision.full=true", "precision.full=false"),
    case("LK022", "memory.gradient_checkpointing=true | memory.cpu_offload_checkpointing=true", "memory.gradient_checkpointing=true", only=True),
    case("LK023", "memory.cpu_offload_checkpointing=true", ""),
    case("LK024", "memory.cache_latents=false", "memory.cache_latents=true", "memory.cache_latents_to_disk=true", "builtin"),
    case("LK025", "memory.cache_text_encoder_outputs=false", "memory.cache_text_encoder_outputs=true", f"memory.cache_text_encoder_outputs_to_disk=true | {UNET_ONLY}", "builtin"),
    case("LK011", "optim.unet_lr=0 | optim.te_lr=0", "optim.unet_lr=0"),
    case("LK013", "optim.te_lr=[5e-5, 0]", "optim.te_lr=[5e-5, 1e-9]", kind="builtin"),
    case("LK013", "optim.te_lr=[0, 5e-5]", "optim.te_lr=[5e-5, 5e-5]"),
    case("LK014", "optim.te_lr=[5e-5, 2e-5]", "optim.te_lr=[5e-5, 5e-5]", "trainer.probe=false", only=True),
    case("LK014", "trainer.probe=false", "trainer.probe=true", "optim.te_lr=[5e-5, 2e-5]", only=True),
    case("LK015", "trainer.probe=false", "trainer.probe=true", "length.stop_at_loss_spike=5.0", only=True),
    case("LK015", "length.stop_at_gradient_spike=5.0", "", "trainer.probe=false", only=True),
    case("LK021", "", UNET_ONLY, "memory.cache_text_encoder_outputs=true"),
    case("LK028", "dataset.shuffle_caption=true", "", f"memory.cache_text_encoder_outputs=true | {UNET_ONLY}"),
    case("LK028", "dataset.caption_dropout_rate=0.1", "", f"memory.cache_text_encoder_outputs=true | {UNET_ONLY}"),
    case("LK028", "dataset.caption_tag_dropout_rate=0.1", "", f"memory.cache_text_encoder_outputs=true | {UNET_ONLY}"),
    case("LK028", "dataset.token_warmup_step=10", "", f"memory.cache_text_encoder_outputs=true | {UNET_ONLY}"),
    case("LK029", "dataset.caption_dropout_every_n_epochs=2", "", f"memory.cache_text_encoder_outputs=true | {UNET_ONLY}"),
    case("LK029", "dataset.caption_prefix=p", "", f"memory.cache_text_encoder_outputs=true | {UNET_ONLY}"),
    case("LK029", "dataset.enable_wildcard=true", "memory.cache_text_encoder_outputs=false | dataset.enable_wildcard=true", f"memory.cache_text_encoder_outputs=true | {UNET_ONLY}"),
    case("LK029", "dataset.secondary_separator=;", "", f"memory.cache_text_encoder_outputs=true | {UNET_ONLY}"),
    case("LK030", "dataset.color_aug=true", "dataset.flip_aug=true"),
    case("LK030", "memory.cache_latents=true", "memory.cache_latents=false", "dataset.random_crop=true"),
    case("LK031", "dataset.bucket_step=48 | dataset.bucket_min=240 | dataset.bucket_max=2016", "dataset.bucket_step=32"),
    case("LK032", "dataset.resolution=[128, 512]", "dataset.resolution=[256, 512]"),
    case("LK032", "dataset.bucket_min=320", "dataset.bucket_min=256", "dataset.resolution=256"),
    case("LK033", "dataset.bucket_max=960", "dataset.bucket_max=1280"),
    case("LK034", "dataset.bucket_max=1024", "dataset.bucket_max=1280"),
    case("LK035", "dataset.bucket_min=250", "dataset.bucket_min=320"),
    case("LK035", "dataset.bucket_max=2000", "dataset.bucket_max=1984"),
    case("LK036", "dataset.bucket_min=320", "", "dataset.bucket_no_upscale=true"),
    case("LK037", "dataset.bucket_max=1024", "", "dataset.bucket=false"),
    case("LK038", "dataset.resolution=1000", "dataset.resolution=992", "dataset.bucket=false"),
    case("LK039", "memory.cache_latents=false", "memory.cache_latents=true", "dataset.bucket=false"),
    case("LK040", "dataset.bucket_min=32", "dataset.bucket_min=64", "dataset.bucket_step=64"),
    case("LK042", "dataset.reg_path=reg", "", CONFIG),
    case("LK051", "dataset.face_crop_aug_range=4,2", "dataset.face_crop_aug_range=2,2", "dataset.bucket=false | memory.cache_latents=false | dataset.random_crop=true | -LK039"),
    case("LK052", "dataset.bucket=true", "dataset.bucket=false", "dataset.face_crop_aug_range=2,4 | memory.cache_latents=false | dataset.random_crop=true | -LK039"),
    case("LK053", "dataset.keep_tokens=1", "dataset.keep_tokens=1 | dataset.shuffle_caption=true"),
    case("LK054", "dataset.token_warmup_min=2", "dataset.token_warmup_min=2 | dataset.token_warmup_step=0.1"),
    case("LK056", "dataset.caption_dropout_rate=1.0", "dataset.caption_dropout_rate=0.9"),
    case("LK056", "dataset.caption_dropout_every_n_epochs=1", "dataset.caption_dropout_every_n_epochs=2"),
    case("LK061", "dataset.workers=0", "dataset.workers=1", "dataset.persistent_workers=true"),
    case("LK071", "validation.split=1.0", "validation.split=0.9"),
    case("LK072", "validation.every_n_epochs=1", "validation.every_n_epochs=1 | validation.split=0.1"),
    case("LK102", "optim.schedule=constant", "optim.schedule=constant_with_warmup", "optim.warmup=5%"),
    case("LK103", "optim.type=radam", "optim.type=RAdam"),
    case("LK103", "optim.type=AdamV", "optim.type=adamw"),
    case("LK103", "optim.type=Mine", "optim.type=my.package.Mine"),
    case("LK104", "optim.schedule=cosine", "optim.schedule=constant", "optim.type=AdamWScheduleFree"),
    case("LK105", 'optim.args.mode="a=b"', 'optim.args.mode="a"'),
    case("LK108", "optim.warmup=100 steps", "optim.warmup=100 steps | " + FIXED + " | " + FLAT, ADAFACTOR + " | -LK109"),
    case("LK109", "", FIXED + " | " + FLAT, ADAFACTOR),
    case("LK110", "optim.args={relative_step = false, warmup_init = true}", FIXED + " | " + FLAT, ADAFACTOR),
    case("LK111", "optim.schedule=cosine", "", f"{ADAFACTOR} | {FIXED} | {FLAT}"),
    case("LK111", "optim.max_grad_norm=1", "", f"{ADAFACTOR} | {FIXED} | {FLAT}"),
    case("LK111", "optim.args.clip_threshold=2", "", f"{ADAFACTOR} | {FIXED} | {FLAT}"),
    case("LK113", "optim.unet_lr=1e-4", "optim.unet_lr=1.0", f"optim.type=Prodigy | {UNET_ONLY}"),
    case("LK114", "optim.te_lr=0.5", "optim.te_lr=1.0", "optim.type=Prodigy | optim.unet_lr=1.0"),
    case("LK115", "optim.type=Prodigy", "optim.type=AdamW", "optim.unet_lr=1.0 | optim.te_lr=1.0 | network.loraplus_lr_ratio=4"),
    case("LK116", "optim.type=DAdaptAdam", "optim.type=Prodigy", "optim.unet_lr=1.0 | optim.te_lr=1.0"),
    case("LK120", "optim.schedule=cosin", "optim.schedule=cosine"),
    case("LK120", "optim.schedule=reduce_lr_on_plateau", "optim.schedule=linear"),
    case("LK121", "optim.schedule=adafactor:1e-4", ADAFACTOR + " | optim.schedule=adafactor:1e-4 | -LK109"),
    case("LK122", "", "optim.min_lr_ratio=0.1", "optim.schedule=cosine_with_min_lr"),
    case("LK123", "optim.unet_lr=1e-7", "optim.unet_lr=2e-7", "optim.schedule=polynomial"),
    case("LK124", "", "optim.decay=20%", "optim.schedule=warmup_stable_decay"),
    case("LK125", "optim.warmup=60%", "optim.warmup=40%", "optim.schedule=warmup_stable_decay | optim.decay=50%"),
    case("LK125", "optim.warmup=101 steps", "optim.warmup=100 steps", "length.steps=100"),
    case("LK127", "optim.cycles=3", "optim.cycles=3 | optim.schedule=cosine_with_restarts"),
    case("LK127", "optim.power=2", "optim.power=2 | optim.schedule=polynomial"),
    case("LK127", "optim.timescale=9", "optim.timescale=9 | optim.schedule=inverse_sqrt"),
    case("LK127", "optim.decay=5%", "optim.decay=5% | optim.schedule=warmup_stable_decay"),
    case("LK127", "optim.min_lr_ratio=0.1", "optim.min_lr_ratio=0.1 | optim.schedule=cosine_with_min_lr"),
    case("LK129", "", """extra.lr_scheduler_args=["step_rules='1:10,0.1'"]""", "optim.schedule=piecewise_constant"),
    case("LK140", "", "loss.noise_offset=0.05", "loss.adaptive_noise_scale=0.01"),
    case("LK141", "loss.noise_offset=0", "loss.noise_offset=0.05", "loss.adaptive_noise_scale=0.01"),
    case("LK142", "", "loss.multires_noise_iterations=6", "loss.multires_noise_discount=0.5"),
    case("LK143", "", "loss.noise_offset=0.05", "loss.noise_offset_random=true"),
    case("LK143", "", "loss.ip_noise_gamma=0.1", "loss.ip_noise_gamma_random=true"),
    case("LK144", "", "base.v_prediction=true", "loss.scale_v_pred_like_noise_pred=true"),
    case("LK145", "base.v_prediction=true", "", "loss.v_pred_like=0.5"),
    case("LK146", "", "base.v_prediction=true", "loss.zero_terminal_snr=true"),
    case("LK147", "loss.min_snr_gamma=5", "", "base.v_prediction=true | loss.zero_terminal_snr=true"),
    case("LK148", "loss.max_timestep=200", "loss.max_timestep=201", "loss.min_timestep=200"),
    case("LK149", "loss.huber_schedule=snr", "loss.huber_schedule=exponential", "loss.type=huber | loss.huber_scale=2"),
    case("LK150", "loss.type=l2", "loss.type=smooth_l1", "loss.huber_c=0.2"),
    case("LK151", "", "dataset.alpha_mask=true", "loss.masked=true"),
    case("LK160", "network.args.rank_dropoud=0.1", "network.rank_dropout=0.1"),
    case("LK160", "network.args.bypass_mode=true", "network.args.bypass_mode=true | network.module=lycoris.kohya | network.algo=lora"),
    case("LK162", "network.args.rank_dropout=0.2", "network.rank_dropout=0.2"),
    case("LK162", "network.args.loraplus_text_encoder_lr_ratio=4", "network.loraplus_te_lr_ratio=4"),
    case("LK163", "", "network.conv_dim=8", "network.conv_alpha=4"),
    case("LK164", "", "network.conv_alpha=4", "network.conv_dim=8"),
    case("LK165", "", f"network.block_dims=[{BLOCKS}]", f"network.block_alphas={BLOCKS}"),
    case("LK165", "", f"network.up_lr_weight={NINE}", f"network.conv_block_dims=[{BLOCKS}]"),
    case("LK166", "network.block_dims=4,4,4", f"network.block_dims={BLOCKS}"),
    case("LK166", f"network.block_dims=[{BLOCKS}.5]", f"network.block_dims={BLOCKS}"),
    case("LK167", "network.down_lr_weight=[0.5]", f"network.down_lr_weight={NINE}"),
    case("LK167", "network.mid_lr_weight=1,1", "network.mid_lr_weight=1,1,0"),
    case("LK167", "network.mid_lr_weight=cosine", "network.mid_lr_weight=[1, 0.5, 1]"),
    case("LK167", "network.up_lr_weight=bogus", "network.up_lr_weight=cosine+.25"),
    case("LK168", "", "network.weights=lora.safetensors", "network.dim_from_weights=true"),
    case("LK169", "network.dropout=0.1", "", "network.dim_from_weights=true | network.weights=lora.safetensors"),
    case("LK170", "network.module=my.network", "network.module=networks.lora", "network.max_norm=1"),
    case("LK171", "network.conv_dim=4 | network.conv_alpha=4", "", f"network.module=networks.oft | network.dim=8 | {UNET_ONLY}"),
    case("LK171", "network.module=networks.lora_fa", "network.module=networks.lora", "network.loraplus_lr_ratio=16"),
    case("LK171", "network.algo=lokr", "network.algo=lokr | network.module=lycoris.kohya"),
    case("LK172", "network.unit=3", "network.unit=4", f"network.module=networks.dylora | {UNET_ONLY}"),
    case("LK173", "", UNET_ONLY, "network.module=networks.dylora"),
    case("LK173", "", UNET_ONLY, "network.module=networks.oft | network.dim=8"),
    case("LK174", "network.dim=3", "network.dim=128", f"network.module=networks.oft | {UNET_ONLY}"),
    case("LK174", "network.enable_conv=true", "", f"network.dim=128 | network.module=networks.oft | {UNET_ONLY}"),
    case("LK175", f"network.block_dims=[{ZEROS}]", f"network.block_dims=[{BLOCKS}]"),
    case("LK175", "network.mid_lr_weight=[0, 0, 0]", "network.mid_lr_weight=[0, 1, 0]", "network.down_lr_weight=zeros | network.up_lr_weight=zeros"),
    case("LK177", "network.conv_dim=8", "network.conv_dim=16", f"network.module=networks.dylora | network.conv_alpha=8 | {UNET_ONLY}"),
    case("LK176", "optim.unet_lr=0", "", "network.loraplus_unet_lr_ratio=4"),
    case("LK176", "optim.unet_lr=0", "", f"network.down_lr_weight={NINE}"),
    case("LK176", UNET_ONLY, "", "network.loraplus_te_lr_ratio=4"),
    case("LK180", "", "sample.prompts=p.txt", "sample.every_n_epochs=1"),
    case("LK180", "", "sample.prompts=p.txt", "sample.at_first=true"),
    case("LK181", "", "sample.every_n_steps=10", "sample.prompts=p.txt"),
    case("LK182", "sample.every_n_steps=10", "", "sample.prompts=p.txt | sample.every_n_epochs=1"),
    case("LK183", "sample.prompts=p.yaml", "sample.prompts=p.json", "sample.every_n_epochs=1"),
    case("LK190", "", "save.every_n_epochs=1", "save.last_n_epochs=2"),
    case("LK190", "save.state=false", "save.state=true", "save.last_n_steps_state=2 | save.every_n_steps=10"),
    case("LK191", "", "save.every_n_epochs=1", "save.state=true"),
    case("LK193", "save.format=pt", "save.format=safetensors"),
    case("LK194", "log.metadata=false", "log.metadata=true"),
    case("LK200", "launch.processes=2", "launch.processes=1", "launch.cpu=true", only=True),
    case("LK201", "launch.cpu=true", "launch.cpu=false", "launch.gpu_ids=0"),
    case("LK202", "launch.gpu_ids=0,1", "launch.gpu_ids=0,1 | launch.processes=2"),
    case("LK202", "launch.gpu_ids=0,0", "launch.gpu_ids=0,1", "launch.processes=2"),
]  # fmt: skip


def preset_of(*overrides: str) -> Preset:
    return load_text(PLAIN, Path("plain.toml"), overrides).preset


def codes(overrides: tuple[str, ...], kind: TrainerKind) -> set[str]:
    """Codes found with these overrides, without those that an override such as ``-LK039`` takes as given."""
    given_ = {text[1:] for text in overrides if text.startswith("-LK")}
    preset = preset_of(*(text for text in overrides if not text.startswith("-LK")))
    return {finding.code for finding in check(preset, kind)} - given_


def test_the_plain_preset_keeps_every_rule() -> None:
    assert codes((), "sd-scripts") == codes((), "builtin") == set()


@pytest.mark.parametrize("one", CASES, ids=lambda one: f"{one.code}-{'+'.join(one.breaks) or 'bare'}")
def test_a_rule_is_broken_alone_and_kept_by_a_neighbour(one: Case) -> None:
    assert codes((*one.both, *one.breaks), one.kind) == {one.code}
    assert codes((*one.both, *one.keeps), one.kind) == set()
    if one.other_kind_keeps:
        assert codes((*one.both, *one.breaks), "builtin") == set()


def test_every_rule_has_a_case() -> None:
    assert {rule.code for rule in RULES} == {one.code for one in CASES}


def test_codes_are_unique_and_shaped_alike() -> None:
    found = [rule.code for rule in RULES]
    assert len(set(found)) == len(found)
    assert all(re.fullmatch(r"LK[0-9]{3}", code) for code in found)
    # LK9.. are the reader's: what is wrong with a file before its values can be looked at together.
    assert not any(code.startswith("LK9") for code in found)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_a_rule_speaks_in_sentences_about_a_key_that_exists(rule: object) -> None:
    from lorakit.preset.rules import Rule

    assert isinstance(rule, Rule)
    assert rule.key in PRESET_TABLES or exists(tuple(rule.key.split(".")))
    for text in (rule.what, rule.why, rule.todo):
        assert text
        assert not text.endswith(".")
        assert text == text.strip()


def test_a_dataset_toml_decides_for_itself_on_pictures_and_captions() -> None:
    wrong = (
        "dataset.bucket_max=512",
        "dataset.bucket_step=48",
        "dataset.shuffle_caption=true",
        "dataset.random_crop=true",
    )
    caches = ("memory.cache_text_encoder_outputs=true", "memory.cache_latents=true", UNET_ONLY)
    assert codes((*wrong, *caches), "sd-scripts") == {"LK028", "LK030", "LK031", "LK033", "LK035"}
    assert codes((*wrong, *caches, CONFIG), "sd-scripts") == set()


def test_findings_come_errors_first_and_say_what_is_broken() -> None:
    preset = preset_of(
        "base.clip_skip=2", "optim.te_lr=[5e-5, 2e-5]", "trainer.probe=false", "network.args.rank_dropoud=0.1"
    )
    found = check(preset, "sd-scripts")
    assert [finding.code for finding in found] == ["LK014", "LK002", "LK160"]
    assert found[0].what == "TE2 has a rate of its own, and the probe is off: 5e-5/2e-5"
    assert (
        found[2].what == "arguments that the network does not know: rank_dropoud (did you mean network.rank_dropout?)"
    )
    problem = found[0].problem("plain.toml:6")
    assert (problem.code, problem.key, problem.where) == ("LK014", "optim.te_lr", "plain.toml:6")


@settings(max_examples=60, deadline=None, derandomize=True)
@given(preset=presets(), kind=st.sampled_from(["sd-scripts", "builtin"]))
def test_rules_look_at_any_preset_without_failing(preset: Preset, kind: TrainerKind) -> None:
    found = check(preset, kind)
    assert found == check(preset, kind)
    assert all(finding.what for finding in found)


def test_tables_have_titles() -> None:
    assert len({table.title for table in TABLES}) == len(TABLES)
