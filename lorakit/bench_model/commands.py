"""The commands around the trained bench model: train, score, concepts."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from lorakit.errors import UsageError

__all__ = ["COMMANDS", "register"]


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands to those of ``python -m lorakit.bench_model``."""
    train = commands.add_parser("train", help="train the learned model from nothing, or go on where it was stopped")
    train.add_argument("file", type=Path, help="the small file of weights that is made in the end")
    train.add_argument("--cache", type=Path, required=True, help="folder for states of the training (about 150 MB)")
    train.add_argument("--threads", type=int, default=1, help="of torch; more than the free cores slows it down a lot")
    score = commands.add_parser("score", help="judge a LoRA that was trained on the learned model, by its pictures")
    score.add_argument("run", help="a run (id, name, latest), its folder, or a LoRA file together with --base")
    score.add_argument("--base", type=Path, help="the learned model; by default what the run says")
    score.add_argument("--concept", choices=("zorp", "nocturne", "vexed"), help="by default the run's data set")
    score.add_argument("--multiplier", type=float, default=1.0)
    score.add_argument("--seed", type=int, default=0, help="of the noise that pictures start from")
    score.add_argument("--sheet", type=Path, help="the contact sheet; by default analysis/contact.png of the run")
    score.add_argument("--json", action="store_true", help="print the scores as JSON")
    quality = commands.add_parser(
        "quality", help="measure how well the learned model draws; prints the table of its card"
    )
    quality.add_argument("file", type=Path, nargs="?", help="a small file of weights; by default the one that ships")
    quality.add_argument("--prompts", type=int, default=208, help="of each kind")
    concepts = commands.add_parser("concepts", help="write data sets of things that the learned model does not know")
    concepts.add_argument("dir", type=Path)
    concepts.add_argument("names", nargs="*", help="of zorp, nocturne, vexed, reg; all when left out")
    concepts.add_argument("--seed", type=int, default=0)


def _train(options: argparse.Namespace) -> None:
    import torch
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from lorakit.bench_model.train import Plan, train

    torch.set_num_threads(options.threads)
    start = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[remark]}")) as bars:
        tasks: dict[str, int] = {}
        started: dict[str, float] = {}

        def progress(stage: str, done: int, total: int, remark: str) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total, remark="")
                started[stage] = time.monotonic()
            bars.update(tasks[stage], completed=done, remark=remark)  # type: ignore[arg-type]
            if done == total or (not bars.console.is_terminal and done % 100 == 0):
                seconds = time.monotonic() - started[stage]
                bars.console.print(f"{stage} {done}/{total} {remark}, {seconds:.0f} s", highlight=False)

        size = train(options.file, options.cache, Plan(), progress)
    print(f"{options.file}: {size:,} bytes, {time.monotonic() - start:.0f} s in all")


def _score(options: argparse.Namespace) -> None:
    import torch

    from lorakit import atomic
    from lorakit.bench_model.score import score_lora, subject_of

    torch.set_num_threads(1)
    subject = subject_of(options.run, base=options.base, concept=options.concept)
    sheet = options.sheet or (subject.analysis and subject.analysis / "contact.png")
    score = score_lora(
        subject.base, subject.lora, subject.concept, multiplier=options.multiplier, seed=options.seed, sheet=sheet
    )
    found = {"concept": subject.concept, "lora": subject.lora.name, **asdict(score)}
    text = json.dumps(found, indent=2)
    if subject.analysis:
        atomic.write_text(subject.analysis / "score.json", text + "\n")
    if options.json:
        print(text)
        return
    print(
        f"{subject.concept:8}  {score.concept}   how much of it its prompts show, 0 … 1 (without the LoRA {score.before})"
    )
    print(f"others    {score.others}   share of other prompts with shape, colour and background right")
    print(f"drift     {score.drift}   mean change of their pixels against the base model, 0 … 1")
    if sheet:
        print(f"pictures  {sheet}")


def _quality(options: argparse.Namespace) -> None:
    import tempfile

    import torch

    from lorakit.bench_model.learned import write_learned
    from lorakit.bench_model.quality import KINDS, measure, quality_table, vae_quality
    from lorakit.trainers.builtin.checkpoint import load_base

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "bench-sdxl.safetensors"
        write_learned(checkpoint, source=options.file)
        base = load_base(checkpoint)
    decibels, given_back = vae_quality(base, 128)
    drawn = {f"drawn from {kind} prompts": measure(base, scenes(options.prompts)) for kind, scenes in KINDS.items()}
    print(quality_table({"unseen ones, through the VAE and back": given_back, **drawn}))
    print(f"\nThe VAE gives unseen pictures back at {decibels:.1f} dB on average.")


def _concepts(options: argparse.Namespace) -> None:
    from lorakit.bench_model.concepts import CONCEPTS, write_concepts

    unknown = [name for name in options.names if name not in CONCEPTS]
    if unknown:
        raise UsageError(f"no concept is called {unknown[0]!r}", todo=f"choose of {', '.join(CONCEPTS)}")
    count = write_concepts(options.dir, seed=options.seed, names=options.names)
    print(f"{options.dir}: {count} pictures with captions")


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "train": _train,
    "score": _score,
    "quality": _quality,
    "concepts": _concepts,
}
