"""From a loaded batch to its loss: latents, text and size conditions, the U-Net, the objective."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lorakit.trainers.builtin.checkpoint import BaseModel
from lorakit.trainers.builtin.data import Loaded
from lorakit.trainers.builtin.latents import SCALE, encode_pixels
from lorakit.trainers.builtin.objective import Draw, Objective
from lorakit.trainers.builtin.recompute import Recomputation
from lorakit.trainers.builtin.rng import derive, torch_generator
from lorakit.trainers.builtin.text import TextCondition, encode
from lorakit.trainers.builtin.tokenizers import Tokenizers

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["Forward"]


@dataclass(frozen=True)
class Forward:
    """The model under training and how a batch goes through it; ``dtype`` is the U-Net's."""

    accelerator: Accelerator
    base: BaseModel
    objective: Objective
    seed: int
    dtype: torch.dtype
    tokenizers: Tokenizers | None
    max_token_length: int | None = None
    train_text: bool = False
    vae_batch_size: int = 1
    recomputation: Recomputation | None = None

    def loss(self, loaded: Loaded, timestep: int | None = None) -> Tensor:
        """The mean loss of a batch (a scalar, float32).

        All draws depend on the seed and the batch's place alone. With ``timestep`` (validation) every example is
        noised to that one, with the same noise each time.
        """
        draw = self.draw(loaded, timestep)
        # Dropout draws from torch's own generators: put them on this batch's stream, too.
        torch.manual_seed(derive(self.seed, "dropout", *_stream(loaded, timestep)))
        if self.recomputation is not None:
            self.recomputation.begin(draw.noisy.shape)
        with self.accelerator.autocast():
            prediction = self.predict(draw.noisy, draw.timesteps, self.text(loaded), loaded.sizes)
        return self.judge(prediction, draw, loaded)

    def draw(self, loaded: Loaded, timestep: int | None = None) -> Draw:
        """The batch's latents, noised."""
        latents = self.latents(loaded)
        fixed = None if timestep is None else torch.full((len(latents),), timestep, dtype=torch.long)
        return self.objective.draw(latents, torch_generator(self.seed, "noise", *_stream(loaded, timestep)), fixed)

    def predict(self, noisy: Tensor, timesteps: Tensor, text: TextCondition, sizes: Tensor) -> Tensor:
        """What the U-Net predicts for noisy latents (B, 4, h, w) at timesteps (B,), with ``sizes`` (B, 6)."""
        conditions = {"text_embeds": text.pooled, "time_ids": sizes.to(noisy.device)}
        prediction: Tensor = self.base.unet(
            noisy.to(self.dtype),
            timesteps,
            encoder_hidden_states=text.hidden,
            added_cond_kwargs=conditions,
            return_dict=False,
        )[0]
        return prediction

    def judge(self, prediction: Tensor, draw: Draw, loaded: Loaded) -> Tensor:
        """The mean loss of a prediction for ``draw`` (a scalar, float32)."""
        return self.objective.per_sample(prediction, draw, loaded.weights.to(draw.noisy.device)).mean()

    def latents(self, loaded: Loaded) -> Tensor:
        """Scaled latents (B, 4, h/8, w/8) on the device; encoded here when they are not cached."""
        device = self.accelerator.device
        if loaded.latents is not None:
            return loaded.latents.to(device) * SCALE
        assert loaded.pixels is not None
        batch = loaded.batch
        kind = "validation latent" if batch.validation else "training latent"
        generators = [
            torch_generator(self.seed, kind, batch.epoch, batch.position, slot) for slot in range(len(batch.images))
        ]
        return encode_pixels(self.base.vae, loaded.pixels, generators, chunk=self.vae_batch_size).to(device) * SCALE

    def text(self, loaded: Loaded) -> TextCondition:
        """The text condition: cached, or encoded here with gradients if the text encoders are trained."""
        device, dtype = self.accelerator.device, self.dtype
        if loaded.hidden is not None and loaded.pooled is not None:
            return TextCondition(loaded.hidden.to(device, dtype), loaded.pooled.to(device, dtype))
        assert self.tokenizers is not None
        grad: AbstractContextManager[object] = nullcontext() if self.train_text else torch.no_grad()
        with grad:
            text = encode(self.base, self.tokenizers, loaded.captions, self.max_token_length)
        return TextCondition(text.hidden.to(dtype), text.pooled.to(dtype))


def _stream(loaded: Loaded, timestep: int | None) -> tuple[str | int, ...]:
    """The random stream of a batch: its place in the training, or in the validation."""
    batch = loaded.batch
    return ("validation", batch.position, timestep or 0) if batch.validation else ("train", batch.epoch, batch.position)
