"""LK011…: which parts are trained, and what stands still while they are."""

from __future__ import annotations

from typing import Final

from lorakit.preset.models import Preset
from lorakit.preset.rules.rule import Table, TrainerKind

TABLE: Final = Table[TrainerKind]("What is trained")


def trains_te(preset: Preset) -> bool:
    """Whether a text encoder has a rate."""
    return preset.optim.te_lr.te1 > 0 or preset.optim.te_lr.te2 > 0


def trains_unet(preset: Preset) -> bool:
    """Whether the UNet has a rate."""
    return preset.optim.unet_lr > 0


def caches_te(preset: Preset) -> bool:
    """Whether the text encoders run only once."""
    return preset.memory.cache_text_encoder_outputs or preset.memory.cache_text_encoder_outputs_to_disk


def caches_latents(preset: Preset) -> bool:
    """Whether the VAE runs only once."""
    return preset.memory.cache_latents or preset.memory.cache_latents_to_disk


def _bare(preset: Preset) -> bool:
    # Subsets of a dataset TOML have settings of their own; those are looked at with the file.
    return preset.dataset.config is None


@TABLE.error(
    "LK011", "optim.unet_lr", "nothing is trained: unet_lr and te_lr are both 0",
    why="a rate of 0 means that a part is left out, and an optimizer without weights cannot start",
    todo="give optim.unet_lr or optim.te_lr a rate",
)  # fmt: skip
def _something_is_trained(preset: Preset, _: TrainerKind) -> bool:
    return not trains_unet(preset) and not trains_te(preset)


@TABLE.error(
    "LK013", "optim.te_lr", "a pair in which one text encoder has no rate",
    why="the trainer can leave out both text encoders or neither; one at rate 0 stays in the LoRA untrained, while its "
    "gradients pile up and take part in clipping those of the rest",
    todo="give both a rate, or te_lr = 0",
)  # fmt: skip
def _both_text_encoders_or_none(preset: Preset, _: TrainerKind) -> bool:
    rates = preset.optim.te_lr
    return rates.is_pair and 0 in (rates.te1, rates.te2)


@TABLE.error(
    "LK014", "optim.te_lr", "TE2 has a rate of its own, and the probe is off",
    why="sd-scripts alone gives the first rate to both text encoders and drops the second without a word",
    todo='set trainer.probe = true, give one rate for both, or set trainer.kind = "builtin"',
)  # fmt: skip
def _sd_scripts_has_one_te_rate(preset: Preset, kind: TrainerKind) -> bool | str:
    rates = preset.optim.te_lr
    bare = kind == "sd-scripts" and not preset.trainer.probe
    return str(rates) if bare and rates.is_pair and rates.te1 > 0 and rates.te2 > 0 else False


@TABLE.error(
    "LK015", "length.stop_at_loss_spike", "an early end is asked for, and the probe is off",
    why="sd-scripts alone does not look at its loss or gradients, and would train on",
    todo='set trainer.probe = true, leave the two keys out, or set trainer.kind = "builtin"',
)  # fmt: skip
def _sd_scripts_does_not_watch(preset: Preset, kind: TrainerKind) -> bool | str:
    return kind == "sd-scripts" and not preset.trainer.probe and preset.length.spikes


@TABLE.error(
    "LK021", "memory.cache_text_encoder_outputs", "the text encoders are trained, but their outputs are cached",
    why="cached outputs never change, so there is nothing to train; sd-scripts stops with an assertion after loading the model",
    todo="set optim.te_lr = 0, or turn the cache off",
)  # fmt: skip
def _cached_text_encoders_do_not_train(preset: Preset, _: TrainerKind) -> bool:
    return caches_te(preset) and trains_te(preset)


@TABLE.error(
    "LK028", "memory.cache_text_encoder_outputs", "captions change from step to step, but their encodings are cached",
    why="a cached encoding is that of the caption as it stands in the file; the trainer stops with an assertion",
    todo="turn the cache off, or turn these off",
)  # fmt: skip
def _cached_captions_do_not_change(preset: Preset, _: TrainerKind) -> bool | str:
    data = preset.dataset
    changing = {
        "shuffle_caption": data.shuffle_caption,
        "caption_dropout_rate": data.caption_dropout_rate > 0,
        "caption_tag_dropout_rate": data.caption_tag_dropout_rate > 0,
        "token_warmup_step": data.token_warmup_step > 0,
    }
    return _bare(preset) and caches_te(preset) and ", ".join(name for name, on in changing.items() if on)


@TABLE.error(
    "LK029", "memory.cache_text_encoder_outputs", "captions are reworked, but the cache holds them as they stand in the file",
    why="the trainer encodes each caption file once and skips these settings without a word",
    todo="turn the cache off, or write what they do into the caption files",
)  # fmt: skip
def _cached_captions_are_raw(preset: Preset, _: TrainerKind) -> bool | str:
    data = preset.dataset
    reworked = {
        "caption_dropout_every_n_epochs": data.caption_dropout_every_n_epochs > 0,
        "caption_prefix": data.caption_prefix,
        "caption_suffix": data.caption_suffix,
        "enable_wildcard": data.enable_wildcard,
        "secondary_separator": data.secondary_separator,
    }
    return _bare(preset) and caches_te(preset) and ", ".join(name for name, on in reworked.items() if on)


@TABLE.error(
    "LK030", "memory.cache_latents", "pictures change from step to step, but their latents are cached",
    why="a cached latent is that of the picture as it is; the trainer stops with an assertion",
    todo="set memory.cache_latents = false (and cache_latents_to_disk), or turn these off",
)  # fmt: skip
def _cached_pictures_do_not_change(preset: Preset, _: TrainerKind) -> bool | str:
    changing = [name for name in ("color_aug", "random_crop") if getattr(preset.dataset, name)]
    return _bare(preset) and caches_latents(preset) and ", ".join(changing)
