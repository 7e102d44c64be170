"""The samplers of contact sheets: diffusers' schedulers under the names of the webui, set up as it sets them up."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Final

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)

__all__ = ["Stepper", "scheduler"]

#: SDXL's noise schedule, as in training.
_BETAS: Final = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}
_SPREAD: Final = {"timestep_spacing": "linspace"}
_KARRAS: Final = {"use_karras_sigmas": True}
_KINDS: Final[dict[str, tuple[Any, dict[str, Any]]]] = {
    "DDIM": (DDIMScheduler, {"clip_sample": False, "set_alpha_to_one": True, "timestep_spacing": "trailing"}),
    "Euler": (EulerDiscreteScheduler, _SPREAD),
    "Euler a": (EulerAncestralDiscreteScheduler, _SPREAD),
    "Heun": (HeunDiscreteScheduler, _SPREAD),
    "DPM++ 2M": (DPMSolverMultistepScheduler, {**_SPREAD, "algorithm_type": "dpmsolver++"}),
    "DPM++ 2M Karras": (DPMSolverMultistepScheduler, {**_SPREAD, **_KARRAS, "algorithm_type": "dpmsolver++"}),
    "DPM++ 2M SDE Karras": (DPMSolverMultistepScheduler, {**_SPREAD, **_KARRAS, "algorithm_type": "sde-dpmsolver++"}),
    "UniPC": (UniPCMultistepScheduler, _SPREAD),
}
#: Schedulers that have a form for noise without any signal left at the first step.
_ZERO_SNR: Final = frozenset({DDIMScheduler, EulerDiscreteScheduler, EulerAncestralDiscreteScheduler})


def scheduler(name: str, *, v_prediction: bool = False, zero_terminal_snr: bool = False) -> Any:
    """A new diffusers scheduler. Raises KeyError for a name that is none of ours."""
    kind, options = _KINDS[name]
    more: dict[str, Any] = {"prediction_type": "v_prediction" if v_prediction else "epsilon"}
    if zero_terminal_snr and kind in _ZERO_SNR:
        more["rescale_betas_zero_snr"] = True
    return kind(**_BETAS, **options, **more)


class Stepper:
    """One drawing of a batch: the scheduler's steps, with noise that each picture draws from a generator of its own."""

    def __init__(self, kind: Any, steps: int, generators: Sequence[torch.Generator], device: torch.device) -> None:
        self._kind = kind
        kind.set_timesteps(steps, device=device)
        self._generators = list(generators)
        takes = inspect.signature(kind.step).parameters
        self._options = {"generator": self._generators} if "generator" in takes else {}

    @property
    def times(self) -> Any:
        """The timesteps in order; a sampler of second order has more than there are steps."""
        return self._kind.timesteps

    def first(self, height: int, width: int, channels: int, device: torch.device) -> torch.Tensor:
        """Noise (batch, channels, height, width) of the strength that the scheduler begins at."""
        rows = [torch.randn((channels, height, width), generator=generator) for generator in self._generators]
        noise = torch.stack(rows).to(device)
        noise *= self._kind.init_noise_sigma
        return noise

    def seen(self, latents: torch.Tensor, time: Any) -> torch.Tensor:
        """The latents as the UNet is to see them."""
        scaled: torch.Tensor = self._kind.scale_model_input(latents, time)
        return scaled

    def step(self, noise: torch.Tensor, time: Any, latents: torch.Tensor) -> torch.Tensor:
        """The latents after one step with what the UNet said."""
        after: torch.Tensor = self._kind.step(noise, time, latents, return_dict=False, **self._options)[0]
        return after
