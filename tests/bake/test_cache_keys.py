"""What changes a cache's key, and what does not."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lorakit._version import __version__
from lorakit.archive.hashing import HashCache, hash_files
from lorakit.bake.cache_keys import CacheSet, cache_sets, found_caches
from lorakit.bake.cache_store import cache_root
from lorakit.bake.checks import model_files
from lorakit.errors import DatasetError
from lorakit.plan.from_preset import plan
from lorakit.preset.files import load_preset
from lorakit.workspace import Workspace

ON_DISK = (
    "memory.cache_latents_to_disk=true",
    "memory.cache_text_encoder_outputs=true",
    "memory.cache_text_encoder_outputs_to_disk=true",
    "optim.te_lr=0",
)


def sets(workspace: Workspace, *overrides: str, kind: str = "builtin", version: str = "1") -> tuple[CacheSet, ...]:
    preset = load_preset(workspace.presets / "small.toml", [*ON_DISK, *overrides]).preset
    return cache_sets(
        preset,
        plan(preset, workspace).data,
        kind="builtin" if kind == "builtin" else "sd-scripts",
        version=version,
        sha256=lambda path: hashlib.sha256(path.read_bytes()).hexdigest(),
        models=model_files(preset, workspace),
    )


def keys(workspace: Workspace, *overrides: str, kind: str = "builtin", version: str = "1") -> dict[str, str]:
    return {one.kind: one.key for one in sets(workspace, *overrides, kind=kind, version=version)}


def picture(workspace: Workspace, name: str = "0.png") -> Path:
    return workspace.datasets / "things" / "2_thing" / name


@pytest.mark.parametrize(
    ("override", "latents", "text"),
    [
        ("dataset.resolution=96", True, False),
        ("dataset.bucket_min=32", True, False),  # 64×96 pictures go to 32×64
        ("dataset.flip_aug=true", True, False),
        ("dataset.alpha_mask=true", True, False),
        ('dataset.resize_interpolation="area"', True, False),
        ("precision.no_half_vae=true", True, False),
        ("dataset.max_token_length=150", False, True),
        ('precision.mixed="bf16"', True, True),
        ("network.dim=3", False, False),
        ("length.steps=9", False, False),
        ("seed=8", False, False),
        ("length.batch_size=1", False, False),
    ],
)
def test_settings(workspace: Workspace, override: str, latents: bool, text: bool) -> None:
    before, after = keys(workspace), keys(workspace, override)
    assert before.keys() == after.keys() == {"latents", "text"}
    assert (before["latents"] != after["latents"], before["text"] != after["text"]) == (latents, text)


def test_content(workspace: Workspace) -> None:
    before = keys(workspace)
    image = Image.open(picture(workspace))
    image.putpixel((3, 3), (1, 2, 3))
    image.save(picture(workspace))
    pixels = keys(workspace)
    assert (pixels["latents"] != before["latents"], pixels["text"]) == (True, before["text"])
    picture(workspace, "1.txt").write_text("another thing", encoding="utf-8")
    caption = keys(workspace)
    assert (caption["latents"], caption["text"] != before["text"]) == (pixels["latents"], True)
    model = workspace.root / "models" / "tiny.safetensors"
    data = bytearray(model.read_bytes())
    data[-1] ^= 1
    (workspace.root / "models" / "vae.safetensors").write_bytes(data)
    vae = keys(workspace, 'base.vae="models/vae.safetensors"')
    assert (vae["latents"] != caption["latents"], vae["text"]) == (True, caption["text"])
    model.write_bytes(data)
    base = keys(workspace)
    assert (base["latents"], base["text"] != caption["text"]) == (vae["latents"], True)  # the same VAE, another name


def test_a_trainer_has_caches_of_its_own(workspace: Workspace) -> None:
    assert (
        len(
            {
                tuple(keys(workspace, kind=k, version=v).values())
                for k, v in (("builtin", "1"), ("builtin", "2"), ("x", "1"))
            }
        )
        == 3
    )


def test_only_the_changed_picture_is_made_again(workspace: Workspace) -> None:
    before = sets(workspace)[0].files
    picture(workspace, "0.png").write_bytes(picture(workspace, "2.png").read_bytes())
    after = sets(workspace)[0].files
    assert (len(before), len(after), len(before & after)) == (4, 3, 3)  # two pictures are one now


def test_what_is_there_is_found(workspace: Workspace) -> None:
    preset = load_preset(workspace.presets / "small.toml", ON_DISK).preset
    numbers = plan(preset, workspace)
    latents, text = found_caches(preset, numbers, workspace)
    assert (latents.kind, latents.files, latents.found) == ("latents", 4, 0)
    assert (text.kind, text.files, text.found) == ("text", 4, 0)
    in_memory = load_preset(workspace.presets / "small.toml").preset
    assert found_caches(in_memory, numbers, workspace) == ()
    assert not cache_root(workspace).exists()
    assert (latents.key, text.key) == ("", "")  # nobody has read the model yet
    hashes = HashCache(workspace.private / "hashes.sqlite")
    model = workspace.root / "models" / "tiny.safetensors"
    os.utime(model, (1e9, 1e9))
    hash_files([model], cache=hashes)
    wanted = sets(workspace, version=__version__)[0]
    latents, _ = found_caches(preset, numbers, workspace)
    assert (latents.key, latents.found) == (wanted.key, 0)
    for number, name in enumerate(sorted(wanted.files)):
        path = wanted.folder(cache_root(workspace)) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, latents=np.zeros(number))
    assert found_caches(preset, numbers, workspace)[0].found == 4


def test_pictures_outside_of_their_folder_are_refused(workspace: Workspace) -> None:
    elsewhere = workspace.datasets / "things"
    (workspace.root / "m.json").write_text('{"2_thing/0.png": {"caption": "x"}}', encoding="utf-8")
    (workspace.root / "d.toml").write_text(
        f'[[datasets]]\n[[datasets.subsets]]\nmetadata_file = "m.json"\nimage_dir = "{elsewhere}"\n', encoding="utf-8"
    )
    overrides = ("dataset.path=", 'dataset.config="d.toml"')
    with pytest.raises(DatasetError, match=r"0\.png cannot have its latents"):
        sets(workspace, *overrides)
    (workspace.root / "m.json").write_text('{"0.png": {"caption": "x"}}', encoding="utf-8")
    (workspace.root / "d.toml").write_text(
        f'[[datasets]]\n[[datasets.subsets]]\nmetadata_file = "m.json"\nimage_dir = "{elsewhere / "2_thing"}"\n',
        encoding="utf-8",
    )
    assert len(sets(workspace, *overrides)) == 2
