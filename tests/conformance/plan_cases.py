"""Datasets and presets, made from code alone, on which the planner is compared with the real sd-scripts."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from PIL import Image

from lorakit.preset.models import Preset

__all__ = ["BASE", "CASES", "Case", "lay_out"]

#: The checkpoint's name in the workspace; only the real trainer needs the file.
BASE: Final = "slim.safetensors"

Size = tuple[int, int]
Files = tuple[tuple[str, Size], ...]


@dataclass(frozen=True)
class Case:
    """A dataset and a preset.

    ``files`` are images by path and size in pixels; ``toml`` is a dataset TOML in which ``{root}`` is the case's folder, as it is
    in ``texts``, further files by path.
    ``trains``: it is short enough to be trained to its end, so that rates and file names are compared too.
    """

    name: str
    files: Files
    tables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    toml: str | None = None
    trains: bool = False
    texts: tuple[tuple[str, str], ...] = ()

    def preset(self) -> Preset:
        """The preset, with paths relative to a workspace that holds the case in a folder of its name."""
        return Preset.model_validate(self._asked())

    def _asked(self) -> dict[str, Any]:
        found: Any = {"config": f"{self.name}/data.toml"} if self.toml else {"path": f"{self.name}/data"}
        tables: dict[str, dict[str, Any]] = {
            "dataset": (_SMALL if self.trains else _MEDIUM) | found,
            "base": {"model": BASE},
            "network": {"dim": 2},
            "optim": {"type": "AdamW", "unet_lr": 1e-4, "te_lr": 5e-5, "schedule": "constant"},
            "length": {"epochs": 1, "batch_size": 1},
            "precision": {"mixed": "no", "save": "float"},
            "memory": {"cache_latents": False},
            "trainer": {"kind": "sd-scripts", "probe": False},
            "launch": {"cpu": True, "threads": 1},
        }
        for name, table in self.tables.items():
            tables[name] = tables.get(name, {}) | dict(table)
        if "steps" in tables["length"]:
            del tables["length"]["epochs"]
        if "reg_path" in tables["dataset"]:
            tables["dataset"]["reg_path"] = f"{self.name}/reg"
        return {"name": self.name, "seed": 7, **tables}

    def digest(self) -> str:
        """Changes when what is asked does (not when presets learn new keys): a record of another case proves nothing of this one."""
        asked = json.dumps([self.files, self.texts, self.toml, self.trains, self._asked()], sort_keys=True)
        return hashlib.sha256(asked.encode()).hexdigest()[:16]


def lay_out(case: Case, root: Path) -> None:
    """Write the case's images, captions and TOML into the workspace ``root``."""
    folder = root / case.name
    for number, (name, size) in enumerate(case.files):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            Image.new("RGB", size, (number % 256, 80, 160)).save(file, _FORMATS[path.suffix.lower()])
        path.with_suffix(".txt").write_text(f"a picture, number {number}", encoding="utf-8")
    toml = [("data.toml", case.toml)] if case.toml else []
    for name, text in (*case.texts, *toml):
        (folder / name).write_text(text.replace("{root}", str(folder)), encoding="utf-8")


_FORMATS: Final = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP"}

#: As little work a step as the model allows.
_SMALL: Final = {"resolution": 64, "bucket_min": 32, "bucket_max": 128, "bucket_step": 32, "workers": 0}
_MEDIUM: Final = _SMALL | {"resolution": 128, "bucket_min": 64, "bucket_max": 256}
_LARGE: Final = {"resolution": 512, "bucket_min": 256, "bucket_max": 1024, "bucket_step": 64}

_SQUARE: Final = (64, 64)
_WIDE: Final = (128, 64)
_TALL: Final = (64, 128)
_MIXED: Final = (_SQUARE, _WIDE, _TALL, _SQUARE, _WIDE, (70, 90), (200, 100))
_PHOTOS: Final = ((640, 480), (480, 640), (800, 600), (1024, 512), (512, 512), (300, 900), (333, 500), (900, 300))


def _folder(path: str, sizes: Iterable[Size], suffixes: tuple[str, ...] = ("png",)) -> Files:
    return tuple((f"{path}/{n:02}.{suffixes[n % len(suffixes)]}", size) for n, size in enumerate(sizes))


_FIVE: Final = _folder("data/1_thing", (_SQUARE,) * 5)
_SEVEN: Final = _folder("data/2_thing", _MIXED)


def _counted() -> Iterable[Case]:
    """Datasets: what is found, where it goes, how many batches that makes."""
    yield Case("plain", _FIVE)
    yield Case("repeats", _folder("data/3_a", (_SQUARE,) * 4) + _folder("data/7_b", (_WIDE,) * 3))
    yield Case("buckets", _SEVEN, {"length": {"batch_size": 2}})
    yield Case("batch-of-four", _folder("data/5_a", _MIXED), {"length": {"batch_size": 4, "epochs": 3}})
    yield Case("photos", _folder("data/2_p", _PHOTOS), {"dataset": _LARGE, "length": {"batch_size": 3}})
    yield Case("no-upscale", _folder("data/2_p", _PHOTOS), {"dataset": _LARGE | {"bucket_no_upscale": True}})
    yield Case("step-of-32", _folder("data/2_p", _PHOTOS), {"dataset": _LARGE | {"bucket_step": 32}})
    yield Case(
        "narrow-limits", _folder("data/1_p", _PHOTOS), {"dataset": _LARGE | {"bucket_min": 384, "bucket_max": 640}}
    )
    yield Case("oblong", _folder("data/1_p", _PHOTOS), {"dataset": _LARGE | {"resolution": [384, 640]}})
    yield Case(
        "no-buckets", _folder("data/2_p", _PHOTOS), {"dataset": _LARGE | {"bucket": False}, "length": {"batch_size": 3}}
    )
    upper = _folder("data/2_a", _MIXED, ("PNG", "png", "JPG", "jpg", "WEBP", "bmp", "jpeg"))
    yield Case("upper-case", upper)
    wrong = _folder("data/2_a", _MIXED, ("png", "Png", "JPG", "Jpg", "jpeg", "Jpeg", "pNG"))
    yield Case("mixed-case", wrong, {"length": {"batch_size": 2}})
    yield Case("only-wrong-case", _folder("data/2_a", (_SQUARE,) * 3, ("Png", "Jpg")))
    yield Case("nested", _FIVE + _folder("data/1_thing/deep", (_SQUARE,) * 2) + _folder("data", (_WIDE,) * 2))
    yield Case("no-number", _FIVE + _folder("data/things", (_SQUARE,) * 2) + _folder("data/0_never", (_WIDE,)))
    for batches, accumulated in ((2, 2), (1, 3), (3, 4)):
        length = {"batch_size": batches, "gradient_accumulation": accumulated, "epochs": 3}
        yield Case(f"accumulate-{batches}x{accumulated}", _SEVEN, {"length": length})
    for steps in (1, 13, 100):
        yield Case(f"steps-{steps}", _SEVEN, {"length": {"steps": steps, "batch_size": 2}})
    yield Case("steps-accumulated", _SEVEN, {"length": {"steps": 17, "batch_size": 2, "gradient_accumulation": 3}})
    yield Case(
        "validation", _folder("data/2_a", _MIXED * 2), {"validation": {"split": 0.25}, "length": {"batch_size": 2}}
    )


def _regularised() -> Iterable[Case]:
    with_reg = {"reg_path": "reg"}
    few = _folder("reg/1_thing", (_SQUARE, _WIDE))
    many = _folder("reg/1_thing", (_SQUARE, _WIDE, _TALL) * 8)
    two = few + _folder("reg/3_other", (_TALL, _TALL))
    yield Case("reg-few", _SEVEN + few, {"dataset": with_reg, "length": {"batch_size": 2}})
    yield Case("reg-many", _SEVEN + many, {"dataset": with_reg})
    yield Case("reg-two-folders", _SEVEN + two, {"dataset": with_reg, "length": {"batch_size": 3, "epochs": 2}})
    yield Case("reg-equal", _FIVE + _folder("reg/1_thing", (_SQUARE,) * 5), {"dataset": with_reg})


_GENERAL: Final = '[general]\ncaption_extension = ".txt"\nenable_bucket = true\n'
_TOML: Final = (
    _GENERAL
    + """
[[datasets]]
resolution = 64
batch_size = 2
  [[datasets.subsets]]
  image_dir = "{root}/one"
  num_repeats = 3
  [[datasets.subsets]]
  image_dir = "{root}/two"
"""
)
_TWO_DATASETS: Final = (
    _TOML
    + """
[[datasets]]
resolution = [96, 64]
batch_size = 3
bucket_reso_steps = 32
min_bucket_reso = 32
max_bucket_reso = 160
  [[datasets.subsets]]
  image_dir = "{root}/two"
  num_repeats = 2
"""
)
_TOML_REG: Final = _TOML + '  [[datasets.subsets]]\n  image_dir = "{root}/three"\n  is_reg = true\n  num_repeats = 2\n'
_TOML_PLAIN: Final = '[[datasets]]\n  [[datasets.subsets]]\n  image_dir = "{root}/one"\n'
_TOML_METADATA: Final = '[[datasets]]\n  [[datasets.subsets]]\n  image_dir = "{root}"\n  metadata_file = "{root}/meta.json"\n  num_repeats = 2\n'


def _configured() -> Iterable[Case]:
    """Dataset TOMLs: what they say, and what they leave to the command."""
    files = _folder("one", _MIXED) + _folder("two", (_WIDE, _TALL, _WIDE)) + _folder("three", (_SQUARE, _TALL))
    yield Case("toml", files, toml=_TOML)
    yield Case("toml-two-datasets", files, {"length": {"batch_size": 4, "epochs": 2}}, toml=_TWO_DATASETS)
    yield Case("toml-reg", files, toml=_TOML_REG)
    yield Case("toml-leaves-open", files, {"length": {"batch_size": 3}}, toml=_TOML_PLAIN)

    described = [f'"{{root}}/{name}": {{"caption": "a picture"}}' for name, _ in files if not name.startswith("three")]
    texts = (("meta.json", "{" + ", ".join(described) + "}"),)
    yield Case("toml-metadata", files, {"length": {"batch_size": 2}}, toml=_TOML_METADATA, texts=texts)
    yield Case("toml-validation", files, {"validation": {"split": 0.4}}, toml=_TOML)
    yield Case("toml-missing-folder", files, toml=_TOML_PLAIN.replace("one", "nowhere"))
    yield Case("toml-unknown-key", files, toml=_TOML_PLAIN + "  no_such_key = 1\n")


def _odd() -> Iterable[Case]:
    """What people's folders look like."""
    names = ("05_zeros", "3_a_b", "2_", "_4_x", "-1_minus", "2.5_x", "1_ä ö")
    yield Case("folder-names", tuple((f"data/{name}/{n}.png", _SQUARE) for name in names for n in range(2)))
    yield Case("one-stem", (*_FIVE, ("data/1_thing/00.jpg", _WIDE)))
    yield Case("empty-caption", _FIVE, texts=(("data/1_thing/02.txt", ""),))
    yield Case("blank-caption", _FIVE, texts=(("data/1_thing/02.txt", " \nsecond line"),))
    yield Case("hidden-image", (*_FIVE, ("data/1_thing/.hidden.png", _WIDE), ("data/1_thing/a b [1].png", _TALL)))
    yield Case("accumulate-beyond", _SEVEN, {"length": {"epochs": 2, "gradient_accumulation": 50}})
    yield Case(
        "validation-half-of-one", (*_FIVE, ("data/2_one/x.png", _WIDE)), {"validation": {"split": 0.5, "seed": 3}}
    )
    with_reg: dict[str, dict[str, Any]] = {"dataset": {"reg_path": "reg"}, "validation": {"split": 0.3}}
    yield Case("validation-reg", _SEVEN + _folder("reg/2_thing", (_SQUARE, _WIDE, _TALL) * 2), with_reg)
    plain = _GENERAL + "resolution = [96, 128]\nbatch_size = 3\n" + _TOML_PLAIN
    same = '  [[datasets.subsets]]\n  image_dir = "{root}/one"\n  num_repeats = 5\n'
    files = _folder("one", _PHOTOS)
    yield Case("toml-general", files, toml=plain)
    yield Case("toml-same-folder-twice", files, toml=plain + same)
    yield Case("toml-no-upscale", files, toml=plain.replace("[[datasets]]", "bucket_no_upscale = true\n[[datasets]]"))
    yield Case(
        "toml-zero-repeats",
        files + _folder("two", (_SQUARE,)),
        toml=plain + same.replace("one", "two").replace("5", "0"),
    )


def _drawn() -> Iterable[Case]:
    """Drawn by a seed: sizes, repeats, limits, batches."""
    for number in range(16):
        rng = random.Random(number)
        files: Files = ()
        for folder in range(rng.randint(1, 4)):
            sizes = [(rng.randint(60, 900), rng.randint(60, 900)) for _ in range(rng.randint(1, 12))]
            files += _folder(f"data/{rng.randint(1, 9)}_{folder}", sizes)
        sides = [rng.randrange(128, 641, 64) for _ in range(2)]
        dataset = {
            "resolution": sides,
            "bucket_min": rng.choice((64, 128)),
            "bucket_max": rng.choice((640, 768, 1024)),
            "bucket_step": rng.choice((32, 64)),
            "bucket_no_upscale": number % 3 == 0,
        }
        length: dict[str, int] = {rng.choice(("epochs", "steps")): rng.randint(1, 40)}
        length |= {"batch_size": rng.randint(1, 6), "gradient_accumulation": rng.randint(1, 4)}
        yield Case(f"drawn-{number:02}", files, {"dataset": dataset, "length": length})


def _trained() -> Iterable[Case]:
    """Short trainings: the rate of every group at every step, and the files."""

    def case(name: str, files: Files = _FIVE, steps: int | None = 8, **tables: Mapping[str, Any]) -> Case:
        # Accumulating, because TensorBoard then has the first step's rate too, at step 0.
        length = {"steps": steps, "gradient_accumulation": 2} if steps else {}
        return Case(name, files, {**tables, "length": {**length, **tables.get("length", {})}}, trains=True)

    yield case("lr-constant")
    yield case("lr-unet-only", steps=3, optim={"te_lr": 0, "schedule": "linear"})
    yield case("lr-te-only", steps=3, optim={"unet_lr": 0, "schedule": "cosine"})
    yield case("lr-warmup-percent", optim={"schedule": "constant_with_warmup", "warmup": "40%"})
    yield case("lr-warmup-share", optim={"schedule": "linear", "warmup": 0.3})
    yield case("lr-warmup-steps", optim={"schedule": "cosine", "warmup": "3 steps"})
    yield case("lr-warmup-odd-percent", steps=7, optim={"schedule": "cosine", "warmup": "33%"})
    yield case("lr-linear", steps=6, optim={"schedule": "linear"})
    yield case("lr-cosine", steps=6, optim={"schedule": "cosine"})
    yield case("lr-restarts", optim={"schedule": "cosine_with_restarts", "cycles": 3, "warmup": "1 steps"})
    yield case("lr-polynomial", optim={"schedule": "polynomial", "power": 2.0, "warmup": "2 steps"})
    yield case("lr-inverse-sqrt", optim={"schedule": "inverse_sqrt", "warmup": "2 steps"})
    yield case("lr-inverse-sqrt-timescale", steps=5, optim={"schedule": "inverse_sqrt", "timescale": 5})
    yield case("lr-min-lr", optim={"schedule": "cosine_with_min_lr", "min_lr_ratio": 0.1, "warmup": "2 steps"})
    warm = {"schedule": "constant_with_warmup", "warmup": "2 steps"}
    stable = {"schedule": "warmup_stable_decay", "warmup": "2 steps", "decay": "3 steps", "min_lr_ratio": 0.2}
    yield case("lr-stable-decay", optim=stable)
    rules = {"lr_scheduler_args": ["step_rules='1:2,0.1:5,0.01'"]}
    yield case("lr-piecewise", steps=7, optim={"schedule": "piecewise_constant"}, extra=rules)
    yield case("lr-constant-warmup", steps=3, optim={"schedule": "constant", "warmup": "2 steps"})
    yield case("lr-warmup-most", steps=4, optim={"schedule": "constant_with_warmup", "warmup": "99%"})
    yield case("lr-warmup-beyond", steps=4, optim={"schedule": "cosine", "warmup": "9 steps"})
    yield case("lr-warmup-tiny-share", steps=4, optim={"schedule": "linear", "warmup": 0.1})
    yield case("lr-stable-decay-share", steps=7, optim=stable | {"decay": "30%", "warmup": "15%", "cycles": 2})
    yield case("lr-min-lr-missing", steps=3, optim={"schedule": "cosine_with_min_lr"})
    yield case("lr-adafactor-fixed", steps=4, optim={"type": "AdaFactor", "args": {"relative_step": False}} | warm)
    pair, probed = {"te_lr": [3e-5, 7e-6]}, {"probe": True}
    yield case("probe-pair", steps=5, optim=pair | {"schedule": "cosine", "warmup": "2 steps"}, trainer=probed)
    yield case("probe-linear", steps=4, optim={"schedule": "linear", "warmup": "25%"}, trainer=probed)
    yield case("probe-unet-only", steps=3, optim={"te_lr": 0, "schedule": "cosine"}, trainer=probed)
    epochs = {"epochs": 3, "gradient_accumulation": 2}
    yield case("files-epochs", steps=None, length=epochs, optim={"schedule": "linear"}, save={"every_n_epochs": 1})
    yield case("files-steps", steps=7, save={"every_n_steps": 2})
    last = {"every_n_epochs": 1, "last_n_epochs": 2}
    yield case("files-last", _folder("data/1_a", (_SQUARE,)), None, length={"epochs": 5}, save=last)
    yield case("files-last-steps", steps=8, save={"every_n_steps": 2, "last_n_steps": 4})
    yield case("files-both", steps=7, save={"every_n_steps": 3, "every_n_epochs": 1, "state_on_end": True})
    ratio = {"save_n_epoch_ratio": 2}
    yield case("files-ratio", _folder("data/1_a", (_SQUARE,) * 2), None, length={"epochs": 5}, extra=ratio)
    epochs_last = {"every_n_epochs": 2, "last_n_epochs": 2, "state": True, "last_n_epochs_state": 4}
    yield case("files-states", _folder("data/1_a", (_SQUARE,)), None, length={"epochs": 7}, save=epochs_last)


CASES: Final = {
    case.name: case for case in (*_counted(), *_regularised(), *_configured(), *_odd(), *_drawn(), *_trained())
}
