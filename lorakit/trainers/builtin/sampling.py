"""Sample images during training, drawn with the modules that are being trained."""

from __future__ import annotations

import argparse
import inspect
import os
import random
import secrets
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2AncestralDiscreteScheduler,
    KDPM2DiscreteScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
)
from PIL import Image
from torch import nn

from lorakit.atomic import TEMP_MARK
from lorakit.trainers.builtin.checkpoint import BaseModel
from lorakit.trainers.builtin.prompts import SamplePrompt
from lorakit.trainers.builtin.text import TextCondition, encode, size_condition
from lorakit.trainers.builtin.tokenizers import Tokenizers

__all__ = ["Sampler", "decode", "due_after_epoch", "due_after_step", "make_scheduler", "quiet"]

_VAE_FACTOR = 8  # pixels per latent

#: SDXL's noise schedule, as in training.
_BETAS = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}

_SCHEDULERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "ddim": (DDIMScheduler, {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}),
    "pndm": (PNDMScheduler, {"skip_prk_steps": True, "steps_offset": 1}),
    "lms": (LMSDiscreteScheduler, {}),
    "euler": (EulerDiscreteScheduler, {"steps_offset": 1}),
    "euler_a": (EulerAncestralDiscreteScheduler, {"steps_offset": 1}),
    "heun": (HeunDiscreteScheduler, {}),
    "dpm_2": (KDPM2DiscreteScheduler, {}),
    "dpm_2_a": (KDPM2AncestralDiscreteScheduler, {}),
    "dpmsolver": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}),
    "dpmsolver++": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
    "dpmsingle": (DPMSolverSinglestepScheduler, {"lower_order_final": True}),
}
for _name in ("lms", "euler", "euler_a", "dpm_2", "dpm_2_a"):
    _SCHEDULERS[f"k_{_name}"] = _SCHEDULERS[_name]


def make_scheduler(name: str, *, v_prediction: bool = False) -> Any:
    """The diffusers scheduler for a sampler name of the trainer; DDIM for a name it does not know."""
    kind, options = _SCHEDULERS.get(name.lower(), _SCHEDULERS["ddim"])
    return kind(**_BETAS, **options, prediction_type="v_prediction" if v_prediction else "epsilon")


def due_after_step(arguments: argparse.Namespace, step: int) -> bool:
    """Whether samples are due after optimizer step ``step``; step 0 is before training."""
    if step == 0:
        return bool(arguments.sample_at_first)
    every = arguments.sample_every_n_steps
    return bool(every) and not arguments.sample_every_n_epochs and step % every == 0


def due_after_epoch(arguments: argparse.Namespace, epoch: int) -> bool:
    """Whether samples are due at the end of ``epoch`` (1-based); epochs go before steps when both are given."""
    every = arguments.sample_every_n_epochs
    return bool(every) and epoch % every == 0


@dataclass(frozen=True)
class Sampler:
    """Draws prompts into ``folder``. An error is told to ``warn`` and never ends the training.

    ``network`` is in eval mode while drawing, so that its dropouts do not show. A prompt without a seed gets one made
    from ``seed``, the step and its place in the file.
    """

    base: BaseModel
    tokenizers: Tokenizers
    prompts: Sequence[SamplePrompt]
    folder: Path
    warn: Callable[[str], None]
    network: nn.Module | None = None
    output_name: str | None = None
    sampler: str = "ddim"
    v_prediction: bool = False
    max_token_length: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Round the sizes once, so that the warning comes once."""
        object.__setattr__(self, "prompts", tuple(self._fit(prompt) for prompt in self.prompts))

    def draw(self, *, step: int, epoch: int | None = None) -> list[tuple[Path, str]]:
        """Draw every prompt; files are named by ``epoch`` when given, else by ``step``. Returns (path, prompt) pairs."""
        drawn: list[tuple[Path, str]] = []
        with _undisturbed(self.network), torch.no_grad():
            for index, prompt in enumerate(self.prompts):
                try:
                    image = self._image(prompt, index, step)
                    drawn.append((self._save(image, prompt, index, step, epoch), prompt.prompt))
                except Exception as error:  # noqa: BLE001 (whatever goes wrong in a picture must not cost the training)
                    self.warn(f"sample {index} ({prompt.prompt[:60]!r}) failed: {type(error).__name__}: {error}")
        return drawn

    def _fit(self, prompt: SamplePrompt) -> SamplePrompt:
        fitted = prompt.fitted()
        if fitted is not prompt:
            self.warn(
                f"sample size {prompt.width}x{prompt.height} rounded down to {fitted.width}x{fitted.height}: "
                "SDXL draws multiples of 32, at least 64"
            )
        return fitted

    def _image(self, prompt: SamplePrompt, index: int, step: int) -> Image.Image:
        base = self.base
        seed = prompt.seed if prompt.seed is not None else random.Random(f"{self.seed}/{step}/{index}").getrandbits(32)
        wanted = encode(base, self.tokenizers, [prompt.prompt], self.max_token_length)
        unwanted = encode(base, self.tokenizers, [prompt.negative], self.max_token_length)
        with quiet():
            scheduler = make_scheduler(prompt.sampler or self.sampler, v_prediction=self.v_prediction)
            latents = self._denoise(prompt, scheduler, torch.Generator().manual_seed(seed), wanted, unwanted)
        return decode(base.vae, latents)

    def _denoise(
        self,
        prompt: SamplePrompt,
        scheduler: Any,
        generator: torch.Generator,
        wanted: TextCondition,
        unwanted: TextCondition,
    ) -> torch.Tensor:
        """Latents of shape (1, 4, height / 8, width / 8), drawn with classifier-free guidance at ``prompt.scale``."""
        unet = self.base.unet
        guided = prompt.scale > 1.0
        sides = [unwanted, wanted] if guided else [wanted]
        hidden = torch.cat([side.hidden for side in sides]).to(unet.dtype)
        size = (prompt.height, prompt.width)
        condition = {
            "text_embeds": torch.cat([side.pooled for side in sides]).to(unet.dtype),
            "time_ids": size_condition([size], [(0, 0)], [size]).repeat(len(sides), 1).to(unet.device),
        }
        scheduler.set_timesteps(prompt.steps, device=unet.device)
        shape = (1, unet.config.in_channels, prompt.height // _VAE_FACTOR, prompt.width // _VAE_FACTOR)
        latents = torch.randn(shape, generator=generator).to(unet.device) * scheduler.init_noise_sigma
        takes_generator = "generator" in inspect.signature(scheduler.step).parameters
        options = {"generator": generator} if takes_generator else {}
        for time in scheduler.timesteps:
            seen = scheduler.scale_model_input(latents.repeat(len(sides), 1, 1, 1), time).to(unet.dtype)
            noise = unet(seen, time, hidden, added_cond_kwargs=condition, return_dict=False)[0].float()
            if guided:
                without, with_ = noise.chunk(2)
                noise = without + prompt.scale * (with_ - without)
            latents = scheduler.step(noise, time, latents, return_dict=False, **options)[0]
        assert isinstance(latents, torch.Tensor)
        return latents

    def _save(self, image: Image.Image, prompt: SamplePrompt, index: int, step: int, epoch: int | None) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        words = [
            *([self.output_name] if self.output_name else []),
            f"{step:06d}" if epoch is None else f"e{epoch:06d}",
            f"{index:02d}",
            datetime.now().strftime("%Y%m%d%H%M%S"),  # noqa: DTZ005 (local time, as the trainer names them)
            *([str(prompt.seed)] if prompt.seed is not None else []),
        ]
        path = self.folder / ("_".join(words) + ".png")
        temp = path.with_name(f".{path.name[:80]}{TEMP_MARK}{os.getpid()}-{secrets.token_hex(4)}")
        try:
            image.save(temp, "PNG")
            os.replace(temp, path)
        finally:
            temp.unlink(missing_ok=True)
        return path


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what diffusers' schedulers say about themselves: nothing a user could act on."""
    with warnings.catch_warnings():
        # torch tensors handed to numpy 2 by way of its old protocol
        warnings.filterwarnings("ignore", message="__array", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message="`algorithm_types dpmsolver", category=FutureWarning)
        yield


def decode(vae: Any, latents: torch.Tensor) -> Image.Image:
    """The picture of latents (1, 4, h, w), scaled as SDXL's. Raises ValueError where the VAE gives no numbers."""
    pixels = vae.decode(latents.to(vae.device, vae.dtype) / vae.config.scaling_factor, return_dict=False)[0][0]
    if not torch.isfinite(pixels).all():
        raise ValueError("the image holds NaN or infinite values (a VAE in fp16 needs --no_half_vae)")
    bytes_ = ((pixels.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(bytes_.permute(1, 2, 0).cpu().numpy())


@contextmanager
def _undisturbed(network: nn.Module | None) -> Iterator[None]:
    """Leave every random state, and the network's mode, as they were found."""
    training = network is not None and network.training
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 (the trainer's global state)
    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices=devices):
        if network is not None:
            network.eval()
        try:
            yield
        finally:
            if network is not None:
                network.train(training)
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002
