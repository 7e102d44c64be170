"""Sweep folders of trials that need no training."""

from __future__ import annotations

from pathlib import Path

from lorakit.sweep.folder import SCHEMA, Folder, make_folder, write_next
from lorakit.workspace import Workspace

PRESET = 'name = "t"\nseed = 1\n[base]\nmodel = "m.safetensors"\n[dataset]\npath = "d"\n[optim]\nunet_lr = 1e-4\nte_lr = 0\n[length]\nepochs = 1\n'


def made(
    root: Path, count: int, *, points: list[dict[str, str]] | None = None, name: str = "1"
) -> tuple[Folder, Workspace]:
    """A sweep of ``count`` trials, called trial-0, trial-1 …, in a workspace of its own."""
    workspace = Workspace(root)
    folder = make_folder(
        root / "sweeps" / f"2026-11-22_1320_t_{name:0>8}", {"schema": SCHEMA, "axes": {"network.dim": [], "seed": []}}
    )
    add(folder, [str(number) for number in range(count)], points)
    return folder, workspace


def add(folder: Folder, names: list[str], points: list[dict[str, str]] | None = None) -> None:
    """More trials, as another process would add them."""
    records = [
        {
            "identity": f"trial-{name}",
            "name": f"t-{name}",
            "point": points[at] if points else {"network.dim": name},
            "preset": PRESET,
            "source": "t.toml",
            "trainer": "builtin",
            "seed": 1,
            "steps": 100,
            "bytes": 10,
        }
        for at, name in enumerate(names)
    ]
    write_next(folder.path / "trials", {"schema": SCHEMA, "trials": records})
