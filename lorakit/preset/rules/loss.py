"""LK140…: noise, timesteps and loss."""

from __future__ import annotations

from typing import Final

from lorakit.preset.models import Loss, Preset
from lorakit.preset.rules.rule import Table, TrainerKind

TABLE: Final = Table[TrainerKind]("Noise and loss")


def _set(loss: Loss, *names: str) -> str:
    return ", ".join(name for name in names if getattr(loss, name) != Loss.model_fields[name].default)


@TABLE.error(
    "LK140", "loss.adaptive_noise_scale", "adaptive_noise_scale without noise_offset",
    why="it adds to noise_offset; the trainer refuses it alone",
    todo="set loss.noise_offset, such as 0.05",
)  # fmt: skip
def _adaptive_scale_needs_an_offset(preset: Preset, _: TrainerKind) -> bool:
    return preset.loss.adaptive_noise_scale is not None and preset.loss.noise_offset is None


@TABLE.warning(
    "LK141", "loss.adaptive_noise_scale", "adaptive_noise_scale with noise_offset 0",
    why="an offset of 0 counts as none, and takes what adds to it along",
    todo="set loss.noise_offset above 0, or leave adaptive_noise_scale out",
)  # fmt: skip
def _adaptive_scale_needs_more_than_zero(preset: Preset, _: TrainerKind) -> bool:
    return preset.loss.adaptive_noise_scale is not None and preset.loss.noise_offset == 0


@TABLE.warning(
    "LK142", "loss.multires_noise_discount", "multires_noise_discount without multires_noise_iterations",
    why="there are no levels that it could discount",
    todo="set loss.multires_noise_iterations, such as 6, or leave the discount out",
)  # fmt: skip
def _discount_needs_levels(preset: Preset, _: TrainerKind) -> bool:
    return preset.loss.multires_noise_iterations is None and bool(_set(preset.loss, "multires_noise_discount"))


@TABLE.warning(
    "LK143", "loss", "a random strength of noise that is not there",
    why="the strength is drawn from 0 up to a value, and the value is not given",
    todo="set loss.noise_offset or loss.ip_noise_gamma, or leave these out",
)  # fmt: skip
def _random_strength_needs_noise(preset: Preset, _: TrainerKind) -> bool | str:
    loss = preset.loss
    idle = {
        "noise_offset_random": loss.noise_offset_random and not loss.noise_offset,
        "ip_noise_gamma_random": loss.ip_noise_gamma_random and not loss.ip_noise_gamma,
    }
    return ", ".join(name for name, on in idle.items() if on)


@TABLE.error(
    "LK144", "loss.scale_v_pred_like_noise_pred", "a scale of the velocity loss without v_prediction",
    why="the model predicts noise; the trainer refuses it",
    todo="set base.v_prediction = true for a v-prediction model, or leave it out",
)  # fmt: skip
def _v_scale_needs_v(preset: Preset, _: TrainerKind) -> bool:
    return preset.loss.scale_v_pred_like_noise_pred and not preset.base.v_prediction


@TABLE.error(
    "LK145", "loss.v_pred_like", "v_pred_like with v_prediction",
    why="it makes a noise loss like a velocity loss, and here it is one; the trainer refuses it",
    todo="leave loss.v_pred_like out",
)  # fmt: skip
def _v_like_needs_noise(preset: Preset, _: TrainerKind) -> bool:
    return bool(preset.loss.v_pred_like) and preset.base.v_prediction


@TABLE.warning(
    "LK146", "loss.zero_terminal_snr", "zero terminal SNR without v_prediction",
    why="at the last timestep there is only noise, from which predicting the noise teaches nothing",
    todo="set base.v_prediction = true for a v-prediction model, or zero_terminal_snr = false",
)  # fmt: skip
def _terminal_snr_needs_v(preset: Preset, _: TrainerKind) -> bool:
    return preset.loss.zero_terminal_snr and not preset.base.v_prediction


@TABLE.warning(
    "LK147", "loss.zero_terminal_snr", "weights by SNR beside a rescaled schedule",
    why="the trainer computes the SNR before it rescales, so the weights belong to the schedule that is not used",
    todo="leave these weights out with zero_terminal_snr, or know that they are a little off",
)  # fmt: skip
def _snr_weights_follow_the_schedule(preset: Preset, _: TrainerKind) -> bool | str:
    loss = preset.loss
    return loss.zero_terminal_snr and _set(
        loss, "min_snr_gamma", "debiased", "scale_v_pred_like_noise_pred", "v_pred_like"
    )


@TABLE.error(
    "LK148", "loss.min_timestep", "no timestep is left between min_timestep and max_timestep",
    why="min counts, max does not; the trainer would train on max alone",
    todo="set loss.min_timestep below loss.max_timestep",
)  # fmt: skip
def _timesteps_are_a_range(preset: Preset, _: TrainerKind) -> bool:
    low, high = preset.loss.min_timestep or 0, preset.loss.max_timestep
    return high is not None and low >= high


@TABLE.warning(
    "LK149", "loss.huber_scale", "huber_scale with the snr schedule",
    why="that schedule does not read it",
    todo='set loss.huber_schedule = "exponential" or "constant", or leave huber_scale out',
)  # fmt: skip
def _snr_has_no_scale(preset: Preset, _: TrainerKind) -> bool:
    loss = preset.loss
    return _huber(loss) and loss.huber_schedule == "snr" and bool(_set(loss, "huber_scale"))


@TABLE.warning(
    "LK150", "loss.type", "huber settings without a huber loss",
    why="l1 and l2 do not read them",
    todo='set loss.type = "huber" or "smooth_l1", or leave them out',
)  # fmt: skip
def _huber_settings_need_huber(preset: Preset, _: TrainerKind) -> bool | str:
    return not _huber(preset.loss) and _set(preset.loss, "huber_schedule", "huber_c", "huber_scale")


@TABLE.warning(
    "LK151", "loss.masked", "a masked loss without masks",
    why="masks come from alpha channels or from conditioning_data_dir in a dataset TOML, and neither is asked for",
    todo="set dataset.alpha_mask = true, or loss.masked = false",
)  # fmt: skip
def _masks_come_from_somewhere(preset: Preset, _: TrainerKind) -> bool:
    return preset.loss.masked and not preset.dataset.alpha_mask and preset.dataset.config is None


def _huber(loss: Loss) -> bool:
    return loss.type in {"huber", "smooth_l1"}
