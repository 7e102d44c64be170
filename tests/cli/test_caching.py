"""`lorakit cache ls` and `clean`, and what a plan says of caches."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

from lorakit.bake.cache_store import Hold, cache_root
from lorakit.workspace import Workspace
from tests.cli.running import Cli

ON_DISK = "--set=memory.cache_latents_to_disk=true"


def entry(workspace: Workspace, kind: str, key: str) -> Path:
    folder = cache_root(workspace) / kind / key
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "a.npz", "w") as archive:
        archive.writestr("latents.npy", b"x" * 3000)
    hold = Hold(folder, ["a.npz"])
    hold.acquire()
    hold.release()
    return folder


def test_no_caches(workspace: Workspace, cli: Cli) -> None:
    assert "there are no caches on disk" in cli("cache", "ls").out
    assert cli("cache", "clean", "--json").json == {"removed": [], "in_use": []}


def test_ls_and_clean(workspace: Workspace, cli: Cli) -> None:
    entry(workspace, "latents", "aaaabbbbccccdddd0000")
    used = entry(workspace, "text", "0123456789abcdef0123")
    os.utime(used.with_name(f"{used.name}.lock"), (1e9, 1e9))
    hold = Hold(used, ["a.npz"])
    hold.acquire()
    lines = cli("cache", "ls").out.splitlines()
    assert lines[0].startswith("2 caches, 6.2 kB of at most 20.0 GB")
    assert any("aaaabbbb" in line and "latents" in line and "1 file" in line for line in lines)
    assert any("01234567" in line and "in use" in line for line in lines)
    found = cli("cache", "ls", "--json").json
    assert found["limit"] == 20_000_000_000
    assert {row["key"]: row["in_use"] for row in found["caches"]} == {used.name: True, "aaaabbbbccccdddd0000": False}
    assert "1 cache in use" in cli("cache", "clean").out
    assert [row["key"] for row in cli("cache", "ls", "--json").json["caches"]] == [used.name]
    hold.release()
    assert "no cache has a key that begins with 'x'" in cli("cache", "clean", "x", code=2).err
    assert "1 cache removed" in cli("cache", "clean", "0123").out
    assert not used.exists()


def test_the_plan_says_what_will_be_cached_and_what_is_not_read(workspace: Workspace, cli: Cli) -> None:
    folder = Path(cli("plan", "quickstart", "--json").json["folders"][0]["path"])
    assert folder.is_relative_to(workspace.root)
    (folder / "x_0064x0064_sdxl.npz").write_bytes(b"")
    told = cli("plan", "quickstart", ON_DISK).out
    assert "will be made, for later runs too" in told
    assert "1 cache file beside the images: not read" in told
    found = cli("plan", "quickstart", ON_DISK, "--json").json
    assert [(one["kind"], one["found"]) for one in found["caches"]] == [("latents", 0)]
    assert found["stray_caches"] == 1
