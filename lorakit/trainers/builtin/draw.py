"""The program that draws the cells of contact sheets: ``python -m lorakit.trainers.builtin.draw JOB.json``, told to lorakit.launch.helper.

The job: ``base`` (a file or folder), ``cells`` and ``batch``; ``vae``, ``v_prediction``, ``zero_terminal_snr``, ``tokenizer_cache``,
``allow_pickle`` and ``precision`` (auto, fp32, bf16, fp16). A cell: ``lora`` (a file or null), ``unet`` and ``te`` (weights), ``prompt``,
``negative``, ``seed``, ``sampler``, ``steps``, ``cfg``, ``width``, ``height``, ``text`` (for the picture's text chunk), and ``out``, its PNG;
what is there already is not drawn again. Told are ``phase``, ``progress`` (done, of: passes of pictures through the UNet), ``cell`` (out, when
it is on disk), ``warn``, and at the end ``speed``.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lorakit.trainers.builtin.job import Tell, run_job

if TYPE_CHECKING:
    import torch

    from lorakit.trainers.builtin.attached import AttachedLora
    from lorakit.trainers.builtin.checkpoint import BaseModel
    from lorakit.trainers.builtin.text import TextCondition
    from lorakit.trainers.builtin.tokenizers import Tokenizers

__all__ = ["batches", "draw_job", "main"]

_VAE_FACTOR: Final = 8
_CHUNK: Final = 75
_MOST_TOKENS: Final = 225


@dataclass(frozen=True)
class Cell:
    """One picture to draw; ``tokens`` is what prompt and negative prompt need: 75, 150 or 225."""

    lora: str | None
    unet: float
    te: float
    prompt: str
    negative: str
    seed: int
    sampler: str
    steps: int
    cfg: float
    width: int
    height: int
    text: str
    out: Path
    tokens: int

    @classmethod
    def of(cls, entry: Mapping[str, Any], tokenizers: Tokenizers) -> Cell:
        """From the job's entry."""
        most = max(tokenizers.first.count(entry["prompt"]), tokenizers.first.count(entry["negative"]))
        tokens = min(_MOST_TOKENS, max(1, -(-most // _CHUNK)) * _CHUNK)
        return cls(**{**entry, "out": Path(entry["out"]), "tokens": tokens})

    @property
    def network(self) -> tuple[str, float, float]:
        """What is attached: cells that have it in common are drawn one after the other."""
        return (self.lora or "", self.te, self.unet)

    @property
    def shape(self) -> tuple[Any, ...]:
        """What a batch has in common."""
        return (*self.network, self.width, self.height, self.sampler, self.steps, self.cfg > 1, self.tokens)


def batches(cells: Sequence[Cell], size: int) -> Iterator[list[Cell]]:
    """The cells in batches of one shape, of at most ``size``: the same cells always give the same batches."""
    for _, same in groupby(sorted(cells, key=lambda cell: cell.shape), key=lambda cell: cell.shape):
        rows = list(same)
        for start in range(0, len(rows), size):
            yield rows[start : start + size]


def draw_job(job: dict[str, Any], tell: Tell) -> None:
    """Do one job. Raises ModelFileError and TrainerError for files that are not what they should be."""
    tell("phase", name="load")
    import torch

    from lorakit.trainers.builtin.slim import slim_imports

    with slim_imports():
        from lorakit.trainers.builtin.attached import AttachedLora
        from lorakit.trainers.builtin.tokenizers import load_tokenizers

    began = time.monotonic()
    cache = job.get("tokenizer_cache")
    tokenizers = load_tokenizers(Path(cache) if cache else None)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    base = _load(job, device)
    attached = AttachedLora(te1=base.te1, te2=base.te2, unet=base.unet)
    cells = [Cell.of(entry, tokenizers) for entry in job["cells"]]
    loaded = time.monotonic() - began
    kind = {name: bool(job.get(name)) for name in ("v_prediction", "zero_terminal_snr")}
    painter = Painter(base, tokenizers, attached, tell, **kind)
    painter.draw([batch for batch in batches(cells, job["batch"]) if any(not cell.out.exists() for cell in batch)])
    tell("speed", load=loaded, seconds=painter.seconds, pixels=painter.pixels, device=str(device.type))


def _load(job: Mapping[str, Any], device: torch.device) -> BaseModel:
    import torch

    from lorakit.trainers.builtin.checkpoint import load_base

    names = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    dtype = names.get(job.get("precision", "auto"))
    if dtype is None:
        on_gpu = torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float16
        dtype = on_gpu if device.type == "cuda" else torch.float32
    base = load_base(
        Path(job["base"]),
        vae_path=Path(job["vae"]) if job.get("vae") else None,
        unet_dtype=dtype,
        te_dtype=dtype,
        vae_dtype=torch.float32,  # SDXL's overflows in fp16
        allow_pickle=bool(job.get("allow_pickle")),
    )
    for module in (base.unet, base.te1, base.te2, base.vae):
        torch.nn.Module.to(module, device)
    if device.type == "cpu":
        torch.nn.Module.to(base.unet, memory_format=torch.channels_last)  # type: ignore[call-overload]
    else:
        torch.backends.cudnn.deterministic = True
    return base


class Painter:
    """The loaded model with whatever LoRA is beside it, and what it has cost: ``seconds`` for ``pixels`` (× steps).

    ``kind`` is ``v_prediction`` and ``zero_terminal_snr``, as the model was trained.
    """

    def __init__(
        self,
        base: BaseModel,
        tokenizers: Tokenizers,
        attached: AttachedLora,
        tell: Tell,
        **kind: bool,
    ) -> None:
        self._base = base
        self._tokenizers = tokenizers
        self._attached = attached
        self._kind = kind
        self._tell = tell
        self._done = self._of = 0
        self.seconds = 0.0
        self.pixels = 0

    def draw(self, todo: Sequence[Sequence[Cell]]) -> None:
        """Draw batches in their order, each picture on disk before the next batch begins."""
        import torch

        self._of = sum(sum(not cell.out.exists() for cell in batch) * batch[0].steps for batch in todo)
        self._tell("progress", done=0, of=self._of)
        with torch.no_grad():
            for lora, of_one in groupby(todo, key=lambda batch: batch[0].lora):
                self._attach(Path(lora) if lora else None)
                for (_, te, unet), some in groupby(of_one, key=lambda batch: batch[0].network):
                    self._attached.weigh(unet=unet, te=te)
                    conditions: dict[tuple[str, int], TextCondition] = {}
                    for batch in some:
                        self._batch(batch, conditions)

    def _attach(self, lora: Path | None) -> None:
        from lorakit.trainers.builtin.attached import read_lora

        unknown = self._attached.use(lora, read_lora(lora) if lora else None)
        if unknown and lora:
            self._tell("warn", message=f"{lora.name}: {unknown} of its modules are none of the base model's; left out")

    def _batch(self, batch: Sequence[Cell], conditions: dict[tuple[str, int], TextCondition]) -> None:
        began = time.monotonic()
        missing = [cell for cell in batch if not cell.out.exists()]
        # Sums over a batch of another size are rounded otherwise: the place of a cell that is there is filled by one that is not.
        rows = [cell if not cell.out.exists() else missing[0] for cell in batch]
        latents = self._denoise(rows, conditions, len(missing))
        for cell, one in zip(rows, latents, strict=True):
            if not cell.out.exists():
                self._save(cell, one)
        self.seconds += time.monotonic() - began
        self.pixels += sum(cell.width * cell.height * cell.steps for cell in missing)

    def _denoise(
        self, rows: Sequence[Cell], conditions: dict[tuple[str, int], TextCondition], counted: int
    ) -> torch.Tensor:
        """Latents (batch, 4, height / 8, width / 8), drawn with classifier-free guidance of each row's own strength."""
        import torch

        from lorakit.trainers.builtin.draw_samplers import Stepper, scheduler
        from lorakit.trainers.builtin.sampling import quiet
        from lorakit.trainers.builtin.text import size_condition

        unet, head = self._base.unet, rows[0]
        guided = head.cfg > 1
        texts = [*(cell.negative for cell in rows if guided), *(cell.prompt for cell in rows)]
        both = [self._condition(text, head.tokens, conditions) for text in texts]
        size = (head.height, head.width)
        hidden = torch.cat([one.hidden for one in both]).to(unet.device, unet.dtype)
        added = {
            "text_embeds": torch.cat([one.pooled for one in both]).to(unet.device, unet.dtype),
            "time_ids": size_condition([size], [(0, 0)], [size]).repeat(len(both), 1).to(unet.device),
        }
        strength = torch.tensor([cell.cfg for cell in rows], device=unet.device).view(-1, 1, 1, 1)
        generators = [torch.Generator().manual_seed(cell.seed) for cell in rows]
        with quiet():
            stepper = Stepper(scheduler(head.sampler, **self._kind), head.steps, generators, unet.device)
            latents = stepper.first(
                head.height // _VAE_FACTOR, head.width // _VAE_FACTOR, unet.config.in_channels, unet.device
            )
            for at, now in enumerate(stepper.times, 1):
                seen = stepper.seen(latents, now).to(unet.dtype).repeat(2 if guided else 1, 1, 1, 1)
                noise = unet(seen, now, hidden, added_cond_kwargs=added, return_dict=False)[0].float()
                if guided:
                    without, with_ = noise.chunk(2)
                    noise = without + strength * (with_ - without)
                latents = stepper.step(noise, now, latents)
                done = self._done + counted * head.steps * at // len(stepper.times)
                self._tell("progress", done=done, of=self._of)
        self._done += counted * head.steps
        return latents

    def _condition(self, text: str, tokens: int, known: dict[tuple[str, int], TextCondition]) -> TextCondition:
        # One by one: what stands beside a prompt in a batch must not change its last digits.
        from lorakit.trainers.builtin.text import encode

        if (text, tokens) not in known:
            known[text, tokens] = encode(self._base, self._tokenizers, [text], tokens)
        return known[text, tokens]

    def _save(self, cell: Cell, latents: torch.Tensor) -> None:
        from PIL.PngImagePlugin import PngInfo

        from lorakit import atomic
        from lorakit.errors import RunFailed
        from lorakit.trainers.builtin.sampling import decode

        try:
            picture = decode(self._base.vae, latents[None])
        except ValueError as error:
            raise RunFailed(
                f"a picture of {cell.prompt[:60]!r} failed", why=str(error), todo="--precision fp32"
            ) from error
        chunks = PngInfo()
        chunks.add_text("parameters", cell.text)
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", pnginfo=chunks)
        cell.out.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_bytes(cell.out, buffer.getvalue())
        self._tell("cell", out=str(cell.out))


def main() -> int:
    """The program. Returns its exit code."""
    return run_job(draw_job, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
