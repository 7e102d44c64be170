"""The program that embeds captions: ``python -m lorakit.trainers.builtin.embed JOB.json``, told to lorakit.launch.helper.

The job: ``base`` (a file or folder), ``loras`` (files, may be empty), ``captions``, ``out``; ``max_token_length``, ``tokenizer_cache`` and
``allow_pickle`` as the trainer's options. ``out`` becomes a .safetensors file with ``te1`` and ``te2`` (1 + LoRAs, captions, width) in
float32, the base model's first, and ``tokens`` (captions), the token counts before any cut and without the marks.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from lorakit.trainers.builtin.job import Tell, run_job

__all__ = ["embed_job", "main"]

_BATCH: Final = 16


def embed_job(job: dict[str, Any], tell: Tell) -> None:
    """Do one job. Raises ModelFileError and TrainerError for files that are not what they should be."""
    tell("phase", name="load")
    import torch
    from safetensors.torch import save_file

    from lorakit.trainers.builtin.slim import slim_imports

    with slim_imports():
        from lorakit.trainers.builtin.attached import AttachedLora, read_lora
        from lorakit.trainers.builtin.checkpoint import load_text_encoders
        from lorakit.trainers.builtin.tokenizers import load_tokenizers

    cache = job.get("tokenizer_cache")
    tokenizers = load_tokenizers(Path(cache) if cache else None)
    encoders: tuple[torch.nn.Module, ...] = load_text_encoders(
        Path(job["base"]), allow_pickle=bool(job.get("allow_pickle"))
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for encoder in encoders:
        encoder.to(device)
    attached = AttachedLora(te1=encoders[0], te2=encoders[1])
    captions, length = job["captions"], job.get("max_token_length")
    files = [None, *map(Path, job["loras"])]
    found: dict[str, list[torch.Tensor]] = {"te1": [], "te2": []}
    for number, file in enumerate(files):
        pairs = None if file is None else {n: p for n, p in read_lora(file).items() if not n.startswith("unet_")}
        if pairs:
            attached.use(file, pairs)
            attached.weigh(unet=0.0, te=1.0)
        else:  # the base, or a LoRA of the UNet alone
            attached.use(None, None)
        for at, (part, encoder) in enumerate(zip(found, encoders, strict=True)):
            ids = tokenizers.encode(captions, length)[at]
            counts = [min((tokenizers.first, tokenizers.second)[at].count(text), length or 75) for text in captions]
            found[part].append(_embed(encoder, ids, counts))
            tell("progress", done=2 * number + at + 1, of=2 * len(files))
    tokens = torch.tensor([tokenizers.first.count(caption) for caption in captions])
    save_file({**{part: torch.stack(rows) for part, rows in found.items()}, "tokens": tokens}, job["out"])


def _embed(encoder: Any, ids: Any, counts: Sequence[int]) -> Any:
    """Embeddings (captions, width), float32, of ids (captions, chunks, 77) whose captions have ``counts`` tokens.

    The last layer but one (``hidden_states[-2]``, without the final norm), which is what SDXL's UNet reads, meaned over the caption's
    tokens and the end mark. The begin mark is left out: with causal attention it is the same for every caption.
    """
    import torch

    from lorakit.trainers.builtin.text import join_chunks

    rows = []
    with torch.no_grad():
        for start in range(0, len(ids), _BATCH):
            some = ids[start : start + _BATCH]
            output = encoder(some.flatten(0, 1).to(encoder.device), output_hidden_states=True)
            hidden = join_chunks(output.hidden_states[-2], some.shape[1]).float()
            rows += [
                row[1 : count + 2].mean(dim=0).cpu()
                for row, count in zip(hidden, counts[start : start + _BATCH], strict=True)
            ]
    return torch.stack(rows)


def main() -> int:
    """The program. Returns its exit code."""
    return run_job(embed_job, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
