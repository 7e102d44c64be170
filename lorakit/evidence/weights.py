"""What a LoRA file did to UNet and text encoders: norms, spectra and ranks of ΔW = scale · B·A, never forming the product.

With A (r × in) and B (out × r), the r × r Gram matrices A·Aᵀ and BᵀB hold everything: ‖BA‖² is the sum of their element-wise
product, and the singular values of BA are the roots of the eigenvalues of Lᵀ(BᵀB)L, where A·Aᵀ = L·Lᵀ (Cholesky).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lorakit.errors import ModelFileError
from lorakit.evidence.lora_names import ModuleName, foreign_architecture, read_name, split_key
from lorakit.evidence.tensor_file import TensorFile

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix = NDArray[np.float32]

__all__ = ["PARTS", "LoraFile", "ModuleWeight", "Weights", "cosine", "measure", "open_lora"]

PARTS: Final = ("unet", "te1", "te2")
#: Modules are measured side by side; numpy's matrix routines let other threads run.
_THREADS: Final = 2
#: Of the largest eigenvalue: what is below is rounding of float32.
_ROUNDING: Final = 1e-7


@dataclass(frozen=True)
class _Factors:
    """Where one module's tensors are: names in the file, by role."""

    name: ModuleName
    roles: Mapping[str, str]


@dataclass(frozen=True)
class ModuleWeight:
    """One module's ΔW: ``norm`` is Frobenius, ``spectral`` the largest singular value.

    ``effective_rank`` is the exponential of the entropy of the singular values as shares of their sum (Roy & Vetterli 2007),
    between 1 and ``dim``.
    """

    part: str
    block: str
    path: str
    dim: int
    alpha: float
    conv: bool
    norm: float
    spectral: float
    effective_rank: float


@dataclass(frozen=True)
class Weights:
    """The measured modules of a file; ``unmeasured`` counts modules of kinds that have no A and B, by kind."""

    path: Path
    modules: tuple[ModuleWeight, ...]
    unmeasured: Mapping[str, int]
    metadata: Mapping[str, str]

    def norm(self, part: str | None = None, block: str | None = None) -> float:
        """The Frobenius norm over a part, a block, or everything: the root of the sum of squares."""
        return math.sqrt(sum(m.norm**2 for m in self.modules if part in (None, m.part) and block in (None, m.block)))

    def share(self, part: str) -> float:
        """The part's share of the squared norm, 0 … 1: which part carries the LoRA."""
        whole = self.norm() ** 2
        return self.norm(part) ** 2 / whole if whole else 0.0

    def blocks(self, part: str) -> tuple[str, ...]:
        """The part's blocks in the order of the model."""
        found = {module.block for module in self.modules if module.part == part}
        return tuple(sorted(found, key=lambda block: (_ORDER.get(block.rstrip("0123456789"), 9), block)))

    def dead(self) -> tuple[ModuleWeight, ...]:
        """Modules that are as they began: B is zero until it is trained."""
        return tuple(module for module in self.modules if module.norm == 0)

    def to_json(self, *, modules: bool = False) -> dict[str, Any]:
        """Plain values by part and block; every module too, if asked for."""
        parts = {
            part: {
                "norm": self.norm(part),
                "share": self.share(part),
                "modules": sum(module.part == part for module in self.modules),
                "dead": sum(module.part == part for module in self.dead()),
                "spectral": max((m.spectral for m in self.modules if m.part == part), default=0.0),
                "effective_rank": _mean([m.effective_rank for m in self.modules if m.part == part and m.norm]),
                "blocks": {block: self.norm(part, block) for block in self.blocks(part)},
            }
            for part in PARTS
            if any(module.part == part for module in self.modules)
        }
        plain: dict[str, Any] = {
            "path": str(self.path),
            "norm": self.norm(),
            "parts": parts,
            "unmeasured": dict(self.unmeasured),
        }
        if modules:
            plain["modules"] = [vars(module) for module in self.modules]
        return plain


_ORDER: Final = {"IN": 0, "MID": 1, "OUT": 2, "L": 3}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


class LoraFile:
    """A LoRA's modules, found but not yet read. Raises ModelFileError for a file that is no SDXL LoRA, naming what it is."""

    def __init__(self, path: Path) -> None:
        self.file = TensorFile(path)
        roles: dict[str, dict[str, str]] = {}
        other: dict[str, str] = {}
        for key in self.file.tensors:
            found = split_key(key)
            if found is None:
                continue
            module, role = found
            if role in ("down", "up", "mid", "alpha", "magnitude"):
                roles.setdefault(module, {})[role] = key
            else:
                other[module] = role
        if not roles and not other:
            raise ModelFileError(
                f"{path} is no LoRA", why="none of its tensors is one of a LoRA", todo="give a LoRA's .safetensors file"
            )
        if foreign := foreign_architecture([*roles, *other]):
            raise ModelFileError(f"{path} is a LoRA for {foreign}", why="lorakit measures LoRAs of SDXL")
        self.modules: list[_Factors] = []
        self.unmeasured: dict[str, int] = {}
        for module, kind in other.items():
            self.unmeasured[kind] = self.unmeasured.get(kind, 0) + 1
            roles.pop(module, None)
        for module, names in roles.items():
            name = read_name(module)
            if name is None or not {"down", "up"} <= names.keys():
                kind = "unknown" if name is None else "without A or B"
                self.unmeasured[kind] = self.unmeasured.get(kind, 0) + 1
            else:
                self.modules.append(_Factors(name, names))

    def scale(self, module: _Factors) -> tuple[int, float]:
        """Rank and alpha of a module; a file without alphas means alpha = rank."""
        dim = self.file.tensors[module.roles["down"]].shape[0]
        if "mid" in module.roles:
            dim = self.file.tensors[module.roles["mid"]].shape[0]
        alpha = float(self.file.read(module.roles["alpha"]).reshape(-1)[0]) if "alpha" in module.roles else float(dim)
        return dim, alpha

    def factors(self, module: _Factors) -> tuple[Matrix, Matrix]:
        """A (r × in·k·k) and B (out × r) of a module, in float32."""
        down, up = self.file.read(module.roles["down"]), self.file.read(module.roles["up"])
        if "mid" in module.roles:  # Tucker form of a convolution: the 3×3 kernel lies between two 1×1 ones
            import numpy as np

            mid = self.file.read(module.roles["mid"])
            inner = np.einsum("rskl,si->rikl", mid, down.reshape(down.shape[0], -1))
            return inner.reshape(mid.shape[0], -1), up.reshape(up.shape[0], -1)
        return down.reshape(down.shape[0], -1), up.reshape(up.shape[0], -1)


def open_lora(path: Path) -> LoraFile:
    """The LoRA in a .safetensors file. Raises ModelFileError."""
    return LoraFile(path)


def measure(path: Path, *, progress: Callable[[int, int], None] | None = None) -> Weights:
    """Measure every module of the LoRA at ``path``; module by module, so that memory stays far below the file's size.

    ``progress`` is told modules done and of how many. Raises ModelFileError for what is no whole SDXL LoRA.
    """
    lora = open_lora(path)
    found: list[ModuleWeight] = []
    with ThreadPoolExecutor(_THREADS) as pool:
        for done, module in enumerate(pool.map(lambda one: _measure(lora, one), lora.modules), 1):
            found.append(module)
            if progress is not None:
                progress(done, len(lora.modules))
    return Weights(path, tuple(found), lora.unmeasured, lora.file.metadata)


def _measure(lora: LoraFile, module: _Factors) -> ModuleWeight:
    dim, alpha = lora.scale(module)
    values = _singular_values(*lora.factors(module)) * abs(alpha / dim)
    total = float(values.sum())
    shares = [value / total for value in values.tolist() if value > 0] if total > 0 else []
    return ModuleWeight(
        part=module.name.part,
        block=module.name.block,
        path=module.name.path,
        dim=dim,
        alpha=alpha,
        conv=len(lora.file.tensors[module.roles["down"]].shape) == 4,
        norm=math.sqrt(float((values**2).sum())),
        spectral=float(values.max(initial=0.0)),
        effective_rank=math.exp(-sum(share * math.log(share) for share in shares)) if shares else 0.0,
    )


def _singular_values(a: Matrix, b: Matrix) -> NDArray[np.float64]:
    """Those of B·A, from the Gram matrices; not in order."""
    import numpy as np

    left, right = a @ a.T, b.T @ b
    if not right.any() or not left.any():
        return np.zeros(a.shape[0])
    try:
        root = np.linalg.cholesky(left)
    except np.linalg.LinAlgError:  # rows of A depend on each other
        powers, vectors = np.linalg.eigh(left)
        root = vectors * np.sqrt(powers.clip(min=0))
    squares = np.linalg.eigvalsh(root.T @ right @ root).astype(np.float64)
    squares[squares < squares.max() * _ROUNDING] = 0.0
    return np.sqrt(squares)


def cosine(one: Path, other: Path) -> dict[str, float]:
    """Cosine similarity of two LoRAs' ΔW, for all modules together ("all") and for each part; absent modules count as 0.

    The inner product of B₁A₁ and B₂A₂ is the sum of the element-wise product of B₁ᵀB₂ and A₁A₂ᵀ. Raises ModelFileError.
    """
    first, second = open_lora(one), open_lora(other)
    theirs = {_flat(module.name.path): module for module in second.modules}
    sums: dict[str, float] = {}
    pairs = [(module, theirs.get(_flat(module.name.path))) for module in first.modules]
    with ThreadPoolExecutor(_THREADS) as pool:
        jobs = [(mine, its) for mine, its in pairs if its is not None]
        for (mine, _), value in zip(
            jobs, pool.map(lambda job: _inner(first, job[0], second, job[1]), jobs), strict=True
        ):
            sums[mine.name.part] = sums.get(mine.name.part, 0.0) + value
    lengths = [measure(path) for path in (one, other)]
    found = {}
    for part in (*PARTS, None):
        length = lengths[0].norm(part) * lengths[1].norm(part)
        inner = sums.get(part, 0.0) if part else sum(sums.values())
        if length:
            found[part or "all"] = inner / length
    return found


def _inner(one: LoraFile, mine: _Factors, other: LoraFile, its: _Factors) -> float:
    scale = 1.0
    for lora, module in ((one, mine), (other, its)):
        dim, alpha = lora.scale(module)
        scale *= alpha / dim
    (a1, b1), (a2, b2) = one.factors(mine), other.factors(its)
    if a1.shape[1] != a2.shape[1] or b1.shape[0] != b2.shape[0]:
        return 0.0  # of another base model
    return float(((b1.T @ b2) * (a1 @ a2.T)).sum()) * scale


def _flat(path: str) -> str:
    return path.replace(".", "_")
