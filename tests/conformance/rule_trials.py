"""What a trial of the real trainer is, and what can be claimed of trials: the terms in which rules are proven."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from PIL import Image

from lorakit.preset.models import Preset

__all__ = [
    "BASE", "SCENES", "Claim", "Differs", "Fails", "Less", "Nothing", "Proof", "Ratio", "Same", "Scene", "Shows", "Trains",
    "Trial", "ignored", "lay_out", "own", "proven", "refused",
]  # fmt: skip

#: The checkpoint's name in the workspace; only the real trainer needs the file.
BASE: Final = "slim.safetensors"

Record = Mapping[str, Any]
Told = Callable[["Trial"], Record]


@dataclass(frozen=True)
class Lora:
    """A LoRA file of two modules: ``prefix`` is what their names begin with."""

    modules: Mapping[str, tuple[int, int]]
    dim: int = 2
    alpha: float = 2.0


@dataclass(frozen=True)
class Scene:
    """The files of a trial: images by size, captions, further texts (``{folder}`` is the trial's), a LoRA."""

    sizes: tuple[tuple[int, int], ...] = ((64, 64), (64, 64))
    caption: str = "alpha, beta, gamma, delta, epsilon"
    stem: str = ""
    texts: Mapping[str, str] = field(default_factory=dict)
    binary: Mapping[str, bytes] = field(default_factory=dict)
    lora: Lora | None = None


_TOML: Final = """[general]
caption_extension = ".txt"
enable_bucket = true
[[datasets]]
  [[datasets.subsets]]
  image_dir = "{folder}/data/1_thing"
"""
_UNET: Final = {"lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q": (64, 64)}
_TE: Final = {"lora_te1_text_model_encoder_layers_0_self_attn_q_proj": (64, 64)}
#: A zip archive with nothing in it: an .npz of no arrays.
_EMPTY_NPZ: Final = b"PK\x05\x06" + bytes(18)

SCENES: Final[Mapping[str, Scene]] = {
    "": Scene(),
    "wide": Scene(sizes=((128, 32), (64, 64))),
    "small": Scene(sizes=((50, 50), (50, 50))),
    "odd and right": Scene(sizes=((70, 90), (64, 64))),
    "large": Scene(sizes=((128, 128), (128, 128))),
    "faces": Scene(sizes=((128, 128), (128, 128)), stem="_60_60_20_20"),
    "other captions": Scene(caption="one, two, three"),
    "six": Scene(sizes=((64, 64),) * 6),
    "shapes": Scene(sizes=((128, 32), (96, 32), (64, 64), (32, 96), (32, 128))),
    "no images": Scene(sizes=()),
    "toml": Scene(texts={"data.toml": _TOML}),
    "toml and reg": Scene(texts={"data.toml": _TOML, "reg/1_thing/x.txt": "a picture"}),
    "toml shuffles": Scene(texts={"data.toml": _TOML + "  shuffle_caption = true\n"}),
    "toml prefixes": Scene(texts={"data.toml": _TOML + '  caption_prefix = "big"\n'}),
    "toml colours": Scene(texts={"data.toml": _TOML + "  color_aug = true\n"}),
    "prompts": Scene(texts={"prompts.txt": "a thing --w 64 --h 64 --s 1 --d 1\n", "prompts.md": "a thing\n"}),
    "no prompts": Scene(texts={"prompts.txt": "# nothing\n"}),
    "torn prompts": Scene(binary={"prompts.txt": b"\xff\xfe\xff --w 64\n"}),
    "odd prompts": Scene(texts={"prompts.txt": "a thing --w 104 --h 72 --s 1 --d 1\n"}),
    "lora": Scene(lora=Lora(_UNET)),
    "lora of alpha 1": Scene(lora=Lora(_UNET, alpha=1.0)),
    "lora of dim 4": Scene(lora=Lora(_UNET, dim=4)),
    "lora of te": Scene(lora=Lora(_TE)),
    "lora of another": Scene(lora=Lora({"diffusion_model_attn_to_q": (64, 64)})),
    "empty cache": Scene(binary={f"data/1_thing/0{n}_0064x0064_sdxl.npz": _EMPTY_NPZ for n in range(2)}),
}

#: As little work a step as the model allows; SGD, whose steps are as long as the gradient says.
_TABLES: Final[Mapping[str, Mapping[str, Any]]] = {
    "base": {"model": BASE},
    "dataset": {"path": "{folder}/data", "resolution": 64, "bucket_min": 32, "bucket_max": 128, "bucket_step": 32, "workers": 0},
    "network": {"dim": 2},
    "optim": {"type": "SGD", "unet_lr": 0.1, "te_lr": 0, "schedule": "constant"},
    "length": {"steps": 2},
    "precision": {"mixed": "no", "save": "float"},
    "memory": {"cache_latents": False},
    "trainer": {"kind": "sd-scripts", "probe": False},
    "launch": {"cpu": True, "threads": 1},
}  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """A preset, told by what it has beside the base, and the files it is tried on.

    ``instead`` and ``raw`` are for what lorakit renders no command for: keys that take the place of the preset's, and
    arguments that are added to the command; ``drop`` is an option that is left out of it. ``after`` is run before in the same
    folder.
    """

    keys: Mapping[str, Any] = field(default_factory=dict)
    scene: str = ""
    instead: Mapping[str, Any] = field(default_factory=dict)
    raw: tuple[str, ...] = ()
    drop: str = ""
    after: Trial | None = None

    @property
    def name(self) -> str:
        """The trial in words; another trial has other words."""
        parts = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in self.keys.items()]
        if self.raw:
            parts.append(" ".join(self.raw))
        if self.drop:
            parts.append(f"no {self.drop}")
        if self.scene:
            parts.append(f"with {self.scene}")
        if self.after is not None:
            parts.append(f"after ({self.after.name})")
        return "; ".join(parts) or "base"

    def digest(self) -> str:
        """Changes when what is asked does."""
        asked = [_TABLES, dict(self.keys), dict(self.instead), self.raw, self.drop, repr(SCENES[self.scene])]
        before = self.after.digest() if self.after else ""
        return hashlib.sha256((json.dumps(asked, sort_keys=True) + before).encode()).hexdigest()[:16]

    def preset(self, folder: Path, *, rendered: bool = False) -> Preset:
        """The preset that the user writes, or the one whose command is run, with the trial's files in ``folder``."""
        tables: dict[str, Any] = {name: dict(table) for name, table in _TABLES.items()}
        keys = {**self.keys, **(self.instead if rendered else {})}
        if "dataset.config" in keys:
            del tables["dataset"]["path"]
        if "length.epochs" in keys:
            del tables["length"]["steps"]
        for key, value in keys.items():
            table, _, name = key.partition(".")
            if name:
                tables.setdefault(table, {})[name] = value
            else:
                tables[table] = value
        text = json.dumps({"name": "rule", "seed": 7, **tables}).replace("{folder}", str(folder))
        return Preset.model_validate(json.loads(text))


def lay_out(trial: Trial, folder: Path) -> None:
    """Write the files of the trial's scene into its folder."""
    scene = SCENES[trial.scene]
    images = folder / "data" / "1_thing"
    images.mkdir(parents=True, exist_ok=True)
    for number, size in enumerate(scene.sizes):
        path = images / f"{number:02}{scene.stem}.png"
        if not path.exists():
            image = Image.new("RGB", size, (60 + 90 * number % 190, 80, 160))
            if scene.stem:
                # Something that is not the same wherever it is cropped.
                image.paste((250, 250, 30), (size[0] // 4, size[1] // 4, size[0] // 2, size[1]))
            image.save(path)
        path.with_suffix(".txt").write_text(f"{scene.caption}, number {number}", encoding="utf-8")
    for name, text in scene.texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text.replace("{folder}", str(folder)), encoding="utf-8")
    for name, data in scene.binary.items():
        (folder / name).write_bytes(data)
    if scene.lora is not None:
        _write_lora(scene.lora, folder / "lora.safetensors")
    if (folder / "reg").is_dir():
        Image.new("RGB", (64, 64), (9, 9, 9)).save(folder / "reg" / "1_thing" / "x.png")


def _write_lora(lora: Lora, path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    tensors = {}
    for name, (outputs, inputs) in lora.modules.items():
        tensors[f"{name}.lora_down.weight"] = np.full((lora.dim, inputs), 0.01, np.float32)
        tensors[f"{name}.lora_up.weight"] = np.full((outputs, lora.dim), 0.01, np.float32)
        tensors[f"{name}.alpha"] = np.array(lora.alpha, np.float32)
    save_file(tensors, path)


class Claim(Protocol):
    """Something that is so by the records."""

    @property
    def trials(self) -> tuple[Trial, ...]:
        """The trials it is about."""

    def denied(self, told: Told) -> str:
        """What the records say against it; empty when it is so."""


@dataclass(frozen=True)
class Fails:
    """The trainer stops: with which exception, and where (parser, before the model, after the model, in the loop)."""

    trial: Trial
    error: str
    where: str

    @property
    def trials(self) -> tuple[Trial, ...]:
        return (self.trial,)

    def denied(self, told: Told) -> str:
        found = told(self.trial)
        asked = {"outcome": "failed", "error": self.error, "where": self.where}
        got = {key: found.get(key) for key in asked}
        return "" if got == asked else f"{self.trial.name}: {got}, not {asked}"


@dataclass(frozen=True)
class Nothing:
    """The trainer ends well and has written no LoRA."""

    trial: Trial

    @property
    def trials(self) -> tuple[Trial, ...]:
        return (self.trial,)

    def denied(self, told: Told) -> str:
        got = told(self.trial)["outcome"]
        return "" if got == "nothing" else f"{self.trial.name}: {got}"


@dataclass(frozen=True)
class Trains:
    """The trainer trains to the end and writes a LoRA."""

    trial: Trial

    @property
    def trials(self) -> tuple[Trial, ...]:
        return (self.trial,)

    def denied(self, told: Told) -> str:
        found = told(self.trial)
        return "" if found["outcome"] == "trained" else f"{self.trial.name}: {found['outcome']} {found.get('error')}"


@dataclass(frozen=True)
class Same:
    """Both train, and to the same: ``of`` is what is compared, ``effect`` the weights to the last bit."""

    one: Trial
    other: Trial
    of: str = "effect"

    @property
    def trials(self) -> tuple[Trial, ...]:
        return (self.one, self.other)

    def denied(self, told: Told) -> str:
        if against := Trains(self.one).denied(told) or Trains(self.other).denied(told):
            return against
        return (
            ""
            if _at(told(self.one), self.of) == _at(told(self.other), self.of)
            else f"{self.of} differs: {_both(self)}"
        )


@dataclass(frozen=True)
class Differs:
    """Both train, and not to the same."""

    one: Trial
    other: Trial
    of: str = "effect"

    @property
    def trials(self) -> tuple[Trial, ...]:
        return (self.one, self.other)

    def denied(self, told: Told) -> str:
        if against := Trains(self.one).denied(told) or Trains(self.other).denied(told):
            return against
        return (
            ""
            if _at(told(self.one), self.of) != _at(told(self.other), self.of)
            else f"{self.of} is the same: {_both(self)}"
        )


@dataclass(frozen=True)
class Shows:
    """It trains, and the record has this value at this place."""

    trial: Trial
    of: str
    value: Any

    @property
    def trials(self) -> tuple[Trial, ...]:
        return (self.trial,)

    def denied(self, told: Told) -> str:
        got = _at(told(self.trial), self.of)
        return "" if got == self.value else f"{self.trial.name}: {self.of} is {got}, not {self.value}"


@dataclass(frozen=True)
class Less:
    """It trains, and the number at this place is below."""

    trial: Trial
    of: str
    than: float

    @property
    def trials(self) -> tuple[Trial, ...]:
        return (self.trial,)

    def denied(self, told: Told) -> str:
        got = _at(told(self.trial), self.of)
        return (
            ""
            if got is not None and got < self.than
            else f"{self.trial.name}: {self.of} is {got}, not below {self.than}"
        )


@dataclass(frozen=True)
class Ratio:
    """Both train, and the one's number is so many times the other's, to 1 %."""

    one: Trial
    other: Trial
    of: str
    value: float

    @property
    def trials(self) -> tuple[Trial, ...]:
        return (self.one, self.other)

    def denied(self, told: Told) -> str:
        got = _at(told(self.one), self.of) / _at(told(self.other), self.of)
        return "" if abs(got / self.value - 1) < 0.01 else f"{self.of} is {got} times as much: {_both(self)}"


def _at(record: Record, place: str) -> Any:
    found: Any = record
    for part in place.split("."):
        found = found[int(part)] if isinstance(found, list) else (found or {}).get(part)
    return found


def _both(claim: Same | Differs | Ratio) -> str:
    return f"{claim.one.name} | {claim.other.name}"


@dataclass(frozen=True)
class Proof:
    """A rule's: the trials in which it speaks, those in which it is silent, and what the trainer does in them.

    ``own`` is the reason why there is nothing, or nothing more, that the trainer could show.
    """

    code: str
    speaks: tuple[Trial, ...] = ()
    silent: tuple[Trial, ...] = ()
    claims: tuple[Claim, ...] = ()
    own: str = ""

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Everything that has to be recorded for it."""
        return tuple(trial for claim in self.claims for trial in claim.trials)


def refused(code: str, error: str, where: str, *speaks: Trial, beside: tuple[Trial, ...] = (Trial(),)) -> Proof:
    """The trainer stops where the rule speaks, and trains in the trials ``beside``."""
    claims: list[Claim] = [*(Fails(trial, error, where) for trial in speaks), *map(Trains, beside)]
    return Proof(code, speaks, beside, tuple(claims))


def ignored(code: str, *pairs: tuple[Trial, Trial], matters: tuple[tuple[Trial, Trial], ...] = ()) -> Proof:
    """Of each pair the first is what the rule speaks of, and trains to the same as the second; in ``matters`` not so."""
    claims: list[Claim] = [
        *(Same(one, other) for one, other in pairs),
        *(Differs(one, other) for one, other in matters),
    ]
    silent = [other for _, other in pairs] + [one for one, _ in matters]
    return Proof(code, tuple(one for one, _ in pairs), tuple(silent), tuple(claims))


def proven(code: str, *claims: Claim, speaks: tuple[Trial, ...], silent: tuple[Trial, ...] = (Trial(),)) -> Proof:
    """By claims of any kind."""
    return Proof(code, speaks, silent, claims)


def own(code: str, reason: str, *claims: Claim) -> Proof:
    """A rule that says nothing of the trainer, or nothing that can be tried here, and why."""
    return Proof(code, claims=claims, own=reason)
