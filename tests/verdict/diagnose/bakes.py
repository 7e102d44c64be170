"""Real bakes of the learned bench model with known faults: how to make them, and the findings that must and may appear."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

REPO: Final = Path(__file__).parents[3]
DATA: Final = Path(__file__).parent / "data"


@dataclass(frozen=True)
class Bake:
    """``must`` appear; beside them only ``may``. ``same_captions``: every caption is "a photo of a zorp"."""

    preset: str
    must: frozenset[str] = frozenset()
    may: frozenset[str] = frozenset()
    sets: tuple[str, ...] = ()
    same_captions: bool = False


def _bake(preset: str, must: str = "", may: str = "", *sets: str, same_captions: bool = False) -> Bake:
    return Bake(preset, frozenset(must.split()), frozenset(may.split()), sets, same_captions)


#: A fried training's loss does not fall, nor does an undercooked one's have to; what follows from a fault may be told too.
BAKES: Final[Mapping[str, Bake]] = {
    "healthy": _bake("bench/x1"),
    "healthy-2": _bake("bench/x1", "", "", "seed=2"),
    "quickstart": _bake("quickstart"),
    "unet-ten": _bake("bench/unet-ten", "D11", "D21 D23"),
    "unet-ten-2": _bake("bench/unet-ten", "D11", "D21 D23", "seed=2"),
    "both-tenth": _bake("bench/both-tenth", "D12", "D21"),
    "te-thirty": _bake("bench/te-thirty", "D03", "D05 D21"),
    "te-thirty-2": _bake("bench/te-thirty", "D03", "D05 D21", "seed=2"),
    "te-tenth": _bake("bench/te-tenth", "D01"),
    "te-off": _bake("bench/unet-only", "D02"),
    "te-only": _bake("bench/te-only", "D02 D05", "D03 D21 D43"),
    "same-captions": _bake("bench/x1", "D31", "D05", same_captions=True),
}


@dataclass(frozen=True)
class Place:
    """A workspace to bake in, with the presets, the demo data and the learned model."""

    root: Path
    made: list[str] = field(default_factory=list)

    def prepare(self) -> Path:
        """Lay it out, once. Returns its folder."""
        if not (self.root / "lorakit.toml").exists():
            from lorakit.bench_model.learned import write_learned

            shutil.copytree(REPO / "presets", self.root / "presets", dirs_exist_ok=True)
            shutil.copytree(REPO / "datasets" / "demo", self.root / "datasets" / "demo", dirs_exist_ok=True)
            shutil.copytree(REPO / "datasets" / "demo" / "zorp", self.root / "datasets" / "same", dirs_exist_ok=True)
            for path in (self.root / "datasets" / "same").rglob("*.txt"):
                path.write_text("a photo of a zorp\n", encoding="utf-8")
            (self.root / "models").mkdir(exist_ok=True)
            write_learned(self.root / "models" / "bench-sdxl.safetensors")
            (self.root / "lorakit.toml").write_text("", encoding="utf-8")
        return self.root


def sets_of(bake: Bake) -> tuple[str, ...]:
    """The overrides of a bake: four checkpoints along the way, and its own."""
    captions = ("dataset.path=datasets/same",) if bake.same_captions else ()
    return ("save.every_n_epochs=5", *captions, *bake.sets)
