"""What a trainer's TensorBoard folder tells: losses, validation and rates, of any run that lorakit did not make."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from lorakit.errors import ArchiveError
from lorakit.verdict.diagnose.facts import Facts, Setup, Unseen

if TYPE_CHECKING:
    from lorakit.evidence.events import Curve

__all__ = ["of_logs"]

_VALIDATION: Final = ("loss/validation/step_average", "loss/validation/epoch_average", "loss/validation")
_RATES: Final = {"unet": ("lr/unet",), "te1": ("lr/te1",), "te2": ("lr/te2",)}


def of_logs(folder: Path) -> Facts:
    """The facts of a folder with event files. Raises ArchiveError when there is nothing to read in it."""
    from lorakit.evidence.events import event_files, read_folder

    files = event_files(folder)
    runs = {file.parent for file in files}
    if len({_training(file, folder) for file in files}) > 1:
        raise ArchiveError(
            f"{folder} holds the logs of several trainings",
            why=", ".join(sorted({_training(file, folder) for file in files})[:8]),
            todo=f"diagnose one of them: {min(runs)}",
        )
    events = read_folder(folder)
    loss = events.curves.get("loss/current")
    told = [Unseen("weights, captions, samples", "a log does not hold them: diagnose the LoRA file too")]
    if loss is None:
        epochs = events.curves.get("loss/epoch_average") or events.curves.get("loss/epoch")
        why = "the log has epochs alone" if epochs is not None else "the log has no loss"
        told.append(Unseen("loss of single steps", why))
    if events.complaint:
        told.append(Unseen("part of the log", events.complaint))
    if not events.curves:
        raise ArchiveError(
            f"there is not one point in the logs of {folder}", why=events.complaint or "the files are empty"
        )
    steps = _by_step(loss)
    validation = next((events.curves[tag] for tag in _VALIDATION if tag in events.curves), None)
    rates = {}
    for part, tags in _RATES.items():
        curve = next((events.curves[tag] for tag in tags if tag in events.curves), None)
        if curve is not None and len(curve):
            values = [float(value) for value in curve.values]
            rates[part] = (max(values), values[-1])
    return Facts(
        subject=folder.name,
        scale="sdxl",
        # lr/textencoder holds the first group of parameters, whatever that is: of the text encoders nothing is sure.
        setup=Setup(unet_lr=rates["unet"][0] if "unet" in rates else None, total_steps=max(steps, default=None)),
        losses=tuple(steps[step] for step in sorted(steps)),
        first_step=min(steps, default=1),
        validation=() if validation is None else tuple(sorted(_by_step(validation).items())),
        rates=rates,
        source=", ".join(file.name for file in files[:2]),
        unseen=tuple(told),
    )


def _training(file: Path, folder: Path) -> str:
    """Kohya's logs are FOLDER/TIME/network_train/events…: the first folder below names the training."""
    parts = file.relative_to(folder).parts
    return parts[0] if len(parts) > 1 else ""


def _by_step(curve: Curve | None) -> dict[int, float]:
    """The mean of a step's points (accumulation writes several); what is not finite is left out."""
    if curve is None:
        return {}
    found: dict[int, list[float]] = {}
    for step, value in zip(curve.steps.tolist(), curve.values.tolist(), strict=True):
        if value == value and abs(value) != float("inf"):  # noqa: PLR0124 (NaN is not itself)
            found.setdefault(step, []).append(value)
    return {step: float(f"{sum(values) / len(values):.6g}") for step, values in found.items()}
