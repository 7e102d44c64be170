"""sd-scripts' own files: the TOML of --config_file, and the dataset configuration beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from lorakit.dataset.blueprint import SubsetSpec
from lorakit.interop.command import recipe_of
from lorakit.interop.document import Document
from lorakit.interop.imported import Reading, Told
from lorakit.interop.intake import Intake
from lorakit.preset.units import shown
from lorakit.trainers.catalogue import Catalogue

__all__ = ["is_config", "is_dataset_config", "read_config", "read_dataset_config"]

#: Enough of these tell a file of the trainer's options.
_TELLING: Final = frozenset(
    {"pretrained_model_name_or_path", "train_data_dir", "network_module", "network_dim", "unet_lr", "max_train_epochs",
     "train_batch_size", "lr_scheduler", "optimizer_type", "max_train_steps", "learning_rate", "output_name"}
)  # fmt: skip
#: A dataset configuration's words that the command line spells otherwise.
_DATASET_WORDS: Final = {"batch_size": "train_batch_size"}


def is_config(document: Document) -> bool:
    """Whether a TOML holds options of the trainer."""
    if document.kind != "toml":
        return False
    return len(_TELLING & {name for name, _, _ in _entries(document.data)}) >= 2


def is_dataset_config(document: Document) -> bool:
    """Whether a TOML or JSON is a dataset configuration."""
    datasets = document.data.get("datasets")
    return isinstance(datasets, list) and all(isinstance(one, Mapping) for one in datasets) and bool(datasets)


def _entries(data: Mapping[str, Any]) -> Iterator[tuple[str, Any, tuple[str, ...]]]:
    """Names with their values and place: tables are opened one level deep, and their names mean nothing."""
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from ((name, item, (key, name)) for name, item in value.items())
        else:
            yield key, value, (key,)


def read_config(document: Document) -> Reading:
    """A file as --config_file takes it: unknown names are passed over by the trainer, and listed here."""
    intake = Intake()
    for name, value, place in _entries(document.data):
        if name == "text_encoder_lr" and isinstance(value, str):
            intake.note(
                f"text_encoder_lr is the text {shown(value)}",
                "the trainer would take its first letter for the rate; it is read as the number here",
                "optim.te_lr",
            )
        silently = "the trainer has no such option and passes it over silently"
        intake.take(name, value, line=document.line(*place), unknown=silently)
    return Reading(
        "sd-scripts-toml", "a configuration file of sd-scripts", intake.told,
        unmapped=tuple(intake.unmapped), notes=tuple(intake.notes), recipe=recipe_of(intake.told),
    )  # fmt: skip


def read_dataset_config(document: Document) -> Reading:
    """A dataset configuration: the preset names the file itself, which says all that is in it."""
    path = document.name if document.folder is None else str((document.folder / document.name).absolute())
    intake = Intake({"dataset_config": Told(path, text=document.name, why="the file itself is the dataset")})
    first = document.data["datasets"][0]
    general = document.data.get("general")
    values = {**(general if isinstance(general, Mapping) else {}), **first}
    for word, value in values.items():
        name = _DATASET_WORDS.get(word, word)
        if word != "subsets" and name in Catalogue.load().by_dest():
            plain = ",".join(map(str, value)) if word == "resolution" and isinstance(value, list) else value
            intake.take(name, plain, text=f"{word} = {shown(value)}", line=document.line("datasets", word))
    intake.note(
        "this is a dataset, not a whole recipe",
        "rates, network and length are not in it: what follows is where to put them",
        "dataset.config",
    )
    if len(document.data["datasets"]) > 1:
        intake.note("it has several datasets", "the preset's own values are those of the first one")
    subsets = first.get("subsets")
    for subset in subsets if isinstance(subsets, list) else ():
        strange = sorted(set(subset) - set(SubsetSpec.__dataclass_fields__)) if isinstance(subset, Mapping) else []
        for word in strange:
            intake.leave(word, subset[word], "the trainer stops at this name in a subset")
    return Reading(
        "dataset-config", "a dataset configuration of sd-scripts", intake.told, unmapped=tuple(intake.unmapped),
        notes=tuple(intake.notes), recipe=recipe_of(intake.told), runs_sd_scripts=False,
    )  # fmt: skip
